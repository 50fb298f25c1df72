"""Padding as a layer or a call becomes that of the convolution or pooling behind it."""

from __future__ import annotations

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
from fxsnn.errors import ModelError
from fxsnn.insight import error_budget
from fxsnn.layers import FixedSize, Lift, Lower, PaddedConv2d, Spread, sides_of
from fxsnn.passes import AbsorbPadding, Canonicalize, CheckConvRelu
from tests.engines import ENGINES, same
from tests.joining import correlation, joined
from tests.nets import images, in_front, seeded
from tests.random_networks import quiet
from tests.sharing import cases


def network(*front: nn.Module, kernel: int = 3, stride: int = 1, padding: Any = 0) -> nn.Module:
    """Layers in front of a convolution, and a classifier that takes any size."""
    conv = nn.Conv2d(3, 4, kernel, stride, padding)
    return nn.Sequential(*front, conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class Calls(nn.Module):
    """A convolution behind a call."""

    def __init__(self, call: Callable[[Tensor], Tensor], stride: int = 2) -> None:
        super().__init__()
        self.call, self.conv, self.fc = call, nn.Conv2d(3, 4, 3, stride), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(F.relu(self.conv(self.call(x))).mean([2, 3]))


def same_as_tensorflow(x: Tensor) -> Tensor:
    """How networks from TensorFlow pad in front of a 3x3 kernel with stride 2."""
    sides = []
    for side in (x.size(-1), x.size(-2)):
        whole = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
        sides += [whole // 2, whole - whole // 2]
    return F.pad(x, sides)


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "sides": lambda x: F.pad(x, (0, 1, 0, 1)),
    "a list": lambda x: F.pad(x, [0, 1, 0, 1], "constant", 0),
    "named": lambda x: F.pad(input=x, pad=(0, 1, 0, 1), mode="constant", value=0.0),
    "channels and images too": lambda x: F.pad(x, (0, 1, 0, 1, 0, 0, 0, 0)),
    "torch": lambda x: torch.constant_pad_nd(x, (0, 1, 0, 1), 0),
    "two calls": lambda x: F.pad(F.pad(x, (0, 1)), (0, 0, 0, 1)),
    "of TensorFlow": same_as_tensorflow,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_calls_are_taken_in_whichever_way_they_are_written(name: str) -> None:
    graph = in_front(seeded(lambda: Calls(SPELLINGS[name])), images())
    assert sides_of(graph["conv"]) == (0, 1, 0, 1)  # type: ignore[arg-type]  # a module of the graph
    sized = graph.nodes(FixedSize)
    assert bool(sized) == (name == "of TensorFlow"), "of odd sides it pads otherwise"
    assert len(graph.body()) == 3 + len(sized)


@pytest.mark.parametrize("layer", [nn.ZeroPad2d((1, 2, 0, 1)), nn.ConstantPad2d((1, 2, 0, 1), 0.0)])
def test_layers_are_taken_in_and_a_kernel_stays_as_large_as_it_was(layer: nn.Module) -> None:
    conv: Any = in_front(seeded(lambda: network(layer)), images())["1"]
    assert (type(conv), conv.padding, conv.kernel_size) == (PaddedConv2d, (0, 1, 1, 2), (3, 3))


@pytest.mark.parametrize(
    ("own", "around", "kind", "padding"),
    [
        (0, (1, 1, 1, 1), nn.Conv2d, (1, 1)),
        (1, (2, 2, 0, 0), nn.Conv2d, (1, 3)),
        (1, (1, 0, 0, 0), PaddedConv2d, (1, 1, 2, 1)),
        ("same", (1, 1, 0, 0), nn.Conv2d, (1, 2)),
        ("valid", (0, 0, 3, 0), PaddedConv2d, (3, 0, 0, 0)),
        (2, (0, 0, 0, 0), nn.Conv2d, (2, 2)),
    ],
)
def test_what_the_convolution_pads_itself_is_added(own: Any, around: Any, kind: type, padding: Any) -> None:
    conv: Any = in_front(seeded(lambda: network(nn.ZeroPad2d(around), padding=own)), images())["1"]
    assert (type(conv), conv.padding) == (kind, padding)


@pytest.mark.parametrize(
    "between", [nn.ReLU(), nn.Dropout(), nn.ZeroPad2d((0, 0, 1, 0))], ids=["relu", "dropout", "pad"]
)
def test_what_maps_zero_to_zero_may_stand_between(between: nn.Module) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), *network(nn.ZeroPad2d(1), between).children()))
    graph = in_front(model, images())
    assert sides_of(graph["4"])[1:] == (1, 1, 1)  # type: ignore[arg-type]  # a module of the graph
    assert not graph.nodes(nn.ZeroPad2d)


def test_an_average_pooling_pads_both_sides_alike() -> None:
    def build(around: int, **options: Any) -> nn.Module:
        pool = nn.AvgPool2d(4, 2, **options)
        second = (nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ZeroPad2d(around), pool, *second)
        model(images())
        return model

    taken: list[tuple[dict[str, Any], Any]] = [
        ({}, (1, 1)), ({"padding": 1}, (2, 2)), ({"count_include_pad": False}, (1, 1)),
    ]  # fmt: skip
    for options, padding in taken:
        pool: Any = in_front(build(1, **options).eval(), images())["3"]
        assert (pool.padding, pool.count_include_pad) == (padding, True)
    left: list[tuple[int, dict[str, Any]]] = [
        (3, {}), (1, {"padding": 2}), (1, {"padding": 1, "count_include_pad": False}),
    ]  # fmt: skip
    for around, options in left:
        graph = in_front(build(around, **options).eval(), images())  # verified
        assert [graph[node].pads for node in graph.nodes(Spread)] == [True]
        assert not CheckConvRelu().findings(graph)


@cases("pad", [nn.ZeroPad1d((2, 1)), lambda x: F.pad(x, (2, 1)), nn.ConstantPad1d((2, 1), 0)], quick=1)
def test_signals_are_padded_too(pad: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.fc = nn.Conv1d(3, 4, 5), nn.Conv1d(4, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            return self.fc(F.relu(self.two(pad(F.relu(self.one(pad(x)))))).mean(2))

    x = images()[:, :, 0]
    graph = in_front(seeded(Net), x)
    assert [sides_of(graph[name]) for name in ("one", "two")] == [(0, 0, 2, 1)] * 2  # type: ignore[arg-type]
    assert len(graph.body(Lift)) == 1
    assert not graph.body(Lower)
    with quiet():
        snn = fxsnn.convert(seeded(Net), target="generic", bits=4, calibration_data=x)
    assert snn.graph.image_form.rank == 3


def padded_once(pool: nn.Module) -> Any:
    """What is padded is read by a convolution and a pooling."""

    def function(m: Any, x: Tensor, y: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1))
        return F.relu(m.third(x)) + pool(x)

    return joined(function)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)], ids=["maximum", "average"])
def test_padding_that_several_read_is_wiring(pool: nn.Module, convert: Any) -> None:
    model, x = padded_once(pool), images(8)
    options: dict[str, Any] = {"target": "generic", "bits": 4, "max_pool": "rectifiers"}
    assert fxsnn.check(model, **options).ok
    snn = convert(model, **options, calibration_data=x, timesteps=512)
    assert len(snn.graph.nodes(Spread)) == 1
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_padding_in_front_of_a_flatten_is_wiring() -> None:
    layers = nn.Flatten(), nn.Linear(576, 4), nn.ReLU(), nn.Linear(4, 5)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ZeroPad2d(1), *layers))
    assert in_front(model, images()).nodes(Spread)


@pytest.mark.parametrize("examples", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_any_sides_any_padding_and_any_geometry_keep_the_function(examples: int) -> None:
    geometry = given(
        seed=st.integers(0, 1000),
        sides=st.tuples(*[st.integers(0, 4)] * 4),
        own=st.one_of(st.tuples(*[st.integers(0, 2)] * 2), st.just("same"), st.just("valid")),
        kernel=st.integers(1, 4),
        stride=st.integers(1, 3),
        dilation=st.integers(1, 2),
        call=st.booleans(),
    )
    settings(max_examples=examples)(geometry(the_function_is_kept))()


def the_function_is_kept(seed: int, sides: Any, own: Any, kernel: int, stride: int, dilation: int, call: bool) -> None:
    conv = nn.Conv2d(3, 4, kernel, 1 if own == "same" else stride, own, dilation)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pad = conv, nn.ZeroPad2d(sides)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(F.pad(x, sides) if call else self.pad(x)))

    given = images(2, 3, 9, seed)
    step = AbsorbPadding()(Canonicalize()(fxsnn.capture(Net().eval(), given)).after, given)
    assert step.moved is not None
    assert step.moved < 1e-12
    assert len(step.after) == 4


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another value": (lambda: network(nn.ConstantPad2d(1, 0.5)), "it pads with 0.5. Pad with zeros"),
    "negative": (lambda: network(nn.ZeroPad2d(-1)), r"its padding (-1, -1, -1, -1) is negative: it cuts the map"),
    "half of it negative": (lambda: network(nn.ZeroPad2d((1, -1, 0, 0))), "is negative"),
    "channels": (lambda: Calls(lambda x: F.pad(x[:, :2].abs(), (0, 0, 0, 0, 0, 1))), "adds channels or images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_layer_can_take_in_says_why(name: str) -> None:
    build, says = REFUSED[name]
    report = fxsnn.check(seeded(build), target="generic", bits=4, example=images())
    assert not report.ok
    assert says in str(report)


def test_padded_images_may_be_read_by_two() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pad, self.one, self.two = nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            x = self.pad(x)
            return self.fc(F.relu(self.one(x) + self.two(x)).mean((2, 3)))

    graph = in_front(seeded(Net), images())
    assert len(graph.nodes(Spread)) == 1
    assert not CheckConvRelu().findings(graph)


def test_sides_that_depend_on_sizes_need_an_example() -> None:
    model = seeded(lambda: Calls(same_as_tensorflow))
    assert fxsnn.check(model, target="generic", bits=4, example=images()).ok


def test_padding_in_the_tail_is_left_there() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ZeroPad2d(1), nn.Flatten(), nn.Linear(576, 5))

    graph = in_front(seeded(build), images())
    assert graph.nodes(nn.ZeroPad2d)


# Through everything --------------------------------------------------------------------------------------------------


def downsampling() -> nn.Module:
    """3x12x12, as MobileNets that came from TensorFlow are written."""

    def block(here: int, there: int, stride: int) -> list[nn.Module]:
        pad = nn.ZeroPad2d((0, 1, 0, 1) if stride == 2 else 1)
        depthwise = nn.Conv2d(here, here, 3, stride, groups=here, bias=False)
        pointwise = nn.Conv2d(here, there, 1, bias=False)
        norms = nn.BatchNorm2d(here), nn.BatchNorm2d(there)
        return [pad, depthwise, norms[0], nn.ReLU(), pointwise, norms[1], nn.ReLU()]

    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        *block(8, 8, 1), *block(8, 12, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def snn() -> fxsnn.SpikingNetwork:
    with quiet():
        return fxsnn.convert(seeded(downsampling), target="generic", bits=4, timesteps=8, calibration_data=images(16))


def test_engines_files_and_readers_make_the_same_spikes(snn: fxsnn.SpikingNetwork, tmp_path: Path) -> None:
    runs = []
    for snn.engine in ENGINES:
        runs.append(snn.simulate(images()).spikes)
    snn.engine = "auto"
    assert all(same(run, runs[0]) for run in runs)
    path = snn.save(tmp_path / "net.fxsnn")
    back = fxsnn.load(path)
    assert same(back.simulate(images()).spikes, runs[0])
    assert sides_of(back.get_submodule("1")) == (0, 1, 0, 1)  # type: ignore[arg-type]  # of the network
    assert read_network.main(str(path)) == 0


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning", "ignore:.*deprecated:FutureWarning")
def test_programs_of_pytorch_make_the_same_logits(snn: fxsnn.SpikingNetwork) -> None:
    traced: Any = torch.jit.trace(snn, images(2))
    exported = torch.export.export(snn, (images(4),)).module()
    for program in (traced, exported):
        torch.testing.assert_close(program(images(4, seed=3)), snn(images(4, seed=3)), rtol=1e-6, atol=1e-6)


def test_fine_tuning_and_the_error_budget_know_the_layers() -> None:
    model, x = seeded(downsampling), images(16)
    tuning = fxsnn.Finetune((x, torch.arange(16) % 5), epochs=1)
    with quiet():
        tuned = fxsnn.convert(
            model, target="generic", bits=4, timesteps=8, calibration_data=x, correction="both", finetune=tuning
        )
        budget = error_budget(model, tuned, (x, torch.arange(16) % 5))
    assert sides_of(tuned.get_submodule("1")) == (0, 1, 0, 1)  # type: ignore[arg-type]  # of the network
    assert "13" in str(budget)


def test_thresholds_are_found_without_data() -> None:
    with quiet():
        snn = fxsnn.convert(seeded(downsampling), target="generic", bits=4)
    assert sides_of(snn.get_submodule("1")) == (0, 1, 0, 1)  # type: ignore[arg-type]  # of the network


def test_convert_refuses_with_the_same_words() -> None:
    with pytest.raises(ModelError, match=r"it pads with 0\.5"):
        fxsnn.convert(network(nn.ConstantPad2d(1, 0.5)).eval(), target="generic", bits=4)
