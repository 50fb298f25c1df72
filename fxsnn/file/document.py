"""The network file's JSON document and arrays: what a spiking graph becomes when it is written.

`docs/FILE.md` describes the format, `embedded/file_v1.schema.json` is its schema; `fxsnn.file.rebuilding` is the way
back. Everything that can stand in the tail is named here: a file cannot call anything else.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.chip import HardwareTarget
from fxsnn.errors import FileError, Finding, listing
from fxsnn.file.packing import pack_codes
from fxsnn.graph import Graph, about_file_name
from fxsnn.layers import Decode, Encode, FoldedLinear, SpikeAvgPool2d, SpikeConv2d, SpikeLinear, Spiking, pair
from fxsnn.numerics import Dynamics
from fxsnn.storage import SEAL

FORMAT = "fxsnn"
VERSION = 1

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

METHODS = frozenset({
    "abs", "add", "argmax", "div", "exp", "flatten", "log_softmax", "mean", "mul", "neg", "reshape", "sigmoid", "size",
    "softmax", "squeeze", "sub", "sum", "tanh", "unsqueeze", "view",
})  # fmt: skip
"""Methods of a tensor that a tail may call; the functions of torch of the same names are written as these."""

OPTIONS = frozenset(("dim", "keepdim", "start_dim", "end_dim"))
"""What may be said by name in such a call."""

_OPERATORS = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.truediv: "div",
    operator.neg: "neg",
    operator.getitem: "getitem",
    F.softmax: "softmax",
    F.log_softmax: "log_softmax",
}

BEHIND_THE_NETWORK = "Leave it out of the network and apply it to what the network returns"
"""What to do about a tail that no file can hold."""

Array = tuple[str, Tensor]


def target_data(target: HardwareTarget) -> dict[str, Any]:
    """A target as plain data."""
    table = target.input_channels
    limits = None if table is None else [
        {"kernel_size": list(kernel), "limits": {str(bits): most for bits, most in row.items()}}
        for kernel, row in table.items()
    ]  # fmt: skip
    return {
        "name": target.name,
        "description": target.description,
        "weight_bits": list(target.weight_bits),
        "input_channels": limits,
        "registers": asdict(target.registers),
        "relu_behind_convolution": target.relu_behind_convolution,
        "binary_traffic": target.binary_traffic,
        "core_inputs": target.core_inputs,
        "core_outputs": target.core_outputs,
    }


def described(
    graph: Graph,
    target: HardwareTarget,
    dynamics: Dynamics,
    image_size: tuple[int, ...] | None,
    provenance: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the arrays of a converted graph, without golden vectors.

    Raises:
        FileError: something in the tail has no name in the format; all such things at once.
    """
    nodes, arrays, problems = nodes_of(graph)
    if problems:
        raise FileError(f"the network cannot be written: {listing(problems)}")
    return document_of(nodes, target, dynamics, image_size, provenance), arrays


def document_of(
    nodes: list[dict[str, Any]],
    target: HardwareTarget,
    dynamics: Dynamics,
    image_size: tuple[int, ...] | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The document with these nodes, without golden vectors."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "target": target_data(target),
        "dynamics": asdict(dynamics),
        "image_size": None if image_size is None else list(image_size),
        "nodes": nodes,
        "golden": None,
        "provenance": dict(provenance),
    }


def nodes_of(graph: Graph) -> tuple[list[dict[str, Any]], dict[str, Tensor], list[Finding]]:
    """The document's nodes, their arrays, and what has no name in the format."""
    places = {node: place for place, node in enumerate(graph)}
    nodes, arrays, problems = list[dict[str, Any]](), dict[str, Tensor](), list[Finding]()
    for node in graph:
        name = _name(graph, node)
        called = node.op in ("call_module", "get_attr")
        problems += [replace(one, source=graph.source(node)) for one in about_file_name(name, called=called)]
        if node.op == "get_attr" and name == SEAL:
            problems.append(graph.finding(node, "files have an array of that name for their checksum", "Rename it"))
        try:
            described, own = _described(graph, node, places)
        except _NoName as reason:
            problems.append(_nameless(graph, node, reason))
            continue
        nodes.append({"op": described.pop("op"), "name": name, **described})
        arrays |= {f"{name}.{part}" if part else name: tensor for part, tensor in own}
    return nodes, arrays, problems


def _nameless(graph: Graph, node: Node, reason: Exception) -> Finding:
    return graph.finding(node, f"{reason} has no name in the format of files", BEHIND_THE_NETWORK)


class _NoName(Exception):  # noqa: N818  # never leaves this file
    """Something has no name in the format; the text says what."""


def _name(graph: Graph, node: Node) -> str:
    return graph.name(node) if node.op in ("call_module", "placeholder") else node.name


def _described(graph: Graph, node: Node, places: Mapping[Node, int]) -> tuple[dict[str, Any], list[Array]]:
    if node.op == "placeholder":
        return {"op": "images"}, []
    if node.op == "get_attr":
        tensor = graph.module
        for part in str(node.target).split("."):
            tensor = getattr(tensor, part)
        return {"op": "tensor"}, [("", tensor)]  # type: ignore[list-item]  # fx lets an attribute be a tensor only
    if node.op in ("call_function", "call_method"):
        return _call(node, places), []
    sources = node.all_input_nodes
    if node.op == "output":
        fields, arrays = {"op": "output"}, list[Array]()
    else:
        fields, arrays = _module(graph[node])
    if len(sources) != 1:
        raise _NoName(f"a layer that reads {len(sources)} values")
    return {**fields, "reads": places[sources[0]]}, arrays


def _module(module: Any) -> tuple[dict[str, Any], list[Array]]:
    """Fields and arrays of what a layer does; exact classes only, since another class may do something else."""
    kind = type(module)
    if isinstance(module, Spiking):
        return _spiking(module)
    if kind is Encode:
        bits = None if module.bits is None else int(module.bits)
        return {"op": "encode", "unit": module.unit, "bits": bits, "channels": module.channels}, []
    if kind is Decode:
        return {"op": "decode"}, [("spike_value", module.spike_value)]
    if kind in (nn.Linear, FoldedLinear):
        bias = module.bias is not None
        fields = {
            "op": "linear",
            "in_features": module.in_features,
            "out_features": module.out_features,
            "bias": bias,
        }
        return fields, [("weight", module.weight)] + ([("bias", module.bias)] if bias else [])
    if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return {"op": "flatten"}, []
    if kind in (nn.Softmax, nn.LogSoftmax):
        return {"op": "softmax" if kind is nn.Softmax else "log_softmax", "dim": module.dim}, []
    if kind is nn.AdaptiveAvgPool2d:
        size = module.output_size
        return {"op": "adaptive_avg_pool2d", "output_size": list(size) if isinstance(size, tuple) else [size] * 2}, []
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
        raise _NoName(f"a {kind.__name__}")
    return {"op": "activation", "function": function}, []


def _spiking(layer: Any) -> tuple[dict[str, Any], list[Array]]:
    kind = type(layer)
    if kind is SpikeAvgPool2d:
        fields = {
            "op": "spike_avg_pool2d",
            "channels": len(layer.threshold),
            "kernel_size": list(pair(layer.kernel_size)),
            "stride": list(pair(layer.stride)),
            "padding": [side for side in pair(layer.padding) for _ in range(2)],
        }
        return fields, [("spike_value", layer.spike_value)]
    common = {"bits": layer.bits, "gain": layer.gain, "input_unit": layer.input_unit}
    names = ("threshold", "leak", "step", "spike_value", "real_threshold", "real_bias")
    arrays = [("codes", pack_codes(layer.codes, layer.bits)), *((name, getattr(layer, name)) for name in names)]
    if kind is SpikeLinear:
        shape = {"in_features": layer.in_features, "out_features": layer.out_features}
        return {"op": "spike_linear", **common, **shape}, arrays
    if kind is not SpikeConv2d:
        raise _NoName(f"a {kind.__name__}")
    left, right, top, bottom = layer._reversed_padding_repeated_twice  # "same" and "valid" in numbers
    shape = {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": [top, bottom, left, right],
        "dilation": list(layer.dilation),
        "groups": layer.groups,
    }
    return {"op": "spike_conv2d", **common, **shape}, arrays


def _call(node: Node, places: Mapping[Node, int]) -> dict[str, Any]:
    """A call of a function or method."""
    arguments = list(node.args)
    name = str(node.target)
    if node.op == "call_function":
        name = _OPERATORS.get(node.target, "")  # type: ignore[arg-type]  # fx types it wider than it is
        if node.target is getattr and arguments[1:] == ["shape"]:
            name, arguments = "shape", arguments[:1]
        plain = getattr(node.target, "__name__", "")
        if not name and plain in METHODS and getattr(torch, plain, None) is node.target:
            name = plain
    if name in ("add", "mul") and len(arguments) == 2 and not isinstance(arguments[0], Node):
        arguments.reverse()  # 2 * x is x * 2
    if name not in METHODS | {"getitem", "shape"}:
        raise _NoName(f"{node.target if node.op == 'call_method' else getattr(node.target, '__name__', node.target)}")
    if not set(node.kwargs) <= OPTIONS or not arguments or not isinstance(arguments[0], Node):
        raise _NoName(f"this call of {name}")
    return {
        "op": "call",
        "function": name,
        "arguments": [_argument(name, one, places) for one in arguments],
        "options": {option: _argument(name, one, places) for option, one in node.kwargs.items()},
    }


def _argument(function: str, value: Any, places: Mapping[Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return {"node": places[value]}
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and len(value) <= 8 and not any(isinstance(one, float) for one in value):
        return [_argument(function, one, places) for one in value]
    raise _NoName(f"this call of {function}")
