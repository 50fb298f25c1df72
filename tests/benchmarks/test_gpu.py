"""The script for a machine with a GPU, tried on the CPU with tiny settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gpu
import pytest
import torch
from gpu import Verdict
from simulators import with_statistics
from simulators_report import FLOAT, HALF, OURS, Row
from strong import WIDTHS, DenselyRun, ShuffledVGG
from torch import nn
from torchvision.transforms.functional import to_pil_image

import fxsnn
from fxsnn.simulation import simulated
from tests.random_circuits import RandomCircuit


def test_engines_are_held_against_pytorch_and_what_cannot_run_says_why(tmp_path: Path) -> None:
    options = ["engines", "--device", "cpu", "--graphs", "2", "--networks", "--out", str(tmp_path)]
    assert gpu.main(options) == 0
    found = [Verdict(**one) for one in json.loads((tmp_path / "gpu-engines.json").read_text())["verdicts"]]
    assert [one.network for one in found if one.engine == "torch" and one.right] == ["random graph 0", "random graph 1"]
    triton = [one for one in found if one.engine == "triton"]
    assert all(one.right or "cannot run this network here" in one.error for one in triton)
    assert "| torch | 2 | 2 |  |" in (tmp_path / "gpu.md").read_text()


def test_a_layer_whose_spikes_or_membranes_differ_is_named_and_so_are_logits_beyond_rounding() -> None:
    circuit = RandomCircuit(0)
    expected = simulated(circuit.graph, circuit.given(2), circuit.dynamics.timesteps)
    assert gpu.differences(expected, expected) == ()
    first, second, *_ = expected.spikes
    spikes = {**expected.spikes, first: 1 - expected.spikes[first]}
    ranges = {**expected.membrane_range, second: (-1e9, 0.0)}
    logits = expected.logits + 1e-3 * expected.logits.abs().max()
    wrong = replace(expected, spikes=spikes, membrane_range=ranges, logits=logits)
    assert gpu.differences(expected, wrong) == (first, second, "logits")
    assert gpu.differences(expected, replace(expected, logits=expected.logits * (1 + 1e-7))) == ()


def test_speed_is_shown_beside_what_the_device_does_at_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(name, "", 2, 4, seconds=(time,)) for name, time in ((OURS, 0.5), (FLOAT, 0.25), (HALF, 0.125))]
    monkeypatch.setattr(gpu, "measure", lambda *_: rows)
    monkeypatch.setattr(gpu, "limits", lambda *_: gpu.Limits(multiplications=100.0, bytes=1000.0))
    monkeypatch.setattr(gpu, "multiplications", lambda _: 1e12)
    options = ["speed", "--device", "cpu", "--networks", "DigitNet", "--batch", "2", "--timesteps", "4"]
    assert gpu.main([*options, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "gpu.md").read_text()
    assert "| 2 | 4 | fxsnn | 16 | 1.00 |" in text
    assert "| 2 | 4 | 16.0 | 16.0% | 16.0% |" in text
    assert gpu.main([*options, "--seconds", "0", "--out", str(tmp_path)]) == 0
    assert "| fxsnn |" not in (tmp_path / "gpu.md").read_text()  # time was over before it began


def test_what_a_device_does_at_best_is_measured() -> None:
    most = gpu.limits("cpu", rows=64, copied=1 << 16)
    assert most.multiplications > 0
    assert most.bytes > 0


@pytest.mark.parametrize("width", [28, pytest.param(56, marks=pytest.mark.slow)])
def test_the_strong_network_is_legal_and_trains_as_the_one_in_groups(width: int) -> None:
    torch.manual_seed(0)
    plain = with_statistics(ShuffledVGG(width), (3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    for bits in WIDTHS[width]:
        assert fxsnn.check(plain, target="hw_v1.0", bits=bits, example=images).ok
    dense = ShuffledVGG(width, DenselyRun)
    dense.load_state_dict(plain.state_dict())
    torch.testing.assert_close(dense.eval()(images), plain(images), rtol=1e-4, atol=1e-5)
    dense(images).sum().backward()
    plain(images).sum().backward()
    gradients = (
        [one.weight.grad for one in network.modules() if isinstance(one, nn.Conv2d) and one.groups > 1]
        for network in (dense, plain)
    )
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_strong_network_is_trained_converted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 520), ("test", 2)):
        for name in ("one", "other"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                image = to_pil_image(torch.rand(3, 32, 32, generator=generator))
                image.save(tmp_path / "data" / part / name / f"{number}.jpg")
    monkeypatch.setattr("accuracy_training.HELD_OUT", 10)
    monkeypatch.setattr("strong._CHANNELS", ((8, 1), (8, 4)))
    monkeypatch.setattr("strong._TIMED", 1)
    options = ["accuracy", "--device", "cpu", "--data_dir", str(tmp_path / "data"), "--training", "0.01"]
    assert gpu.main([*options, "--seconds", "0", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu-accuracy.json").read_text())["rows"]
    assert [(row["width"], row["bits"], row["epochs"], row["tuned"]) for row in rows] == [
        (56, 2, 1, None), (56, 1, 1, None), (28, 4, 1, None),
    ]  # fmt: skip
    assert all((tmp_path / f"strong-{width}.safetensors").exists() for width in WIDTHS)
    assert "| 56 | 1 | 2 | 8 | " in (tmp_path / "gpu.md").read_text()
