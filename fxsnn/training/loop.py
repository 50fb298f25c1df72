"""The training loop of fine-tuning: low-bit layers and thresholds learn, with the integers of the chip in the loop."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fxsnn.data import accepted, length_of, reproducible
from fxsnn.errors import DataError, TargetError, TrainingError, listing
from fxsnn.training.checkpoint import Checkpoint
from fxsnn.training.objective import Objective
from fxsnn.training.options import TrainingOptions, scheduled
from fxsnn.training.run import Epoch, Progress, Task

_log = logging.getLogger(__name__)


def train(task: Task, options: TrainingOptions) -> list[Epoch]:
    """Train `task.student` in place; its tail is not touched.

    With validation data the best epoch is what remains, or what there was before if no epoch was better.

    Raises:
        DataError: a batch does not fit the network, or an epoch had no batches.
        TrainingError: the loss is not finite, or a value left its register.
        FileError: the checkpoint belongs to another run, or cannot be read or written.
    """
    return _Loop(task, options).run()


class _Loop:
    """One run of `train`."""

    def __init__(self, task: Task, options: TrainingOptions) -> None:
        self.task, self.options = task, options
        self.student = task.student
        self.learned = tuple(self.student.tensors().values())
        self.objective = Objective(task.teacher, options, self.student.graph.input_channels, self.learned[0])
        self.checkpoint = None if options.checkpoint is None else Checkpoint(options.checkpoint, task, options)
        self.state = Progress()
        self.image_size: tuple[int, ...] | None = None  # that the network was seen to accept
        self.size = length_of(task.batches)
        self.lrs = options.learning_rates()

    def run(self) -> list[Epoch]:
        """See `train`."""
        phases = (self.options.epochs, self.options.spiking_epochs)
        held: dict[int, dict[str, Any]] = {}
        if self.checkpoint is not None:
            self.state, held = self.checkpoint.resume()
        total = None if self.size is None else self.size * (sum(phases) - sum(self.state.done))
        quiet = None if self.options.progress else True
        with reproducible(self.options.seed), tqdm(total=total, desc="fine-tuning", disable=quiet) as bar:
            if not self.state.history:
                self._consider(self._validated())  # wrong data show now; and no epoch may make things worse
            for phase, epochs in enumerate(phases):
                if self.state.done[phase] >= epochs:
                    continue
                optimiser = self._optimiser()
                if self.state.done[phase] == 0:
                    if self.state.kept:
                        self.student.load(self.state.kept)
                    self.state.idle = 0
                elif held:  # of this phase, which was interrupted
                    optimiser.load_state_dict({**optimiser.state_dict(), "state": held})
                    held = {}
                while self.state.done[phase] < epochs and not self._stalled():
                    self._epoch(phase, epochs, optimiser, bar)
                    if self.checkpoint is not None:
                        self.checkpoint.keep(self.state, optimiser)
                    if self.options.on_epoch is not None:
                        self.options.on_epoch(self.state.history[-1])
                self.state.done[phase] = epochs
        if self.state.kept:
            self.student.load(self.state.kept)
        return self.state.history

    def _optimiser(self) -> torch.optim.Optimizer:
        relative = self.options.optimizer == "adamw"
        groups = self.student.groups(weight_decay=self.options.weight_decay, relative=relative)
        if relative:
            return torch.optim.AdamW(groups, self.lrs[0])
        return torch.optim.SGD(groups, self.lrs[0], momentum=self.options.momentum)

    def _stalled(self) -> bool:
        return self.options.patience is not None and self.state.idle >= self.options.patience

    def _epoch(self, phase: int, epochs: int, optimiser: torch.optim.Optimizer, bar: Any) -> None:
        start, number = time.perf_counter(), len(self.state.history) + 1
        # Seeds by epoch: a run that was interrupted goes on as if it had not been.
        torch.manual_seed(self.options.seed + 1_000_003 * number)
        total = hits = count = labelled = 0.0
        lr = self.lrs[phase]
        for iteration, (images, labels) in enumerate(self.objective.batches(self.task.batches)):
            if len(images) == 0:
                continue
            done = (self.state.done[phase] + (iteration / self.size if self.size else 0)) / epochs
            rate = lr * scheduled(self.options.schedule, done)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            loss, outputs = self._update(images, labels, optimiser, spiking=phase == 1)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} in epoch {number}, batch {iteration + 1}; use a smaller lr (it is {lr}) or "
                    "check the labels"
                )
            total, count = total + loss * len(images), count + len(images)
            if labels is not None:
                hits += int((outputs.argmax(1) == labels).sum())
                labelled += len(images)
            accuracy = f"{hits / labelled:.2%}" if labelled else "-"
            bar.set_postfix(loss=f"{total / count:.4f}", accuracy=accuracy, lr=f"{rate:.2g}")
            bar.update()
        if count == 0:
            raise DataError(
                f"epoch {number} of fine-tuning had no batches; give data that can be gone through every epoch, "
                "such as a DataLoader"
            )
        self.student.forget()
        validation = self._validated()
        self.state.done[phase] += 1
        epoch = Epoch(
            number, phase == 1, total / count, hits / labelled if labelled else None, validation, rate,
            time.perf_counter() - start,
        )  # fmt: skip
        self.state.history.append(epoch)
        self._consider(validation)
        _log.info("fine-tuning, %s", epoch)

    def _validated(self) -> float | None:
        """Accuracy of the spiking network on the validation data."""
        if self.task.validation is None:
            return None
        return self.objective.accuracy(self.student.spiking(), self.task.validation, "the validation data")

    def _consider(self, validation: float | None) -> None:
        """Keep the present state if it is the best so far."""
        if validation is None:
            return
        self.state.idle += 1
        if self.state.best is None or validation > self.state.best:
            self.state.best, self.state.idle = validation, 0
            self.state.kept = {name: tensor.detach().clone() for name, tensor in self.student.tensors().items()}

    def _update(
        self, images: Tensor, labels: Tensor | None, optimiser: torch.optim.Optimizer, *, spiking: bool
    ) -> tuple[float, Tensor]:
        """One step of the optimiser; the loss and the outputs before it."""
        if spiking:
            with accepted(images, size=self.image_size):
                self.student.simulate(images)
        with self.objective.precision(), accepted(images, size=self.image_size):
            outputs = self.student.graph.run(images)
        self.image_size = tuple(images.shape[1:])
        loss = self.objective.loss(outputs, labels, images)
        value = float(loss.detach())
        optimiser.zero_grad()
        if math.isfinite(value):
            loss.backward(inputs=self.learned)
            if self.options.gradient_norm is not None:
                nn.utils.clip_grad_norm_(self.learned, self.options.gradient_norm)
            optimiser.step()
            self.student.confine()
            try:
                self.student.round()
            except TargetError as error:
                findings = [replace(finding, remedy="Use a smaller lr") for finding in error.findings]
                raise TrainingError(f"training has taken values out of their registers: {listing(findings)}") from error
        return value, outputs.detach()
