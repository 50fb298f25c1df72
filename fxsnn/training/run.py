"""One run of the training: what it is given, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fxsnn.training.student import Student


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought.

    Attributes:
        number: from 1, spiking epochs included.
        spiking: whether its rates were those of the spiking network.
        loss: mean over the images.
        accuracy: share of the training images, as they were seen, that the network in training classified right.
        validation: share of the validation images that the spiking network classifies right (without labels: as the
            teacher does); `None` without validation data.
        lr: learning rate at its end.
        seconds: how long it took.
    """

    number: int
    spiking: bool
    loss: float
    accuracy: float | None
    validation: float | None
    lr: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained on what.

    Attributes:
        student: learns.
        teacher: gives outputs for images; read only for distillation, and for validation without labels.
        batches: gone through once per epoch.
        validation: the same, or `None`.
        example: any images of a size that the network accepts; a checkpoint knows the teacher by what it says of them.
    """

    student: Student
    teacher: Callable[[Tensor], Tensor]
    batches: Iterable[Any]
    validation: Iterable[Any] | None = None
    example: Tensor | None = None


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        done: epochs of each phase that are over, rated and spiking.
        history: all epochs.
        best: validation accuracy of the best epoch so far.
        kept: its tensors.
        idle: epochs of this phase since then.
    """

    done: list[int] = field(default_factory=lambda: [0, 0])
    history: list[Epoch] = field(default_factory=list)
    best: float | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)
    idle: int = 0
