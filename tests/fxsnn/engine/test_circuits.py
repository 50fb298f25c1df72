"""Engines run graphs: any number of readers and inputs, and wiring, give PyTorch's spikes, membranes and counts."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxsnn
from fxsnn.engine import engine_for
from fxsnn.engine.circuit import Unsupported, circuit_of, watched
from fxsnn.errors import DataError, OptionError
from fxsnn.graph import Graph
from fxsnn.layers import Channels, Concat, Decode, Encode, Select, SpikeAdd, SpikeConv2d, SynapseConv2d, Synapses
from fxsnn.simulation import compiled, simulated
from tests.engines import EVERY_ENGINE, needs_numba, same
from tests.nets import images, seeded
from tests.random_circuits import RandomCircuit
from tests.random_networks import random_seeds
from tests.sharing import converted_once

FAST = [name for name in EVERY_ENGINE if name != "torch"]


def hold_against_pytorch(circuit: RandomCircuit, engine: str, given: Tensor) -> None:
    expected = simulated(circuit.graph, given, circuit.dynamics.timesteps)
    fast = compiled(circuit.graph, circuit_of(circuit.graph), engine)
    found = fast.simulated(given)
    assert list(found.spikes) == list(expected.spikes)
    assert same(found.spikes, expected.spikes)
    assert found.membrane_range == expected.membrane_range
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(fast.logits(given), expected.logits[-1])
    assert same(fast.spike_counts(given), {name: one.int() for name, one in expected.spike_counts.items()})
    assert fast.wrong_layers(given[:2]) == []


@pytest.mark.skipif(not FAST, reason="PyTorch alone can run here")
class TestRandomGraphs:
    """Two to four branches, strides, depthwise, pooling, all kinds of wiring, both resets, 1 to 4 bits, T 1 to 40."""

    @random_seeds(10, slow=60)
    def test_give_the_spikes_of_pytorch(self, seed: int) -> None:
        circuit = RandomCircuit(seed, analog=seed % 10 == 9)
        for engine in FAST:
            hold_against_pytorch(circuit, engine, circuit.given((3, 1, 4)[seed % 3] if engine == "numba" else 2))

    @random_seeds(6, slow=40)
    def test_give_them_for_images_that_change(self, seed: int) -> None:
        circuit = RandomCircuit(seed, analog=seed % 10 == 9, frames=True)
        for engine in FAST:
            hold_against_pytorch(circuit, engine, circuit.given((3, 1, 4)[seed % 3] if engine == "numba" else 2))

    @pytest.mark.parametrize("seed", [3, 5])
    def test_give_them_for_more_images_than_are_taken_at_once(self, seed: int) -> None:
        circuit = RandomCircuit(seed)
        hold_against_pytorch(circuit, FAST[0], circuit.given(70))


class Residual(nn.Module):
    """3x12x12: residual sums of both kinds, with a reader beside them, and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.second = nn.Conv2d(10, 10, 3, padding=1)
        self.third = nn.Conv2d(10, 14, 3, stride=2, padding=1)
        self.fourth = nn.Conv2d(14, 14, 3, padding=1, groups=14)
        self.across = nn.Conv2d(10, 14, 1, stride=2)
        self.last = nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x) + x)
        x = F.relu(self.fourth(F.relu(self.third(x))) + self.across(x))
        return self.last(x.mean((2, 3)))


@converted_once
def converted(build: Callable[[], nn.Module] = Residual, **options: Any) -> fxsnn.SpikingNetwork:
    usual = {"target": "generic", "bits": 3, "calibration_data": images(16), "engine": "torch", "correction": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        return fxsnn.convert(seeded(build), **{**usual, **options})


class TestAConvertedNetworkWithBranches:
    @pytest.mark.parametrize("engine", FAST)
    @pytest.mark.parametrize("options", [{}, {"timesteps": 35, "reset": "zero"}, {"timesteps": 1, "bits": 1}])
    def test_gives_the_spikes_of_pytorch(self, engine: str, options: dict[str, Any]) -> None:
        snn, given = converted(**options), images(5)
        expected, logits = snn.simulate(given), snn(given)
        snn.engine = engine
        found = snn.simulate(given)
        assert same(found.spikes, expected.spikes)
        assert found.membrane_range == expected.membrane_range
        assert torch.equal(snn(given), logits)

    @pytest.mark.parametrize("engine", FAST)
    def test_takes_wiring_that_is_put_in_by_hand(self, engine: str) -> None:
        snn, given = converted(), images(3)
        before = snn.simulate(given).spikes
        node = next(one for one in snn.graph if snn.graph.is_a(one, SpikeAdd))
        snn.graph.insert_after(node, "turned", Channels(torch.arange(9, -1, -1)))
        snn.graph.tidy()
        expected = snn.simulate(given).spikes
        assert not same(expected, before)
        snn.engine = engine
        assert same(snn.simulate(given).spikes, expected)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_sees_what_is_written_into_synapses(self, engine: str) -> None:
        snn = converted(engine=engine)
        before = snn(images())
        synapses: Any = snn.graph[snn.graph.nodes(Synapses)[0]]
        synapses.codes.neg_()
        assert not torch.equal(snn(images()), before)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_hooks_on_synapses_are_called(self, engine: str) -> None:
        snn, seen = converted(engine=engine), []
        synapses = snn.graph[snn.graph.nodes(Synapses)[0]]
        handle = synapses.register_forward_hook(lambda *_: seen.append(1))
        assert watched(circuit_of(snn.graph))
        snn(images())
        assert seen == [1]
        handle.remove()

    @needs_numba
    def test_runs_in_the_engine_of_the_cpu_by_itself(self) -> None:
        engine = engine_for("auto", circuit_of(converted().graph))
        assert engine is not None
        assert engine.name == "numba"

    @needs_numba
    @pytest.mark.usefixtures("no_tiles")
    def test_sums_that_do_not_fit_the_tables_run_in_pytorch(self) -> None:
        snn = converted(engine="auto")
        expected = snn(images())
        synapses: Any = snn.graph[snn.graph.nodes(Synapses)[0]]
        synapses.largest_sum = 1 << 16
        snn.engine = "auto"
        assert torch.equal(snn(images()), expected)
        snn.engine = "numba"
        with pytest.raises(OptionError, match=r"the weights of \w+ have magnitudes that add up to 65536"):
            snn(images())

    @needs_numba
    def test_sums_of_images_that_are_not_rounded_are_those_of_pytorch_to_the_last_bit(self) -> None:
        class Branches(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.wide, self.narrow = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1)
                self.last = nn.Linear(6 * 144, 2)

            def forward(self, x: Tensor) -> Any:
                return self.last(F.relu(self.wide(x) + self.narrow(x)).flatten(1))

        from fxsnn.engine.cpu import chosen
        from fxsnn.engine.lookups import leak_of, weights_of
        from fxsnn.engine.workspaces import OfImages

        circuit = circuit_of(converted(Branches, input_bits=None).graph)
        given = torch.randn(4, 3, 12, 12, dtype=torch.float64)
        (number,) = weights_of(circuit, chosen())
        layer: Any = circuit.calls[number].module
        values = circuit.of_images(given)
        expected = layer.drive(*(values[one] for one in circuit.calls[number].inputs))
        assert torch.equal(OfImages(circuit, weights_of(circuit, chosen()), given).sums(number)[0], expected.flatten(2))
        assert not leak_of(layer).any()

    @needs_numba
    def test_images_that_branches_do_not_agree_on_are_refused(self) -> None:
        class Halves(Residual):
            def forward(self, x: Tensor) -> Any:
                x = F.relu(self.first(x))
                x = F.relu(self.fourth(F.relu(self.third(x))) + self.across(F.avg_pool2d(x, 2, 1, 0)))
                return self.last(x.mean((2, 3)))

        snn = converted(Halves, engine="numba")
        with pytest.raises(DataError, match=r"would add up maps of 14x7x7, 14x6x6"):
            snn(images(size=13))

    @needs_numba
    def test_images_that_have_not_the_rows_that_are_chosen_are_refused(self) -> None:
        snn = converted(engine="numba")
        node = next(one for one in snn.graph if snn.graph.is_a(one, SpikeAdd))
        snn.graph.insert_after(node, "chosen", Select(range(12), (11, 0, 1)))
        snn.graph.tidy()
        snn(images(size=12))
        with pytest.raises(DataError, match=r"size chosen cannot join .*: it takes place 11 of maps of 10, from 0 on"):
            snn(images(size=10))


class ImagesInASum(nn.Module):
    """3x12x12: a sum of spikes and of a convolution of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.beside = (nn.Conv2d(count, 6, 3, padding=1) for count in (3, 6, 3))
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(F.relu(self.second(F.relu(self.first(x))) + self.beside(x)).mean((2, 3)))


@pytest.mark.parametrize("engine", FAST)
class TestASumThatReadsImages:
    def test_gives_the_spikes_of_pytorch(self, engine: str) -> None:
        snn, given = converted(ImagesInASum), images(3)
        expected = snn.simulate(given)
        snn.engine = engine
        found = snn.simulate(given)
        assert same(found.spikes, expected.spikes)
        assert found.membrane_range == expected.membrane_range

    def test_runs_in_pytorch_where_these_are_not_rounded(self, engine: str) -> None:
        snn = converted(ImagesInASum, input_bits=None)
        expected = snn(images())
        snn.engine = "auto"
        assert torch.equal(snn(images()), expected)
        snn.engine = engine
        with pytest.raises(OptionError, match="adds up spikes and images that are not rounded"):
            snn(images())


class TestTheCircuit:
    def test_names_calls_with_what_they_read(self) -> None:
        calls = circuit_of(converted().graph).calls
        found = {call.name: [calls[one].name for one in call.inputs] for call in calls}
        sums = [reads for call, reads in zip(calls, found.values(), strict=True) if isinstance(call.module, SpikeAdd)]
        assert sums == [["second", "first"], ["fourth", "across"]]
        assert [call.name for call in calls if call.images] == ["encode"]

    def test_a_value_lives_until_its_last_reader(self) -> None:
        circuit = circuit_of(converted().graph)
        names = [call.name for call in circuit.calls]
        last = dict(zip(names, circuit.last_readers, strict=True))
        assert isinstance(circuit.calls[last["first"]].module, SpikeAdd)
        assert last[names[-1]] == len(names) - 1

    def test_what_is_no_spiking_graph_is_named(self) -> None:
        with pytest.raises(Unsupported, match="0 encoders and 0 decoders"):
            circuit_of(fxsnn.capture(seeded(Residual), images()))

    def edited(self, edit: Callable[[Graph], object]) -> Graph:
        graph = converted().graph.copy()
        edit(graph)
        graph.tidy()
        return graph

    def test_a_layer_that_it_does_not_know_is_named(self) -> None:
        graph = self.edited(lambda graph: graph.insert_after(graph.nodes(SpikeConv2d)[0], "odd", nn.Identity()))
        with pytest.raises(Unsupported, match="odd is a Identity"):
            circuit_of(graph)

    def test_sums_that_something_else_reads_are_named(self) -> None:
        graph = self.edited(
            lambda graph: graph.insert_after(graph.nodes(SynapseConv2d)[0], "turned", Channels(torch.arange(10)))
        )
        with pytest.raises(Unsupported, match="turned reads sums that are no spikes"):
            circuit_of(graph)

    def test_spikes_that_the_tail_reads_beside_the_decoder_are_named(self) -> None:
        def edit(graph: Graph) -> None:
            first, output = graph.nodes(SpikeConv2d)[0], graph.output()
            output.args = ((output.args[0], first),)

        with pytest.raises(Unsupported, match="first is read by more than layers that spike"):
            circuit_of(self.edited(edit))

    def test_images_among_spikes_are_named(self) -> None:
        def edit(graph: Graph) -> None:
            encode, first = graph.nodes(Encode)[0], graph.nodes(SpikeConv2d)[0]
            joined = graph.insert_after(first, "joined", Concat())
            joined.args = (first, encode)

        with pytest.raises(Unsupported, match="joined reads images and spikes"):
            circuit_of(self.edited(edit))

    def test_a_layer_that_had_spikes_and_reads_images_is_named(self) -> None:
        def edit(graph: Graph) -> None:
            encode = graph.nodes(Encode)[0]
            third = next(one for one in graph if one.target == "third")
            third.args = (encode,)

        with pytest.raises(Unsupported, match="third does not read what it was converted for"):
            circuit_of(self.edited(edit))

    def test_a_graph_without_neurons_is_named(self) -> None:
        program, root = fx.Graph(), nn.Module()
        given = RandomCircuit(0)
        encode, decode = (given.graph[given.graph.nodes(kind)[0]] for kind in (Encode, Decode))
        root.add_module("encode", encode)
        root.add_module("decode", decode)
        read = program.call_module("encode", (program.placeholder("images"),))
        program.output(program.call_module("decode", (read,)))
        with pytest.raises(Unsupported, match="nothing spikes in front of the decoder"):
            circuit_of(Graph(fx.GraphModule(root, program), given.image))


@needs_numba
class TestTheMemoryOfTheCpuEngine:
    @pytest.mark.parametrize("name", ["Amx", "Avx2", "Avx512vbmi", "Neon"])
    def test_spikes_take_the_place_of_those_that_have_been_read(self, name: str) -> None:
        from fxsnn.engine import instructions
        from fxsnn.engine.layout import layout_of
        from fxsnn.engine.lookups import weights_of
        from fxsnn.engine.planning import plan_of

        shared = False
        for seed in range(8):
            given = RandomCircuit(seed)
            circuit = circuit_of(given.graph)
            how = getattr(instructions, name)()
            weights = weights_of(circuit, how)
            plan = plan_of(circuit, weights, layout_of(circuit, weights, given.image, how), 2, 16)
            places = plan.places()
            sizes = [16 * groups * length for groups, length in plan.shapes]
            last = [
                max([one.number, *(other.number for other in plan.operations if one.number in other.inputs)])
                for one in plan.operations
            ]
            for one, other in itertools.combinations(range(len(sizes)), 2):
                begins, ends = places.origins, [b + s for b, s in zip(places.origins, sizes, strict=True)]
                apart = ends[one] <= begins[other] or ends[other] <= begins[one]
                assert apart or last[one] < other
            shared |= any(places.shared)
        assert shared

    def test_a_deep_network_takes_no_more_than_a_shallow_one(self) -> None:
        from fxsnn.engine.instructions import Avx2
        from fxsnn.engine.layout import layout_of
        from fxsnn.engine.lookups import weights_of
        from fxsnn.engine.planning import plan_of

        def size(depth: int) -> int:
            layers = itertools.chain.from_iterable((nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(depth))
            model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(1152, 2))
            circuit = circuit_of(converted(lambda: model).graph)
            weights = weights_of(circuit, Avx2())
            return plan_of(circuit, weights, layout_of(circuit, weights, (3, 12, 12), Avx2()), 4, 16).places().size

        assert size(12) == size(2)

    def test_a_depthwise_convolution_looks_up_its_own_channels_only(self) -> None:
        from fxsnn.engine.tables import convolution_tables

        codes = np.ones((32, 1, 3, 3), np.int8)
        assert len(convolution_tables(codes, 32, 4).tables) == 32 // 4 * 9
