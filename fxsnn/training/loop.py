"""The training loop of fine-tuning: low-bit layers and thresholds learn, with the integers of the chip in the loop."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from fxsnn.data import accepted, check_labels, gone_through, images_and_labels, length_of, reproducible
from fxsnn.errors import DataError, FileError, OptionError, TargetError, TrainingError, listing
from fxsnn.storage import load_arrays, require_place, save_arrays
from fxsnn.training.options import TrainingOptions, scheduled
from fxsnn.training.student import Student

_log = logging.getLogger(__name__)

_SUMS_TO_ONE = 1e-2
"""Probabilities of bfloat16, which a teacher gives in mixed precision, add up to 1 within half of that."""


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


def _require_classes(outputs: object, whose: str) -> None:
    """Refuse outputs that say nothing about classes."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise DataError(f"{whose} gives {found}; fine-tuning needs a tensor [N, classes]")


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.float().sum(1)
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < _SUMS_TO_ONE).all())


# The loop ------------------------------------------------------------------------------------------------------------


@dataclass
class _Progress:
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


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained on what.

    Attributes:
        student: learns.
        teacher: gives outputs for images; read only for distillation, and for validation without labels.
        batches: gone through once per epoch.
        validation: the same, or `None`.
        checkpoint: a file in which the run is kept after each epoch, and found again after an interruption.
        on_epoch: called after each epoch.
        example: any images of a size that the network accepts; a checkpoint knows the teacher by what it says of them.
    """

    student: Student
    teacher: Callable[[Tensor], Tensor]
    batches: Iterable[Any]
    validation: Iterable[Any] | None = None
    checkpoint: Path | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    example: Tensor | None = None


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
        self.weight = next(iter(self.student.tensors().values()))
        self.device = self.weight.device
        self.learned = tuple(self.student.tensors().values())
        self.identity = "" if task.checkpoint is None else _identity(task, options)
        self.state = _Progress()
        self.probabilities: dict[str, bool] = {}  # whether the network and the teacher give them; first outputs tell
        self.image_size: tuple[int, ...] | None = None  # that the network was seen to accept
        self.labels = options.distillation < 1
        self.size = length_of(task.batches)
        assert options.lr is not None  # the options have seen to it
        self.lrs = (options.lr, options.lr if options.spiking_lr is None else options.spiking_lr)

    def run(self) -> list[Epoch]:
        """See `train`."""
        phases = (self.options.epochs, self.options.spiking_epochs)
        waiting = self._resume()
        total = None if self.size is None else self.size * (sum(phases) - sum(self.state.done))
        quiet = None if self.options.progress else True
        with reproducible(self.options.seed), tqdm(total=total, desc="fine-tuning", disable=quiet) as bar:
            if not self.state.history:
                self._consider(self._validated())  # wrong data show now; and no epoch may make things worse
            for phase, epochs in enumerate(phases):
                if self.state.done[phase] >= epochs:
                    continue
                if self.state.done[phase] == 0:
                    if self.state.kept:
                        self.student.load(self.state.kept)
                    self.state.idle = 0
                optimiser = self._optimiser()
                if waiting is not None:
                    optimiser.load_state_dict(waiting)
                    waiting = None
                while self.state.done[phase] < epochs and not self._stalled():
                    self._epoch(phase, epochs, optimiser, bar)
                    self._keep(optimiser)
                    if self.task.on_epoch is not None:
                        self.task.on_epoch(self.state.history[-1])
                self.state.done[phase] = epochs
        if self.state.kept:
            self.student.load(self.state.kept)
        return self.state.history

    def _optimiser(self) -> torch.optim.Optimizer:
        relative = self.options.optimiser == "adamw"
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
        for iteration, batch in enumerate(gone_through(self.task.batches)):
            images, labels = images_and_labels(batch, self.student.graph.input_channels, labels=self.labels)
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
                hits += int((outputs.argmax(1).cpu() == labels.cpu()).sum())
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
        images = images.to(self.device, self.weight.dtype)
        if spiking:
            with accepted(images, size=self.image_size):
                self.student.simulate(images)
        with self._precision(), accepted(images, size=self.image_size):
            outputs = self.student.graph.run(images)
        self.image_size = tuple(images.shape[1:])
        _require_classes(outputs, "the network")
        if labels is not None:
            check_labels(labels, outputs.shape[1])
        said, share = self._log_probabilities(outputs, "the network"), self.options.distillation
        loss = said.new_zeros(())
        if labels is not None and share < 1:
            loss = loss + (1 - share) * F.nll_loss(said, labels.to(self.device))
        if share > 0:
            loss = loss + share * self._distance(said, images)
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

    def _precision(self) -> torch.autocast:
        """Mixed precision, where it was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16")

    def _distance(self, said: Tensor, images: Tensor) -> Tensor:
        """Hinton et al. 2015: cross entropy of softened distributions, times the square of the temperature."""
        with self._precision():
            wanted = self._taught(images)
        if wanted.shape != said.shape:
            raise DataError(f"the teacher gives outputs of shape {list(wanted.shape)}, the network {list(said.shape)}")
        temperature = self.options.temperature
        soft, wanted = (F.log_softmax(one / temperature, 1) for one in (said, wanted))
        return F.kl_div(soft, wanted, log_target=True, reduction="batchmean") * temperature**2

    def _taught(self, images: Tensor) -> Tensor:
        """Log-probabilities of the teacher, whether it gives probabilities, their logarithms or logits."""
        try:
            with torch.no_grad(), accepted(images, by="the teacher"):
                outputs = self.task.teacher(images)
        except TypeError as error:
            raise OptionError(f"the teacher fails on images alone (TypeError: {error})") from error
        _require_classes(outputs, "the teacher")
        return self._log_probabilities(outputs, "the teacher")

    def _log_probabilities(self, outputs: Tensor, whose: str) -> Tensor:
        """Logarithms of the probabilities that are given, or that logits or log-probabilities stand for."""
        if whose not in self.probabilities:
            self.probabilities[whose] = _are_probabilities(outputs)
        outputs = outputs.float()
        return outputs.clamp_min(1e-12).log() if self.probabilities[whose] else F.log_softmax(outputs, 1)

    def _validated(self) -> float | None:
        """Accuracy of the spiking network on the validation data."""
        if self.task.validation is None:
            return None
        network, hits, count = self.student.spiking(), 0, 0
        with torch.no_grad():
            for batch in gone_through(self.task.validation):
                images, labels = images_and_labels(batch, self.student.graph.input_channels, labels=self.labels)
                if len(images) == 0:
                    continue
                images = images.to(self.device, self.weight.dtype)
                with accepted(images):
                    outputs = network(images)
                _require_classes(outputs, "the network")
                if labels is not None:
                    check_labels(labels, outputs.shape[1])
                wanted = self._taught(images).argmax(1) if labels is None else labels.to(self.device)
                hits += int((outputs.argmax(1) == wanted).sum())
                count += len(images)
        if count == 0:
            raise DataError("the validation data had no batches; give data that can be gone through every epoch")
        return hits / count

    # Interruptions ---------------------------------------------------------------------------------------------------

    def _keep(self, optimiser: torch.optim.Optimizer) -> None:
        """Write the run to its file."""
        if self.task.checkpoint is None:
            return
        arrays = {f"now.{name}": tensor for name, tensor in self.student.tensors().items()}
        arrays.update({f"best.{name}": tensor for name, tensor in self.state.kept.items()})
        scalars: dict[str, Any] = {}
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    arrays[f"optimiser.{index}.{name}"] = value
                else:
                    scalars[f"{index}.{name}"] = value
        document = {
            "fine-tuning": self.identity,
            "done": self.state.done,
            "idle": self.state.idle,
            "best": self.state.best,
            "history": [asdict(epoch) for epoch in self.state.history],
            "optimiser": scalars,
        }
        save_arrays(self.task.checkpoint, {name: array.clone() for name, array in arrays.items()}, document)

    def _resume(self) -> dict[str, Any] | None:
        """Take up the run that is in the file, if there is one; what the optimiser was."""
        path = self.task.checkpoint
        if path is None or not require_place(path, "checkpoint").exists():
            return None
        arrays, document = load_arrays(path)
        if document.get("fine-tuning") != self.identity:
            raise FileError(
                f"{path} belongs to fine-tuning with other options or data, or of a network with other weights or "
                "calibration; delete it or give another path"
            )
        self.student.load({name.removeprefix("now."): tensor for name, tensor in arrays.items() if name[:4] == "now."})
        state = self.state
        state.done, state.idle, state.best = document["done"], document["idle"], document["best"]
        state.history = [Epoch(**epoch) for epoch in document["history"]]
        state.kept = {name.removeprefix("best."): tensor for name, tensor in arrays.items() if name[:5] == "best."}
        held: dict[int, dict[str, Any]] = {}
        for name, value in [
            *arrays.items(),
            *((f"optimiser.{key}", one) for key, one in document["optimiser"].items()),
        ]:
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                held.setdefault(int(index), {})[key] = value
        fresh = self._optimiser().state_dict()
        phase_over = state.done[0] >= self.options.epochs and state.done[1] == 0
        return None if phase_over else {"state": held, "param_groups": fresh["param_groups"]}


def _identity(task: Task, options: TrainingOptions) -> str:
    """Tells whether two runs are the same one: a hash of the options, of what is trained from, and of the data.

    Of data that come in batches other than a list only their number is known.
    """
    student = task.student
    given = {
        **asdict(replace(options, progress=False)),
        **asdict(student.dynamics),
        "registers": asdict(student.target.registers),
        "network": student.graph.text(hashes=False),
        "batches": _data_facts(task.batches),
        "validation": None if task.validation is None else _data_facts(task.validation),
    }
    content = sha256(json.dumps(given, sort_keys=True).encode())
    networks: list[nn.Module] = [student.graph.module]
    if isinstance(task.teacher, nn.Module) and (options.distillation > 0):
        networks.append(task.teacher)
        content.update(_said(task.teacher, task.example))
    for network in networks:
        for name, tensor in network.state_dict().items():
            if isinstance(tensor, Tensor):  # modules may add what they like
                content.update(name.encode())
                content.update(_bytes(tensor))
    return content.hexdigest()


def _said(teacher: nn.Module, images: Tensor | None) -> bytes:
    """What a teacher says about images, to two digits: its tensors do not tell what it computes of them."""
    if images is None:
        return b""
    said = []
    try:
        for _ in range(2):
            with torch.no_grad(), reproducible(0):
                said.append([f"{value:.2g}" for value in teacher(images).flatten().tolist()])
    except Exception:  # of another size than its own; what is wrong with it shows when it is to teach
        return b""
    # Not more digits: another number of threads changes the last ones, and is no reason to refuse a checkpoint. Nor are
    # random numbers from elsewhere.
    return repr(said[0]).encode() if said[0] == said[1] else b""


def _data_facts(data: Iterable[Any]) -> list[Any]:
    """What is known about data without going through what may be read only once, or differ each time."""
    known: list[Any] = [length_of(data)]
    if isinstance(data, DataLoader):
        known.append(data.batch_size)
        if isinstance(data.dataset, TensorDataset):
            known += [_tensor_facts(part) for part in data.dataset.tensors]
    if isinstance(data, list | tuple):
        for batch in data:
            parts = batch if isinstance(batch, list | tuple) else [batch]
            known += [_tensor_facts(part) for part in parts if isinstance(part, Tensor)]
    return known


def _tensor_facts(tensor: Tensor) -> list[Any]:
    return [list(tensor.shape), sha256(_bytes(tensor)).hexdigest()]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
