"""Networks with ends of all kinds are converted: what lies behind the last spiking layer stays the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxsnn
from tests.nets import images, seeded
from tests.sharing import cases
from tests.tails import alike


class Ends(nn.Module):
    """3x12x12 to maps of 6x4x4, and what `kind` makes of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU())
        self.kind, self.fc, self.more, self.one = kind, nn.Linear(96, 8), nn.Linear(8, 5), nn.Linear(96, 1)
        self.classes, self.norm = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Any:
        maps = self.body(x)
        rows = maps.flatten(1)
        ends: dict[str, Callable[[], Any]] = {
            "rows": lambda: self.more(self.fc(rows)),
            "maps": lambda: self.norm(self.classes(maps)).mean((2, 3)).log_softmax(1),
            "segments": lambda: F.interpolate(self.classes(maps), scale_factor=3.0),
            "both": lambda: {"classes": self.fc(rows), "age": self.one(rows).squeeze(1)},
            "features": lambda: (self.fc(rows), [rows, maps]),
            "joined": lambda: torch.cat([self.fc(rows), self.one(rows)], 1),
            "squeezed": lambda: self.classes(F.adaptive_avg_pool2d(maps, 1)).squeeze(),
        }
        return ends[self.kind]()


KINDS = ["rows", "maps", "segments", "both", "features", "joined", "squeezed"]


@cases("kind", KINDS, quick=("maps", "both", "squeezed"))
def test_an_end_is_converted_as_it_is(kind: str, tmp_path: Path) -> None:
    model = seeded(lambda: Ends(kind)).eval()
    data = images(65)
    snn = fxsnn.convert(model, target="generic", bits=4, timesteps=8, calibration_data=data)
    kept = {name: tensor for name, tensor in snn.state_dict().items() if name in model.state_dict()}
    assert kept
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in kept.items())
    with torch.no_grad():
        outputs, wanted = snn(data), model(data)
    shapes = [[one.shape for one in pytree.tree_leaves(both)] for both in (outputs, wanted)]
    assert shapes[0] == shapes[1]
    assert pytree.tree_structure(outputs) == pytree.tree_structure(wanted)
    snn.timesteps = 256  # the rates come to what the n-bit network computes
    with torch.no_grad():
        for found, real in zip(pytree.tree_leaves(snn(data)), pytree.tree_leaves(wanted), strict=True):
            pair = torch.stack([found.flatten(), real.flatten()]).double()
            assert torch.corrcoef(pair)[0, 1] > 0.9
    snn.timesteps = 8
    snn.save(tmp_path / "net.fxsnn")
    assert alike(fxsnn.load(tmp_path / "net.fxsnn")(data), outputs)


def test_heads_are_trained_together_by_a_loss_of_the_users() -> None:
    def loss(outputs: Any, labels: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs["classes"], labels[0]) + F.mse_loss(outputs["age"], labels[1])

    data = images(32)
    labels = (torch.arange(32) % 8, data.mean((1, 2, 3)) * 3)
    epochs: list[Any] = []
    tune = fxsnn.Finetune(
        (data, labels), epochs=12, spiking_epochs=1, lr=0.05, loss=loss, on_epoch=epochs.append, batch_size=16
    )
    model = seeded(lambda: Ends("both")).eval()
    options: dict[str, Any] = {"target": "generic", "bits": 2, "timesteps": 4, "calibration_data": data}
    snn = fxsnn.convert(model, **options, finetune=tune)
    assert len(epochs) == 13
    untrained = fxsnn.convert(model, **options)
    with torch.no_grad():
        assert float(loss(snn(data), labels)) < float(loss(untrained(data), labels))
