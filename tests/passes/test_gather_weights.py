"""Layers called as functions of the network's own tensors are layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.passes import FRONT_END, Canonicalize, FoldConstants, GatherWeights
from fxsnn.rewriting import Pipeline
from tests.nets import images, seeded
from tests.sharing import cases


class Calls(nn.Module):
    """Tensors of layers, and a function that calls PyTorch with them."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.kernel, self.offset = nn.Parameter(torch.randn(4, 3, 3, 3) / 5), nn.Parameter(torch.randn(4))
        self.grouped = nn.Parameter(torch.randn(6, 2, 3, 3) / 4)
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4 * 10 * 10, 5)
        self.register_buffer("matrix", torch.randn(400, 7) / 20)
        self.last, self.function = nn.Linear(7, 5), function
        self.norm.running_mean = torch.rand(4)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def normalised(m: Any, x: Tensor) -> Tensor:
    norm = m.norm
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, m.training, 0.1, norm.eps)


FORMS: dict[str, tuple[Callable[[Any, Tensor], Any], list[type[nn.Module]]]] = {
    "conv2d": (lambda m, x: m.fc(F.conv2d(x, m.kernel, m.offset).relu().flatten(1)), [nn.Conv2d, nn.Linear]),
    "without bias, with options": (
        lambda m, x: F.conv2d(F.conv2d(x, m.kernel, padding=1).relu(), m.grouped, None, 2, 1, groups=2).relu(),
        [nn.Conv2d, nn.Conv2d],
    ),
    "batch_norm": (
        lambda m, x: m.fc(normalised(m, F.conv2d(x, m.kernel)).relu().flatten(1)),
        [nn.Conv2d, nn.BatchNorm2d, nn.Linear],
    ),
    "linear": (
        lambda m, x: F.linear(F.conv2d(x, m.kernel).relu().flatten(1), m.fc.weight, m.fc.bias),
        [nn.Conv2d, nn.Linear],
    ),
    "a product": (
        lambda m, x: m.last((F.conv2d(x, m.kernel).relu().flatten(1) @ m.matrix).relu()),
        [nn.Conv2d, nn.Linear, nn.Linear],
    ),
    "matmul": (
        lambda m, x: m.last(torch.relu(F.conv2d(x, m.kernel).relu().flatten(1).matmul(m.matrix))),
        [nn.Conv2d, nn.Linear, nn.Linear],
    ),
    "einsum": (
        lambda m, x: m.last(torch.einsum("nf,fo->no", F.conv2d(x, m.kernel).relu().flatten(1), m.matrix).relu()),
        [nn.Conv2d, nn.Linear, nn.Linear],
    ),
    "addmm": (
        lambda m, x: torch.addmm(m.fc.bias, F.conv2d(x, m.kernel).relu().flatten(1), m.fc.weight.t()).relu(),
        [nn.Conv2d, nn.Linear],
    ),
    "addmm as a method": (
        lambda m, x: m.fc.bias.addmm(F.conv2d(x, m.kernel).relu().flatten(1), m.fc.weight.T, alpha=1).relu(),
        [nn.Conv2d, nn.Linear],
    ),
    "einsum with a transposed matrix": (
        lambda m, x: torch.einsum("bi, oi -> bo", F.conv2d(x, m.kernel).relu().flatten(1), m.fc.weight).relu(),
        [nn.Conv2d, nn.Linear],
    ),
}


@cases("name", FORMS, quick=("without bias, with options", "batch_norm", "linear", "matmul"))
def test_they_become_modules_that_compute_the_same(name: str) -> None:
    function, kinds = FORMS[name]
    model = seeded(lambda: Calls(function)).eval()
    graph = FoldConstants()(Canonicalize()(fxsnn.capture(model)).after).after
    step = GatherWeights()(graph, images())
    assert step.moved is not None
    assert [type(step.after[node]) for node in step.after.nodes(*kinds)] == kinds
    assert not [node for node in step.after if node.op == "get_attr"]
    data = images(8)
    snn = fxsnn.convert(model, target="generic", bits=4, calibration_data=data)
    assert snn(data).shape == model(data).shape


def test_an_addmm_that_scales_is_left_alone() -> None:
    model = seeded(
        lambda: Calls(lambda m, x: torch.addmm(m.last.bias, x.flatten(1)[:, :7], m.last.weight.t(), alpha=2))
    )
    graph = FoldConstants()(Canonicalize()(fxsnn.capture(model)).after).after
    assert not GatherWeights()(graph).after.nodes(nn.Linear)


def test_signals_too() -> None:
    class Signals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.fc = nn.Parameter(torch.randn(4, 2, 5)), nn.Linear(4 * 12, 3)

        def forward(self, x: Tensor) -> Any:
            return self.fc(F.conv1d(x, self.kernel, padding="same").relu().flatten(1))

    data = torch.rand(8, 2, 12, generator=torch.Generator().manual_seed(0))
    model = seeded(Signals).eval()
    graph = Pipeline(FRONT_END, data).run(model)
    torch.testing.assert_close(graph(data), model(data))
    assert fxsnn.convert(model, target="generic", bits=4, calibration_data=data)(data).shape == (8, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.fc(F.conv2d(x, m.kernel * 2).relu().flatten(1)),  # no tensor of the network's yet
        lambda m, x: m.fc(F.conv2d(x, x[:1, :, :3, :3].expand(4, 3, 3, 3)).relu().flatten(1)),
        lambda m, x: m.fc(F.batch_norm(F.conv2d(x, m.kernel), None, None, training=True).relu().flatten(1)),
        lambda m, x: F.conv2d(x, m.kernel).relu() @ x[:, :1, :10, :10],
    ],
)
def test_what_is_computed_with_other_tensors_is_left(function: Callable[[Any, Tensor], Any]) -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(lambda: Calls(function)).eval(), images())).after
    calls = [node.op for node in graph if node.target in (F.conv2d, F.batch_norm) or "matmul" in str(node.target)]
    after = GatherWeights()(graph, images()).after
    left = [node.op for node in after if node.target in (F.conv2d, F.batch_norm) or "matmul" in str(node.target)]
    assert 0 < len(left) <= len(calls)
