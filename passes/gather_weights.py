"""GatherWeights: layers that are called as functions of the network's own tensors become modules."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.node import Argument, Node

from fxsnn.graph import Graph, Transposed
from fxsnn.rewriting import Pass, facts


class GatherWeights(Pass):
    """F.conv2d, F.conv_transpose2d, those of one dimension, F.linear, F.batch_norm, products with a matrix → layers.

    They compute the same. Their weights must be parameters or buffers of the network. A product with a matrix becomes a
    fully connected layer where what it multiplies are rows. The new layer is called like the call.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> from torch.nn import functional as F
        >>> from fxsnn.passes import Canonicalize
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.randn(2, 9))
        ...
        ...     def forward(self, x):
        ...         return F.linear(x.flatten(1), self.weight)
        >>> graph = Canonicalize()(fxsnn.capture(Net())).after
        >>> print(GatherWeights()(graph).after.text(hashes=False))
        name     calls                                              reads    tensors
        -------  -------------------------------------------------  -------  -------
        x        placeholder
        flatten  Flatten(start_dim=1, end_dim=-1)                   x
        linear   Linear(in_features=9, out_features=2, bias=False)  flatten
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph:
            build = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
            if build is None:
                continue
            call = _Call(graph, node)
            layer = build(call) if call.is_whole else None
            if layer is not None:
                node.args = (call.x, *node.args[1:])  # by itself `replace` would keep the first input
                graph.replace(node, layer.eval())


class _Call:
    """A call with the tensors and numbers that it is given, by name.

    Attributes:
        x: what is computed with.
        rows: whether these are rows [N, F].
        of_signals: whether images are signals.
        is_whole: whether all else is known.
    """

    def __init__(self, graph: Graph, node: Node) -> None:
        self.rows = graph.reads_features(node)
        self.of_signals = graph.image_form.rank == 3
        self._graph = graph
        names = _ARGUMENTS.get(node.target, ("input", "other"))
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        self.x: Any = given.pop("input", None)
        self.values = {name: self._value(value) for name, value in given.items()}
        self.is_whole = isinstance(self.x, Node) and not any(isinstance(one, Node) for one in self.values.values())

    def _value(self, argument: Argument) -> Any:
        """The tensor of a parameter or buffer; what else is no node; or the node."""
        if not isinstance(argument, Node) or argument.op != "get_attr":
            return argument
        value = self._graph.held(argument)
        return value if isinstance(value, Tensor) and value.is_floating_point() else argument

    def get(self, name: str, default: Any = None) -> Any:
        """An argument."""
        return self.values.get(name, default)


def _parameter(value: Tensor | None) -> nn.Parameter | None:
    """The very parameter, or a buffer as one."""
    if value is None or isinstance(value, nn.Parameter):
        return value
    return nn.Parameter(value, requires_grad=False)


def _convolution(kind: Any) -> Callable[[_Call], nn.Module | None]:
    def build(call: _Call) -> nn.Module | None:
        weight: Any = call.get("weight")
        sides = 1 if kind in (nn.Conv1d, nn.ConvTranspose1d) else 2
        if not isinstance(weight, Tensor) or weight.dim() != sides + 2:
            return None
        groups = call.get("groups", 1)
        defaults = {"stride": 1, "padding": 0, "dilation": 1}
        outputs, inputs = weight.shape[0], weight.shape[1] * groups
        if kind in Transposed:
            outputs, inputs = inputs, outputs
            defaults["output_padding"] = 0
        options = {name: call.get(name, default) for name, default in defaults.items()}
        layer = kind(
            inputs, outputs, tuple(weight.shape[2:]), groups=groups,
            bias=call.get("bias") is not None, device="meta", **options,
        )  # fmt: skip
        layer.weight, layer.bias = _parameter(weight), _parameter(call.get("bias"))
        return layer

    return build


def _fully_connected(weight: Tensor, bias: Tensor | None) -> nn.Module | None:
    if weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight, layer.bias = _parameter(weight), _parameter(bias)  # type: ignore[assignment]
    return layer


def _linear(call: _Call) -> nn.Module | None:
    weight = call.get("weight")
    return _fully_connected(weight, call.get("bias")) if isinstance(weight, Tensor) else None


def _product(call: _Call) -> nn.Module | None:
    matrix = call.get("other", call.get("mat2"))
    rows = isinstance(matrix, Tensor) and matrix.dim() == 2 and call.rows
    return _fully_connected(matrix.t().contiguous(), None) if rows else None


def _shifted_product(call: _Call) -> nn.Module | None:
    """A bias and rows times a matrix: `torch.addmm`."""
    bias, matrix = call.get("bias"), call.get("other")
    known = isinstance(bias, Tensor) and isinstance(matrix, Tensor) and call.rows
    if not known or (call.get("alpha", 1), call.get("beta", 1)) != (1, 1):
        return None
    return _fully_connected(matrix.t().contiguous(), bias)


def _einsum(call: _Call) -> nn.Module | None:
    """Rows times a matrix, in either order: `"nf,of->no"`."""
    equation, matrix = call.get("equation"), call.get("other")
    if not isinstance(equation, str) or not isinstance(matrix, Tensor) or matrix.dim() != 2 or not call.rows:
        return None
    reads, _, gives = equation.replace(" ", "").partition("->")
    rows, _, weight = reads.partition(",")
    if len({*rows}) != 2 or len(rows) != 2 or len(gives) != 2 or gives[0] != rows[0] or gives[1] in rows:
        return None
    if weight == gives[1] + rows[1]:
        return _fully_connected(matrix, None)
    return _fully_connected(matrix.t().contiguous(), None) if weight == rows[1] + gives[1] else None


def _batch_norm(call: _Call) -> nn.Module | None:
    mean, variance = call.get("running_mean"), call.get("running_var")
    weight, bias = call.get("weight"), call.get("bias")
    if call.get("training", False) or not isinstance(mean, Tensor) or (weight is None) != (bias is None):
        return None
    kind = nn.BatchNorm1d if call.rows or call.of_signals else nn.BatchNorm2d
    norm = kind(len(mean), call.get("eps", 1e-5), affine=weight is not None, device="meta")
    norm.running_mean, norm.running_var = mean, variance
    norm.weight, norm.bias = _parameter(weight), _parameter(bias)  # type: ignore[assignment]
    norm.num_batches_tracked = None
    return norm


_FUNCTIONS: dict[Any, Callable[[_Call], nn.Module | None]] = {
    F.conv1d: _convolution(nn.Conv1d),
    F.conv2d: _convolution(nn.Conv2d),
    F.conv_transpose1d: _convolution(nn.ConvTranspose1d),
    F.conv_transpose2d: _convolution(nn.ConvTranspose2d),
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    operator.matmul: _product,
    torch.matmul: _product,
    torch.mm: _product,
    "matmul": _product,
    "mm": _product,
    torch.einsum: _einsum,
    torch.addmm: _shifted_product,
    "addmm": _shifted_product,
}
_CONVOLVED = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    torch.einsum: ("equation", "input", "other"),
    torch.addmm: ("bias", "input", "other"),
    "addmm": ("bias", "input", "other"),
    F.conv1d: _CONVOLVED,
    F.conv2d: _CONVOLVED,
    F.conv_transpose1d: _TRANSPOSED,
    F.conv_transpose2d: _TRANSPOSED,
    F.linear: ("input", "weight", "bias"),
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
