"""The benchmark of conversions without training: rows are measured once, means are of all seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import accuracy_training
import pytest
import untrained
from torch import nn
from untrained import Row

ROW = Row("data", "Net", "defaults", 4, 8, 0, 90.0, 80.0, 5.0, "a CPU")


def test_a_line_is_of_all_seeds_and_has_all_timesteps() -> None:
    rows = [ROW, replace(ROW, seed=1, spiking=81.0), replace(ROW, timesteps=16, spiking=85.25)]
    text = untrained.document([*rows, replace(ROW, way="rounded", spiking=12.5)])
    assert "| data | Net | 4 | defaults | 90.00 | 80.50 ± 0.50 | 85.25 | 2 | 5 |" in text
    assert "| data | Net | 4 | rounded | 90.00 | 12.50 |  | 1 | 5 |" in text
    assert "- defaults: nothing said" in text
    assert "- rounded: correction=None" in text


@pytest.mark.slow
def test_rows_are_measured_reported_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 13 * 13, 10))

    recipe = replace(untrained.EXPERIMENTS["MNIST"].recipe, epochs=2)
    monkeypatch.setattr(untrained, "EXPERIMENTS", {"digits": untrained.Experiment("Net", build, recipe)})
    monkeypatch.setattr(accuracy_training, "HELD_OUT", 600)
    folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    options = ["digits", "--bits", "4", "--timesteps", "8", "--seeds", "0", *folders]
    assert untrained.main(options) == 0
    rows = [json.loads(path.read_text()) for path in sorted((tmp_path / "work").glob("*-seed*.json"))]
    assert [row["way"] for row in rows] == ["before", "biases", "defaults", "rounded"]
    assert all(row["spiking"] > 30 for row in rows)  # ten classes
    monkeypatch.setattr(untrained, "measured", lambda *_: pytest.fail("measured again"))
    assert untrained.main(options) == 0
    assert "| digits | Net | 4 | defaults |" in (tmp_path / "out" / "untrained.md").read_text()


def test_unknown_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        untrained.main(["ImageNet"])
    assert "unknown data sets ImageNet; there are MNIST" in capsys.readouterr().err
