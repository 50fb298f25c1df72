"""`fxsnn warm-up`: the CPU engine is compiled before anybody waits for it."""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.ambient import neutral
from fxsnn.cli.answer import Answer
from fxsnn.compiler import convert
from fxsnn.errors import FxsnnWarning
from fxsnn.network import SpikingNetwork


class _Sums(nn.Module):
    """All kinds of sums: of convolutions, with spikes as they are and without, with images, of spikes alone.

    Wired, with strides and poolings between, and read by fully connected layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.third, self.fourth = nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.image, self.pool = nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(2)
        self.hidden, self.last = nn.Linear(16, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Any:
        relu = torch.relu
        a = relu(self.first(x))
        b = relu(self.second(a) + a)
        c = relu(self.second(b) + self.image(x))
        d = relu(self.third(relu(b + c)) + self.fourth(c))
        e = self.pool(torch.cat([d, d], 1))[:, :4]
        return self.last(relu(self.hidden(e.flatten(1))))


def warm_up_command(options: argparse.Namespace) -> Answer:
    """Compile the CPU engine and keep it on disk, where later processes find it; small networks run once.

    Compiled functions lie beside the package, or in the folder that NUMBA_CACHE_DIR names: run this where the package
    is installed, as in a container's image that is made on the kind of processor that it is for: others compile anew.
    Networks whose membranes need 64 bits have some functions of their own.
    """
    start = time.perf_counter()
    for snn in _networks(options.engine):
        images = torch.rand(2, 2, 8, 8)
        snn(images)
        snn.early_readout(images)
        snn.simulate(images)
        for record in (False, True):
            with snn.stream(len(images), record=record) as stream:
                stream(images)
    seconds = time.perf_counter() - start
    return Answer(f"The CPU engine is ready: {seconds:.1f} s", {"engine": options.engine, "seconds": seconds})


@neutral()
def _networks(engine: str) -> list[SpikingNetwork]:
    """Networks that call what nearly all networks do: layers of every kind, on images that are rounded or not."""
    torch.manual_seed(0)
    images, relu = torch.rand(4, 2, 8, 8), nn.ReLU()
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), relu, nn.Flatten(), nn.Linear(144, 2))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(128, 4), relu, nn.Linear(4, 2))
    wide = nn.Sequential(nn.Conv2d(2, 256, 1), relu, nn.Flatten(), nn.Linear(1 << 14, 2), relu, nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FxsnnWarning)
        return [
            convert(
                model, target="generic", bits=4, calibration_data=images, input_bits=input_bits, correction=None,
                engine=engine,
            )
            for model, input_bits in ((_Sums(), 8), (plain, None), (plain, 16), (flat, 8), (wide, 8))
        ]  # fmt: skip
