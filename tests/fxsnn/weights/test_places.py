"""Dicts in what a file holds are found wherever they are."""

from __future__ import annotations

from typing import Any

from fxsnn.weights.places import as_code, tables_in


def test_the_outermost_come_first_and_keys_are_text() -> None:
    content = {"a": {"x": 1, 3: 2}, "b": [0, ({"y": 3},)], (1, 2): {"z": 4}}
    tables = tables_in(content)
    assert [place for place, _ in tables] == [(), ("a",), ("b", 1, 0)]
    assert [table for _, table in tables[1:]] == [{"x": 1, "3": 2}, {"y": 3}]


def test_one_that_holds_itself_is_found_once() -> None:
    content: dict[str, Any] = {"list": []}
    content["again"] = content
    content["list"].append(content["list"])
    assert tables_in(content) == [((), content)]


def test_a_number_has_none() -> None:
    assert tables_in(3) == []


def test_a_place_is_code_that_takes_it_out() -> None:
    checkpoint = {"it's": [{7: "found"}]}
    assert eval(as_code(("it's", 0, 7)), {"checkpoint": checkpoint}) == "found"
