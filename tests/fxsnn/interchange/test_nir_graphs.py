"""NIR graphs with sums of several inputs: to other simulators and back, and what readers make of them unless told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

import fxsnn
from fxsnn.errors import FileError, InterchangeWarning, ModelError
from fxsnn.layers import Channels, Concat
from tests.engines import same
from tests.random_networks import random_seeds
from tests.readers import Trains, run_norse, run_sinabs
from tests.spiking_graphs import Made, SpikingGraph, random_graph

ZERO: dict[str, Any] = {"reset": "zero", "initial_membrane": 0}


def block(make: SpikingGraph) -> Made:
    """A sum of two convolutions, and one of a convolution and its own input."""
    first = make.conv(make.images, 4, padding=1)
    second = make.add(make.synapses(first, 4, padding=1, groups=2), first)
    return make.add(make.synapses(second, 6, stride=2, padding=1), make.synapses(first, 6, 1, stride=2))


def network(**options: Any) -> fxsnn.SpikingNetwork:
    """A block with a fully connected layer behind it, which NIR can say."""
    make = SpikingGraph(seed=1, **{**ZERO, **options})
    return make.network(make.linear(make.flatten(block(make)), 5))


def of_features(make: SpikingGraph) -> Made:
    """Sums of rows: one that adds spikes first, and one of them twice."""
    read = make.linear(make.flatten(make.images), 6)
    return make.add(read, make.synapses(read, 6), read)


def of_images(make: SpikingGraph) -> Made:
    """A sum that adds the images themselves, and one of nothing else but them."""
    beside = make.add(make.images, make.synapses(make.images, 3, padding=1))
    return make.flatten(make.add(beside, make.images))


def written(snn: fxsnn.SpikingNetwork, folder: Path) -> Any:
    """The graph as a reader finds it."""
    with pytest.warns(InterchangeWarning, match="it adds up several inputs"):
        nir.write(folder / "net.nir", fxsnn.to_nir(snn, differences="warn"))
    return nir.read(folder / "net.nir")


def images(count: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def assert_same_spikes(trains: Trains, run: fxsnn.Run) -> None:
    """Every layer, every step, every neuron."""
    for (name, expected), train in zip(run.spikes.items(), trains, strict=True):
        assert torch.equal(train.reshape(expected.shape), expected), name


@pytest.mark.parametrize("input_bits", [8, None])
@pytest.mark.parametrize("build", [lambda make: make.flatten(block(make)), of_features, of_images])
def test_norse_and_sinabs_told_in_which_order_to_run_make_the_same_spikes(
    build: Callable[[SpikingGraph], Made], input_bits: int | None, tmp_path: Path
) -> None:
    make = SpikingGraph(seed=2, input_bits=input_bits, **ZERO)
    snn = make.network(make.linear(build(make), 5))
    graph, run, drive = written(snn, tmp_path), snn.simulate(images()), fxsnn.nir_input(snn, images())
    for trains, outputs in (
        run_norse(graph, drive.float(), 5, ordered=True),
        run_sinabs(graph, drive.float(), 5, "zero", ordered=True),
    ):
        assert_same_spikes(trains, run)
        torch.testing.assert_close(outputs.mean(0), run.logits[-1], rtol=1e-4, atol=1e-5)
    assert same(fxsnn.from_nir(graph).simulate(images()).spikes, run.spikes)


def test_untold_they_make_others_without_a_word_which_is_why_it_is_refused(tmp_path: Path) -> None:
    snn = network()
    run, drive = snn.simulate(images()), fxsnn.nir_input(snn, images())
    says = r"1 problem:\n  add4, add7: it adds up several inputs, and readers built on nirtorch .* in the order of"
    with pytest.raises(ModelError, match=says):
        fxsnn.to_nir(snn)
    graph = written(snn, tmp_path)
    for trains, _ in (run_norse(graph, drive, 5), run_sinabs(graph, drive, 5, "zero")):
        assert sum(train.sum() for train in trains) != sum(spikes.sum() for spikes in run.spikes.values())


@random_seeds(3, slow=33)
def test_random_graphs_make_the_same_spikes_in_both_and_come_back(seed: int, tmp_path: Path) -> None:
    snn = random_graph(seed, wired=False, input_bits=8, **ZERO)
    graph, run, drive = written(snn, tmp_path), snn.simulate(images()), fxsnn.nir_input(snn, images())
    steps = snn.timesteps
    assert_same_spikes(run_norse(graph, drive, steps, ordered=True)[0], run)
    assert_same_spikes(run_sinabs(graph, drive, steps, "zero", ordered=True)[0], run)
    assert same(fxsnn.from_nir(graph).simulate(images()).spikes, run.spikes)


@pytest.mark.parametrize(
    "options", [{}, {"reset": "subtraction", "initial_membrane": 0.5}, {"input_bits": None}], ids=str
)
def test_back_comes_the_very_network(options: dict[str, Any], tmp_path: Path) -> None:
    snn = network(**options)
    back = fxsnn.from_nir(written(snn, tmp_path))
    expected, found = snn.simulate(images(3)), back.simulate(images(3))
    assert same(found.spikes, expected.spikes)
    assert torch.equal(found.logits, expected.logits)
    assert found.membrane_range == expected.membrane_range


def test_codes_whose_gain_is_zero_come_back_too(tmp_path: Path) -> None:
    make = SpikingGraph(seed=1, **ZERO)
    read = make.conv(make.images, 4, padding=1)
    synapses = make.synapses(read, 4, padding=1)
    assert synapses.synapses is not None
    synapses.synapses.gain[1] = 0
    snn = make.network(make.linear(make.flatten(make.add(synapses, read)), 3))
    back: Any = fxsnn.from_nir(written(snn, tmp_path))
    name = str(synapses.node.target)
    assert torch.equal(back.get_submodule(name).codes, synapses.synapses.codes)
    assert same(back.simulate(images()).spikes, snn.simulate(images()).spikes)


@pytest.mark.parametrize(
    ("name", "attribute", "change", "says"),
    [
        ("synapses", "weight", lambda one: one * 0.5, "its weights over the gain are not integers"),
        ("synapses", "weight", lambda one: one * 100, r"its weights are not 4-bit codes \(-7\.\.7\) times their gains"),
        ("input1", "weight", lambda one: one + 0.25 * np.eye(4)[:, :, None, None], "its weights are not integers"),
        ("input1", "weight", lambda one: one + 1, r"what it adds of layer\d+ is not its real weight / step"),
        (
            "input1",
            "weight",
            lambda one: one + 1 - np.eye(4)[:, :, None, None],
            r"changed were n\d+_add\d+_input1\.weight",
        ),
        ("input1", "bias", lambda one: one + 1, r"changed were n\d+_add\d+_input1\.bias"),
        ("add", "v_threshold", lambda one: one + 1, "its spike value is not threshold"),
    ],
)
def test_what_was_changed_into_something_else_is_refused(
    name: str, attribute: str, change: Any, says: str, tmp_path: Path
) -> None:
    graph = written(network(), tmp_path)
    key = next(key for key in graph.nodes if name in key and hasattr(graph.nodes[key], attribute))
    setattr(graph.nodes[key], attribute, change(getattr(graph.nodes[key], attribute)))
    with pytest.raises(FileError, match=says):
        fxsnn.from_nir(graph)


def test_another_leak_of_a_sum_counts(tmp_path: Path) -> None:
    snn = network()
    graph = written(snn, tmp_path)
    (first,) = (source for source, reader in graph.edges if reader.endswith("add4_neurons") and "synapses" in source)
    graph.nodes[first].bias = graph.nodes[first].bias + 7
    add: Any = fxsnn.from_nir(graph).get_submodule("add4")
    own: Any = snn.get_submodule("add4")
    assert torch.equal(add.leak, own.leak + 7)


@pytest.mark.parametrize("differences", ["refuse", "warn"])
def test_wiring_is_refused_by_name_whatever_the_reader_is_told(differences: str) -> None:
    make = SpikingGraph(seed=1, **ZERO)
    read = make.conv(make.images, 4)
    joined = make.wire(Concat(), make.wire(Channels(torch.tensor([1, 0])), read), read)
    snn = make.network(make.linear(make.flatten(joined), 5))
    says = r"(?s)2 problems:.*wire3: NIR has no node for a Channels.*wire4: .*Concat.*snn\.save"
    with pytest.raises(ModelError, match=says):
        fxsnn.to_nir(snn, differences=differences)
