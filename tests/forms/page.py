"""The page of the forms."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from tests.forms.form import MADE, STEPS, Form, Outcome, outcome
from tests.forms.table import GROUPS

_HEAD = """\
# How your network may be written

Every row was tried: `make forms` writes this page from `tests/forms/table.py`, and a test holds each row against what
the compiler does. [What can be converted](convertible.md) has the rules.

*Exact* is about the rewriting: run in double precision on 1, 2 and 65 images, the rewritten network gives what yours
gives, to 1e-9 of the largest output. It says nothing about spikes; what few bits and timesteps cost is
[accuracy](results.md).

Lines stand in the place of their like in this network. Of what is refused the advice of the error is shown.

```python
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        {made}

    def forward(self, x):
{forward}
```
"""
_SPACE = "\xa0"
"""Of an indent: others are lost at the beginning of code."""


def page(row: Callable[[Form], str] = lambda form: row_of(form, outcome(form))) -> str:
    """The whole page in Markdown, with a row for each form."""
    head = _HEAD.format(made=MADE, forward=textwrap.indent("\n".join(filter(None, STEPS.values())), 8 * " "))
    return "\n".join((head, *(_group(name, [row(form) for form in forms]) for name, forms in GROUPS.items())))


def _group(name: str, rows: list[str]) -> str:
    return "\n".join(
        (f"## {name}", "", "| how it is written | what becomes of it | exact |", "|---|---|---|", *rows, "")
    )


def row_of(form: Form, found: Outcome) -> str:
    """A form and what became of it, as a row of the table."""
    if found.error is not None:
        becomes, exact = f"refused: {' '.join(f'{advice}.' for advice in found.advice)}", ""
    else:
        becomes, exact = form.becomes, "yes" if found.exact else "no"
    if form.at == "data":  # which nothing is rewritten for
        exact = ""
    return f"| {shown(form)} | {becomes} | {exact} |"


def shown(form: Form) -> str:
    """The code of a form in a cell."""
    if form.build is not None:  # it is in words
        return form.code
    lines = "\n".join(filter(None, (form.made, form.code))).splitlines()
    bare = [line.lstrip() for line in lines]
    indents = [_SPACE * (len(line) - len(code)) for line, code in zip(lines, bare, strict=True)]
    return "<br>".join(f"`{indent}{code}`" for indent, code in zip(indents, bare, strict=True))
