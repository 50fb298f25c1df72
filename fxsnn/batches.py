"""What users have as data: batches of images, with labels or without, for statistics and for training."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fxsnn.errors import DataError, OptionError
from fxsnn.layers import check_images

_AT_ONCE = 256


def image_batches(data: Any, channels: int | None, *, what: str = "calibration data") -> Iterator[Tensor]:
    """Batches of images from what users have: a tensor, or an iterable of batches or of (images, labels, ...).

    Args:
        data: images [N, C, H, W], a pair of images and labels, or an iterable such as a `DataLoader`.
        channels: what the network reads.
        what: what it is, for messages.

    Raises:
        DataError: there is no batch, or a batch holds no images for the network.
    """
    return (images for images, _ in _batches(data, channels, what))


def labelled_batches(data: Any, channels: int | None, *, what: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The same with labels: integers [N], `None` where there are none.

    Raises:
        DataError: as above; or what comes with the images is no labels for them.
    """
    for images, rest in _batches(data, channels, what):
        labels = rest[0] if rest else None
        if labels is None:
            yield images, None
            continue
        if not _are_labels(labels, images):
            found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise DataError(f"labels are {found}; expected a tensor of integers {[len(images)]}, or images alone")
        yield images, labels.long()


def _are_labels(given: object, images: Tensor) -> bool:
    """Whether these are integers, one for each image."""
    if not isinstance(given, Tensor) or given.shape != images.shape[:1]:
        return False
    return not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)


def _batches(data: Any, channels: int | None, what: str) -> Iterator[tuple[Tensor, list[Any]]]:
    """Batches of images, and what comes with them."""
    batches: Iterable[Any]
    if isinstance(data, tuple) and [_is_images(one) for one in data[:2]] in ([True], [True, False]):
        beside = [one for one in data[1:] if one is not None]
        if other := [type(one).__name__ for one in beside if not hasattr(one, "__getitem__")]:
            raise DataError(f"{what}: a {other[0]} comes with the images; expected a tensor of labels, or images alone")
        batches = _split(data[0], *beside)
    elif isinstance(data, Tensor):
        batches = _split(data)
    elif isinstance(data, Iterable):
        batches = data
    else:
        raise DataError(
            f"{what} is a {type(data).__name__}; expected images [N, C, H, W], or an iterable of batches "
            "such as a DataLoader"
        )
    empty = True
    for batch in batches:
        images, *rest = batch if isinstance(batch, tuple | list) and batch else (batch,)
        check_images(images, channels)
        if len(images):
            empty = False
            yield images, rest
    if empty:
        raise DataError(f"{what} is empty; give at least one batch of images")


def _is_images(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4


def _split(images: Tensor, *rest: Any) -> Iterator[tuple[Any, ...]]:
    """Tensors in batches."""
    for start in range(0, len(images), _AT_ONCE):
        yield images[start : start + _AT_ONCE], *(one[start : start + _AT_ONCE] for one in rest)


@contextmanager
def accepted(
    images: Tensor, by: str = "the network", *, what: str = "images", size: tuple[int, ...] | None = None
) -> Iterator[None]:
    """Around running a network on images: what PyTorch cannot compute on their shape is the images' fault.

    Args:
        images: what it is run on.
        by: what is run, for the message.
        what: what they are, for the message.
        size: channels, height and width that it is known to accept.

    Raises:
        DataError: instead of PyTorch's `RuntimeError`, but where the shape is one that is accepted.
    """
    try:
        yield
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except RuntimeError as error:
        if size is not None and tuple(images.shape[1:]) == tuple(size):
            raise  # it is not their shape
        reason = str(error).partition("\n")[0]
        known = "" if size is None else f" (it was made with {list(size)})"
        raise DataError(f"{by} does not accept {what} of shape {list(images.shape)}{known}: {reason}") from error


_GENERATORS = threading.RLock()


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """What draws from PyTorch's generators, such as a shuffled loader, draws the same; they are left as they were.

    The generators are those of the whole process: another thread that seeds them here waits until they are put back.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # all those that a seed reaches
    with _GENERATORS, torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


# Training ------------------------------------------------------------------------------------------------------------


def batches_of(
    data: Any, batch_size: int = 128, *, labels: bool = True, shuffle: bool = True, what: str = "fine-tuning data"
) -> Iterable[Any]:
    """What users have as something that can be gone through once per epoch.

    Args:
        data: an iterable of batches, or tensors: a pair of images and labels, or images alone.
        batch_size: for tensors.
        labels: batches must have labels.
        shuffle: for tensors.
        what: what it is, for messages.

    Raises:
        DataError: it is neither, or it is empty.
    """
    tensors = _tensors(data, labels=labels, what=what)
    if tensors is not None:
        if len(tensors[0]) == 0:
            raise DataError(f"{what} is empty")
        data = DataLoader(TensorDataset(*tensors), batch_size, shuffle=shuffle)
    if not isinstance(data, Iterable) or isinstance(data, Tensor):
        raise DataError(
            f"{what} is a {type(data).__name__}; expected a pair (images, labels) or an iterable of such "
            "batches, such as a DataLoader"
        )
    if length_of(data) == 0:
        raise DataError(f"{what} is empty")
    return data


def _tensors(data: Any, *, labels: bool, what: str) -> tuple[Tensor, ...] | None:
    """Images, or images and labels, if that is what `data` are."""
    if isinstance(data, Tensor) and not labels:
        return (data,)
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    if pair and (labels or not _is_images(data[1])):  # two batches of images are no pair
        if len(data[0]) != len(data[1]):
            raise DataError(f"{what}: there are {len(data[0])} images and {len(data[1])} labels")
        return data
    return None


def length_of(data: Iterable[Any]) -> int | None:
    """How many batches there are, if it is known beforehand."""
    try:
        return len(data)  # type: ignore[arg-type]  # a DataLoader always has the method, and raises where it has no length
    except TypeError:
        return None


def require_share(share: float) -> None:
    """Refuse what is no share of the data to hold out.

    Raises:
        OptionError: it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise OptionError(f"validation is {share!r}; allowed are shares between 0 and 1, data, or None")


def held_out(data: Any, share: float, seed: int, *, labels: bool = True) -> tuple[Any, Any]:
    """Split tensors into training and validation data, at random.

    Args:
        data: a pair of images and labels, or images alone.
        share: of the images that are held out, between 0 and 1.
        seed: of the choice.
        labels: there must be labels.

    Raises:
        OptionError: the share is not between 0 and 1, or data that come in batches would have to be split.
        DataError: there are not as many images as labels, or fewer than two.
    """
    require_share(share)
    tensors = _tensors(data, labels=labels, what="fine-tuning data")
    if tensors is None:
        raise OptionError(
            f"validation is {share!r}, but data that come in batches cannot be split: give the validation data"
        )
    if len(tensors[0]) < 2:
        raise DataError(f"fine-tuning data are {len(tensors[0])} images; validation needs one of at least two")
    order = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(seed))
    count = min(max(1, round(share * len(order))), len(order) - 1)
    parts = [tuple(part[chosen] for part in tensors) for chosen in (order[count:].sort()[0], order[:count].sort()[0])]
    kept, out = parts if isinstance(data, tuple) else [part[0] for part in parts]
    return kept, out


def images_and_labels(batch: Any, channels: int | None, *, labels: bool) -> tuple[Tensor, Tensor | None]:
    """Images and labels of a batch for training.

    Args:
        batch: images, or images, labels and whatever else.
        channels: what the network reads.
        labels: they are wanted; `None` otherwise.

    Raises:
        DataError: they are no images for the network, or no labels for them.
    """
    if not labels:
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        check_images(images, channels)
        return _trainable(images), None
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[1], Tensor):
        raise DataError("a batch for fine-tuning must be (images, labels); labels are an integer tensor [N]")
    images, given = batch[:2]
    check_images(images, channels)
    if not _are_labels(given, images):
        raise DataError(
            f"labels are {given.dtype} of shape {list(given.shape)}; expected integers of shape {[len(images)]}"
        )
    return _trainable(images), _trainable(given.long())


def _trainable(tensor: Tensor) -> Tensor:
    """What autograd may keep: a copy of a tensor that was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that are no classes of the network.

    Raises:
        DataError: they are not.
    """
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())}; the network has {classes} "
            f"classes, 0 to {classes - 1}"
        )
