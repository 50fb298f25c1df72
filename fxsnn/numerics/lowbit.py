"""n-bit weights: codes, steps of least squared error, and the straight-through form for training.

A weight `W` becomes `step * code`, the code being the level of the layer's codebook that is nearest to `W / step`. A
step belongs to an output channel (shape [C]) or to a layer (shape [1]).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fxsnn.numerics.codebook import Codebook

STEP_FLOOR = 1 / 16
"""Smallest step of a channel, as a share of the layer's median step.

A channel whose weights have nearly died (as weight decay behind a batch norm brings about) would otherwise get a step
near zero, a threshold beyond every register, and cost the whole layer its codebook gain.
"""

_CANDIDATES = 256
_REFINEMENTS = 8
_AT_ONCE = 1 << 17
"""So many weights are fitted at a time, or two rows where these are longer."""


def spread(step: Tensor, weight: Tensor) -> Tensor:
    """`step` [C] or [1] shaped so that it broadcasts over `weight` [C, ...]."""
    return step.view(-1, *[1] * (weight.dim() - 1))


def weight_codes(weight: Tensor, step: Tensor, codebook: Codebook) -> Tensor:
    """Integer codes of a weight, in the weight's own floating type; computed in float32 where that is narrower.

    Args:
        weight: [C, ...], one row an output channel.
        step: [C] or [1], positive.
        codebook: its levels.
    """
    if codebook.binary:
        return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)
    wide = torch.promote_types(weight.dtype, torch.float32)
    return codebook.nearest(weight.to(wide) / spread(step.to(wide), weight)).to(weight.dtype)


def quantize_weight(weight: Tensor, step: Tensor, codebook: Codebook) -> Tensor:
    """`step * code`, with a gradient that passes straight through to `weight`, and one to `step`.

    The gradient to the weight is stopped where the code is clipped, or where `|W| > 3 step` at 1 bit, so that weights
    do not drift off beyond the levels (straight-through estimator: Bengio et al. 2013; clipped: Hubara et al. 2016,
    eq. 4). That to the step is `code - W / step`, or `code` where it is clipped and at 1 bit, times
    `1 / sqrt(weights of a step * Q)` with `Q` the largest symmetric code (Esser et al. 2020, eq. 3 and section 2.2).
    Levels that are `k` times as large have a `k`-th of the step and `k` times its gradient: over `k**2`, steps move as
    little relative to themselves.
    """
    symmetric = Codebook.symmetric(codebook.bits).largest
    share = (weight.numel() / len(step) * symmetric) ** -0.5 * (symmetric / codebook.largest) ** 2
    learned = spread(scaled_gradient(step, share), weight)
    scale = learned.detach()
    codes = weight_codes(weight.detach(), step.detach(), codebook)
    low, high = codebook.reach
    passing = weight.clamp(scale * low, scale * high)
    ratio = weight.detach() / scale
    lowest, highest = codebook.levels[0], codebook.levels[-1]
    inside = torch.where((ratio > lowest) & (ratio < highest) & (not codebook.binary), ratio, 0.0)
    return codes * scale + (passing - passing.detach()) + (codes - inside) * (learned - scale)


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """`value`, with its gradient multiplied by `factor`."""
    scaled = value * factor
    return (value - scaled).detach() + scaled if value.requires_grad else value


def fit_step(weight: Tensor, codebook: Codebook, *, per_channel: bool = True) -> Tensor:
    """The step of least squared error, `argmin_step ||W - step * code(W, step)||^2`, as far as a search finds it.

    At 1 bit the answer is closed, the mean of `|W|` (Rastegari et al. 2016, eq. 6). Otherwise a grid of candidates
    up to 1.2 times the one that clips no weight is searched (for rows of a few weights the best step may lie beyond)
    and the best one refined by alternating codes and `step = <W, code> / <code, code>`, which never raises the error
    (Lloyd 1982).

    Args:
        weight: [C, ...].
        codebook: the levels.
        per_channel: one step per output channel, or one for the layer.

    Returns:
        Positive steps, [C] or [1], in the weight's type; no step lies below `STEP_FLOOR` of the median. A row of zeros,
        whose codes are zero whatever its step, gets the median; where zero is no level, it gets the floor.
    """
    rows = weight.detach().flatten(1) if per_channel else weight.detach().reshape(1, -1)
    step = torch.cat([_least_squares(piece.double(), codebook) for piece in _pieces(rows)])
    live = step[step > 0]
    if not len(live):
        return torch.ones_like(step, dtype=weight.dtype)
    step = torch.where(step > 0, step, live.median() if 0 in codebook.levels else 0.0)
    return raised_to_floor(step, live.median()).to(weight.dtype)


def raised_to_floor(step: Tensor, median: Tensor) -> Tensor:
    """Steps of a layer, those below `STEP_FLOOR` of the median raised to it."""
    return step.clamp_min(float(median) * STEP_FLOOR)


def _pieces(rows: Tensor) -> Sequence[Tensor]:
    """A few rows at a time, whose temporaries stay in the cache.

    No row stands alone that was not alone before: threads add up a lone row in another order than one of several, and
    steps are to be the same to the last bit.
    """
    return rows.tensor_split(max(1, min(len(rows) // 2, rows.numel() // _AT_ONCE)))


def _least_squares(rows: Tensor, codebook: Codebook) -> Tensor:
    """The step of each row [R], 0 for a row of zeros."""
    return rows.abs().mean(1) if codebook.binary else _search(rows, codebook)


def least_error(weight: Tensor, codebook: Codebook, *, per_channel: bool = True) -> float:
    """The squared error of a weight [C, ...], summed up, with the best steps that are tried before one is refined.

    Where steps of rows would be raised to the floor they are taken as they are.
    """
    rows = weight.detach().flatten(1) if per_channel else weight.detach().reshape(1, -1)
    total = 0.0
    for piece in map(Tensor.double, _pieces(rows)):
        errors, _ = _errors(_in_order(piece), _candidates(piece, codebook), codebook)
        total += float(errors.amin(1).sum())
    return total


def _candidates(rows: Tensor, codebook: Codebook) -> Tensor:
    """Steps that are tried for each row [R, S]; the first one is that of which no weight is clipped."""
    highest, lowest = rows.amax(1) / codebook.levels[-1], rows.amin(1) / codebook.levels[0]
    widest = torch.maximum(highest, lowest).clamp_min(torch.finfo(rows.dtype).tiny)
    shares = torch.logspace(-1.5, math.log10(1.2), _CANDIDATES, dtype=rows.dtype, device=rows.device)
    return widest[:, None] * torch.cat([shares.new_ones(1), shares])


def _search(rows: Tensor, codebook: Codebook) -> Tensor:
    """Candidates in their order, the first of the least error; only those are tried that can be it."""
    codes, refined, terms = (torch.empty_like(rows) for _ in range(3))  # memory that is there costs least

    def encode(step: Tensor, codes: Tensor) -> None:
        _fill(codes, lambda code, row: code.copy_(weight_codes(row, step, codebook)), rows)

    def error(step: Tensor, codes: Tensor) -> Tensor:
        def square(term: Tensor, row: Tensor, code: Tensor) -> None:
            torch.sub(row, torch.mul(code, step[:, None], out=term), out=term).square_()

        return _fill(terms, square, rows, codes).sum(1)

    largest = rows.abs().amax(1)
    steps = _candidates(rows, codebook)
    widest = steps[:, 0]
    promising = _promising(rows, steps, codebook) & (largest > 0)[:, None]
    best, least = widest, torch.full_like(widest, torch.inf)
    while bool(promising.any()):
        first = promising.int().argmax(1, keepdim=True)  # of a row that is done the widest, which changes nothing
        promising.scatter_(1, first, False)
        step = steps.gather(1, first).squeeze(1)
        encode(step, codes)
        found = error(step, codes)
        best, least = torch.where(found < least, step, best), torch.minimum(found, least)
    encode(best, codes)
    for _ in range(_REFINEMENTS):
        step = refit_step(rows, codes, best, terms)
        encode(step, refined)
        found = error(step, refined)
        better = found < least
        if not bool(better.any()):  # the same steps again, from now on
            break
        best, least = torch.where(better, step, best), torch.minimum(found, least)
        if bool(better.all()):
            codes, refined = refined, codes
        else:
            torch.where(better[:, None], refined, codes, out=codes)
    return torch.where(largest > 0, best, 0.0)


def _promising(rows: Tensor, steps: Tensor, codebook: Codebook) -> Tensor:
    """Which of the steps [R, S] can have the least error of their row, whatever sums are rounded to."""
    errors, energy = _errors(_in_order(rows), steps, codebook)
    # What is added up is at most a few times |W|^2 where an error is small; a sum of n numbers is off by n roundings at
    # the most, and there are as many sums as levels.
    finest = torch.finfo(rows.dtype)
    margin = 32 * len(codebook.levels) * rows.shape[1] * finest.eps * energy + finest.tiny
    return ~(errors > errors.amin(1, keepdim=True) + margin)  # all of them, where there are no numbers to compare


def _errors(ordered: Tensor, steps: Tensor, codebook: Codebook) -> tuple[Tensor, Tensor]:
    """The squared errors of steps [R, S], nearly, and the sums of squares [R, 1]; `ordered` is written over.

    With `W` in order and added up, the error `|W|^2 - 2 step <W, code> + step^2 |code|^2` takes a search per level: all
    weights above a boundary between levels have at least the upper one.
    """
    lowest, count = codebook.levels[0], ordered.shape[1]
    places = [torch.searchsorted(ordered, boundary * steps) for boundary in codebook.boundaries]
    energy, sums = ordered.square().sum(1, keepdim=True), ordered.cumsum_(1)
    products = (lowest * sums[:, -1:]).expand_as(steps).clone()
    squares = torch.full_like(steps, lowest**2 * count)
    for (below, above), place in zip(pairwise(codebook.levels), places, strict=True):
        before = sums.gather(1, (place - 1).clamp_min(0)).where(place > 0, 0.0)
        products += (above - below) * (sums[:, -1:] - before)
        squares += (above**2 - below**2) * (count - place)
    return energy - 2 * steps * products + steps.square() * squares, energy


def _in_order(rows: Tensor) -> Tensor:
    """Each row sorted; by numpy where it can, whose sort is several times as fast."""
    return torch.from_numpy(np.sort(rows.numpy(), axis=1)) if rows.device.type == "cpu" else rows.sort(1).values


def refit_step(rows: Tensor, codes: Tensor, step: Tensor, terms: Tensor | None = None) -> Tensor:
    """One refinement: the step of least squared error for given codes.

    Args:
        rows: [R, n].
        codes: [R, n].
        step: [R]; a row whose codes are all zero keeps it.
        terms: [R, n], written over: memory to work in.
    """
    energy = torch.bmm(codes[:, None, :], codes[:, :, None]).view(-1)  # whole numbers: exact in any order
    terms = torch.empty_like(rows) if terms is None else terms
    products = _fill(terms, lambda term, row, code: torch.mul(row, code, out=term), rows, codes).sum(1)
    fitted = products / energy.clamp_min(1)
    return torch.where((energy > 0) & (fitted > 0), fitted, step)


def _fill(out: Tensor, function: Callable[..., object], *rows: Tensor) -> Tensor:
    """`out` [R, n], after `function` wrote into it what it makes of `rows`: of long ones in parts that stay in the
    cache."""
    width = max(1, 2 * _AT_ONCE // len(out))  # any width gives the same numbers
    if out.shape[1] <= width:
        function(out, *rows)
    else:
        for parts in zip(*(one.split(width, 1) for one in (out, *rows)), strict=True):
            function(*parts)
    return out
