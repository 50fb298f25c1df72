"""Networks that write into their tensors: captured, they compute the same, and write into none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.passes import Canonicalize
from tests.nets import images, seeded

Tail = Callable[[Any, Any], Any]


class Written(nn.Module):
    """A convolution, and behind the final layer something that works in place."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.conv, self.fc, self.tail = nn.Conv2d(3, 6, 3), nn.Linear(6, 5), tail
        self.rest = nn.Dropout()
        self.silu, self.relu = nn.SiLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        return self.tail(self, self.fc(self.relu(self.conv(x)).mean((2, 3))))


def dropped_method(net: Any, x: Any) -> Any:
    x.add_(1)
    x.relu_()
    return x


def dropped_function(net: Any, x: Any) -> Any:
    F.relu_(x)
    F.elu(x, 1.0, True)
    F.hardtanh(x, inplace=True)
    F.leaky_relu_(x, 0.3)
    torch.exp_(x)
    return x


def dropped_module(net: Any, x: Any) -> Any:
    net.silu(x)
    return x


def read_before_and_after(net: Any, x: Any) -> Any:
    before = x.exp()
    y = x.mul_(2)
    return before + x + y


def without_another_name(net: Any, x: Any) -> Any:
    before = x * 2
    x.fill_(3)
    return x + before


def augmented(net: Any, x: Any) -> Any:
    y = x * 1
    y += 1
    y *= x
    return y


TAILS = (dropped_method, dropped_function, dropped_module, read_before_and_after, without_another_name, augmented)


@pytest.mark.parametrize("tail", TAILS)
def test_what_is_written_in_place_is_captured(tail: Tail) -> None:
    model = seeded(lambda: Written(tail))
    for graph in (fxsnn.capture(model), Canonicalize()(fxsnn.capture(model)).after):
        assert torch.equal(graph(images()), model(images()))


class Keeping(torch.fx.Interpreter):
    """Keeps the values of all calls, and what they were at first."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.kept = list[tuple[Tensor, Tensor]]()

    def run_node(self, n: Any) -> Any:
        value = super().run_node(n)
        self.kept.append((value, value.clone()))
        return value


@pytest.mark.parametrize("tail", [tail for tail in TAILS if tail is not without_another_name])
def test_a_canonical_network_writes_nothing_over(tail: Tail) -> None:
    model = seeded(lambda: Written(tail))
    observer = Keeping(Canonicalize()(fxsnn.capture(model)).after.module)
    observer.run(images())
    assert len(observer.kept) > 5
    assert all(torch.equal(now, then) for now, then in observer.kept)
    assert model.silu.inplace  # the user's own stays


def of_a_view(net: Any, x: Any) -> Any:
    rows = x.view(-1)
    y = x.add_(1)
    return rows.view(-1, 5) * 2 + y


def through_a_view(net: Any, x: Any) -> Any:
    x.view(-1).add_(1)
    return x


def as_it_is(net: Any, x: Any) -> Any:
    same = net.rest(F.dropout(x, 0.5, training=net.training))
    y = x.add_(1)
    return same * y


@pytest.mark.parametrize("tail", [of_a_view, through_a_view, as_it_is])
def test_a_tensor_that_is_read_in_another_form_is_written(tail: Tail) -> None:
    model = seeded(lambda: Written(tail))
    for graph in (fxsnn.capture(model), Canonicalize()(fxsnn.capture(model)).after):
        assert torch.equal(graph(images()), model(images()))
