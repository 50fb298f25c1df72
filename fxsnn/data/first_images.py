"""The first images of what users give as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fxsnn.data.batches import image_batches, reproducible
from fxsnn.errors import DataError
from fxsnn.layers import ImageForm

_SAMPLE = 32
"""So many calibration images are kept: the report says what the network does on them."""


class FirstImages:
    """The first images of data, which look like `form`; all who go through it see the same ones."""

    def __init__(self, data: Any, what: str, most: int, form: ImageForm) -> None:
        self._data, self._what, self._most, self._form = data, what, most, form
        # Of a loader that draws where its own generator is.
        self.generator, self.sampler = getattr(data, "generator", None), getattr(data, "sampler", None)

    def __iter__(self) -> Iterator[Tensor]:
        left = self._most
        for images in image_batches(self._data, self._form, what=self._what):
            yield images[:left]
            left -= len(images)
            if left <= 0:
                return


class Remembered(Iterator[Any]):
    """Data that can be read once, and some images of the first batch: the network's size of images is theirs."""

    def __init__(self, data: Iterator[Any], form: ImageForm) -> None:
        self._data, self._form = data, form
        self.sample: Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        self._data = iter(self._data)  # some start again
        return self

    def __next__(self) -> Any:
        batch = next(self._data)
        if self.sample is None:
            self.sample = sample_of([batch], self._form)
        return batch


def example_of(data: Any, form: ImageForm) -> Tensor | None:
    """Two calibration images on which rewrites are verified; what is not finite is left for calibration to refuse.

    Only what can certainly be gone through again is looked into before calibration has seen it.
    """
    sample = sample_of(data, form, 2) if can_be_looked_into(data) else None
    return sample if sample is not None and bool(torch.isfinite(sample).all()) else None


def can_be_looked_into(data: Any) -> bool:
    """Whether data can certainly be gone through again."""
    return isinstance(data, Tensor | tuple | list | Mapping) or (
        isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset)
    )


def sample_of(data: Any, form: ImageForm, most: int = _SAMPLE) -> Tensor | None:
    """The first calibration images, `most` at most; none of data that can be gone through only once."""
    if data is None or isinstance(data, Iterator):
        return None
    parts: list[Tensor] = []
    try:
        with reproducible(0, data):  # and no generator notices that a shuffled loader was looked into
            for images in image_batches(data, form):
                if parts and images.shape[1:] != parts[0].shape[1:]:
                    break
                parts.append(images.detach())
                if sum(map(len, parts)) >= most:
                    break
    except DataError:  # calibration says what is wrong with them
        return None
    return torch.cat(parts)[:most].clone()
