"""Options of the training loop of fine-tuning, and what they say about the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fxsnn.chip import whole_number
from fxsnn.errors import OptionError
from fxsnn.options import is_one_of, real_number, require_flag, shown

OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step")
PRECISIONS = ("float32", "bfloat16")
_RATES = {"sgd": 0.02, "adamw": 0.001}


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the training loop.

    Attributes:
        epochs: how often to go through the data with rates of spikes rounded as under a steady drive.
        spiking_epochs: how often after that with the rates that the spiking network has; together at least 1.
        lr: learning rate at the start; `None`: 0.02 for "sgd", 0.001 for "adamw".
        spiking_lr: the same for the spiking epochs; `None`: as `lr`.
        momentum: of "sgd", from 0 to below 1.
        weight_decay: of the weights, not negative.
        optimiser: "sgd" or "adamw".
        gradient_norm: the gradient of all that is trained is scaled down to this Euclidean norm where it is larger
            (Pascanu et al. 2013); `None`: it is not. Deep networks of 1 or 2 bits start so far from the ANN that a few
            unscaled steps kill their neurons.
        schedule: "cosine" down to 0, or "step": a tenth at 50 % and again at 75 % of the iterations; the spiking epochs
            have one of their own. (For data without a length it goes on once an epoch.)
        distillation: share of the loss that is the distance from what the teacher says, 0 to 1; at 1 no labels are
            needed.
        temperature: at which distributions are compared in distillation.
        precision: "float32", or "bfloat16" for mixed precision.
        patience: stop when so many epochs brought nothing better on the validation data; `None`: never.
        seed: of the order of the batches and whatever else draws from PyTorch's generator.
        progress: show a progress bar.

    Raises:
        OptionError: a value is not allowed.
    """

    epochs: int = 5
    spiking_epochs: int = 0
    lr: float | None = None
    spiking_lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimiser: str = "sgd"
    gradient_norm: float | None = 1.0
    schedule: str = "cosine"
    distillation: float = 0.0
    temperature: float = 1.0
    precision: str = "float32"
    patience: int | None = None
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if not is_one_of(getattr(self, name), allowed):
                known = " and ".join(map(repr, allowed))
                raise OptionError(f"{name} is {shown(getattr(self, name))}; allowed are {known}")
        if self.lr is None:
            object.__setattr__(self, "lr", _RATES[self.optimiser])
        for name in ("epochs", "spiking_epochs", "seed"):
            self._require(name, whole_number, lambda value: 0 <= value < 1 << 63, "whole numbers from 0, below 2^63")
        if self.epochs + self.spiking_epochs < 1:
            raise OptionError("epochs and spiking_epochs are both 0; leave fine-tuning out instead")
        for name in ("lr", "spiking_lr", "temperature", "gradient_norm"):
            if name not in ("spiking_lr", "gradient_norm") or getattr(self, name) is not None:
                self._require(name, real_number, lambda value: value > 0, "positive numbers")
        self._require("momentum", real_number, lambda value: 0 <= value < 1, "numbers from 0 to below 1")
        self._require("weight_decay", real_number, lambda value: value >= 0, "numbers from 0")
        self._require("distillation", real_number, lambda value: 0 <= value <= 1, "numbers from 0 to 1")
        object.__setattr__(self, "progress", require_flag("progress", self.progress))
        if self.patience is not None:
            self._require("patience", whole_number, lambda value: value >= 1, "whole numbers from 1, or None")

    def _require(self, name: str, number: Callable[[Any], Any], holds: Callable[[Any], bool], allowed: str) -> None:
        """Make an option a plain number, or refuse it."""
        value = number(getattr(self, name))
        if value is None or not holds(value):
            raise OptionError(f"{name} is {shown(getattr(self, name))}; allowed are {allowed}")
        object.__setattr__(self, name, value)


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
