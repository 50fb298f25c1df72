"""The options of fine-tuning: fields and what they may be. What each means stands at `fxsnn.Finetune`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fxsnn.chip import HardwareTarget, require_target, whole_number
from fxsnn.data import require_share
from fxsnn.errors import OptionError
from fxsnn.numerics import Dynamics
from fxsnn.options import is_one_of, real_number, require_flag, shown
from fxsnn.storage import as_path
from fxsnn.training.run import Epoch

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("float32", "bfloat16")
_RATES = {"sgd": 0.02, "adamw": 0.001}


@dataclass(frozen=True, eq=False)
class TrainingOptions:
    """The options of fine-tuning; `fxsnn.Finetune` is these with a rewrite, and tells what each of them means.

    Raises:
        OptionError: a value is not allowed.
    """

    data: Any
    epochs: int = 5
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    spiking_epochs: int = 1
    spiking_lr: float | None = None
    optimizer: str = "sgd"
    gradient_norm: float | None = 1.0
    schedule: str = "cosine"
    distillation: float = 0.0
    temperature: float = 1.0
    teacher: nn.Module | None = None
    precision: str = "float32"
    validation: Any = None
    patience: int | None = None
    batch_size: int = 128
    timesteps: int | None = None
    target: HardwareTarget | None = None
    reset: str | None = None
    initial_membrane: float | None = None
    checkpoint: str | Path | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    seed: int = 0
    progress: bool = False
    loss: Callable[[Any, Any], Tensor] | None = None
    optimiser: InitVar[str | None] = None

    def __post_init__(self, optimiser: str | None) -> None:
        if optimiser is not None:
            if self.optimizer != type(self).optimizer:
                raise OptionError("optimizer and optimiser are one option; give optimizer only")
            object.__setattr__(self, "optimizer", optimiser)
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if not is_one_of(getattr(self, name), allowed):
                known = " and ".join(map(repr, allowed))
                raise OptionError(f"{name} is {shown(getattr(self, name))}; allowed are {known}")
        for name in ("epochs", "spiking_epochs", "seed"):
            self._require(name, whole_number, lambda value: 0 <= value < 1 << 63, "whole numbers from 0, below 2^63")
        if self.epochs + self.spiking_epochs < 1:
            raise OptionError("epochs and spiking_epochs are both 0; leave fine-tuning out instead")
        for name in ("lr", "spiking_lr", "temperature", "gradient_norm"):
            if name == "temperature" or getattr(self, name) is not None:
                self._require(name, real_number, lambda value: value > 0, "positive numbers")
        self._require("momentum", real_number, lambda value: 0 <= value < 1, "numbers from 0 to below 1")
        self._require("weight_decay", real_number, lambda value: value >= 0, "numbers from 0")
        self._require("distillation", real_number, lambda value: 0 <= value <= 1, "numbers from 0 to 1")
        batch_sizes = f"whole numbers from 1 to {sys.maxsize}"
        self._require("batch_size", whole_number, lambda value: 1 <= value <= sys.maxsize, batch_sizes)
        if self.patience is not None:
            self._require("patience", whole_number, lambda value: value >= 1, "whole numbers from 1, or None")
        object.__setattr__(self, "progress", require_flag("progress", self.progress))
        self._require_objects()
        if self.patience is not None and self.validation is None:
            raise OptionError("patience needs validation: data held out, or the share of the data to hold out")

    def _require_objects(self) -> None:
        """Refuse what is no teacher, share, path, function, target or dynamics."""
        if self.teacher is not None and not isinstance(self.teacher, nn.Module):
            raise OptionError(f"teacher is a {type(self.teacher).__name__}; allowed are a torch.nn.Module, or None")
        if isinstance(self.validation, Real):
            require_share(self.validation)
        if self.checkpoint is not None:
            as_path(self.checkpoint, "checkpoint")
        if self.on_epoch is not None and not callable(self.on_epoch):
            raise OptionError(f"on_epoch is a {type(self.on_epoch).__name__}; allowed are functions, or None")
        if self.loss is not None:
            if not callable(self.loss) or isinstance(self.loss, type):
                raise OptionError(
                    f"loss is {shown(self.loss)}; allowed are functions of outputs and labels, such as "
                    "torch.nn.functional.mse_loss, or None"
                )
            if self.distillation > 0:
                raise OptionError(
                    f"loss is {name_of(self.loss)} and distillation {self.distillation:g}: how far a teacher is by a "
                    "function of yours is not known. Leave loss or distillation out"
                )
        if self.target is not None:
            require_target(self.target)
        self.dynamics()

    def _require(self, name: str, number: Callable[[Any], Any], holds: Callable[[Any], bool], allowed: str) -> None:
        """Make an option a plain number, or refuse it."""
        value = number(getattr(self, name))
        if value is None or not holds(value):
            raise OptionError(f"{name} is {shown(getattr(self, name))}; allowed are {allowed}")
        object.__setattr__(self, name, value)

    def dynamics(self) -> Dynamics:
        """Timesteps, reset and start of the membranes, checked; those that are not given are the usual ones."""
        given = {name: getattr(self, name) for name in ("timesteps", "reset", "initial_membrane")}
        return Dynamics(**{name: value for name, value in given.items() if value is not None})

    def learning_rates(self) -> tuple[float, float]:
        """Those at the start of ordinary and of spiking epochs."""
        ordinary = _RATES[self.optimizer] if self.lr is None else self.lr
        return ordinary, ordinary if self.spiking_lr is None else self.spiking_lr


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called, without its address in memory.

    >>> name_of(scheduled), name_of(nn.MSELoss())
    ('scheduled', 'MSELoss()')
    """
    if isinstance(function, partial):
        return name_of(function.func)
    name = getattr(function, "__qualname__", None)
    if isinstance(name, str):
        return name
    text = shown(function)
    return type(function).__qualname__ if " at 0x" in text or text.startswith("a ") else text


def scheduled(schedule: str, done: float) -> float:
    """The share of the learning rate when a share `done` of all iterations is over.

    >>> [scheduled("step", done) for done in (0.0, 0.5, 0.8)]
    [1.0, 0.1, 0.01]
    >>> scheduled("cosine", 0.5)
    0.5
    """
    if schedule == "step":
        return 0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0
    return round((1 + math.cos(math.pi * done)) / 2, 12)
