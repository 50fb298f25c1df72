"""The data set that a command is given, or that a network file was made with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from fxsnn.cli import user_code
from fxsnn.data import chosen_apart, datasets, may_be_images, require_share
from fxsnn.errors import DataError, OptionError, UnknownName
from fxsnn.insight import Batches
from fxsnn.network import SpikingNetwork


@dataclass(frozen=True)
class DataSet:
    """Both halves of a data set, and how its images were prepared.

    Attributes:
        name: as the user named it.
        train: map-style, of (image, label).
        test: the same.
        normalisation: what was done to its pixels; `None`: the data set itself saw to it.
    """

    name: str
    train: Dataset[Any]
    test: Dataset[Any]
    normalisation: datasets.Normalisation | None

    def __str__(self) -> str:
        return self.name if self.normalisation is None else f"{self.name} ({self.normalisation})"

    def to_dict(self) -> dict[str, Any]:
        """Name and normalisation, ready for JSON and for the provenance of a file."""
        numbers = {} if self.normalisation is None else self.normalisation._asdict()
        return {"name": self.name, **{option: list(one) for option, one in numbers.items()}}


def data_set_named(options: argparse.Namespace, name: str | None = None) -> DataSet:
    """The data set that `--data` names, or `name`; normalised as `--mean` and `--std` say.

    Raises:
        UnknownName, DataError, ModelError: there is no such data set, or it is none.
        OptionError: the data set takes no mean or deviation, or not these.
    """
    name = options.data if name is None else name
    assert name is not None
    normalisation = datasets.normalisation_of(name, options.mean, options.std)
    if not _is_code(name):
        halves: Any = datasets.load(name, options.data_dir, mean=options.mean, std=options.std)
    else:
        halves = user_code.called(name, options.data_dir)
        if not isinstance(halves, tuple) or len(halves) != 2:
            raise DataError(f"{name} gives a {type(halves).__name__}; expected is fxsnn.datasets.Splits(train, test)")
    for half in halves:
        _require_images(name, half)
    train, test = halves
    return DataSet(name, train, test, normalisation)


def data_set_for(options: argparse.Namespace, snn: SpikingNetwork) -> DataSet:
    """The data set that `--data` names, or else the one that a network file says it was made with.

    Where that is the same one, it is normalised as it was then, unless `--mean` or `--std` say otherwise.

    Raises:
        OptionError: there is no `--data`, and the file names no data set, or names code, which files never run.
        UnknownName, DataError, ModelError: there is no such data set, or it is none.
    """
    made_with = snn.provenance.get("data")
    made_with = made_with if isinstance(made_with, Mapping) else {}
    recorded = made_with.get("name")
    given = options.data is not None
    if not given and (not isinstance(recorded, str) or not recorded):
        raise OptionError(f"{options.file} does not say which data set it was made with; give --data")
    if not given and _is_code(str(recorded)):
        raise OptionError(
            f"{options.file} was made with the data of {recorded}, which is code, and files never run code; if it is "
            f"yours, give --data {recorded}"
        )
    if recorded in datasets.NORMALISATIONS and options.data in (None, recorded):
        known = {name: made_with[name] for name in ("mean", "std") if _are_numbers(made_with.get(name))}
        chosen = {name: one for name in ("mean", "std") if (one := getattr(options, name)) is not None}
        options = argparse.Namespace(**{**vars(options), **known, **chosen})
    if given:
        return data_set_named(options)
    try:
        return data_set_named(options, str(recorded))
    except (DataError, UnknownName) as error:
        raise DataError(
            f"{options.file} was made with {recorded}, which cannot be read here; give --data or --data-dir: {error}"
        ) from error


def require_data_for_normalisation(options: argparse.Namespace) -> None:
    """Refuse `--mean` and `--std` where no data set is normalised.

    Raises:
        OptionError: they stand there without `--data`.
    """
    if options.data is None and (options.mean is not None or options.std is not None):
        raise OptionError("--mean and --std normalise the images of --data; give it, too")


def _is_code(name: str) -> bool:
    return ":" in name and not name.endswith(".npz")


def _are_numbers(values: object) -> bool:
    return isinstance(values, Sequence) and all(type(one) in (int, float) for one in values)


def _require_images(name: str, half: Any) -> None:
    """The first element of a half is an image with its label, as `fxsnn.datasets` says."""
    with user_code.failures_named(name, "A half is a map-style data set of (image, label)"):
        size = len(half)
        image, label = half[0] if size else (None, None)
    if not size:
        raise DataError(f"data set {name!r}: a half has no images")
    numbers = isinstance(label, Tensor | np.ndarray | bool | int | float | np.generic)
    fine = isinstance(image, Tensor) and image.is_floating_point() and may_be_images(image.unsqueeze(0))
    if not fine or not numbers:
        shape = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"data set {name!r}: an image is {shape}, its label a {type(label).__name__}; expected are a floating "
            "tensor [C, H, W], [C, L] or [F], or frames of such, normalised as the network was trained on it, and a "
            "whole number, or values in a tensor"
        )


def first_batches(
    data: DataSet, snn: SpikingNetwork, options: argparse.Namespace, limit: int | None
) -> tuple[Batches, int]:
    """The first images of the test half in batches, `limit` at most, and how many they are.

    Raises:
        DataError: they are no images for the network.
    """
    test = data.test
    image = test[0][0]
    try:
        snn(image[None].to(snn.device))
    except DataError as error:
        size = None if snn.image_size is None else snn.graph.image_form.with_time(snn.image_size)
        if tuple(image.shape) == size:
            raise  # it is not their size
        made_for = "others" if size is None else str(list(size))
        raise DataError(
            f"images of {data.name} are {list(image.shape)}; the network was made for {made_for}"
        ) from error
    count: int = len(test)  # type: ignore[arg-type]  # `data_set_named` saw to it
    if limit is not None:
        count = min(count, limit)
        test = Subset(test, range(count))
    return DataLoader(test, options.batch_size), count


def some_of(data: Dataset[Any], count: int, seed: int) -> Dataset[Any]:
    """So many of its images, chosen at random under a seed."""
    size = len(data)  # type: ignore[arg-type]  # every data set of the registry is map-style
    return Subset(data, torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].tolist())


def parted(data: Dataset[Any], share: float | None, seed: int) -> tuple[Dataset[Any], Dataset[Any] | None]:
    """The data without a share that is held out, chosen at random under a seed, and that share.

    Raises:
        OptionError: the share is not between 0 and 1.
        DataError: there are fewer than two images.
    """
    if share is None:
        return data, None
    size = len(data)  # type: ignore[arg-type]  # `data_set_named` saw to it
    if size < 2:
        raise DataError(f"fine-tuning data are {size} images; --finetune-validation needs at least two")
    kept, out = (Subset(data, chosen.tolist()) for chosen in chosen_apart(size, require_share(share), seed))
    return kept, out
