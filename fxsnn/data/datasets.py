"""Data sets by name, and a registry for the user's own.

A data set is a function from a folder to its two halves. Registering one takes a decorator:

    from fxsnn import datasets

    @datasets.register("letters")
    def letters(data_dir):
        return datasets.Splits(train=my_training_set, test=my_test_set)

`digit_net` gives a trained network for the data set that ships with fxsnn, `moving_digits` events of its digits.

The name of a file that ends in .npz stands for the arrays in it: `train_images`, `train_labels`, `test_images` and
`test_labels`, or `images` and `labels`, which are then both halves.

Both halves are map-style data sets of `(image, label)`: a float tensor [channels, height, width], [channels, length]
or [features], normalised as the network expects it, and an integer class. Networks that do not classify have labels of
other kinds, numbers too.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from fxsnn.data.digits import DigitNet
from fxsnn.data.moving_digits import events_of
from fxsnn.errors import DataError, OptionError, UnknownName, importing
from fxsnn.layers import ImageForm
from fxsnn.options import is_one_of
from fxsnn.storage import as_path
from fxsnn.weights import load_weights

EMBEDDED = "digits"
"""The data set that ships inside the package: 2,000 training and 1,000 test digits of MNIST."""

MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
FASHION_MEAN, FASHION_STD = (0.2860,), (0.3530,)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalisation(NamedTuple):
    """What is taken from pixels in 0..1, and what the difference is divided by; one number a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = (", ".join(f"{one:g}" for one in numbers) for numbers in self)
        return f"mean {mean}, deviation {std}"


NORMALISATIONS = {
    EMBEDDED: Normalisation(MNIST_MEAN, MNIST_STD),
    "MNIST": Normalisation(MNIST_MEAN, MNIST_STD),
    "FashionMNIST": Normalisation(FASHION_MEAN, FASHION_STD),
    "CIFAR10": Normalisation(CIFAR10_MEAN, CIFAR10_STD),
}
"""How the data sets that come with fxsnn are normalised where nothing else is said."""


class Splits(NamedTuple):
    """The two halves of a data set."""

    train: Dataset[Any]
    test: Dataset[Any]


DatasetFunction = Callable[[Path], Splits]

_registered: dict[str, DatasetFunction] = {}


def register(name: str) -> Callable[[DatasetFunction], DatasetFunction]:
    """Make a data set known by `name`.

    Raises:
        OptionError: the name is no text, or taken; the message says by which function.
    """
    if not isinstance(name, str):
        raise OptionError(f"the name of a data set is {name!r}; expected a text")

    def decorate(function: DatasetFunction) -> DatasetFunction:
        if not callable(function):
            raise OptionError(f"data set {name!r} is a {type(function).__name__}; expected a function of a folder")
        if name in _registered:
            owner = _registered[name]
            raise OptionError(f"data set {name!r} is already registered by {owner.__module__}.{owner.__qualname__}")
        _registered[name] = function
        return function

    return decorate


def names() -> tuple[str, ...]:
    """The names of all registered data sets, in the order of their registration."""
    return tuple(_registered)


def load(
    name: str,
    data_dir: str | Path = "data",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Splits:
    """The training and the test half of the data set `name`.

    Args:
        name: one of `names()`, or the path of an .npz file.
        data_dir: the folder that holds the files; the embedded data set needs none.
        mean: taken from pixels in 0..1, one number a channel; `None`: see `NORMALISATIONS`, whose data sets alone take
            another one.
        std: what the difference is divided by.

    Raises:
        UnknownName: there is no such data set; the message lists those that exist.
        OptionError: the data set takes no `mean` and `std`, or not these.
        DataError: its files are not in `data_dir`, or the .npz file does not hold images and labels.
    """
    normalisation = normalisation_of(name, mean, std)
    if isinstance(name, str | os.PathLike) and str(name).endswith(".npz"):
        return _from_arrays(as_path(name, "name"))
    folder = as_path(data_dir, "data_dir")
    if not is_one_of(name, _registered):
        known = ", ".join(names())
        raise UnknownName(f"unknown data set {name!r}; known: {known}. Register your own with @fxsnn.datasets.register")
    try:
        if normalisation in (None, NORMALISATIONS.get(name)):
            return _registered[name](folder)
        assert normalisation is not None
        return _read(name, folder, normalisation)
    except (RuntimeError, FileNotFoundError) as error:  # torchvision raises RuntimeError for missing files
        raise DataError(
            f"data set {name!r} could not be read from {str(data_dir)!r}: {error}. fxsnn downloads nothing: "
            "put it there in torchvision's layout, or name its folder (data_dir=, --data-dir)"
        ) from error


def moving_digits(steps: int = 16, seed: int = 0) -> Splits:
    """Events of the embedded digits, which move in front of a camera: images that change over time, [steps, 2, 28, 28].

    See `fxsnn.data.moving_digits.events_of`. Networks of them are converted with `input="frames"`.

    Args:
        steps: frames of each, 3 at least.
        seed: of the directions in which they move.

    Raises:
        OptionError: that is no number of steps.
    """
    halves = []
    for number, half in enumerate(load(EMBEDDED, mean=(0.0,), std=(1.0,))):
        assert isinstance(half, TensorDataset)
        images, labels = half.tensors
        halves.append(TensorDataset(events_of(images, steps, 2 * seed + number), labels))
    return Splits(*halves)


def digit_net() -> nn.Module:
    """The trained network that ships with fxsnn, in evaluation mode, a new one at each call.

    It gives logits [N, 10] for grey images [N, 1, 28, 28], normalised as those of `load("digits")` are; 99.5 % on the
    test set of MNIST. Two convolutions and a hidden fully connected layer, legal on Hardware v1.0 at 1 to 4 bits.
    """
    network = DigitNet()
    with resources.as_file(resources.files("fxsnn") / "embedded" / "digit_net.pt") as path:
        load_weights(network, path)
    return network.eval()


def normalisation_of(
    name: object, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Normalisation | None:
    """How the images of a data set are normalised, with another mean or deviation if given.

    `None`: the data set itself sees to it.

    Raises:
        OptionError: it sees to it itself, or these are not what it takes.
    """
    own = NORMALISATIONS.get(name) if isinstance(name, str) else None
    if own is None:
        if mean is None and std is None:
            return None
        raise OptionError(
            f"mean and std are of {', '.join(NORMALISATIONS)}; images of {name} come as they are: normalise them there"
        )
    chosen = Normalisation(*(old if new is None else tuple(new) for old, new in zip(own, (mean, std), strict=True)))
    for option, numbers, least in (("mean", chosen.mean, -math.inf), ("std", chosen.std, 0.0)):
        if len(numbers) != len(own.mean) or not all(math.isfinite(one) and one > least for one in numbers):
            above = " above 0" if least == 0 else ""
            wanted = "1 number" if len(own.mean) == 1 else f"{len(own.mean)} numbers"
            raise OptionError(f"{option} is {', '.join(map(str, numbers))}; {name} takes {wanted}{above}")
    return chosen


def _read(name: str, data_dir: Path, normalisation: Normalisation) -> Splits:
    """One of `NORMALISATIONS`, normalised so."""
    if name == EMBEDDED:
        with (
            resources.files("fxsnn").joinpath("embedded/digits.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            parts = [(arrays[f"{half}_images"], arrays[f"{half}_labels"]) for half in ("train", "test")]
        return Splits(*(_normalised(*part, normalisation) for part in parts))
    with importing("torchvision", f"the data set {name}", DataError):
        from torchvision import datasets, transforms
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*normalisation)])
    dataset_class = getattr(datasets, name)
    halves = [dataset_class(data_dir, train=train, transform=transform, download=False) for train in (True, False)]
    return Splits(*halves)


def _normalised(images: np.ndarray, labels: np.ndarray, normalisation: Normalisation) -> TensorDataset:
    """Digits [N, 28, 28] in 0..255 as the networks see them: float32 [N, 1, 28, 28], zero mean and unit deviation."""
    pixels = torch.from_numpy(images).unsqueeze(1).float() / 255
    return TensorDataset((pixels - normalisation.mean[0]) / normalisation.std[0], torch.from_numpy(labels).long())


def _reader(name: str) -> DatasetFunction:
    def read(data_dir: Path) -> Splits:
        return _read(name, data_dir, NORMALISATIONS[name])

    return read


for _name in NORMALISATIONS:
    register(_name)(_reader(_name))


@register("moving-digits")
def _moving(_: Path) -> Splits:
    return moving_digits()


def _from_arrays(path: Path) -> Splits:
    """The halves in an .npz file; nothing in it is unpickled."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is a single array; np.savez writes several")
        with file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as arrays: {error}") from error
    if "images" in arrays:
        half = _tensors(path, arrays, "")
        return Splits(half, half)
    return Splits(_tensors(path, arrays, "train_"), _tensors(path, arrays, "test_"))


def _tensors(path: Path, arrays: Mapping[str, np.ndarray], prefix: str) -> TensorDataset:
    images, labels = (arrays.get(f"{prefix}{name}") for name in ("images", "labels"))
    if images is None or labels is None:
        raise DataError(
            f"{path} has {', '.join(arrays) or 'no arrays'}; it needs train_images, train_labels, test_images and "
            "test_labels, or images and labels"
        )
    if (
        not any(ImageForm(frames=frames).takes(images.ndim) for frames in (None, 0))
        or images.dtype.kind != "f"
        or labels.shape[:1] != images.shape[:1]
        or labels.dtype.kind not in "iubf"
    ):
        raise DataError(
            f"{path}: {prefix}images are {images.dtype} {list(images.shape)} and {prefix}labels {labels.dtype} "
            f"{list(labels.shape)}; expected floats {ImageForm()}, normalised as the network was trained on them, "
            "and integers [N], or values as floats"
        )
    given = torch.from_numpy(labels.astype(np.int64 if labels.dtype.kind in "iu" else labels.dtype))
    return TensorDataset(torch.from_numpy(images).float(), given)
