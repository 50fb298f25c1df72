"""Nodes of two graphs side by side."""

from __future__ import annotations

from fxsnn.display import Diff
from fxsnn.display.difference import Line

BEFORE: tuple[Line, ...] = (
    ("x", "placeholder", "", ""),
    ("conv", "Conv2d(1, 2)", "x", "#1"),
    ("norm", "BatchNorm2d(2)", "conv", "#2"),
    ("relu", "ReLU()", "norm", ""),
    ("fc", "Linear(2, 2)", "relu", "#3"),
)
AFTER: tuple[Line, ...] = (
    ("x", "placeholder", "", ""),
    ("encode", "Encode()", "x", ""),
    ("conv", "FoldedConv2d(1, 2)", "encode", "#4"),
    ("relu", "ReLU()", "conv", ""),
    ("fc", "Linear(2, 2)", "relu", "#5"),
)
DIFF = Diff(BEFORE, AFTER, "title")


def test_every_change_has_its_kind() -> None:
    assert [(one.name, one.kind) for one in DIFF.changes()] == [
        ("encode", "added"),
        ("conv", "replaced"),
        ("norm", "removed"),
        ("relu", "rewired"),
        ("fc", "replaced"),
    ]


def test_the_summary_counts_classes() -> None:
    assert DIFF.summary() == "Encode added, Conv2d → FoldedConv2d, BatchNorm2d removed, Linear changed"
    assert Diff(BEFORE, BEFORE, "").summary() == "nothing changed"
    moved = (*AFTER[:3], ("relu", "ReLU()", "x", ""), AFTER[4])
    assert Diff(AFTER, moved, "").summary() == "other connections only"


def test_the_text_has_old_and_new_lines() -> None:
    assert str(DIFF).splitlines()[:4] == [
        f"title: {DIFF.summary()}",
        "+encode  Encode()  x",
        "-conv  Conv2d(1, 2)  x  #1",
        "+conv  FoldedConv2d(1, 2)  encode  #4",
    ]


def test_both_sides_stand_in_one_row_of_html() -> None:
    rows = DIFF._repr_html_().split("<tr")
    row = next(row for row in rows if "FoldedConv2d(1, 2)" in row)
    assert "Conv2d(1, 2) #1</td>" in row
    assert "FoldedConv2d(1, 2) #4</td>" in row
    assert "nothing changed" in Diff(BEFORE, BEFORE, "title")._repr_html_()


def test_html_is_escaped() -> None:
    line: Line = ("<b>", "Module(<i>)", "", "")
    assert "<b>" not in Diff((), (line,), "<u>")._repr_html_()
    assert "<u>" not in Diff((), (line,), "<u>")._repr_html_()
