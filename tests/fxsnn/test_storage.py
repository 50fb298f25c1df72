"""A file appears whole or not at all, and holds what was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fxsnn.storage import load_arrays, save_arrays, write_whole


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between must leave the former one."""
    place = tmp_path / "net.fxsnn"
    place.write_bytes(b"before")
    done: list[tuple[str, int]] = []

    def noted(name: str, size: Callable[[Any], int]) -> Callable[..., None]:
        original = getattr(os, name)

        def call(what: Any, *others: Any) -> None:
            assert place.read_bytes() == b"before"
            done.append((name, size(what)))
            original(what, *others)

        return call

    monkeypatch.setattr("os.fsync", noted("fsync", lambda handle: os.fstat(handle).st_size))
    monkeypatch.setattr("os.replace", noted("replace", lambda path: Path(path).stat().st_size))
    write_whole(place, b"afterwards")
    assert done == [("fsync", 10), ("replace", 10)]
    assert place.read_bytes() == b"afterwards"


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664])
def test_a_file_that_is_written_anew_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "net.fxsnn"
    path.touch()
    path.chmod(mode)
    (tmp_path / "link").symlink_to(path)
    for name in ("net.fxsnn", "link"):
        write_whole(tmp_path / name, b"new")
        assert path.stat().st_mode & 0o777 == mode
    assert path.read_bytes() == b"new"


def test_values_that_are_views_with_another_sign_are_written_as_they_are(tmp_path: Path) -> None:
    values = torch.arange(6.0)._neg_view()
    arrays, _ = load_arrays(save_arrays(tmp_path / "x", {"values": values}, {}))
    assert torch.equal(arrays["values"], values)


def test_a_single_number_of_a_larger_tensor_is_written(tmp_path: Path) -> None:
    """It counts as contiguous, whatever lies between it and a next one."""
    values = torch.arange(6).view(2, 3)[1:, 1]
    assert values.is_contiguous()
    assert values.stride() == (3,)
    arrays, _ = load_arrays(save_arrays(tmp_path / "x", {"values": values}, {}))
    assert torch.equal(arrays["values"], values)
