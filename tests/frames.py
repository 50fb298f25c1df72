"""Images that change over time, for tests, and networks that were converted for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fxsnn
from tests.nets import Small, seeded
from tests.random_networks import quiet

STEPS = 10


def frames(count: int = 8, steps: int = STEPS, size: tuple[int, ...] = (3, 12, 12), seed: int = 1) -> Tensor:
    """Noise, [count, steps, ...], about a picture that stays."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, *size, generator=generator) + torch.randn(count, steps, *size, generator=generator) / 2


def converted(model: nn.Module | None = None, data: Any = None, **options: Any) -> fxsnn.SpikingNetwork:
    """`Small`, or another network, on frames."""
    chosen: dict[str, Any] = {"target": "generic", "bits": 4, "correction": None, **options}
    with quiet():
        return fxsnn.convert(
            seeded(Small) if model is None else model,
            input="frames",
            calibration_data=frames() if data is None else data,
            **chosen,
        )


class BesideItsImages(nn.Module):
    """3x12x12, whose classifier reads the images, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(400, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(torch.relu(self.conv((x - 0.5) / 2)).flatten(1))
        return found + x.mean((1, 2, 3)).unsqueeze(1)
