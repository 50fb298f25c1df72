"""Canonicalize: one way to say each thing, so that the later passes know only that one."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.node import Argument, Node

from fxsnn.errors import ModelError
from fxsnn.graph import (
    Activation,
    Graph,
    Transposed,
    in_front_of_layers,
    value_sizes,
    view_sizes,
    write_nothing,
    writes_through_forms,
)
from fxsnn.layers import (
    HAND_WRITTEN,
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    SpikeReLU,
    conv_like,
    linear_like,
    norm_like,
)
from fxsnn.rewriting import Pass, facts, fix_size

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
_DROPPED = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
)  # fmt: skip


class Canonicalize(Pass):
    """Functional forms become modules, one module per call site; dropout and identity disappear.

    ReLU, average pooling (adaptive too), max pooling, flatten / view / reshape, softmax and log-softmax are rewritten
    whether called as a function, as a tensor's method or as a module; a `SyncBatchNorm` becomes a plain one; layers
    written by hand as `SpikeConv2d` and the like become their PyTorch namesakes; what writes into a tensor gives a new
    one. What the pass does not know it leaves alone; `CheckConvRelu` speaks about that.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> graph = fxsnn.capture(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.ReLU(inplace=True)))
        >>> print(Canonicalize()(graph).after.text(hashes=False))
        name   calls                                            reads  tensors
        -----  -----------------------------------------------  -----  -------
        input  placeholder
        0      Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))  input
        2      ReLU()                                           0
    """

    gives = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place.

        Raises:
            ModelError: a call writes into a part of a tensor that others read.
        """
        for node in graph.nodes(*_DROPPED):  # they give the very tensor, which the next one may write into
            graph.bypass(node)
        _require_whole_writes(graph)
        write_nothing(graph.module.graph, graph.module)
        for node in reversed(graph.nodes()):  # of several calls of one module, the first keeps its name
            if node.op in ("call_function", "call_method"):
                if _is_inactive_dropout(node) or _is_idle_contiguous(graph, node):
                    graph.bypass(node)
                elif (module := _module_for(node)) is not None and not _splits_rows(graph, node):
                    graph.replace(node, module)
            elif graph.is_a(node, *HAND_WRITTEN):
                graph.replace(node, _plain(graph[node]))
            elif graph.is_a(node, nn.RReLU):
                graph.replace(node, _mean_slope(graph[node]).eval())
            elif graph.is_a(node, nn.ReLU) and graph[node].inplace:
                graph.replace(node, nn.ReLU())
            elif graph.is_a(node, nn.Flatten) and _joins_all(graph[node].start_dim, graph[node].end_dim):
                graph.replace(node, nn.Flatten().eval())
        kinds = (nn.ReLU, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.Flatten, nn.Softmax, nn.LogSoftmax)
        for node in reversed(graph.nodes(*kinds, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.MaxPool1d)):
            if len(graph.calls(str(node.target))) > 1:
                graph.replace(node, copy.copy(graph[node]))
        _know_output_sizes(graph)
        for node in graph.nodes(nn.SyncBatchNorm):  # what flattens is known by now
            graph.replace(node, _batch_norm(graph, node))


def _require_whole_writes(graph: Graph) -> None:
    """Refuse calls in front of the last layers that write into a part of a tensor that others read.

    Raises:
        ModelError: there are such calls.
    """
    inner = in_front_of_layers(graph.module)
    found = [
        graph.finding(
            node,
            "it writes into a part of a tensor, or into a view of it, that is read elsewhere",
            "Compute a new tensor of the parts (torch.cat), or of all of it (torch.where), and write into none",
        )
        for node, whole in writes_through_forms(graph.module.graph, graph.module)
        if whole in inner
    ]
    if found:
        raise ModelError(found)


def _plain(layer: nn.Module) -> nn.Module:
    """The PyTorch layer that a layer written by hand stands for."""
    if isinstance(layer, SpikeConv2d):
        return conv_like(nn.Conv2d, layer)
    if isinstance(layer, SpikeLinear):
        return linear_like(nn.Linear, layer)
    if isinstance(layer, SpikeAvgPool2d):
        return nn.AvgPool2d(
            layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad,
            layer.divisor_override,
        ).eval()  # fmt: skip
    assert isinstance(layer, SpikeReLU)
    return nn.ReLU().eval()


def _mean_slope(layer: Any) -> nn.LeakyReLU:
    """What a LeakyReLU of random slopes is in evaluation mode."""
    return nn.LeakyReLU((layer.lower + layer.upper) / 2)


def _batch_norm(graph: Graph, node: Node) -> nn.Module:
    """The batch norm that one synchronised between processes is in evaluation mode."""
    norm: Any = graph[node]
    flat = graph.reads_features(node) or any(
        graph.is_a(before, nn.Conv1d, nn.ConvTranspose1d) for before in graph.ancestors(node)
    )
    return (norm_like(nn.BatchNorm1d, norm) if flat else norm_like(nn.BatchNorm2d, norm)).eval()


def _know_output_sizes(graph: Graph) -> None:
    """Let transposed convolutions that are told the size of their output have what that comes to as output_padding.

    Those of the tail go on being told: it may be for images of any size.
    """
    inner = in_front_of_layers(graph.module)
    told = [node for node in graph.nodes(*Transposed) if node in inner and (len(node.args) > 1 or node.kwargs)]
    sizes = value_sizes(graph) if told else {}
    for node in told:
        given: Any = node.args[0] if node.args else node.kwargs["input"]
        if node in sizes and given in sizes:
            layer: Any = copy.copy(graph[node])
            sides = zip(sizes[given][1:], sizes[node][1:], layer.kernel_size, layer.stride, layer.padding,
                        layer.dilation, strict=True)  # fmt: skip
            layer.output_padding = tuple(
                behind - ((side - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
                for side, behind, kernel, stride, padding, dilation in sides
            )
            node.args, node.kwargs = (given,), {}
            graph.replace(node, layer)
            fix_size(graph)


def _is_idle_contiguous(graph: Graph, node: Node) -> bool:
    """A `contiguous()` of the images or of a layer's output: nothing was transposed, and no view depends on it."""
    if (node.op, node.target) != ("call_method", "contiguous"):
        return False
    plain = node.all_input_nodes[0].op == "placeholder" or _is_behind_layer(graph, node)
    return plain and not any(user.target == "view" for user in node.users)


def _is_behind_layer(graph: Graph, node: Node) -> bool:
    source = node.all_input_nodes[0]
    return graph.is_a(source, nn.Module) or isinstance(_module_for(source), nn.ReLU | nn.AvgPool1d | nn.AvgPool2d)


def _bound(node: Node, *names: str, **defaults: Any) -> dict[str, Any]:
    """Arguments of a call by name, without the first, which is the tensor."""
    given = dict(zip(names, node.args[1:], strict=False))
    return {**defaults, **given, **{name: value for name, value in node.kwargs.items() if name in names}}


def _relu(node: Node) -> nn.Module:
    return nn.ReLU()


def _leaky_relu(node: Node) -> nn.Module | None:
    options = _bound(node, "negative_slope")
    return None if _has_node(options) else nn.LeakyReLU(**options)


def _rrelu(node: Node) -> nn.Module | None:
    options = _bound(node, "lower", "upper", "training", lower=1 / 8, upper=1 / 3, training=False)
    draws = _has_node(options) or options["training"] is not False
    return None if draws else nn.LeakyReLU((options["lower"] + options["upper"]) / 2)


def _avg_pool(node: Node) -> nn.Module | None:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    options = _bound(node, *names)
    return None if _has_node(options) else nn.AvgPool2d(**options)


def _adaptive_avg_pool(node: Node) -> nn.Module | None:
    options = _bound(node, "output_size")
    return None if _has_node(options) else nn.AdaptiveAvgPool2d(**options)


def _avg_pool1d(node: Node) -> nn.Module | None:
    options = _bound(node, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
    return None if _has_node(options) else nn.AvgPool1d(**options)


def _adaptive_avg_pool1d(node: Node) -> nn.Module | None:
    options = _bound(node, "output_size")
    return None if _has_node(options) else nn.AdaptiveAvgPool1d(**options)


def _max_pool(kind: type[nn.MaxPool1d] | type[nn.MaxPool2d]) -> Callable[[Node], nn.Module | None]:
    def build(node: Node) -> nn.Module | None:
        options = _bound(node, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        return None if _has_node(options) else kind(**options)

    return build


def _softmax(kind: type[nn.Softmax] | type[nn.LogSoftmax]) -> Callable[[Node], nn.Module | None]:
    def build(node: Node) -> nn.Module | None:
        options = _bound(node, "dim")
        if node.kwargs.get("dtype") is not None or len(node.args) > 2 or _has_node(options):
            return None  # a type cannot be said by a module
        return kind(**options)

    return build


def _flatten(node: Node) -> nn.Module | None:
    options = _bound(node, "start_dim", "end_dim", start_dim=0, end_dim=-1)
    return nn.Flatten() if _joins_all(options["start_dim"], options["end_dim"]) else None


def _joins_all(start: Any, end: Any) -> bool:
    """Whether a flatten keeps the batch and joins all else; images and maps have the dimensions 0 to 3."""
    return start == 1 and end in (-1, 3)


def _view(node: Node) -> nn.Module | None:
    """A view that keeps the batch and joins all else: any view to two dimensions whose first is the batch size."""
    sizes = view_sizes(node)
    if len(sizes) != 2:
        return None
    batch, rest = sizes
    keeps_batch = _is_batch_size(batch) or (batch == -1 and isinstance(rest, int) and rest > 0)
    return nn.Flatten() if keeps_batch else None


def _splits_rows(graph: Graph, node: Node) -> bool:
    """A view to rows of K numbers in whose place no flatten can stand: it cuts rows, or its reader reads other ones."""
    if node.target not in _VIEWS or view_sizes(node)[0] != -1:
        return False
    reader = graph.sole_user(node)  # what stands behind is canonical by now
    while reader is not None and graph.is_a(reader, *Activation):
        reader = graph.sole_user(reader)
    if reader is not None and graph.is_a(reader, nn.Linear):
        return bool(graph[reader].in_features != view_sizes(node)[1])
    return graph.reads_features(node) or not _is_behind_layer(graph, node)


def _is_batch_size(value: Argument) -> bool:
    """Whether `value` is `x.size(0)`, `x.shape[0]` or `x.size()[0]` of some tensor."""
    if not isinstance(value, Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return bool(value.args[1:] == (0,) or value.kwargs.get("dim") == 0)
    if value.op == "call_function" and value.target is operator.getitem and value.args[1] == 0:
        shape = value.args[0]
        if not isinstance(shape, Node):
            return False
        if shape.op == "call_method":
            return shape.target == "size" and len(shape.args) == 1
        return shape.target is getattr and str(shape.args[1]) == "shape"
    return False


def _has_node(options: dict[str, Any]) -> bool:
    return any(isinstance(value, Node) for value in options.values())


def _is_inactive_dropout(node: Node) -> bool:
    """A functional dropout that does nothing in evaluation mode; `F.dropout(x)` without `training=` always acts."""
    if getattr(node.target, "__name__", "") == "stochastic_depth":  # of torchvision, which need not be installed
        return _bound(node, "p", "mode", "training", training=True)["training"] is False
    if node.target not in _DROPOUTS:
        return False
    return _bound(node, "p", "training", "inplace", training=True)["training"] is False


_FUNCTIONS: dict[Any, Callable[[Node], nn.Module | None]] = {
    F.relu: _relu,
    F.relu_: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.leaky_relu: _leaky_relu,
    **dict.fromkeys((F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_), _rrelu),
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_avg_pool,
    F.avg_pool1d: _avg_pool1d,
    F.adaptive_avg_pool1d: _adaptive_avg_pool1d,
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _max_pool(nn.MaxPool1d)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool(nn.MaxPool2d)),
    torch.flatten: _flatten,
    torch.reshape: _view,
    F.softmax: _softmax(nn.Softmax),
    torch.softmax: _softmax(nn.Softmax),
    F.log_softmax: _softmax(nn.LogSoftmax),
    torch.log_softmax: _softmax(nn.LogSoftmax),
}
_METHODS: dict[Any, Callable[[Node], nn.Module | None]] = {
    "relu": _relu,
    "relu_": _relu,
    "flatten": _flatten,
    "view": _view,
    "reshape": _view,
    "softmax": _softmax(nn.Softmax),
    "log_softmax": _softmax(nn.LogSoftmax),
}


_VIEWS = [target for table in (_FUNCTIONS, _METHODS) for target, build in table.items() if build is _view]


def _module_for(node: Node) -> nn.Module | None:
    table = _FUNCTIONS if node.op == "call_function" else _METHODS
    build = table.get(node.target)
    module = build(node) if build is not None else None
    return module.eval() if module is not None else None
