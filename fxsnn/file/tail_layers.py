"""The layers that stand in the tail of a network file, in both directions: described, and made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.layers import FlattenMaps, FoldedLinear, PaddedConv2d, pair, said, sides_of

FLOAT_TYPES: Mapping[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}

MODES = frozenset(("area", "bicubic", "bilinear", "nearest", "nearest-exact"))

_OF_TRANSPOSED = ("kernel_size", "stride", "padding", "output_padding", "dilation")

Fields = dict[str, Any]
Array = tuple[str, Tensor]
Find = Callable[[str, tuple[int, ...]], Tensor]
"""The array of a layer by its last name, of a floating type and that shape."""


class NoName(Exception):  # noqa: N818  # never leaves this wing
    """Something has no name in the format; the text says what."""


def described_layer(module: Any) -> tuple[Fields, list[Array]]:
    """Fields and arrays of what a layer does; exact classes only, since another class may do something else.

    Raises:
        NoName: the format does not know it.
    """
    kind = type(module)
    if kind in (nn.Linear, FoldedLinear):
        sizes = {"in_features": module.in_features, "out_features": module.out_features}
        return {"op": "linear", **sizes, "bias": module.bias is not None}, _weights(module)
    if kind in (nn.Conv2d, PaddedConv2d) and module.padding_mode == "zeros":
        return {"op": "conv2d", **convolution(module), "bias": module.bias is not None}, _weights(module)
    if kind is nn.ConvTranspose2d:
        sizes = {"in_channels": module.in_channels, "out_channels": module.out_channels}
        pairs = {name: list(pair(getattr(module, name))) for name in _OF_TRANSPOSED}
        fields = {"op": "conv_transpose2d", **sizes, **pairs, "groups": module.groups}
        return {**fields, "bias": module.bias is not None}, _weights(module)
    if kind is nn.AvgPool2d and not module.ceil_mode and module.divisor_override is None:
        fields = {
            "op": "avg_pool2d",
            **{name: list(pair(getattr(module, name))) for name in ("kernel_size", "stride", "padding")},
            "count_include_pad": module.count_include_pad,
        }
        return fields, []
    if kind is nn.Upsample and not module.recompute_scale_factor:
        return upsampling(module.size, module.scale_factor, module.mode, module.align_corners), []
    if kind in (nn.Flatten, FlattenMaps) and (module.start_dim, module.end_dim) == (1, -1):
        return {"op": "flatten"}, []
    if kind in (nn.Softmax, nn.LogSoftmax):
        return {"op": "softmax" if kind is nn.Softmax else "log_softmax", "dim": module.dim}, []
    if kind is nn.AdaptiveAvgPool2d:
        size = module.output_size
        return {"op": "adaptive_avg_pool2d", "output_size": list(size) if isinstance(size, tuple) else [size] * 2}, []
    if kind is nn.AdaptiveAvgPool1d:
        size = module.output_size
        return {"op": "adaptive_avg_pool1d", "output_size": size if isinstance(size, int | None) else size[0]}, []
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and module.running_mean is not None:
        names = ["running_mean", "running_var"] + (["weight", "bias"] if module.affine else [])
        fields = {
            "op": "batch_norm",
            "dimensions": 1 if kind is nn.BatchNorm1d else 2,
            "channels": module.num_features,
            "epsilon": module.eps,
            "affine": module.affine,
        }
        return fields, [(name, getattr(module, name)) for name in names]
    function = next((name for name, one in ACTIVATIONS.items() if one is kind), None)
    if function is None or (kind is nn.Softplus and (module.beta, module.threshold) != (1, 20)):
        raise NoName(f"a {kind.__name__}")
    return {"op": "activation", "function": function}, []


def upsampling(size: Any, scale_factor: Any, mode: str = "nearest", align_corners: bool | None = None) -> Fields:
    """Fields of an interpolation of maps, with the arguments of `torch.nn.functional.interpolate`.

    Raises:
        NoName: one is no number, or the format does not know the mode.
    """
    fields: Fields = {"op": "upsample", "size": size, "scale_factor": scale_factor}
    for name in ("size", "scale_factor"):
        sides = fields[name] if isinstance(fields[name], list | tuple) else [fields[name]] * 2
        if len(sides) != 2 or not all(isinstance(one, int | float | None) for one in sides) or mode not in MODES:
            raise NoName("this kind of interpolation")
        number = int if name == "size" else float
        fields[name] = None if None in sides else [number(one) for one in sides]
    return {**fields, "mode": mode, "align_corners": align_corners}


def convolution(layer: Any) -> Fields:
    """The geometry of a convolution, spiking or not."""
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": list(sides_of(layer)),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
    }


def _weights(module: Any) -> list[Array]:
    return [("weight", module.weight)] + ([] if module.bias is None else [("bias", module.bias)])


def rebuilt_layer(node: Mapping[str, Any], find: Find, problem: Callable[[str], None]) -> nn.Module:
    """The layer that a node describes, in evaluation mode as in any other.

    Args:
        node: of a kind that `described_layer` gives.
        find: its arrays.
        problem: is told what is wrong.
    """
    op = node["op"]
    if op == "linear":
        rows, columns = node["out_features"], node["in_features"]
        linear = nn.Linear(columns, rows, node["bias"], device="meta")
        return _filled(linear, node, (rows, columns), find)
    if op == "conv2d":
        arguments = convolution_arguments(node, problem)
        two = arguments["padding"] == "same" or len(arguments["padding"]) == 2
        conv = (nn.Conv2d if two else PaddedConv2d)(**arguments, bias=node["bias"], device="meta")
        return _filled(conv, node, tuple(conv.weight.shape), find)
    if op == "conv_transpose2d":
        inputs, outputs, groups = _grouped(node, problem)
        pairs: dict[str, Any] = {name: tuple(node[name]) for name in _OF_TRANSPOSED}
        for more, stride, dilation in zip(pairs["output_padding"], pairs["stride"], pairs["dilation"], strict=True):
            if more >= max(stride, dilation):  # earlier versions of PyTorch do not say so of shapes alone
                problem(f"{node['name']}: its output_padding is {more}; allowed is less than its stride or dilation")
        transposed = nn.ConvTranspose2d(inputs, outputs, groups=groups, bias=node["bias"], device="meta", **pairs)
        return _filled(transposed, node, tuple(transposed.weight.shape), find)
    if op == "batch_norm":
        kind = nn.BatchNorm1d if node["dimensions"] == 1 else nn.BatchNorm2d
        norm = kind(1, node["epsilon"], affine=node["affine"])
        norm.num_features = node["channels"]
        for part in ("running_mean", "running_var") + (("weight", "bias") if node["affine"] else ()):
            array = find(part, (node["channels"],))
            setattr(norm, part, array if part.startswith("running") else _frozen(array))
        return norm
    plain: dict[str, Callable[[], nn.Module]] = {
        "flatten": nn.Flatten,
        "softmax": lambda: nn.Softmax(node["dim"]),
        "log_softmax": lambda: nn.LogSoftmax(node["dim"]),
        "adaptive_avg_pool2d": lambda: nn.AdaptiveAvgPool2d(tuple(node["output_size"])),
        "adaptive_avg_pool1d": lambda: nn.AdaptiveAvgPool1d(node["output_size"]),
        "activation": lambda: ACTIVATIONS[node["function"]](),
        "upsample": lambda: nn.Upsample(
            None if node["size"] is None else tuple(node["size"]),
            None if node["scale_factor"] is None else tuple(node["scale_factor"]),
            node["mode"],
            node["align_corners"],
        ),
        "avg_pool2d": lambda: nn.AvgPool2d(
            tuple(node["kernel_size"]),
            tuple(node["stride"]),
            tuple(node["padding"]),
            count_include_pad=node["count_include_pad"],
        ),
    }
    return plain[op]()


def convolution_arguments(node: Mapping[str, Any], problem: Callable[[str], None]) -> Fields:
    """What PyTorch wants to be told of a convolution: channels, kernel, stride, padding, dilation and groups."""
    kernel, dilation = node["kernel_size"], node["dilation"]
    inputs, outputs, groups = _grouped(node, problem)
    top, bottom, left, right = node["padding"]
    padding: str | tuple[int, ...] = said((top, bottom, left, right))
    if len(padding) == 4 and list(node["stride"]) == [1, 1]:
        same = [space * (side - 1) for space, side in zip(dilation, kernel, strict=True)]
        if list(padding) == [part for whole in same for part in (whole // 2, whole - whole // 2)]:
            padding = "same"
    return {
        "in_channels": inputs,
        "out_channels": outputs,
        "kernel_size": tuple(kernel),
        "stride": tuple(node["stride"]),
        "padding": padding,
        "dilation": tuple(dilation),
        "groups": groups,
    }


def _grouped(node: Mapping[str, Any], problem: Callable[[str], None]) -> tuple[int, int, int]:
    """Input channels, output channels and groups of a convolution."""
    inputs, outputs, groups = node["in_channels"], node["out_channels"], node["groups"]
    if inputs % groups or outputs % groups:
        problem(f"{node['name']}: {groups} groups do not divide {inputs} and {outputs} channels")
        groups = 1
    return inputs, outputs, groups


def _filled(layer: Any, node: Mapping[str, Any], shape: tuple[int, ...], find: Find) -> Any:
    layer.weight = _frozen(find("weight", shape))
    if node["bias"]:
        layer.bias = _frozen(find("bias", tuple(layer.bias.shape)))
    return layer


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
