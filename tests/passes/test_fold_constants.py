"""What depends on no image is computed once, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.passes import Canonicalize, FoldConstants
from tests.nets import images, seeded


class Net(nn.Module):
    """Does something with constants in front of its convolution, and behind its last layer."""

    def __init__(
        self, front: Callable[[Any, Tensor], Tensor], behind: Callable[[Any, Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.front, self.behind = front, behind
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]))
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 4.0]))
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(400, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.fc(torch.relu(self.conv(self.front(self, x))).flatten(1))
        return x if self.behind is None else self.behind(self, x)


def folded(front: Callable[[Any, Tensor], Tensor], behind: Callable[[Any, Tensor], Tensor] | None = None) -> fxsnn.Step:
    graph = Canonicalize()(fxsnn.capture(seeded(lambda: Net(front, behind)), images())).after
    return FoldConstants()(graph, images())


def constants(step: fxsnn.Step) -> dict[str, list[int]]:
    graph = step.after
    return {
        str(node.target): list(getattr(graph.module, str(node.target)).shape) for node in graph if node.op == "get_attr"
    }


@pytest.mark.parametrize(
    ("front", "shape"),
    [
        (lambda net, x: x - net.scale.view(1, 3, 1, 1), [1, 3, 1, 1]),
        (lambda net, x: x - net.scale[None, :, None, None], [1, 3, 1, 1]),
        (lambda net, x: x * (1 / net.scale)[:, None, None], [3, 1, 1]),
        (lambda net, x: x / torch.sqrt(net.scale.square() + 1e-5).reshape(3, 1, 1), [3, 1, 1]),
        (lambda net, x: x - (net.mean * net.scale).mean(), []),
    ],
)
def test_a_chain_of_calls_on_constants_becomes_one_buffer(
    front: Callable[[Any, Tensor], Tensor], shape: list[int]
) -> None:
    step = folded(front)
    assert constants(step) == {"constant": shape}
    assert step.moved == pytest.approx(0, abs=1e-12)
    calls = [node for node in step.after if node.op in ("call_function", "call_method") and "size" not in node.name]
    assert [node.name for node in calls if "constant" in map(str, node.all_input_nodes)]


def test_a_number_of_a_constant_becomes_a_number() -> None:
    step = folded(lambda net, x: x * net.scale.sum().item())
    assert not constants(step)
    assert step.after.text().count("6.5") == 1


def test_each_reader_has_the_same_buffer() -> None:
    step = folded(lambda net, x: (x - net.scale.neg().view(3, 1, 1)) / net.scale.view(3, 1, 1))
    assert constants(step) == {"constant": [3, 1, 1], "constant_1": [3, 1, 1]}


@pytest.mark.parametrize(
    "front",
    [
        lambda net, x: x * torch.bernoulli(net.scale / 8).view(3, 1, 1),
        lambda net, x: x * torch.rand_like(net.scale[:1]),
    ],
)
def test_what_draws_random_numbers_is_left_alone(front: Callable[[Any, Tensor], Tensor]) -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(lambda: Net(front)))).after
    after = FoldConstants()(graph).after
    assert [node.name for node in after if node.name.startswith(("bernoulli", "rand"))]


def test_the_tail_keeps_its_calls_and_its_tensors() -> None:
    step = folded(lambda net, x: x, lambda net, x: x * (1 / net.scale).sum() - net.mean.mean())
    assert step.diff().summary() == "nothing changed"


def test_a_constant_of_body_and_tail_is_folded_for_the_body_only() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.kept = net.scale.view(3, 1, 1)
        return x - net.kept

    step = folded(forward, lambda net, x: x - net.kept.sum())
    assert "constant" in constants(step)
    assert [node.name for node in step.after.tail() if node.name.startswith("sum")] == ["sum_1"]
    assert [node for node in step.after if node.target == "view"]


def test_parameters_of_the_network_are_not_written_into() -> None:
    model = seeded(lambda: Net(lambda net, x: x * net.scale.abs().view(3, 1, 1)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    FoldConstants()(Canonicalize()(fxsnn.capture(model)).after, images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
