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
        accuracy: share of the training images, as they were seen, that the network in training classified right; `None`
            without labels, and where nothing is right or wrong: of values, and with a loss of the user's.
        validation: share of the validation images that the spiking network classifies right (without labels: as the
            teacher does); `None` without validation data, and where nothing is right or wrong.
        lr: learning rate at its end.
        seconds: how long it took.
        validation_loss: of the spiking network on the validation data where nothing is right or wrong, mean over the
            images; `None` otherwise.
    """

    number: int
    spiking: bool
    loss: float
    accuracy: float | None
    validation: float | None
    lr: float
    seconds: float
    validation_loss: float | None = None

    @property
    def score(self) -> float | None:
        """What epochs are compared by, more is better: `validation`, or `validation_loss` below zero."""
        return self.validation if self.validation_loss is None else -self.validation_loss

    def __str__(self) -> str:
        kind = " with spikes" if self.spiking else ""
        shares = ((self.accuracy, "accuracy"), (self.validation, "validation accuracy"))
        known = "".join(f", {name} {share:.2%}" for share, name in shares if share is not None)
        known += "" if self.validation_loss is None else f", validation loss {self.validation_loss:.4f}"
        return f"epoch {self.number}{kind}: loss {self.loss:.4f}{known}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Outcome:
    """What a run left, and why.

    Attributes:
        history: its epochs.
        kept: number of the epoch of which the network remains; 0: the network that the run began with.
        judged: on what the spiking network was judged, "validation" or "training" images; `None`: on nothing, because
            the data can be gone through only once.
        before: share of these images that it classified right at the start; where nothing is right or wrong, the loss.
        after: the same of what remains.
        has_accuracy: whether these are shares.
    """

    history: tuple[Epoch, ...]
    kept: int
    judged: str | None = None
    before: float | None = None
    after: float | None = None
    has_accuracy: bool = True

    def __str__(self) -> str:
        kept = f"epoch {self.kept} of {len(self.history)}" if self.kept else "the network that it began with"
        if self.judged is None:
            return f"fine-tuning kept {kept}, unjudged: the data can be gone through only once; validation= judges it"
        figure = "images that its spikes classify right," if self.has_accuracy else "images, loss of its spikes"
        before, after = (f"{one:.2%}" if self.has_accuracy else f"{one:.4f}" for one in (self.before, self.after))
        other = f"at the start {before}" if self.kept else "training did no better"
        return f"fine-tuning kept {kept}: {self.judged} {figure} {after}; {other}"


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
        start: score of the start on the images on which it is judged: the share that was right, or the loss below zero.
        best: score of the best epoch so far on the validation data; without them, `start`.
        kept: its tensors; without validation data, those of the start.
        idle: epochs of this phase since then.
        has_accuracy: whether scores are shares of images.
    """

    done: list[int] = field(default_factory=lambda: [0, 0])
    history: list[Epoch] = field(default_factory=list)
    start: float | None = None
    best: float | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)
    idle: int = 0
    has_accuracy: bool = True
