"""What is to become small, and what to become large: the loss, and the share of images that is classified right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from fxsnn.data import (
    Reading,
    accepted,
    gives_probabilities,
    gone_through,
    images_and_labels,
    own_batches,
    reading_of,
    reading_without_labels,
    require_outputs,
)
from fxsnn.errors import DataError, OptionError
from fxsnn.layers import ImageForm
from fxsnn.processes import first_and_all, in_turn, of_first, share, sharing_errors
from fxsnn.training.options import TrainingOptions, name_of

_SUMS_TO_ONE = 1e-2
"""Probabilities of bfloat16, which a teacher gives in mixed precision, add up to 1 within half of that."""

Network = Callable[[Tensor], Any]


class Objective:
    """What a network says, held against labels and against what a teacher says.

    What outputs and labels mean is read from the first batch, see `reading_of`; the loss is the cross entropy of
    classes, two by one output among them, and the squared error of values. With a function of the user's nothing is
    read.

    Args:
        teacher: gives outputs for images.
        options: shares of labels and teacher, temperature, precision, the user's loss.
        form: what images look like.
        place: a tensor of the type and on the device on which images are wanted.
    """

    def __init__(self, teacher: Network, options: TrainingOptions, form: ImageForm, place: Tensor) -> None:
        self._teacher, self._options, self._form = teacher, options, form
        self._device, self._dtype = place.device, place.dtype
        self._labels = options.distillation < 1
        self._reading: Reading | None = None
        self._decided = False
        self._probabilities: dict[str, bool] = {}  # whether the network and the teacher give them; first outputs tell

    @property
    def has_accuracy(self) -> bool:
        """Whether images can be right or wrong, known behind the first batch; else the loss is what is judged."""
        return self._reading is not None and self._reading.has_classes

    def batches(self, data: Iterable[Any]) -> Iterable[tuple[Tensor, Any]]:
        """Images, in their place, and labels; `None` where they are not looked at."""
        return map(self._placed, gone_through(data))

    def _placed(self, batch: Any) -> tuple[Tensor, Any]:
        images, labels = images_and_labels(
            batch, self._form, labels=self._labels, any_labels=self._options.loss is not None
        )
        return images.to(self._device, self._dtype), tree_map(self._in_place, labels)

    def precision(self) -> torch.autocast:
        """Mixed precision, where it was asked for."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._options.precision == "bfloat16")

    def loss(self, network: Network, outputs: Any, labels: Any, images: Tensor) -> Tensor:
        """The loss of a network's outputs for images.

        Raises:
            DataError: they do not go with the labels, or with what the teacher says.
            OptionError: the user's loss cannot be computed, or the teacher.
        """
        if self._options.loss is not None:
            return self._own_loss(outputs, labels)
        reading = self._read(network, outputs, labels, images)
        share = self._options.distillation
        if not reading.has_classes:
            return self._squared(outputs.float(), labels, images, share)
        said = self._log_probabilities(outputs, network, images, "the network")
        loss = said.new_zeros(())
        if labels is not None and share < 1:
            loss = loss + (1 - share) * F.nll_loss(said, reading.wanted(labels, outputs))
        if share > 0:
            loss = loss + share * self._distance(said, images)
        return loss

    def right(self, outputs: Any, labels: Any) -> int | None:
        """How many images a network classifies right whose loss was taken; `None` where nothing is right or wrong."""
        if labels is None or self._reading is None or not self._reading.has_classes:
            return None
        return self._reading.right(outputs, labels)

    def decide(self, network: Network, first: Iterable[tuple[Tensor, Any]]) -> None:
        """Let all processes read outputs as the first one does.

        Args:
            network: gives outputs.
            first: the first process's first batch, in its place; nothing in other processes.
        """
        if share()[1] == 1 or self._decided or self._options.loss is not None:
            return
        self._decided = True  # everywhere at once, whatever was learned
        with sharing_errors(), torch.no_grad():
            for images, labels in first:
                if len(images):
                    self.loss(network, network(images), labels, images)
        self._reading, self._probabilities = of_first((self._reading, self._probabilities))

    def judge(self, network: Network, data: Iterable[Any], what: str) -> float:
        """How good a network is: the share of images that it classifies right, without labels as the teacher does.

        Where nothing is right or wrong it is the loss, below zero: more is better.

        Raises:
            DataError: there are no images, or they do not fit.
        """

        def look_at(batch: tuple[Tensor, Any]) -> tuple[float, int]:
            images, labels = batch
            if len(images) == 0:
                return 0.0, 0
            with accepted(images):
                outputs = network(images)
            return self._points(network, outputs, labels, images), len(images)

        points, count = 0.0, 0
        with torch.no_grad():
            own, first = first_and_all(map(self._placed, own_batches(data)))
            self.decide(network, first)
            for more, size in in_turn(own, look_at):
                points, count = points + more, count + size
        if count == 0:
            raise DataError(f"{what} had no batches; give data that can be gone through every epoch")
        return points / count

    def _points(self, network: Network, outputs: Any, labels: Any, images: Tensor) -> float:
        """What a batch adds: the number of images that are right, or the loss times their number."""
        if self._options.loss is not None:
            return -float(self._own_loss(outputs, labels)) * len(images)
        reading = self._read(network, outputs, labels, images)
        if not reading.has_classes:
            return -float(self._squared(outputs, labels, images, 0 if self._labels else 1)) * len(images)
        if labels is not None:
            return reading.right(outputs, labels)
        return int((reading.said(outputs) == self._taught(images).argmax(1)).sum())

    def _read(self, network: Network, outputs: object, labels: Tensor | None, images: Tensor) -> Reading:
        """How outputs are read, the same for all batches."""
        remedy = "of others tell fine-tuning what they mean by a function, loss=..."
        own = require_outputs(outputs, images, "the network", remedy)
        probabilities = partial(gives_probabilities, network, images)
        if labels is not None:
            self._reading = reading_of(own, labels, probabilities, self._reading)
        elif self._reading is None:
            self._reading = reading_without_labels(own, probabilities)
        return self._reading

    def _own_loss(self, outputs: Any, labels: Any) -> Tensor:
        """What the user's function says, which knows no mixed precision."""
        assert self._options.loss is not None
        name, wide = name_of(self._options.loss), tree_map(_wide, outputs)
        try:
            loss = self._options.loss(wide, labels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the user's may raise what it likes
            reason = next(iter(str(error).splitlines()), "")
            raise OptionError(f"loss {name} fails on outputs and labels ({type(error).__name__}: {reason})") from error
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            found = list(loss.shape) if isinstance(loss, Tensor) and loss.dim() else f"a {type(loss).__name__}"
            raise OptionError(f"loss {name} gives {found}; expected a tensor of one floating number, such as a mean")
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise OptionError(f"loss {name} does not depend on the outputs; compute it from them, in PyTorch")
        return loss

    def _squared(self, outputs: Tensor, labels: Tensor | None, images: Tensor, share: float) -> Tensor:
        """Squared error of values, and squared distance to those of the teacher."""
        assert self._reading is not None
        loss = outputs.new_zeros(())
        if labels is not None and share < 1:
            loss = loss + (1 - share) * F.mse_loss(outputs, self._reading.wanted(labels, outputs))
        if share > 0:
            with self.precision():
                taught = self._outputs_of_teacher(images)
            if taught.numel() != outputs.numel():
                raise _unlike(taught, outputs)
            loss = loss + share * F.mse_loss(outputs, taught.reshape(outputs.shape).to(outputs.dtype))
        return loss

    def _distance(self, said: Tensor, images: Tensor) -> Tensor:
        """Hinton et al. 2015: cross entropy of softened distributions, times the square of the temperature."""
        with self.precision():
            wanted = self._taught(images)
        if wanted.shape != said.shape:
            raise _unlike(wanted, said)
        temperature = self._options.temperature
        soft, wanted = (F.log_softmax(one / temperature, 1) for one in (said, wanted))
        return F.kl_div(soft, wanted, log_target=True, reduction="batchmean") * temperature**2

    def _taught(self, images: Tensor) -> Tensor:
        """Log-probabilities of the teacher, whether it gives probabilities, their logarithms or logits."""
        return self._log_probabilities(self._outputs_of_teacher(images), self._teacher, images, "the teacher")

    def _outputs_of_teacher(self, images: Tensor) -> Tensor:
        try:
            with torch.no_grad(), accepted(images, by="the teacher"):
                outputs = self._teacher(images)
        except TypeError as error:
            raise OptionError(f"the teacher fails on images alone (TypeError: {error})") from error
        return require_outputs(outputs, images, "the teacher", "give one that gives what the network gives")

    def _log_probabilities(self, outputs: Tensor, network: Network, images: Tensor, whose: str) -> Tensor:
        """Logarithms of the probabilities that are given, or that logits or log-probabilities stand for, [N, classes].

        One output becomes two classes: the logit of the first is 0, its probability what is left.
        """
        one = outputs.numel() == len(outputs)
        if whose not in self._probabilities:
            known = _are_probabilities(outputs.flatten(1)) if not one else gives_probabilities(network, images)
            self._probabilities[whose] = known
        outputs = outputs.float()
        if one:
            outputs = outputs.reshape(-1, 1)
            first = 1 - outputs if self._probabilities[whose] else torch.zeros_like(outputs)
            outputs = torch.cat([first, outputs], 1)
        outputs = outputs.flatten(1)
        return outputs.clamp_min(1e-12).log() if self._probabilities[whose] else F.log_softmax(outputs, 1)

    def _in_place(self, label: Any) -> Any:
        return label.to(self._device) if isinstance(label, Tensor) else label


def _unlike(taught: Tensor, said: Tensor) -> DataError:
    return DataError(f"the teacher gives outputs of shape {list(taught.shape)}, the network {list(said.shape)}")


def _wide(value: Any) -> Any:
    """A number of a network in at least float32."""
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.float().sum(1)
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < _SUMS_TO_ONE).all())
