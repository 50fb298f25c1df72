"""Calls that give what they are given are not in the graph; those that only seem to are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError
from tests.nets import Small, images, seeded

EXAMPLE = images(5)
Way = Callable[[Tensor], Any]


class Prepared(Small):
    """Something is done to the images first."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.way(x))


def calls(way: Way, example: Tensor | None = EXAMPLE) -> list[object]:
    """What the graph calls by functions and methods, in front of the first layer."""
    graph = fxsnn.capture(seeded(lambda: Prepared(way)), example)
    nodes = graph.nodes()
    return [node.target for node in nodes[1 : nodes.index(graph.calls("conv1")[0])]]


IDLE: list[Way] = [
    lambda x: x.view(-1, 3, 12, 12),
    lambda x: x.view(x.size(0), 3, 12, 12),
    lambda x: torch.reshape(x, (-1, 3, 12, 12)),
    lambda x: x.float().to(x.device).to(torch.float32).type_as(x),
    lambda x: x.unsqueeze(1).squeeze(1),
    lambda x: torch.squeeze(torch.unsqueeze(x, dim=2), dim=2),
    lambda x: x.unsqueeze(0).squeeze(0),
    lambda x: x.squeeze(1).squeeze((2, -1)),
    lambda x: x.flatten(1).unflatten(1, (3, 12, 12)),
    lambda x: x.view(-1, 36, 12).reshape(-1, 3, 144).view_as(x),
]
NOT_IDLE: list[tuple[Way, list[object]]] = [
    (lambda x: x.squeeze().view(-1, 3, 12, 12), ["squeeze", "view"]),  # of one image it drops the first dimension
    (lambda x: x.transpose(2, 3).reshape(-1, 3, 12, 12), ["transpose"]),
    (lambda x: x.transpose(1, 2).reshape(-1, 3, 12, 12), ["transpose", "reshape"]),
    (lambda x: x.double().float(), ["double", "float"]),
    (lambda x: x.contiguous(), ["contiguous"]),  # images may lie otherwise than the example
]


@pytest.mark.parametrize("way", IDLE)
def test_they_are_left_out(way: Way) -> None:
    assert calls(way) == []


@pytest.mark.parametrize(("way", "stays"), NOT_IDLE)
def test_what_does_something_to_some_images_stays(way: Way, stays: list[object]) -> None:
    assert calls(way) == stays


def test_without_example_images_nothing_is_known_of_their_shape() -> None:
    assert calls(IDLE[0], None) == ["view"]


def test_rows_stay_rows_of_images_of_any_shape() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))

    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model[1:]

        def forward(self, x: Tensor) -> Any:
            return self.model(x.view(x.size(0), -1))

    graph = fxsnn.capture(Flattened().eval(), torch.randn(3, 8))
    assert torch.equal(graph(torch.ones(3, 2, 4)), model(torch.ones(3, 2, 4)))


def writes_into_a_view(x: Tensor) -> Tensor:
    y = x.view(-1, 3, 12, 12)
    y.mul_(2)
    return x


def writes_into_a_copy(x: Tensor) -> Tensor:
    y = x.transpose(1, 2).reshape(-1, 3, 144)
    y += 1
    return y.reshape(-1, 12, 3, 12).transpose(1, 2).contiguous()


WRITING: list[Way] = [writes_into_a_view, writes_into_a_copy]


EVERY = [*IDLE, *WRITING, *(way for way, _ in NOT_IDLE)]


@pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_whatever_is_left_out_the_graph_gives_what_the_network_gives(examples: int) -> None:
    settings(max_examples=examples)(
        given(st.lists(st.sampled_from(EVERY), min_size=1, max_size=4))(gives_what_the_network_gives)
    )()


def gives_what_the_network_gives(ways: list[Way]) -> None:
    def way(x: Tensor) -> Tensor:
        for one in ways:
            x = one(x)
        return x

    model = seeded(lambda: Prepared(way))
    graph = fxsnn.capture(model, EXAMPLE)
    for count in (2, 65, 1):
        with torch.no_grad():
            try:
                wanted = model(images(count))
            except (RuntimeError, ValueError) as error:  # of one image, squeezed
                with pytest.raises(DataError, match=re.escape(str(error).splitlines()[0])):
                    graph(images(count))
                return
        assert torch.equal(graph(images(count)), wanted)


def test_such_a_network_converts() -> None:
    model = seeded(lambda: Prepared(lambda x: x.float().view(-1, 3, 12, 12)))
    snn = fxsnn.convert(model, target="generic", bits=4, calibration_data=EXAMPLE)
    plain = fxsnn.convert(seeded(Small), target="generic", bits=4, calibration_data=EXAMPLE)
    assert torch.equal(snn(EXAMPLE), plain(EXAMPLE))
