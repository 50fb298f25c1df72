"""What a network with several outputs can be asked, and what is refused with an error that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError
from fxsnn.insight import accuracy, accuracy_over_time
from tests.nets import images, seeded
from tests.tails import with_tail

LABELS = torch.arange(4) % 2


class Two(nn.Module):
    """Classes, and a map of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.maps = nn.Linear(96, 5), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x.flatten(1)), {"maps": self.maps(x)}


SNN = with_tail(seeded(Two))


@pytest.mark.parametrize(
    "asked",
    [
        lambda: accuracy(SNN, [(images(), LABELS)]),
        lambda: accuracy_over_time(SNN, [(images(), LABELS)], 4),
        lambda: fxsnn.sweep(SNN, (images(), LABELS), timesteps=4),
    ],
)
def test_accuracy_of_several_outputs_is_refused(asked: Callable[[], Any]) -> None:
    with pytest.raises(DataError, match=r"the network gives a tuple; expected a tensor \[4, 'classes'\]"):
        asked()


def test_its_report_and_its_picture_are_those_of_any_network() -> None:
    assert SNN.profile(images()).images == 4
    assert [row.layer for row in SNN.report.layers] == ["0", "2"]
    assert ">maps</" in SNN.graph.draw()._repr_svg_()
    assert "maps" in SNN.graph.text()
