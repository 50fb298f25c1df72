"""Networks on signals and vectors in files: the same to the bit when they are loaded, and no file of maps changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import FileError
from fxsnn.layers import ImageForm
from fxsnn.storage import load_arrays, save_arrays
from tests.nets import seeded
from tests.random_networks import quiet
from tests.sharing import cases, converted_once

SIGNALS, VECTORS = torch.randn(12, 2, 32), torch.randn(12, 20)


def on_signals(*tail: nn.Module) -> nn.Module:
    body = [nn.Conv1d(2, 4, 5, padding=2), nn.BatchNorm1d(4), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*body, *tail)


def on_vectors() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "signals": (lambda: on_signals(nn.Flatten(), nn.Linear(84, 3)), SIGNALS),
    "signals, averaged": (lambda: on_signals(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3)), SIGNALS),
    "signals, as they are": (on_signals, SIGNALS),
    "vectors": (on_vectors, VECTORS),
    "flattened signals": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3)), SIGNALS),
}


@converted_once
def converted(name: str, **options: Any) -> fxsnn.SpikingNetwork:
    build, given = NETWORKS[name]
    chosen: dict[str, Any] = {"target": "generic", "bits": 4, "timesteps": 6, "codebook": "symmetric"}
    with quiet():
        return fxsnn.convert(seeded(build), **{**chosen, "calibration_data": given, **options})


@pytest.mark.parametrize("name", NETWORKS)
@cases("input_bits", [8, None], quick=1)
def test_what_is_loaded_is_what_was_saved(name: str, input_bits: int | None, tmp_path: Path) -> None:
    snn, given = converted(name, input_bits=input_bits), NETWORKS[name][1]
    path = snn.save(tmp_path / "net.fxsnn")
    assert fxsnn.verify(path).ok
    again = fxsnn.load(path)
    assert again.graph.image_form == snn.graph.image_form
    assert again.image_size == snn.image_size == tuple(given.shape[1:])
    assert torch.equal(again(given), snn(given))
    counts = again.count_spikes(given)
    assert all(torch.equal(counts[layer], count) for layer, count in snn.count_spikes(given).items())
    assert load_arrays(path)[1]["version"] == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_check_says_that_they_can_be_saved(name: str) -> None:
    report = fxsnn.check(seeded(NETWORKS[name][0]), target="generic", bits=4)
    assert (report.ok, report.unwritable) == (True, ())


@pytest.mark.parametrize("name", ["signals", "vectors", "flattened signals"])
def test_the_reader_in_numpy_makes_every_spike(name: str, tmp_path: Path) -> None:
    assert read_network.main(str(converted(name).save(tmp_path / "net.fxsnn"))) == 0


def test_a_network_on_maps_is_of_version_1_and_says_nothing_of_dimensions(tmp_path: Path) -> None:
    for layers in ([nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)], [nn.Flatten(), *on_vectors()]):
        size = (1, 8, 8) if len(layers) == 4 else (1, 4, 5)
        with quiet():
            given: dict[str, Any] = {
                "target": "generic",
                "bits": 4,
                "codebook": "symmetric",
                "example": torch.randn(2, *size),
            }
            snn = fxsnn.convert(nn.Sequential(*layers).eval(), **given)
        _, document = load_arrays(snn.save(tmp_path / "net.fxsnn"))
        assert document["version"] == 1
        assert set(document["nodes"][1]) == {"op", "name", "reads", "unit", "bits", "channels"}


Edit = Callable[[dict[str, Any]], None]

DAMAGE: dict[str, tuple[Edit, str]] = {
    "of another rank": (lambda document: document["nodes"][1].update(rank=4), "is not one of"),
    "of no rank": (lambda document: document["nodes"][1].pop("rank"), r"images of this network are \[N, 2, H, W\]"),
    "vectors": (lambda document: document["nodes"][1].update(rank=2), r"images of this network are \[N, 2\]"),
    "an image": (lambda document: document.update(image_size=[2, 32, 1]), r"images of this network are \[N, 2, L\]"),
    "of no sides": (lambda document: document.update(image_size=[]), "image_size"),
    "too short": (lambda document: document.update(image_size=[2, 5]), "nothing is left"),
    "in version 1": (lambda document: document.update(version=1), "image_size"),
    "pooled to nothing": (lambda document: document["nodes"][-4].update(output_size=0), "is not valid"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_does_not_fit_together_is_refused(name: str, tmp_path: Path) -> None:
    arrays, document = load_arrays(converted("signals, averaged").save(tmp_path / "net.fxsnn", golden=0))
    edit, says = DAMAGE[name]
    edit(document)
    save_arrays(tmp_path / "damaged.fxsnn", arrays, document)
    with pytest.raises(FileError, match=says):
        fxsnn.load(tmp_path / "damaged.fxsnn")


def test_the_form_of_images_comes_back_without_a_size(tmp_path: Path) -> None:
    arrays, document = load_arrays(converted("signals").save(tmp_path / "net.fxsnn", golden=0))
    document["image_size"] = None
    snn = fxsnn.load(save_arrays(tmp_path / "sizeless.fxsnn", arrays, document))
    assert snn.graph.image_form == ImageForm(2, 3)
    assert snn(SIGNALS).shape == (12, 3)
