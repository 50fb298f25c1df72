"""What layers with weights read and give, and layers of another class with the very parameters of a given one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from fxsnn.layers.padded import PaddedConv2d

_Conv = TypeVar("_Conv", bound=nn.Conv2d)
_Linear = TypeVar("_Linear", bound=nn.Linear)
_Norm = TypeVar("_Norm", nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Geometry:
    """What decides whether a layer fits a chip.

    Attributes:
        kind: the PyTorch layer that it is: "Conv2d" or "Linear".
        kernel_size: height and width; `None` for a fully connected layer.
        in_channels: of all groups together; inputs of a fully connected layer.
        out_channels: the same of its outputs.
        groups: 1 for a fully connected layer.
    """

    kind: str
    kernel_size: tuple[int, int] | None
    in_channels: int
    out_channels: int
    groups: int

    @property
    def fan_in_channels(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of what may be one number for both, such as a stride.

    >>> pair(2), pair((1, 3))
    ((2, 2), (1, 3))
    """
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def geometry_of(layer: nn.Conv2d | nn.Linear) -> Geometry:
    """The geometry of a layer with weights."""
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size[0], layer.kernel_size[1]
        return Geometry("Conv2d", (height, width), layer.in_channels, layer.out_channels, layer.groups)
    return Geometry("Linear", None, layer.in_features, layer.out_features, 1)


def conv_like(kind: type[_Conv], conv: nn.Conv2d, padding: str | tuple[int, ...] | None = None) -> _Conv:
    """A layer of class `kind` with the geometry of `conv` and its very parameters; draws no random number.

    An `nn.Conv2d` whose four sides are padded each by itself is a `PaddedConv2d`.

    Args:
        kind: the class.
        conv: the convolution.
        padding: instead of its own; two numbers, or four as of a `PaddedConv2d`.
    """
    given: Any = conv  # torch types kernel_size and its like as longer tuples than they are
    padding = given.padding if padding is None else padding
    four = not isinstance(padding, str | None) and len(padding) == 4
    made: Any = PaddedConv2d if kind is nn.Conv2d and four else kind
    new: _Conv = made(
        given.in_channels,
        given.out_channels,
        given.kernel_size,
        given.stride,
        padding,
        given.dilation,
        given.groups,
        given.bias is not None,
        given.padding_mode,
        device="meta",
    )
    new.weight, new.bias = conv.weight, conv.bias
    return new.train(conv.training)


def linear_like(kind: type[_Linear], linear: nn.Linear) -> _Linear:
    """A layer of class `kind` with the shape of `linear` and its very parameters; draws no random number."""
    new = kind(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    new.weight, new.bias = linear.weight, linear.bias
    return new.train(linear.training)


def norm_like(kind: type[_Norm], norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm) -> _Norm:
    """A batch norm of class `kind` with the options and the very tensors of `norm`."""
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
    new.load_state_dict(norm.state_dict(), assign=True)
    return new.train(norm.training)


def layer_like(layer: nn.Module, conv: type[_Conv], linear: type[_Linear]) -> _Conv | _Linear:
    """`conv_like` of a convolution, `linear_like` of a fully connected layer."""
    if isinstance(layer, nn.Conv2d):
        return conv_like(conv, layer)
    assert isinstance(layer, nn.Linear)
    return linear_like(linear, layer)
