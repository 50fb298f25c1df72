"""CheckConvRelu: every layer in front of the tail is one that can spike, or an error names every offender."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn
from torch.fx.node import Node

from fxsnn.errors import Finding, ModelError
from fxsnn.graph import (
    Activation,
    Graph,
    Norm,
    Pooling,
    Transposed,
    Weighted,
    in_front_of_layers,
    meant_to_spike,
    value_sizes,
    view_sizes,
)
from fxsnn.layers import Add, Affine, ClippedReLU, Concat, FixedSize, FlattenMaps, Lift, Lower, QuantizedInput, Wiring
from fxsnn.numerics import all_finite
from fxsnn.rewriting import (
    OF_A_SIZE,
    NotRewritten,
    Pass,
    about_affine,
    about_constant,
    about_nothing_to_convert,
    about_unsupported,
    facts,
    fixed_window,
    has_open_window,
    is_on_images,
    is_padding,
    padding_of,
    reader_of,
    why_apart,
)

_KNOWN = (*Weighted, *Norm, *Activation, Add, Wiring, *Pooling, nn.Flatten, QuantizedInput, FixedSize)
_KEEP_CHANNELS = (*Activation, Affine, *Pooling, nn.AdaptiveAvgPool2d, QuantizedInput, FixedSize, Lift)
_PAST = "Only the last layer that spikes is decoded: let what stands behind it read that one alone"
_BESIDE = "Let it follow the other layers, or leave out its activation"


class CheckConvRelu(Pass):
    """conv → [batch norm] → ReLU, and hidden fully connected → [batch norm] → ReLU, with average pooling between.

    The pass reads a canonical graph and changes nothing. What lies behind the body, the final layers with weights and
    all else there, is the tail and stays analog.
    """

    needs = facts("canonical")
    gives = facts("convertible")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Raise a ModelError with all findings, or leave `graph` as it is."""
        findings = self.findings(graph)
        if findings:
            raise ModelError(findings)

    def findings(self, graph: Graph) -> list[Finding]:
        """Everything about the network that stands in the way of its conversion, chip limits aside."""
        found = [*_about_weights(graph), *_about_inputs(graph)]
        placeholders = [node for node in graph if node.op == "placeholder"]
        found += [
            graph.finding(extra, "it is a second input", "Give the network one input, the images")
            for extra in placeholders[1:]
        ]
        meant = meant_to_spike(graph.module)
        constants = [node for node in graph if node.op == "get_attr"]
        early = meant.difference(placeholders, constants, sorted(meant)[-1:])
        for node in graph:
            if node in meant:
                found.extend(_about_body(graph, node))
            else:
                found.extend(_about_shortcuts(graph, node, early) or _about_branch(graph, node, meant))
        if not graph.body(*Weighted) and not found:
            found.extend(about_nothing_to_convert(graph))
        return found


def _about_weights(graph: Graph) -> Iterator[Finding]:
    body = set(graph.body())
    for name, tensor in [*graph.module.named_parameters(), *graph.module.named_buffers()]:
        if not tensor.is_meta and not all_finite(tensor):
            count = int((~torch.isfinite(tensor)).sum())
            layer, _, attribute = name.rpartition(".")
            node = next(iter(graph.calls(layer)), None)
            yield Finding(
                layer or name,
                f"its {attribute} has values that are NaN or infinite ({count})",
                "Load weights from a training that did not diverge",
                graph.source(node) if node is not None else "",
            )
    for name in sorted(graph.shared()):
        calls = graph.calls(name)
        if body.intersection(calls) and any(True for _ in graph[name].parameters()):
            places = ", ".join(dict.fromkeys(filter(None, (graph.source(node) for node in calls))))
            yield Finding(
                name,
                f"its weights are used {len(calls)} times in one forward",
                "Run SeparateCalls first: on the chip each call has its own cores and its own threshold",
                places,
            )


def _about_inputs(graph: Graph) -> Iterator[Finding]:
    """Layers that cannot read what the layer before them gives, whatever the size of the images.

    Along the chain, up to the first node that may do anything else to maps or rows.
    """
    channels: int | None = None  # of maps
    features: int | None = None  # of rows; `None` for all numbers of a map
    rows = graph.image_form.rank == 2
    for before, node in itertools.pairwise(graph):
        if node.all_input_nodes != [before]:
            return
        module: Any = graph[node] if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d) and not rows:
            if channels not in (None, module.in_channels):
                yield _reads(graph, node, f"{module.in_channels} channels", f"{channels}")
            channels = module.out_channels
        elif isinstance(module, nn.Linear) and rows:
            if features not in (None, module.in_features):
                yield _reads(graph, node, f"{module.in_features} features", f"{features}")
            elif features is None and channels and module.in_features % channels:
                given = f"maps of {channels} channels, whose size is a multiple of {channels}"
                yield _reads(graph, node, f"{module.in_features} features", given)
            features = module.out_features
        elif isinstance(module, nn.BatchNorm1d if rows else nn.BatchNorm2d):
            expected = features if rows else channels
            if expected not in (None, module.num_features):
                yield _reads(graph, node, f"{module.num_features} channels", f"{expected}")
        elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            rows = True
        elif node.target in ("view", "reshape", torch.reshape) and len(sizes := view_sizes(node)) == 2:
            rows, features = True, sizes[1] if isinstance(sizes[1], int) and sizes[1] > 0 else None
        elif not isinstance(module, _KEEP_CHANNELS):
            return


def _reads(graph: Graph, node: Node, reads: str, given: str) -> Finding:
    return graph.finding(node, f"it reads {reads} and is given {given}", "Give it as many inputs as it is to read")


def _about_body(graph: Graph, node: Node) -> Iterator[Finding]:
    if graph.spikes(node) or node.op == "placeholder":
        return
    if graph.is_a(node, *Weighted):
        yield from _about_layer(graph, node)
    elif graph.is_a(node, *Norm):
        yield from _about_norm(graph, node)
    elif graph.is_a(node, *Activation):
        yield from _about_relu(graph, node)
    elif graph.is_a(node, Add):
        yield from _about_sum(graph, node)
    elif graph.is_a(node, Concat):
        yield from _about_concatenation(graph, node)
    elif graph.is_a(node, nn.AvgPool2d):
        yield from _about_pool(graph, node)
    elif graph.is_a(node, nn.Flatten):
        yield from _about_flatten(graph, node)
    elif is_padding(graph, node) or has_open_window(graph, node):
        yield _about_left(graph, node)
    elif graph.is_a(node, Affine):
        yield from filter(None, [about_affine(graph, node)])
    elif node.op == "get_attr" and all(about_constant(graph, user) for user in node.users):
        return  # its readers are refused
    elif graph.is_a(node, *Transposed):
        yield _about_transposed(graph, node)
    elif not graph.is_a(node, *_KNOWN, Lift, Lower):
        yield from about_unsupported(graph, node)


def _about_layer(graph: Graph, node: Node) -> Iterator[Finding]:
    layer: Any = graph[node]
    kind = "convolution" if isinstance(layer, nn.Conv2d) else "hidden fully connected layer"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        problem = f"its padding_mode is {layer.padding_mode!r}, and the size of its maps is not known"
        yield graph.finding(node, problem, OF_A_SIZE)
    rows = graph.reads_features(node) or has_open_window(graph, node.all_input_nodes[0])  # that is refused itself
    if isinstance(layer, nn.Linear) and not rows:
        yield graph.finding(
            node,
            "it reads a map [N, C, H, W], along its last axis",
            "Put nn.Flatten in front of it: a neuron's threshold belongs to a feature, not to a column of a map",
        )
    behind = graph.sole_user(node)
    if graph.is_a(behind, *Norm) and behind is not None:
        behind = graph.sole_user(behind)
    other = behind is not None and not graph.is_a(behind, *_KNOWN)  # it is refused itself
    if not graph.is_a(behind, *Activation, Add) and not other:
        readers = ", ".join(graph.name(user) for user in sorted(node.users)) or "nothing"
        problem = f"this {kind} has no ReLU of its own behind it; it is read by {readers}"
        remedy = "Put nn.ReLU directly behind it (a batch norm may stand between), and read only the ReLU"
        if behind is not None and (reason := why_apart(graph, node, behind)) is not None:
            problem, remedy = f"{problem}, and is not one layer with it: {reason.problem}", reason.remedy
        yield graph.finding(node, problem, remedy)


def _about_transposed(graph: Graph, node: Node) -> Finding:
    if len(node.args) == 1 and not node.kwargs:
        return graph.finding(node, "it can be rewritten", "Run the passes of the front end (fxsnn.pipeline) first")
    problem = "the size of its output is given in the call, and the size of the map that it reads is not known"
    return graph.finding(node, problem, "Use output_padding instead, or give example=...")


def _about_sum(graph: Graph, node: Node) -> Iterator[Finding]:
    behind = graph.sole_user(node)
    if graph.is_a(behind, *Activation) or (behind is not None and not graph.is_a(behind, *_KNOWN)):
        return
    readers = ", ".join(graph.name(user) for user in sorted(node.users)) or "nothing"
    yield graph.finding(
        node,
        f"this sum has no ReLU of its own behind it; it is read by {readers}",
        "Put nn.ReLU directly behind it, and read only the ReLU",
    )


def _about_concatenation(graph: Graph, node: Node) -> Iterator[Finding]:
    read = node.all_input_nodes
    images = [any(graph.is_a(one, *Activation) for one in (before, *graph.ancestors(before))) for before in read]
    if any(images) and not all(images):
        problem = "it puts the images beside spikes, and a layer reads either numbers or spikes"
        yield graph.finding(node, problem, "Let a convolution and a ReLU read the images first")
    elif any(_is_flattened(graph, before) for before in read):
        problem = "it puts flattened maps behind one another, whose size is not known"
        yield graph.finding(node, problem, "Give example=..., images of the size that the network is for")


def _is_flattened(graph: Graph, node: Node) -> bool:
    """Whether rows are the places of maps, several to a channel, and it is not known how many."""
    while node.all_input_nodes and not graph.is_a(node, nn.Flatten, *Weighted):
        node = node.all_input_nodes[0]
    return graph.is_a(node, nn.Flatten) and not graph.is_a(node, FlattenMaps)


def _about_flatten(graph: Graph, node: Node) -> Iterator[Finding]:
    flatten: Any = graph[node]
    if (flatten.start_dim, flatten.end_dim) != (1, -1):
        yield graph.finding(
            node,
            f"it flattens dimensions {flatten.start_dim} to {flatten.end_dim}",
            "Flatten everything but the batch: nn.Flatten(1)",
        )


def _about_norm(graph: Graph, node: Node) -> Iterator[Finding]:
    norm: Any = graph[node]
    source = node.all_input_nodes[0]
    if norm.running_mean is None:
        yield graph.finding(
            node,
            "this batch norm has no running statistics (track_running_stats=False)",
            "Train with track_running_stats=True",
        )
        return
    if not graph.is_a(source, *Weighted):  # a layer that others read past its norm is refused itself
        yield graph.finding(
            node,
            "this batch norm does not directly follow a convolution or fully connected layer",
            "Put it directly behind the layer it normalises, so that it can be folded in",
        )


def _about_relu(graph: Graph, node: Node) -> Iterator[Finding]:
    source: Any = node.all_input_nodes[0]
    if graph.is_a(source, *Norm):
        source = source.all_input_nodes[0]
    if graph.is_a(source, Lift):
        source = source.all_input_nodes[0]
    on_images = source.op == "placeholder" or (graph.is_a(source, Affine) and is_on_images(graph, source))
    if not on_images and not graph.is_a(source, *_KNOWN):
        return  # what it follows is refused itself
    if not graph.is_a(source, *Weighted, Add, *Pooling):
        yield graph.finding(
            node,
            "this ReLU does not follow a convolution, a fully connected layer or a sum of such",
            "Remove it, or put it directly behind the layer",
        )
    elif graph.is_a(source, *Pooling) and not _levels_only(graph, node):
        yield graph.finding(node, "this ReLU follows a pooling layer", "Put it between the convolution and the pooling")


def _levels_only(graph: Graph, node: Node) -> bool:
    """A ClippedReLU that rounds a pooled activation to levels, as fine-tuning inserts it."""
    module: Any = graph[node]
    return isinstance(module, ClippedReLU) and module.levels is not None


def _about_pool(graph: Graph, node: Node) -> Iterator[Finding]:
    pool: Any = graph[node]
    if pool.ceil_mode:
        yield _about_left(graph, node)
    if pool.divisor_override is not None:
        yield graph.finding(node, f"its divisor_override is {pool.divisor_override}", "Leave divisor_override out")
    padding, window = (
        (side, side) if isinstance(side, int) else tuple(side) for side in (pool.padding, pool.kernel_size)
    )
    if any(2 * side > kernel for side, kernel in zip(padding, window, strict=True)):
        yield graph.finding(
            node, f"its padding {pool.padding} is more than half of its window {pool.kernel_size}", "Pad less"
        )
    if any(padding) and not pool.count_include_pad:
        yield graph.finding(
            node,
            "its padding is not counted (count_include_pad=False), so its windows differ in size",
            "Use count_include_pad=True or no padding, or give example=..., images of the size that the network is for",
        )
    if not any(graph.is_a(before, *Weighted) for before in graph.ancestors(node)):
        yield graph.finding(
            node,
            "it pools the images themselves, which are no spikes",
            "Pool while the images are prepared, or after the first convolution",
        )


def _about_left(graph: Graph, node: Node) -> Finding:
    """What a pass of the front end has left as it was."""
    try:
        if is_padding(graph, node):
            reader_of(graph, node, padding_of(graph, node))
        else:
            fixed_window(graph, node, value_sizes(graph))
    except NotRewritten as reason:
        return graph.finding(node, reason.problem, reason.remedy)
    return graph.finding(node, "it can be rewritten", "Run the passes of the front end (fxsnn.pipeline) first")


def _about_shortcuts(graph: Graph, node: Node, early: Collection[Node]) -> list[Finding]:
    """Only the last layer of the body is decoded; nothing behind it may read what an earlier one does."""
    return [
        graph.finding(node, f"it reads {graph.name(source)}, which will spike, past the layers behind that", _PAST)
        for source in node.all_input_nodes
        if source in early
    ]


def _about_branch(graph: Graph, node: Node, body: set[Node]) -> list[Finding]:
    """A hidden layer beside the body, of the images themselves."""
    if not graph.is_a(node, *Activation) or node not in in_front_of_layers(graph.module):
        return []
    if not any(graph.is_a(one, *Weighted) for one in graph.ancestors(node) - body):
        return []
    return [graph.finding(node, "it stands on a branch beside the layers that will spike", _BESIDE)]
