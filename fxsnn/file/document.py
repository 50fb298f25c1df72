"""The network file's JSON document and arrays: what a spiking graph becomes when it is written.

`docs/FILE.md` describes the format, `embedded/file_v1.schema.json` and those behind it are its schema;
`fxsnn.file.rebuilding` is the way back. Everything that can stand in the tail is named here: a file cannot call
anything else.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.chip import CODEBOOKS, JOINS, HardwareTarget, target_sources
from fxsnn.errors import FileError, Finding, listing
from fxsnn.file.packing import pack_codes
from fxsnn.file.returned import returned_data
from fxsnn.file.tail_layers import Array, NoName, convolution, described_layer, upsampling
from fxsnn.file.wiring_layers import WORDS, described_wiring
from fxsnn.graph import Graph, about_file_name
from fxsnn.layers import (
    Concat,
    Decode,
    Encode,
    FlattenMaps,
    Lower,
    SpikeAdd,
    SpikeAnyPool2d,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    Spiking,
    SynapseConv2d,
    SynapseLinear,
    Synapses,
    Wiring,
    pair,
)
from fxsnn.numerics import Dynamics
from fxsnn.storage import SEAL

FORMAT = "fxsnn"
VERSION = 4
"""The newest version. A file has the first one that has words for it: older readers read all that they can."""

LEVELS_SINCE = 3
"""Since this version a layer may have levels of its own, and the target says which."""

FRAMES_SINCE = 4
"""Since this version images may have frames, and the target says all of it, how layers may read several others, too."""

METHODS = frozenset({
    "abs", "add", "argmax", "div", "exp", "flatten", "log_softmax", "mean", "mul", "neg", "reshape", "sigmoid", "size",
    "softmax", "squeeze", "sub", "sum", "tanh", "unsqueeze", "view",
})  # fmt: skip
"""Methods of a tensor that a tail may call; the functions of torch of the same names are written as these."""

OPERATIONS_OF_2 = frozenset((
    "adaptive_avg_pool1d", "avg_pool2d", "conv2d", "conv_transpose2d", "spike_add", "spike_any_pool2d",
    "synapse_conv2d", "synapse_linear", "upsample", *WORDS,
))  # fmt: skip
"""Kinds of nodes that there are since version 2."""

METHODS_OF_2 = frozenset(("contiguous", "log", "matmul", "permute", "sqrt", "transpose"))
"""And since version 2."""

LISTED = frozenset(("cat", "stack"))
"""Functions of torch that read a list of tensors, since version 2."""

OPTIONS = frozenset(("dim", "keepdim", "start_dim", "end_dim"))
"""What may be said by name in such a call."""

_OPERATORS = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.truediv: "div",
    operator.neg: "neg",
    operator.getitem: "getitem",
    operator.matmul: "matmul",
    F.softmax: "softmax",
    F.log_softmax: "log_softmax",
}

BEHIND_THE_NETWORK = "Leave it out of the network and apply it to what the network returns"
"""What to do about a tail that no file can hold."""


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
    document = document_of(nodes, target, dynamics, image_size, provenance)
    if any(f"{node['name']}.levels" in arrays for node in nodes if "gain" in node or node["op"].startswith("synapse_")):
        document |= {"version": LEVELS_SINCE, "target": {**document["target"], "codebook": target.codebook}}
    if _is_unknown(target, told=document["target"]) or any("frames" in node for node in nodes):
        whole = {**document["target"], "codebook": target.codebook, "joins": list(target.joins)}
        document |= {"version": FRAMES_SINCE, "target": whole}
    return document, arrays


def _is_unknown(target: HardwareTarget, told: Mapping[str, Any]) -> bool:
    """Whether readers cannot know of a target, which is none of ours, what earlier versions have no words for."""
    untold = target.joins != JOINS or target.codebook != told.get("codebook", CODEBOOKS[0])
    return untold and all(source.target != target for source in target_sources().values())


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
        "version": 2 if any(map(_is_of_2, nodes)) or (image_size is not None and len(image_size) != 3) else 1,
        "target": target_data(target),
        "dynamics": asdict(dynamics),
        "image_size": None if image_size is None else list(image_size),
        "nodes": nodes,
        "golden": None,
        "provenance": dict(provenance),
    }


def _is_of_2(node: Mapping[str, Any]) -> bool:
    """Whether version 1 has no words for a node."""
    newer = node["op"] in OPERATIONS_OF_2 or node.get("function") in METHODS_OF_2 | LISTED
    return (
        newer
        or (node["op"] == "output" and "returns" in node)
        or (node["op"] == "encode" and not node.keys().isdisjoint(("rank", "size", "affine")))
    )


def nodes_of(graph: Graph) -> tuple[list[dict[str, Any]], dict[str, Tensor], list[Finding]]:
    """The document's nodes, their arrays, and what has no name in the format."""
    places, told = _places_of(graph), set[int]()
    nodes, arrays, problems = list[dict[str, Any]](), dict[str, Tensor](), list[Finding]()
    for node in _in_order(graph):
        if places[node] in told:
            continue
        told.add(places[node])
        name = _name(graph, node)
        called = node.op in ("call_module", "get_attr")
        problems += [replace(one, source=graph.source(node)) for one in about_file_name(name, called=called)]
        if node.op == "get_attr" and name == SEAL:
            problems.append(graph.finding(node, "files have an array of that name for their checksum", "Rename it"))
        try:
            described, own = _described(graph, node, places)
        except NoName as reason:
            problems.append(_nameless(graph, node, reason))
            continue
        nodes.append({"op": described.pop("op"), "name": name, **described})
        arrays |= {f"{name}.{part}" if part else name: tensor for part, tensor in own}
    return nodes, arrays, problems


def _in_order(graph: Graph) -> list[Node]:
    """What the decoder depends on and itself first: a tail that reads the images may have begun before the body."""
    decoders = graph.nodes(Decode)
    body = set(decoders).union(*map(graph.ancestors, decoders))
    return sorted(graph, key=lambda node: node not in body)


def _places_of(graph: Graph) -> dict[Node, int]:
    """The places of the nodes in the file; a tensor that is read several times is one."""
    places, tensors = dict[Node, int](), dict[str, int]()
    count = 0
    for node in _in_order(graph):
        places[node] = tensors.setdefault(str(node.target), count) if node.op == "get_attr" else count
        count += places[node] == count
    return places


def _nameless(graph: Graph, node: Node, reason: Exception) -> Finding:
    return graph.finding(node, f"{reason} has no name in the format of files", BEHIND_THE_NETWORK)


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
    if node.target is F.interpolate:
        return _interpolation(node, places), []
    if node.op in ("call_function", "call_method"):
        return _call(node, places), []
    if node.op == "output":
        returned = returned_data(node.args[0], places)
        return {
            "op": "output",
            **({"reads": places[node.args[0]]} if isinstance(node.args[0], Node) else {"returns": returned}),
        }, []
    sources = node.all_input_nodes
    if graph.is_a(node, Lower):
        arguments = [{"node": places[sources[0]]}, 2]
        return {"op": "call", "function": "squeeze", "arguments": arguments, "options": {}}, []
    fields, arrays = _module(graph[node])
    if graph.is_a(node, SpikeAdd, Concat):
        return {**fields, "reads": [places[one] for one in node.args if isinstance(one, Node)]}, arrays
    if len(sources) != 1:
        raise NoName(f"a layer that reads {len(sources)} values")
    if any(one not in (None, sources[0]) for one in (*node.args, *node.kwargs.values())):
        raise NoName("a layer that is told more than what it reads")
    return {**fields, "reads": places[sources[0]]}, arrays


def _module(module: Any) -> tuple[dict[str, Any], list[Array]]:
    """Fields and arrays of what a layer does; exact classes only, since another class may do something else."""
    kind = type(module)
    if isinstance(module, Spiking):
        return _spiking(module)
    if isinstance(module, Synapses):
        return _synapses(module)
    if isinstance(module, Wiring) and kind is not FlattenMaps:
        return described_wiring(module)
    if kind is Encode:
        bits = None if module.bits is None else int(module.bits)
        form: dict[str, Any] = {"rank": module.form.rank} if module.form.rank in (2, 3) else {}
        form |= {} if module.form.size is None else {"size": list(module.form.size)}
        form |= {} if module.form.frames is None else {"frames": True}
        form |= {} if module.affine is None else {"affine": module.affine.channels}
        arrays = [] if module.affine is None else [("scale", module.affine.scale), ("shift", module.affine.shift)]
        return {"op": "encode", "unit": module.unit, "bits": bits, "channels": module.form.channels, **form}, arrays
    if kind is Decode:
        return {"op": "decode"}, [("spike_value", module.spike_value)]
    return described_layer(module)


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
    if kind is SpikeAnyPool2d:
        fields = {
            "op": "spike_any_pool2d",
            "channels": len(layer.threshold),
            **{name: asdict(taps) for name, taps in zip(("rows", "columns"), layer.windows(), strict=True)},
        }
        return fields, [("spike_value", layer.spike_value)]
    names = ("threshold", "leak", "step", "spike_value", "real_threshold", "real_bias")
    numbers = [(name, getattr(layer, name)) for name in names]
    if kind is SpikeAdd:
        arrays = [(name, getattr(layer, name)) for name in ("weights", "real_weights")]
        return {"op": "spike_add", "channels": layer.weights.shape[1]}, [*arrays, *numbers]
    if kind not in (SpikeConv2d, SpikeLinear):
        raise NoName(f"a {kind.__name__}")
    common = {"bits": layer.bits, "gain": layer.gain, "input_unit": layer.input_unit}
    return _with_codes("spike", layer, common, numbers)


def _synapses(layer: Any) -> tuple[dict[str, Any], list[Array]]:
    if type(layer) not in (SynapseConv2d, SynapseLinear):
        raise NoName(f"a {type(layer).__name__}")
    common = {"bits": layer.bits, "input_unit": layer.input_unit}
    return _with_codes("synapse", layer, common, [("gain", layer.gain), ("step", layer.step)])


def _with_codes(
    kind: str, layer: Any, common: dict[str, Any], numbers: list[Array]
) -> tuple[dict[str, Any], list[Array]]:
    arrays = [("codes", pack_codes(layer.codes, layer.codebook)), *numbers]
    if not layer.codebook.is_symmetric:
        arrays.append(("levels", torch.tensor(layer.codebook.levels, dtype=torch.int32)))
    if isinstance(layer, nn.Linear):
        shape = {"in_features": layer.in_features, "out_features": layer.out_features}
        return {"op": f"{kind}_linear", **common, **shape}, arrays
    return {"op": f"{kind}_conv2d", **common, **convolution(layer)}, arrays


def _interpolation(node: Node, places: Mapping[Node, int]) -> dict[str, Any]:
    """A call of `torch.nn.functional.interpolate`."""
    given = inspect.signature(F.interpolate).bind(*node.args, **node.kwargs).arguments
    read, recomputed, smoothed = (given.pop(name, None) for name in ("input", "recompute_scale_factor", "antialias"))
    if not isinstance(read, Node) or recomputed or smoothed:
        raise NoName("this kind of interpolation")
    return {**upsampling(given.pop("size", None), given.pop("scale_factor", None), **given), "reads": places[read]}


def _call(node: Node, places: Mapping[Node, int]) -> dict[str, Any]:
    """A call of a function or method."""
    arguments = list(node.args)
    name = str(node.target)
    if node.op == "call_function":
        name = _OPERATORS.get(node.target, "")  # type: ignore[arg-type]  # fx types it wider than it is
        if node.target is getattr and arguments[1:] == ["shape"]:
            name, arguments = "shape", arguments[:1]
        plain = getattr(node.target, "__name__", "")
        if not name and plain in METHODS | METHODS_OF_2 | LISTED and getattr(torch, plain, None) is node.target:
            name = plain
    if name in ("add", "mul") and len(arguments) == 2 and not isinstance(arguments[0], Node):
        arguments.reverse()  # 2 * x is x * 2
    if name not in METHODS | METHODS_OF_2 | {"getitem", "shape"} and (name not in LISTED or node.op == "call_method"):
        raise NoName(f"{node.target if node.op == 'call_method' else getattr(node.target, '__name__', node.target)}")
    if not set(node.kwargs) <= OPTIONS or not arguments or not _can_be_read(name, arguments[0]):
        raise NoName(f"this call of {name}")
    return {
        "op": "call",
        "function": name,
        "arguments": [_argument(name, one, places) for one in arguments],
        "options": {option: _argument(name, one, places) for option, one in node.kwargs.items()},
    }


def _can_be_read(function: str, value: Any) -> bool:
    """Whether a call of that function may have this for its first argument."""
    if function not in LISTED:
        return isinstance(value, Node)
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(one, Node) for one in value)


def _argument(function: str, value: Any, places: Mapping[Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return {"node": places[value]}
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and len(value) <= 8 and not any(isinstance(one, float) for one in value):
        return [_argument(function, one, places) for one in value]
    raise NoName(f"this call of {function}")
