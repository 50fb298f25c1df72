"""Rows of cells as text, HTML and Markdown. The first row is the header."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Rows = Sequence[Sequence[str]]

MARKED = "#f7dfcc"
"""Background of a row that deserves a look."""

_LONG = 12
_HEAD = "padding:2px 8px;text-align:left;vertical-align:bottom"
_CELL = "padding:2px 8px;text-align:left;vertical-align:top"


def aligned(rows: Rows) -> str:
    """Text with aligned columns.

    >>> print(aligned([("a", "b"), ("long", "c")]))
    a     b
    ----  -
    long  c
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(rows: Rows) -> str:
    """A Markdown table.

    >>> print(markdown([("a", "b"), ("1", "x|y")]))
    | a | b |
    |---|---|
    | 1 | x\\|y |
    """
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def html(rows: Rows, colours: Sequence[str] = (), *, wrap: bool = False) -> str:
    """An HTML table.

    Args:
        rows: the cells.
        colours: background of each row but the header, "" for none.
        wrap: cells may have several lines.
    """
    style = _CELL if wrap else f"{_CELL};white-space:nowrap"
    header, *body = rows
    head = "".join(f'<th style="{_HEAD}">{escape(cell)}</th>' for cell in header)
    lines = []
    for place, row in enumerate(body):
        colour = colours[place] if colours else ""
        shade = f' style="background:{colour};color:black"' if colour else ""
        lines.append(f"<tr{shade}>" + "".join(f'<td style="{style}">{escape(cell)}</td>' for cell in row) + "</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div style="overflow-x:auto">{table}</div>'


def folded(title: str, content: str, rows: int) -> str:
    """HTML that can be folded, and is when it has many rows."""
    state = "" if rows > _LONG else " open"
    return f"<details{state}><summary>{escape(title)}</summary>{content}</details>"
