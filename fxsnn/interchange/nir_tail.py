"""The part of a tail that NIR can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxsnn.errors import Finding


@dataclass(frozen=True)
class WritableTail:
    """The part of the tail that NIR can say: a flatten and fully connected layers, one behind the other.

    Attributes:
        flatten: whether it begins with one.
        linears: the nodes of the fully connected layers; the first reads the spikes.
        left_out: what NIR cannot say.
    """

    flatten: bool
    linears: tuple[Mapping[str, Any], ...]
    left_out: tuple[Finding, ...]


def writable_tail(document: Mapping[str, Any], *, rows: bool) -> WritableTail:
    """What can be said of a tail, and what not.

    Args:
        document: that of files.
        rows: the activations are rows, which need no flatten.
    """
    nodes = document["nodes"]
    place = [node["op"] for node in nodes].index("decode")

    def follows(op: str) -> bool:
        return bool(nodes[place + 1]["op"] == op and nodes[place + 1]["reads"] == place)

    flatten, linears = follows("flatten"), list[Mapping[str, Any]]()
    place += flatten
    while (flatten or rows) and follows("linear"):
        place += 1
        linears.append(nodes[place])
    remedy = 'Apply it to what the reader gives, and pass differences="warn"'
    left_out = [
        Finding(str(node["name"]), "it comes behind that" if number else _unsaid(node), remedy)
        for number, node in enumerate(nodes[place + 1 : -1])
    ]
    if "returns" in nodes[-1]:
        problem = "a graph of NIR gives one value, the network returns them in a tuple, list or dict"
        left_out.append(Finding(str(nodes[-1]["name"]), problem, remedy))
    return WritableTail(flatten, tuple(linears), tuple(left_out))


def _unsaid(node: Mapping[str, Any]) -> str:
    if node["op"] in ("linear", "conv2d", "flatten"):
        return f"this {node['op']} is none in a row of fully connected layers, which is all of a tail that is written"
    return f"NIR has no {node['op']}"
