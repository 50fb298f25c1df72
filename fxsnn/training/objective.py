"""What is to become small, and what to become large: the loss, and the share of images that is classified right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.data import accepted, check_labels, gone_through, images_and_labels
from fxsnn.errors import DataError, OptionError
from fxsnn.training.options import TrainingOptions

_SUMS_TO_ONE = 1e-2
"""Probabilities of bfloat16, which a teacher gives in mixed precision, add up to 1 within half of that."""


class Objective:
    """What a network says, held against labels and against what a teacher says.

    Args:
        teacher: gives outputs for images.
        options: shares of labels and teacher, temperature, precision.
        channels: of the images.
        place: a tensor of the type and on the device on which images are wanted.
    """

    def __init__(
        self, teacher: Callable[[Tensor], Tensor], options: TrainingOptions, channels: int | None, place: Tensor
    ) -> None:
        self._teacher, self._options, self._channels = teacher, options, channels
        self._device, self._dtype = place.device, place.dtype
        self._labels = options.distillation < 1
        self._probabilities: dict[str, bool] = {}  # whether the network and the teacher give them; first outputs tell

    def batches(self, data: Iterable[Any]) -> Iterable[tuple[Tensor, Tensor | None]]:
        """Images, in their place, and labels; `None` where they are not looked at."""
        for batch in gone_through(data):
            images, labels = images_and_labels(batch, self._channels, labels=self._labels)
            yield images.to(self._device, self._dtype), None if labels is None else labels.to(self._device)

    def precision(self) -> torch.autocast:
        """Mixed precision, where it was asked for."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._options.precision == "bfloat16")

    def loss(self, outputs: object, labels: Tensor | None, images: Tensor) -> Tensor:
        """The loss of a network's outputs for images.

        Raises:
            DataError: they do not go with the labels, or with what the teacher says.
        """
        outputs = _classes(outputs, labels)
        said, share = self._log_probabilities(outputs, "the network"), self._options.distillation
        loss = said.new_zeros(())
        if labels is not None and share < 1:
            loss = loss + (1 - share) * F.nll_loss(said, labels)
        if share > 0:
            loss = loss + share * self._distance(said, images)
        return loss

    def accuracy(self, network: nn.Module, data: Iterable[Any], what: str) -> float:
        """Share of the images that a network classifies right; without labels, as the teacher does.

        Raises:
            DataError: there are none, or they do not fit.
        """
        hits = count = 0
        with torch.no_grad():
            for images, labels in self.batches(data):
                if len(images) == 0:
                    continue
                with accepted(images):
                    outputs = network(images)
                outputs = _classes(outputs, labels)
                wanted = self._taught(images).argmax(1) if labels is None else labels
                hits += int((outputs.argmax(1) == wanted).sum())
                count += len(images)
        if count == 0:
            raise DataError(f"{what} had no batches; give data that can be gone through every epoch")
        return hits / count

    def _distance(self, said: Tensor, images: Tensor) -> Tensor:
        """Hinton et al. 2015: cross entropy of softened distributions, times the square of the temperature."""
        with self.precision():
            wanted = self._taught(images)
        if wanted.shape != said.shape:
            raise DataError(f"the teacher gives outputs of shape {list(wanted.shape)}, the network {list(said.shape)}")
        temperature = self._options.temperature
        soft, wanted = (F.log_softmax(one / temperature, 1) for one in (said, wanted))
        return F.kl_div(soft, wanted, log_target=True, reduction="batchmean") * temperature**2

    def _taught(self, images: Tensor) -> Tensor:
        """Log-probabilities of the teacher, whether it gives probabilities, their logarithms or logits."""
        try:
            with torch.no_grad(), accepted(images, by="the teacher"):
                outputs = self._teacher(images)
        except TypeError as error:
            raise OptionError(f"the teacher fails on images alone (TypeError: {error})") from error
        return self._log_probabilities(_classes(outputs, None, "the teacher"), "the teacher")

    def _log_probabilities(self, outputs: Tensor, whose: str) -> Tensor:
        """Logarithms of the probabilities that are given, or that logits or log-probabilities stand for."""
        if whose not in self._probabilities:
            self._probabilities[whose] = _are_probabilities(outputs)
        outputs = outputs.float()
        return outputs.clamp_min(1e-12).log() if self._probabilities[whose] else F.log_softmax(outputs, 1)


def _classes(outputs: object, labels: Tensor | None, whose: str = "the network") -> Tensor:
    """Outputs that say something about classes, those of the labels among them; others are refused."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise DataError(f"{whose} gives {found}; fine-tuning needs a tensor [N, classes]")
    if labels is not None:
        check_labels(labels, outputs.shape[1])
    return outputs


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.float().sum(1)
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < _SUMS_TO_ONE).all())
