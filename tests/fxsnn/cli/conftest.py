"""A user's folder, and a network file that the command line made there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fxsnn.cli import main
from fxsnn.data import datasets
from tests.command_line import NET
from tests.nets import images


def fill(folder: Path) -> None:
    """What lies in the user's folder: scripts and data."""
    (folder / "net.py").write_text(NET)
    (folder / "wrong.py").write_text("import torch\nx = = 1\n")
    (folder / "lacking.py").write_text("import a_package_that_nobody_has\n")
    x = images(60).numpy()
    np.savez(folder / "data.npz", images=x, labels=np.arange(60) % 5)
    np.savez(folder / "small.npz", images=x[:, :, :6, :6], labels=np.arange(60) % 5)
    np.savez(folder / "empty.npz", images=x[:0], labels=np.arange(0))
    np.save(folder / "single.npy", x)
    (folder / "single.npy").rename(folder / "single.npz")


def forget(folder: Path) -> None:
    """What was imported from a folder is imported anew."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a network, its weights and data, where commands are called."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "_registered", dict(datasets._registered))
    yield tmp_path
    forget(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network file that the command line made, once for all tests of a file."""
    place = tmp_path_factory.mktemp("written")
    fill(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(datasets, "_registered", dict(datasets._registered))
        options = "--bits 4 --data data.npz --timesteps 6 -o net.fxsnn"
        assert main(["convert", "net.py", *options.split()]) == 0
        forget(place)
    return place / "net.fxsnn"


@pytest.fixture
def file(folder: Path, written: Path) -> Path:
    """A copy of that file in the user's folder."""
    return Path(shutil.copy(written, folder / "net.fxsnn"))
