"""Names that layers and tensors can have: one rule for programs, and one for files."""

from __future__ import annotations

import keyword
import re

from torch import fx, nn

from fxsnn.errors import Finding

LONGEST_NAME = 256
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_DEEPEST = 15

_PROGRAM, _CONTAINER = fx.GraphModule(nn.Module(), fx.Graph()), nn.Module()


def about_program_name(name: str) -> list[Finding]:
    """A finding if no program of `torch.fx` can call a layer, or read a tensor, of that dotted name."""
    first, *others = name.split(".")
    found = []
    if words := [part for part in (first, *others) if keyword.iskeyword(part)]:
        found.append(f"{words[0]!r} is a keyword of Python, which torch.fx cannot call")
    elif '"' in name or "\\" in name or not name.isprintable():
        found.append("its name has quotation marks, backslashes or control characters, which torch.fx cannot call")
    elif hasattr(_PROGRAM, first) or any(hasattr(_CONTAINER, part) for part in others):
        found.append("programs of torch.fx have an attribute of that name already")
    return [Finding(name, problem, "Rename it") for problem in found]


def about_file_name(name: str, *, called: bool = True) -> list[Finding]:
    """A finding if nothing in a file can have that dotted name.

    Args:
        name: the name.
        called: it is that of a layer or tensor, which a program has to find by it.
    """
    if (deep := name.count(".")) > _DEEPEST:
        return [Finding(name, f"it lies {deep} modules deep; files allow {_DEEPEST}", "Nest it less")]
    if _NAME.fullmatch(name) is None or len(name) > LONGEST_NAME:
        problem = f"files allow letters of ASCII, digits, _ and - in its name, {LONGEST_NAME} of them at most"
        return [Finding(name, problem, "Rename it")]
    return about_program_name(name) if called else []


def spare_self(program: fx.Graph) -> None:
    """Give a value that is named "self" another name: in the code of a program it would hide the program itself."""
    for node in program.nodes:
        if node.name == "self":
            node._rename("self_value")
