"""What users have as data: batches of images, with labels or without, for statistics and for training."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_leaves, tree_map, tree_structure, tree_unflatten
from torch.utils.data import DataLoader, TensorDataset

from fxsnn.ambient import neutral
from fxsnn.errors import DataError, OptionError
from fxsnn.layers import RANKS, ImageForm, check_images, in_words, is_readable, require_images
from fxsnn.options import real_number, shown

_AT_ONCE = 256
_IMAGES, _LABELS = ("pixel_values", "image", "images", "img"), ("labels", "label")
"""Names in batches that are mappings."""
_INTEGERS = (
    torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64
)  # fmt: skip


def image_batches(data: Any, form: ImageForm, *, what: str = "calibration data") -> Iterator[Tensor]:
    """Batches of images from what users have: a tensor, or an iterable of batches or of (images, labels, ...).

    Args:
        data: images [N, C, H, W], [N, C, L] or [N, F], a pair of them and labels, or an iterable such as a
            `DataLoader`.
        form: what images of the network look like.
        what: what it is, for messages.

    Raises:
        DataError: there is no batch, or a batch holds no images for the network.
    """
    return (images for images, _ in _batches(data, form, what))


def labelled_batches(data: Any, form: ImageForm, *, what: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The same with labels, one or more numbers an image, `None` where there are none.

    Raises:
        DataError: as above; or what comes with the images is no labels for them.
    """
    for images, rest in _batches(data, form, what):
        labels = rest[0] if rest else None
        if labels is None:
            yield images, None
            continue
        yield images, require_labels(labels, len(images), also=", or images alone")


def require_labels(given: object, count: int, *, also: str = "") -> Tensor:
    """Labels as a tensor [N, ...], integers as int64; what they mean the outputs tell, see `reading_of`.

    Args:
        given: what the user gave: a tensor, an array, or numbers.
        count: of the images.
        also: what else is allowed, for the message.

    Raises:
        DataError: it is not one or more numbers for each image.
    """
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        labels = None
    if labels is not None and is_readable(labels) and labels.shape[:1] == (count,) and not labels.is_complex():
        return _plain(labels.long() if labels.dtype in _INTEGERS else labels)
    raise DataError(f"labels are {in_words(given)}; expected a tensor of integers {[count]}, or of floats{also}")


def _batches(data: Any, form: ImageForm, what: str) -> Iterator[tuple[Tensor, list[Any]]]:
    """Batches of images, and what comes with them."""
    batches: Iterable[Any]
    data = in_order(data)
    if isinstance(data, tuple) and data and may_be_images(data[0]) and not _are_alike(*data[:2]):
        require_images(data[0], form)
        beside = [one for one in data[1:] if one is not None]
        if other := [in_words(one) for one in beside if not _can_be_split(one)]:
            raise DataError(f"{what}: {other[0]} comes with the images; expected a tensor of labels, or images alone")
        batches = _split(data[0], *beside)
    elif isinstance(data, Tensor):
        require_images(data, form)
        batches = _split(data)
    elif _can_be_gone_through(data):
        batches = gone_through(data)
    else:
        raise DataError(
            f"{what} is a {type(data).__name__}; expected images {form}, or an iterable of batches such as a DataLoader"
            f"{_loader_of(data)}"
        )
    empty = True
    for batch in batches:
        images, *rest = batch if isinstance(batch, tuple | list) and batch else (batch,)
        check_images(images, form)
        if len(images):
            empty = False
            yield _plain(images), rest
    if empty:
        raise DataError(f"{what} is empty; give at least one batch of images")


def _plain(tensor: Tensor) -> Tensor:
    """Not of a subclass, which would find its way into the network's own tensors."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def _can_be_gone_through(data: object) -> bool:
    """An array of no dimension says so, too, and then fails."""
    return isinstance(data, Iterable) and getattr(data, "ndim", 1) != 0


def gone_through(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches of the user's, whatever state PyTorch is left in; a loader draws their order where its generator is."""
    own = getattr(batches, "generator", None)
    place = own.device if isinstance(own, torch.Generator) else torch.device("cpu")
    iterator, end = None, object()
    while True:
        with neutral(gradients=False), place:
            iterator = iter(batches) if iterator is None else iterator
            batch = next(iterator, end)
        if batch is end:
            return
        yield in_order(batch)


def _loader_of(data: object) -> str:
    """What to give instead of a data module of Lightning, for messages."""
    return "; give its train_dataloader()" if hasattr(data, "train_dataloader") else ""


def in_order(batch: Any) -> Any:
    """A batch, or data, whose parts have names, as those of Hugging Face have: (images, labels), or images alone.

    Others are given back as they are.

    Raises:
        DataError: there are no images among the names.
    """
    if not isinstance(batch, Mapping):
        return batch
    images, labels = (next((one for one in names if one in batch), None) for names in (_IMAGES, _LABELS))
    if images is None:
        raise DataError(
            f"a batch has the parts {', '.join(map(repr, batch)) or 'none'}; images are looked for under "
            f"{', '.join(map(repr, _IMAGES))}, labels under {', '.join(map(repr, _LABELS))}; or give (images, labels)"
        )
    return batch[images] if labels is None else (batch[images], batch[labels])


def _can_be_split(value: Any) -> bool:
    try:
        value[:0]
    except Exception:  # a mapping, a number, a tensor of another kind: each has an error of its own
        return False
    return True


def may_be_images(value: object) -> bool:
    """Whether it is a tensor of as many dimensions as images have, still ones or such with frames."""
    return isinstance(value, Tensor) and _some_form(value).takes(value.dim())


def _some_form(images: Tensor) -> ImageForm:
    """Of images of a network that is not known here: more dimensions than still ones have are those of frames."""
    return ImageForm(frames=0 if images.dim() > max(RANKS) else None)


def _are_alike(first: Tensor, second: object = None) -> bool:
    """Whether both are batches of images. Beside vectors [N, F] stand such of F numbers; others are labels."""
    if not isinstance(second, Tensor) or second.dim() != first.dim():
        return False
    return first.dim() > 2 or (is_readable(first) and is_readable(second) and first.shape[1:] == second.shape[1:])


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
        size: of an image that it is known to accept.

    Raises:
        DataError: instead of PyTorch's `RuntimeError` or `IndexError`, but where the shape is one that is accepted.
    """
    try:
        yield
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except (RuntimeError, IndexError) as error:
        if size is not None and tuple(images.shape[-len(size) :]) == tuple(size):
            raise  # it is not their shape
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        known = "" if size is None else f" (it was made with {list(size)})"
        raise DataError(f"{by} does not accept {what} of shape {list(images.shape)}{known}: {reason}") from error


_GENERATORS = threading.RLock()


@contextmanager
def reproducible(seed: int, data: Any = None) -> Iterator[None]:
    """What draws from PyTorch's generators, such as a shuffled loader, draws the same; they are left as they were.

    The generators are those of the whole process: another thread that seeds them here waits until they are put back.

    Args:
        seed: of all generators.
        data: what may have a generator of its own.
    """
    generators = generators_of(data)
    with _GENERATORS:
        states = [generator.get_state() for generator in generators]
        try:
            torch.manual_seed(seed)
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            _set_states(generators, states)


def drawn_alike(batches: Iterable[Any], data: Any) -> Iterator[Any]:
    """The same batches at every call: as within `reproducible(0)`, which ends here while a batch is looked at.

    Args:
        batches: made of the data.
        data: what may have a generator of its own.
    """
    generators = generators_of(data)
    iterator, states, end = iter(batches), list[Tensor](), object()
    while True:
        with reproducible(0, data):
            _set_states(generators, states)
            batch = next(iterator, end)
            states = [generator.get_state() for generator in generators]
        if batch is end:
            return
        yield batch


def generators_of(data: object) -> list[torch.Generator]:
    """PyTorch's generators, and those of a loader."""
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    own = [getattr(one, "generator", None) for one in (data, getattr(data, "sampler", None))]
    found = [one for one in (torch.default_generator, *cuda, *own) if isinstance(one, torch.Generator)]
    return list({id(one): one for one in found}.values())


def _set_states(generators: list[torch.Generator], states: list[Tensor]) -> None:
    """At the start there are no states yet."""
    for generator, state in zip(generators, states, strict=False):
        generator.set_state(state)


# Training ------------------------------------------------------------------------------------------------------------


def batches_of(
    data: Any, batch_size: int = 128, *, labels: bool = True, shuffle: bool = True, what: str = "fine-tuning data"
) -> Iterable[Any]:
    """What users have as something that can be gone through once per epoch.

    Args:
        data: an iterable of batches, or tensors: a pair of images and labels, or images alone. Labels may be several
            tensors in tuples, lists and dicts; batches then have the same.
        batch_size: for tensors.
        labels: batches must have labels.
        shuffle: for tensors.
        what: what it is, for messages.

    Raises:
        DataError: it is neither, or it is empty.
    """
    data = in_order(data)
    tensors = _tensors(data, labels=labels, what=what)
    if tensors is not None:
        if len(tensors[0]) == 0:
            raise DataError(f"{what} is empty")
        plain = isinstance(data, Tensor) or isinstance(data[1], Tensor)
        together = None if plain else partial(_together, tree_structure(data))
        data = DataLoader(TensorDataset(*tensors), batch_size, shuffle=shuffle, collate_fn=together)
    if not _can_be_gone_through(data) or isinstance(data, Tensor):
        raise DataError(
            f"{what} is a {type(data).__name__}; expected a pair (images, labels) or an iterable of such "
            f"batches, such as a DataLoader{_loader_of(data)}"
        )
    if length_of(data) == 0:
        raise DataError(f"{what} is empty")
    return data


def _together(structure: TreeSpec, rows: list[tuple[Tensor, ...]]) -> Any:
    """A batch of rows, images and labels as the user gave them."""
    return tree_unflatten([torch.stack(column) for column in zip(*rows, strict=True)], structure)


def _tensors(data: Any, *, labels: bool, what: str) -> tuple[Tensor, ...] | None:
    """Images, or images and labels, if that is what `data` are."""
    if isinstance(data, Tensor) and not labels:
        require_images(data, _some_form(data))
        return (data,)
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    if pair and (labels or not _are_alike(*data)):  # two batches of images are no pair
        require_images(data[0], _some_form(data[0]))
        if not is_readable(data[1]) or not data[1].dim():
            raise DataError(f"{what}: labels are {in_words(data[1])}; expected a tensor of integers [N]")
        if len(data[0]) != len(data[1]):
            raise DataError(f"{what}: there are {len(data[0])} images and {len(data[1])} labels")
        return data
    if labels and isinstance(data, tuple) and len(data) == 2 and may_be_images(data[0]) and not _are_alike(*data):
        require_images(data[0], _some_form(data[0]))
        leaves = tree_leaves(data[1])
        if not leaves or not all(isinstance(one, Tensor) and is_readable(one) and one.dim() for one in leaves):
            return None
        if other := [len(one) for one in leaves if len(one) != len(data[0])]:
            raise DataError(f"{what}: there are {len(data[0])} images and {other[0]} labels")
        return data[0], *leaves
    return None


def length_of(data: Iterable[Any]) -> int | None:
    """How many batches there are, if it is known beforehand."""
    try:
        return len(data)  # type: ignore[arg-type]  # a DataLoader always has the method, and raises where it has no length
    except TypeError:
        return None


def require_share(share: object) -> float:
    """A share of the data to hold out, as a float.

    Raises:
        OptionError: it is not between 0 and 1.
    """
    found = real_number(share)
    if found is None or not 0 < found < 1:
        raise OptionError(f"validation is {shown(share)}; allowed are shares between 0 and 1, data, or None")
    return found


def chosen_apart(size: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The indices that stay, and those of a share that is held out at random; both in order, neither empty.

    Args:
        size: how many there are, at least two.
        share: see `require_share`.
        seed: of the choice.
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    count = min(max(1, round(share * size)), size - 1)
    return order[count:].sort()[0], order[:count].sort()[0]


def held_out(data: Any, share: object, seed: int, *, labels: bool = True) -> tuple[Any, Any]:
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
    share, data = require_share(share), in_order(data)
    tensors = _tensors(data, labels=labels, what="fine-tuning data")
    if tensors is None:
        raise OptionError(
            f"validation is {share!r}, but data that come in batches cannot be split: give the validation data"
        )
    if len(tensors[0]) < 2:
        raise DataError(f"fine-tuning data are {len(tensors[0])} images; validation needs one of at least two")
    kept, out = (tree_map(itemgetter(chosen), data) for chosen in chosen_apart(len(tensors[0]), share, seed))
    return kept, out


def images_and_labels(batch: Any, form: ImageForm, *, labels: bool, any_labels: bool = False) -> tuple[Tensor, Any]:
    """Images and labels of a batch for training.

    Args:
        batch: images, or images, labels and whatever else.
        form: what images of the network look like.
        labels: they are wanted; `None` otherwise.
        any_labels: whatever comes with the images is their label, several things in a tuple; nobody looks at it here.

    Raises:
        DataError: they are no images for the network, or no labels for them.
    """
    if not labels:
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        check_images(images, form)
        return _trainable(images), None
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise DataError("a batch for fine-tuning must be (images, labels); labels are integers [N], or values")
    images, given, *more = batch
    check_images(images, form)
    if any_labels:
        return _trainable(images), tree_map(_trainable, (given, *more) if more else given)
    return _trainable(images), _trainable(require_labels(given, len(images)))


def _trainable(value: Any) -> Any:
    """What autograd may keep: a plain tensor, and a copy of one that was made in inference mode; others as they are."""
    if not isinstance(value, Tensor):
        return value
    plain = _plain(value)
    return plain.clone() if plain.is_inference() else plain
