"""NIR, the Neuromorphic Intermediate Representation (Pedersen et al. 2024): to other simulators and back.

NIR knows convolutions, integrate-and-fire neurons and little else: no bit widths, no T, no reset by subtraction, no
start of the membranes, no decoding. What it cannot say goes into the metadata of the graph; what a reader would
therefore compute otherwise is refused, or warned about. `docs/NIR.md` says what each reader makes of such a graph.

    graph = fxsnn.to_nir(snn)               # snn: reset="zero", initial_membrane=0
    nir.write("net.nir", graph)
    snn = fxsnn.from_nir("net.nir")

Graphs of others become ordinary networks: `nir_model.py`.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Mapping
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxsnn.ambient import neutral
from fxsnn.engine.circuit import circuit_of
from fxsnn.engine.tables import ungrouped
from fxsnn.errors import FileError, Finding, FxsnnError, InterchangeWarning, ModelError, OptionError
from fxsnn.file import Rebuilt, described, pack_codes, rebuilt, require_schema
from fxsnn.interchange.nir_model import nir_graph, nir_package
from fxsnn.interchange.nir_padding import even_padding, own_taps
from fxsnn.interchange.nir_tail import WritableTail, writable_tail
from fxsnn.network import SpikingNetwork, require_image_size, require_spiking
from fxsnn.numerics import largest_code
from fxsnn.options import is_one_of, shown
from fxsnn.storage import strict_json

DIFFERENCES = ("refuse", "warn")
_KEY = "fxsnn"
_IN_NODES = ("codes", "threshold", "leak")
"""Arrays of a layer that the nodes of the graph hold; the others are in its metadata."""

_LARGEST_EXACT = 1 << 24

Size = tuple[int, ...]


@neutral()
def to_nir(snn: SpikingNetwork, *, differences: str = "refuse", image_size: Size | None = None) -> Any:
    """The network as a `nir.NIRGraph`.

    Weights are code times gain, biases leaks, thresholds those of the chip: integers, in float32. With reset to zero
    thresholds are half lower: `>` and `>=`, which readers do not agree on, are then the same for integers. The graph
    reads the integer input, `nir_input(snn, images)`, the same at every step; logits are the mean of its output over
    the steps.

    Args:
        snn: the network.
        differences: what to do where a reader that follows NIR computes something else, "refuse" or "warn".
        image_size: of an image, without the batch, where the network does not know it.

    Raises:
        ModelError: a reader would compute something else, and `differences` is "refuse"; or NIR cannot say it at all.
        FileError: something in the tail has no name in the format of files.
        OptionError: an option has a value that is not allowed, or the package nir is not installed.
    """
    nir = nir_package()
    require_spiking(snn)
    if not is_one_of(differences, DIFFERENCES):
        raise OptionError(f"differences is {shown(differences)}; allowed are {' and '.join(map(repr, DIFFERENCES))}")
    form = snn.graph.image_form
    size = require_image_size(image_size, form) or snn.image_size
    document, arrays = described(snn.graph, snn.target, snn.dynamics, size, snn.provenance)
    arrays = {name: tensor.detach().cpu() for name, tensor in arrays.items()}
    found = rebuilt(document, arrays)
    if found.image_size is None:
        raise OptionError(f"the network does not know how large an image is; pass image_size={form.sizes}")
    tail = writable_tail(document, rows=len(list(found.sizes.values())[-1]) == 1)
    problems = [*_differences(snn), *([] if tail.linears else _rates(snn)), *tail.left_out]
    if problems and differences == "refuse":
        raise ModelError(problems)
    if problems:
        told = "; ".join(f"{one.layer}: {one.problem}" for one in problems)
        warnings.warn(f"a reader of this NIR graph computes something else: {told}", InterchangeWarning, stacklevel=3)
    if other := sorted(name for name, tensor in arrays.items() if tensor.dtype == torch.bfloat16):
        raise ModelError([Finding(name, "NIR files hold no bfloat16", "Call snn.float() first") for name in other])
    writer = _Writer(nir, snn, found)
    writer.body(document["nodes"])
    writer.tail(tail, arrays)
    kept = {name: tensor.numpy() for name, tensor in arrays.items() if name.rpartition(".")[2] not in _IN_NODES}
    return writer.graph({_KEY: json.dumps({"document": document, "layers": writer.layers}), "arrays": kept})


@neutral()
def nir_input(snn: SpikingNetwork, images: Tensor) -> Tensor:
    """What a graph of `to_nir` reads for these images, at every step: their integers, float32 [N, ...].

    Args:
        snn: the network.
        images: as for a call of it; where its input is analog (`input_bits=None`) they are given back as they are.

    Raises:
        DataError: these cannot be images for the network.
        OptionError: `snn` is no spiking network.
    """
    require_spiking(snn)
    with torch.no_grad():
        return circuit_of(snn.graph).encode(images)


@neutral()
def from_nir(source: str | Path | Any) -> SpikingNetwork:
    """The spiking network of a graph that `to_nir` made.

    Weights, thresholds and leaks are those of the graph's nodes, all else is from its metadata; they must be integers
    that fit the target, and agree.

    Args:
        source: a `nir.NIRGraph`, or a file of one.

    Raises:
        FileError: there is no such file, it is no NIR graph, or not one that `to_nir` made, or it was changed into
            something that the target cannot hold. (`model_from_nir` reads graphs of others.)
    """
    graph = nir_graph(source)
    text = graph.metadata.get(_KEY) if isinstance(graph.metadata, dict) else None
    if text is None:
        raise FileError(
            "the NIR graph has no metadata of fxsnn: bits, T and units are not known. Read it with "
            "fxsnn.model_from_nir and convert what that gives"
        )
    try:
        described_ = strict_json(text.decode() if isinstance(text, bytes) else str(text))
        document, layers = described_["document"], described_["layers"]
        require_schema(document)
        arrays = {name: torch.from_numpy(np.array(one)) for name, one in graph.metadata.get("arrays", {}).items()}
        for node in document["nodes"]:
            if node["name"] in layers:
                arrays |= _integers(node, [graph.nodes[name] for name in layers[node["name"]]], document)
        found = rebuilt(document, arrays)
        snn = SpikingNetwork(found.graph, found.target, image_size=found.image_size, provenance=document["provenance"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InterchangeWarning)
            again = to_nir(snn, differences="warn")
    except FileError as error:
        raise FileError(f"the NIR graph cannot be read: {error}") from error.__cause__
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, FxsnnError) as error:
        raise FileError(f"the NIR graph cannot be read: it is not as to_nir made it ({error})") from error
    if changed := _changed(graph, again):
        raise FileError(
            "the NIR graph cannot be read: only weights, biases and thresholds of its spiking layers may be changed; "
            f"changed were {', '.join(changed)}"
        )
    return snn


def _changed(graph: Any, again: Any) -> list[str]:
    """What is not as `to_nir` writes the network that was read."""
    found = [] if sorted(graph.edges) == sorted(again.edges) else ["edges"]
    found += sorted(graph.nodes.keys() ^ again.nodes.keys())
    for name in sorted(graph.nodes.keys() & again.nodes.keys()):
        left, right = graph.nodes[name], again.nodes[name]
        if type(left) is not type(right):
            found.append(name)
            continue
        for one in sorted(_field_names(type(right)) - {"metadata", "input_type", "output_type", "input_shape"}):
            here, there = (np.asarray(getattr(node, one)) for node in (left, right))
            if not np.array_equal(here, there):
                found.append(f"{name}.{one}")
    return found


def _differences(snn: SpikingNetwork) -> list[Finding]:
    found = []
    if snn.reset == "subtraction":
        found.append(
            Finding(
                "reset",
                "the network subtracts the threshold at a spike, NIR's IF is set to a value",
                'Convert with reset="zero", or pass differences="warn" and tell the reader to subtract',
            )
        )
    if snn.initial_membrane:
        found.append(
            Finding(
                "initial_membrane",
                "membranes start at half the threshold, NIR's IF starts at 0",
                'Convert with initial_membrane=0, or pass differences="warn" and set the membranes in the reader',
            )
        )
    return found


def _rates(snn: SpikingNetwork) -> list[Finding]:
    """What a spike is worth, where no fully connected layer has it in its weights. (Readers drop NIR's Scale.)"""
    name, layer = circuit_of(snn.graph).layers[-1]
    if bool((layer.spike_value == 1).all()):
        return []
    problem = "no fully connected layer reads its spikes: outputs are firing rates, without what a spike is worth"
    remedy = f'Multiply them by the spike_value of {name}, and pass differences="warn"'
    return [Finding(name, problem, remedy)]


class _Writer:
    """Puts nodes in a row. Their alphabetical order is that of execution: files keep no other."""

    def __init__(self, nir: Any, snn: SpikingNetwork, found: Rebuilt) -> None:
        assert found.image_size is not None
        self._nir = nir
        self._chain = dict(circuit_of(found.graph).layers)
        self._sizes = found.sizes
        self._zero = snn.reset == "zero"
        self._size: Size = found.graph.image_form.size_of_layers(found.image_size)
        self._nodes: list[tuple[str, Any]] = []
        self.layers: dict[str, list[str]] = {}
        self._add("input", nir.Input(input_type={"input": np.array(self._size)}))

    def _add(self, name: str, node: Any) -> str:
        safe = "".join(letter if letter.isalnum() else "_" for letter in name)
        self._nodes.append((f"n{len(self._nodes):04d}_{safe}", node))
        return self._nodes[-1][0]

    def body(self, nodes: list[Mapping[str, Any]]) -> None:
        for node in nodes:
            if node["op"] == "decode":
                return
            if node["op"] == "flatten":
                self._flatten()
            elif node["op"].startswith("spike_"):
                name = str(node["name"])
                if node["op"] == "spike_linear" and len(self._size) > 1:
                    self._flatten()
                names = [self._add(name, self._synapses(node))]
                self._size = self._sizes[name]
                self.layers[name] = [*names, self._add(f"{name}_neurons", self._neurons(name))]

    def tail(self, tail: WritableTail, arrays: Mapping[str, Tensor]) -> None:
        """What NIR can say behind the last spiking layer."""
        channels = self._size[0]
        if tail.flatten and len(self._size) > 1:
            self._flatten()
        value = list(self._chain.values())[-1].spike_value.float()
        for node in tail.linears:
            self._linear(node, arrays, value.repeat_interleave(prod(self._size) // channels))
            channels, value = prod(self._size), torch.ones(prod(self._size))

    def _linear(self, node: Mapping[str, Any], arrays: Mapping[str, Tensor], each: Tensor) -> None:
        """What one of each of its inputs is worth, a spike for instance, is multiplied into its weights."""
        weight = arrays[f"{node['name']}.weight"].float() * each
        rows = len(weight)
        bias = arrays[f"{node['name']}.bias"].float() if node["bias"] else torch.zeros(rows)
        self._add(str(node["name"]), self._nir.Affine(weight=weight.numpy(), bias=bias.numpy()))
        self._size = (rows,)

    def graph(self, metadata: dict[str, Any]) -> Any:
        self._add("output", self._nir.Output(output_type={"output": np.array(self._size)}))
        names = [name for name, _ in self._nodes]
        graph = self._nir.NIRGraph(nodes=dict(self._nodes), edges=list(itertools.pairwise(names)))
        graph.metadata = metadata
        return graph

    def _flatten(self) -> None:
        # From the back: the same with and without a batch, which readers do not agree on.
        self._add(
            "flatten",
            self._nir.Flatten(input_type={"input": np.array(self._size)}, start_dim=-len(self._size), end_dim=-1),
        )
        self._size = (prod(self._size),)

    def _synapses(self, node: Mapping[str, Any]) -> Any:
        layer: Any = self._chain[node["name"]]
        if node["op"] == "spike_linear":
            return self._nir.Affine(weight=_entries(layer).numpy(), bias=_exact(node["name"], layer.leak).numpy())
        if node["op"] == "spike_avg_pool2d":
            top, _, left, _ = node["padding"]  # poolings pad both sides alike
            if not top and not left:  # readers ignore the padding of a pooling
                kernel, stride = np.array(node["kernel_size"]), np.array(node["stride"])
                return self._nir.SumPool2d(kernel_size=kernel, stride=stride, padding=np.array([0, 0]))
            weight = torch.eye(node["channels"])[:, :, None, None].repeat(1, 1, *node["kernel_size"])
            bias, padding, dilation = torch.zeros(node["channels"]), (top, left), (1, 1)
        else:
            weight = torch.from_numpy(ungrouped(_entries(layer).numpy(), node["groups"]))  # readers fail on groups
            weight, padding, dilation = even_padding(weight, node)
            bias = _exact(node["name"], layer.leak)
        return self._nir.Conv2d(
            input_shape=self._size[1:],
            weight=weight.numpy(),
            stride=tuple(node["stride"]),
            padding=padding,
            dilation=dilation,
            groups=1,
            bias=bias.numpy(),
        )

    def _neurons(self, name: str) -> Any:
        layer = self._chain[name]
        whole = _exact(name, layer.threshold, _LARGEST_EXACT // 2)
        threshold = whole.view(-1, *[1] * (len(self._size) - 1)).expand(self._size).contiguous()
        if self._zero and layer.input_magnitude is not None:
            threshold = threshold - 0.5
        kind = self._nir.IF
        options = {"v_reset": np.zeros(self._size, np.float32)} if "v_reset" in _field_names(kind) else {}
        return kind(r=np.ones(self._size, np.float32), v_threshold=threshold.numpy(), **options)


def _entries(layer: Any) -> Tensor:
    """Codebook entries, code times gain; at most 2^24 by the registers of any target."""
    entries: Tensor = layer.codes.float() * layer.gain
    return entries


def _exact(name: str, values: Tensor, largest: int = _LARGEST_EXACT) -> Tensor:
    """Integers as float32.

    Raises:
        ModelError: float32 does not hold one of them, or not with a half beside it.
    """
    if int(values.abs().max()) > largest:
        problem = f"it has the integer {int(values.abs().max()):,}; float32 holds those up to {largest:,}"
        raise ModelError([Finding(str(name), problem, "Use a target with narrower registers")])
    return values.float()


def _field_names(kind: type) -> set[str]:
    return {one.name for one in fields(kind)}


def _integers(node: Mapping[str, Any], nodes: list[Any], document: Mapping[str, Any]) -> dict[str, Tensor]:
    """Codes, thresholds and leaks of a layer, from the graph's nodes."""
    name, (synapses, neurons) = str(node["name"]), nodes
    if node["op"] == "spike_avg_pool2d":
        return {}
    weight = torch.from_numpy(np.array(synapses.weight)).double()
    if node["op"] == "spike_conv2d":
        groups, outputs, inputs = node["groups"], node["out_channels"], node["in_channels"]
        weight = own_taps(weight, node)
        blocks = weight.view(groups, outputs // groups, groups, inputs // groups, *node["kernel_size"])
        parts = torch.cat([blocks[group, :, group] for group in range(groups)])
        if not np.array_equal(ungrouped(parts.numpy(), groups), weight.numpy()):
            raise FileError(f"{name}: weights between its {groups} groups are not zero")
        weight = parts
    codes = weight / node["gain"]
    threshold = torch.from_numpy(np.array(neurons.v_threshold)).double().flatten(1 if weight.dim() > 2 else 0)
    if weight.dim() > 2:
        if not torch.equal(threshold, threshold[:, :1].expand_as(threshold)):
            raise FileError(f"{name}: thresholds differ within a channel")
        threshold = threshold[:, 0]
    spiking = [one["name"] for one in document["nodes"] if one["op"].startswith("spike_")]
    analog = spiking[0] == name and any(one["op"] == "encode" and one["bits"] is None for one in document["nodes"])
    if document["dynamics"]["reset"] == "zero" and not analog:
        threshold = threshold + 0.5
    leak = torch.from_numpy(np.array(synapses.bias)).double()
    for what, values in (("weights over the gain", codes), ("thresholds", threshold), ("biases", leak)):
        if not torch.equal(values, values.round()) or bool(values.abs().max() >= 1 << 31):
            raise FileError(f"{name}: its {what} are not integers")
    top = largest_code(node["bits"])
    if bool((codes.abs() > top).any()) or (node["bits"] == 1 and bool((codes == 0).any())):
        raise FileError(f"{name}: its weights are not {node['bits']}-bit codes times {node['gain']}")
    return {
        f"{name}.codes": pack_codes(codes.to(torch.int8), node["bits"]),
        f"{name}.threshold": threshold.to(torch.int32),
        f"{name}.leak": leak.to(torch.int32),
    }
