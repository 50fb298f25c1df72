"""Calls that write into what they are given.

A program drops calls whose value nothing reads. `x.add_(1)` is such a call, and everything that reads `x` behind it
depends on it: it is to read what the call gives, or the call stays. And who keeps a value, as observers do, would find
it written over: then the call is to give something new.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import Node

_OPERATORS: Mapping[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
}
_SAME_MEMORY = frozenset((
    "alpha_dropout", "chunk", "contiguous", "cpu", "cuda", "detach", "diagonal", "double", "dropout", "dropout1d",
    "dropout2d", "dropout3d", "expand", "expand_as", "feature_alpha_dropout", "flatten", "float", "getattr", "getitem",
    "half", "movedim", "narrow", "permute", "real", "reshape", "reshape_as", "select", "split", "squeeze", "swapaxes",
    "swapdims", "t", "tensor_split", "to", "transpose", "type", "type_as", "unbind", "unflatten", "unfold", "unsqueeze",
    "view", "view_as",
))  # fmt: skip
"""What may give its input in another form, or as it is, without a copy of it."""
_SAME_MEMORY_TOO = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)


def read_what_is_written(program: fx.Graph, root: nn.Module) -> None:
    """Let what reads a tensor behind a call that writes into it read what that call gives: it gives the same tensor.

    Where a tensor is also known in another form, such as a view of it, the call is left alone.

    Args:
        program: changed.
        root: the module with its layers.
    """
    for node, written, behind in _writing(program, root):
        written.replace_all_uses_with(node, delete_user_cb=behind.__contains__)


def write_nothing(program: fx.Graph, root: nn.Module) -> None:
    """Let calls that write into a tensor give a new one, where PyTorch has such a call and nobody reads the old one.

    Args:
        program: changed.
        root: the module with its layers; those that work in place, and are called once, do so no longer.
    """
    for node, _, behind in _writing(program, root):
        if not behind:
            _say_otherwise(node, root)


def writes_through_forms(program: fx.Graph, root: nn.Module) -> Iterator[tuple[Node, Node]]:
    """Calls that write into a part of a tensor, or another form of it, that is read behind them, and that tensor.

    Nothing in the program but their order says that what reads it depends on them.
    """
    places = {node: place for place, node in enumerate(program.nodes)}
    for node in program.nodes:
        written = node.args[0] if node.args else None
        if not writes(node, root) or not isinstance(written, Node):
            continue
        whole = written
        while _is_form(whole, root) and isinstance(whole.args[0], Node):
            whole = whole.args[0]
        forms = [whole, *_forms_of(whole, root)]
        known = len(forms) > 1 and node not in forms
        if known and any(places[user] > places[node] for one in forms for user in one.users):
            yield node, whole


def drop_unread(program: fx.Graph, root: nn.Module) -> None:
    """Take out the calls whose value nothing reads, and that write into nothing.

    Raises:
        RuntimeError: PyTorch finds that the program is not well-formed.
    """
    program.eliminate_dead_code(lambda node: node.is_impure() or writes(node, root))


def _writing(program: fx.Graph, root: nn.Module) -> Iterator[tuple[Node, Node, list[Node]]]:
    """Calls that write into a tensor, the tensors, and what reads these behind them."""
    places = {node: place for place, node in enumerate(program.nodes)}
    for node in program.nodes:
        written = node.args[0] if node.args else None
        if writes(node, root) and isinstance(written, Node) and not _known_otherwise(written, node, places, root):
            yield node, written, [user for user in written.users if places[user] > places[node]]


def _name(node: Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def writes(node: Node, root: nn.Module) -> bool:
    """Whether a call writes into its first argument: it counts, though nothing may read its value."""
    if node.op == "call_module":
        return getattr(root.get_submodule(str(node.target)), "inplace", False) is True
    if node.op not in ("call_function", "call_method"):
        return False
    name = _name(node)
    return (name.endswith("_") and not name.endswith("__")) or node.target in _OPERATORS or _is_told_to(node)


def _is_told_to(node: Node) -> bool:
    """Whether a function is called with `inplace=True`, by name or not."""
    if node.op != "call_function" or node.kwargs.get("inplace") is True:
        return node.op == "call_function"
    return any(one is True for one in node.args) and node.args[_place_of_inplace(node) :][:1] == (True,)


def _place_of_inplace(node: Node) -> int:
    """The place of that option among the arguments; behind them where the function has none."""
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]  # fx types it wider
    except (TypeError, ValueError):
        names = []
    return names.index("inplace") if "inplace" in names else len(node.args)


def _say_otherwise(node: Node, root: nn.Module) -> None:
    """Let a call give a new tensor, if there is a name for that."""
    name = _name(node)[:-1]
    if node.op == "call_module":
        module: Any = root.get_submodule(str(node.target))
        module.inplace = len(node.graph.find_nodes(op="call_module", target=node.target)) > 1
    elif _is_told_to(node):
        place = _place_of_inplace(node)
        node.args = (*node.args[:place], *(False for _ in node.args[place : place + 1]), *node.args[place + 1 :])
        node.kwargs = {option: False if option == "inplace" else value for option, value in node.kwargs.items()}
    elif node.op == "call_method":
        node.target = name if hasattr(torch.Tensor, name) else node.target
    else:
        found = _OPERATORS.get(node.target) or getattr(torch, name, None) or getattr(F, name, None)
        node.target = found or node.target


def _known_otherwise(written: Node, by: Node, places: Mapping[Node, int], root: nn.Module) -> bool:
    """Whether a tensor is a form of another one, or has forms that are read behind the call that writes into it."""
    forms = [one for one in _forms_of(written, root) if places[one] < places[by]]
    return _is_form(written, root) or any(places[user] > places[by] for one in forms for user in one.users)


def _forms_of(node: Node, root: nn.Module) -> Iterator[Node]:
    for user in node.users:
        if _is_form(user, root):
            yield user
            yield from _forms_of(user, root)


def _is_form(node: Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), _SAME_MEMORY_TOO)
    return node.op in ("call_function", "call_method") and _name(node) in _SAME_MEMORY
