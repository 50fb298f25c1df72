"""Sums over maps, means of flattened maps and norms of order 1 become averages, with a factor behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.passes import Canonicalize, CheckConvRelu, RecognizePoolings
from tests.nets import images, in_front, seeded

IMAGES = images(3)


class Pooled(nn.Module):
    """[N, 3, 12, 12]: eight channels of 12x12, of which `function` makes rows or maps; a hidden layer reads these."""

    def __init__(self, function: Callable[[Tensor], Tensor], kind: str) -> None:
        super().__init__()
        self.function, self.kind = function, kind
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.LazyLinear(5)
        self.hidden = nn.LazyLinear(7) if kind == "rows" else nn.LazyConv2d(7, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.function(F.relu(self.conv(x)))
        return self.fc(F.relu(self.hidden(x)).flatten(1))


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(x.size(0), x.size(1), -1).mean(2),
    "reshape": lambda x: torch.reshape(x, (-1, 8, 144)).mean(dim=-1),
    "flatten": lambda x: torch.mean(x.flatten(2), 2),
    "sum": lambda x: x.sum((2, 3)) / 144,
    "sum by name": lambda x: torch.sum(x, dim=[-1, -2]),
    "sum of a flattened map": lambda x: x.flatten(2).sum(-1) * 0.01,
}
MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum that keeps dimensions": lambda x: x.sum((2, 3), keepdim=True),
    "LPPool2d": nn.LPPool2d(1, 2),
    "LPPool2d with a stride": nn.LPPool2d(1, (3, 2), stride=1),
    "F.lp_pool2d": lambda x: F.lp_pool2d(x, 1, 3, ceil_mode=True),
}


def pooled(name: str) -> nn.Module:
    function, kind = (ROWS[name], "rows") if name in ROWS else (MAPS[name], "maps")

    def model() -> nn.Module:
        net = Pooled(function, kind)
        net(IMAGES)
        return net

    return seeded(model)


@pytest.mark.parametrize("name", [*ROWS, *MAPS])
def test_it_is_an_average_times_a_number(name: str) -> None:
    model = pooled(name)
    step = RecognizePoolings()(Canonicalize()(fxsnn.capture(model, IMAGES), IMAGES).after, IMAGES)
    assert step.moved is not None
    assert step.moved < 1e-12
    graph = in_front(model, IMAGES)
    assert graph.nodes(nn.AvgPool2d)
    assert CheckConvRelu().findings(graph) == []


def test_it_spikes_as_it_should(convert: Any) -> None:
    model, x = pooled("sum"), images(16)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    both = torch.stack((model(x).detach().flatten(), snn(x).detach().flatten()))
    assert float(torch.corrcoef(both)[0, 1]) > 0.97


def test_signals_too() -> None:
    net = nn.Sequential(nn.Conv1d(3, 8, 5), nn.ReLU(), nn.LPPool1d(1, 2), nn.Conv1d(8, 4, 3), nn.ReLU(), nn.Flatten())
    given = torch.randn(3, 3, 20)
    assert CheckConvRelu().findings(in_front(net.append(nn.Linear(24, 3)).eval(), given)) == []


LEFT: dict[str, Callable[[Tensor], Tensor]] = {
    "over channels": lambda x: x.sum(1, keepdim=True),
    "over rows": lambda x: x.sum(2, keepdim=True),
    "of order 2": nn.LPPool2d(2, 2),
    "of channels that were regrouped": lambda x: x.view(-1, 4, 288).mean(2).unflatten(1, (4, 1, 1)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_none_stays(name: str) -> None:
    net = Pooled(LEFT[name], "maps").eval()
    net(IMAGES)
    graph = Canonicalize()(fxsnn.capture(net, IMAGES)).after
    assert RecognizePoolings()(graph).diff().summary() == "nothing changed"


def test_the_tail_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LPPool2d(1, 10), nn.Flatten(), nn.Linear(8, 3)).eval()
    graph = Canonicalize()(fxsnn.capture(net, IMAGES)).after
    assert RecognizePoolings()(graph).diff().summary() == "nothing changed"
