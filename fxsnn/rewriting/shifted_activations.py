"""Activations beside the origin: with which shift in front, scale and shift behind a known one is a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxsnn.layers import Bound, BoundedReLU

Function = Callable[[Tensor], Tensor | None]

_OCTAVES, _STEPS = 40, 32
"""Values are compared from 2^-40 to 2^40, so many of each doubling."""
_NEAR = 20
"""An end begins between -2^20 and 2^20."""
_PARTS, _ROUNDS = 1024, 8
"""Where it begins is looked for among so many places at once, so many times."""
_FINE = 10007
"""So many values are asked for from half a width below the lower end to half of it beyond the upper one."""
_MOST_LEVELS = 1024
_ROUNDING = 1e-12, 8 * torch.finfo(torch.float64).eps
"""What a value may be off: relative to the largest there is between the ends, and to the number of which it is one."""
_BESIDE = 1e-9
"""Values are asked for at this distance from a step, relative to the width; on the step itself either may be right."""


@dataclass(frozen=True)
class ShiftedActivation:
    """`module(slope * x + shift) * scale + offset`.

    Attributes:
        module: a ReLU, or one with an upper end.
        slope: 1, or -1 where a function has an upper end only.
        shift: what is added in front.
        scale: what the activation is multiplied with, of either sign.
        offset: what is added behind.
    """

    module: nn.ReLU | BoundedReLU
    slope: int
    shift: float
    scale: float
    offset: float

    def __call__(self, x: Tensor) -> Tensor:
        """Its values."""
        y: Tensor = self.module(self.slope * x + self.shift)
        return y * self.scale + self.offset


def shifted_activation_of(function: Function) -> ShiftedActivation | None:
    """A ReLU, or an activation with two ends, wherever they are; `None`: a function is none of these, to rounding.

    Args:
        function: of float64 [n], of the same shape and type; `None`: it cannot be run.

    >>> shifted_activation_of(lambda x: x.clamp(-1, 1))
    ShiftedActivation(module=BoundedReLU(bound=2), slope=1, shift=1.0, scale=1.0, offset=-1.0)
    >>> shifted_activation_of(lambda x: x.clamp(max=1))
    ShiftedActivation(module=ReLU(), slope=-1, shift=1.0, scale=-1.0, offset=1.0)
    >>> shifted_activation_of(torch.sigmoid)
    """

    def mirrored(x: Tensor) -> Tensor | None:
        return function(-x)

    lower, upper = _end(function), _end(mirrored)
    if lower is not None and upper is not None:
        values, places = (lower[0], upper[0]), (lower[1], -upper[1])
        if not places[0] < places[1]:
            return None
        return _without_levels(function, values, places) or _with_levels(function, values, places)
    for slope, one, turned in ((1, lower, function), (-1, upper, mirrored)):
        if one is not None:
            return _with_one_end(turned, slope, *one)
    return None


def _with_one_end(function: Function, slope: int, offset: float, begin: float) -> ShiftedActivation | None:
    near = begin + max(1.0, abs(begin))
    x = torch.tensor([near, 2.0**_NEAR, 2.0 ** (_NEAR + 1)], dtype=torch.float64)
    if (y := function(x)) is None or y[1] == y[2]:
        return None
    scale = _short(float((y[2] - y[1]) / (x[2] - x[1])))
    shift = _short(float((y[0] - offset) / scale - near), near)
    found = ShiftedActivation(nn.ReLU().eval(), slope, shift, scale, _short(offset))
    fine = torch.linspace(-2, 2, _FINE, dtype=torch.float64) * max(1.0, abs(begin))
    turned = ShiftedActivation(found.module, 1, shift, scale, found.offset)
    return found if _agree(function, turned, torch.cat((_grid(_OCTAVES), fine))) else None


def _without_levels(
    function: Function, values: tuple[float, float], places: tuple[float, float]
) -> ShiftedActivation | None:
    (low, high), (begin, end) = values, places
    inner = torch.tensor([0.25, 0.75], dtype=torch.float64) * (end - begin) + begin
    y = function(inner)
    if y is None or y[0] == y[1]:
        return None
    scale = _short(float((y[1] - y[0]) / (inner[1] - inner[0])))
    shift, top = _short(float((y[0] - low) / scale - inner[0]), begin - end), _short((high - low) / scale)
    if top <= 0:
        return None
    found = ShiftedActivation(BoundedReLU(Bound(top)).eval(), 1, shift, scale, _short(low, high - low))
    return found if _agree(function, found, torch.cat((_grid(_OCTAVES), _around(begin, end)))) else None


def _with_levels(
    function: Function, values: tuple[float, float], places: tuple[float, float]
) -> ShiftedActivation | None:
    """The first step and the last one are half a level from the ends of the activation that has them."""
    (low, high), (first, last) = values, places
    width = last - first
    y = function(_around(first, last))
    levels = 0 if y is None or low == high else len(((y - low) / (high - low) / _BESIDE).round().unique()) - 1
    if not 2 <= levels <= _MOST_LEVELS:
        return None
    top = _short(width * levels / (levels - 1))
    shift = _short(top / levels / 2 - first, width)
    found = ShiftedActivation(
        BoundedReLU(Bound(top, levels)).eval(), 1, shift, _short((high - low) / top), _short(low, high - low)
    )
    steps = (torch.arange(levels, dtype=torch.float64) + 0.5) * (top / levels) - shift
    x = torch.cat((_grid(_OCTAVES), _around(first, last), steps - width * _BESIDE, steps + width * _BESIDE))
    place = (x + shift) / top * levels + 0.5
    sure = x[(place - place.round()).abs() > levels * _BESIDE / 10]
    return found if _agree(function, found, sure) and _agree_at_zero(function, found, steps, width) else None


def _agree_at_zero(function: Function, found: ShiftedActivation, steps: Tensor, width: float) -> bool:
    """Whether the upper value is that of a step at zero: drives are zero where nothing is seen, not by rounding."""
    if not bool((steps.abs() <= width * _BESIDE).any()):
        return True
    y = function(torch.zeros(1, dtype=torch.float64))
    return y is not None and bool(
        (y - found(steps.new_full((1,), width * _BESIDE))).abs() <= _BESIDE * abs(found.scale)
    )


def _end(function: Function) -> tuple[float, float] | None:
    """The value that a function has from below up to some number, and that number; `None`: it has no such end."""
    x = _grid(_NEAR)
    y = function(x)
    if y is None or not bool(torch.isfinite(y).all()):
        return None
    start = 0
    while True:  # the nearer to where the end ends, the less is rounded
        place = _first(_differ(y[start:], y[start], x[start:].abs() + x[start].abs()))
        if place is None or start + place <= _STEPS:
            return None
        nearer = int((x < -4 * x[start + place].abs()).sum())
        if nearer <= start:
            break
        start = nearer
    value, below, above = y[start], x[start + place - 1], x[start + place]
    for _ in range(_ROUNDS):
        x = torch.linspace(0, 1, _PARTS, dtype=torch.float64) * (above - below) + below
        y = function(x)
        place = None if y is None else _first(_differ(y, value, x.abs()))
        if not place:
            break
        below, above = x[place - 1], x[place]
    return float(value), float(below)


def _differ(y: Tensor, value: Tensor, x: Tensor) -> Tensor:
    of_value, of_number = _ROUNDING
    return (y - value).abs() > of_value * value.abs() + of_number * x


def _first(true: Tensor) -> int | None:
    return int(true.int().argmax()) if bool(true.any()) else None


def _agree(function: Function, found: ShiftedActivation, x: Tensor) -> bool:
    """Whether a function has the values of an activation, to what the numbers in it can say."""
    y = function(x)
    if y is None:
        return False
    module, (of_value, of_number) = found.module, _ROUNDING
    largest = abs(found.offset) + (abs(found.scale) * module.bound.value if isinstance(module, BoundedReLU) else 0)
    allowed = of_value * largest + of_number * max(1.0, abs(found.scale)) * (
        x.abs() + abs(found.shift) + 2.0**-_OCTAVES
    )
    return bool(((y - found(x)).abs() <= allowed).all())


def _around(begin: float, end: float) -> Tensor:
    width = end - begin
    return torch.linspace(begin - width / 2, end + width / 2, _FINE, dtype=torch.float64)


def _grid(octaves: int) -> Tensor:
    positive = 2.0 ** (torch.arange(-_OCTAVES * _STEPS, octaves * _STEPS + 1, dtype=torch.float64) / _STEPS)
    return torch.cat((-positive.flip(0), positive.new_zeros(1), positive))


def _short(number: float, beside: float = 0.0) -> float:
    """The number of few digits that it is, to rounding; beside another number it may be nothing."""
    short = float(f"{number:.12g}")
    if abs(number) <= 1e-14 * abs(beside):
        return 0.0
    return short if abs(short - number) <= 1e-14 * abs(number) else number
