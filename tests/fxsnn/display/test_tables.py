"""Cells as text, Markdown and HTML."""

from __future__ import annotations

from fxsnn.display import aligned, folded, html
from fxsnn.display.tables import markdown

ROWS = [("a", "b"), ("1", "<x|y>")]


def test_the_same_cells_in_every_form() -> None:
    assert aligned(ROWS) == "a  b\n-  -----\n1  <x|y>"
    assert markdown(ROWS) == "| a | b |\n|---|---|\n| 1 | <x\\|y> |"
    assert "&lt;x|y&gt;</td>" in html(ROWS)
    assert 'background:#fff;color:black"' in html(ROWS, ["#fff"])


def test_long_content_is_folded() -> None:
    assert folded("t", "c", 3) == "<details open><summary>t</summary>c</details>"
    assert folded("t", "c", 30).startswith("<details><summary>")
