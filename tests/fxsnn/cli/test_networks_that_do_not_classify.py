"""What commands say of one logit and of values; nothing that is no accuracy is called one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.command_line import as_json, called
from tests.nets import images
from tests.sharing import cases

NET = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(200, 1)).eval()
"""
CONVERT = ("convert", "one.py:network", "--bits", "4", "--timesteps", "4", "--golden", "0", "-o", "net.fxsnn")
LIMITS = ("--limit", "40")


@pytest.fixture
def place(folder: Path) -> Path:
    """The user's folder, with a network of one output, data of two classes and data of values."""
    (folder / "one.py").write_text(NET)
    x = images(60).numpy()
    bright = x.mean((1, 2, 3)) > 0
    np.savez(folder / "classes.npz", images=x, labels=bright.astype(np.int64))
    np.savez(folder / "marks.npz", images=x, labels=bright[:, None].astype(np.float32))
    np.savez(folder / "values.npz", images=x, labels=np.linspace(-3, 3, 60))
    return folder


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(200, 1)).eval()


@pytest.mark.usefixtures("place")
@cases("data", ["classes.npz", "marks.npz"], quick=1)
def test_of_one_logit_the_sign_decides_in_every_command(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    x = images(60)
    with torch.no_grad():
        ann = 100 * float(((network()(x).squeeze(1) > 0) == (x.mean((1, 2, 3)) > 0)).double().mean())
    status, found = as_json(capsys, *CONVERT, "--data", data, "--finetune-epochs", "1")
    assert (status, found["accuracy"]["ann"]) == (0, pytest.approx(ann))
    _, measured = as_json(capsys, "eval", "net.fxsnn", "--model", "one.py:network")
    assert measured["ann"] == pytest.approx(ann)
    _, swept = as_json(capsys, "sweep", "net.fxsnn", "--timesteps", "4")
    assert swept["sweep"]["points"][3]["accuracy"] == pytest.approx(measured["accuracy"]["4"])
    assert found["accuracy"]["spiking"] == pytest.approx(measured["accuracy"]["4"])
    _, budget = as_json(capsys, "budget", "net.fxsnn", "one.py:network")
    assert budget["budget"]["stages"][0]["accuracy"] == pytest.approx(ann)


def test_values_have_no_accuracy_in_any_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = called(capsys, *CONVERT, "--data", "values.npz", "--finetune-epochs", "1")
    assert (status, "ANN" in out) == (0, False)
    assert "epoch 1 of 2: loss " in err
    assert "warning: no accuracy was measured: labels are torch.float64 [60], from -3 to 3: with these outputs" in err
    for command in ("eval", "sweep"):
        status, out, err = called(capsys, command, "net.fxsnn")
        assert (status, out) == (2, "")
        assert "values, not classes, which have no accuracy. snn.early_readout(images) gives the outputs" in err
    status, found = as_json(capsys, "budget", "net.fxsnn", "one.py:network")
    assert {(stage["accuracy"], stage["agreement"]) for stage in found["budget"]["stages"]} == {(None, None)}
    options = ("--html", "page.html", "--data", "values.npz", "--model", "one.py:network", *LIMITS)
    status, out, err = called(capsys, "report", "net.fxsnn", *options)
    assert "warning: the page has no accuracy: labels are torch.float64" in err
    page = (place / "page.html").read_text()
    assert (status, "accuracy" in page.lower(), "Error budget" in page) == (0, False, True)


@pytest.mark.usefixtures("place")
def test_the_loss_on_validation_images_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--finetune-epochs", "1", "--finetune-validation", "0.2", "--accuracy-images", "0")
    status, _, err = called(capsys, *CONVERT, "--data", "values.npz", *options)
    (line,) = [one for one in err.splitlines() if one.startswith("epoch 1 of 2")]
    assert (status, "validation loss " in line, "%" in line) == (0, True, False)


def test_an_answer_without_accuracy_is_plain_data(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = as_json(capsys, *CONVERT, "--data", "values.npz")
    assert (status, found["accuracy"], json.loads(json.dumps(found))["accuracy"]) == (0, None, None)
