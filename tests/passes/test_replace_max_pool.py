"""Max pooling as neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxsnn
from fxsnn.graph import layer_rows
from fxsnn.graph.overview import HEADER
from fxsnn.layers import Add, AnyPool2d, SpikeAnyPool2d, Tap, Taps
from fxsnn.passes import CheckConvRelu, PairSignedValues, ReplaceMaxPool
from tests.engines import ENGINES, same
from tests.joining import correlation, joined
from tests.nets import images, in_front
from tests.sharing import cases

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def network(pool: Any) -> Any:
    return joined(lambda m, x, y: pool(x))


def chain(pool: nn.Module, last: nn.Module, *convolutions: nn.Module) -> Any:
    """Two convolutions, of 3x12x12 unless they are given, with a pooling between."""
    first, second = convolutions or (nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    return nn.Sequential(first, nn.ReLU(), pool, second, nn.ReLU(), nn.Flatten(), last).eval()


def replaced(model: Any, by: str = "rectifiers") -> Any:
    return ReplaceMaxPool(by)(in_front(model, images(size=13)), images(size=13))


@pytest.mark.parametrize("by", ["rectifiers", "any"])
@pytest.mark.parametrize("examples", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_two_ways_keep_the_function(by: str, examples: int) -> None:
    paddings = st.tuples(st.integers(0, 1), st.integers(0, 1))
    windows = given(st.just(by), PAIRS, PAIRS, paddings, PAIRS, st.booleans())
    settings(max_examples=examples)(windows(function_is_kept))()


def function_is_kept(by: str, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> None:
    padding = tuple(min(pad, side // 2) for pad, side in zip(padding, kernel, strict=True))
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    graph = replaced(network(pool), by).after  # verified in double precision
    assert not graph.nodes(nn.MaxPool2d)
    assert not CheckConvRelu().findings(graph)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3), st.integers(11, 14), st.booleans())
def test_windows_are_those_of_pytorch(
    kernel: int, stride: int, padding: int, dilation: int, size: int, ceil: bool
) -> None:
    padding = min(padding, kernel // 2)
    taps = Taps(kernel, stride, padding, dilation, ceil)
    x = torch.rand(1, 1, size, 1)
    expected = F.max_pool2d(x, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), ceil)
    tapped = [Tap(taps, Taps(1), row, 0)(x) for row in range(kernel)]
    assert taps.windows(size) == expected.shape[2]
    assert torch.equal(torch.stack(tapped).amax(0), expected)


def test_a_window_of_two_by_two_takes_three_rectifiers_and_a_sum() -> None:
    graph = replaced(network(nn.MaxPool2d(2))).after
    behind = [graph.sole_user(node) for node in graph.nodes(Add)]
    assert [graph.is_a(node, nn.ReLU) for node in behind] == [True] * 3  # the first serves two columns


@pytest.mark.parametrize("by", ["rectifiers", "any"])
def test_a_relu_behind_it_moves_in_front(by: str) -> None:
    model = joined(lambda m, x, y: F.relu(F.max_pool2d(m.norm(y), 2)))
    assert not CheckConvRelu().findings(replaced(model, by).after)


def test_in_the_limit_of_time_it_is_the_maximum(convert: Any) -> None:
    model, x = network(nn.MaxPool2d(3, 2, 1)), images(8, size=13)
    snn = convert(model, target="generic", bits=4, timesteps=512, calibration_data=x, max_pool="rectifiers")
    assert correlation(model(x).detach(), snn(x).detach()) > 0.99


@pytest.mark.parametrize(("by", "words"), [("average", "AvgPool2d"), ("stride", r"Tap\(\(0, 0\) of 2x2")])
def test_other_ways_do_not_keep_it(by: str, words: str) -> None:
    step = replaced(network(nn.MaxPool2d(2)), by)
    assert step.moved is None or step.moved > 0.01
    assert not ReplaceMaxPool(by).preserves
    assert ReplaceMaxPool().preserves
    assert ReplaceMaxPool("any").preserves


@pytest.mark.parametrize("target", ["hw_v1.0", "hw_v1.6", "generic"])
@pytest.mark.parametrize("by", ["any", "average", "stride"])
def test_a_check_knows_that_a_replacement_need_not_compute_the_same(by: str, target: str) -> None:
    model = chain(nn.MaxPool2d(2), nn.Linear(36, 2))
    assert fxsnn.check(model, target=target, bits=4, example=images(), max_pool=by).ok


def test_the_error_about_max_pooling_names_the_pass_and_its_option() -> None:
    report = str(fxsnn.check(network(nn.MaxPool2d(2)), target="generic", bits=4, example=images()))
    assert "Pass max_pool='rectifiers' (fxsnn.passes.ReplaceMaxPool), which keeps the function" in report
    assert "or 'any', which comes near it on every chip" in report
    assert fxsnn.check(network(nn.MaxPool2d(2)), target="generic", bits=4, example=images(), max_pool="rectifiers").ok


SIGNED = {
    "a convolution": lambda m, x, y: F.relu(m.third(F.max_pool2d(y, 2))),
    "a pair": lambda m, x, y: F.relu(m.third(F.max_pool2d(F.leaky_relu(y, 0.1), 2))),
    "a sum": lambda m, x, y: F.relu(m.third(F.max_pool2d(x + y, 2))),
}


@pytest.mark.parametrize("what", SIGNED)
def test_any_neuron_of_the_window_is_no_maximum_of_what_may_be_negative(what: str) -> None:
    report = fxsnn.check(joined(SIGNED[what]), target="generic", bits=4, example=images(), max_pool="any")
    assert not report.ok
    assert "Pass max_pool='rectifiers'" in str(report)
    assert "sums and pairs, for it pools what may be negative" in str(report)


@pytest.mark.parametrize("examples", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_rectifiers_keep_the_function_of_values_with_a_sign(examples: int) -> None:
    windows = given(PAIRS, PAIRS, st.tuples(st.integers(0, 1), st.integers(0, 1)), PAIRS, st.booleans())
    settings(max_examples=examples)(windows(the_function_of_values_with_a_sign_is_kept))()


def the_function_of_values_with_a_sign_is_kept(
    kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> None:
    """Padding is no zero there: all of a window may be negative."""
    padding = tuple(min(pad, side // 2) for pad, side in zip(padding, kernel, strict=True))
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    model = joined(lambda m, x, y: pool(m.norm(y) - 2))
    graph = replaced(model).after  # verified in double precision
    assert not graph.nodes(nn.MaxPool2d)
    assert not CheckConvRelu().findings(PairSignedValues()(graph, images(size=13)).after)


@cases(
    "function",
    [
        lambda m, x, y: F.max_pool2d(m.norm(y), 3, 2, 1),
        lambda m, x, y: F.max_pool2d(F.leaky_relu(y, 0.2), 2),
        lambda m, x, y: F.max_pool2d(x - y, 3, 2, ceil_mode=True) + F.avg_pool2d(y, 2),
    ],
    quick=1,
)
def test_in_the_limit_of_time_it_is_the_maximum_of_values_with_a_sign(convert: Any, function: Any) -> None:
    model, x = joined(function), images(8)
    snn = convert(model, target="generic", bits=4, timesteps=512, calibration_data=x, max_pool="rectifiers")
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_the_error_about_maxima_of_values_with_a_sign_says_what_they_take() -> None:
    model = joined(lambda m, x, y: F.max_pool2d(m.norm(y), 3, 2, 1))
    report = str(fxsnn.check(model, target="generic", bits=4, example=images()))
    assert "which keeps the function where the chip has sums and pairs, for it pools what may be negative" in report
    report = str(fxsnn.check(model, target="generic", bits=4, max_pool="rectifiers"))
    assert "sums and pairs, for it pools what may be negative, and give example=" in report
    assert fxsnn.check(model, target="generic", bits=4, max_pool="rectifiers", example=images()).ok


def test_a_maximum_of_the_images_is_left() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    report = fxsnn.check(model, target="generic", bits=4, example=images(), max_pool="rectifiers")
    assert "Let it pool activations" in str(report)


def test_a_way_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        fxsnn.OptionError, match="max_pool is 'maximum'; allowed are 'rectifiers', 'average', 'stride', 'any'"
    ):
        ReplaceMaxPool("maximum")
    with pytest.raises(fxsnn.OptionError, match="max_pool is 3"):
        fxsnn.convert(network(nn.MaxPool2d(2)), target="generic", bits=4, max_pool=3)  # type: ignore[arg-type]


class TestAnyNeuronOfTheWindow:
    """`by="any"`: one neuron a window, which overestimates the maximum, in every room."""

    def convert(self, convert: Any, model: Any = None, **options: Any) -> fxsnn.SpikingNetwork:
        usual = {"target": "generic", "bits": 4, "timesteps": 8, "calibration_data": images(16), "max_pool": "any"}
        found: fxsnn.SpikingNetwork = convert(model or network(nn.MaxPool2d(2)), **{**usual, **options})
        return found

    @pytest.mark.parametrize("initial", [0.0, 0.5])
    @pytest.mark.parametrize("reset", ["subtraction", "zero"])
    def test_spikes_are_the_same_in_every_engine_and_file(
        self, reset: str, initial: float, convert: Any, tmp_path: Path
    ) -> None:
        model = chain(nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), nn.Linear(36, 3))
        snn = self.convert(convert, model, reset=reset, initial_membrane=initial, engine="torch")
        x = images(3, seed=4)
        run = snn.simulate(x)
        (pool,) = (name for name in run.spikes if isinstance(snn.get_submodule(name), SpikeAnyPool2d))
        before = list(run.spikes)[list(run.spikes).index(pool) - 1]
        expected = F.max_pool2d(run.spikes[before].flatten(0, 1).float(), 3, 2, 1, 2, ceil_mode=True)
        assert torch.equal(run.spikes[pool].flatten(0, 1).float(), expected)
        path = snn.save(tmp_path / "net.fxsnn")
        assert read_network.main(str(path)) == 0
        for engine in ENGINES:
            for one in (snn, fxsnn.load(path)):
                one.engine = engine
                again = one.simulate(x)
                assert same(again.spikes, run.spikes)
                assert again.membrane_range == run.membrane_range
                assert torch.equal(again.logits, run.logits)
        assert run.membrane_range[pool] == (0, run.membrane_range[pool][1])

    def test_it_costs_a_neuron_for_each_window_and_as_many_inputs_as_places(self, convert: Any) -> None:
        few, many = (self.convert(convert, max_pool=by).report for by in ("any", "rectifiers"))
        (row,) = (row for row in few.layers if row.kind == "SpikeAnyPool2d")
        assert (row.fan_in, row.rows, row.threshold, row.leak, row.neurons) == (4, 4, (1, 1), (0, 0), 4 * 6 * 6)
        assert row.activity is not None
        assert row.activity.synaptic_operations > 0
        assert (few.totals().neurons or 0) < (many.totals().neurons or 0)

    def test_what_is_assumed_of_the_chip_is_said(self, convert: Any) -> None:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 3),
        ).eval()
        report = fxsnn.check(model, target="hw_v1.0", bits=2, max_pool="any")
        assert report.ok
        pooling, assumed = "2: max pooling by any neuron of the window", "hw_v1.0 is assumed to have a reset for each"
        assert f"note: {pooling}, which overestimates; reset to zero" in str(report)
        assert assumed in str(report)
        assert not fxsnn.check(model, target="hw_v1.0", bits=2, max_pool="rectifiers").ok
        snn = self.convert(convert, model, target="hw_v1.0", bits=2)
        assert assumed in str(snn.report)
        snn.reset = "zero"
        assert assumed not in str(snn.report)

    def test_it_overestimates_and_correction_and_training_know(self, convert: Any) -> None:
        model, x = network(nn.MaxPool2d(2)), images(16)
        expected = model(x).detach()
        plain = self.convert(convert, timesteps=64)
        corrected = self.convert(convert, timesteps=64, correction="biases")
        errors = [float((snn(x).detach() - expected).square().mean()) for snn in (plain, corrected)]
        assert errors[1] < errors[0] / 2

    def test_a_concatenation_of_it_and_others_is_read_with_what_each_is_worth(self, convert: Any) -> None:
        model = joined(lambda m, x, y: torch.cat([m.third(x).relu()[:, :2], F.max_pool2d(x, 3, 1, 1)[:, 2:]], 1))
        snn = self.convert(convert, model, timesteps=256)
        assert correlation(model(images(16)).detach(), snn(images(16)).detach()) > 0.9
        assert snn.verify_engine(images(2))

    def test_signals_are_pooled_too(self, convert: Any) -> None:
        model = nn.Sequential(
            nn.Conv1d(2, 4, 3),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(4, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(20, 3),
        ).eval()
        snn = self.convert(convert, model, calibration_data=torch.randn(8, 2, 16))
        assert isinstance(snn.get_submodule("2"), SpikeAnyPool2d)
        assert snn.verify_engine(torch.randn(2, 2, 16))

    def test_nir_and_its_readers_have_one_reset_for_all(self, convert: Any) -> None:
        pytest.importorskip("nir")
        snn = self.convert(convert, reset="zero", initial_membrane=0)
        with pytest.raises(fxsnn.ModelError, match="its neurons have a reset of their own"):
            fxsnn.to_nir(snn)

    def test_it_is_drawn_and_listed_at_every_stage(self, convert: Any) -> None:
        step = replaced(network(nn.MaxPool2d(2)), "any")
        assert len(step.after.nodes(AnyPool2d)) == 1
        assert "AnyPool2d 2×2" in step.after.draw().svg
        assert [row[1] for row in layer_rows(step.after)].count("AnyPool2d") == 1
        snn = self.convert(convert)
        assert "SpikeAnyPool2d 2×2" in snn.graph.draw().svg
        rows = [dict(zip(HEADER, row, strict=True)) for row in layer_rows(snn.graph)]
        assert [row["threshold"] for row in rows if row["is a"] == "SpikeAnyPool2d"] == ["1"]
