"""A training that was interrupted goes on as if it had not been, and only where it is the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fxsnn.errors import FileError
from fxsnn.passes import (
    Finetune,
)
from fxsnn.training import Epoch
from tests.nets import Small, seeded
from tests.sharing import cases
from tests.tuning import GRAPH, IMAGES, LABELS, finetune, tuned

pytestmark = pytest.mark.filterwarnings("ignore:fine-tuning kept the network that it began with")


class InterruptionError(Exception):
    pass


@cases("options", [{"optimizer": "adamw", "validation": 0.25}, {"spiking_epochs": 2, "epochs": 2}, {}], quick=2)
@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path, options: dict[str, Any], at: int) -> None:
    path = tmp_path / "run.safetensors"

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == at:
            raise InterruptionError

    given = {"epochs": 4, "lr": 0.05, **options}
    with pytest.raises(InterruptionError):
        finetune(**given, checkpoint=path, on_epoch=interrupt)(GRAPH)
    numbers: list[int] = []
    resumed = finetune(**given, checkpoint=path, on_epoch=lambda epoch: numbers.append(epoch.number))(GRAPH).after
    assert numbers == list(range(at + 1, 5))
    assert resumed.text() == tuned(**given).text()


def test_a_conversion_with_data_that_draw_goes_on_too(tmp_path: Path, convert: Any) -> None:
    few = IMAGES[:40], LABELS[:40]
    loader = DataLoader(TensorDataset(*few), 16, shuffle=True, drop_last=True)
    options = {"calibration_data": loader, "correction": "both", "calibration": "mse", "timesteps": 4}

    def tune() -> Finetune:
        return Finetune(few, epochs=1, checkpoint=tmp_path / "run.safetensors", on_epoch=epochs.append)

    epochs: list[Epoch] = []
    first, second = (convert(seeded(Small), **options, finetune=tune()) for _ in range(2))
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert torch.equal(first(IMAGES), second(IMAGES))


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first = finetune(checkpoint=path)(GRAPH).after

    def refuse(_: Epoch) -> None:
        raise AssertionError("it trained again")

    assert finetune(checkpoint=path, on_epoch=refuse)(GRAPH).after.text() == first.text()


class Scaled(nn.Module):
    """Teachers with the same tensors that say other things."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.network, self.scale = seeded(Small), scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x) * self.scale
        return logits


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    finetune(checkpoint=path)(GRAPH)
    with pytest.raises(FileError, match=r"belongs to fine-tuning with other options.*delete it"):
        finetune(checkpoint=path, lr=0.03)(GRAPH)
    for other in (
        {"timesteps": 4},
        {"batch_size": 16},
        {"data": (IMAGES + 1, LABELS)},
        {"validation": 0.1},
        {"teacher": seeded(Small, 3), "distillation": 0.5},
    ):
        with pytest.raises(FileError, match="belongs to fine-tuning with other options"):
            finetune(**{"checkpoint": path, **other})(GRAPH)
    path.unlink()
    batches = list(zip(IMAGES.split(48), LABELS.split(48), strict=True))
    finetune(batches, teacher=Scaled(1), distillation=0.5, checkpoint=path)(GRAPH)
    for data, scale in ((batches, 9), ([(part + 1, labels) for part, labels in batches], 1)):
        with pytest.raises(FileError, match="belongs to fine-tuning with other options"):
            finetune(data, teacher=Scaled(scale), distillation=0.5, checkpoint=path)(GRAPH)
    path.unlink()
    finetune(checkpoint=path)(GRAPH)
    graph = GRAPH.copy()
    graph.insert_after(graph.nodes(nn.Linear)[-1], "smooth", nn.Softmax(1))  # no weights
    with pytest.raises(FileError, match="or of a network with other weights or calibration"):
        finetune(checkpoint=path)(graph)
    path.write_bytes(b"no such file")
    with pytest.raises(FileError, match="cannot be read"):
        finetune(checkpoint=path)(GRAPH)
