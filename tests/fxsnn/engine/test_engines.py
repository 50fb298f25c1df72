"""Whatever runs the network: the same spikes, the same memory for any batch, and plain words where it cannot."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import ColourNet, DigitNet
from torch import nn

import fxsnn
from fxsnn.engine import engine_for
from fxsnn.engine.circuit import Unsupported, circuit_of, relying_on, watched
from fxsnn.errors import CalibrationWarning, DataError, EngineWarning, OptionError
from fxsnn.layers import Spiking
from tests.engines import ENGINES, EVERY_ENGINE, ON_ARM, has_tiles, needs_numba, on_arm, on_x86, same, tiny
from tests.nets import CONVERTIBLE, Dense, Small, images, seeded
from tests.sharing import cases, converted_once

REPOSITORY = Path(__file__).parents[3]


def converted(model: nn.Module, **options: Any) -> fxsnn.SpikingNetwork:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        usual: dict[str, Any] = {"target": "generic", "bits": 3, "calibration_data": images(16), "correction": None}
        return fxsnn.convert(model, **{**usual, **options})


@converted_once
def of_any_engine(build: Callable[[], nn.Module], **options: Any) -> fxsnn.SpikingNetwork:
    return converted(seeded(build), **options)


def network(build: Callable[[], nn.Module], engine: str = "auto", **options: Any) -> fxsnn.SpikingNetwork:
    snn = of_any_engine(build, **options)
    snn.engine = engine
    return snn


def run_in_both(snn: fxsnn.SpikingNetwork, engine: str, given: torch.Tensor) -> fxsnn.Run:
    """A run in PyTorch, after the engine was seen to give the same spikes and ranges."""
    snn.engine = "torch"
    expected = snn.simulate(given)
    snn.engine = engine
    found = snn.simulate(given)
    assert same(found.spikes, expected.spikes)
    assert found.membrane_range == expected.membrane_range
    return expected


def behind_busy_neurons(channels: int) -> tuple[fxsnn.SpikingNetwork, Any]:
    """A network for T = 4, and its fully connected layer of 6 outputs: all that it reads spikes at every step."""
    inputs = channels * 144
    model = nn.Sequential(
        nn.Conv2d(3, channels, 1), nn.ReLU(), nn.Flatten(), nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    snn = converted(seeded(lambda: model), timesteps=4, engine="torch")
    first: Any = snn.get_submodule("0")
    first.leak.fill_(1 << 17)
    hidden: Any = snn.get_submodule("3")
    hidden.gain, hidden.largest_sum = 1, 7 * inputs
    return snn, hidden


def strided() -> nn.Module:
    """Everything about a window that is not plain: strides, paddings, dilation, "same", groups, overlapping pools."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(6, 10, (5, 3), padding="same", dilation=(1, 2)), nn.ReLU(), nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(10, 10, 3, padding=2, groups=5), nn.ReLU(),
        nn.Conv2d(10, 7, (2, 3), stride=(1, 2)), nn.ReLU(), nn.AvgPool2d((2, 1), 1),
        nn.Flatten(), nn.LazyLinear(9), nn.ReLU(), nn.Linear(9, 4),
    )  # fmt: skip


def materialised() -> nn.Module:
    model = strided()
    model(images(1))
    return model


def wide() -> nn.Module:
    """More outputs of a fully connected layer than are computed together."""
    return nn.Sequential(
        nn.Conv2d(3, 30, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
        nn.Linear(270, 300), nn.ReLU(), nn.Linear(300, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    **{name: (build, (3, 12)) for name, build in CONVERTIBLE.items()},
    "odd windows": (materialised, (3, 12)),
    "wide": (wide, (3, 12)),
    "DigitNet": (DigitNet, (1, 28)),
    "ColourNet": (ColourNet, (3, 32)),
}

OPTIONS: list[dict[str, Any]] = [{}, {"timesteps": 35, "reset": "zero"}, {"timesteps": 1, "input_bits": None}]


class TestEveryEngine:
    """`tests/test_against_reference.py` holds all of them to the integer reference; these are ordinary networks."""

    @pytest.mark.parametrize("engine", [name for name in EVERY_ENGINE if name != "torch"])
    @cases(
        "name, options",
        itertools.product(NETWORKS, OPTIONS),
        quick=[
            *((name, {}) for name in ("modules", "one relu", "hand-written", "dense", "wide", "DigitNet")),
            *itertools.product(["odd windows"], OPTIONS),
        ],
    )
    def test_gives_the_spikes_of_pytorch(self, engine: str, name: str, options: dict[str, Any]) -> None:
        build, (channels, size) = NETWORKS[name]
        given = images(5, channels, size)
        snn = converted(seeded(build), calibration_data=given, engine="torch", **options)
        expected, logits = snn.simulate(given), snn(given)
        snn.engine = engine
        found = snn.simulate(given)
        assert same(found.spikes, expected.spikes)
        assert found.membrane_range == expected.membrane_range
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(snn(given), logits)
        assert same(snn.count_spikes(given), {name: counts.int() for name, counts in expected.spike_counts.items()})

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_counts_many_images(self, engine: str) -> None:
        snn = network(Small, timesteps=3, engine=engine)
        given = images(70)
        counts = snn.count_spikes(given)
        assert list(counts) == ["conv1", "pool", "conv2", "hidden"]
        assert counts["conv1"].dtype == torch.int32
        assert same(counts, {name: one.int() for name, one in snn.simulate(given).spike_counts.items()})

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_sums_beyond_32_bits_are_exact(self, engine: str) -> None:
        snn = network(Small, timesteps=3000, engine="torch")
        for layer in ("conv2", "hidden"):
            spiking: Any = snn.get_submodule(layer)
            spiking.gain = 1 << 18
            spiking.leak.fill_(-(1 << 20))
            spiking.threshold.fill_(1 << 19)
            assert spiking.membrane_type() == torch.int64
        assert run_in_both(snn, engine, images(1)).membrane_range["conv2"][0] < -(1 << 31)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_sums_of_a_fully_connected_layer_beyond_16_bits_are_exact(self, engine: str) -> None:
        snn, hidden = behind_busy_neurons(40)
        hidden.codes.fill_(7)
        hidden.codes[::2] = -7
        low, high = run_in_both(snn, engine, images(2)).membrane_range["3"]
        assert low < -(1 << 15)
        assert high > 1 << 15

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_sums_between_which_float16_has_no_halves_are_exact(self, engine: str) -> None:
        snn, hidden = behind_busy_neurons(2)
        hidden.codes.fill_(7)
        for row in range(6):
            hidden.codes[row, : 2 * row + 1] = 6 if row < 5 else -7
        assert run_in_both(snn, engine, images(2)).membrane_range["3"][1] > 1 << 10

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_sums_of_a_convolution_by_transforms_are_whole_again(self, engine: str) -> None:
        """Without oneDNN, PyTorch takes NNPACK for many images, which multiplies transforms: sums are a little off."""
        snn = network(Small, engine="torch")
        given = images(32)
        expected = snn.simulate(given)
        snn.engine = engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch's, about a setting that is left alone here
            with torch.backends.mkldnn.flags(enabled=False):
                found = snn.simulate(given)
        assert same(found.spikes, expected.spikes)
        assert found.membrane_range == expected.membrane_range

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_reads_out_early_what_shorter_runs_give(self, engine: str) -> None:
        snn = network(Small, timesteps=20, engine=engine)
        given = images(40)
        readout = snn.early_readout(given)
        assert readout.shape == (20, 40, 5)
        for timesteps in (1, 7, 20):
            snn.timesteps = timesteps
            torch.testing.assert_close(readout[timesteps - 1], snn(given), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_of_no_images_there_are_no_logits(self, engine: str) -> None:
        snn = network(Small, engine=engine, timesteps=7)
        assert snn(images(0)).shape == (0, 5)
        assert snn.early_readout(images(0)).shape == (7, 0, 5)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_gives_the_same_from_many_threads_at_once(self, engine: str) -> None:
        snn = network(Small, engine=engine)
        batches = [images(count, seed=count) for count in range(1, 13)]
        expected = [snn(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(snn, batches * 3))
        assert all(torch.equal(one, other) for one, other in zip(found, expected * 3, strict=True))

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    @pytest.mark.parametrize("threads", [1, 3])
    def test_the_number_of_threads_changes_nothing(self, engine: str, threads: int) -> None:
        snn = network(Small, engine="torch")
        expected = snn(images(10))
        snn.engine = engine
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert torch.equal(snn(images(10)), expected)
            assert snn(images(1)).shape == (1, 5)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_does_not_round_sums_under_autocast(self, engine: str) -> None:
        snn = network(Small, engine=engine)
        expected = snn.simulate(images()).spikes
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert same(snn.simulate(images()).spikes, expected)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_the_tail_still_learns(self, engine: str) -> None:
        snn = network(Small, engine=engine)
        snn(images()).sum().backward()
        tail: Any = snn.get_submodule("fc")
        assert tail.weight.grad is not None

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_sees_what_is_written_into_a_layer(self, engine: str) -> None:
        snn = network(Small, engine=engine)
        assert snn.simulate(images()).spikes["conv2"].any()
        conv: Any = snn.get_submodule("conv2")
        conv.threshold.fill_(1 << 22)
        conv.leak.zero_()
        assert not snn.simulate(images()).spikes["conv2"].any()
        other = network(Small, engine=engine)
        snn.load_state_dict(other.state_dict())
        assert torch.equal(snn(images()), other(images()))

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_a_state_dict_holds_what_belongs_to_the_integers(self, engine: str) -> None:
        snn = network(Small, engine=engine)
        model = seeded(Small)
        with torch.no_grad():
            model.conv1.weight.mul_(0.3)
        other = converted(model, bits=2, engine=engine, calibration_data=5 * images(16))
        gains = [[layer.gain for layer in one.modules() if isinstance(layer, Spiking)] for one in (snn, other)]
        assert gains[0] != gains[1]
        assert not torch.equal(snn(images()), other(images()))
        snn.load_state_dict(other.state_dict())
        assert torch.equal(snn(images()), other(images()))
        assert same(snn.count_spikes(images()), other.count_spikes(images()))

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_hooks_on_layers_are_called(self, engine: str) -> None:
        snn = network(Small, engine=engine)
        expected, seen = snn(images()), []
        snn.get_submodule("conv2").register_forward_hook(lambda *_: seen.append(1))
        assert torch.equal(snn(images()), expected)
        assert seen == [1]

    @pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
    @pytest.mark.parametrize("build", [Small, Dense])
    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_hooks_are_called_wherever_they_hang(self, engine: str, build: Callable[[], nn.Module], kind: str) -> None:
        """Once, and in the thread that calls."""
        snn = network(build, engine=engine)
        expected = snn(images())
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            for node in snn.graph.nodes(nn.Module):
                seen: list[nn.Module] = []
                module = snn.graph[node]
                handle = getattr(module, f"register_{kind}")(lambda module, *_, seen=seen: seen.append(module))
                assert torch.equal(snn(images()), expected)
                assert seen == [module], node.target
                handle.remove()
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_hooks_on_all_modules_see_every_layer(self, engine: str, kind: str) -> None:
        snn = network(Small, engine=engine)
        expected, seen = snn(images()), []
        handle = getattr(nn.modules.module, f"register_module_{kind}")(lambda module, *_: seen.append(module))
        try:
            assert torch.equal(snn(images()), expected)
        finally:
            handle.remove()
        assert [module for module in seen if isinstance(module, Spiking)] == [
            snn.get_submodule(name) for name in ("conv1", "pool", "conv2", "hidden")
        ]

    @pytest.mark.parametrize("name", ["_global_forward_hooks", "_global_forward_pre_hooks"])
    def test_where_pytorch_does_not_tell_of_such_hooks_it_runs_the_network(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = circuit_of(network(Small).graph)
        assert not watched(chain)
        monkeypatch.delattr(nn.modules.module, name)
        assert watched(chain)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_a_copy_runs_by_itself(self, engine: str) -> None:
        snn = network(Small, engine=engine)
        expected = snn(images())
        other = copy.deepcopy(snn)
        conv: Any = other.get_submodule("conv1")
        conv.threshold.fill_(1 << 17)
        assert other.engine == engine
        assert not torch.equal(other(images()), expected)
        assert torch.equal(snn(images()), expected)

    @pytest.mark.parametrize("engine", EVERY_ENGINE)
    def test_a_network_made_in_inference_mode_runs(self, engine: str) -> None:
        expected = network(Small, engine=engine)(images())
        with torch.inference_mode():
            snn = converted(seeded(Small), engine=engine)
            assert torch.equal(snn(images()), expected)
            other = copy.deepcopy(snn)
            assert torch.equal(other(images()), expected)
            conv: Any = other.get_submodule("conv1")
            conv.threshold.fill_(1 << 17)
            assert not torch.equal(other(images()), expected)
        assert torch.equal(snn(images()), expected)


def test_the_engine_of_the_cpu_runs_where_the_processor_has_avx2_or_neon() -> None:
    """Otherwise all tests of that engine would be left out, and nobody would notice."""
    assert ("numba" in ENGINES) == (ON_ARM or torch.backends.cpu.get_cpu_capability().startswith("AVX"))


@needs_numba
def test_it_takes_the_widest_that_the_processor_has() -> None:
    from fxsnn.engine.cpu import chosen
    from fxsnn.engine.instructions import Amx, Avx2, Avx512bw, Neon

    has = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert chosen() == (Neon() if ON_ARM else Amx() if has_tiles() else Avx512bw() if has else Avx2())


@needs_numba
def test_tiles_that_the_system_does_not_give_to_the_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxsnn.engine import instructions

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("sys.platform", "darwin")
        assert not instructions._tiles_are_given.__wrapped__()
    monkeypatch.setattr(instructions, "_has", lambda feature: feature != "neon")
    for given in (False, True):
        monkeypatch.setattr(instructions, "_tiles_are_given", lambda given=given: given)
        assert ("amx" in instructions.usable()) == given


@needs_numba
def test_those_of_other_processors_are_refused_by_name() -> None:
    lacking = "avx2" if ON_ARM else "neon"
    with pytest.raises(OptionError, match=f"the processor has no {lacking}, or numba is told not to use it"):
        network(Small, engine=f"numba-{lacking}")(images())


@needs_numba
def test_every_instruction_set_has_a_name_and_those_that_look_up_have_runs_of_two_vectors() -> None:
    from fxsnn import engine
    from fxsnn.engine.instructions import _SETS, Amx

    assert [name for name in engine.ENGINES if "-" in name] == [f"numba-{name}" for name in _SETS]
    assert all(one.lanes == 2 * one.vector for one in _SETS.values() if not isinstance(one, Amx))


@needs_numba
class TestTheEngineOfTheCpu:
    def test_is_chosen_by_itself(self) -> None:
        engine = engine_for("auto", circuit_of(network(Small).graph))
        assert engine is not None
        assert engine.name == "numba"

    @pytest.mark.parametrize(
        ("build", "given", "message"),
        [
            (Small, images(size=3), "the images are too small: they leave nothing behind conv2"),
            (tiny, images(size=2), "the images are too small: they leave nothing behind 0"),
            (Small, images(size=14), "hidden reads 128 features; with images of this size conv2 gives 200"),
        ],
    )
    def test_names_the_layer_that_images_of_another_size_do_not_fit(
        self, build: Callable[[], nn.Module], given: torch.Tensor, message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            network(build)(given)

    def test_takes_images_of_several_sizes_in_turn(self) -> None:
        snn = converted(seeded(CONVERTIBLE["without classifier"]))
        for size in (12, 9, 17, 12):
            snn.engine = "torch"
            expected = snn(images(3, size=size))
            snn.engine = "numba"
            assert torch.equal(snn(images(3, size=size)), expected)

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_batch_or_with_time(self) -> None:
        """A process that runs 32 images, then 4,000 images at T = 64, whose spikes alone would take gigabytes."""
        code = """
import resource, torch, fxsnn, warnings
from tests.nets import Small, images, seeded
warnings.simplefilter("ignore")
snn = fxsnn.convert(seeded(Small), target="generic", bits=3, calibration_data=images(16), engine="numba")
snn(images(32))
few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
snn.timesteps = 64
many = images(8, size=12).repeat(500, 1, 1, 1)
given = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
snn(many)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - given) / 1024)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
        assert float(done.stdout) < 64, f"{done.stdout} MiB"

    @pytest.mark.usefixtures("no_tiles")
    def test_weights_beyond_its_tables_run_in_pytorch(self, caplog: pytest.LogCaptureFixture) -> None:
        snn = network(Small)
        conv: Any = snn.get_submodule("conv2")
        conv.largest_sum = 1 << 16
        with caplog.at_level(logging.INFO, logger="fxsnn"):
            assert engine_for("auto", circuit_of(snn.graph)) is None
        assert "the weights of conv2 have magnitudes that add up to 65536" in caplog.text
        snn.engine = "numba"
        with pytest.raises(OptionError, match=r"engine='numba' cannot run this network here: .*conv2"):
            snn(images())


@pytest.fixture
def miscounting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, the engine of the CPU lets a neuron of each layer spike at the first step where it did not."""

    def start() -> None:
        from fxsnn.engine.cpu import NumbaEngine

        right = NumbaEngine.counts

        def counts(self: Any, given: torch.Tensor, **options: Any) -> torch.Tensor:
            found = right(self, given, **options)
            if options.get("recording") is not None:
                for spikes in options["recording"].spikes.values():
                    spikes.view(-1)[0] ^= 1
            return found

        monkeypatch.setattr(NumbaEngine, "counts", counts)

    return start


@needs_numba
class TestAnEngineThatMakesOtherSpikes:
    """There was one once: a pooling of one place."""

    @cases("engine, data", [("auto", images(16)), ("numba", None), ("auto", None), ("numba", images(16))], quick=2)
    def test_is_found_by_convert_and_pytorch_takes_its_place(
        self, engine: str, data: torch.Tensor | None, miscounting: Callable[[], None]
    ) -> None:
        expected = network(Small, calibration_data=data, engine="torch")(images())
        miscounting()
        given: dict[str, Any] = {"target": "generic", "bits": 3, "calibration_data": data, "correction": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            with pytest.warns(EngineWarning, match=rf"engine='{engine}' does not .* \(conv1, pool, conv2, hidden\)"):
                snn = fxsnn.convert(seeded(Small), engine=engine, **given)
        assert snn.engine == "torch"
        assert torch.equal(snn(images()), expected)

    def test_is_found_by_golden_vectors_which_are_those_of_pytorch(
        self, tmp_path: Path, miscounting: Callable[[], None]
    ) -> None:
        snn = network(Small)
        miscounting()
        path = snn.save(tmp_path / "net.fxsnn")
        assert fxsnn.verify(path, engine="torch").ok
        assert not fxsnn.verify(path, engine="numba").ok

    def test_an_engine_that_is_right_stays(self) -> None:
        snn = network(Small, engine="numba")
        assert snn.verify_engine(images())
        assert snn.engine == "numba"


@needs_numba
class TestAnEngineThatFails:
    """What goes wrong in the library that it is built on is no reason to stop."""

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """From its call on, what is compiled fails."""

        def fail(*_: Any) -> None:
            raise RuntimeError("cannot compile\nfor a reason")

        def start() -> None:
            for name in ("cpu.run_plan", "tile_workspace.TileWorkspace.count"):
                monkeypatch.setattr(f"fxsnn.engine.{name}", fail)

        return start

    def test_while_it_runs_pytorch_takes_its_place_with_one_warning(self, failing: Callable[[], None]) -> None:
        snn = network(Small)
        expected, counts = snn.simulate(images()), snn.count_spikes(images())
        failing()
        told = r"numba fails here \(RuntimeError: cannot compile\): PyTorch runs the network, slower and no different"
        for run in (snn, snn.early_readout, snn.simulate, snn.count_spikes):
            snn.engine = "auto"
            with pytest.warns(EngineWarning, match=told):
                run(images())
            run(images())  # it is told once: warnings are errors here
        assert torch.equal(snn(images()), expected.logits[-1])
        assert same(snn.simulate(images()).spikes, expected.spikes)
        assert same(snn.count_spikes(images()), counts)

    def test_asked_for_by_name_it_says_so_at_every_call(self, failing: Callable[[], None]) -> None:
        failing()
        snn = converted(seeded(Small), engine="numba")
        for _ in range(2):
            with pytest.raises(OptionError, match=r"engine='numba' cannot run this network here: numba fails here"):
                snn(images())

    @pytest.mark.slow
    def test_a_library_that_cannot_be_imported_costs_time_and_one_warning(self, tmp_path: Path) -> None:
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('numpy is too new')")
        code = """
import fxsnn, warnings
from tests.nets import Small, images, seeded
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("default")
    for bits in (3, 4):
        snn = fxsnn.convert(seeded(Small), target="generic", bits=bits, calibration_data=images(16))
        logits = snn(images())
snn.engine = "torch"
assert (snn(images()) == logits).all()
print([str(one.message) for one in told if one.category is fxsnn.EngineWarning])
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        told = "numba fails here (ImportError: numpy is too new): PyTorch runs the network, slower and no different"
        assert done.stdout.strip() == str([told]), done.stderr

    @pytest.mark.parametrize(
        "error", [DataError("too small"), MemoryError(), torch.OutOfMemoryError(), KeyboardInterrupt()]
    )
    def test_what_is_not_the_librarys_fault_is_not_hidden(self, error: BaseException) -> None:
        with pytest.raises(type(error)), relying_on("numba"):
            raise error


class TestChoosing:
    @pytest.mark.parametrize("name", ["cuda", None, 3, "Numba"])
    def test_an_unknown_engine_is_refused_before_any_work(self, name: Any) -> None:
        allowed = "allowed are 'auto', 'numba', .*, 'triton', 'torch'"
        with pytest.raises(OptionError, match=allowed):
            fxsnn.convert(seeded(Small), target="hw_v1.0", bits=3, engine=name)
        snn = network(Small, engine="torch")
        with pytest.raises(OptionError, match=allowed):
            snn.engine = name
        assert snn.engine == "torch"

    @pytest.mark.parametrize("missing", ["numba", "triton"])
    def test_a_missing_library_makes_it_slower_not_different(
        self, missing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = network(Small, engine="torch")(images())
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
        assert torch.equal(converted(seeded(Small))(images()), expected)
        with pytest.raises(OptionError, match=f"{missing} is not installed. Use engine='auto'"):
            converted(seeded(Small), engine=missing)(images())

    @needs_numba
    def test_instructions_that_the_processor_lacks_are_refused_or_left_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fxsnn.engine import cpu, instructions

        slowest = "neon" if ON_ARM else "avx2"
        monkeypatch.setattr(instructions, "_has", lambda feature: feature == slowest)
        assert cpu.chosen() == instructions._SETS[slowest]
        expected = network(Small, engine="torch")(images())
        assert torch.equal(network(Small, engine="numba")(images()), expected)
        with pytest.raises(OptionError, match="the processor has no avx512bw, or numba is told not to use it"):
            network(Small, engine="numba-avx512bw")(images())

    @pytest.mark.skipif("triton" in ENGINES, reason="the kernels can run here")
    def test_triton_needs_a_gpu(self) -> None:
        pytest.importorskip("triton")
        with pytest.raises(OptionError, match="it runs on CUDA, the network is on cpu"):
            network(Small, engine="triton")(images())

    @pytest.mark.parametrize(
        ("variables", "message"),
        [
            pytest.param({"NUMBA_DISABLE_JIT": "1"}, "switched off", marks=pytest.mark.slow),
            pytest.param({"NUMBA_CPU_FEATURES": "-neon"}, "told not to use NEON", marks=[on_arm, pytest.mark.slow]),
            pytest.param({"NUMBA_CPU_FEATURES": "-avx2"}, "told not to use AVX2", marks=[on_x86, pytest.mark.slow]),
            pytest.param({"NUMBA_CPU_NAME": "generic"}, "told not to use AVX2", marks=[on_x86, pytest.mark.slow]),
            pytest.param({"NUMBA_ENABLE_AVX": "0"}, "told not to use AVX2", marks=[on_x86, pytest.mark.slow]),
        ],
    )
    @needs_numba
    def test_numba_without_vectors_is_refused_in_words(self, variables: dict[str, str], message: str) -> None:
        code = """
import fxsnn, warnings
from tests.nets import Small, images, seeded
warnings.simplefilter("ignore")
snn = fxsnn.convert(seeded(Small), target="generic", bits=3, calibration_data=images(16))
auto = snn(images())
snn.engine = "torch"
assert (auto == snn(images())).all()
snn.engine = "numba"
try:
    snn(images())
except fxsnn.OptionError as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **variables},
        )
        assert message in done.stdout, done.stderr

    @needs_numba
    @on_x86
    @pytest.mark.slow
    def test_features_that_numba_may_not_use_are_left_alone(self) -> None:
        """LLVM would end the process."""
        code = """
import fxsnn, warnings
from fxsnn.engine.cpu import chosen
from tests.nets import Small, images, seeded
warnings.simplefilter("ignore")
snn = fxsnn.convert(seeded(Small), target="generic", bits=3, calibration_data=images(16), engine="numba")
found = snn(images())
snn.engine = "torch"
assert (found == snn(images())).all()
print(type(chosen()).__name__)
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "NUMBA_CPU_FEATURES": "-avx512f"},
        )
        assert done.stdout == "Avx2\n", done.stderr

    def test_a_graph_that_is_no_chain_is_named(self) -> None:
        graph = fxsnn.capture(seeded(Dense))
        with pytest.raises(Unsupported, match="0 encoders"):
            circuit_of(graph)
