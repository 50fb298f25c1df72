"""Networks that branch, join and are wired in files: the very spikes when they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import FileError
from fxsnn.file import unwritable
from fxsnn.layers import (
    Channels,
    Concat,
    Integers,
    PixelShuffle,
    Places,
    Repeat,
    Select,
    SpikeAdd,
    Spread,
    SynapseConv2d,
    Tap,
    Taps,
    Turn,
    Wiring,
)
from fxsnn.storage import load_arrays
from tests.converted_graphs import NETWORKS, converted, wired
from tests.engines import same
from tests.nets import seeded
from tests.random_networks import random_seeds
from tests.sharing import cases
from tests.spiking_graphs import SpikingGraph, random_graph


def assert_comes_back(snn: fxsnn.SpikingNetwork, given: Tensor, folder: Path) -> None:
    """The very network is loaded, verified, saved again to the byte, and run by the reader in numpy."""
    path = snn.save(folder / "net.fxsnn")
    other = fxsnn.load(path)
    expected, found = snn.simulate(given), other.simulate(given)
    assert same(found.spikes, expected.spikes)
    assert torch.equal(found.logits, expected.logits)
    assert found.membrane_range == expected.membrane_range
    assert any(bool(one.any()) for one in expected.spikes.values())
    assert fxsnn.verify(path).ok
    assert other.save(folder / "again.fxsnn").read_bytes() == path.read_bytes()
    assert read_network.main(str(path)) == 0


CASES: list[tuple[str, dict[str, Any]]] = [
    ("residual", {}),
    ("residual", {"bits": 1, "input_bits": None, "per_channel": False}),
    ("of vectors", {"reset": "zero", "initial_membrane": 0}),
]


@cases("name, options", CASES, quick=CASES[1:], ids=str)
def test_sums_of_several_inputs_come_back(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    snn = converted(name, **options)
    assert snn.graph.nodes(SpikeAdd)
    assert_comes_back(snn, NETWORKS[name][1], tmp_path)
    assert load_arrays(tmp_path / "net.fxsnn")[1]["version"] == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_check_says_that_sums_can_be_saved(name: str) -> None:
    model, given = seeded(NETWORKS[name][0]), NETWORKS[name][1]
    assert fxsnn.check(model, target="generic", bits=4, example=given).unwritable == ()


@random_seeds(4, slow=68)
def test_random_graphs_come_back(seed: int, tmp_path: Path) -> None:
    assert_comes_back(random_graph(seed), torch.randn(3, 3, 8, 8), tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_of_graphs_without_numbers_it_is_said_too_that_they_can_be_saved(seed: int) -> None:
    graph = random_graph(seed).graph
    for node in graph.nodes(Integers):
        layer: Any = graph[node]
        for name, buffer in layer.named_buffers():
            if name not in ("weights", "spike_value"):  # which tell how many channels there are
                setattr(layer, name, buffer * 0)
    assert unwritable(graph, fxsnn.get_target("generic"), (3, 8, 8)) == []


@pytest.mark.parametrize(
    "layer",
    [
        Concat(),
        Channels(torch.tensor([3, 0, 0, 2])),
        Channels(torch.tensor([-1, 0, 2, -1])),
        Places((1, 2), (0, 3)),
        Select((-1, 0, 1, 5, 4, 4), (2, 1, 0, 1, -1)),
        Repeat(2, 3),
        Spread(2, 3, (1, 0, 2, 1)),
        Spread(3, 1, (-1, 2, 3, -2)),
        PixelShuffle(2),
        PixelShuffle(2, back=True),
        Turn(True, False, True),
        Turn(False, True, False),
        Tap(Taps(3, 2, 1), Taps(2, 2), 0, 1),
        Tap(Taps(3, 2, 1, 1, ceil=True), Taps(2, 3, 1, 2, ceil=True), 2, 1),
    ],
    ids=lambda one: f"{type(one).__name__}({one.extra_repr()})",
)
def test_wiring_comes_back(layer: Wiring, tmp_path: Path) -> None:
    assert_comes_back(wired(layer), torch.randn(3, 3, 8, 8), tmp_path)


class Shuffled(nn.Module):
    """2x6x6: pixels of many channels become places, are cropped and added; and back again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 16, 3, padding=1)
        self.last, self.fc = nn.Conv2d(12, 6, 1), nn.Linear(54, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        x = F.relu(F.pixel_shuffle(F.relu(self.wide(x)), 2)[:, :, 1:7, :6] + x)
        return self.fc(F.relu(self.last(F.pixel_unshuffle(x, 2)[:, 4:])).flatten(1))


def test_layers_behind_a_pixel_shuffle_read_as_many_channels_as_it_gives(convert: Any, tmp_path: Path) -> None:
    given = torch.randn(4, 2, 6, 6)
    snn = convert(seeded(Shuffled), target="generic", bits=4, timesteps=16, calibration_data=given)
    assert_comes_back(snn, given, tmp_path)


def test_wiring_stands_before_the_first_layer_behind_the_last_one_and_in_the_tail(tmp_path: Path) -> None:
    make = SpikingGraph(seed=5)
    first = make.conv(make.wire(Channels(torch.tensor([2, 1])), make.images), 4)
    snn = make.network(make.wire(Concat(), first, make.conv(first, 3, padding=1)))
    graph = snn.graph
    (mean,) = graph.nodes(nn.AdaptiveAvgPool2d)
    graph.insert_after(mean, "turned", Channels(torch.tensor([6, 5, 4, 3, 2, 1, 0])))
    graph.tidy()
    assert_comes_back(fxsnn.SpikingNetwork(graph, "generic", image_size=(3, 8, 8)), torch.randn(3, 3, 8, 8), tmp_path)


def test_wiring_in_the_tail_that_takes_what_is_not_there_is_refused(tmp_path: Path) -> None:
    make = SpikingGraph(seed=5)
    graph = make.network(make.conv(make.images, 4)).graph
    graph.insert_after(graph.nodes(nn.AdaptiveAvgPool2d)[0], "turned", Channels(torch.tensor([0, 1, 2, 4])))
    graph.tidy()
    snn = fxsnn.SpikingNetwork(graph, "generic", image_size=(3, 8, 8))
    with pytest.raises(FileError, match="its tail does not fit together: turned: it takes the channels 0 to 4 of 4"):
        snn.save(tmp_path / "net.fxsnn", golden=0)


@pytest.mark.parametrize("input_bits", [8, None])
def test_sums_that_add_images_come_back(input_bits: int | None, tmp_path: Path) -> None:
    make = SpikingGraph(seed=2, input_bits=input_bits)
    beside = make.add(make.images, make.synapses(make.images, 3, padding=1), make.images)
    snn = make.network(make.add(beside, make.wire(Channels(torch.tensor([2, 0, 1])), make.images)))
    assert_comes_back(snn, torch.randn(3, 3, 8, 8), tmp_path)


def test_a_network_whose_image_size_is_not_known_comes_back(tmp_path: Path) -> None:
    make = SpikingGraph(seed=7)
    made = make.conv(make.images, 4)
    flat = make.flatten(make.add(make.synapses(made, 4, padding=1), made))
    snn = make.network(make.add(make.synapses(flat, 5), make.linear(flat, 5)), image_size=None)
    given = torch.randn(3, 3, 8, 8)
    found = fxsnn.load(snn.save(tmp_path / "net.fxsnn", golden=0))
    assert found.image_size is None
    assert same(found.simulate(given).spikes, snn.simulate(given).spikes)


def test_a_chain_is_of_version_1_as_before(tmp_path: Path) -> None:
    make = SpikingGraph(seed=0)
    snn = make.network(make.pool(make.conv(make.conv(make.images, 4), 4)))
    assert load_arrays(snn.save(tmp_path / "net.fxsnn"))[1]["version"] == 1


def test_the_document_says_what_each_node_reads(tmp_path: Path) -> None:
    _, document = load_arrays(converted().save(tmp_path / "net.fxsnn"))
    nodes = document["nodes"]
    told = [(one["name"], one["op"], [nodes[place]["name"] for place in one["reads"]])
            for one in nodes if isinstance(one.get("reads"), list)]  # fmt: skip
    assert told == [
        ("first.add", "spike_add", ["first.conv2", "stem"]),
        ("second.add", "spike_add", ["second.conv2", "second.down"]),
    ]


class OddWiring(Repeat):
    """One that no file knows."""


def test_wiring_that_the_format_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"wire\d+: a OddWiring has no name in the format of files"):
        wired(OddWiring(2, 2)).save(tmp_path / "net.fxsnn")


def test_a_layer_derived_from_synapses_is_refused_by_name(tmp_path: Path) -> None:
    class Own(SynapseConv2d):
        """May do something else."""

    make = SpikingGraph(seed=0)
    snn = make.network(make.add(make.synapses(make.images, 4)))
    next(one for one in snn.modules() if isinstance(one, SynapseConv2d)).__class__ = Own
    with pytest.raises(FileError, match=r"synapses\d+: a Own has no name in the format of files"):
        snn.save(tmp_path / "net.fxsnn")
