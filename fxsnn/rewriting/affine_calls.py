"""Calls that scale and shift each channel, and what they do; where it can go: `affine_ways.py`."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.node import Argument, Node

from fxsnn.graph import Graph, Norm, is_torchvision_normalize
from fxsnn.layers import Affine, Lift, Lower, affine_of_norm
from fxsnn.numerics import all_finite

_MAPS = (nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, Lift)
_SIGNALS = (nn.Conv1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, Lower)


@dataclass(frozen=True)
class _Line:
    """`x * scale + shift` of the one tensor that is no constant; each part broadcasts against it."""

    scale: Tensor
    shift: Tensor
    constant: bool = False

    def __neg__(self) -> _Line:
        return _Line(-self.scale, -self.shift, self.constant)

    def __add__(self, other: _Line) -> _Line:
        return _Line(self.scale + other.scale, self.shift + other.shift, self.constant and other.constant)

    def times(self, factor: Tensor) -> _Line:
        return _Line(self.scale * factor, self.shift * factor, self.constant)


class _NotAffineError(Exception):
    pass


def source_of_affine(graph: Graph, node: Node) -> Node | None:
    """The one tensor that a call reads beside constants of the network; `None`: there is no such."""
    read = [one for one in node.all_input_nodes if one.op != "get_attr"]
    return read[0] if len(read) == 1 and node.op in ("call_module", "call_function", "call_method") else None


def affine_of(graph: Graph, node: Node) -> Affine | None:
    """What a call does to each channel of the one tensor that it reads, if that is a scale and a shift.

    Not of layers with weights. `None`, too, where a constant differs between images or pixels, or is not finite.
    """
    if source_of_affine(graph, node) is None:
        return None
    module: Any = graph[node] if node.op == "call_module" else None
    if isinstance(module, Affine):
        return module
    if isinstance(module, Norm):
        tracked = module.running_mean is not None and not module.training
        return affine_of_norm(module) if tracked and _are_finite(*module.buffers(), *module.parameters()) else None
    try:
        line = _line(graph, node, module)
    except (_NotAffineError, RuntimeError, TypeError):  # shapes or arguments that do not go together
        return None
    affine = _by_channel(line, rank_behind(graph, node))
    return None if affine is None else affine.to(graph.device)


def rank_behind(graph: Graph, node: Node) -> int | None:
    """How many dimensions the tensor has that an elementwise call reads and gives; `None`: not known."""
    if graph.reads_features(node):
        return 2 if all(_reads_rows(graph, one) for one in graph.ancestors(node)) else None
    before: Any = source_of_affine(graph, node)
    while before is not None and before.op != "placeholder":
        if (rank := _rank_of_layer(graph, before)) is not None:
            return rank
        before = source_of_affine(graph, before)
    if graph.image_form.rank is not None or graph.image_size is not None:
        return graph.image_form.rank or 1 + len(graph.image_size or ())
    behind = graph.sole_user(node)
    while behind is not None and behind.op != "output":
        if (rank := _rank_of_layer(graph, behind)) is not None:
            return rank
        behind = graph.sole_user(behind) if source_of_affine(graph, behind) and not _reshapes(graph, behind) else None
    return None


def _rank_of_layer(graph: Graph, node: Node) -> int | None:
    """How many dimensions the tensors have that a layer reads and gives; `None`: it is no such layer."""
    ranks = {2: (nn.Linear,), 3: _SIGNALS, 4: _MAPS}
    return next((rank for rank, kinds in ranks.items() if graph.is_a(node, *kinds)), None)


def _reads_rows(graph: Graph, node: Node) -> bool:
    """Not of a fully connected layer that works along the last axis of maps."""
    if not graph.is_a(node, nn.Linear) or graph.reads_features(node):
        return True
    maps = any(graph.is_a(before, *_MAPS, *_SIGNALS) for before in graph.ancestors(node))
    return not maps and len(graph.image_size or (1,)) == 1


def _reshapes(graph: Graph, node: Node) -> bool:
    return node.op == "call_module" and not graph.is_a(node, Affine, *Norm)


def _line(graph: Graph, node: Node, module: Any) -> _Line:
    """What a call does, read off its arguments."""
    if module is not None:
        if not is_torchvision_normalize(type(module)):
            raise _NotAffineError
        return _normalized(_variable(), module.mean, module.std)
    function = _function(node)
    if function is None:
        raise _NotAffineError

    def known(value: Argument) -> Any:
        if not isinstance(value, Node):
            return value
        return _constant(graph.held(value)) if value.op == "get_attr" else _variable()

    given = inspect.signature(function).bind(
        *(known(one) for one in node.args), **{name: known(one) for name, one in node.kwargs.items()}
    )
    line: _Line = function(*given.args, **given.kwargs)
    if line.constant:
        raise _NotAffineError
    return line


def _function(node: Node) -> Callable[..., _Line] | None:
    if node.op not in ("call_function", "call_method"):
        return None
    if getattr(node.target, "__name__", "") == "normalize" and _is_torchvision(node.target):
        return _normalized
    return _FUNCTIONS.get(node.target if node.op == "call_function" else str(node.target))


def is_arithmetic(node: Node) -> bool:
    """Whether a call is one that scales and shifts channels, with the right constants."""
    return _function(node) is not None


def _variable() -> _Line:
    return _Line(torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))


def _constant(value: Any) -> _Line:
    if isinstance(value, _Line):
        return value
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known and not (isinstance(value, Tensor) and value.dtype != torch.bool and not value.is_complex()):
        raise _NotAffineError
    exact = value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    if not _are_finite(exact):
        raise _NotAffineError
    return _Line(torch.zeros((), dtype=torch.float64, device=exact.device), exact, constant=True)


def _are_finite(*tensors: Tensor) -> bool:
    return all(one.is_meta or not one.is_floating_point() or all_finite(one.detach()) for one in tensors)


def _factor(value: Any) -> Tensor:
    """A constant that something is multiplied with."""
    line = _constant(value)
    if not line.constant:
        raise _NotAffineError
    return line.shift


# The functions, with the names that PyTorch has for their arguments ---------------------------------------------------


def _add(input: Any, other: Any, alpha: Any = 1) -> _Line:
    return _constant(input) + _constant(other).times(_factor(alpha))


def _sub(input: Any, other: Any, alpha: Any = 1) -> _Line:
    return _constant(input) + -_constant(other).times(_factor(alpha))


def _rsub(input: Any, other: Any, alpha: Any = 1) -> _Line:
    return _sub(other, input, alpha)


def _mul(input: Any, other: Any) -> _Line:
    one, two = _constant(input), _constant(other)
    return one.times(_factor(two)) if two.constant else two.times(_factor(one))


def _div(input: Any, other: Any, rounding_mode: Any = None) -> _Line:
    factor = _factor(other)
    if rounding_mode is not None or (not factor.is_meta and bool((factor == 0).any())):
        raise _NotAffineError
    line = _constant(input)
    return _Line(line.scale / factor, line.shift / factor, line.constant)


def _neg(input: Any) -> _Line:
    return -_constant(input)


def _addcmul(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> _Line:
    return _add(input, _mul(tensor1, tensor2), value)


def _addcdiv(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> _Line:
    return _add(input, _div(tensor1, tensor2), value)


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: Any = False,
    momentum: Any = 0.1,
    eps: Any = 1e-5,
) -> _Line:
    if training is not False:
        raise _NotAffineError

    def each(value: Any) -> Tensor:
        vector = _factor(value)
        return vector.view(-1, 1, 1)  # of maps; of rows and signals the layers say it better

    line = _div(_sub(input, each(running_mean)), (each(running_var) + eps).sqrt())
    line = line if weight is None else _mul(line, each(weight))
    return line if bias is None else _add(line, each(bias))


def _normalized(tensor: Any, mean: Any, std: Any, inplace: Any = False) -> _Line:
    """That of torchvision: a number, or one a channel of maps."""
    center, deviation = (
        torch.as_tensor(value.shift if isinstance(value, _Line) else value, dtype=torch.float64).view(-1, 1, 1)
        for value in (mean, std)
    )
    return _div(_sub(tensor, center), deviation)


_BY_NAME: Mapping[str, Callable[..., _Line]] = {
    "add": _add, "sub": _sub, "subtract": _sub, "rsub": _rsub, "mul": _mul, "multiply": _mul, "div": _div,
    "divide": _div, "true_divide": _div, "neg": _neg, "negative": _neg, "addcmul": _addcmul, "addcdiv": _addcdiv,
}  # fmt: skip
_FUNCTIONS: Mapping[Any, Callable[..., _Line]] = {
    **{getattr(torch, name): function for name, function in _BY_NAME.items()},
    **{name: function for name, function in _BY_NAME.items() if hasattr(Tensor, name)},
    operator.add: _add,
    operator.sub: _sub,
    operator.mul: _mul,
    operator.truediv: _div,
    operator.neg: _neg,
    F.batch_norm: _batch_norm,
}


def _is_torchvision(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("torchvision.transforms.")


def _by_channel(line: _Line, rank: int | None) -> Affine | None:
    """The scale and shift of each channel; `None` where they differ between other things, or that cannot be known."""
    scale, shift = torch.broadcast_tensors(line.scale.to(line.shift.device), line.shift)
    if scale.numel() == 1:
        return Affine(scale.reshape(1), shift.reshape(1))
    rank = rank or max(4, scale.dim())  # tensors of 3 and 4 dimensions are for maps
    if scale.dim() > rank or (scale.dim() == rank and len(scale) > 1):
        return None
    parts = []
    for part in (scale, shift):
        channels = part.shape[1 - rank] if part.dim() >= rank - 1 else 1
        part = part.reshape(channels, -1)
        if part.shape[1] > 1 and (part.is_meta or not torch.equal(part, part[:, :1].expand_as(part))):
            return None
        parts.append(part[:, 0])
    return Affine(*parts)
