"""What can be told of a file without following its pickle."""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from fxsnn.weights.pickled import classes_in, largest_entry

old_and_new = pytest.mark.parametrize("new", [True, False], ids=["new form", "form before PyTorch 1.6"])


def written(path: Path, content: Any, new: bool = True) -> Path:
    torch.save(content, path / "w.pt", _use_new_zipfile_serialization=new)
    return path / "w.pt"


@old_and_new
def test_classes_are_those_that_make_no_tensors(tmp_path: Path, new: bool) -> None:
    tensors = OrderedDict(a=torch.zeros(2), b=torch.nn.Parameter(torch.zeros(2)), c=torch.zeros(2, dtype=torch.int64))
    assert classes_in(written(tmp_path, tensors, new)) == []
    assert classes_in(written(tmp_path, {"a": tensors, "b": Namespace()}, new)) == ["argparse.Namespace"]


@old_and_new
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"few": {"a": torch.zeros(1)}, "many": OrderedDict(a=torch.zeros(1), b=torch.ones(1))}, "many"),
        ({"only": {"inner": {"a": torch.zeros(1)}, "text": {}}, "b": Namespace()}, "only"),
        ({"a": 1, "b": {}}, None),
        ([{"a": torch.zeros(1)}], None),
        (torch.zeros(1), None),
    ],
)
def test_the_largest_entry_is_the_dict_with_most_tensors(
    tmp_path: Path, content: Any, expected: str | None, new: bool
) -> None:
    assert largest_entry(written(tmp_path, content, new)) == expected


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02", bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + b"x"])
def test_of_a_damaged_file_nothing_can_be_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    assert classes_in(tmp_path / "w.pt") == []
    assert largest_entry(tmp_path / "w.pt") is None
