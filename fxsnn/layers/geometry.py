"""Layers of another class with the geometry and the very parameters of a given one."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

_Conv = TypeVar("_Conv", bound=nn.Conv2d)
_Linear = TypeVar("_Linear", bound=nn.Linear)


def conv_like(kind: type[_Conv], conv: nn.Conv2d) -> _Conv:
    """A layer of class `kind` with the geometry of `conv` and its very parameters; draws no random number."""
    given: Any = conv  # torch types kernel_size and its like as longer tuples than they are
    new = kind(
        given.in_channels,
        given.out_channels,
        given.kernel_size,
        given.stride,
        given.padding,
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
