"""What the outputs of a network and the labels of its images mean together; every room that reads them asks here.

| outputs | labels | meaning |
|---|---|---|
| [N, C], C from 2; [N, C, 1, 1] too | integers [N] or [N, 1] | classes: the largest output decides |
| [N] or [N, 1] | 0 and 1 of any type, [N] or [N, 1] | two classes: the sign decides, of probabilities 0.5 |
| [N] or [N, 1] | other floats, [N] or [N, 1] | values |
| of any other shape | floats of the same shape | values |

All else is refused, and so are several outputs. Values have no accuracy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fxsnn.errors import AccuracyWarning, DataError, warn
from fxsnn.layers import in_words, is_readable

_TRIED = 8
"""So many images are tried at `_FAR` times their contrast."""
_FAR = 1_000.0
_GIVE_A_LOSS = "tell fine-tuning what they mean by a function, loss=..."


class Meaning(Enum):
    """What outputs and labels can mean together."""

    CLASSES = "classes"
    BINARY = "two classes by one output"
    VALUES = "values"


@dataclass(frozen=True)
class Reading:
    """How the outputs of one network are read.

    Attributes:
        meaning: of outputs and labels.
        probabilities: one output is the probability of class 1, not its logit.
    """

    meaning: Meaning
    probabilities: bool = False

    @property
    def has_classes(self) -> bool:
        """Whether images can be classified right or wrong."""
        return self.meaning is not Meaning.VALUES

    def said(self, outputs: Tensor) -> Tensor:
        """The class that outputs [N, ...] say, int64 [N]."""
        if self.meaning is Meaning.CLASSES:
            return outputs.flatten(1).argmax(1)
        return (outputs.reshape(len(outputs)) > (0.5 if self.probabilities else 0.0)).long()

    def wanted(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """Labels as outputs are held against them, where these are: classes int64 [N], or values like the outputs."""
        if self.has_classes:
            return labels.reshape(len(outputs)).to(outputs.device, torch.int64)
        return labels.reshape(outputs.shape).to(outputs)

    def right(self, outputs: Tensor, labels: Tensor) -> int:
        """How many images are classified right."""
        return int((self.said(outputs) == self.wanted(labels, outputs)).sum())

    def right_after_each_step(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The same of outputs [T, N, ...], int64 [T]."""
        said = self.said(outputs.flatten(0, 1)).unflatten(0, (len(outputs), -1))
        return (said == self.wanted(labels, outputs[0])).sum(1).cpu()


def reading_of(outputs: Tensor, labels: Tensor, probabilities: Callable[[], bool], known: Reading | None) -> Reading:
    """How outputs are read with these labels.

    Args:
        outputs: [N, ...], see `require_outputs`.
        labels: of the same images, see `require_labels`.
        probabilities: tells whether one output is a probability; asked at most once, see `gives_probabilities`.
        known: how those of an earlier batch were read; `None`: this is the first one.

    Raises:
        DataError: they mean nothing together, or something else than in an earlier batch.
    """
    values = known is not None and known.meaning is Meaning.VALUES
    meaning = _meaning(outputs, labels, values=values)
    if known is None:
        return Reading(meaning, meaning is Meaning.BINARY and probabilities())
    if known.meaning is not meaning:
        raise DataError(
            f"labels are {in_words(labels)}, {_range(labels)}, which with these outputs are {meaning.value}; those of "
            f"an earlier batch were {known.meaning.value}: give labels of one kind"
        )
    return known


def reading_without_labels(outputs: Tensor, probabilities: Callable[[], bool]) -> Reading:
    """How outputs are read where there are no labels: one output that is no probability may be a value."""
    if outputs.numel() > len(outputs):
        return Reading(Meaning.CLASSES if _is_row(outputs) else Meaning.VALUES)
    return Reading(Meaning.BINARY, True) if probabilities() else Reading(Meaning.VALUES)


def require_outputs(outputs: object, images: Tensor, whose: str, remedy: str) -> Tensor:
    """Refuse what are no numbers for each image, in one tensor.

    Args:
        outputs: what a network gave.
        images: for these.
        whose: which network, for the message.
        remedy: what to do about it.

    Raises:
        DataError: they are none.
    """
    if isinstance(outputs, Tensor) and is_readable(outputs):
        shape = list(outputs.shape)
        numbers = not outputs.is_complex() and (outputs.is_floating_point() or len(shape) > 1)
        if numbers and shape[:1] == [len(images)] and 0 not in shape:
            return outputs
    count = len(images)
    raise DataError(
        f"{whose} gives {in_words(outputs)}; expected a tensor {[count, 'classes']} or {[count, 1]}: {remedy}"
    )


def require_accuracy(reading: Reading, labels: Tensor, remedy: str) -> Reading:
    """Refuse values, which are not right or wrong.

    Args:
        reading: of a network's outputs with these labels.
        labels: for the message.
        remedy: what to measure instead.

    Raises:
        DataError: it is of values.
    """
    if reading.has_classes:
        return reading
    raise DataError(
        f"labels are {in_words(labels)}, {_range(labels)}: with these outputs they are values, not classes, which have "
        f"no accuracy. {remedy}"
    )


def gives_probabilities(network: Callable[[Tensor], Any], images: Tensor) -> bool:
    """Whether what a network gives are probabilities; it is run again to see.

    They are if the last thing that it computes is a sigmoid, or if all lie between 0 and 1 whatever it is given: logits
    grow with the images, and have both signs. What has one sign only and is no probability is warned of.
    """
    with torch.no_grad(), _Sigmoids() as seen:
        outputs = network(images)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return False
    if seen.holds(outputs):
        return True
    far = _far_from(network, images)
    low, high = _range_of_all([outputs, *far]) if far else (0.0, 0.0)
    if 0 <= low < high <= 1:
        return True
    if low < high and (low >= 0 or high <= 0):
        warn(
            f"the network's one output goes from {low:.4g} to {high:.4g}, whatever images it is given, and its sign is "
            "to decide between two classes: let it give logits, or probabilities from 0 to 1",
            AccuracyWarning,
        )
    return False


def _far_from(network: Callable[[Tensor], Any], images: Tensor) -> list[Tensor]:
    """What a network gives for images of too much contrast, and for noise; nothing, if it does not take such."""
    some = images[:_TRIED]
    if not some.is_floating_point():
        return []
    noise = torch.randn(some.shape, generator=torch.Generator().manual_seed(0)).to(some)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images out of range
        try:
            return [network(_FAR * one) for one in (some, -some, noise)]
        except Exception:  # a user's forward may check what it is given, in any way
            return []


def _range_of_all(outputs: list[Tensor]) -> tuple[float, float]:
    """The lowest and the highest of all numbers that are such."""
    numbers = torch.cat([one.detach().double().flatten() for one in outputs])
    numbers = numbers[~numbers.isnan()]
    return (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 0.0)


class _Sigmoids(TorchDispatchMode):
    """Sees what sigmoids give, and what only copies of it have."""

    _MADE = frozenset({"sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_"})
    _COPIED = frozenset({"_to_copy", "clone", "cat", "stack", "copy_", "_unsafe_view"})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's
        self._seen: list[Tensor] = []  # kept, so that no other tensor takes their place in memory

    def holds(self, tensor: Tensor) -> bool:
        """Whether its numbers lie in one of them."""
        place = tensor.untyped_storage().data_ptr()
        return any(one.untyped_storage().data_ptr() == place for one in self._seen)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in self._MADE or (name in self._COPIED and self._all_seen(args)):
            self._seen.append(result)
        return result

    def _all_seen(self, args: tuple[Any, ...]) -> bool:
        given = args[0] if isinstance(args[0], list | tuple) else args[-1:] if len(args) > 1 else args[:1]
        return all(isinstance(one, Tensor) and self.holds(one) for one in given)


def _meaning(outputs: Tensor, labels: Tensor, *, values: bool) -> Meaning:
    """What they mean together; `values`: those of earlier batches did."""
    count, alike = len(outputs), labels.shape == outputs.shape
    one_each = labels.shape in ((count,), (count, 1))
    floats = labels.is_floating_point()
    if outputs.numel() == count:
        if floats and values and (one_each or alike):
            return Meaning.VALUES
        if one_each or alike:
            return _of_one_output(labels)
    elif alike and floats:
        if values or not _may_be_shares(labels):
            return Meaning.VALUES
        raise DataError(
            f"labels are {in_words(labels)}, from 0 to 1, like the outputs: they may be yes or no for each class, or "
            f"shares of classes; of one class an image give the integer, labels.argmax(1), else {_GIVE_A_LOSS}"
        )
    elif one_each and not floats and labels.dtype != torch.bool and _is_row(outputs):
        _check_classes(labels, outputs[0].numel())
        return Meaning.CLASSES
    elif one_each and not floats and not _is_row(outputs):
        raise DataError(
            f"outputs are {in_words(outputs)}, labels {in_words(labels)}: they say something about many places; "
            f"{_GIVE_A_LOSS}"
        )
    expected = f"a tensor of integers {[count]} for classes" if outputs.numel() > count else f"0 and 1 {[count]}"
    raise DataError(
        f"labels are {in_words(labels)}; expected {expected}, or floats {list(outputs.shape)} for values: the network "
        f"gives {in_words(outputs)}{_nearest(labels, one_each=one_each, alike=alike)}"
    )


def _nearest(labels: Tensor, *, one_each: bool, alike: bool) -> str:
    """What labels that are not taken may be meant to be, and how to give that; "" where that cannot be told."""
    if one_each and bool((labels == labels.round() if labels.is_floating_point() else labels >= 0).all()):
        return ". Give labels.long() if they are classes"
    if alike and not labels.is_floating_point():
        one_hot = bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())
        return (
            ". Give labels.argmax(1), the class of each image"
            if one_hot
            else f". Of several classes an image, {_GIVE_A_LOSS}"
        )
    return ""


def _of_one_output(labels: Tensor) -> Meaning:
    """What labels of one number an image mean where the output is one, too."""
    if bool(((labels == 0) | (labels == 1)).all()):
        return Meaning.BINARY
    signs = bool((labels.abs() == 1).all())
    if labels.is_floating_point() and not signs:
        return Meaning.VALUES
    remedy = "give (labels > 0) instead of -1 and 1" if signs else "give labels.float() if they are values"
    raise DataError(
        f"labels are {in_words(labels)}, {_range(labels)}, and the network has one output: labels of two classes are 0 "
        f"and 1; {remedy}"
    )


def _is_row(outputs: Tensor) -> bool:
    """Whether they lie in one dimension an image; the others are 1."""
    return max(outputs.shape[1:]) == outputs[0].numel()


def _may_be_shares(labels: Tensor) -> bool:
    """Zeros and ones only, or shares that add up to 1: of one class, of several, or smoothed."""
    marks = bool(((labels == 0) | (labels == 1)).all())
    return marks or (bool((labels >= 0).all()) and bool(((labels.float().sum(1) - 1).abs() < 1e-3).all()))


def _range(labels: Tensor) -> str:
    low, high = (f"{float(end):.4g}" for end in labels.double().aminmax())
    return f"from {low} to {high}"


def _check_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels that are no classes of the network."""
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())}; the network has {classes} "
            f"classes, 0 to {classes - 1}"
        )
