"""The accuracy benchmark trains, converts, measures and reports; what is finished is not done again."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import accuracy
import accuracy_report
import accuracy_training
import pytest
import torch
from accuracy_report import Row, provenance, results_table, spread
from accuracy_training import Augmented, Recipe, cycle, moved
from networks import ColourNet, DigitNet

RECIPE = Recipe(epochs=2, lr=0.05)
ROW = Row("digits", "DigitNet", 2, 8, 0, 99.0, 98.0, (90.0,) * 64, 97.0, {"epochs": 2}, 9.0, {"lr": 0.1}, 5.0, "a CPU")


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment on some of the embedded digits."""
    experiment = accuracy.Experiment({2: "DigitNet"}, {2: DigitNet}, RECIPE, {2: {"epochs": 1, "lr": 0.01}})
    monkeypatch.setattr(accuracy, "EXPERIMENTS", {"digits": experiment})
    monkeypatch.setattr(accuracy_training, "HELD_OUT", 1200)


def run(folder: Path, *more: str) -> dict[str, Any]:
    options = [
        "digits",
        "--bits",
        "2",
        "--timesteps",
        "4",
        "--work",
        str(folder / "work"),
        "--out",
        str(folder / "out"),
    ]
    assert accuracy.main([*options, *more]) == 0
    (row,) = json.loads((folder / "out" / "accuracy.json").read_text())
    assert isinstance(row, dict)
    return row


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_a_row_is_measured_reported_and_kept(tmp_path: Path) -> None:
    row = run(tmp_path)
    assert (row["bits"], row["timesteps"], len(row["spiking"])) == (2, 4, 64)
    assert row["ann"] > 50  # ten classes
    assert row["spiking"][3] > 40
    assert len(row["untrained"]) == 4  # at T and before
    assert row["untrained"][3] > 30
    text = (tmp_path / "out" / "accuracy.md").read_text()
    assert "| digits | DigitNet | 2 | T = 4 | 1 |" in text
    assert "- fine-tuning: epochs=1, lr=0.01 (digits 2 bits)" in text
    assert f"- machine: {row['machine']} (digits 2 bits)" in text
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 10_000
    kept = list((tmp_path / "work").glob("*.pt"))
    for path in kept:
        path.unlink()
    assert run(tmp_path) == row  # read, not measured again
    assert not list((tmp_path / "work").glob("*.pt"))
    shutil.rmtree(tmp_path / "work")
    assert run(tmp_path) == row  # the report has it
    assert not (tmp_path / "work").exists()
    assert run(tmp_path, "--again")["spiking"] == row["spiking"]
    (checkpoint,) = (tmp_path / "work").glob("*.safetensors")
    before = checkpoint.stat().st_mtime_ns
    assert run(tmp_path, "--again")["spiking"] == row["spiking"]
    assert checkpoint.stat().st_mtime_ns > before  # fine-tuned anew


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_t_may_be_longer_than_what_is_always_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "LONGEST", 2)
    monkeypatch.setattr(accuracy_report, "_TIMESTEPS", (2,))
    assert len(run(tmp_path)["spiking"]) == 4
    text = (tmp_path / "out" / "accuracy.md").read_text()
    assert "| digits | DigitNet | 2 | T = 4 | 1 |" in text


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_another_recipe_is_measured_anew_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = accuracy.EXPERIMENTS["digits"]
    quick = replace(experiment, ann=replace(RECIPE, epochs=1))
    for one in (quick, replace(quick, finetune={2: {"epochs": 1, "lr": 0.02}}), replace(quick, ann=RECIPE)):
        monkeypatch.setattr(accuracy, "EXPERIMENTS", {"digits": one})
        row = run(tmp_path)
        assert row["ann_recipe"] == asdict(one.ann)
        assert row["recipe"] == one.recipe(2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--timesteps", "0"], "--timesteps: it is 0; allowed are numbers from 1"),
        (["--seeds", "-1"], "--seeds: it is -1; allowed are numbers from 0 to 2^63 - 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_any_training(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        accuracy.main(["MNIST", *wrong])
    assert message in capsys.readouterr().err


def test_a_network_of_another_recipe_is_not_taken_for_this_one(tmp_path: Path) -> None:
    data = accuracy_training.Data(*[(torch.rand(4, 1, 28, 28), torch.arange(4))] * 3)
    accuracy_training.trained(DigitNet, data, Recipe(epochs=1), 0, tmp_path / "net.pt")
    with pytest.raises(SystemExit, match=r"net.pt is of another recipe \(\{'epochs': 1, .*delete it"):
        accuracy_training.trained(DigitNet, data, Recipe(epochs=2), 0, tmp_path / "net.pt")
    with pytest.raises(SystemExit, match=r"net.pt is of another network; delete it"):
        accuracy_training.trained(ColourNet, data, Recipe(epochs=1), 0, tmp_path / "net.pt")


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_an_interrupted_training_goes_on_as_it_would_have(tmp_path: Path) -> None:
    data = accuracy_training.load("digits", tmp_path)
    whole, _ = accuracy_training.trained(DigitNet, data, RECIPE, 0, tmp_path / "whole.pt")
    first: list[int] = []

    def stop(state: dict[str, Any], path: Path) -> None:
        original(state, path)
        first.append(state["done"])
        raise KeyboardInterrupt

    original = accuracy_training._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy_training, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            accuracy_training.trained(DigitNet, data, RECIPE, 0, tmp_path / "parts.pt")
    assert first == [1]
    resumed, _ = accuracy_training.trained(DigitNet, data, RECIPE, 0, tmp_path / "parts.pt")
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_every_image_moves_by_itself_and_keeps_its_label() -> None:
    images = torch.arange(6 * 8 * 8.0).view(6, 1, 8, 8)
    torch.manual_seed(0)
    assert torch.equal(moved(images, 0, flip=False), images)
    shifts = {
        tuple((image - part).flatten().tolist())
        for image, part in zip(moved(images, 2, flip=False), images, strict=True)
    }
    assert len(shifts) > 1
    mirrored = moved(images, 0, flip=True)
    kinds = [torch.equal(one, two) for one, two in zip(mirrored, images, strict=True)]
    assert any(kinds)
    assert all(kind or torch.equal(one, two.flip(-1)) for kind, one, two in zip(kinds, mirrored, images, strict=True))
    batches = list(Augmented((images, torch.arange(6)), Recipe(batch_size=4, shift=0)))
    assert [len(labels) for _, labels in batches] == [4, 2]
    assert all(
        torch.equal(image, images[label])
        for given, labels in batches
        for image, label in zip(given, labels, strict=True)
    )


def test_the_learning_rate_rises_and_falls() -> None:
    assert cycle(0) == pytest.approx(0.04)
    assert cycle(0.2) == pytest.approx(1)
    assert cycle(1) == pytest.approx(0)


def test_seeds_are_averaged() -> None:
    assert spread(90.0) == "90.00"
    assert spread(90.0, 91.0, 92.5) == "91.17 ± 1.25"
    assert spread(90.0, None) == "90.00 (1 of 2)"
    assert spread(90.0, None, 91.0) == "90.50 ± 0.50 (2 of 3)"
    assert spread(None) == "-"
    assert spread(-0.001) == "0.00"


def test_a_line_of_the_report_is_of_all_seeds() -> None:
    rows = [ROW, replace(ROW, seed=1, ann=98.0), replace(ROW, bits=1, timesteps=4)]
    rows[0] = replace(ROW, untrained=(10.0,) * 7 + (80.0,))
    two, one = results_table(rows).splitlines()[2:]
    assert two.startswith("| digits | DigitNet | 2 | T = 8 | 2 | 98.50 ± 0.50 | 80.00 (1 of 2) | 98.00 ± 0.00 |")
    assert "| 8.50 ± 0.50 |" in two  # the loss of each seed against its own ANN
    assert one.startswith("| digits | DigitNet | 1 | T = 4 | 1 | 99.00 | - | 98.00 |")


def test_recipes_and_machines_name_their_rows_and_the_seeds_where_these_differ() -> None:
    other = replace(ROW, seed=1, ann_recipe={"epochs": 3}, machine="another CPU")
    rows = [ROW, other, replace(other, seed=2), replace(ROW, bits=1)]
    assert provenance(rows).splitlines() == [
        "- ANN: epochs=2 (digits 2 bits, seed 0; digits 1 bits)",
        "- ANN: epochs=3 (digits 2 bits, seeds 1 and 2)",
        "- fine-tuning: lr=0.1 (digits 2 bits; digits 1 bits)",
        "- machine: a CPU (digits 2 bits, seed 0; digits 1 bits)",
        "- machine: another CPU (digits 2 bits, seeds 1 and 2)",
    ]
    rows = [ROW, replace(ROW, timesteps=16, machine="another CPU"), replace(ROW, network="another")]
    assert provenance(rows).splitlines()[2:] == [
        "- machine: a CPU (digits 2 bits, T = 8, DigitNet; digits 2 bits, T = 8, another)",
        "- machine: another CPU (digits 2 bits, T = 16, DigitNet)",
    ]


def test_networks_tuned_for_several_t_have_a_curve_each_and_one_ann(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[dict[str, Any], float]] = []

    def draw(axes: Any, curves: dict[str, Any], ann: float, styles: Any) -> None:
        drawn.append((curves, ann))
        original(axes, curves, ann, styles)

    original: Any = vars(accuracy_report)["accuracy_against_timesteps"]
    monkeypatch.setattr(accuracy_report, "accuracy_against_timesteps", draw)
    second = replace(ROW, seed=1, ann=97.0)
    accuracy_report.write(tmp_path, [ROW, second, replace(ROW, timesteps=16), replace(ROW, network="another")])
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
    assert [list(curves) for curves, _ in drawn] == [
        ["2 bits, tuned for T = 8", "2 bits, tuned for T = 16"],
        ["2 bits"],
    ]
    assert [ann for _, ann in drawn] == [98.0, 99.0]  # of two seeds, whatever number of rows each has


@pytest.mark.usefixtures("digits")
def test_a_row_of_another_recipe_or_network_is_measured_anew() -> None:
    experiment = accuracy.EXPERIMENTS["digits"]
    row = replace(ROW, ann_recipe=asdict(RECIPE), recipe=experiment.recipe(2))
    assert experiment.gave(row)
    assert experiment.gave(replace(row, ann_recipe={**asdict(RECIPE), "precision": "bfloat16"}))
    assert not experiment.gave(replace(row, ann_recipe=asdict(replace(RECIPE, epochs=3))))
    assert not experiment.gave(replace(row, recipe={**row.recipe, "lr": 0.5}))
    assert not experiment.gave(replace(row, network="another"))


def test_mixed_precision_can_be_left_out() -> None:
    mixed = accuracy.EXPERIMENTS["CIFAR10"]
    plain = mixed.in_float32()
    assert mixed.ann.precision == mixed.finetune[2]["precision"] == "bfloat16"
    assert plain.ann == replace(mixed.ann, precision="float32")
    assert plain.finetune[2] == {**mixed.finetune[2], "precision": "float32"}
    digits = accuracy.EXPERIMENTS["MNIST"]
    assert digits.in_float32().finetune == digits.finetune  # had none


def test_unknown_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accuracy.main(["letters"])
    assert "unknown data sets letters; there are MNIST" in capsys.readouterr().err
