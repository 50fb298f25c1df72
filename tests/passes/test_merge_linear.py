"""Linear layers in a row, without an activation between them, are one layer."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.insight import error_budget
from fxsnn.layers import FoldedConv2d, sides_of
from fxsnn.passes import CheckConvRelu, FoldBatchNorm, MergeLinear
from tests import reference
from tests.engines import ENGINES
from tests.joining import correlation
from tests.nets import images, in_front, seeded
from tests.random_networks import quiet, random_seeds
from tests.test_against_reference import whole

UNPAIRED = fxsnn.HardwareTarget("unpaired", joins=())
"""Where two linear layers in a row that are not one are no pairs of layers either."""


def network(*layers: nn.Module, given: Tensor | None = None) -> nn.Module:
    """The layers, a ReLU, and a classifier of any size."""

    def build() -> nn.Module:
        model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        model(images() if given is None else given)
        return model

    return seeded(build)


def weights(graph: Graph) -> list[str]:
    """Names of the layers of the body that have weights or pool."""
    return [graph.name(node) for node in graph.body(nn.Conv2d, nn.Linear, nn.AvgPool2d)]


def depthwise(channels: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, groups=channels, **options)


ONE: dict[str, tuple[Callable[[], list[nn.Module]], str, tuple[int, int]]] = {
    "separable": (lambda: [depthwise(3, padding=1), nn.Conv2d(3, 8, 1)], "1", (3, 3)),
    "separable with norms": (
        lambda: [
            depthwise(3, padding=1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8),
        ],
        "2", (3, 3),
    ),
    "pointwise, then depthwise": (lambda: [nn.Conv2d(3, 6, 1), depthwise(6)], "1", (3, 3)),
    "pointwise without a bias, then a padded one": (
        lambda: [nn.Conv2d(3, 6, 1, bias=False), depthwise(6, padding=1)], "1", (3, 3),
    ),
    "two kernels": (lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3)], "1", (5, 5)),
    "a row and a column": (lambda: [nn.Conv2d(3, 4, (1, 3), padding=(0, 1)), nn.Conv2d(4, 4, (3, 1))], "1", (3, 3)),
    "three": (lambda: [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 6, 1)], "2", (3, 3)),
    "a pooling in front of the ReLU": (lambda: [nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)], "0", (4, 4)),
    "with a norm between": (lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2)], "0", (4, 4)),
    "with a norm behind": (lambda: [nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)], "0", (4, 4)),
    "images pooled": (lambda: [nn.AvgPool2d(2), nn.Conv2d(3, 4, 3)], "1", (6, 6)),
    "images pooled, then padded": (lambda: [nn.AvgPool2d(2), nn.Conv2d(3, 4, 3, padding=1)], "1", (6, 6)),
    "images pooled twice": (lambda: [nn.AvgPool2d(2), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2)], "2", (8, 8)),
    "patches, then a padded one": (
        lambda: [nn.Conv2d(3, 4, 2, stride=2, bias=False), nn.Conv2d(4, 4, 3, padding=1)], "1", (6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_they_are_one_layer_with_the_name_of_the_last_that_has_weights(name: str) -> None:
    build, kept, kernel = ONE[name]
    graph = in_front(network(*build()), images())
    assert weights(graph) == [kept]
    assert graph[kept].kernel_size == kernel
    assert CheckConvRelu().findings(graph) == []


def test_groups_that_both_have_stay() -> None:
    conv: Any = in_front(network(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 9, 3, groups=3)), images())["1"]
    assert conv.groups == 3
    conv = in_front(
        network(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 1, groups=4), nn.Conv2d(12, 6, 1, groups=6)), images()
    )["2"]
    assert conv.groups == 1


def test_a_stride_and_dilations_are_those_of_both() -> None:
    first = nn.Conv2d(3, 4, 2, stride=2, padding=(1, 2), dilation=2)
    conv: Any = in_front(network(first, nn.Conv2d(4, 4, 2, stride=(1, 2), dilation=(2, 1))), images())["1"]
    assert (conv.stride, conv.padding, conv.dilation, conv.kernel_size) == ((2, 4), (1, 2), (2, 2), (4, 3))


def test_a_factorised_fully_connected_layer_is_one() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 8, bias=False), nn.BatchNorm1d(8, affine=False),
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5),
        )  # fmt: skip

    graph = in_front(seeded(build), images())
    assert weights(graph) == ["0", "5"]
    assert graph["5"].weight.shape == (16, 400)
    assert graph.body(nn.BatchNorm1d)


def test_poolings_of_spikes_stay_layers_of_their_own() -> None:
    graph = in_front(network(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3)), images())
    assert weights(graph) == ["0", "2", "3"]
    graph = in_front(
        network(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1)), images()
    )
    assert weights(graph) == ["0", "2", "3", "4"]


def test_signals_are_merged_too() -> None:
    x = images()[:, :, 0]
    separable = nn.Conv1d(3, 3, 3, padding=1, groups=3), nn.Conv1d(3, 8, 1)
    assert weights(in_front(network(nn.AvgPool1d(2), *separable, given=x), x)) == ["2"]


def test_the_tail_stays_as_it_is() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 8), nn.Linear(8, 5))
    )
    graph = fxsnn.capture(model)
    assert MergeLinear()(graph).after.text() == graph.text()


def test_a_norm_behind_the_last_layer_is_remembered() -> None:
    model = network(depthwise(3), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    folded = FoldBatchNorm()(in_front(model, images())).after["1"]
    assert isinstance(folded, FoldedConv2d)
    assert torch.equal(folded.channel_mean, model[2].bias)  # type: ignore[index]  # a Sequential
    with quiet():
        assert fxsnn.convert(model, target="generic", bits=4).report.layers[0].layer == "1"


@pytest.mark.parametrize("examples", [12, pytest.param(80, marks=pytest.mark.slow)])
def test_any_two_are_one_exactly_or_stay_two(examples: int) -> None:
    settings(max_examples=examples)(given(st.integers(0, 1 << 20), st.booleans())(are_one_exactly_or_stay_two))()


def are_one_exactly_or_stay_two(seed: int, sized: bool) -> None:
    random = Random(seed)

    def layer(inputs: int) -> nn.Module:
        kernel: Any
        stride: Any
        dilation: Any
        padding: Any
        groups = random.choice([number for number in (1, 2, 3, inputs) if inputs % number == 0])
        kernel, stride, dilation, padding = (
            tuple(random.choice(some) for _ in range(2)) for some in ((1, 1, 2, 3), (1, 1, 2, 3), (1, 2), (0, 0, 1, 2))
        )
        if random.random() < 0.2:
            window: Any
            around: Any
            window, around = tuple(max(2, side) for side in kernel), tuple(min(1, side) for side in padding)
            return nn.AvgPool2d(window, stride, around)
        outputs = groups * random.randint(1, 3)
        return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, random.random() < 0.5)

    channels, layers = 6, list[nn.Module]()
    for _ in range(random.randint(2, 3)):
        layers.append(layer(channels))
        channels = getattr(layers[-1], "out_channels", channels)
        if random.random() < 0.3:
            layers.append(nn.BatchNorm2d(channels))
    given = torch.randn(2, 6, random.randint(9, 16), random.randint(9, 16))
    model = seeded(lambda: nn.Sequential(*layers, nn.ReLU()), seed)
    try:
        with torch.no_grad():
            model(given)
    except RuntimeError:  # a window does not fit
        return
    step = MergeLinear()(fxsnn.capture(model, given if sized else None), given)
    assert step.moved is not None
    assert step.moved < 1e-12


REFUSED: dict[str, tuple[list[nn.Module], list[nn.Module], str]] = {
    "a bias that is padded": (
        [nn.Conv2d(3, 6, 1), depthwise(6, padding=1)],
        [nn.Conv2d(3, 6, 1), depthwise(6)],
        "and is not one layer with it: 1 pads with zeros what has a bias. Put nn.ReLU directly behind it (a batch "
        "norm may stand between), or let 1 pad nothing",
    ),
    "a norm that is padded": (
        [nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), depthwise(6, padding=1)],
        [nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), depthwise(6, padding=1)],
        "2 pads with zeros what has a bias",
    ),
    "two that pad": (
        [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1)],
        [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3)],
        "1 pads with zeros what reads over the edge of the map",
    ),
    "patches that leave a rest": (
        [nn.Conv2d(3, 6, 5, stride=5, bias=False), nn.Conv2d(6, 6, 2, padding=1)],
        [nn.Conv2d(3, 6, 4, stride=4, bias=False), nn.Conv2d(6, 6, 2, padding=1)],
        "1 pads with zeros what reads over the edge of the map",
    ),
    "statistics that are not there": (
        [nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, track_running_stats=False), nn.Conv2d(6, 6, 3)],
        [nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3)],
        "Train with track_running_stats=True",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_says_why_and_the_remedy_is_taken(name: str) -> None:
    layers, better, says = REFUSED[name]
    report = fxsnn.check(network(*layers), target=UNPAIRED, bits=4, example=images())
    assert says in str(report)
    assert fxsnn.check(network(*better), target=UNPAIRED, bits=4, example=images()).ok


def test_a_size_that_is_not_known_is_asked_for() -> None:
    model = network(nn.Conv2d(3, 6, 2, stride=2, bias=False), nn.Conv2d(6, 6, 3, padding=1))
    assert "the size of the map that it reads is not known" in str(fxsnn.check(model, target=UNPAIRED, bits=4))
    assert fxsnn.check(model, target=UNPAIRED, bits=4, example=images()).ok


def test_a_layer_that_others_read_is_left() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(576, 5)

        def forward(self, x: Tensor) -> Any:
            x = self.one(x)
            return self.fc((F.relu(self.two(x)) + x).flatten(1))

    graph = fxsnn.capture(seeded(Net))
    assert MergeLinear()(graph).after.text() == graph.text()
    assert "it is read by two, add" in str(fxsnn.check(seeded(Net), target=UNPAIRED, bits=4))


def test_a_kernel_that_the_chip_does_not_have_is_said() -> None:
    model = network(nn.AvgPool2d(2), nn.Conv2d(3, 4, 3))
    report = str(fxsnn.check(model, target="hw_v1.0", bits=4))
    assert "1: its kernel is 6x6; hw_v1.0 supports 3x3, 5x5 (0 and 1 are one layer: there is no ReLU between" in report
    with pytest.raises(fxsnn.TargetError, match="1: its kernel is 6x6"):
        fxsnn.convert(model, target="hw_v1.0", bits=4, calibration_data=images())


def test_weights_without_values_are_no_zeros() -> None:
    model = network(nn.Conv2d(3, 6, 1), depthwise(6, padding=1)).to("meta")
    assert "1 pads with zeros what has a bias" in str(fxsnn.check(model, target=UNPAIRED, bits=4))


# Through everything --------------------------------------------------------------------------------------------------


class Separable(nn.Module):
    """3x12x12, as MobileNet variants and Xception are written: no ReLU between depthwise and pointwise."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise, self.pointwise = depthwise(8, padding=1, bias=False), nn.Conv2d(8, 12, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(12)])
        self.narrow, self.wide, self.fc = nn.Linear(432, 4), nn.Linear(4, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.norms[0](self.depthwise(self.stem(x)))
        x = F.relu(self.norms[1](self.pointwise(x)))
        return self.fc(F.relu(self.wide(self.narrow(x.flatten(1)))))


def layers_of(snn: fxsnn.SpikingNetwork) -> list[reference.Layer]:
    """The reference's layers, from the converted ones."""
    found: list[reference.Layer] = []
    for row in snn.report.layers:
        layer: Any = snn.get_submodule(row.layer)
        neurons, codes = reference.Neurons(layer.gain, whole(layer.threshold), whole(layer.leak)), whole(layer.codes)
        if row.kind == "SpikeLinear":
            found.append(reference.FullyConnected(neurons, codes))
            continue
        top, bottom, left, right = sides_of(layer)
        sides = (top, bottom), (left, right)
        found.append(
            reference.Convolution(neurons, whole(layer.codes), layer.stride, sides, layer.dilation, layer.groups)
        )
    return found


def assert_spikes_of_the_contract(snn: fxsnn.SpikingNetwork, x: Tensor) -> None:
    encode: Any = snn.get_submodule("encode")
    given = reference.encoded(x.double().numpy(), encode.unit, 8)
    traces = reference.simulated(layers_of(snn), given, timesteps=snn.timesteps, reset="subtraction", half_start=True)
    for snn.engine in ENGINES:
        for trace, spikes in zip(traces, snn.simulate(x).spikes.values(), strict=True):
            assert (trace.spikes == whole(spikes)).all()


def test_every_spike_is_that_of_the_contract() -> None:
    with quiet():
        snn = fxsnn.convert(seeded(Separable), target="hw_v1.0", bits=4, timesteps=12, calibration_data=images(16))
    assert [row.layer for row in snn.report.layers] == ["stem.0", "pointwise", "wide"]
    assert_spikes_of_the_contract(snn, images(3, seed=5))


@random_seeds(2, slow=64)
def test_those_of_random_rows_of_layers_are(seed: int) -> None:
    random = Random(seed)
    groups, stride = random.choice((1, 3)), random.randint(1, 2)
    first = nn.Conv2d(3, 6, random.randint(1, 3), stride, random.randint(0, 2), random.randint(1, 2), groups)
    row = [
        first,
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, random.randint(1, 2), random.randint(1, 2), groups=random.choice((1, 2))),
    ]
    front = [nn.ZeroPad2d((0, 1, 2, 0))] if random.random() < 0.5 else []
    model = network(*front, *row, nn.ReLU(), nn.Conv2d(4, 4, 1), nn.AvgPool2d(2))
    with quiet():
        snn = fxsnn.convert(model, target="generic", bits=3, timesteps=8, calibration_data=images(16))
    assert len(snn.report.layers) == 2
    assert_spikes_of_the_contract(snn, images(2, seed=seed))


def test_the_error_budget_and_fine_tuning_know_the_layers() -> None:
    model, x, labels = seeded(Separable), images(16), torch.arange(16) % 5
    with quiet():
        snn = fxsnn.convert(
            model, target="generic", bits=4, calibration_data=x, finetune=fxsnn.Finetune((x, labels), epochs=1)
        )
        assert "pointwise" in str(error_budget(model, snn, (x, labels)))


def test_a_norm_and_a_pooling_on_the_images_leave_one_layer(convert: Any) -> None:
    layers = (
        nn.BatchNorm2d(3),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    x = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = seeded(lambda: nn.Sequential(*layers))
    model(x)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
