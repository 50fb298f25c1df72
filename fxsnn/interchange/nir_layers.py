"""The layers of a spiking network as nodes of NIR, in both directions: written, and their integers read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxsnn.engine.tables import ungrouped
from fxsnn.errors import FileError, Finding, ModelError, OptionError
from fxsnn.file import Rebuilt, pack_codes, unpack_codes
from fxsnn.interchange.nir_padding import even_padding, own_taps
from fxsnn.interchange.nir_tail import WritableTail
from fxsnn.numerics import Codebook

IN_NODES = ("codes", "threshold", "leak", "weights")
"""Arrays of a layer that the nodes of the graph hold; the others are in its metadata."""

_LARGEST_EXACT = 1 << 24

Size = tuple[int, ...]
Described = Mapping[str, Any]


@dataclass(frozen=True)
class Written:
    """A node of NIR, and the size of what it gives, without the batch."""

    name: str
    size: Size


class Writer:
    """Writes node by node. Their alphabetical order is that of execution: files keep no other.

    Args:
        nir: the package.
        found: the network.
        zero: whether membranes are reset to zero.

    Attributes:
        layers: for each layer with integers the names of its nodes, that of its neurons last.
    """

    def __init__(self, nir: Any, found: Rebuilt, *, zero: bool) -> None:
        assert found.image_size is not None
        self._nir = nir
        self._graph = found.graph
        self._sizes = found.sizes
        self._zero = zero
        self._nodes: dict[str, Any] = {}
        self._edges: list[tuple[str, str]] = []
        self._summed: set[str] = set()
        self.layers: dict[str, list[str]] = {}
        size = found.graph.image_form.size_of_layers(found.image_size)
        self._last = self._add("input", nir.Input(input_type={"input": np.array(size)}), size)

    def body(self, nodes: Sequence[Described]) -> None:
        """All that spikes, and the weights of sums."""
        written = {0: self._last, 1: self._last}  # images and what is made of them
        sums = {place: node for node in nodes if node["op"] == "spike_add" for place in node["reads"]}
        for place, node in enumerate(nodes):
            op, name = node["op"], str(node["name"])
            if op == "decode":
                self._last = written[node["reads"]]
                return
            if op == "flatten":
                written[place] = self._flattened(written[node["reads"]])
            elif op.startswith("synapse_"):
                written[place] = self._weighted(node, written[node["reads"]], sums[place], place)
                self.layers[name] = [written[place].name]
                self._summed.add(written[place].name)
            elif op == "spike_add":
                inputs = [self._input(node, written, number) for number in range(len(node["reads"]))]
                written[place] = self._neurons(name, inputs)
            elif op.startswith("spike_"):
                written[place] = self._neurons(name, [self._weighted(node, written[node["reads"]], node, place)])

    def tail(self, tail: WritableTail, arrays: Mapping[str, Tensor], spike_value: Tensor) -> None:
        """What NIR can say behind the last spiking layer, of which a spike is worth `spike_value` [C]."""
        value, size = spike_value.float(), self._last.size
        if tail.flatten:
            self._last = self._flattened(self._last)
        value = value.repeat_interleave(prod(size) // size[0])
        for node in tail.linears:
            self._linear(node, arrays, value)
            value = torch.ones(prod(self._last.size))

    def graph(self, metadata: dict[str, Any]) -> Any:
        """All that was written."""
        size = self._last.size
        self._add("output", self._nir.Output(output_type={"output": np.array(size)}), size, self._last)
        graph = self._nir.NIRGraph(nodes=self._nodes, edges=self._edges)
        graph.metadata = metadata
        return graph

    def _add(self, name: str, node: Any, size: Size, *sources: Written) -> Written:
        safe = "".join(letter if letter.isalnum() else "_" for letter in name)
        written = Written(f"n{len(self._nodes):04d}_{safe}", size)
        self._nodes[written.name] = node
        self._edges += [(source.name, written.name) for source in sources]
        return written

    def _flattened(self, source: Written) -> Written:
        if len(source.size) == 1:
            return source
        # From the back: the same with and without a batch, which readers do not agree on.
        size = np.array(source.size)
        node = self._nir.Flatten(input_type={"input": size}, start_dim=-len(source.size), end_dim=-1)
        return self._add("flatten", node, (prod(source.size),), source)

    def _linear(self, node: Described, arrays: Mapping[str, Tensor], each: Tensor) -> None:
        """What one of each of its inputs is worth, a spike for instance, is multiplied into its weights."""
        weight = arrays[f"{node['name']}.weight"].float() * each
        rows = len(weight)
        bias = arrays[f"{node['name']}.bias"].float() if node["bias"] else torch.zeros(rows)
        affine = self._nir.Affine(weight=weight.numpy(), bias=bias.numpy())
        self._last = self._add(str(node["name"]), affine, (rows,), self._last)

    def _weighted(self, node: Described, source: Written, neurons: Described, place: int) -> Written:
        """Weights or windows, and the leak of the neurons that read them, if it is not with another input."""
        name, layer = str(node["name"]), self._layer(node)
        size = self._sizes[neurons["name"]]
        leak = self._leak(neurons, first=neurons is node or neurons["reads"][0] == place)
        if node["op"].endswith("_linear"):
            affine = self._nir.Affine(weight=_entries(layer).numpy(), bias=leak.numpy())
            return self._add(name, affine, size, self._flattened(source))
        if node["op"] == "spike_avg_pool2d":
            top, _, left, _ = node["padding"]  # poolings pad both sides alike
            if not top and not left:  # readers ignore the padding of a pooling
                kernel, stride = np.array(node["kernel_size"]), np.array(node["stride"])
                pool = self._nir.SumPool2d(kernel_size=kernel, stride=stride, padding=np.array([0, 0]))
                return self._add(name, pool, size, source)
            weight = torch.eye(node["channels"])[:, :, None, None].repeat(1, 1, *node["kernel_size"])
            padding, dilation = (top, left), (1, 1)
        else:
            weight = torch.from_numpy(ungrouped(_entries(layer).numpy(), node["groups"]))  # readers fail on groups
            weight, padding, dilation = even_padding(weight, node)
        conv = self._convolution(weight, leak, source, tuple(node["stride"]), padding, dilation)
        return self._add(name, conv, size, source)

    def _input(self, node: Described, written: Mapping[int, Written], number: int) -> Written:
        """An input of a sum: what has weights, or a layer that multiplies spikes with an integer of each channel."""
        name, source = str(node["name"]), written[node["reads"][number]]
        if source.name in self._summed:
            return source
        weights = _exact(name, self._layer(node).weights[number])
        leak = self._leak(node, first=number == 0)
        if len(source.size) == 1:
            layer = self._nir.Affine(weight=torch.diag(weights).numpy(), bias=leak.numpy())
        else:
            layer = self._convolution(torch.diag(weights)[:, :, None, None], leak, source)
        return self._add(f"{name}_input{number}", layer, source.size, source)

    def _convolution(
        self,
        weight: Tensor,
        bias: Tensor,
        source: Written,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
    ) -> Any:
        return self._nir.Conv2d(
            input_shape=source.size[1:],
            weight=weight.numpy(),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=1,
            bias=bias.numpy(),
        )

    def _neurons(self, name: str, inputs: list[Written]) -> Written:
        layer: Any = self._graph[name]
        size = self._sizes[name]
        whole = _exact(name, layer.threshold, _LARGEST_EXACT // 2)
        threshold = whole.view(-1, *[1] * (len(size) - 1)).expand(size).contiguous()
        if self._zero and layer.input_magnitude is not None:
            threshold = threshold - 0.5
        kind = self._nir.IF
        options = {"v_reset": np.zeros(size, np.float32)} if "v_reset" in field_names(kind) else {}
        neurons = kind(r=np.ones(size, np.float32), v_threshold=threshold.numpy(), **options)
        written = self._add(f"{name}_neurons", neurons, size, *inputs)
        self.layers[name] = [*(one.name for one in inputs), written.name]
        return written

    def _layer(self, node: Described) -> Any:
        return self._graph[str(node["name"])]

    def _leak(self, neurons: Described, *, first: bool) -> Tensor:
        """The leak of neurons, at one of their inputs; zeros at the others."""
        leak = _exact(str(neurons["name"]), self._layer(neurons).leak)
        return leak if first else torch.zeros_like(leak)


def kept_arrays(arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arrays of a file that the nodes of a graph do not hold, as those of numpy.

    Codes that are multiplied with a gain of 0 are among them.
    """
    lost = {
        f"{name.rpartition('.')[0]}.codes" for name, one in arrays.items() if name.endswith(".gain") and not one.all()
    }
    return {
        name: one.numpy() for name, one in arrays.items() if name in lost or name.rpartition(".")[2] not in IN_NODES
    }


def integers_of(
    node: Described, nodes: Sequence[Any], document: Mapping[str, Any], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Codes, weights, thresholds and leaks of a layer, from the graph's nodes.

    Args:
        node: the layer, as files describe it.
        nodes: those of the graph that `Writer.layers` names.
        document: that of files.
        kept: what `kept_arrays` gave.

    Raises:
        FileError: they are no integers, or none of such a layer.
    """
    name, op = str(node["name"]), node["op"]
    if op == "spike_avg_pool2d":
        return {}
    if op.startswith("synapse_"):
        return {f"{name}.codes": _codes(node, nodes[0], kept)}
    first = nodes[0]
    maps = np.array(first.weight).ndim > 2
    threshold = torch.from_numpy(np.array(nodes[-1].v_threshold)).double().flatten(1 if maps else 0)
    if maps:
        if not torch.equal(threshold, threshold[:, :1].expand_as(threshold)):
            raise FileError(f"{name}: thresholds differ within a channel")
        threshold = threshold[:, 0]
    if document["dynamics"]["reset"] == "zero" and not _is_analog(node, document["nodes"]):
        threshold = threshold + 0.5
    leak = torch.from_numpy(np.array(first.bias)).double()
    found = {"threshold": _whole(name, "thresholds", threshold), "leak": _whole(name, "biases", leak)}
    if op == "spike_add":
        rows = [_weights_of(node, document["nodes"], number, one) for number, one in enumerate(nodes[:-1])]
        found["weights"] = torch.stack(rows)
    else:
        found["codes"] = _codes(node, first, kept)
    return {f"{name}.{part}": one for part, one in found.items()}


def _weights_of(node: Described, nodes: Sequence[Described], number: int, layer: Any) -> Tensor:
    """The integers of each channel that an input of a sum is multiplied with."""
    if nodes[node["reads"][number]]["op"].startswith("synapse_"):
        return torch.ones(node["channels"], dtype=torch.int32)
    weight = torch.from_numpy(np.array(layer.weight)).double().flatten(1)
    return _whole(str(node["name"]), "weights", weight.diagonal())


def _codes(node: Described, layer: Any, kept: Mapping[str, Tensor]) -> Tensor:
    """Packed codes of a layer with weights; those that a gain of 0 has lost are the ones that were kept."""
    name, codebook = str(node["name"]), _codebook(node, kept)
    weight = torch.from_numpy(np.array(layer.weight)).double()
    if node["op"].endswith("_conv2d"):
        groups, outputs, inputs = node["groups"], node["out_channels"], node["in_channels"]
        weight = own_taps(weight, node)
        blocks = weight.view(groups, outputs // groups, groups, inputs // groups, *node["kernel_size"])
        parts = torch.cat([blocks[group, :, group] for group in range(groups)])
        if not np.array_equal(ungrouped(parts.numpy(), groups), weight.numpy()):
            raise FileError(f"{name}: weights between its {groups} groups are not zero")
        weight = parts
    gain = kept[f"{name}.gain"].double() if "gain" not in node else torch.tensor([float(node["gain"])])
    gain = gain.view(-1, *[1] * (weight.dim() - 1))
    codes = weight / gain
    if not bool(gain.all()):
        before = unpack_codes(kept[f"{name}.codes"], codebook, tuple(weight.shape))
        codes = torch.where(gain == 0, before.double(), codes)
    whole = _whole(name, "weights over the gain", codes)
    if not bool(torch.isin(whole, whole.new_tensor(codebook.levels)).all()):
        told = node.get("gain", "their gains")
        raise FileError(f"{name}: its weights are not {codebook.bits}-bit codes ({codebook}) times {told}")
    return pack_codes(whole.to(torch.int8), codebook)


def _codebook(node: Described, kept: Mapping[str, Tensor]) -> Codebook:
    """The codebook of a layer; what is wrong with it, reading the file will say."""
    levels = kept.get(f"{node['name']}.levels")
    try:
        found = None if levels is None else Codebook(tuple(levels.tolist()))
    except OptionError:
        found = None
    return found or Codebook.symmetric(node["bits"])


def _whole(name: str, what: str, values: Tensor) -> Tensor:
    if not torch.equal(values, values.round()) or bool(values.abs().max() >= 1 << 31):
        raise FileError(f"{name}: its {what} are not integers")
    return values.to(torch.int32)


def _is_analog(node: Described, nodes: Sequence[Described]) -> bool:
    """Whether a layer reads images that are not rounded, itself or by what has weights in front of it."""
    if nodes[1]["bits"] is not None:
        return False
    places = node["reads"] if isinstance(node["reads"], list) else [node["reads"]]
    before = (nodes[place] for place in places if nodes[place]["op"] in ("flatten", "synapse_conv2d", "synapse_linear"))
    return 1 in places or any(_is_analog(one, nodes) for one in before)


def _entries(layer: Any) -> Tensor:
    """Codebook entries, code times gain; at most 2^24 by the registers of any target."""
    gain = layer.gain.view(-1, *[1] * (layer.codes.dim() - 1)) if isinstance(layer.gain, Tensor) else layer.gain
    entries: Tensor = layer.codes.float() * gain
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


def field_names(kind: type) -> set[str]:
    """Of a dataclass."""
    return {one.name for one in fields(kind)}
