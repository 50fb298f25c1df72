"""Data sets by name, and a registry for the user's own.

A data set is a function from a folder to its two halves. Registering one takes a decorator:

    from fxsnn import datasets

    @datasets.register("letters")
    def letters(data_dir):
        return datasets.Splits(train=my_training_set, test=my_test_set)

The name of a file that ends in .npz stands for the arrays in it: `train_images`, `train_labels`, `test_images` and
`test_labels`, or `images` and `labels`, which are then both halves.

Both halves are map-style data sets of `(image, label)`: a float tensor [channels, height, width], normalised as the
network expects it, and an integer class.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from fxsnn.errors import DataError, OptionError, UnknownName, importing
from fxsnn.options import is_one_of
from fxsnn.storage import as_path

EMBEDDED = "digits"
"""The data set that ships inside the package: 2,000 training and 1,000 test digits of MNIST."""

MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
FASHION_MEAN, FASHION_STD = (0.2860,), (0.3530,)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


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


def load(name: str, data_dir: str | Path = "data") -> Splits:
    """The training and the test half of the data set `name`.

    Args:
        name: one of `names()`, or the path of an .npz file.
        data_dir: the folder that holds the files; the embedded data set needs none.

    Raises:
        UnknownName: there is no such data set; the message lists those that exist.
        DataError: its files are not in `data_dir`, or the .npz file does not hold images and labels.
    """
    if isinstance(name, str | os.PathLike) and str(name).endswith(".npz"):
        return _from_arrays(as_path(name, "name"))
    folder = as_path(data_dir, "data_dir")
    if not is_one_of(name, _registered):
        known = ", ".join(names())
        raise UnknownName(f"unknown data set {name!r}; known: {known}. Register your own with @fxsnn.datasets.register")
    try:
        return _registered[name](folder)
    except (RuntimeError, FileNotFoundError) as error:  # torchvision raises RuntimeError for missing files
        raise DataError(f"data set {name!r} could not be read from {str(data_dir)!r}: {error}") from error


@register(EMBEDDED)
def _digits(data_dir: Path) -> Splits:
    with (
        resources.files("fxsnn").joinpath("embedded/digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        halves = [_normalised(arrays[f"{half}_images"], arrays[f"{half}_labels"]) for half in ("train", "test")]
    return Splits(*halves)


def _normalised(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    """Digits [N, 28, 28] in 0..255 as the networks see them: float32 [N, 1, 28, 28], zero mean and unit deviation."""
    pixels = torch.from_numpy(images).unsqueeze(1).float() / 255
    return TensorDataset((pixels - MNIST_MEAN[0]) / MNIST_STD[0], torch.from_numpy(labels).long())


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
        images.ndim != 4
        or images.dtype.kind != "f"
        or labels.shape != images.shape[:1]
        or labels.dtype.kind not in "iu"
    ):
        raise DataError(
            f"{path}: {prefix}images are {images.dtype} {list(images.shape)} and {prefix}labels {labels.dtype} "
            f"{list(labels.shape)}; expected floats [N, C, H, W], normalised as the network was trained on them, and "
            "integers [N]"
        )
    return TensorDataset(torch.from_numpy(images).float(), torch.from_numpy(labels.astype(np.int64)))


def _from_torchvision(class_name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> DatasetFunction:
    def read(data_dir: Path) -> Splits:
        with importing("torchvision", f"the data set {class_name}", DataError):
            from torchvision import datasets, transforms
        normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
        dataset_class = getattr(datasets, class_name)
        halves = [dataset_class(data_dir, train=train, transform=normalise, download=False) for train in (True, False)]
        return Splits(*halves)

    return read


register("MNIST")(_from_torchvision("MNIST", MNIST_MEAN, MNIST_STD))
register("FashionMNIST")(_from_torchvision("FashionMNIST", FASHION_MEAN, FASHION_STD))
register("CIFAR10")(_from_torchvision("CIFAR10", CIFAR10_MEAN, CIFAR10_STD))
