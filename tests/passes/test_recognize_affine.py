"""All that scales and shifts channels becomes one module, however it is written; all else stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.layers import Affine
from fxsnn.passes import Canonicalize, FoldConstants, RecognizeAffine
from tests.nets import images, seeded
from tests.sharing import cases

MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Net(nn.Module):
    """Does something to its images, and to the maps behind the first ReLU."""

    def __init__(self, front: Callable[..., Any] | None = None, behind: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.front, self.behind = front, behind
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(DEVIATION))
        self.register_buffer("whole", torch.tensor(255))
        self.register_buffer("pixels", torch.linspace(0, 1, 12))
        self.register_buffer("alike", torch.full((12, 12), 0.5))
        self.conv, self.conv2, self.fc = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 3), nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Any:
        x = x if self.front is None else self.front(self, x)
        x = torch.relu(self.conv(x))
        x = x if self.behind is None else self.behind(self, x)
        return self.fc(torch.relu(self.conv2(x)).flatten(1))


def recognised(model: nn.Module, size: int = 12) -> Graph:
    graph, given = fxsnn.capture(model, images(3, size=size)), images(3, size=size)
    for one in (Canonicalize(), FoldConstants(), RecognizeAffine()):
        step = one(graph, given)
        assert step.moved == pytest.approx(0, abs=1e-9)
        graph = step.after
    return graph


def the_affine(graph: Graph) -> Affine:
    (node,) = graph.nodes(Affine)
    found = graph[node]
    assert isinstance(found, Affine)
    return found


FORMS: dict[str, tuple[Callable[..., Any], list[float], list[float]]] = {
    "number": (lambda net, x: x / 255, [1 / 255], [0]),
    "number of a tensor": (lambda net, x: x / net.whole, [1 / 255], [0]),
    "two in a row": (lambda net, x: 2 * x - 1, [2], [-1]),
    "reversed": (lambda net, x: 1 - x, [-1], [1]),
    "minus": (lambda net, x: -x, [-1], [0]),
    "rsub": (lambda net, x: torch.rsub(x, 3, alpha=2), [-2], [3]),
    "alpha": (lambda net, x: torch.sub(x, 3, alpha=2), [1], [-6]),
    "methods": (lambda net, x: x.multiply(2).add(1).negative(), [-2], [-1]),
    "in place": (lambda net, x: (x * 1).sub_(0.5).div_(0.25), [4], [-2]),
    "addcmul": (lambda net, x: torch.addcmul(net.mean[:, None, None], x, net.std[:, None, None]), DEVIATION, MEAN),
    "buffers": (
        lambda net, x: (x - net.mean.view(1, 3, 1, 1)) / net.std.view(1, 3, 1, 1),
        [1 / one for one in DEVIATION],
        [-2, -2, -2],
    ),
    "constants": (lambda net, x: x * torch.tensor([1.0, -2, 0]).view(3, 1, 1), [1, -2, 0], [0, 0, 0]),
    "twice the same": (lambda net, x: x + x, [2], [0]),
    "alike everywhere": (lambda net, x: x - net.alike, [1], [-0.5]),
    "batch norm as a function": (
        lambda net, x: F.batch_norm(x, net.mean, net.std.square(), eps=0.0),
        [1 / one for one in DEVIATION],
        [-2, -2, -2],
    ),
}  # fmt: skip


@cases(
    "form, place",
    [
        (form, place)
        for form in FORMS
        for place in ("front", "behind")
        if (form, place) != ("alike everywhere", "behind")
    ],
    quick=[*((form, "front") for form in FORMS), ("number", "behind"), ("buffers", "behind")],
)
def test_every_form_of_arithmetic_is_known(form: str, place: str) -> None:
    function, scale, shift = FORMS[form]
    found = the_affine(recognised(seeded(lambda: Net(**{place: function}))))
    assert found.scale.tolist() == pytest.approx(scale, rel=1e-6)
    assert found.shift.tolist() == pytest.approx(shift, rel=1e-6)


@pytest.mark.parametrize("module", ["torchvision.transforms", "torchvision.transforms.v2"])
@pytest.mark.parametrize("as_function", [False, True])
def test_normalize_of_torchvision_is_known(module: str, as_function: bool) -> None:
    transforms = pytest.importorskip(module)
    if as_function:
        pytest.importorskip(f"{module}.functional")
        model = seeded(lambda: Net(lambda net, x: transforms.functional.normalize(x, MEAN, DEVIATION)))
    else:
        model = seeded(lambda: nn.Sequential(transforms.Normalize(MEAN, DEVIATION), Net()))
    found = the_affine(recognised(model))
    assert found.scale.tolist() == pytest.approx([5, 4, 1 / 0.3])
    assert found.shift.tolist() == pytest.approx([-2, -2, -2])


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x - net.pixels,  # along the width
        lambda net, x: x * x,
        lambda net, x: x / net.mean[0].sub(net.mean[0]),  # by zero
        lambda net, x: torch.div(x, 2, rounding_mode="floor"),
        lambda net, x: 1 / x.abs().sqrt(),
        lambda net, x: x + torch.tensor(float("inf")),
    ],
)
def test_what_is_no_scale_and_shift_of_channels_stays(function: Callable[..., Any]) -> None:
    graph = fxsnn.capture(seeded(lambda: Net(function)))
    for one in (Canonicalize(), FoldConstants(), RecognizeAffine()):
        graph = one(graph).after
    assert not graph.nodes(Affine)


def sequential(*layers: nn.Module) -> Graph:
    return recognised(seeded(lambda: nn.Sequential(*layers)))


def test_a_batch_norm_behind_a_layer_stays_and_a_second_one_does_not() -> None:
    graph = sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 4, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(256, 5),
    )  # fmt: skip
    assert [graph.name(node) for node in graph.nodes(nn.BatchNorm2d)] == ["1"]
    assert [graph.name(node) for node in graph.nodes(Affine)] == ["2"]


def test_batch_norms_on_the_images_and_behind_a_relu_are_known() -> None:
    graph = sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 5), nn.ReLU(),
        nn.Linear(5, 2),
    )  # fmt: skip
    assert [graph.name(node) for node in graph.nodes(Affine)] == ["0", "3", "9"]
    assert not graph.nodes(nn.BatchNorm1d, nn.BatchNorm2d)


def test_a_batch_norm_without_statistics_is_none() -> None:
    graph = fxsnn.capture(
        seeded(lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), *Net().children()))
    )
    assert not RecognizeAffine()(graph).after.nodes(Affine)


def test_what_reaches_the_tail_stays_as_it_is() -> None:
    graph = sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(100, 5)
    )
    assert [graph.name(node) for node in graph.nodes(nn.BatchNorm2d)] == ["2"]
    assert not graph.nodes(Affine)


@pytest.mark.parametrize("divisor", [1, 3, 9, -2])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_pooling_with_a_divisor_is_one_without_and_a_scale(divisor: int, padding: int) -> None:
    pool = nn.AvgPool2d(2, padding=padding, count_include_pad=False, divisor_override=divisor)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten()]
    graph = sequential(*layers, nn.Linear(144 if padding else 100, 5))
    (plain,) = graph.nodes(nn.AvgPool2d)
    assert graph[plain].divisor_override is None
    assert the_affine(graph).scale.tolist() == pytest.approx([4 / divisor])


def test_signals_and_vectors_have_channels_too() -> None:
    class Signals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.tensor([1.0, 2.0])[:, None])
            self.conv, self.fc = nn.Conv1d(2, 4, 3), nn.Linear(40, 5)

        def forward(self, x: Tensor) -> Any:
            return self.fc(torch.relu(self.conv(x - self.mean)).flatten(1))

    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.arange(6.0))
            self.first, self.fc = nn.Linear(6, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            return self.fc(torch.relu(self.first(x - self.mean)))

    for build, given, shift in (
        (Signals, torch.rand(3, 2, 12), [-1, -2]),
        (Vectors, torch.rand(3, 6), [0, -1, -2, -3, -4, -5]),
    ):
        for example in (given, None):
            graph = Canonicalize()(fxsnn.capture(seeded(build), example)).after
            step = RecognizeAffine()(graph, given)
            assert step.moved == pytest.approx(0, abs=1e-9)
            assert the_affine(step.after).shift.tolist() == shift
