"""Which data a command measures on: what is asked for, or what the file was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fxsnn
from tests.command_line import as_json, called

DIGITS = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10))
"""


def with_data(file: Path, made_with: Any) -> None:
    """Write what a file says of its data."""
    snn = fxsnn.load(file)
    snn.provenance = {**snn.provenance, "data": made_with}
    snn.save(file)


def test_a_file_says_what_it_was_made_with_and_eval_takes_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fxsnn.load(file).provenance["data"] == {"name": "data.npz"}
    status, found = as_json(capsys, "eval", "net.fxsnn")
    assert (status, found["data"], found["images"], found["normalisation"]) == (0, "data.npz", 60, None)


@pytest.mark.parametrize(
    ("made_with", "message"),
    [
        (None, "net.fxsnn does not say which data set it was made with; give --data"),
        ({"name": 7}, "does not say which data set"),
        ({"name": "net.py:halves"}, "files never run code; if it is yours, give --data net.py:halves"),
        ({"name": "gone.npz"}, "made with gone.npz, which cannot be read here; give --data or --data-dir"),
        ({"name": "SVHN"}, "made with SVHN, which cannot be read here; give --data or --data-dir: unknown data set"),
        ({"name": "digits", "mean": [1, 2]}, "mean is 1, 2; digits takes 1 number"),
    ],
)
def test_a_file_that_does_not_help_makes_eval_ask(
    file: Path, made_with: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with_data(file, made_with)
    status, out, err = called(capsys, "eval", "net.fxsnn")
    assert (status, out) == (2, "")
    assert message in err
    assert "a script that talks" not in err


def test_the_normalisation_is_told_set_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "digit.py").write_text(DIGITS)
    options = ["--bits", "4", "--timesteps", "2", "--calibration-images", "32", "-o", "net.fxsnn", "--golden", "0"]
    status, out, err = called(capsys, "convert", "digit.py:network", "--data", "digits", "--mean", "0.5", *options)
    assert status == 0, err
    assert "made with digits (mean 0.5, deviation 0.3081)" in out
    for given, mean in (((), 0.5), (("--data", "digits"), 0.5), (("--mean", "0.25"), 0.25)):
        status, out, _ = called(capsys, "eval", "net.fxsnn", "--limit", "20", *given)
        assert out.startswith(f"net.fxsnn on 20 images of digits (mean {mean}, deviation 0.3081)\n")
    _, out, _ = called(capsys, "report", "net.fxsnn", "--data", "digits", "--limit", "2", "--std", "1")
    assert "measured on digits (mean 0.5, deviation 1)" in out


def test_the_help_names_the_usual_constants(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        called(capsys, "eval", "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "FashionMNIST 0.286; CIFAR10 0.4914 0.4822 0.4465" in told
    assert "FashionMNIST 0.353; CIFAR10 0.247 0.2435 0.2616" in told


def test_weights_that_may_be_random_are_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "warning: without --weights net.py:Net has the weights that it is built with: random ones, unless"
    for command in (["eval", "net.fxsnn", "--model", "net.py:Net"], ["convert", "net.py:Net", "--bits", "4"]):
        status, _, err = called(capsys, *command)
        assert (status, told in err) == (0, True)
    assert told not in called(capsys, "check", "net.py:Net")[2]
