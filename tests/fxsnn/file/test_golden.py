"""Golden vectors: what counts as the network that was saved."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fxsnn.file import Golden, compared

EXPECTED = torch.tensor([[1.0, -8.0, 4.0], [0.0, 2.0, 1.0]])
SPIKES = torch.tensor([1, 0], dtype=torch.uint8).repeat(5, 2, 3)


@dataclass(frozen=True)
class Simulation:
    """Of one image in five steps."""

    logits: Tensor
    spikes: dict[str, Tensor]


def verified(logits: Tensor, expected: Tensor = EXPECTED) -> bool:
    """Whether a run that gives these logits, and the right spikes, is that of the network."""
    runs = iter(Simulation(row[None].expand(5, 1, 3), {"conv": SPIKES[:, :1].float()}) for row in logits)
    golden = Golden(torch.zeros(2, 1, 1, 1), {"conv": SPIKES}, expected)
    return compared("net.fxsnn", golden, lambda _: next(runs)).ok


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("share", "ok"), [(0.0, True), (0.9e-4, True), (1.1e-4, False), (5e-3, False)])
def test_logits_may_differ_by_a_ten_thousandth_of_the_largest(share: float, sign: int, ok: bool) -> None:
    assert verified(EXPECTED + torch.tensor([0.0, 0.0, sign * share * 8]), EXPECTED) == ok


def test_where_all_logits_are_zero_they_may_differ_by_a_ten_thousandth() -> None:
    zeros = torch.zeros(2, 3)
    assert verified(zeros, zeros)
    assert verified(zeros - torch.tensor([0.0, 0.9e-4, 0.0]), zeros)
    assert not verified(zeros - torch.tensor([0.0, 1.1e-4, 0.0]), zeros)


def test_however_near_logits_are_the_largest_must_stay_the_largest() -> None:
    near = EXPECTED.clone()
    near[1, 2] = 2 - 1e-5
    assert verified(near, near)
    assert not verified(near + torch.tensor([0.0, 0.0, 2e-5]), near)
