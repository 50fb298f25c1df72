"""What keeps a network out of files, said before it is converted: the writer and the reader are asked themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from fxsnn.chip import HardwareTarget
from fxsnn.errors import FileError, Finding
from fxsnn.file.document import BEHIND_THE_NETWORK, document_of, nodes_of
from fxsnn.file.rebuilding import require_readable
from fxsnn.file.schema_check import DAMAGED
from fxsnn.graph import Graph
from fxsnn.numerics import Dynamics

_PLACE = re.compile(r"\$\.nodes\[(\d+)\]\.?(.*)")
_ARRAY = re.compile(r"array '([^']+)' (.*)")


def unwritable(outline: Graph, target: HardwareTarget, image_size: tuple[int, ...] | None) -> list[Finding]:
    """What would keep a network from being written to a file, or read from it, once it is converted.

    Of several calls of which the same is to be said, the first one is named.

    Args:
        outline: of the network, see `fxsnn.rewriting.outline`.
        target: the chip.
        image_size: of images that the network accepts, without the batch, or `None`.
    """
    nodes, arrays, findings = nodes_of(outline)
    if findings:
        return _grouped(findings)
    try:
        require_readable(document_of(nodes, target, Dynamics(), image_size, {}), arrays)
    except FileError as error:
        problems = str(error).removeprefix(DAMAGED).strip().splitlines()
        return _grouped(_finding(problem.strip(), [str(node["name"]) for node in nodes]) for problem in problems)
    return []


def _grouped(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for all that say the same, of the first of them and so many more."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.problem, finding.remedy), []).append(finding)
    return [
        replace(first, layer=f"{first.layer} and {len(more)} more") if more else first
        for first, *more in alike.values()
    ]


def _finding(problem: str, names: list[str]) -> Finding:
    """What the reader says, about the layer that it names."""
    layer, _, rest = problem.partition(": ")
    if (place := _PLACE.match(problem)) is not None:
        return Finding(names[int(place[1])], f"files cannot hold this ({place[2]})", "Change it, or do not save it")
    if (array := _ARRAY.match(problem)) is not None:
        return Finding(array[1], f"as an array it {array[2]}", "Give it such a type, or do not save it")
    if layer in names:
        return Finding(layer, rest, "Change it, or do not save it")
    return Finding("network", problem, BEHIND_THE_NETWORK)
