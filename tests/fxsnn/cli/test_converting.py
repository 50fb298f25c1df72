"""`fxsnn convert`: what it says of the network that it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

import fxsnn
from fxsnn.cli.converting import print_epoch
from fxsnn.cli.data_sets import parted
from fxsnn.errors import DataError
from fxsnn.training import Epoch
from tests.command_line import as_json, called
from tests.nets import images

CONVERT = ("convert", "net.py", "--bits", "4", "--timesteps", "4", "-o", "net.fxsnn")


def test_accuracies_are_those_that_eval_measures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network of the script is built once and given as it is, so that both commands have the same weights."""
    arguments = ["convert", "net:trained", *CONVERT[2:], "--data", "data.npz"]
    status, out, _ = called(capsys, *arguments)
    assert status == 0
    assert "\nmade with data.npz; on 60 test images: ANN " in out
    _, found = as_json(capsys, *arguments, "--accuracy-images", "50")
    _, measured = as_json(capsys, "eval", "net.fxsnn", "--limit", "50", "--model", "net:trained")
    assert found["accuracy"] == {"images": 50, "ann": measured["ann"], "spiking": measured["accuracy"]["4"]}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("options", [(), ("--data", "data.npz", "--accuracy-images", "0")])
def test_without_labels_or_wish_there_are_none(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, found = as_json(capsys, *CONVERT, *options)
    assert (status, found["accuracy"]) == (0, None)


def test_labels_that_are_no_classes_cost_the_accuracy_and_not_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(folder / "others.npz", images=images(6).numpy(), labels=np.arange(6) + 50)
    status, out, err = called(capsys, *CONVERT, "--data", "others.npz")
    assert (status, "ANN" in out) == (0, False)
    assert "warning: no accuracy was measured: labels go from 50 to 55" in err
    assert (folder / "net.fxsnn").exists()


@pytest.mark.usefixtures("folder")
def test_every_epoch_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    epochs = ("--finetune-epochs", "2")  # and one with spikes behind them
    status, out, err = called(capsys, *CONVERT, "--data", "data.npz", *epochs, "--accuracy-images", "0")
    assert (status, "epoch" in out) == (0, False)
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert [line.split(": loss ")[0] for line in lines] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3 (spiking)"]


@pytest.mark.parametrize(
    ("accuracy", "validation", "told"),
    [
        (0.5, 0.25, "epoch 2 of 3: loss 0.1250, accuracy 50.00 %, validation 25.00 %, 1.5 s\n"),
        (None, None, "epoch 2 of 3: loss 0.1250, 1.5 s\n"),
    ],
)
def test_an_epoch_says_what_is_known(
    accuracy: float | None, validation: float | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_epoch(Epoch(2, False, 0.125, accuracy, validation, 0.02, 1.46), of=3)
    assert capsys.readouterr().err == told


@pytest.mark.usefixtures("folder")
def test_distillation_and_validation_are_those_of_finetune(capsys: pytest.CaptureFixture[str]) -> None:
    tuned = ["--data", "data.npz", "--finetune-epochs", "2", "--accuracy-images", "0"]
    teacher = ["--finetune-distillation", "0.5", "--finetune-temperature", "2", "--finetune-teacher", "net.py:Net"]
    watched = ["--finetune-validation", "0.25", "--finetune-patience", "1"]
    status, _, err = called(capsys, *CONVERT, *tuned, *teacher, *watched)
    assert status == 0, err
    assert ", validation " in next(line for line in err.splitlines() if line.startswith("epoch 1 of 3"))
    made = fxsnn.load("net.fxsnn").provenance["options"]["finetune"]
    for told in ("distillation=0.5", "temperature=2.0", "patience=1"):
        assert told in made


def test_what_is_held_out_is_not_trained_on() -> None:
    data = TensorDataset(torch.arange(20), torch.arange(20))
    kept, out = (sorted(int(one) for one, _ in part) for part in parted(data, 0.25, seed=1))  # type: ignore[union-attr]
    assert (len(kept), len(out), sorted(kept + out)) == (15, 5, list(range(20)))
    assert parted(data, None, seed=1) == (data, None)
    with pytest.raises(DataError, match="1 images; --finetune-validation needs at least two"):
        parted(Subset(data, [0]), 0.5, seed=1)
