"""Modules in words: for dumps, differences and drawings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.graph.kinds import Activation, Norm, Pooling, Weighted
from fxsnn.layers import (
    Add,
    Affine,
    AnyPool2d,
    BoundedReLU,
    ClippedReLU,
    Decode,
    Encode,
    Integers,
    LowBit,
    QuantizedInput,
    RateReLU,
    SpikeAdd,
    Wiring,
)

KINDS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("spiking", (Integers,)),
    ("low-bit weights", (LowBit,)),
    ("weights", Weighted),
    ("batch norm", (*Norm, Affine)),
    ("activation", Activation),
    ("pooling", (*Pooling, nn.AdaptiveAvgPool2d, nn.MaxPool2d)),
    ("sum, wiring", (Add, Wiring)),
    ("encode, decode", (Encode, Decode, QuantizedInput)),
)


def in_short(module: Any) -> str:
    """Class and what matters most."""
    name = type(module).__name__
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        name += f" {module.in_channels}→{module.out_channels}, {height}×{width}"
        name += f" /{module.stride[0]}" if module.stride[0] > 1 else ""
    elif isinstance(module, nn.Linear):
        name += f" {module.in_features}→{module.out_features}"
    elif isinstance(module, nn.AvgPool2d):
        name += f" {module.kernel_size}"
    elif isinstance(module, AnyPool2d):
        name += f" {module.rows.kernel}×{module.columns.kernel}"
    elif isinstance(module, ClippedReLU | RateReLU):
        name += f" ≤ {module.threshold:.3g}"
    elif isinstance(module, BoundedReLU):
        name += f" ≤ {module.bound.value:.3g}"
    elif isinstance(module, Add | SpikeAdd):
        name += f" of {len(module.factor if isinstance(module, Add) else module.constant)}"
    bits = getattr(module, "bits", None) if isinstance(module, LowBit | Integers) else None
    return f"{name}, {bits} bit" if bits else name


def described(module: nn.Module) -> str:
    """Class and options."""
    return f"{type(module).__name__}({module.extra_repr()})"


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Its parameters and buffers, by name."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def digest_of(module: nn.Module) -> str:
    """Eight hexadecimal digits of a hash of its tensors: names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(module), key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:8]
