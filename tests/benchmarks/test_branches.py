"""The benchmark of residual and pooling networks measures and reports; what is there is not measured again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import accuracy_training
import branches
import pytest
from torch import Tensor, nn


class Pooled(nn.Module):
    """28x28 digits to ten logits; a max pooling between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 12, 3), nn.ReLU(), nn.AvgPool2d(2)
        )
        self.last = nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.features(images).flatten(1))
        return logits


ROW = branches.Row("data", "Net", "average", 8, False, 90.0, 80.5, 1234, 5.0, {"epochs": 2}, None, "a CPU")


def test_a_line_holds_all_timesteps_of_a_network_and_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        branches, "EXPERIMENTS", {"Net": branches.Experiment(Pooled, replace(branches._RECIPE, epochs=2), ("average",))}
    )
    tuned = branches.Row(
        "data", "Net", "average", 16, True, 90.0, 85.25, 1234, 9.0, {"epochs": 2}, {"lr": 0.1}, "a CPU"
    )
    text = branches.document([ROW, tuned])
    assert "| Net | average | no | 1,234 | 90.00 | 80.50 |  |  |" in text
    assert "| Net | average | yes | 1,234 | 90.00 |  | 85.25 |  |" in text
    assert "- fine-tuning on 15,000 of the training images: lr=0.1" in text
    assert "JPEG" not in text


@pytest.mark.slow
def test_rows_are_measured_reported_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = branches.Experiment(Pooled, replace(branches._RECIPE, epochs=8), ("average", "rectifiers"))
    monkeypatch.setattr(branches, "EXPERIMENTS", {"Net": experiment})
    monkeypatch.setattr(branches, "_FINETUNE", {"epochs": 1, "spiking_epochs": 0})
    monkeypatch.setattr(accuracy_training, "HELD_OUT", 1200)
    folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    run = partial(branches.main, ["--dataset", "digits", "--networks", "Net", "--timesteps", "8", *folders])
    assert run() == 0
    text = (tmp_path / "out" / "branches.md").read_text()
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| Net |")]
    assert [line[1:3] for line in lines] == [[way, t] for t in ("no", "yes") for way in ("average", "rectifiers")]
    assert all(float(line[5]) > 15 for line in lines)  # ten classes
    kept = {path: path.read_bytes() for path in (tmp_path / "work").glob("*.json")}
    run()
    assert kept == {path: path.read_bytes() for path in (tmp_path / "work").glob("*.json")}
