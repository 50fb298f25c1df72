"""A network that does something else with images of another size takes those of its example's size only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError
from fxsnn.layers import FixedSize
from tests.nets import images, seeded

EXAMPLE = images(5)  # [5, 3, 12, 12]


class Functional(nn.Module):
    """Its ReLU is a function: what spikes is not known yet when it is captured."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


def signed(number: Callable[[Tensor], int], limit: int) -> nn.Module:
    """A network whose outputs have the other sign where a number of its images is above a limit."""

    class Signed(Functional):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return -y if number(x) > limit else y

    return seeded(Signed)


@pytest.mark.parametrize(
    "number",
    [
        lambda x: x.shape[-1],
        lambda x: x.size(2),
        lambda x: max(x.shape[2:]),
        lambda x: len(x[0, 0]),
        lambda x: x[0, 0, 0].numel(),
        lambda x: len(x.unbind(3)),
        lambda x: sum(1 for _ in x.unbind(3)),
    ],
    ids=["shape", "size", "largest", "len", "numel", "parts", "loop"],
)
def test_however_it_is_told_the_size(number: Callable[[Tensor], int]) -> None:
    graph = fxsnn.capture(signed(number, 12), EXAMPLE)
    with pytest.raises(DataError, match=r"expected \[N, 3, 12, 12\]"):
        graph(images(2, size=13))


@pytest.mark.parametrize("limit", [5, 11, 12, 13, 20, 40, 100, 190])
def test_wherever_the_limit_is(limit: int) -> None:
    assert fxsnn.capture(signed(lambda x: x.shape[-1], limit), EXAMPLE).nodes(FixedSize)


@pytest.mark.parametrize(
    "number",
    [lambda x: x.shape[-1] % 2, lambda x: int(x.shape[-1] != x.shape[-2]), lambda x: x.shape[2] - x.shape[3]],
    ids=["odd", "not square", "higher than wide"],
)
def test_whatever_is_special_about_it(number: Callable[[Tensor], int]) -> None:
    assert fxsnn.capture(signed(number, 0), EXAMPLE).nodes(FixedSize)


@pytest.mark.parametrize(
    "number", [lambda x: x.shape[1], lambda x: x.dim(), lambda x: x.shape[-1] * 0], ids=["channels", "dim", "nothing"]
)
def test_what_is_the_same_for_all_sizes_fixes_none(number: Callable[[Tensor], int]) -> None:
    model = signed(number, 2)
    graph = fxsnn.capture(model, EXAMPLE)
    assert not graph.nodes(FixedSize)
    assert torch.equal(graph(images(2, size=7)), model(images(2, size=7)))


def test_the_converted_network_takes_that_size_only(convert: Any) -> None:
    snn = convert(signed(lambda x: x.shape[-1], 20), target="generic", bits=4, calibration_data=EXAMPLE)
    assert snn(EXAMPLE).shape == (5, 5)
    with pytest.raises(DataError, match=r"expected \[N, 3, 12, 12\].*: what the network does follows"):
        snn(images(2, size=24))


def test_signals_have_a_length() -> None:
    class Signal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(2, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            y = self.head(F.relu(self.conv(x)).mean(2))
            return -y if x.shape[-1] > 50 else y

    graph = fxsnn.capture(seeded(Signal), torch.rand(3, 2, 32))
    with pytest.raises(DataError, match=r"expected \[N, 2, 32\]"):
        graph(torch.rand(3, 2, 64))
