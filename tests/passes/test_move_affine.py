"""Scales and shifts go into the layers beside them, where that changes nothing; all else stays."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.checking import rewrite_in_front
from fxsnn.graph import Graph, Norm
from fxsnn.layers import Affine, input_shift
from fxsnn.passes import FRONT_END, CheckConvRelu, FoldBatchNorm, MoveAffine
from tests.joining import correlation
from tests.nets import images, seeded
from tests.random_networks import quiet, random_seeds
from tests.sharing import cases


class Scale(nn.Module):
    """Written as users write it."""

    def __init__(self, factor: float = 2.0, shift: float = 0.0) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x: Tensor) -> Any:
        return x * self.factor + self.shift


class Normalise(nn.Module):
    """A normalisation of one's own."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-0.5, 0.5, channels))
        self.register_buffer("std", torch.linspace(0.2, 0.4, channels))

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor) -> Any:
        sides = [1] * (x.dim() - 2)
        return (x - self.mean.view(-1, *sides)) / self.std.view(-1, *sides)


def front(model: nn.Module, given: Tensor) -> Graph:
    """The graph behind the front end, each pass of it verified."""
    graph = fxsnn.capture(model, given)
    for one in FRONT_END:
        step = one(graph, given)
        assert step.moved == pytest.approx(0, abs=1e-10)
        graph = step.after
    return graph


def moved(*layers: nn.Module, size: int = 12) -> Graph:
    return front(seeded(lambda: nn.Sequential(*layers)), images(3, size=size))


def names(graph: Graph) -> list[str]:
    return [graph.name(node) for node in graph.nodes(nn.Module)]


def end(features: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(features, 5)]


# Directly behind a layer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [Scale(0.1), Scale(-2, 1), Normalise(4)])
def test_behind_a_convolution_it_goes_into_that(affine: nn.Module) -> None:
    graph = moved(nn.Conv2d(3, 4, 3, padding=1), affine, nn.ReLU(), *end(576))
    assert names(graph) == ["0", "2", "3", "4"]


def test_behind_a_fully_connected_layer_too() -> None:
    graph = moved(nn.Flatten(), nn.Linear(432, 6), Normalise(6), nn.ReLU(), nn.Linear(6, 5))
    assert names(graph) == ["0", "1", "3", "4"]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)])
def test_behind_a_batch_norm_it_changes_that_and_what_is_known_of_the_layer(norm: nn.BatchNorm2d) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), norm, Scale(-3, 0.5), nn.ReLU(), *end(400)))
    graph = front(model, images())
    assert names(graph) == ["0", "1", "3", "4", "5"]
    folded: Any = FoldBatchNorm()(graph).after["0"]
    mean = norm.bias.detach() if norm.affine else torch.zeros(4)
    deviation = norm.weight.detach() if norm.affine else torch.ones(4)
    torch.testing.assert_close(folded.channel_mean, -3 * mean + 0.5)
    torch.testing.assert_close(folded.channel_deviation, 3 * deviation)


def test_between_a_layer_and_its_batch_norm_it_goes_into_the_layer() -> None:
    graph = moved(nn.Conv2d(3, 4, 3), Scale(0.1, 2), nn.BatchNorm2d(4), nn.ReLU(), *end(400))
    assert names(graph) == ["0", "2", "3", "4", "5"]


def test_two_batch_norms_in_a_row_are_one() -> None:
    graph = moved(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(), *end(400))
    assert names(graph) == ["0", "1", "3", "4", "5"]


# Behind activations, poolings and the images -------------------------------------------------------------------------


@cases("norm", [nn.BatchNorm2d(4), Normalise(4), nn.BatchNorm2d(4, affine=False), Scale(0.25, 1)], quick=2)
@pytest.mark.parametrize("pools", [[], [nn.AvgPool2d(2)], [nn.AvgPool2d(2), nn.AvgPool2d(2, 1)]])
def test_behind_a_relu_it_goes_into_the_layers_around_it(norm: nn.Module, pools: list[nn.Module]) -> None:
    features = (256, 36, 16)[len(pools)]
    graph = moved(nn.Conv2d(3, 4, 3), nn.ReLU(), norm, *pools, nn.Conv2d(4, 4, 3), nn.ReLU(), *end(features))
    assert not graph.nodes(Affine, *Norm)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("factor", [0.25, -0.25, 0])
def test_a_scale_goes_into_padded_layers_too(padding: int, factor: float) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=padding)
    graph = moved(nn.Conv2d(3, 4, 3), nn.ReLU(), Scale(factor), conv, nn.ReLU(), *end(400 if padding else 256))
    assert not graph.nodes(Affine)


def test_the_magnitude_of_a_scale_goes_into_the_layer_in_front() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), Normalise(2), nn.Conv2d(2, 4, 3), nn.ReLU(), *end(256))
    )
    graph = front(model, images())
    scale = 1 / model[2].std
    torch.testing.assert_close(graph["0"].weight, model[0].weight * scale[:, None, None, None])
    torch.testing.assert_close(graph["3"].weight, model[3].weight)
    assert input_shift(graph["3"]) is not None


@pytest.mark.parametrize("build", [Normalise, lambda: nn.BatchNorm2d(3), lambda: Scale(1 / 255, -0.5)])
def test_on_the_images_it_goes_into_a_first_layer_without_padding(build: Callable[[], nn.Module]) -> None:
    assert not moved(build(), nn.Conv2d(3, 4, 3), nn.ReLU(), *end(400)).nodes(Affine, *Norm)
    assert not moved(build(), nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 5)).nodes(Affine, *Norm)


def test_a_scale_of_images_goes_into_a_padded_first_layer_and_a_shift_stays_on_them() -> None:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *end(576)]
    assert not moved(Scale(1 / 255), *layers).nodes(Affine)
    graph = moved(Scale(1 / 255), Scale(2, -1), *layers)
    (node,) = graph.nodes(Affine)
    assert node.all_input_nodes == [graph.input()]
    assert graph[node].extra_repr() == "scale=0.007843, shift=-1"


def test_signals_are_scaled_and_shifted_in_front_of_what_lifts_them() -> None:
    layers = [
        nn.Conv1d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm1d(4),
        nn.AvgPool1d(2),
        nn.Conv1d(4, 4, 3),
        nn.ReLU(),
    ]
    model = seeded(lambda: nn.Sequential(Normalise(), *layers, nn.Flatten(), nn.Linear(32, 5)))
    graph = front(model, torch.rand(3, 3, 20))
    (node,) = graph.nodes(Affine)
    assert node.all_input_nodes == [graph.input()]
    assert not graph.nodes(nn.BatchNorm1d, nn.BatchNorm2d)


def test_vectors_are_scaled_and_shifted_by_the_first_layer() -> None:
    model = seeded(
        lambda: nn.Sequential(
            Normalise(8), nn.Linear(8, 6), nn.ReLU(), Normalise(6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)
        )
    )
    assert names(front(model, torch.randn(5, 8))) == ["1", "2", "4", "5", "6"]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_what_brings_channels_into_one_range_is_done_before_they_are_rounded(dimensions: int, convert: Any) -> None:
    """Integers of channels as they are have one step, that of the widest."""
    ranges = torch.tensor([1.0, 100.0, 0.01, 3.0])
    norm, first, sizes = {
        1: (nn.BatchNorm1d(4), nn.Linear(4, 32), (96, 4)),
        2: (nn.BatchNorm1d(4), nn.Conv1d(4, 16, 3), (96, 4, 9)),
        3: (nn.BatchNorm2d(4), nn.Conv2d(4, 16, 3), (96, 4, 9, 9)),
    }[dimensions]
    x = torch.rand(sizes, generator=torch.Generator().manual_seed(0)) * ranges.view(-1, *[1] * (dimensions - 1))
    model = seeded(lambda: nn.Sequential(norm, first, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)))
    norm.reset_parameters()
    norm.train()(x)
    norm.momentum = None
    model.train()(x)
    model.eval()
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_what_is_far_from_zero_is_brought_near_it_before_it_is_rounded() -> None:
    near, far = (
        front(nn.Sequential(Scale(4, -mean), nn.Conv2d(3, 4, 3), nn.ReLU(), *end(400)), images()) for mean in (2, 20)
    )
    assert not near.nodes(Affine)
    assert len(far.nodes(Affine)) == 1


def rising_norm(channels: int = 4) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("padding", [0, 1])
def test_what_keeps_the_order_of_numbers_passes_a_max_pooling(padding: int) -> None:
    pool = nn.MaxPool2d(3, 2, padding)
    behind = nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    for layers in ((nn.ReLU(), rising_norm(), pool), (pool, rising_norm(), nn.ReLU())):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), *layers, *behind)
        model(images(3))
        graph = front(model.eval(), images(3))
        assert not graph.nodes(Affine)
        assert fxsnn.check(model, target="generic", bits=4, max_pool="rectifiers", example=images(3)).ok


def test_what_turns_their_order_round_stays_behind_a_max_pooling() -> None:
    first, last = (nn.Conv2d(3, 4, 3), nn.ReLU()), (nn.Conv2d(4, 4, 3), nn.ReLU())
    assert not moved(*first, nn.MaxPool2d(2), Scale(-1.0), *last).nodes(Affine)  # the convolution takes it
    assert len(moved(*first, Scale(-1.0), nn.MaxPool2d(2), *last).nodes(Affine)) == 1


def test_what_only_poolings_separate_is_one() -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            Scale(2, 1),
            nn.AvgPool2d(2),
            Normalise(4),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            *end(36),
        )
    )
    graph = front(model, images())
    assert not graph.nodes(Affine)
    torch.testing.assert_close(graph["5"].weight, model[5].weight)  # all magnitudes are in the first layer


# The tail ------------------------------------------------------------------------------------------------------------


def test_what_only_poolings_separate_from_the_tail_becomes_a_part_of_it() -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.AvgPool2d(5), *end(4)
        )
    )
    graph = front(model, images())
    assert names(graph) == ["0", "1", "3", "4", "2", "5", "6"]
    assert [graph.name(node) for node in graph.tail()] == ["2", "5", "6"]
    kept: Any = graph["2"]
    assert torch.equal(kept.weight, model[2].weight)
    assert torch.equal(kept.running_mean, model[2].running_mean)
    with quiet():
        snn = fxsnn.convert(model, target="generic", bits=4, timesteps=64, calibration_data=images(32))
    assert torch.equal(snn.state_dict()["2.weight"], model[2].weight)


def test_in_front_of_the_tail_several_keep_their_order() -> None:
    graph = moved(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), Scale(2, 1), nn.BatchNorm2d(4), nn.AvgPool2d(2), *end(100)
    )
    order = [graph.name(node) for node in graph if node.op.startswith("call")]
    assert order == ["0", "1", "5", "2", "mul", "add", "4", "6", "7"]


def test_a_divisor_in_front_of_the_tail_is_a_multiplication_there() -> None:
    graph = moved(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2, divisor_override=1), *end(100))
    assert [graph.name(node) for node in graph.tail()] == ["mul", "3", "4"]


# What stays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), *end(400)], ["3, which pads with zeros", "padding=0"]),
        ([nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding="same"), *end(400)], ["2:", "pads with zeros"]),
        ([Scale(1, 1), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 4, 3), *end(256)], ["average zeros", "padding=0 in 3"]),
        ([nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3), *end(256)], ["running_stats=True"]),
    ],
)  # fmt: skip
def test_what_cannot_be_moved_is_refused_by_name_with_a_remedy(layers: list[nn.Module], words: list[str]) -> None:
    if isinstance(layers[-3], nn.Conv2d):
        layers = [*layers[:-2], nn.ReLU(), *layers[-2:]]
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *layers))
    narrow = fxsnn.HardwareTarget("narrow", input_channels={(3, 3): {4: 4}})  # no convolutions of one pixel
    report = fxsnn.check(model, target=narrow, bits=4, example=images())
    assert len(report.findings) == 1, report.findings
    for word in words:
        assert word in str(report.findings[0])
    with quiet(), pytest.raises(fxsnn.ModelError):
        fxsnn.convert(model, target=narrow, bits=4, calibration_data=images())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), *end(400)],
        [nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=0), nn.ReLU(), *end(256)],
        [nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 4, 3), nn.ReLU(), *end(256)],
        [nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *end(256)],
        [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *end(256)],
    ],
)
def test_the_remedies_help(layers: list[nn.Module]) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), *layers))
    assert fxsnn.check(model, target="generic", bits=4, example=images()).ok


@pytest.mark.parametrize("mean", [torch.linspace(0, 1, 12), torch.rand(3, 12, 12), torch.tensor(float("nan"))])
def test_constants_of_pixels_and_broken_ones_are_refused_by_name(mean: Tensor) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean_image = nn.Parameter(mean)
            self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *end(400))

        def forward(self, x: Tensor) -> Any:
            return self.net(x - self.mean_image)

    found = fxsnn.check(seeded(Net), target="generic", bits=4, example=images()).findings
    about = [one for one in found if "mean_image" in one.problem or one.layer == "mean_image"]
    assert about
    assert len(found) <= 2
    assert any("one finite number for each channel" in one.problem for one in found)


def test_images_that_are_normalised_for_the_tail_too_are_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(576, 3)

        def forward(self, x: Tensor) -> Any:
            x = 2 * x - 1
            return self.fc(torch.relu(self.conv(x)).flatten(1)) + x.mean((2, 3))

    assert not fxsnn.check(seeded(Net), target="generic", bits=4, example=images()).ok


def test_a_layer_that_is_called_twice_takes_nothing() -> None:
    conv = nn.Conv2d(4, 4, 3)
    graph = fxsnn.capture(
        seeded(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Scale(), conv, nn.ReLU(), conv, nn.ReLU(), *end(144))
        )
    )
    for one in FRONT_END:
        step = one(graph, images())
        assert step.moved == pytest.approx(0, abs=1e-10)
        graph = step.after
    assert len(graph.nodes(Affine)) <= 1


def test_a_network_without_any_is_left_as_it_is() -> None:
    graph = fxsnn.capture(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *end(400))))
    assert MoveAffine()(graph).diff().summary() == "nothing changed"


# Random networks -----------------------------------------------------------------------------------------------------


def random_network(seed: int) -> nn.Module:
    """Convolutions, poolings and layers behind a flatten, with scales and shifts wherever they may stand."""
    random = Random(seed)

    def some(channels: int, flat: bool = False) -> list[nn.Module]:
        norm = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(channels, affine=random.random() < 0.7)
        kinds = [Scale(random.uniform(-2, 2), random.choice((0, 1))), Normalise(channels), norm]
        return random.sample(kinds, random.choice((0, 0, 1, 1, 2)))

    channels, side, layers = 3, 14, some(3)
    for _ in range(random.randint(1, 3)):
        outputs, kernel, padding = random.choice((2, 4)), random.choice((1, 3)), random.choice((0, 0, 1))
        layers += [nn.Conv2d(channels, outputs, kernel, padding=padding, bias=random.random() < 0.5), *some(outputs)]
        layers += [nn.ReLU(), *some(outputs)]
        channels, side = outputs, side + 2 * padding - kernel + 1
        if side > 5 and random.random() < 0.5:
            divisor = random.choice((None, None, 1, 3))
            layers += [nn.AvgPool2d(2, divisor_override=divisor), *some(channels)]
            side //= 2
    layers += [nn.Flatten()]
    features = channels * side * side
    if random.random() < 0.6:
        layers += [nn.Linear(features, 6), *some(6, True), nn.ReLU(), *some(6, True)]
        features = 6
    return seeded(lambda: nn.Sequential(*layers, nn.Linear(features, 5)), seed)


@random_seeds(3, slow=27)
def test_the_function_is_kept_in_random_networks(seed: int) -> None:
    graph = front(random_network(seed), images(3, size=14))
    reasons = [one.problem for one in CheckConvRelu().findings(graph)]
    for node in graph.nodes(Affine):
        blocked = any("pads with zeros" in one or "average zeros" in one for one in reasons)
        assert node.all_input_nodes == [graph.input()] or blocked, reasons


@random_seeds(2, slow=18)
def test_random_networks_that_are_accepted_agree_with_their_spikes(seed: int) -> None:
    model, given = random_network(seed), images(16, size=14)
    if not fxsnn.check(model, target="generic", bits=4, example=given).ok:
        return
    with quiet():
        try:
            snn = fxsnn.convert(
                model, target="generic", bits=4, timesteps=64, calibration_data=given, calibration="max"
            )
        except fxsnn.TargetError:  # a leak that fits no register
            return
        budget = fxsnn.insight.effects.stage_networks(model, snn)
    with torch.no_grad():
        torch.testing.assert_close(budget["ann"](given.double()), model.double()(given.double()), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(budget["timing"](given.double()).float(), snn(given), rtol=1e-4, atol=1e-4)


# Other devices -------------------------------------------------------------------------------------------------------


@cases("affine", [Scale(-0.5, 1), nn.BatchNorm2d(4), Scale(1 / 255), Normalise(4)], quick=2)
@pytest.mark.parametrize("place", ["images", "behind the layer", "behind the relu"])
def test_it_is_where_the_network_is(affine: nn.Module, place: str) -> None:
    """On the meta device, too: a network of which only sizes are known can be checked."""
    layers = [nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *end(256)]
    layers.insert(("images", "behind the layer", "behind the relu").index(place), affine)
    model = nn.Sequential(*layers).eval().to("meta")
    assert fxsnn.check(model, target="generic", bits=4).ok
    graph = rewrite_in_front(fxsnn.capture(model), FRONT_END)
    assert {tensor.device.type for tensor in graph.module.state_dict().values()} == {"meta"}


def test_a_scale_without_shift_is_known_as_such_on_the_meta_device() -> None:
    model = nn.Sequential(Scale(1 / 255), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *end(576)).to("meta").eval()
    graph = rewrite_in_front(fxsnn.capture(model), FRONT_END)
    assert not graph.nodes(Affine)
