"""Codes that bring a layer's sums near those of the float network, on the inputs that the layer really gets.

Rounding each weight by itself ignores that inputs are alike: what one weight rounds up, another can round down. With
the second moments of the inputs, codes are chosen one input after the other, and what has been lost so far is made up
for by the inputs that are left (Frantar and Alistarh 2022, arXiv 2208.11580, eq. 4 to 7; in a fixed order and with a
Cholesky factor: Frantar et al. 2023, arXiv 2210.17323, algorithm 1). Then codes change one by one as long as that
lowers the error.

A layer behind spikes reads other inputs than the float network's. The weights that are rounded are therefore those
which make the float network's sums of the real inputs as well as weights can (a regression).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fxsnn.numerics.codebook import Codebook
from fxsnn.numerics.lowbit import fit_step, raised_to_floor

_DAMPING = 0.01
"""Of the mean of the diagonal, on the diagonal: few images do not decide what they do not show."""
_AT_ONCE = 128
"""Inputs of which what is lost is passed on together."""
_SWEEPS, _REFITS = 2, 3


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Second moments of what the weights of a layer are multiplied by, means over images and places, float64.

    Of n samples of d inputs, products of different inputs are taken for `n / (n + d)` of what they are: few samples
    show much that is chance (shrinkage towards the diagonal: Ledoit and Wolf 2004).

    Attributes:
        real: of the inputs with themselves, [G, d, d] for G groups of d inputs.
        cross: of the float network's inputs (rows) with the real ones (columns), [G, d, d].
        samples: of how many these are means.
    """

    real: Tensor
    cross: Tensor
    samples: int

    @property
    def trusted(self) -> float:
        """The share of what was seen that is believed."""
        return self.samples / (self.samples + self.real.shape[1])

    @cached_property
    def damped(self) -> Tensor:
        """`real`, shrunk, with something on its diagonal: it can be inverted."""
        own = self.real.diagonal(dim1=1, dim2=2)
        mean = own.mean(1, keepdim=True)
        mean = mean.where(mean > 0, 1.0)
        return self.trusted * self.real + torch.diag_embed((1 - self.trusted) * own + _DAMPING * mean)

    def regressed(self, weight: Tensor) -> Tensor:
        """Weights that make of the real inputs what `weight`, [G, O, d], makes of the float network's.

        Of least mean squared error, with a penalty on what they differ by from `weight`.
        """
        factor = torch.linalg.cholesky(self.damped)
        products = weight @ (self.damped + self.trusted * (self.cross - self.real))
        return torch.cholesky_solve(products.transpose(1, 2), factor).transpose(1, 2)


def reconstructed(
    weight: Tensor, step: Tensor, codebook: Codebook, moments: InputMoments, *, fit: bool = True
) -> tuple[Tensor, Tensor]:
    """Steps and codes whose sums of the real inputs come near those of the float network.

    Args:
        weight: of the float network, [C, d], a row for each of the C outputs; those of G groups follow each other.
        step: [C] or [1]; where it is fitted, what it starts from does not matter.
        codebook: of the codes.
        moments: of the inputs.
        fit: choose steps, too, one an output.

    Returns:
        Steps as they were given, or [C], and codes [C, d], both float64.
    """
    groups, inputs = moments.real.shape[:2]
    rows = weight.detach().double().view(groups, -1, inputs)
    wanted, hessian = moments.regressed(rows), moments.damped
    if not fit:
        steps = step.detach().double().expand(len(weight)).reshape(groups, -1)
        return step.detach().double(), _descended(wanted, steps, codebook, hessian).view(len(weight), inputs)
    steps = fit_step(wanted.flatten(0, 1), codebook).double().view(groups, -1)
    best, kept = steps, _descended(wanted, steps, codebook, hessian)
    least = _errors(wanted, best, kept, hessian)
    for _ in range(_REFITS):
        steps = raised_to_floor(_refitted(wanted, best, kept, hessian), best.median())
        codes = _improved(wanted, steps, codebook, hessian, kept.clone(), sweeps=1)
        error = _errors(wanted, steps, codes, hessian)
        better = error < least
        if not bool(better.any()):
            break
        best, least = torch.where(better, steps, best), torch.minimum(error, least)
        kept = torch.where(better[..., None], codes, kept)
    return best.view(-1), kept.view(len(weight), inputs)


def _errors(wanted: Tensor, steps: Tensor, codes: Tensor, hessian: Tensor) -> Tensor:
    """Mean squared error of the sums of each row, [G, O]."""
    lost = wanted - steps[..., None] * codes
    return ((lost @ hessian) * lost).sum(2)


def _refitted(wanted: Tensor, steps: Tensor, codes: Tensor, hessian: Tensor) -> Tensor:
    """The steps of least error for given codes."""
    given = codes @ hessian
    energy, product = (given * codes).sum(2), (given * wanted).sum(2)
    return torch.where((energy > 0) & (product > 0), product / energy.clamp_min(1e-300), steps)


def _descended(wanted: Tensor, steps: Tensor, codebook: Codebook, hessian: Tensor) -> Tensor:
    """Codes [G, O, d]: one input after the other, then changed one by one as long as the error falls.

    Of a row that this makes worse, which can be, each weight is first rounded by itself.
    """
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    columns = order[:, None, :].expand_as(wanted)
    ordered = hessian.gather(1, order[:, :, None].expand_as(hessian)).gather(2, order[:, None, :].expand_as(hessian))
    rows = wanted.gather(2, columns)
    by_itself, codes = codebook.nearest(rows / steps[..., None]), _passed_on(rows, steps, codebook, ordered)
    worse = _errors(rows, steps, codes, ordered) > _errors(rows, steps, by_itself, ordered)
    codes = _improved(rows, steps, codebook, ordered, torch.where(worse[..., None], by_itself, codes), _SWEEPS)
    return torch.empty_like(codes).scatter_(2, columns, codes)


def _passed_on(rows: Tensor, steps: Tensor, codebook: Codebook, hessian: Tensor) -> Tensor:
    """Codes in the order of the inputs; what each loses is made up for by those behind it."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    left, codes = rows.clone(), torch.empty_like(rows)
    inputs, nearest = rows.shape[2], codebook.rounding(rows)
    for start in range(0, inputs, _AT_ONCE):
        stop = min(start + _AT_ONCE, inputs)
        lost = left.new_empty(*left.shape[:2], stop - start)
        for place in range(start, stop):
            code = nearest(left[..., place] / steps)
            codes[..., place] = code
            own = factor[:, place, place, None]
            lost[..., place - start] = (left[..., place] - code * steps) / own
            rest = factor[:, place, None, place + 1 : stop]
            left[..., place + 1 : stop] -= lost[..., place - start, None] * rest
        left[..., stop:] -= lost @ factor[:, start:stop, stop:]
    return codes


def _improved(rows: Tensor, steps: Tensor, codebook: Codebook, hessian: Tensor, codes: Tensor, sweeps: int) -> Tensor:
    """Codes each of which is the best one, given all others, after some sweeps."""
    gradient = (rows - steps[..., None] * codes) @ hessian
    own, inputs, nearest = hessian.diagonal(dim1=1, dim2=2), rows.shape[2], codebook.rounding(rows)
    for _ in range(sweeps):
        changed = False
        for start in range(0, inputs, _AT_ONCE):
            stop = min(start + _AT_ONCE, inputs)
            moved = gradient.new_zeros(*gradient.shape[:2], stop - start)
            here = gradient[..., start:stop].clone()
            for place in range(start, stop):
                before = codes[..., place].clone()
                best = before + here[..., place - start] / (own[:, place, None] * steps)
                codes[..., place] = nearest(best)
                moved[..., place - start] = (codes[..., place] - before) * steps
                here -= moved[..., place - start, None] * hessian[:, place, None, start:stop]
            if bool(moved.any()):
                changed = True
                gradient -= moved @ hessian[:, start:stop]
        if not changed:
            break
    return codes
