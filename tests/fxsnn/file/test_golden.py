"""Golden vectors: what counts as the network that was saved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fxsnn.display import MARKED
from fxsnn.file import Golden, Verification, compared

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
    golden = Golden(torch.zeros(2, 1, 1, 1), {"conv": SPIKES}, (expected,))
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


class TestShowing:
    RIGHT = Verification("net.fxsnn", 2, 5, {"conv": 1234, "fc": 7}, {"conv": 0, "fc": 0}, 1e-7, 0)
    WRONG = replace(RIGHT, file="<net>.fxsnn", wrong={"conv": 1500, "fc": 0})

    def test_as_text(self) -> None:
        assert str(self.RIGHT).splitlines() == [
            "net.fxsnn: 2 golden images, T=5, 2 layers, 1,241 spikes",
            "  logits differ by 1.0e-07 of the largest; 0 images are classified otherwise",
            "every spike matches",
        ]
        assert "  conv: 1,500 spikes are missing or too many (of 1,234)" in str(self.WRONG).splitlines()

    def test_as_a_table_in_which_what_is_wrong_is_marked(self) -> None:
        assert self.WRONG.rows() == [
            ("layer", "spikes", "missing or too many"),
            ("conv", "1,234", "1,500"),
            ("fc", "7", "0"),
        ]
        shown = self.WRONG._repr_html_()
        assert shown.count(MARKED) == 1
        assert "&lt;net&gt;.fxsnn: 2 golden images" in shown
        assert "<b>NOT the network that was saved" in shown
        assert MARKED not in self.RIGHT._repr_html_()
        assert "<b>every spike matches</b>" in self.RIGHT._repr_html_()
