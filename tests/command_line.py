"""The command line as tests call it, and a user's script for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fxsnn.cli import main

NET = """
import torch
from torch import nn
import fxsnn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(8 * 6 * 6, 5)

    def forward(self, x):
        return self.fc(self.pool(self.relu(self.conv1(x))).flatten(1))

def wide():
    return nn.Sequential(nn.Conv2d(60, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU())

def broken():
    return 1 / 0

def demanding(width):
    return Net()

def number():
    return 3

trained = Net()

def halves(data_dir):
    half = torch.utils.data.TensorDataset(torch.randn(40, 3, 12, 12), torch.arange(40) % 5)
    return fxsnn.datasets.Splits(half, half)

def ranked():
    class Ranked(Net):
        def forward(self, x):
            return torch.sort(super().forward(x))[0]

    return Ranked()

def one_half(data_dir):
    return [1]

def failing(data_dir):
    raise OSError("no disk")

def nothing(data_dir):
    return None, None

def words(data_dir):
    half = [(torch.zeros(3, 12, 12), "cat")]
    return half, half

@fxsnn.datasets.register("mine")
def mine(data_dir):
    return halves(data_dir)

def wide_and_clamped():
    class WideAndClamped(Net):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(60, 8, 3, padding=1)

        def forward(self, x):
            return torch.clamp(super().forward(x), -1, 1)

    return WideAndClamped()

print("a script that talks")
"""


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    status = main(list(arguments))
    said = capsys.readouterr()
    return status, said.out, said.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit status and the object that was printed."""
    status, out, _ = called(capsys, *arguments, "--json")
    return status, json.loads(out)
