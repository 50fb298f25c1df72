"""Networks on signals and on vectors, through every door that takes images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import DataError, OptionError
from tests.engines import ENGINES
from tests.nets import seeded
from tests.random_networks import quiet
from tests.sharing import cases, converted_once

LABELS = torch.arange(40) % 3
SIGNALS = torch.randn(40, 2, 32, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(40, 20, generator=torch.Generator().manual_seed(2))


def averaged() -> nn.Module:
    body = [nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(6, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))


def dense() -> nn.Module:
    first = [nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*first, nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def flattened() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "signals": (averaged, SIGNALS),
    "vectors": (dense, VECTORS),
    "flattened signals": (flattened, SIGNALS),
}
each = pytest.mark.parametrize("name", NETWORKS)


@converted_once
def converted(name: str, **options: Any) -> fxsnn.SpikingNetwork:
    build, given = NETWORKS[name]
    usual = {"target": "generic", "bits": 4, "timesteps": 8, "calibration_data": given, "correction": None}
    with quiet():
        return fxsnn.convert(seeded(build), **{**usual, **options})


def batches(data: str, given: Tensor) -> Any:
    kinds: dict[str, Any] = {
        "a tensor": given,
        "a pair": (given, LABELS),
        "a pair with a column": (given, LABELS[:, None].float()),
        "two batches": (given[:20], given[20:]),
        "a list": [given[:20], given[20:]],
        "a loader": DataLoader(TensorDataset(given, LABELS), 16),
        "an iterator": iter([given[:20], (given[20:], LABELS[20:])]),
    }
    return kinds[data]


@functools.cache
def of_a_tensor(name: str) -> str:
    """The graph of a conversion that is given its images in one tensor."""
    return str(converted(name, correction=None).graph)


@cases(
    "name, data",
    itertools.product(
        NETWORKS, ["a loader", "an iterator", "a pair", "a tensor", "a pair with a column", "two batches", "a list"]
    ),
    quick=[("signals", "a loader"), ("vectors", "an iterator"), ("flattened signals", "a pair")],
)
def test_data_of_any_kind_calibrate_alike(name: str, data: str) -> None:
    given = NETWORKS[name][1]
    assert str(converted(name, calibration_data=batches(data, given), correction=None).graph) == of_a_tensor(name)


@each
def test_every_engine_makes_the_same_spikes_and_logits_are_near_the_networks(name: str) -> None:
    build, given = NETWORKS[name]
    snn = converted(name, timesteps=64)
    with torch.no_grad():
        wanted = seeded(build)(given)
    outputs, spikes = [], []
    for engine in ENGINES:
        snn.engine = engine
        outputs.append(snn(given).detach())
        spikes.append(snn.count_spikes(given))
    assert all(torch.equal(one, outputs[0]) for one in outputs)
    assert all(torch.equal(one[layer], count) for one in spikes for layer, count in spikes[0].items())
    assert float(torch.corrcoef(torch.stack([wanted.flatten(), outputs[0].flatten()]))[0, 1]) > 0.95


def test_signals_are_maps_of_one_row_inside() -> None:
    run = converted("signals").simulate(SIGNALS[:5])
    assert {name: tuple(spikes.shape) for name, spikes in run.spikes.items()} == {
        "0": (8, 5, 6, 1, 32),
        "3": (8, 5, 6, 1, 16),
        "4": (8, 5, 8, 1, 14),
    }
    assert run.logits.shape == (8, 5, 3)


@cases("name", NETWORKS, quick=("signals",))
def test_training_and_correction_see_them(name: str) -> None:
    given = NETWORKS[name][1]
    tuning = fxsnn.Finetune((given, LABELS), epochs=1, spiking_epochs=1, validation=0.2)
    assert converted(name, bits=2, finetune=tuning)(given).shape == (40, 3)
    assert converted(name, bits=2, correction="both")(given).shape == (40, 3)


@cases("name", NETWORKS, quick=("signals",))
def test_insight_sees_them(name: str) -> None:
    build, given = NETWORKS[name]
    model, snn = seeded(build), converted(name)
    assert fxsnn.sweep(snn, (given, LABELS), timesteps=4, model=model).images == 40
    budget = fxsnn.error_budget(model, snn, (given, LABELS))
    assert [layer.layer for layer in budget.layers] == list(snn.count_spikes(given[:1]))
    for analog, real in fxsnn.layer_activations(model, snn, given).values():
        assert analog.shape == real.shape
    assert snn.profile((given, LABELS)).images == 40


@each
def test_a_network_without_data_has_a_size_of_images(name: str) -> None:
    snn = converted(name, calibration_data=None)
    assert snn.image_size is not None
    assert snn(torch.randn(2, *snn.image_size)).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning", "ignore:.*deprecated:FutureWarning")
@cases("name", NETWORKS, quick=("vectors",))
def test_exports_compute_the_same(name: str) -> None:
    given, snn = NETWORKS[name][1], converted(name)
    wanted = snn(given[:7])
    count = torch.export.Dim("count")
    exported = torch.export.export(snn, (given[:4],), dynamic_shapes=({0: count},)).module()
    assert torch.equal(exported(given[:7]), wanted)
    assert torch.equal(torch.jit.trace(snn, given[:4])(given[:7]), wanted)


@each
def test_nir_and_back_is_the_same(name: str) -> None:
    pytest.importorskip("nir")
    given, snn = NETWORKS[name][1], converted(name, reset="zero", initial_membrane=0)
    with quiet():
        graph = fxsnn.to_nir(snn, differences="warn")
    assert torch.equal(fxsnn.from_nir(graph)(given), snn(given))
    reads = next(iter(graph.nodes.values())).input_type["input"]
    assert list(reads) == list(fxsnn.nir_input(snn, given).shape[1:])


REFUSED: dict[str, list[tuple[tuple[int, ...], str]]] = {
    "signals": [
        ((2, 32), r"shape \[2, 32\]; expected \[N, 2, L\] of a floating type"),
        ((3, 2, 8, 8), r"expected \[N, 2, L\]"),
        ((3, 1, 32), r"that is 1 channels; expected \[N, 2, L\]"),
        ((3, 2, 2), "too small|does not accept"),
    ],
    "vectors": [
        ((20,), r"expected \[N, 20\]"),
        ((3, 1, 1, 20), r"expected \[N, 20\]"),
        ((3, 19), r"that is 19 features; expected \[N, 20\]"),
    ],
    "flattened signals": [
        ((64,), r"expected \[N, C, H, W\], \[N, C, L\] or \[N, F\]"),
        ((3, 2, 31), r"does not accept images of shape \[3, 2, 31\]|with images of this size it is given 62"),
    ],
}


@each
def test_images_of_another_shape_are_refused_with_what_is_expected(name: str) -> None:
    snn = converted(name)
    for shape, says in REFUSED[name]:
        for call in (snn, snn.early_readout, snn.simulate, snn.count_spikes):
            with pytest.raises(DataError, match=says):
                call(torch.zeros(shape))


def test_a_flattened_network_takes_images_of_every_rank() -> None:
    snn = converted("flattened signals")
    wanted = snn(SIGNALS)
    for shape in ((40, 64), (40, 8, 8), (40, 1, 8, 8)):
        assert torch.equal(snn(SIGNALS.reshape(shape)), wanted)


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("signals", (2, 32, 1), r"allowed are channels and length, such as \(2, 1000\), or None"),
        ("vectors", (1, 20), r"allowed are features, such as \(64,\), or None"),
    ],
)
def test_a_size_of_another_form_is_refused(name: str, size: tuple[int, ...], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        fxsnn.SpikingNetwork(converted(name).graph, "generic", image_size=size)


@pytest.mark.parametrize("shape", [(8, 32), (8, 1, 2, 32), (8, 3, 32)])
@pytest.mark.filterwarnings("error::fxsnn.FxsnnWarning")
def test_calibration_data_of_another_shape_are_refused_before_any_warning(shape: tuple[int, ...]) -> None:
    given = torch.zeros(shape)
    with pytest.raises(DataError, match=r"expected \[N, 2, L\]"):
        fxsnn.convert(seeded(averaged), target="generic", bits=4, calibration_data=given)
    with pytest.raises(DataError, match=r"expected \[N, 2, L\]"):
        fxsnn.check(averaged(), target="generic", bits=4, example=given)


class TestCheck:
    def test_names_kernels_of_one_row_that_a_chip_has_not(self) -> None:
        report = fxsnn.check(averaged(), target="hw_v1.0", bits=4)
        assert "0: its kernel is 1x5; hw_v1.0 supports 3x3, 5x5" in str(report)
        assert 'or a target with kernels of one row, such as "generic"' in str(report)
        assert fxsnn.check(averaged(), target="generic", bits=4).ok

    def test_takes_a_chip_that_has_them(self) -> None:
        chip = fxsnn.HardwareTarget("ecg", input_channels={(1, 5): {4: 8}, (1, 3): {4: 8}})
        assert fxsnn.check(averaged(), target=chip, bits=4).ok

    def test_of_vectors_needs_no_flatten_but_images_do(self) -> None:
        model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        assert fxsnn.check(model, target="generic", bits=4).ok
        report = fxsnn.check(model, target="generic", bits=4, example=torch.randn(2, 1, 8, 8))
        assert "it reads a map [N, C, H, W], along its last axis. Put nn.Flatten in front of it" in str(report)

    def test_of_a_fully_connected_layer_behind_signals_asks_for_a_flatten(self) -> None:
        model = nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Linear(30, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
        )
        assert "Put nn.Flatten in front of it" in str(fxsnn.check(model, target="generic", bits=4))
