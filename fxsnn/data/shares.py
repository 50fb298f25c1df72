"""The batches that are this process's, where several work together, see `fxsnn.across_processes`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from fxsnn.data.batches import generators_of, gone_through, image_batches, length_of
from fxsnn.layers import ImageForm
from fxsnn.processes import of_generators, own_share, share

_Part = TypeVar("_Part")


def own_image_batches(data: Any, form: ImageForm, *, what: str = "calibration data") -> Iterator[Tensor]:
    """See `image_batches`."""
    return own_part_of(data, lambda given: image_batches(given, form, what=what))


def own_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """See `gone_through`."""
    return own_part_of(batches, gone_through)


def own_parts(parts: Iterable[_Part], data: Any) -> Iterator[_Part]:
    """Of parts that are made of data, this process's; all processes draw alike, see `draw_alike`."""
    return own_share(parts) if divider_of(data) is None else iter(parts)


def divider_of(data: object) -> DistributedSampler[Any] | None:
    """The sampler by which a loader gives each process other images by itself; `None`: it does not."""
    samplers = (getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None))
    return next((one for one in samplers if isinstance(one, DistributedSampler)), None)


def draw_alike(data: Any) -> None:
    """Let a loader that shuffles give the batches of the first process everywhere."""
    if share()[1] > 1:
        of_generators(generators_of(data))


def own_part_of(data: Any, cut: Callable[[Any], Iterator[_Part]]) -> Iterator[_Part]:
    """Every so manyth batch of data as `cut` gives them; a loader does not load those of others."""
    size = share()[1]
    if size == 1 or divider_of(data) is not None:
        return cut(data)
    draw_alike(data)
    if type(data) is DataLoader and _can_skip(data, size):
        return cut(_skipping(data))
    return own_share(cut(data))


def _can_skip(loader: DataLoader[Any], size: int) -> bool:
    """Whether a loader is told by indices which images to load, and there is a batch for every process."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return False
    count = length_of(loader)
    return count is not None and count >= size


class _EveryNth:
    """Every so manyth of the batches of a sampler."""

    def __init__(self, sampler: Iterable[Any]) -> None:
        self._sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        rank, size = share()
        return itertools.islice(iter(self._sampler), rank, None, size)


def _skipping(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader of every so manyth batch; samplers draw as they would have drawn."""
    assert loader.batch_sampler is not None
    return DataLoader(
        loader.dataset,
        batch_sampler=_EveryNth(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
