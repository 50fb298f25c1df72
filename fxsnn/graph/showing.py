"""A program as people see it: the names of its calls, a row for each of them, and a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.fx.node import Node

from fxsnn.chip import whole_number
from fxsnn.display import Box, Drawing, draw
from fxsnn.errors import OptionError
from fxsnn.graph.description import KINDS, described, digest_of, in_short, tensors_of
from fxsnn.options import shown

HEADER = ("name", "calls", "reads", "tensors")


def name_of(node: Node) -> str:
    """See `Graph.name`."""
    if node.op in ("call_module", "placeholder"):
        return str(node.target)
    if node.op in ("call_function", "call_method"):
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
        return node.name if str(function) == node.name else f"{node.name} ({function})"
    return node.name


def rows_of(
    nodes: Iterable[Node], module_of: Callable[[Node], nn.Module], *, hashes: bool
) -> list[tuple[str, str, str, str]]:
    """See `Graph.rows`."""
    rows = []
    for node in nodes:
        if node.op == "output":
            continue
        reads = ", ".join(name_of(source) for source in node.all_input_nodes)
        calls, digest = node.op, ""
        if node.op == "call_module":
            module = module_of(node)
            calls = described(module)
            digest = f"#{digest_of(module)}" if hashes and any(True for _ in tensors_of(module)) else ""
        elif node.op in ("call_function", "call_method"):
            rest = [repr(value) for value in (*node.args, *node.kwargs.values()) if not isinstance(value, Node)]
            calls = f"({', '.join(rest)})"
        rows.append((name_of(node), calls, reads, digest))
    return rows


def drawing_of(nodes: Iterable[Node], module_of: Callable[[Node], nn.Module], rows: int) -> Drawing:
    """See `Graph.draw`."""
    places: dict[Node, int] = {}
    boxes: list[Box] = []
    if (whole_number(rows) or 0) < 1:
        raise OptionError(f"rows is {shown(rows)}; allowed are whole numbers from 1")
    for node in nodes:
        module = module_of(node) if node.op == "call_module" else None
        places[node] = len(boxes)
        boxes.append(
            Box(
                name_of(node),
                node.op.replace("_", " ") if module is None else in_short(module),
                name_of(node) if module is None else f"{name_of(node)}: {described(module)}",
                next((kind for kind, classes in KINDS if isinstance(module, classes)), "other"),
                tuple(places[source] for source in node.all_input_nodes),
            )
        )
    return draw(boxes, rows)
