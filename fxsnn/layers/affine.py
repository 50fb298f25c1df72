"""A scale and a shift of each channel, and layers that do what such a one in front of them or behind them does, too."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxsnn.layers.folded import FoldedConv2d, FoldedLinear
from fxsnn.layers.geometry import conv_like, linear_like
from fxsnn.layers.kept_types import KeptTypes

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)
_Norm = TypeVar("_Norm", nn.BatchNorm1d, nn.BatchNorm2d)


class Affine(KeptTypes):
    """`x * scale + shift`, channel by channel, in double precision and rounded to the type of `x` at last.

    Args:
        scale: [C], or [1] for all channels alike; kept as float64 whatever the module is cast to.
        shift: the same.
        shifts: whether there is a shift, as a batch norm has one that was not trained yet, too; `None`: as the values
            tell, and yes where there are none, on the meta device.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, *, shifts: bool | None = None) -> None:
        super().__init__()
        scale, shift = torch.broadcast_tensors(scale.detach().double(), shift.detach().double())
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())
        self.shifts = (shift.is_meta or bool((shift != 0).any())) if shifts is None else shifts

    @property
    def channels(self) -> int:
        """C, or 1."""
        return len(self.scale)

    def exact(self, x: Tensor) -> Tensor:
        """The result in float64."""
        scale, shift = (part.view(-1, *[1] * (x.dim() - 2)) for part in (self.scale, self.shift))
        return x.double() * scale + shift

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as `x`, [N, C, ...]."""
        return self.exact(x).to(x.dtype)

    def then(self, other: Affine) -> Affine:
        """Both in one: this one, and `other` behind it."""
        shift = self.shift * other.scale + other.shift
        return Affine(self.scale * other.scale, shift, shifts=self.shifts or other.shifts)

    def per_input(self, count: int) -> Affine:
        """The same for rows of so many features, which maps of its channels were flattened to."""
        scale, shift = (part.repeat_interleave(count // self.channels) for part in (self.scale, self.shift))
        return Affine(scale, shift, shifts=self.shifts)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        channels = "" if self.channels == 1 else f"{self.channels}, "
        return f"{channels}scale={_range(self.scale)}, shift={_range(self.shift)}"


def _range(values: Tensor) -> str:
    if values.is_meta:
        return "?"
    low, high = (f"{float(end):.4g}" for end in values.aminmax())
    return low if low == high else f"{low}..{high}"


def with_affine_behind(layer: _Layer, affine: Affine) -> _Layer:
    """The layer that gives what `affine` makes of the outputs of `layer`."""
    scale, shift = _expanded(affine, layer.weight.shape[0])
    weight = layer.weight.detach().double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    bias = None if layer.bias is None else layer.bias.detach().double() * scale
    new = _with_weights(layer, weight, _plus(bias, shift, affine))
    if isinstance(new, FoldedConv2d | FoldedLinear):
        new.channel_mean = (new.channel_mean.double() * scale + shift).to(new.channel_mean.dtype)
        new.channel_deviation = new.channel_deviation * scale.abs().to(new.channel_deviation.dtype)
    return new


def with_affine_in_front(layer: _Layer, affine: Affine) -> _Layer:
    """The layer that makes of its inputs what `layer` makes of those of `affine`.

    A convolution must not pad with zeros if there is a shift. Rows that a fully connected layer reads may be flattened
    maps of the channels of `affine`. The new layer remembers the shift, see `input_shift`.
    """
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    each = affine.per_input(inputs) if isinstance(layer, nn.Linear) else Affine(*_expanded(affine, inputs))
    weight = layer.weight.detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    new = _with_weights(
        layer, weight * along_inputs(each.scale, layer), _plus(bias, through(layer, each.shift), affine)
    )
    if affine.shifts or input_shift(layer) is not None:
        before = input_shift(layer)
        shift = each.shift if before is None else each.shift + before
        remember_input_shift(new, torch.where(each.scale == 0, 0.0, shift / each.scale))
    return new


def remember_input_shift(layer: nn.Module, shift: Tensor | None) -> None:
    """Let a layer know what was added to its inputs before that became a part of its bias, float64 [inputs].

    Weights that are rounded are to act on the sum: it has about mean zero where a batch norm made it, and what they are
    off by does not add up.
    """
    if shift is not None:
        layer.register_buffer("input_shift", shift)


def input_shift(layer: nn.Module) -> Tensor | None:
    """What `remember_input_shift` was told; `None`: nothing."""
    found = getattr(layer, "input_shift", None)
    return found if isinstance(found, Tensor) else None


def through(layer: nn.Conv2d | nn.Linear, values: Tensor, weight: Tensor | None = None) -> Tensor:
    """What a layer makes of inputs that are one value a channel everywhere, without its bias: float64 [outputs].

    Args:
        layer: gives the groups.
        values: [inputs], of all groups.
        weight: instead of the layer's own.
    """
    used = (layer.weight if weight is None else weight).detach().double()
    return (used * along_inputs(values, layer)).flatten(1).sum(1)


def along_inputs(values: Tensor, layer: Any) -> Tensor:
    """Values [inputs] of a convolution or fully connected layer such that they broadcast over its weight.

    Each group of outputs reads its own inputs.
    """
    if isinstance(layer, nn.Linear):
        return values[None]
    grouped = values.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
    return grouped[:, :, None, None]


def norm_with_affine_behind(norm: _Norm, affine: Affine) -> _Norm:
    """The batch norm, with running statistics, that gives what `affine` makes of the outputs of `norm`."""
    given: Any = norm
    mean = given.running_mean
    new = type(norm)(norm.num_features, norm.eps, norm.momentum, affine=True, device="meta")
    scale, shift = _expanded(affine, norm.num_features)
    weight, bias = (scale, shift)
    if norm.affine:
        weight, bias = norm.weight.detach().double() * scale, norm.bias.detach().double() * scale + shift
    new.running_mean, new.running_var = mean, given.running_var
    new.num_batches_tracked = given.num_batches_tracked
    new.weight, new.bias = nn.Parameter(weight.to(mean.dtype)), nn.Parameter(bias.to(mean.dtype))
    return new.train(norm.training)


def affine_of_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine:
    """What a batch norm with running statistics does in evaluation mode."""
    given: Any = norm
    scale = (given.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -given.running_mean.double() * scale
    return Affine(scale, shift if not norm.affine else shift + norm.bias.detach().double(), shifts=True)


def _expanded(affine: Affine, channels: int) -> tuple[Tensor, Tensor]:
    return affine.scale.expand(channels), affine.shift.expand(channels)


def _plus(bias: Tensor | None, added: Tensor, affine: Affine) -> Tensor | None:
    if not affine.shifts:
        return bias
    return added if bias is None else bias + added


def _with_weights(layer: _Layer, weight: Tensor, bias: Tensor | None) -> _Layer:
    new: Any
    if isinstance(layer, nn.Conv2d):
        new = conv_like(FoldedConv2d if isinstance(layer, FoldedConv2d) else nn.Conv2d, layer)
    else:
        new = linear_like(FoldedLinear if isinstance(layer, FoldedLinear) else nn.Linear, layer)
    for name, buffer in layer.named_buffers(recurse=False):
        new.register_buffer(name, buffer)
    learns, dtype = layer.weight.requires_grad, layer.weight.dtype
    new.weight = nn.Parameter(weight.to(dtype), learns)
    new.bias = None if bias is None else nn.Parameter(bias.to(dtype), learns)
    return new
