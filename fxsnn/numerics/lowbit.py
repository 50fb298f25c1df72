"""n-bit weight grids: codes, steps of least squared error, and the straight-through form for training.

A weight `W` becomes `step * code`. For 2 to 4 bits `code = clip(round(W / step), -Q, Q)`, `Q = 2**(bits - 1) - 1`; at
1 bit `code = sign(W)` with `sign(0) = +1`. A step belongs to an output channel (shape [C]) or to a layer (shape [1]).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEP_FLOOR = 1 / 16
"""Smallest step of a channel, as a share of the layer's median step.

A channel whose weights have nearly died (as weight decay behind a batch norm brings about) would otherwise get a step
near zero, a threshold beyond every register, and cost the whole layer its codebook gain.
"""

_CANDIDATES = 256
_REFINEMENTS = 8


def largest_code(bits: int) -> int:
    """The largest weight code `Q` of a bit width.

    >>> [largest_code(bits) for bits in (1, 2, 3, 4)]
    [1, 1, 3, 7]
    """
    return 1 if bits == 1 else 2 ** (bits - 1) - 1


def spread(step: Tensor, weight: Tensor) -> Tensor:
    """`step` [C] or [1] shaped so that it broadcasts over `weight` [C, ...]."""
    return step.view(-1, *[1] * (weight.dim() - 1))


def weight_codes(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """Integer codes of a weight, in the weight's own floating type; computed in float32 where that is narrower.

    Args:
        weight: [C, ...], one row an output channel.
        step: [C] or [1], positive.
        bits: 1 to 4.
    """
    if bits == 1:
        return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)
    limit = largest_code(bits)
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(wide) / spread(step.to(wide), weight)).round().clamp(-limit, limit).to(weight.dtype)


def quantize_weight(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """`step * code`, with a gradient that passes straight through to `weight`, and one to `step`.

    The gradient to the weight is stopped where the code is clipped (2 to 4 bits), or where `|W| > 3 step` at 1 bit, so
    that weights do not drift off beyond the grid (straight-through estimator: Bengio et al. 2013; clipped: Hubara et
    al. 2016, eq. 4). That to the step is `code - W / step`, or `code` where it is clipped and at 1 bit, times
    `1 / sqrt(weights of a step * Q)` (Esser et al. 2020, eq. 3 and section 2.2).
    """
    largest = largest_code(bits)
    learned = spread(scaled_gradient(step, (weight.numel() / len(step) * largest) ** -0.5), weight)
    scale = learned.detach()
    codes = weight_codes(weight.detach(), step.detach(), bits)
    # Half a step beyond the last code still rounds to it without clipping. At 1 bit the step is the mean of |W|: three
    # of them leave out the outermost 2 % of a normal distribution.
    reach = scale * (3.0 if bits == 1 else largest + 0.5)
    passing = weight.clamp(-reach, reach)
    ratio = weight.detach() / scale
    inside = torch.where((ratio.abs() < largest) & (bits > 1), ratio, 0.0)
    return codes * scale + (passing - passing.detach()) + (codes - inside) * (learned - scale)


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """`value`, with its gradient multiplied by `factor`."""
    scaled = value * factor
    return (value - scaled).detach() + scaled if value.requires_grad else value


def fit_step(weight: Tensor, bits: int, *, per_channel: bool = True) -> Tensor:
    """The step of least squared error, `argmin_step ||W - step * code(W, step)||^2`, as far as a search finds it.

    At 1 bit the answer is closed, the mean of `|W|` (Rastegari et al. 2016, eq. 6). Otherwise a grid of candidates
    up to `1.2 max|W| / Q` is searched (for rows of a few weights the best step may lie beyond) and the best one refined
    by alternating codes and `step = <W, code> / <code, code>`, which never raises the error (Lloyd 1982).

    Args:
        weight: [C, ...].
        bits: 1 to 4.
        per_channel: one step per output channel, or one for the layer.

    Returns:
        Positive steps, [C] or [1], in the weight's type; no step lies below `STEP_FLOOR` of the median. A row of zeros,
        whose codes are zero whatever its step, gets the median; at 1 bit, where there is no zero, it gets the floor.
    """
    rows = weight.detach().double().flatten(1) if per_channel else weight.detach().double().reshape(1, -1)
    step = rows.abs().mean(1) if bits == 1 else _search(rows, bits)
    live = step[step > 0]
    if not len(live):
        return torch.ones_like(step, dtype=weight.dtype)
    step = torch.where(step > 0, step, live.median() if bits > 1 else 0.0)
    return raised_to_floor(step, live.median()).to(weight.dtype)


def raised_to_floor(step: Tensor, median: Tensor) -> Tensor:
    """Steps of a layer, those below `STEP_FLOOR` of the median raised to it."""
    return step.clamp_min(float(median) * STEP_FLOOR)


def _search(rows: Tensor, bits: int) -> Tensor:
    widest = (rows.abs().amax(1) / largest_code(bits)).clamp_min(torch.finfo(rows.dtype).tiny)
    best, least = _better(rows, bits, widest, widest, torch.full_like(widest, torch.inf))
    # Up to max|W| / (Q - 1/2): beyond it the largest weight would no longer reach the largest code.
    shares = torch.logspace(-1.5, math.log10(1.2), _CANDIDATES, dtype=rows.dtype, device=rows.device)
    for share in shares:
        best, least = _better(rows, bits, widest * share, best, least)
    for _ in range(_REFINEMENTS):
        best, least = _better(rows, bits, refit_step(rows, best, bits), best, least)
    return torch.where(rows.abs().amax(1) > 0, best, 0.0)


def _better(rows: Tensor, bits: int, step: Tensor, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    error = (rows - weight_codes(rows, step, bits) * spread(step, rows)).square().sum(1)
    return torch.where(error < least, step, best), torch.minimum(error, least)


def refit_step(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    """One refinement: the step of least squared error for the codes that `step` gives.

    A row whose codes are all zero keeps its step. Same shapes and type as `step`.
    """
    rows = weight.detach().flatten(1) if len(step) > 1 or len(weight) == 1 else weight.detach().reshape(1, -1)
    codes = weight_codes(rows, step, bits)
    energy = codes.square().sum(1)
    fitted = (rows * codes).sum(1) / energy.clamp_min(1)
    return torch.where((energy > 0) & (fitted > 0), fitted, step)
