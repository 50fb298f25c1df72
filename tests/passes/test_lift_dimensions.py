"""Networks on signals become networks on maps of one row, and the function stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import Finding
from fxsnn.graph import Graph
from fxsnn.layers import FixedSize, ImageForm, Lift, Lower, Repeat, Spread
from fxsnn.passes import Canonicalize, CheckConvRelu, LiftDimensions
from fxsnn.rewriting import Step
from tests.joining import correlation
from tests.nets import CONVERTIBLE, images, seeded
from tests.random_networks import Signals, noise, random_seeds, random_signal_plan


def signals(channels: int = 2, length: int = 24, count: int = 3) -> Tensor:
    return torch.randn(count, channels, length, generator=torch.Generator().manual_seed(3))


def lifted(model: nn.Module, given: Tensor | None = None) -> Step:
    given = signals() if given is None else given
    return LiftDimensions()(Canonicalize()(fxsnn.capture(model, given), given).after, given)


def kinds(graph: Graph) -> list[type[nn.Module]]:
    return [type(graph[node]) for node in graph.nodes(nn.Module)]


@random_seeds(4, slow=116)
def test_random_networks_compute_what_they_computed(seed: int) -> None:
    plan = random_signal_plan(Random(seed))
    model, given = Signals(plan), noise(plan, 3, seed=1).squeeze(2)
    step = lifted(model, given)
    assert step.moved is not None
    assert step.moved < 1e-12
    assert not step.after.nodes(nn.Conv1d, nn.AvgPool1d)
    assert step.after.image_form == fxsnn.capture(model).image_form == ImageForm(plan.image[0], 3)
    with torch.no_grad():
        torch.testing.assert_close(step.after(given), model(given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 2},
        {"padding": "same"},
        {"padding": "same", "dilation": 3},
        {"padding": "valid", "stride": 3},
        {"dilation": 2, "groups": 2, "bias": False},
        {"padding": 3, "padding_mode": "circular"},
        {"padding": 3, "padding_mode": "reflect"},
        {"padding": 3, "padding_mode": "replicate"},
    ],
)
def test_every_option_of_a_convolution_stays_what_it_was(options: dict[str, Any]) -> None:
    step = lifted(seeded(lambda: nn.Sequential(nn.Conv1d(2, 4, 4, **options), nn.ReLU())))
    assert step.moved is not None
    assert step.moved < 1e-12
    assert kinds(step.after) == [Lift, nn.Conv2d, nn.ReLU, Lower]


def test_every_option_of_a_pooling_stays_what_it_was() -> None:
    pools = [
        nn.AvgPool1d(3, 2, 1),
        nn.AvgPool1d(5, 3, ceil_mode=True),
        nn.AvgPool1d(2, padding=1, count_include_pad=False),
    ]
    for pool in pools:
        assert lifted(nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), pool)).moved == pytest.approx(0, abs=1e-12)


def test_weights_are_those_of_the_graph_before() -> None:
    before = Canonicalize()(fxsnn.capture(nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU()))).after
    weights: Any = [graph["0"] for graph in (before, LiftDimensions()(before).after)]
    assert weights[0].weight.data_ptr() == weights[1].weight.data_ptr()
    assert weights[1].weight.shape == (4, 2, 1, 3)


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_networks_on_maps_stay_as_they_are(name: str) -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(CONVERTIBLE[name]))).after
    assert LiftDimensions()(graph, images()).after.text() == graph.text()


class TestBatchNorm:
    def test_on_signals_gets_two_dimensions_and_on_features_stays(self) -> None:
        def build() -> nn.Module:
            conv = [nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten()]
            return nn.Sequential(*conv, nn.Linear(88, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))

        after = lifted(seeded(build)).after
        assert [type(after[name]) for name in ("1", "5")] == [nn.BatchNorm2d, nn.BatchNorm1d]

    def test_of_several_processes_is_one_on_signals(self) -> None:
        def build() -> nn.Module:
            return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(88, 3))

        model = nn.SyncBatchNorm.convert_sync_batchnorm(seeded(build))
        assert type(lifted(model).after["1"]) is nn.BatchNorm2d

    def test_without_scale_or_statistics_keeps_that(self) -> None:
        norm: Any = lifted(seeded(lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4, affine=False)))).after[
            "1"
        ]
        assert not norm.affine
        for_training = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU()).eval()
        untracked: Any = lifted(for_training).after["1"]
        assert untracked.running_mean is None

    def test_on_the_images_is_seen_to_be_on_signals(self) -> None:
        after = lifted(seeded(lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Conv1d(2, 4, 3), nn.ReLU()))).after
        assert kinds(after) == [Lift, nn.BatchNorm2d, nn.Conv2d, nn.ReLU, Lower]


class Around(nn.Module):
    """conv, ReLU, `function`, conv, ReLU, fully connected."""

    def __init__(self, function: Callable[[Tensor], Tensor], inputs: int = 4) -> None:
        super().__init__()
        self.function = function
        self.conv1, self.conv2, self.fc = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(inputs, 6, 3), nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(F.relu(self.conv2(self.function(F.relu(self.conv1(x))))).flatten(1))


def around(function: Callable[[Tensor], Tensor], inputs: int = 4) -> nn.Module:
    model = Around(function, inputs)
    model(signals())
    return model.eval()


def findings(graph: Graph) -> list[Finding]:
    return CheckConvRelu().findings(graph)


def test_functions_are_known_as_layers_are() -> None:
    after = lifted(around(lambda x: F.avg_pool1d(torch.avg_pool1d(x, 2), kernel_size=3, stride=1, padding=1))).after
    assert kinds(after).count(nn.AvgPool2d) == 2
    assert not findings(after)


def test_what_works_number_by_number_reads_maps() -> None:
    after = lifted(around(lambda x: torch.sigmoid(x * 2 + 1).clamp(min=0.1))).after
    assert not after.nodes(Lower)
    after = lifted(around(lambda x: x + x * 0.5)).after
    assert not after.nodes(Lower)


@pytest.mark.parametrize(
    ("function", "name", "remedy"),
    [
        (nn.MaxPool1d(2), "MaxPool1d", "nn.AvgPool1d"),
        (lambda x: F.max_pool1d(x, 2), "MaxPool1d", "nn.AvgPool1d"),
        (lambda x: x.cumsum(2), "cumsum", "Supported are Conv1d"),
    ],
)
def test_what_has_no_equal_is_named_alone(function: Callable[[Tensor], Tensor], name: str, remedy: str) -> None:
    step = lifted(around(function))
    assert step.moved == pytest.approx(0, abs=1e-12)
    (found,) = findings(step.after)
    assert name in found.problem
    assert remedy in found.remedy


SHAPES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "unsqueeze": (lambda x: x.unsqueeze(1), (24,)),
    "view": (lambda x: x.view(-1, 1, 24), (24,)),
    "view of as many": (lambda x: x.view(x.size(0), 1, 24), (24,)),
    "squeeze": (lambda x: x.squeeze(1), (1, 1, 24)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_images_are_to_be_given_in_the_shape_that_they_are_brought_into(name: str) -> None:
    function, size = SHAPES[name]

    class Audio(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.function = nn.Conv1d(1, 4, 3), function

        def forward(self, x: Tensor) -> Any:
            return F.relu(self.conv(self.function(x)))

    given = torch.randn(3, *size)
    step = lifted(seeded(Audio), given)
    assert step.moved == pytest.approx(0, abs=1e-12)
    (found,) = findings(step.after)
    assert f"{name.split()[0]} is not supported" in found.problem
    assert found.remedy == (
        "Give images of shape [N, 1, 24]: leave this call out of forward, and write images.reshape(-1, 1, 24) where "
        "they are prepared"
    )
    function = lambda x: x  # noqa: E731  # as advised
    assert not findings(lifted(seeded(Audio), given.reshape(-1, 1, 24)).after)


def test_what_a_cat_cannot_read_is_named_and_the_function_stays() -> None:
    step = lifted(around(lambda x: torch.cat([x, x.cumsum(2)], 1), inputs=8))
    assert step.moved == pytest.approx(0, abs=1e-12)
    assert any("cumsum" in found.problem for found in findings(step.after))


def test_a_relu_on_the_images_is_named_behind_the_lift_too() -> None:
    (found,) = findings(lifted(nn.Sequential(nn.ReLU(), nn.Conv1d(2, 4, 3), nn.ReLU())).after)
    assert "this ReLU does not follow" in found.problem


def test_a_convolution_that_is_called_twice_is_still_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3)

        def forward(self, x: Tensor) -> Any:
            return F.relu(self.conv(F.relu(self.conv(x))))

    step = lifted(seeded(Twice))
    assert step.moved == pytest.approx(0, abs=1e-12)
    assert any("its weights are used 2 times" in found.problem for found in findings(step.after))


class TestTheTail:
    """It is left as it is, and sees signals as it did."""

    @pytest.mark.parametrize(
        "tail",
        [
            [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)],
            [nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 3), nn.LogSoftmax(1)],
            [nn.AdaptiveAvgPool1d(1)],
        ],
    )
    def test_of_layers_on_signals(self, tail: list[nn.Module]) -> None:
        graph = lifted(seeded(lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), *tail))).after
        assert [type(graph[node]) for node in graph.tail()][:2] == [Lower, nn.AdaptiveAvgPool1d]
        assert not findings(graph)

    @pytest.mark.parametrize("reduced", [lambda x: x.mean(-1), lambda x: x.mean(2), lambda x: x.mean(dim=(2,))])
    def test_of_functions_with_dimensions(self, reduced: Callable[[Tensor], Tensor]) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.fc = nn.Conv1d(2, 4, 3), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Any:
                return self.fc(reduced(F.relu(self.conv(x))))

        step = lifted(seeded(Net))
        assert step.moved == pytest.approx(0, abs=1e-12)
        assert len(step.after.nodes(Lower)) == 1

    def test_needs_no_way_back_where_it_flattens(self) -> None:
        layers = [nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(44, 3)]
        assert not lifted(seeded(lambda: nn.Sequential(*layers))).after.nodes(Lower)

    def test_reads_the_images_as_they_came(self) -> None:
        class Beside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.fc = nn.Conv1d(2, 4, 3), nn.Linear(88, 3)

            def forward(self, x: Tensor) -> Any:
                return self.fc(F.relu(self.conv(x)).flatten(1)) + x.mean((1, 2))[:, None]

        assert lifted(seeded(Beside)).moved == pytest.approx(0, abs=1e-12)


class Dense(nn.Module):
    """2x15: a convolution reads what two others give, behind one another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.last, self.fc = nn.Conv1d(8, 6, 3), nn.Linear(6 * 13, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        return self.fc(F.relu(self.last(torch.cat([x, F.relu(self.second(x))], dim=1))).flatten(1))


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_channels_of_signals_are_concatenated_as_those_of_maps(engine: str, convert: Any) -> None:
    model, given = seeded(Dense), torch.randn(16, 2, 15)
    assert not lifted(model, given).after.nodes(Lower)
    # as many steps as channels: none is taken for the other
    snn = convert(model, target="generic", bits=4, timesteps=8, calibration_data=given, engine=engine)
    assert correlation(model(given).detach(), snn(given).detach()) > 0.95


class Causal(nn.Module):
    """2x24: convolutions that read nothing of the future, in a residual block, as temporal convolutional networks."""

    def __init__(self, crop: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.crop = crop
        self.first, self.second = nn.Conv1d(2, 6, 3, padding=2), nn.Conv1d(6, 6, 3, padding=2)
        self.beside, self.fc = nn.Conv1d(2, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.crop(self.second(F.relu(self.crop(self.first(x))))))
        return self.fc(F.relu(y + self.beside(x)).mean(-1))


class Inception(nn.Module):
    """2x24: branches with other kernels, side by side, one of them cropped."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.many, self.fc = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(2, 4, 9, padding=5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.fc(torch.cat([F.relu(self.few(x)), F.relu(self.many(x))[..., :-2]], dim=1).mean(-1))


class Recording(nn.Module):
    """1x4x24: a convolution over the electrodes, whose maps of one row are signals for the next one."""

    def __init__(self, squeeze: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.conv, self.next, self.fc = nn.Conv2d(1, 4, (4, 5)), nn.Conv1d(4, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.fc(F.relu(self.next(self.squeeze(F.relu(self.conv(x))))).mean(-1))


def wired(model: nn.Module, given: Tensor, example: Tensor | None = None) -> Graph:
    """Behind the front end, which keeps the function and finds nothing in the way."""
    passes = fxsnn.pipeline(target="generic", bits=4).until("check-conv-relu")
    return replace(passes, example=given).run(fxsnn.capture(model.eval(), example))


CROPS: dict[str, Callable[[Tensor], Tensor]] = {
    "a slice": lambda x: x[:, :, :-2],
    "a slice of the last dimension": lambda x: x[..., :-2],
    "in other memory": lambda x: x[:, :, :-2].contiguous(),
    "split": lambda x: torch.tensor_split(x, [-2], dim=2)[0],
    "negative padding": lambda x: F.pad(x, (0, -2)),
}


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("name", CROPS)
def test_crops_of_signals_are_wiring(name: str, sized: bool) -> None:
    graph = wired(seeded(lambda: Causal(CROPS[name])), signals(), signals() if sized else None)
    assert kinds(graph).count(Spread) == 2
    assert not graph.nodes(FixedSize)


@pytest.mark.parametrize(
    "function",
    [nn.Upsample(scale_factor=2), lambda x: F.interpolate(x, scale_factor=2), lambda x: x.repeat_interleave(2, 2)],
)
def test_upsampled_signals_are_wiring(function: Callable[[Tensor], Tensor]) -> None:
    assert Repeat in kinds(wired(around(function), signals()))


@pytest.mark.parametrize(
    "squeeze",
    [lambda x: x.squeeze(2), lambda x: x.squeeze(dim=-2), lambda x: x[:, :, 0], lambda x: x.flatten(2)],
)
def test_maps_of_one_row_are_signals(squeeze: Callable[[Tensor], Tensor]) -> None:
    given = torch.randn(3, 1, 4, 24)
    graph = wired(seeded(lambda: Recording(squeeze)), given, given)
    assert kinds(graph)[-4:] == [nn.Conv2d, nn.ReLU, Lower, nn.Linear]
    assert not graph.nodes(Lift)


def test_signals_are_maps_of_one_row_for_a_convolution_of_those() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.next, self.fc = nn.Conv1d(2, 4, 3), nn.Conv2d(4, 6, (1, 3)), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            return self.fc(F.relu(self.next(F.relu(self.conv(x)).unsqueeze(2))).mean((2, 3)))

    assert not wired(seeded(Net), signals()).nodes(Lower)


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: Causal(CROPS["a slice"]), (2, 24)),
        (Inception, (2, 24)),
        (lambda: Recording(lambda x: x.squeeze(2)), (1, 4, 24)),
    ],
)
def test_such_networks_convert(build: Callable[[], nn.Module], size: tuple[int, ...], convert: Any) -> None:
    model, given = seeded(build), torch.randn(16, *size, generator=torch.Generator().manual_seed(2))
    snn = convert(model, target="generic", bits=4, timesteps=32, calibration_data=given)
    assert correlation(model(given).detach(), snn(given).detach()) > 0.95
