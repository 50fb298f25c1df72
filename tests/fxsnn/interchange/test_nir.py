"""NIR: what is written is run by other simulators to the same spikes, and what cannot be said is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import FileError, InterchangeWarning, ModelError, OptionError
from tests.engines import same
from tests.nets import CONVERTIBLE, Small, images, seeded
from tests.random_networks import convertible_case, noise, quiet, random_seeds
from tests.readers import Trains, run_norse, run_sinabs
from tests.sharing import cases, converted_once
from tests.tails import alike, with_tail

PLAIN: dict[str, Any] = {"reset": "zero", "initial_membrane": 0}


@converted_once
def network(model: nn.Module | None = None, **options: Any) -> fxsnn.SpikingNetwork:
    """A small network that NIR can say, unless options say otherwise."""
    given: dict[str, Any] = {"target": "generic", "bits": 2, "timesteps": 7, "calibration_data": images(32), **PLAIN}
    with quiet():
        return fxsnn.convert(model or seeded(Small), **{**given, "correction": None, **options})


def assert_same_spikes(trains: Trains, run: fxsnn.Run) -> None:
    """Every layer, every step, every neuron."""
    assert len(trains) == len(run.spikes)
    for (name, expected), train in zip(run.spikes.items(), trains, strict=True):
        assert train.numel() == expected.numel(), name
        assert torch.equal(train.reshape(expected.shape), expected), name


def by_name(graph: Any, name: str) -> Any:
    """The node of a layer."""
    return next(node for key, node in graph.nodes.items() if key[6:] == name)


def last_affine(graph: Any) -> Any:
    """The final fully connected layer."""
    return by_name(graph, "fc")


def through_a_file(graph: Any, folder: Path) -> Any:
    """The graph as a reader finds it."""
    nir.write(folder / "net.nir", graph)
    return nir.read(folder / "net.nir")


class TestOtherSimulators:
    @cases("bits", [4, 1], quick=1)
    @cases("name", ["modules", "dense", "hand-written"], quick=2)
    def test_norse_as_it_is_and_sinabs_make_the_same_spikes_and_logits(
        self, name: str, bits: int, tmp_path: Path
    ) -> None:
        snn = network(seeded(CONVERTIBLE[name]), bits=bits)
        x = images(1, seed=5)
        run, drive = snn.simulate(x), fxsnn.nir_input(snn, x)
        graph = through_a_file(fxsnn.to_nir(snn), tmp_path)
        for trains, outputs in (run_norse(graph, drive, 7), run_sinabs(graph, drive, 7, "zero")):
            assert_same_spikes(trains, run)
            torch.testing.assert_close(outputs.mean(0), run.logits[-1], rtol=1e-4, atol=1e-5)

    @random_seeds(2, slow=13)
    def test_random_networks_make_the_same_spikes_in_both(self, seed: int, tmp_path: Path) -> None:
        case = convertible_case(seed, padded=seed % 2 == 1)
        snn, x = case.snn, noise(case.plan, 1, seed)
        snn.reset, snn.initial_membrane, snn.timesteps = "zero", 0, 6
        run, drive = snn.simulate(x), fxsnn.nir_input(snn, x)
        graph = fxsnn.to_nir(snn)
        assert_same_spikes(run_norse(graph, drive, 6)[0], run)
        assert_same_spikes(run_sinabs(graph, drive, 6, "zero")[0], run)
        assert same(fxsnn.from_nir(through_a_file(graph, tmp_path)).simulate(x).spikes, run.spikes)

    @pytest.mark.parametrize("start", [0, 0.5])
    def test_sinabs_told_to_subtract_and_where_to_start_makes_the_same_spikes(self, start: float) -> None:
        snn = network(reset="subtraction", initial_membrane=start)
        with pytest.warns(InterchangeWarning, match="reset: the network subtracts"):
            graph = fxsnn.to_nir(snn, differences="warn")
        x = images(1, seed=5)
        run = snn.simulate(x)
        membranes = [
            (torch.from_numpy(graph.nodes[name].v_threshold) * start).floor()
            for name in graph.nodes
            if name.endswith("_neurons")
        ]
        trains, _ = run_sinabs(graph, fxsnn.nir_input(snn, x), snn.timesteps, "subtraction", membranes)
        assert_same_spikes(trains, run)

    def test_a_reader_that_is_not_told_computes_something_else(self) -> None:
        snn = network(reset="subtraction", initial_membrane=0.5, timesteps=16)
        with quiet():
            graph = fxsnn.to_nir(snn, differences="warn")
        x = images(1, seed=5)
        trains, _ = run_norse(graph, fxsnn.nir_input(snn, x), snn.timesteps)
        assert trains[0].sum() < snn.simulate(x).spikes["conv1"].sum()

    def test_groups_and_padded_poolings_are_said_in_a_way_that_readers_know(self) -> None:
        def build() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 2, 1),
                nn.Conv2d(4, 6, (3, 2), stride=(1, 2), dilation=(2, 1), groups=2), nn.ReLU(), nn.Flatten(),
                nn.Linear(36, 5),
            )  # fmt: skip

        snn = network(seeded(build))
        x = images(1, seed=5)
        graph = fxsnn.to_nir(snn)
        for trains, _ in (
            run_norse(graph, fxsnn.nir_input(snn, x), 7),
            run_sinabs(graph, fxsnn.nir_input(snn, x), 7, "zero"),
        ):
            assert_same_spikes(trains, snn.simulate(x))
        assert same(fxsnn.from_nir(graph).simulate(x).spikes, snn.simulate(x).spikes)

    @cases(
        "sides, dilation, kernel, padding",
        [((3, 1, 0, 2), 2, (4, 4), (3, 2)), ((1, 2, 1, 1), 1, (4, 3), (2, 1)), ((0, 1, 3, 0), 2, (6, 8), (1, 3))],
        quick=1,
    )
    def test_sides_that_are_padded_each_by_itself_are_taps_of_zero(
        self, sides: tuple[int, int, int, int], dilation: int, kernel: tuple[int, int], padding: tuple[int, int]
    ) -> None:
        def build() -> nn.Module:
            top, bottom, left, right = sides
            pad, conv = nn.ZeroPad2d((left, right, top, bottom)), nn.Conv2d(3, 4, 3, dilation=dilation)
            return nn.Sequential(pad, conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))

        model = seeded(build)
        model(images())
        snn = network(model)
        graph = fxsnn.to_nir(snn)
        node = by_name(graph, "1")
        assert (node.weight.shape[2:], tuple(node.padding)) == (kernel, padding)
        x = images(1, seed=5)
        assert_same_spikes(run_norse(graph, fxsnn.nir_input(snn, x), 7)[0], snn.simulate(x))
        assert same(fxsnn.from_nir(graph).simulate(x).spikes, snn.simulate(x).spikes)
        node.weight[:, :, 0 if sides[0] < sides[1] else -1] = 1
        with pytest.raises(FileError, match=r"changed were \w+\.weight"):
            fxsnn.from_nir(graph)


class TestBackFromNir:
    @cases("reset", ["subtraction", "zero"], quick=1)
    @cases("name", CONVERTIBLE, quick=("modules", "one relu", "dense", "hand-written"))
    def test_gives_the_very_network(self, name: str, reset: str, tmp_path: Path) -> None:
        snn = network(seeded(CONVERTIBLE[name]), reset=reset, initial_membrane=0.5 if reset == "subtraction" else 0)
        with quiet():
            graph = fxsnn.to_nir(snn, differences="warn")
        nir.write(tmp_path / "net.nir", graph)
        back = fxsnn.from_nir(tmp_path / "net.nir")
        expected, found = snn.simulate(images()), back.simulate(images())
        assert same(found.spikes, expected.spikes)
        assert torch.equal(found.logits, expected.logits)
        assert (back.target, back.dynamics, back.provenance) == (snn.target, snn.dynamics, snn.provenance)

    def test_levels_of_any_kind_come_back_and_others_are_refused(self) -> None:
        snn = network(codebook="free")
        graph = fxsnn.to_nir(snn)
        back = fxsnn.from_nir(graph)
        assert same(back.simulate(images()).spikes, snn.simulate(images()).spikes)
        assert {row.levels for row in back.report.layers} == {row.levels for row in snn.report.layers}
        by_name(graph, "conv2").weight[:] = 0
        with pytest.raises(FileError, match=r"conv2: its weights are not 2-bit codes \(-3, -1, 1, 3\) times"):
            fxsnn.from_nir(graph)

    def test_an_analog_input_comes_back_too(self) -> None:
        snn = network(input_bits=None)
        assert same(fxsnn.from_nir(fxsnn.to_nir(snn)).simulate(images()).spikes, snn.simulate(images()).spikes)

    def test_what_was_changed_in_the_graph_counts(self) -> None:
        snn = network()
        graph = fxsnn.to_nir(snn)
        layer = next(name for name in graph.nodes if name.endswith("conv2"))
        graph.nodes[layer].bias = graph.nodes[layer].bias + 1000
        conv: Any = fxsnn.from_nir(graph).get_submodule("conv2")
        own: Any = snn.get_submodule("conv2")
        assert torch.equal(conv.leak, own.leak + 1000)

    @pytest.mark.parametrize(
        ("node", "attribute", "change", "message"),
        [
            ("conv2", "weight", lambda one: one + 0.5, "conv2: its weights over the gain are not integers"),
            ("conv2", "weight", lambda one: one * 4, "conv2: its weights are not 2-bit codes"),
            ("conv2", "bias", lambda one: one + 0.25, "conv2: its biases are not integers"),
            ("conv2", "bias", lambda one: one + 1e7, "conv2: its leak is .* generic holds"),
            ("conv2_neurons", "v_threshold", lambda one: one * 3 + 1, "conv2: its spike value is not threshold"),
            ("conv2_neurons", "v_threshold", lambda one: one + np.arange(4.0), "thresholds differ within a channel"),
        ],
    )
    def test_into_something_that_the_target_cannot_hold_is_refused(
        self, node: str, attribute: str, change: Any, message: str
    ) -> None:
        graph = fxsnn.to_nir(network())
        name = next(one for one in graph.nodes if one.endswith(f"_{node}"))
        setattr(graph.nodes[name], attribute, change(getattr(graph.nodes[name], attribute)))
        with pytest.raises(FileError, match=message):
            fxsnn.from_nir(graph)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda graph: graph.edges.clear(), "changed were edges"),
            (lambda graph: setattr(last_affine(graph), "weight", last_affine(graph).weight * 0), "_fc.weight"),
            (lambda graph: setattr(by_name(graph, "conv1"), "padding", (0, 0)), "_conv1.padding"),
            (lambda graph: setattr(by_name(graph, "conv1"), "weight", np.zeros(3)), "not as to_nir made it"),
            (lambda graph: setattr(by_name(graph, "conv1_neurons"), "v_threshold", np.array(3.0)), "not as to_nir"),
            (lambda graph: graph.metadata.update(fxsnn="{"), "not as to_nir made it"),
        ],
    )
    def test_other_changes_are_refused(self, change: Any, message: str) -> None:
        graph = fxsnn.to_nir(network())
        change(graph)
        with pytest.raises(FileError, match=message):
            fxsnn.from_nir(graph)

    def test_a_graph_of_others_a_missing_file_and_no_graph_are_refused(self, tmp_path: Path) -> None:
        foreign = fxsnn.to_nir(network())
        foreign.metadata = {}
        with pytest.raises(FileError, match=r"no metadata of fxsnn.*model_from_nir"):
            fxsnn.from_nir(foreign)
        with pytest.raises(FileError, match=r"none\.nir cannot be read"):
            fxsnn.from_nir(tmp_path / "none.nir")
        (tmp_path / "text.nir").write_text("no graph")
        with pytest.raises(FileError, match=r"text\.nir cannot be read"):
            fxsnn.from_nir(tmp_path / "text.nir")
        with pytest.raises(FileError, match="a int is neither"):
            fxsnn.from_nir(3)


class TestWhatNirCannotSay:
    def test_is_refused_all_at_once_unless_a_warning_is_enough(self) -> None:
        snn = network(seeded(CONVERTIBLE["one relu"]), reset="subtraction", initial_membrane=0.5)
        with pytest.raises(
            ModelError, match=r"(?s)7 problems:.*pool: NIR has no adaptive_avg_pool2d.*softmax"
        ) as error:
            fxsnn.to_nir(snn)
        assert [finding.layer for finding in error.value.findings][:3] == ["reset", "initial_membrane", "features.0.0"]
        assert "features.0.0: no fully connected layer reads its spikes: outputs are firing rates" in str(error.value)
        with pytest.warns(InterchangeWarning, match="computes something else: reset: .*pool: NIR has no"):
            graph = fxsnn.to_nir(snn, differences="warn")
        assert [type(node).__name__ for node in graph.nodes.values()][-2:] == ["IF", "Output"]

    def test_a_flatten_is_said_where_nothing_else_stands_behind(self) -> None:
        snn = network(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten()).eval())
        with pytest.raises(ModelError, match=r"1 problem:\n  0: no fully connected layer reads its spikes"):
            fxsnn.to_nir(snn)
        with quiet():
            graph = fxsnn.to_nir(snn, differences="warn")
        assert [type(node).__name__ for node in graph.nodes.values()][-2:] == ["Flatten", "Output"]
        x = images(1, seed=5)
        layer: Any = snn.get_submodule("0")
        value = layer.spike_value.float().repeat_interleave(100)
        _, outputs = run_norse(graph, fxsnn.nir_input(snn, x), 7)
        torch.testing.assert_close(outputs.mean(0) * value, snn(x))

    def test_integers_that_float32_does_not_hold_are_refused(self) -> None:
        snn = network(target=fxsnn.HardwareTarget("wide", registers=fxsnn.Registers(11, 30, 30)), bits=4)
        conv: Any = snn.get_submodule("conv1")
        with torch.no_grad():
            conv.leak.fill_((1 << 24) + 1)
        with pytest.raises(ModelError, match=r"conv1: it has the integer 16,777,217; float32 holds those up to"):
            fxsnn.to_nir(snn)

    def test_a_bfloat16_tail_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"NIR files hold no bfloat16\. Call snn\.float\(\)"):
            fxsnn.to_nir(network().bfloat16())

    def test_the_size_of_images_must_be_known(self) -> None:
        snn = network()
        bare = fxsnn.SpikingNetwork(snn.graph, snn.target)
        with pytest.raises(OptionError, match="pass image_size"):
            fxsnn.to_nir(bare)
        assert len(fxsnn.to_nir(bare, image_size=(3, 12, 12)).nodes) == len(fxsnn.to_nir(snn).nodes)

    def test_differences_is_one_of_two_words(self) -> None:
        with pytest.raises(OptionError, match="differences is 'ignore'"):
            fxsnn.to_nir(network(), differences="ignore")


class Heads(nn.Module):
    """Two linear layers of which each reads the activations, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.fc, self.fc2, self.maps = nn.Flatten(), nn.Linear(96, 5), nn.Linear(96, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        rows = self.flat(x)
        return {"classes": self.fc(rows), "others": [self.fc2(rows), self.maps(x)]}


def test_several_outputs_are_refused_by_name_and_kept_where_differences_are_only_told(tmp_path: Path) -> None:
    snn = with_tail(seeded(Heads))
    snn.reset, snn.initial_membrane = "zero", 0
    says = r"(?s)3 problems:.*fc2: .*maps: .*output: a graph of NIR gives one value, the network"
    with pytest.raises(ModelError, match=says):
        fxsnn.to_nir(snn)
    with pytest.warns(InterchangeWarning, match="computes something else: fc2: .*maps: .*output: "):
        graph = fxsnn.to_nir(snn, differences="warn")
    assert last_affine(graph).weight.shape == (5, 96)
    assert alike(fxsnn.from_nir(through_a_file(graph, tmp_path))(images()), snn(images()))


class Chain(nn.Module):
    """Two fully connected layers, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.fc1, self.fc = nn.Flatten(), nn.Linear(96, 7), nn.Linear(7, 5, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.fc1(self.flat(x)))


def test_fully_connected_layers_in_a_row_are_written_each(tmp_path: Path) -> None:
    snn = with_tail(seeded(Chain))
    snn.reset, snn.initial_membrane = "zero", 0
    graph = through_a_file(fxsnn.to_nir(snn), tmp_path)
    trains, outputs = run_norse(graph, fxsnn.nir_input(snn, images()), snn.timesteps)
    assert_same_spikes(trains, snn.simulate(images()))
    torch.testing.assert_close(outputs.mean(0), snn(images()), rtol=1e-4, atol=1e-5)
    assert torch.equal(fxsnn.from_nir(graph)(images()), snn(images()))


class Beside(Heads):
    """A fully connected layer that reads something else than the activations."""

    def __init__(self) -> None:
        super().__init__()
        self.flat2 = nn.Flatten()

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.flat2(x * 2)), self.flat(x)


class Along(nn.Module):
    """One that reads maps along their last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(x)


@pytest.mark.parametrize(("tail", "layer"), [(Beside, "mul"), (Along, "fc: this linear is none in a row")])
def test_what_does_not_read_the_spikes_in_rows_is_not_written_as_if_it_did(tail: type[nn.Module], layer: str) -> None:
    snn = with_tail(seeded(tail))
    snn.reset, snn.initial_membrane = "zero", 0
    with pytest.raises(ModelError, match=rf"(?s)no fully connected layer reads its spikes.*{layer}"):
        fxsnn.to_nir(snn)
