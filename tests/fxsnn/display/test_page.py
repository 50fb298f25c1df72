"""Pages that need no other file."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fxsnn.display import Part, page_of


def line(axes: Any) -> None:
    axes.plot([1, 2], [3, 4])


def test_it_has_its_parts_in_order() -> None:
    page = page_of("A & B", [Part("<first>", "<p>one</p>"), Part("", "<p>two</p>")])
    assert page.startswith("<!doctype html>")
    assert "<title>A &amp; B</title>" in page
    assert re.findall(r"<h.>(.*?)</h.>|<p>(.*?)</p>", page) == [
        ("A &amp; B", ""), ("&lt;first&gt;", ""), ("", "one"), ("", "two"),
    ]  # fmt: skip


def test_a_figure_lies_inside_it_as_a_drawing_with_a_name() -> None:
    page = page_of("A", [Part("Lines", "", line)])
    (alt, data), *others = re.findall(r'<img alt="(.*?)" src="data:image/svg\+xml;base64,(.*?)">', page)
    assert not others
    assert alt == "Lines, as a figure"
    assert ElementTree.fromstring(base64.b64decode(data)).tag == "{http://www.w3.org/2000/svg}svg"


def test_it_loads_nothing_and_runs_nothing() -> None:
    page = page_of("A", [Part("Lines", "<p>text</p>", line)])
    assert set(re.findall(r'(?:src|href)="(\w+):', page)) == {"data"}
    assert not re.search(r"<script|<link|url\(|@import", page)


def test_the_same_parts_give_the_same_page() -> None:
    parts = [Part("Lines", "", line)]
    assert page_of("A", parts) == page_of("A", parts)


def test_light_and_dark_are_both_its_own() -> None:
    assert "color-scheme: light dark" in page_of("A", [])


@pytest.mark.parametrize("figures", [True, False])
def test_without_matplotlib_it_has_no_figures_and_says_so(monkeypatch: pytest.MonkeyPatch, *, figures: bool) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = page_of("A", [Part("Lines", "<p>text</p>", line if figures else None)])
    assert "<p>text</p>" in page
    assert "<img" not in page
    assert ("There are no figures: they need matplotlib" in page) == figures


def test_a_matplotlib_that_is_broken_costs_the_figures_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise RuntimeError('torn')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    page = page_of("A network", [Part("Layers", "<p>all of them</p>", lambda _: None)])
    assert "There are no figures: they need matplotlib" in page
    assert "RuntimeError: torn" in page
    assert "all of them" in page
