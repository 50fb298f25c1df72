"""`fxsnn budget` and `fxsnn sweep` say what their functions say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fxsnn
from fxsnn.cli.user_code import model_from
from tests.command_line import as_json, called
from tests.nets import images


def test_the_budget_is_that_of_the_function(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ann = model_from("net:trained")
    torch.save(ann.state_dict(), "trained.pt")
    capsys.readouterr()  # what the script says when it is imported
    arguments = ("budget", "net.fxsnn", "net.py:Net", "--weights", "trained.pt", "--limit", "20", "--batch-size", "20")
    status, found = as_json(capsys, *arguments, "--plot", "budget.svg")
    expected = fxsnn.error_budget(ann, fxsnn.load(file), (images(60)[:20], torch.arange(20) % 5))
    assert (status, found["data"]) == (0, "data.npz")
    assert found["budget"] == json.loads(json.dumps(expected.to_dict()))
    assert "<svg" in file.with_name("budget.svg").read_text()
    assert called(capsys, *arguments)[1] == f"net.fxsnn on data.npz\n{expected}\n"


def test_the_sweep_is_that_of_the_function_and_a_picture(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("sweep", "net.fxsnn", "--timesteps", "5", "--tolerance", "2", "--limit", "30", "--plot", "sweep.png")
    status, found = as_json(capsys, *arguments)
    expected = fxsnn.sweep(fxsnn.load(file), (images(60)[:30], torch.arange(30) % 5), timesteps=5, tolerance=2)
    assert (status, found["sweep"]) == (0, json.loads(json.dumps(expected.to_dict())))
    assert file.with_name("sweep.png").read_bytes().startswith(b"\x89PNG")
    assert called(capsys, *arguments)[1].startswith("net.fxsnn on data.npz\n")


def test_the_sweep_is_held_against_a_model(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = as_json(capsys, "sweep", "net.fxsnn", "--timesteps", "2", "--model", "net.py:Net", "--limit", "9")
    assert (status, found["sweep"]["reference_is_ann"], found["sweep"]["images"]) == (0, True, 9)
