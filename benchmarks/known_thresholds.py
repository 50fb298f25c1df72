"""Networks whose activations have an upper end of their own: what known thresholds are worth, on the digits.

    python benchmarks/known_thresholds.py --seeds 0 1 2

A small network is trained on the 2,000 embedded training digits with each of three activations: ReLU, Hardtanh(0, 1),
and the one with L levels up to a learned bound (QCFS, Bu et al. 2022). It is converted without fine-tuning, and the
spiking network runs for several T on the 1,000 test digits. Rows "as ReLU" are of the same weights with nn.ReLU in the
place of the activation, and calibrated thresholds. Printed are accuracies in per cent.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import fxsnn

LEVELS = 4
TIMESTEPS = (4, 8, 16, 32)


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Levels(nn.Module):
    """Clip, floor, shift, as in the paper; the bound is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.bound = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        x = torch.clamp(x / self.bound, 0, 1)
        x = _Floor.apply(x * LEVELS + 0.5) / LEVELS
        return x * self.bound


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "Hardtanh": lambda: nn.Hardtanh(0, 1),
    "levels": Levels,
}


def network(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Two convolutions and two fully connected layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), activation(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), activation(),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.BatchNorm1d(64), activation(),
        nn.Linear(64, 10),
    )  # fmt: skip


def trained(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """The network, trained as ever."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def with_relu(model: nn.Module) -> nn.Module:
    """The same weights with nn.ReLU as activation."""
    other = copy.deepcopy(model)
    for name, layer in list(other.named_children()):
        if isinstance(layer, Levels | nn.Hardtanh):
            setattr(other, name, nn.ReLU())
    return other


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--bits", type=int, default=4)
    given = parser.parse_args()
    (images, labels), test = (part.tensors for part in fxsnn.datasets.load("digits"))  # type: ignore[attr-defined]  # of tensors
    print("seed  network            ANN   " + "".join(f"T={steps:<6d}" for steps in TIMESTEPS))
    for seed in given.seeds:
        for name, activation in ACTIVATIONS.items():
            torch.manual_seed(seed)
            model = trained(network(activation), images, labels, given.epochs)
            rows = {name: model} if name == "ReLU" else {name: model, f"{name}, as ReLU": with_relu(model)}
            for row, one in rows.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    options = {"bits": given.bits, "calibration_data": images[:500], "correction": None}
                    snn = fxsnn.convert(one, target="generic", **options)
                figures = [accuracy(one, *test)]
                for snn.timesteps in TIMESTEPS:
                    figures.append(accuracy(snn, *test))
                print(f"{seed:<5d} {row:18s} " + "".join(f"{figure:<8.1f}" for figure in figures), flush=True)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In per cent."""
    with torch.no_grad():
        return 100 * (model(images).argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    main()
