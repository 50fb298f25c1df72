"""The benchmark of checking and converting says what each took, for networks of any depth."""

from __future__ import annotations

import compile_time
import pytest
import torch
from torch import nn

import fxsnn


@pytest.mark.slow
def test_the_script_prints_a_row_for_each_thing_that_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_time.main(["--depth", "6", "--width", "2", "--rounds", "1"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    things = ["first check", "check", "convert", "of which verification", "rest"]
    assert [row[:2] for row in rows] == [[f"| {name}", thing] for name in compile_time.NETWORKS for thing in things]
    assert all(float(row[2]) > 0 for row in rows if row[1] == "check")


@pytest.mark.parametrize("name", compile_time.NETWORKS)
def test_its_networks_have_so_many_layers_and_spike_in_all_but_the_last(name: str) -> None:
    model = compile_time.NETWORKS[name](9, 2).eval()
    model(torch.zeros(2, 3, 32, 32))
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == 9
    report = fxsnn.check(model, target="generic", bits=4)
    assert report.ok
    assert [layer.out_channels for layer in report.layers] == [2, 2, 4, 4, 8, 8, 16, 16]
