"""The command line on signals and vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.command_line import as_json, called
from tests.sharing import cases

NETS = """
import torch
from torch import nn

def ecg():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 5, padding=2), nn.ReLU(), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(32, 3))

def table():
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))
"""


@cases("name, size", [("ecg", (2, 32)), ("table", (20,))], quick=1)
def test_every_command_takes_them(
    name: str, size: tuple[int, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "nets.py").write_text(NETS)
    images = np.random.default_rng(0).normal(size=(60, *size)).astype(np.float32)
    np.savez(folder / "own.npz", images=images, labels=np.arange(60) % 3)
    model = ["--model", f"nets.py:{name}"]
    assert called(capsys, "check", f"nets.py:{name}", "--target", "generic", "--bits", "4")[0] == 0
    made = ["--target", "generic", "--bits", "4", "--timesteps", "4", "--data", "own.npz", "-o", "own.fxsnn"]
    assert called(capsys, "convert", f"nets.py:{name}", *made)[0] == 0
    status, found = as_json(capsys, "eval", "own.fxsnn", *model)
    assert (status, found["images"]) == (0, 60)
    assert called(capsys, "verify", "own.fxsnn")[0] == 0
    assert called(capsys, "report", "own.fxsnn", "--data", "own.npz", *model, "--html", "own.html")[0] == 0


def test_data_of_another_form_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "nets.py").write_text(NETS)
    np.savez(folder / "flat.npz", images=np.zeros((60, 64), np.float32), labels=np.arange(60) % 3)
    made = ["--target", "generic", "--bits", "4", "--data", "flat.npz", "-o", "own.fxsnn"]
    status, _, err = called(capsys, "convert", "nets.py:ecg", *made)
    assert status != 0
    assert "64]; expected [N, 2, L] of a floating type" in err


def test_a_file_of_arrays_of_one_dimension_holds_no_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "nets.py").write_text(NETS)
    np.savez(folder / "line.npz", images=np.zeros(60, np.float32), labels=np.arange(60) % 3)
    status, _, err = called(capsys, "convert", "nets.py:table", "--bits", "4", "--data", "line.npz", "-o", "own.fxsnn")
    assert status != 0
    assert "expected floats [N, C, H, W], [N, C, L] or [N, F]" in err


def test_every_command_takes_frames(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "nets.py").write_text(NETS)
    images = np.random.default_rng(0).normal(size=(60, 6, 2, 32)).astype(np.float32)
    np.savez(folder / "own.npz", images=images, labels=np.arange(60) % 3)
    made = ["--target", "generic", "--bits", "4", "--data", "own.npz", "-o", "own.fxsnn"]
    status, _, err = called(capsys, "convert", "nets.py:ecg", *made)
    assert status == 2
    assert "fxsnn.convert(..., input='frames')" in err
    status, found = as_json(capsys, "convert", "nets.py:ecg", *made, "--input", "frames")
    assert (status, found["report"]["timesteps"], found["accuracy"]["images"]) == (0, 6, 60)
    status, measured = as_json(capsys, "eval", "own.fxsnn", "--model", "nets.py:ecg")
    assert (status, list(measured["accuracy"])) == (0, ["6"])
    assert measured["ann"] == found["accuracy"]["ann"]  # on means of frames
    assert called(capsys, "verify", "own.fxsnn")[0] == 0
    html = ["--model", "nets.py:ecg", "--html", "own.html"]
    assert called(capsys, "report", "own.fxsnn", "--data", "own.npz", *html)[0] == 0
    assert called(capsys, "sweep", "own.fxsnn", "--data", "own.npz")[0] == 0
