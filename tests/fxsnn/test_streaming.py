"""Streams: membranes that stay between frames, with the very spikes of one run over all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError, OptionError
from tests.converted_graphs import Dense, Residual
from tests.engines import ENGINES, instruction_sets
from tests.frames import STEPS, converted, frames
from tests.nets import Small, images, seeded
from tests.random_graphs import convertible_graph
from tests.random_networks import quiet, random_seeds

INSTRUCTION_SETS = ("torch", *(("numba",) if "numba" in ENGINES else ()), *instruction_sets())


@pytest.fixture(scope="module")
def snn() -> fxsnn.SpikingNetwork:
    return converted(seeded(Residual))


def decoded(snn: fxsnn.SpikingNetwork, weights: Tensor, spikes: Tensor) -> Tensor:
    """Logits of spikes [T, N, ...] of the last layer, each step with its weight."""
    tail = snn.graph.behind(snn.graph.nodes(fxsnn.layers.Decode)[0])
    decode: Any = snn.graph[snn.graph.nodes(fxsnn.layers.Decode)[0]]
    rates = (spikes.double() * weights.double().view(-1, *[1] * (spikes.dim() - 1))).sum(0) / weights.sum()
    found: Tensor = tail((rates * decode.spike_value.view(-1, 1, 1)).float(), frames()[:, 0])
    return found


def assert_same_as_a_run(
    snn: fxsnn.SpikingNetwork, given: Tensor, engines: tuple[str, ...] = tuple({*ENGINES} - {"triton"})
) -> None:
    """Spikes of all layers and logits after every step."""
    snn.engine = "torch"
    run = snn.simulate(given)
    for engine in engines:
        snn.engine = engine
        with snn.stream(len(given), record=True) as stream:
            for step in range(snn.timesteps):
                frame = given if snn.graph.image_form.frames is None else given[:, step]
                logits = stream(frame)
                assert all(torch.equal(stream.spikes[name].float(), run.spikes[name][step]) for name in run.spikes)
                torch.testing.assert_close(logits, run.logits[step], rtol=1e-5, atol=1e-6)
    snn.engine = "auto"


class TestSpikes:
    def test_are_those_of_one_run(self, snn: fxsnn.SpikingNetwork) -> None:
        assert_same_as_a_run(snn, frames(5, seed=3))

    @pytest.mark.parametrize(
        ("build", "size"),
        [(Small, (3, 12, 12)), (Dense, (20,)), (lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU()), (2, 8))],
        ids=["a chain", "vectors", "signals"],
    )
    @pytest.mark.parametrize("options", [{"reset": "zero"}, {"input_bits": None}], ids=str)
    def test_are_so_of_other_images(self, build: Any, size: tuple[int, ...], options: dict[str, Any]) -> None:
        snn = converted(seeded(build), frames(size=size), **options)
        assert_same_as_a_run(snn, frames(3, size=size, seed=2))

    @random_seeds(1, slow=19)
    def test_are_so_of_random_graphs(self, seed: int) -> None:
        case = convertible_graph(seed, frames=True)
        with quiet():
            assert_same_as_a_run(case.snn, 1.2 * case.images(2, seed=2), *([INSTRUCTION_SETS] if seed else []))

    def test_are_so_of_a_network_of_still_images(self) -> None:
        with quiet():
            still = fxsnn.convert(seeded(Small), target="generic", bits=4, timesteps=7, calibration_data=images())
        assert_same_as_a_run(still, images(3))

    def test_have_no_end(self) -> None:
        """Neurons that are driven down for ever are as low as integers of 64 bits say, beyond 32 bits."""
        snn = converted(seeded(Small))
        for engine in ("torch", "auto"):
            snn.engine = engine
            with snn.stream() as stream:
                frame = frames()[0, 0]
                first = [stream(frame) for _ in range(3)][-1]
                for _ in range(200):
                    last = stream(frame)
                assert first.shape == last.shape == (5,)
                assert stream.steps == 203

    def test_do_not_change_the_network_or_each_other(self, snn: fxsnn.SpikingNetwork) -> None:
        given = frames(2)
        before = snn(given)
        one, other = snn.stream(), snn.stream()
        for step in range(STEPS):
            left, right = one(given[0, step]), other(given[1, step])
        assert torch.equal(snn(given), before)
        torch.testing.assert_close(torch.stack([left, right]), before, rtol=1e-5, atol=1e-6)

    def test_are_of_the_network_as_it_was(self) -> None:
        snn, given = converted(), frames(1)
        expected = snn(given)[0]
        stream = snn.stream()
        snn.reset, snn.timesteps = "zero", 3
        for step in range(STEPS):
            logits = stream(given[0, step])
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)

    def test_are_seen_by_no_hooks_and_that_is_said(self, snn: fxsnn.SpikingNetwork) -> None:
        handle = snn.get_submodule("stem").register_forward_hook(lambda *_: None)
        try:
            with pytest.raises(OptionError, match="a stream calls no hooks"):
                snn.stream()
        finally:
            handle.remove()


class TestReset:
    def test_starts_again(self, snn: fxsnn.SpikingNetwork) -> None:
        given = frames(2)
        for engine in ("torch", "auto"):
            snn.engine = engine
            stream = snn.stream(2)
            first = [stream(given[:, step]) for step in range(4)]
            stream.reset()
            assert stream.steps == 0
            again = [stream(given[:, step]) for step in range(4)]
            assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))

    @pytest.mark.parametrize("readout", [{}, {"window": 3}, {"decay": 0.75}], ids=str)
    def test_of_some_sources_leaves_the_others(self, snn: fxsnn.SpikingNetwork, readout: dict[str, Any]) -> None:
        given = frames(3)
        for engine in ("torch", "auto"):
            snn.engine = engine
            stream, whole, fresh = snn.stream(3, **readout), snn.stream(3, **readout), snn.stream(3, **readout)
            for step in range(5):
                stream(given[:, step])
                whole(given[:, step])
            stream.reset(torch.tensor([False, True, False]))
            for step in range(5, STEPS):
                mixed, on, new = stream(given[:, step]), whole(given[:, step]), fresh(given[:, step])
                torch.testing.assert_close(mixed[[0, 2]], on[[0, 2]], rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(mixed[1], new[1], rtol=1e-6, atol=1e-6)

    def test_wants_a_mask(self, snn: fxsnn.SpikingNetwork) -> None:
        for wrong in (torch.tensor([True]), torch.tensor([0, 1]), [True, False]):
            with pytest.raises(OptionError, match=r"which is .*; expected a tensor of bool \[2\]"):
                snn.stream(2).reset(wrong)  # type: ignore[arg-type]


class TestReadout:
    def test_by_window_counts_the_last_frames(self, snn: fxsnn.SpikingNetwork) -> None:
        given = frames(8)
        spikes = list(snn.simulate(given).spikes.values())[-1]
        stream = snn.stream(8, window=4)
        for step in range(STEPS):
            logits = stream(given[:, step])
            last = spikes[max(0, step - 3) : step + 1]
            torch.testing.assert_close(logits, decoded(snn, torch.ones(len(last)), last), rtol=1e-5, atol=1e-5)

    def test_by_decay_forgets_slowly(self, snn: fxsnn.SpikingNetwork) -> None:
        given = frames(8)
        spikes = list(snn.simulate(given).spikes.values())[-1]
        stream = snn.stream(8, decay=0.5)
        for step in range(STEPS):
            logits = stream(given[:, step])
            weights = 0.5 ** torch.arange(step, -1, -1)
            torch.testing.assert_close(logits, decoded(snn, weights, spikes[: step + 1]), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"window": 0}, "window is 0; allowed are whole numbers from 1"),
            ({"window": 2.5}, "window is 2.5"),
            ({"sources": 0}, "sources is 0"),
            ({"decay": 1.0}, "decay is 1.0; allowed are numbers above 0 and below 1"),
            ({"decay": math.nan}, "decay is nan"),
            ({"decay": 0.5, "window": 2}, "window and decay are two ways to forget"),
            ({"record": "yes"}, "record is 'yes'"),
        ],
        ids=str,
    )
    def test_of_other_kinds_is_refused(self, snn: fxsnn.SpikingNetwork, options: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            snn.stream(**options)


class ReadsItsImages(nn.Module):
    """3x12x12, whose classifier reads the images, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(400, 5)

    def forward(self, x: Tensor) -> Any:
        return {"classes": self.fc(torch.relu(self.conv(x)).flatten(1)), "mean": x.mean((1, 2, 3)).unsqueeze(1)}


def test_outputs_keep_their_structure_and_a_tail_reads_the_mean_of_frames() -> None:
    snn, given = converted(seeded(ReadsItsImages)), frames(1)
    stream = snn.stream()
    for step in range(STEPS):
        found = stream(given[0, step])
    expected = snn(given)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found["classes"], expected["classes"][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["mean"], given.mean((0, 1, 2, 3, 4)).view(1), rtol=1e-5, atol=1e-6)


class TestFrames:
    def test_of_other_sizes_are_refused(self, snn: fxsnn.SpikingNetwork) -> None:
        stream = snn.stream(2)
        with pytest.raises(DataError, match=r"images have shape \[2, 4, 12, 12\], that is 4 channels"):
            stream(torch.zeros(2, 4, 12, 12))
        with pytest.raises(DataError, match="there are 3 frames; the stream was opened for 2 sources"):
            stream(frames(3)[:, 0])
        with pytest.raises(DataError, match="images contain NaN"):
            stream(torch.full((2, 3, 12, 12), math.nan))
        assert stream.steps == 0

    def test_of_another_size_than_those_before_are_refused(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        stream = converted(seeded(lambda: model)).stream()
        stream(torch.randn(3, 12, 12))
        with pytest.raises(DataError, match=r"frames have size \[3, 14, 14\], those before them \[3, 12, 12\]"):
            stream(torch.randn(3, 14, 14))

    @pytest.mark.parametrize("engine", ["torch", "auto"])
    @pytest.mark.parametrize("size", [1, 3, 16])
    def test_leave_nothing_behind_where_the_first_is_refused(self, engine: str, size: int) -> None:
        """By a layer that it is too small for, or by the tail alone."""
        snn, given = converted(), frames(1)[0]
        snn.engine = engine
        stream, fresh = snn.stream(), snn.stream()
        with pytest.raises(DataError):
            stream(torch.full((3, size, size), 5.0))
        for frame in given:
            assert torch.equal(stream(frame), fresh(frame))

    def test_behind_the_end_are_refused(self, snn: fxsnn.SpikingNetwork) -> None:
        with snn.stream() as stream:
            stream(frames()[0, 0])
            assert repr(stream) == "Stream of one source, 1 frames"
        assert repr(stream) == "Stream of one source, closed"
        for use in (lambda: stream(frames()[0, 0]), stream.reset):
            with pytest.raises(OptionError, match="the stream is closed"):
                use()

    def test_need_an_engine_that_runs_where_the_network_is(self) -> None:
        snn = converted().to("meta")
        snn.engine = "numba"
        with pytest.raises(OptionError, match="it runs on the CPU, the network is on meta"):
            snn.stream()

    def test_need_an_engine_that_runs_step_by_step(self) -> None:
        snn = converted()
        snn.engine = "triton"
        with pytest.raises(OptionError, match=r"engine='triton' cannot run this network here: .*step|triton"):
            snn.stream()
