"""The training loop of fine-tuning: low-bit layers and thresholds learn, with the integers of the chip in the loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.data import accepted, gone_through, length_of, reproducible
from fxsnn.display import progress_bar
from fxsnn.errors import DataError, TargetError, TrainingError, listing
from fxsnn.processes import by_itself, each_sharing_errors, is_first, sharing_errors
from fxsnn.training.checkpoint import Checkpoint
from fxsnn.training.objective import Objective
from fxsnn.training.options import TrainingOptions, scheduled
from fxsnn.training.run import Epoch, Outcome, Progress, Task
from fxsnn.training.together import Together

_JUDGED_ON = 1_000
"""So many of the training images, about, judge a run without validation data."""

_log = logging.getLogger(__name__)


def train(task: Task, options: TrainingOptions) -> Outcome:
    """Train `task.student` in place; its tail is not touched.

    With validation data the best epoch is what remains; without, the last one. Where the spiking network of the start
    was better, on the validation data or without them on some of the training images, that remains. Better is a larger
    share of images that are right, or where nothing is right or wrong a smaller loss.

    Each epoch and the outcome are logged at INFO.

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
        self.together = Together(self.student.graph, self.learned, task.batches)
        self.objective = Objective(task.teacher, options, self.student.graph.image_form, self.learned[0])
        self.checkpoint = None if options.checkpoint is None else Checkpoint(options.checkpoint, task, options)
        self.state = Progress()
        self.image_size: tuple[int, ...] | None = None  # that the network was seen to accept
        self.size = length_of(task.batches)
        self.judged: Iterable[Any] | None = task.validation
        self.lrs = options.learning_rates()

    def run(self) -> Outcome:
        """See `train`."""
        phases = (self.options.epochs, self.options.spiking_epochs)
        held: dict[int, dict[str, Any]] = {}
        if self.checkpoint is not None:
            self.state, held = self.checkpoint.resume()
        total = None if self.size is None else self.size * (sum(phases) - sum(self.state.done))
        bar = progress_bar(None, "fine-tuning", show=self.options.progress, total=total)
        with reproducible(self.options.seed), bar:
            self._begin()
            for phase, epochs in enumerate(phases):
                if self.state.done[phase] >= epochs:
                    continue
                optimiser = self._optimiser()
                if self.state.done[phase] == 0:
                    if self.task.validation is not None:
                        self.student.load(self.state.kept)
                    self.state.idle = 0
                elif held:  # of this phase, which was interrupted
                    optimiser.load_state_dict({**optimiser.state_dict(), "state": held})
                    held = {}
                while self.state.done[phase] < epochs and not self._stalled():
                    self._epoch(phase, epochs, optimiser, bar)
                    if self.checkpoint is not None:
                        self.checkpoint.keep(self.state, optimiser)
                    with sharing_errors():
                        if self.options.on_epoch is not None and is_first():
                            with by_itself():
                                self.options.on_epoch(self.state.history[-1])
                self.state.done[phase] = epochs
            outcome = self._end()
        _log.info("%s", outcome)
        return outcome

    def _begin(self) -> None:
        """Judge the start: wrong data show now, and no epoch may make things worse."""
        if self.task.validation is None and not isinstance(self.task.batches, Iterator):
            with reproducible(self.options.seed, self.task.batches), sharing_errors():
                self.judged = _first(self.task.batches) or None
        if self.state.history or self.judged is None:
            return
        self.state.start = self.state.best = self._score(self.judged)
        self.state.kept = self._tensors()

    def _end(self) -> Outcome:
        """Leave the best that there was."""
        state = self.state
        history, last = tuple(state.history), len(state.history)
        if self.judged is None:
            return Outcome(history, last)
        if self.task.validation is not None:
            self.student.load(state.kept)
            better = (epoch.number for epoch in history if epoch.score == state.best != state.start)
            return self._outcome(next(better, 0), "validation", state.best)
        after = self._score(self.judged)
        assert state.start is not None
        if after >= state.start:
            return self._outcome(last, "training", after)
        self.student.load(state.kept)
        return self._outcome(0, "training", state.start)

    def _outcome(self, kept: int, judged: str, after: float | None) -> Outcome:
        """Figures as users know them: a loss is above zero."""
        sign = 1 if self.state.has_accuracy else -1
        before, after = (None if one is None else sign * one for one in (self.state.start, after))
        return Outcome(tuple(self.state.history), kept, judged, before, after, self.state.has_accuracy)

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
        self.together.begin(number)
        batches = each_sharing_errors(self.objective.batches(self.task.batches))
        for iteration, (images, labels) in enumerate(batches):
            if len(images) == 0:
                continue
            done = (self.state.done[phase] + (iteration / self.size if self.size else 0)) / epochs
            rate = lr * scheduled(self.options.schedule, done)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            loss, size, right = self._update(images, labels, optimiser, spiking=phase == 1)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} in epoch {number}, batch {iteration + 1}; use a smaller lr (it is {lr}) or "
                    "check the labels"
                )
            total, count = total + loss * size, count + size
            if right is not None:
                hits += right
                labelled += size
            accuracy = f"{hits / labelled:.2%}" if labelled else "-"
            bar.set_postfix(loss=f"{total / count:.4f}", accuracy=accuracy, lr=f"{rate:.2g}", refresh=False)
            bar.update()
        if count == 0:
            raise DataError(
                f"epoch {number} of fine-tuning had no batches; give data that can be gone through every epoch, "
                "such as a DataLoader"
            )
        self.student.forget()
        score = None if self.task.validation is None else self._score(self.task.validation)
        self.state.done[phase] += 1
        epoch = Epoch(
            number, phase == 1, total / count, hits / labelled if labelled else None,
            score if self.state.has_accuracy else None, rate, time.perf_counter() - start,
            None if score is None or self.state.has_accuracy else -score,
        )  # fmt: skip
        self.state.history.append(epoch)
        self._consider(score)
        _log.info("fine-tuning, %s", epoch)

    def _score(self, data: Iterable[Any]) -> float:
        """Of the spiking network."""
        what = "fine-tuning data" if self.task.validation is None else "the validation data"
        score = self.objective.judge(self.student.spiking(), data, what)
        self.state.has_accuracy = self.objective.has_accuracy
        return score

    def _consider(self, score: float | None) -> None:
        """Keep the present state if it is the best so far."""
        if score is None:
            return
        self.state.idle += 1
        if self.state.best is None or score > self.state.best:
            self.state.best, self.state.idle = score, 0
            self.state.kept = self._tensors()

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.student.tensors().items()}

    def _update(
        self, images: Tensor, labels: Any, optimiser: torch.optim.Optimizer, *, spiking: bool
    ) -> tuple[float, int, int | None]:
        """One step of the optimiser; the loss before it, and how many images there were and were right."""
        self.objective.decide(self.student.graph.run, [(images, labels)] if is_first() else [])
        images, labels, own = self.together.own_rows(images, labels)
        with sharing_errors():
            if spiking:
                with accepted(images, size=self.image_size):
                    self.student.simulate(images)
            with self.objective.precision(), accepted(images, size=self.image_size):
                outputs = self.together.run(images)
            self.image_size = self.student.graph.image_form.size_of(images)
            loss = self.objective.loss(self.student.graph.run, outputs, labels, images)
            right = self.objective.right(outputs, labels)
        value, size, right = self.together.in_all(loss, own, right)
        optimiser.zero_grad()
        if math.isfinite(value):
            self.together.weighed(loss, own, size).backward(inputs=self.learned)
            if self.options.gradient_norm is not None:
                nn.utils.clip_grad_norm_(self.learned, self.options.gradient_norm)
            optimiser.step()
            self.student.confine()
            try:
                self.student.round()
            except TargetError as error:
                findings = [replace(finding, remedy="Use a smaller lr") for finding in error.findings]
                raise TrainingError(f"training has taken values out of their registers: {listing(findings)}") from error
        return value, size, right


def _first(batches: Iterable[Any]) -> list[Any]:
    """The first batches, until they have images enough; what is no batch is kept too, to be refused."""
    kept: list[Any] = []
    count = 0
    for batch in gone_through(batches):
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        found = len(images) if isinstance(images, Tensor) and images.dim() else 1
        count += found
        if found:
            kept.append(batch)
        if count >= _JUDGED_ON:
            break
    return kept
