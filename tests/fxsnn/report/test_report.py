"""The hardware report: every figure once more by hand, and all the ways to show it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import fxsnn
from fxsnn.chip import Registers
from fxsnn.errors import DataError, FileError, OptionError
from tests.nets import Small, images, seeded

Convert = Callable[..., fxsnn.SpikingNetwork]
T = 6


class Tiny(nn.Module):
    """1x6x6: a convolution with two groups of outputs, pooling, a grouped convolution, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2)
        self.hidden = nn.Linear(6, 5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.pool(torch.relu(self.conv1(x)))
        x = torch.relu(self.conv2(x)).flatten(1)
        return self.fc(torch.relu(self.hidden(x)))


X = images(7, channels=1, size=6)


@pytest.fixture
def snn(convert: Convert) -> fxsnn.SpikingNetwork:
    return convert(seeded(Tiny), bits={"conv1": 4, "conv2": 2, "hidden": 3}, timesteps=T, calibration_data=X)


def by_hand(snn: fxsnn.SpikingNetwork, x: Tensor) -> dict[str, dict[str, Any]]:
    """Every figure of the report, from the network's tensors and one loop over spikes."""
    run = snn.simulate(x, membranes=True)
    conv1, conv2, hidden = (snn.get_submodule(name) for name in ("conv1", "conv2", "hidden"))
    operations = {"conv1": 0, "pool": 0, "conv2": 0, "hidden": 0}
    for pixel in product(range(6), range(6)):  # each feeds up to 3x3 positions, 4 channels
        tall, wide = (sum(0 <= place + d < 6 for d in (-1, 0, 1)) for place in pixel)
        operations["conv1"] += 4 * tall * wide * T * len(x)
    operations["pool"] = int(run.spikes["conv1"].sum())  # each spike feeds one window
    operations["conv2"] = int(run.spikes["pool"].sum()) * 3  # one position, three channels of its group
    operations["hidden"] = int(run.spikes["conv2"].sum()) * 5
    expected: dict[str, dict[str, Any]] = {
        "conv1": {"fan_in": 9, "rows": 36, "weight_memory": 36 * 4, "neurons": 144, "cores": 1},
        "pool": {"fan_in": 4, "rows": 4, "weight_memory": 0, "neurons": 36, "cores": 1},
        "conv2": {"fan_in": 18, "rows": 36, "weight_memory": 6 * 18 * 2, "neurons": 6, "cores": 1},
        "hidden": {"fan_in": 6, "rows": 18, "weight_memory": 30 * 3, "neurons": 5, "cores": 1},
    }
    for (name, row), layer in zip(expected.items(), (conv1, snn.get_submodule("pool"), conv2, hidden), strict=True):
        module: Any = layer
        spikes, membranes = run.spikes[name], run.membranes[name]
        counts = spikes.sum(0)
        row["threshold"] = (min(module.threshold.tolist()), max(module.threshold.tolist()))
        row["leak"] = (min(module.leak.tolist()), max(module.leak.tolist()))
        levels = None if module.codebook is None else module.codebook.levels
        row["levels"], row["codebook"] = levels, levels and (levels[0] * module.gain, levels[-1] * module.gain)
        row["firing_rate"] = float(spikes.mean())
        row["membrane"] = (float(membranes.min()), float(membranes.max()))
        row["silent"] = sum(int(count) == 0 for count in counts.sum(0).flatten())
        row["saturated"] = float((counts == T).double().mean())
        row["synaptic_operations"] = operations[name] / len(x)
        row["codes"] = None if levels is None else set(module.codes.unique().tolist())
    return expected


def test_every_figure_by_hand(snn: fxsnn.SpikingNetwork) -> None:
    report = snn.profile(X)
    expected = by_hand(snn, X)
    assert [row.layer for row in report.layers] == list(expected)
    for row in report.layers:
        wanted = expected[row.layer]
        for name in ("fan_in", "rows", "weight_memory", "neurons", "cores", "threshold", "leak", "codebook", "levels"):
            assert getattr(row, name) == wanted[name], (row.layer, name)
        assert row.activity is not None
        for name in ("firing_rate", "membrane", "silent", "saturated", "synaptic_operations"):
            assert getattr(row.activity, name) == pytest.approx(wanted[name]), (row.layer, name)
        assert wanted["codes"] is None or wanted["codes"] <= set(wanted["levels"])
    assert [(row.kernel_size, row.in_channels, row.out_channels, row.bits, row.limit) for row in report.layers] == [
        ((3, 3), 1, 4, 4, 28),
        ((2, 2), None, 4, None, None),
        ((3, 3), 2, 6, 2, 56),
        (None, 6, 5, 3, None),
    ]
    assert report.core_inputs == 1024
    assert (report.threshold_register, report.leak_register, report.codebook_register) == (
        (1, 131071),
        (-262144, 262143),
        (-1024, 1023),
    )


def test_totals_by_hand(snn: fxsnn.SpikingNetwork) -> None:
    totals = snn.profile(X).totals()
    expected = by_hand(snn, X)
    assert totals.neurons == 144 + 36 + 6 + 5
    assert totals.weight_memory == 36 * 4 + 108 * 2 + 30 * 3
    assert totals.cores == 4
    assert totals.silent == sum(row["silent"] for row in expected.values())
    assert totals.input_operations == pytest.approx(expected["conv1"]["synaptic_operations"])
    others = [row["synaptic_operations"] for name, row in expected.items() if name != "conv1"]
    assert totals.synaptic_operations == pytest.approx(sum(others))


def test_any_number_of_images_and_batches_give_the_same(snn: fxsnn.SpikingNetwork) -> None:
    many = images(100, channels=1, size=6, seed=4)
    whole = snn.profile(many)
    assert whole.images == 100
    for one, other in zip(whole.layers, snn.profile(many.split(9)).layers, strict=True):
        assert one.activity is not None
        assert other.activity is not None
        assert one.activity.synaptic_operations == pytest.approx(other.activity.synaptic_operations)
        assert replace(one.activity, synaptic_operations=0.0) == replace(other.activity, synaptic_operations=0.0)


class TestWithoutFurtherImages:
    def test_it_is_about_a_few_of_those_of_the_calibration(self, snn: fxsnn.SpikingNetwork) -> None:
        assert snn.report == snn.profile(X)

    def test_it_follows_what_is_set(self, snn: fxsnn.SpikingNetwork) -> None:
        snn.timesteps = 2 * T
        assert snn.report == snn.profile(X)
        assert snn.report.timesteps == 2 * T

    def test_no_calibration_data_no_activity(self, convert: Convert) -> None:
        report = convert(seeded(Tiny), bits=2).report
        assert report.images == 0
        assert all(row.activity is None and row.cores is None and row.neurons is None for row in report.layers)
        assert report.totals().weight_memory == (36 + 108 + 30) * 2
        assert report.totals().neurons is None
        assert "snn.profile(images) gives the report with them" in str(report)
        assert "firing rate" not in str(report)

    def test_single_images_are_collected(self, convert: Convert) -> None:
        many = images(50, channels=1, size=6)
        report = convert(seeded(Tiny), calibration_data=list(many.split(1))).report
        assert report.images == 32
        sizes = [many[:20], many[:20, :, :5, :5]]
        pooling = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        assert convert(pooling, calibration_data=sizes).report.images == 20

    def test_what_is_used_up_does_not_spoil_a_conversion(self, convert: Convert) -> None:
        class Once:
            def __init__(self) -> None:
                self.batches = iter([X])

            def __iter__(self) -> Iterator[Tensor]:
                return self.batches

        assert convert(seeded(Tiny), calibration_data=Once()).report.images == 0

    def test_of_data_for_one_time_the_first_batch_is_remembered(self, convert: Convert) -> None:
        def once() -> Iterator[Tensor]:
            yield from X.split(4)

        snn = convert(seeded(Tiny), calibration_data=once())
        assert snn.report.images == 4
        assert snn.graph.text() == convert(seeded(Tiny), calibration_data=X.split(4)).graph.text()

    def test_a_target_without_cores_has_no_estimate(self, convert: Convert) -> None:
        report = convert(seeded(Tiny), target="generic", calibration_data=X).report
        assert report.core_inputs is None
        assert all(row.cores is None for row in report.layers)
        assert "estimate:" not in str(report)


class TestShowing:
    def test_as_text(self, snn: fxsnn.SpikingNetwork) -> None:
        text = str(snn.report)
        assert text.startswith("hw_v1.0, T=6, reset by subtraction; input 8 bits, step ")
        for part in ("rows of 1,024", "cores (estimate)", "threshold of 1..131,071", "On 7 images", "silent neurons"):
            assert part in text
        assert "note: cores are an estimate: " in text

    def test_as_markdown_with_a_row_for_each_layer_in_each_table(self, snn: fxsnn.SpikingNetwork) -> None:
        text = snn.report.to_markdown()
        assert text.count("| conv2 |") == 3
        assert text.count("| total |") == 2
        assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))

    def test_as_html(self, snn: fxsnn.SpikingNetwork) -> None:
        assert snn.report._repr_html_() == snn.report.to_html()
        assert snn.report.to_html().count(">conv2</td>") == 3

    def test_as_plain_data(self, snn: fxsnn.SpikingNetwork) -> None:
        data = json.loads(json.dumps(snn.report.to_dict()))
        assert data["totals"]["neurons"] == 191
        assert data["layers"][2]["activity"]["size"] == [6, 1, 1]
        assert "bits rows" in data["core_formula"]

    def test_as_a_picture(self, snn: fxsnn.SpikingNetwork) -> None:
        axes = Figure().subplots()
        assert snn.report.plot(axes) is axes
        legend = axes.get_legend()
        assert legend is not None
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels == ["input rows", "codebook range", "threshold range", "firing rate"]
        heights = [patch.get_height() for patch in axes.patches[:4]]  # type: ignore[attr-defined]
        assert heights == pytest.approx([100 * rows / 1024 for rows in (36, 4, 36, 18)])


class TestPage:
    def test_has_all_tables_and_a_figure(self, snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        assert snn.report.save_page(path) == path
        page = path.read_text()
        assert snn.report.to_html() in page
        assert page.count("<img ") == 1
        assert "<title>A spiking network for hw_v1.0</title>" in page
        assert "Accuracy" not in page

    def test_has_what_else_it_is_given(self, snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
        labels = torch.arange(len(X)) % 3
        budget = fxsnn.error_budget(seeded(Tiny), snn, (X, labels))
        sweep = fxsnn.sweep(snn, (X, labels), timesteps=4)
        accuracy = {"<ANN>": 99.5, "spiking": 98.25}
        snn.report.save_page(
            tmp_path / "page.html", "<mine>", accuracy=accuracy, budget=budget, sweep=sweep, note="made & kept"
        )
        page = (tmp_path / "page.html").read_text()
        assert re.findall("<h[12]>(.*?)</h[12]>", page) == [
            "&lt;mine&gt;", "Accuracy", "The network", "Error budget", "Timesteps"
        ]  # fmt: skip
        assert all(f">{cell}</td>" in page for cell in ("&lt;ANN&gt;", "99.50 %", "spiking", "98.25 %"))
        assert budget._repr_html_() in page
        assert sweep._repr_html_() in page
        assert page.count("<img ") == 3
        assert "<p>made &amp; kept</p>" in page

    def test_is_whole_or_not_there(
        self, snn: fxsnn.SpikingNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "page.html").write_text("before")
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(FileError, match="the disk is full"):
            snn.report.save_page(tmp_path / "page.html")
        assert (tmp_path / "page.html").read_text() == "before"


def test_in_inference_mode_it_is_the_same(snn: fxsnn.SpikingNetwork) -> None:
    with torch.inference_mode():
        report = snn.profile(X)
    assert report == snn.profile(X)


def test_what_are_no_images_is_refused(snn: fxsnn.SpikingNetwork) -> None:
    with pytest.raises(DataError, match="that is 3 channels"):
        snn.profile(images())
    with pytest.raises(DataError, match="data is empty"):
        snn.profile(X[:0])


def test_images_of_several_sizes_are_refused(convert: Convert) -> None:
    pooling = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    snn = convert(pooling, calibration_data=X)
    with pytest.raises(DataError, match=r"images have sizes \(1, 6, 6\) and \(1, 5, 5\).*give images of one size"):
        snn.profile([X, X[..., :5, :5]])


@pytest.mark.parametrize("size", [0, -3, 2.5, True])
def test_a_target_with_an_odd_core_is_refused(size: Any) -> None:
    with pytest.raises(OptionError, match=r"core_inputs is .*; allowed are whole numbers from 1, or None"):
        fxsnn.HardwareTarget("odd", registers=Registers(), core_inputs=size)


def test_it_says_of_which_layers_codes_were_chosen_on_the_data(convert: Convert, tmp_path: Path) -> None:
    snn = convert(seeded(Small), bits=3, calibration_data=images(32), correction="auto")
    chosen = snn.provenance["codes_chosen"]
    assert chosen
    note = f"(before any fine-tuning) in: {', '.join(chosen)}; elsewhere each weight is rounded by itself"
    assert note in str(snn.report)
    assert note in str(fxsnn.load(snn.save(tmp_path / "net.fxsnn")).report)
    snn.provenance = {"codes_chosen": []}
    assert "in: no layer; elsewhere" in str(snn.report)
    snn.provenance = {"codes_chosen": 7}  # of nobody's
    assert "codes were chosen" not in str(snn.report)
    assert "codes were chosen" not in str(
        convert(seeded(Small), calibration_data=images(32), correction="biases").report
    )
