"""What commands read that their options name: a model, a network file, a data set."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from fxsnn.chip import whole_number
from fxsnn.cli import user_code
from fxsnn.data import datasets
from fxsnn.device import choose_device
from fxsnn.errors import DataError
from fxsnn.insight import Batches
from fxsnn.loading import load
from fxsnn.network import SpikingNetwork
from fxsnn.storage import load_weights


def model_named(options: argparse.Namespace) -> nn.Module:
    """The model that the options name, with its weights if there are some.

    Raises:
        ModelError: the code cannot be found or fails, or gives no model.
        FileError: the weights cannot be read or do not match.
    """
    model = user_code.model_from(options.model)
    if options.weights is not None:
        load_weights(model, options.weights)
    return model


def network_in(options: argparse.Namespace) -> SpikingNetwork:
    """The network in the file that the options name, on their device.

    Raises:
        FileError, OptionError: the file cannot be read, or the engine or device cannot be used.
    """
    return load(options.file, engine=options.engine).to(choose_device(options.device))


def halves_named(options: argparse.Namespace) -> datasets.Splits:
    """Both halves of the data set that the options name.

    Raises:
        UnknownName, DataError, ModelError: there is no such data set, or it is none.
    """
    name = options.data
    if ":" not in name or name.endswith(".npz"):
        halves: Any = datasets.load(name, options.data_dir)
    else:
        halves = user_code.called(name, options.data_dir)
        if not isinstance(halves, tuple) or len(halves) != 2:
            raise DataError(f"{name} gives a {type(halves).__name__}; expected is fxsnn.datasets.Splits(train, test)")
    for half in halves:
        _require_images(name, half)
    return datasets.Splits(*halves)


def _require_images(name: str, half: Any) -> None:
    """The first element of a half is an image with its label, as `fxsnn.datasets` says."""
    with user_code.failures_named(name, "A half is a map-style data set of (image, label)"):
        size = len(half)
        image, label = half[0] if size else (None, None)
    if not size:
        raise DataError(f"data set {name!r}: a half has no images")
    label = int(label) if isinstance(label, Tensor) and label.numel() == 1 and not label.is_floating_point() else label
    if (
        not isinstance(image, Tensor)
        or image.dim() != 3
        or not image.is_floating_point()
        or whole_number(label) is None
    ):
        shape = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"data set {name!r}: an image is {shape}, its label a {type(label).__name__}; expected are a floating "
            "tensor [C, H, W], normalised as the network was trained on it, and a whole number"
        )


def first_batches(data: Dataset[Any], snn: SpikingNetwork, options: argparse.Namespace) -> tuple[Batches, int]:
    """The first images of a data set, and how many they are."""
    image = data[0][0]
    try:
        snn(image[None].to(snn.device))
    except DataError as error:
        if tuple(image.shape) == snn.image_size:
            raise  # it is not their size
        made_for = "others" if snn.image_size is None else str(list(snn.image_size))
        raise DataError(
            f"images of {options.data} are {list(image.shape)}; the network was made for {made_for}"
        ) from error
    size: int = len(data)  # type: ignore[arg-type]  # `halves_named` saw to it
    if options.limit is not None:
        size = min(size, options.limit)
        data = Subset(data, range(size))
    return DataLoader(data, options.batch_size), size


def some_of(data: Dataset[Any], count: int, seed: int) -> Dataset[Any]:
    """So many of its images, chosen at random under a seed."""
    size = len(data)  # type: ignore[arg-type]  # every data set of the registry is map-style
    return Subset(data, torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].tolist())
