"""The network whose trained weights ship with fxsnn: ordinary PyTorch, nothing of fxsnn in it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DigitNet(nn.Module):
    """Grey images [N, 1, 28, 28] to ten logits; two convolutions and a hidden fully connected layer.

    Dropout behind every layer makes the trained network robust against the noise that spike counts bring.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 28, 5, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(28)
        self.conv2 = nn.Conv2d(28, 48, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(48)
        self.hidden = nn.Linear(48 * 7 * 7, 64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, 10]."""
        x = F.avg_pool2d(F.relu(self.norm1(self.conv1(images))), 2)
        x = F.dropout(x, 0.2, self.training)
        x = F.avg_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.dropout(x, 0.2, self.training)
        x = F.relu(self.hidden(x.flatten(1)))
        return self.classifier(F.dropout(x, 0.2, self.training))
