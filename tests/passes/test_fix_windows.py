"""Averages over windows that follow from the size of the map become poolings with a fixed window."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError, FileError
from fxsnn.graph import Graph
from fxsnn.insight import error_budget
from fxsnn.layers import Lift, Lower
from fxsnn.passes import CheckConvRelu, FixWindows
from fxsnn.storage import load_arrays, save_arrays
from tests import reference
from tests.engines import ENGINES
from tests.nets import images, in_front, seeded
from tests.random_networks import PoolPlan, quiet
from tests.sharing import cases
from tests.test_against_reference import whole


def pools(graph: Graph) -> list[tuple[Any, Any]]:
    """Kernels and strides of the poolings in the body."""
    return [(graph[node].kernel_size, graph[node].stride) for node in graph.body(nn.AvgPool2d)]


class Net(nn.Module):
    """3 channels: a convolution, a call, and a hidden layer behind it; a classifier."""

    def __init__(self, call: Callable[[Tensor], Tensor], size: int = 12, channels: int = 4) -> None:
        super().__init__()
        self.call, self.conv = call, nn.Conv2d(3, channels, 3, padding=1)
        features = call(torch.zeros(1, channels, size, size)).numel()
        self.hidden, self.fc = nn.Linear(features, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(F.relu(self.hidden(self.call(F.relu(self.conv(x))).flatten(1))))


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean over two": lambda x: x.mean([2, 3]),
    "mean over the last two": lambda x: torch.mean(x, dim=(-2, -1)),
    "mean in the names of numpy": lambda x: x.mean(axis=(-1, -2), keepdims=True),  # type: ignore[call-overload]
    "mean that keeps": lambda x: x.mean((2, 3), keepdim=True),
    "mean that keeps, by place": lambda x: torch.mean(x, (2, 3), True),
    "two means": lambda x: x.mean(3).mean(2),
    "two means of the last": lambda x: x.mean(-1).mean(-1),
    "two means, height first": lambda x: torch.mean(torch.mean(x, 2), 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive, a tuple": lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
    "its own size": lambda x: F.avg_pool2d(x, x.size()[2:]),
    "its own shape": lambda x: F.avg_pool2d(x, x.shape[-1]),
}


@cases("name", WHOLE, quick=("mean over two", "mean that keeps", "adaptive", "its own size"))
def test_an_average_over_the_whole_map_is_one_window(name: str) -> None:
    graph = in_front(seeded(lambda: Net(WHOLE[name])), images())
    assert [pair(kernel) for kernel, _ in pools(graph)] == [(12, 12)]
    assert CheckConvRelu().findings(graph) == []


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


SQUEEZES: dict[str, Callable[[Tensor], Tensor]] = {
    "one by one": lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "a function, from the front": lambda x: torch.squeeze(F.avg_pool2d(x, 12), dim=2).squeeze(2),
    "both": lambda x: x.mean((2, 3), keepdim=True).squeeze((2, 3)),
    "by an index": lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0],
    "by an index from behind": lambda x: F.adaptive_avg_pool2d(x, 1)[..., -1, 0],
    "by an index and a squeeze": lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0].squeeze(2),
}


@cases("name", SQUEEZES, quick=("one by one", "by an index"))
def test_squeezes_of_a_map_of_one_place_are_a_flatten(name: str) -> None:
    graph = in_front(seeded(lambda: Net(SQUEEZES[name])), images())
    assert CheckConvRelu().findings(graph) == []
    with quiet():
        snn = fxsnn.convert(seeded(lambda: Net(SQUEEZES[name])), target="generic", bits=4, calibration_data=images(16))
    assert snn(images(1)).shape == (1, 5)


def test_an_index_of_one_place_of_several_is_no_flatten() -> None:
    model = seeded(lambda: Net(lambda x: x[:, :, 0, 0]))
    assert "getitem is not supported" in str(fxsnn.check(model, target="generic", bits=4, example=images()))


def test_a_squeeze_that_may_drop_a_single_image_is_refused() -> None:
    model = seeded(lambda: Net(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze()[:, None]))
    report = str(fxsnn.check(model, target="generic", bits=4, example=images()))
    assert "squeeze is not supported" in report


@pytest.mark.parametrize(
    ("side", "outputs", "kernel", "stride"),
    [
        (12, 3, (4, 4), (4, 4)),
        (7, 3, (3, 3), (2, 2)),
        (12, (1, 6), (12, 2), (1, 2)),
        (12, (None, 4), (1, 3), (1, 3)),
        (7, 2, (4, 4), (3, 3)),
    ],
)
def test_adaptive_windows_that_are_alike_are_fixed(side: int, outputs: Any, kernel: Any, stride: Any) -> None:
    model = seeded(lambda: Net(nn.AdaptiveAvgPool2d(outputs), side))
    assert pools(in_front(model, images(size=side))) == [(kernel, stride)]


def test_one_that_changes_nothing_disappears() -> None:
    for outputs in (12, (12, None), (None, None)):
        assert pools(in_front(seeded(lambda: Net(nn.AdaptiveAvgPool2d(outputs))), images())) == []  # noqa: B023


@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_adaptive_poolings_are_fixed_exactly_where_the_function_is_kept(examples: int) -> None:
    sides, counts = st.integers(1, 14), st.integers(1, 9)
    settings(max_examples=examples)(given(sides, sides, counts, counts)(adaptive_pooling_is_fixed))()


def adaptive_pooling_is_fixed(height: int, width: int, rows: int, columns: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((rows, columns)), nn.ReLU()).eval()
    given = torch.randn(2, 1, height, width)
    step = FixWindows()(fxsnn.capture(model, given), given)
    assert step.moved is not None
    assert step.moved < 1e-12
    assert bool(step.after.nodes(nn.AdaptiveAvgPool2d)) != all(
        alike(side, count) for side, count in ((height, rows), (width, columns))
    )


def alike(side: int, count: int) -> bool:
    """Whether an adaptive pooling averages over the same number of places everywhere, as far from each other."""
    reads = [torch.nonzero(row).flatten().tolist() for row in F.adaptive_avg_pool1d(torch.eye(side)[None], count)[0].T]
    steps = {behind[0] - before[0] for before, behind in itertools.pairwise(reads)}
    return len({len(one) for one in reads}) == 1 and len(steps) < 2 and 0 not in steps


def test_a_global_pooling_in_front_of_the_classifier_is_left() -> None:
    for pool in (nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(3, ceil_mode=True)):
        model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.LazyLinear(5)))  # noqa: B023
        model(images())
        graph = in_front(model, images())
        assert bool(graph.nodes(nn.AdaptiveAvgPool2d)) == isinstance(pool, nn.AdaptiveAvgPool2d)


@pytest.mark.parametrize("call", [nn.AdaptiveAvgPool1d(4), lambda x: x.mean(2), lambda x: x.mean(-1, keepdim=True)])
def test_averages_of_signals_are_fixed_too(call: Any) -> None:
    class Signals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.again = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 4, 1)
            self.hidden, self.fc = nn.LazyLinear(6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Any:
            x = call(F.relu(self.conv(x)))
            x = F.relu(self.again(x)) if x.dim() == 3 else x
            return self.fc(F.relu(self.hidden(x.flatten(1))))

    x = images()[:, :, 0]
    model = seeded(Signals)
    model(x)
    graph = in_front(model, x)
    assert len(pools(graph)) == 1
    assert not graph.body(Lower)
    assert len(graph.body(Lift)) == 1
    assert CheckConvRelu().findings(graph) == []


def test_a_signal_that_something_else_reads_is_one_again() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.hidden, self.fc = nn.Conv1d(3, 4, 3, padding=1), nn.Linear(4, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.conv(x)).mean(2, keepdim=True).transpose(1, 2)
            return self.fc(F.relu(self.hidden(x)).flatten(1))

    graph = in_front(seeded(Odd), images()[:, :, 0])
    assert len(graph.body(Lower)) == 1


# Options of AvgPool2d ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "options"), [(12, {}), (11, {"stride": 3}), (10, {"padding": 1, "stride": 1})])
def test_ceil_mode_that_makes_no_difference_is_left_out(side: int, options: dict[str, Any]) -> None:
    model = seeded(lambda: Net(nn.AvgPool2d(2, **options, ceil_mode=True), side))
    graph = in_front(model, images(size=side))
    assert not any(graph[node].ceil_mode for node in graph.nodes(nn.AvgPool2d))
    assert CheckConvRelu().findings(graph) == []


@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_ceil_mode_is_left_out_exactly_where_it_makes_no_difference(examples: int) -> None:
    windows = (st.integers(3, 14), st.integers(2, 5), st.integers(1, 6), st.integers(0, 2), st.booleans())
    settings(max_examples=examples)(given(*windows)(ceil_mode_is_left_out))()


def ceil_mode_is_left_out(side: int, kernel: int, stride: int, padding: int, counts: bool) -> None:
    options: dict[str, Any] = {"padding": min(padding, kernel // 2), "count_include_pad": counts}
    pool, plain = (nn.AvgPool2d(kernel, stride, **options, ceil_mode=ceil) for ceil in (True, False))
    given = torch.randn(2, 1, side, side)
    try:
        expected = plain(given)
    except RuntimeError:  # the window does not fit
        return
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), pool, nn.ReLU()).eval()
    step = FixWindows()(fxsnn.capture(model, given), given)
    assert step.moved is not None
    assert step.moved < 1e-12
    fixed: Any = step.after["2"]
    assert fixed.ceil_mode == (expected.shape != pool(given).shape)


def test_where_it_does_the_finding_says_what_to_write_and_that_is_taken() -> None:
    model = seeded(lambda: Net(nn.AvgPool2d(2, ceil_mode=True), 11))
    report = str(fxsnn.check(model, target="generic", bits=4, example=images(size=11)))
    assert "windows of a 11x11 map hang over its edge" in report
    assert "Use ceil_mode=False, with padding=(1, 1) for as many windows" in report
    model.call = nn.AvgPool2d(2, padding=(1, 1))
    assert fxsnn.check(model, target="generic", bits=4, example=images(size=11)).ok


def test_padding_that_is_not_there_need_not_be_counted() -> None:
    model = seeded(lambda: Net(nn.AvgPool2d(2, count_include_pad=False)))
    assert fxsnn.check(model, target="generic", bits=4).ok
    model = seeded(lambda: Net(nn.AvgPool2d(2, padding=1, count_include_pad=False)))
    assert "its padding is not counted" in str(fxsnn.check(model, target="generic", bits=4))
    assert fxsnn.check(model, target="generic", bits=4, example=images()).ok


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 14), st.integers(2, 4), st.integers(1, 3), st.integers(1, 2))
def test_padding_that_is_not_counted_is_places_that_are_read_more_often(
    side: int, kernel: int, stride: int, padding: int
) -> None:
    pool = nn.AvgPool2d((kernel, 3), (stride, 1), (min(padding, kernel // 2), 1), count_include_pad=False)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), pool, nn.Conv2d(1, 1, 1), nn.ReLU()).eval()
    given = torch.randn(2, 1, side, side)
    step = FixWindows()(fxsnn.capture(model, given), given)
    assert step.moved is not None
    assert step.moved < 1e-12
    fixed: Any = step.after["2"]
    assert fixed.padding == 0
    assert max(fixed.kernel_size) <= 12


def test_windows_of_too_many_sizes_are_refused() -> None:
    model = seeded(lambda: Net(nn.AvgPool2d(9, 1, 4, count_include_pad=False)))
    assert "its padding is not counted" in str(fxsnn.check(model, target="generic", bits=4, example=images()))


# Unhappy paths -------------------------------------------------------------------------------------------------------


def test_without_a_size_the_finding_asks_for_it_and_that_is_enough() -> None:
    for call in (nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1), lambda x: x.mean((2, 3))):
        model = seeded(lambda: Net(call))  # noqa: B023
        report = fxsnn.check(model, target="generic", bits=4)
        assert "depend on the size of the map that it reads, which is not known. Give example=..." in str(report)
        assert fxsnn.check(model, target="generic", bits=4, example=images()).ok
    ceil = seeded(lambda: Net(nn.AvgPool2d(2, ceil_mode=True)))
    assert "its ceil_mode is True, and the size of the map" in str(fxsnn.check(ceil, target="generic", bits=4))


def test_windows_that_differ_are_refused_with_sizes_that_do_not() -> None:
    model = seeded(lambda: Net(nn.AdaptiveAvgPool2d(5)))
    report = str(fxsnn.check(model, target="generic", bits=4, example=images()))
    assert "its windows differ: it makes 5 of 12 rows or columns. Use an output size of 4 or 6" in report
    for outputs in (4, 6):
        better = seeded(lambda: Net(nn.AdaptiveAvgPool2d(outputs)))  # noqa: B023
        assert fxsnn.check(better, target="generic", bits=4, example=images()).ok


def test_maps_that_are_repeated_are_refused() -> None:
    report = fxsnn.check(seeded(lambda: Net(nn.AdaptiveAvgPool2d(14))), target="generic", bits=4, example=images())
    assert "it makes 14 of 12 rows or columns" in str(report)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.mean(1),
        lambda x: x.mean((1, 2, 3), keepdim=True),
        lambda x: x.mean(2),
        lambda x: x.mean((2, 3), dtype=torch.float64),
    ],
    ids=["channels", "all", "rows", "type"],
)
def test_other_means_are_refused(call: Any) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.hidden, self.fc = nn.Conv2d(3, 4, 3), nn.LazyLinear(6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Any:
            x = call(F.relu(self.conv(x))).flatten(1).float()
            return self.fc(F.relu(self.hidden(x)))

    model = seeded(Odd)
    model(images())
    assert "Average over height and width of the maps" in str(
        fxsnn.check(model, target="generic", bits=4, example=images())
    )


def test_a_layer_named_mean_is_no_mean() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)))
    named = nn.Sequential()
    for name, layer in zip(("conv", "mean", "flatten", "fc"), model, strict=True):
        named.add_module(name, layer)
    assert in_front(named, images()).is_a(in_front(named, images()).calls("mean")[0], nn.ReLU) is True


# Through everything --------------------------------------------------------------------------------------------------


def squeezing() -> nn.Module:
    """3x12x12: an adaptive pooling between convolutions, and a mean in front of a hidden layer."""

    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.pool = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(3)
            self.two, self.hidden, self.fc = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.two(self.pool(F.relu(self.one(x)))))
            return self.fc(F.relu(self.hidden(x.mean([2, 3]))))

    return seeded(Squeezing)


def test_every_spike_is_that_of_the_contract_in_every_engine() -> None:
    x = images(16)
    with quiet():
        options: dict[str, Any] = {"bits": 4, "timesteps": 12, "calibration_data": x, "average_pool": "plain"}
        snn = fxsnn.convert(squeezing(), target="generic", **options)
    layers: list[reference.Layer] = []
    plans = {
        "one": None,
        "pool": PoolPlan((4, 4), (3, 3), (0, 0)),
        "two": None,
        "mean": PoolPlan((3, 3), (1, 1), (0, 0)),
    }
    for name in [*plans, "hidden"]:
        layer: Any = snn.get_submodule(name)
        plan = plans.get(name)
        if plan is not None:
            layers.append(reference.AveragePooling(6, plan.kernel, plan.stride, plan.padding))
            continue
        neurons = reference.Neurons(layer.gain, whole(layer.threshold), whole(layer.leak))
        codes = whole(layer.codes)
        if name == "hidden":
            layers.append(reference.FullyConnected(neurons, codes))
        else:
            sides = reference.even_sides(layer.padding)
            layers.append(reference.Convolution(neurons, codes, (1, 1), sides, (1, 1), 1))
    encode: Any = snn.get_submodule("encode")
    given = reference.encoded(x[:3].double().numpy(), encode.unit, 8)
    traces = reference.simulated(layers, given, timesteps=12, reset="subtraction", half_start=True)
    for snn.engine in ENGINES:
        run = snn.simulate(x[:3])
        assert list(run.spikes) == [*plans, "hidden"]
        for trace, spikes in zip(traces, run.spikes.values(), strict=True):
            assert (trace.spikes == whole(spikes)).all()


def test_images_of_another_size_are_refused_at_every_stage(tmp_path: Path) -> None:
    with quiet():
        snn = fxsnn.convert(squeezing(), target="generic", bits=4, calibration_data=images(16))
    graph = in_front(squeezing(), images())
    back = fxsnn.load(snn.save(tmp_path / "net.fxsnn"))
    for network in (graph, snn, back):
        with pytest.raises(DataError, match=r"images have shape \[4, 3, 13, 13\]; expected \[N, 3, 12, 12\]"):
            network(images(size=13))
    assert back.graph.image_form == snn.graph.image_form
    assert read_network.main(str(tmp_path / "net.fxsnn")) == 0
    assert torch.equal(back(images()), snn(images()))


def test_a_file_cannot_say_two_sizes(tmp_path: Path) -> None:
    with quiet():
        snn = fxsnn.convert(squeezing(), target="generic", bits=4, calibration_data=images(16))
    arrays, document = load_arrays(snn.save(tmp_path / "net.fxsnn", golden=0))
    document["image_size"] = [3, 13, 13]
    save_arrays(tmp_path / "other.fxsnn", arrays, document)
    with pytest.raises(FileError, match=r"image_size: it is \[3, 13, 13\]; images of this network are \[N, 3, 12, 12"):
        fxsnn.load(tmp_path / "other.fxsnn")


def test_the_error_budget_and_fine_tuning_know_the_layers() -> None:
    model, x, labels = squeezing(), images(16), torch.arange(16) % 5
    with quiet():
        snn = fxsnn.convert(
            model, target="generic", bits=4, calibration_data=x, finetune=fxsnn.Finetune((x, labels), epochs=1)
        )
        assert "mean" in str(error_budget(model, snn, (x, labels)))
