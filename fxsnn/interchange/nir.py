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

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxsnn.ambient import neutral
from fxsnn.errors import FileError, Finding, FxsnnError, InterchangeWarning, ModelError, OptionError, warn
from fxsnn.file import completed, described, rebuilt, require_schema
from fxsnn.graph import Graph
from fxsnn.interchange.nir_layers import Writer, field_names, integers_of, kept_arrays
from fxsnn.interchange.nir_model import nir_graph, nir_package
from fxsnn.interchange.nir_tail import writable_tail
from fxsnn.layers import Decode, Encode, SpikeAdd, SpikeAnyPool2d, Wiring
from fxsnn.network import SpikingNetwork, require_spiking
from fxsnn.network_arguments import require_image_size
from fxsnn.options import is_one_of, shown
from fxsnn.storage import strict_json

DIFFERENCES = ("refuse", "warn")
_KEY = "fxsnn"
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
    unsaid = _unsaid(snn)
    problems = [*unsaid, *_differences(snn), *([] if tail.linears else _rates(snn)), *tail.left_out]
    if unsaid or (problems and differences == "refuse"):
        raise ModelError(problems)
    if problems:
        told = "; ".join(f"{one.layer}: {one.problem}" for one in problems)
        warn(f"a reader of this NIR graph computes something else: {told}", InterchangeWarning)
    if other := sorted(name for name, tensor in arrays.items() if tensor.dtype == torch.bfloat16):
        raise ModelError([Finding(name, "NIR files hold no bfloat16", "Call snn.float() first") for name in other])
    writer = Writer(nir, found, zero=snn.reset == "zero")
    writer.body(document["nodes"])
    writer.tail(tail, arrays, _last_layer(found.graph)[1].spike_value)
    told = json.dumps({"document": document, "layers": writer.layers})
    return writer.graph({_KEY: told, "arrays": kept_arrays(arrays)})


@neutral()
def nir_input(snn: SpikingNetwork, images: Tensor) -> Tensor:
    """What a graph of `to_nir` reads for these images, at every step: their integers, float32 [N, ...].

    Of a network of frames [T, N, ...], those of each step.

    Args:
        snn: the network.
        images: as for a call of it; where its input is analog (`input_bits=None`) they are given back as they are.

    Raises:
        DataError: these cannot be images for the network.
        OptionError: `snn` is no spiking network.
    """
    require_spiking(snn)
    with torch.no_grad():
        encoded: Tensor = snn.graph[snn.graph.nodes(Encode)[0]](images)
    return encoded if snn.graph.image_form.frames is None else encoded.unflatten(0, (snn.timesteps, -1))


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
        kept = dict(arrays)
        for node in document["nodes"]:
            if node["name"] in layers:
                nodes = [graph.nodes[name] for name in layers[node["name"]]]
                arrays |= integers_of(node, nodes, document, kept)
        found = rebuilt(document, arrays)
        chip, size = completed(found.target), found.image_size
        snn = SpikingNetwork(found.graph, chip, image_size=size, provenance=document["provenance"])
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
        for one in sorted(field_names(type(right)) - {"metadata", "input_type", "output_type", "input_shape"}):
            here, there = (np.asarray(getattr(node, one)) for node in (left, right))
            if not np.array_equal(here, there):
                found.append(f"{name}.{one}")
    return found


def _differences(snn: SpikingNetwork) -> list[Finding]:
    found = []
    if sums := [snn.graph.name(node) for node in snn.graph.nodes(SpikeAdd)]:
        found.append(
            Finding(
                ", ".join(sums),
                "it adds up several inputs, and readers built on nirtorch run it before all of them are there",
                'Pass differences="warn" and have the reader run its nodes in the order of their names (docs/NIR.md)',
            )
        )
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


def _unsaid(snn: SpikingNetwork) -> list[Finding]:
    """What NIR has no node for, whatever the reader is told."""
    remedy = "Save it with snn.save instead; a network without it can be written"
    own_reset = "its neurons have a reset of their own, and graphs of to_nir one for all"
    pools = [snn.graph.finding(node, own_reset, remedy) for node in snn.graph.nodes(SpikeAnyPool2d)]
    return pools + [
        snn.graph.finding(node, f"NIR has no node for a {type(snn.graph[node]).__name__}", remedy)
        for node in snn.graph.nodes(Wiring)
    ]


def _last_layer(graph: Graph) -> tuple[str, Any]:
    """The layer whose spikes are decoded, by name."""
    (node,) = graph.nodes(Decode)[0].all_input_nodes
    return graph.name(node), graph[node]


def _rates(snn: SpikingNetwork) -> list[Finding]:
    """What a spike is worth, where no fully connected layer has it in its weights. (Readers drop NIR's Scale.)"""
    name, layer = _last_layer(snn.graph)
    if isinstance(layer, Wiring) or bool((layer.spike_value == 1).all()):
        return []
    problem = "no fully connected layer reads its spikes: outputs are firing rates, without what a spike is worth"
    remedy = f'Multiply them by the spike_value of {name}, and pass differences="warn"'
    return [Finding(name, problem, remedy)]
