"""A run in a file, found again after an interruption; and what tells two runs apart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fxsnn.data import divider_of, in_order, length_of, reproducible
from fxsnn.errors import FileError
from fxsnn.processes import is_first, of_first, share, sharing_errors
from fxsnn.storage import load_arrays, require_place, save_arrays
from fxsnn.training.options import TrainingOptions, name_of
from fxsnn.training.run import Epoch, Progress, Task

_NOT_PLAIN = ("data", "validation", "teacher", "target", "checkpoint", "on_epoch", "progress", "loss")
"""Options that are no numbers or words: they are known by what they hold, or do not matter to the result."""


class Checkpoint:
    """The file of one run.

    Args:
        path: of the file.
        task: what is trained on what.
        options: of the training.
    """

    def __init__(self, path: str | Path, task: Task, options: TrainingOptions) -> None:
        self._path = Path(path)
        self._student = task.student
        self._identity = _identity(task, options)

    def keep(self, progress: Progress, optimiser: torch.optim.Optimizer) -> None:
        """Write the run to its file.

        Raises:
            FileError: it cannot be written.
        """
        arrays = {f"now.{name}": tensor for name, tensor in self._student.tensors().items()}
        arrays.update({f"best.{name}": tensor for name, tensor in progress.kept.items()})
        scalars: dict[str, Any] = {}
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    arrays[f"optimiser.{index}.{name}"] = value
                else:
                    scalars[f"{index}.{name}"] = value
        document = {
            "fine-tuning": self._identity,
            "done": progress.done,
            "idle": progress.idle,
            "start": progress.start,
            "best": progress.best,
            "accuracy": progress.has_accuracy,
            "history": [asdict(epoch) for epoch in progress.history],
            "optimiser": scalars,
        }
        save_arrays(self._path, {name: array.clone() for name, array in arrays.items()}, document)

    def resume(self) -> tuple[Progress, dict[int, dict[str, Any]]]:
        """Take up the run that is in the file, if there is one: how far it is, and the state of its optimiser.

        Raises:
            FileError: it is another run, or it cannot be read.
        """
        found = None
        with sharing_errors():
            if is_first() and require_place(self._path, "checkpoint").exists():
                found = load_arrays(self._path)
        found = of_first(found)
        if found is None:
            return Progress(), {}
        arrays, document = found
        if document.get("fine-tuning") != of_first(self._identity):
            raise FileError(
                f"{self._path} belongs to fine-tuning with other options or data, or of a network with other weights "
                "or calibration; delete it or give another path"
            )
        self._student.load(_under("now.", arrays))
        history = [Epoch(**epoch) for epoch in document["history"]]
        numbers = {name: document[name] for name in ("done", "start", "best", "idle")}
        progress = Progress(
            **numbers, history=history, kept=_under("best.", arrays), has_accuracy=document.get("accuracy", True)
        )
        held: dict[int, dict[str, Any]] = {}
        for name, value in {**_under("optimiser.", arrays), **document["optimiser"]}.items():
            index, key = name.split(".", 1)
            held.setdefault(int(index), {})[key] = value
        return progress, held


def _under(prefix: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _identity(task: Task, options: TrainingOptions) -> str:
    """Tells whether two runs are the same one: a hash of the options, of what is trained from, and of the data.

    Of data that come in batches other than a list only their number is known.
    """
    student = task.student
    plain = {one.name: getattr(options, one.name) for one in fields(options) if one.name not in _NOT_PLAIN}
    given = {
        **plain,
        "rates": options.learning_rates(),
        **asdict(student.dynamics),
        "registers": asdict(student.target.registers),
        "network": student.graph.text(hashes=False),
        "batches": _data_facts(task.batches),
        "validation": None if task.validation is None else _data_facts(task.validation),
    }
    if options.loss is not None:
        given["loss"] = name_of(options.loss)
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
        each = data.batch_size
        known.append(each if each is None or divider_of(data) is None else each * share()[1])
        if isinstance(data.dataset, TensorDataset):
            known += [_tensor_facts(part) for part in data.dataset.tensors]
    if isinstance(data, list | tuple):
        for batch in map(in_order, data):
            parts = batch if isinstance(batch, list | tuple) else [batch]
            known += [_tensor_facts(part) for part in parts if isinstance(part, Tensor)]
    return known


def _tensor_facts(tensor: Tensor) -> list[Any]:
    return [list(tensor.shape), sha256(_bytes(tensor)).hexdigest()]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
