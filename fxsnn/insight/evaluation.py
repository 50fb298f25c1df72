"""Accuracy of networks, and of spiking ones after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.ambient import neutral
from fxsnn.data import (
    Reading,
    accepted,
    gives_probabilities,
    length_of,
    own_batches,
    reading_of,
    require_accuracy,
    require_labels,
    require_outputs,
)
from fxsnn.display import progress_bar
from fxsnn.errors import DataError
from fxsnn.graph import Graph, place_of
from fxsnn.layers import is_readable
from fxsnn.network import SpikingNetwork
from fxsnn.processes import share, sharing_errors, summed

Batches = Iterable[tuple[Tensor, Tensor]]
"""Batches of images [N, ...] and labels [N]."""

_OF_SEVERAL = "give a function that picks one, such as lambda images: network(images)[0]"
AFTER_EACH_STEP = "snn.early_readout(images) gives the outputs after each step: measure your own figure on them"
_OF_VALUES = "Measure a distance instead, such as (network(images) - labels).square().mean()"


@neutral()
def accuracy(network: Callable[[Tensor], Tensor], batches: Batches, title: str = "") -> float:
    """Share of the images that are classified correctly, in percent.

    Args:
        network: gives logits [N, classes], or one output an image: a logit, whose sign decides, or behind a sigmoid a
            probability. A module or graph is given the images where its tensors are, and in the type of its parameters.
        batches: images and labels: integers [N], of one output 0 and 1 of any type; [N, 1] are taken, too.
        title: of the progress bar; "": there is none.

    Raises:
        DataError: there are no images, the network cannot be run on them, or the labels are no classes of it: values,
            for instance, which have no accuracy.
    """
    hits = count = 0
    device, dtype = _kind_of(network)
    reading: Reading | None = None
    shown = _shown(batches, title)
    with torch.no_grad(), sharing_errors():
        for batch in shown:
            images, labels = _pair(batch)
            if not len(images):
                continue
            given = images.to(device, dtype if images.is_floating_point() else None)
            with accepted(given):
                outputs = require_outputs(network(given), images, "the network", _OF_SEVERAL)
            wanted = require_labels(labels, len(images))
            reading = reading_of(outputs, wanted, partial(gives_probabilities, network, given), reading)
            hits += require_accuracy(reading, wanted, _OF_VALUES).right(outputs, wanted)
            count += len(images)
    hits, count = summed(torch.tensor([hits, count])).tolist()
    return 100 * hits / _some(count)


@neutral()
def accuracy_over_time(snn: SpikingNetwork, batches: Batches, timesteps: int, title: str = "") -> list[float]:
    """Accuracy in percent after 1, 2, ... `timesteps` steps, from one run; the network's own T stays.

    Args:
        snn: the network.
        batches: images and labels.
        timesteps: the largest T.
        title: of the progress bar; "": there is none.

    Raises:
        DataError: there are no images, or the labels are no classes of the network, see `accuracy`.
    """
    own, snn.timesteps = snn.timesteps, timesteps
    hits, count = torch.zeros(timesteps, dtype=torch.float64), 0
    reading: Reading | None = None
    try:
        shown = _shown(batches, title)
        with sharing_errors():
            for batch in shown:
                images, labels = _pair(batch)
                if not len(images):
                    continue
                given = images.to(snn.device)
                logits: Any = snn.early_readout(given)
                last = require_outputs(at_the_end(logits), images, "the network", AFTER_EACH_STEP)
                wanted = require_labels(labels, len(images))
                reading = reading_of(last, wanted, partial(gives_probabilities, snn, given), reading)
                hits += require_accuracy(reading, wanted, AFTER_EACH_STEP).right_after_each_step(logits, wanted)
                count += len(images)
    finally:
        snn.timesteps = own
    count = int(summed(torch.tensor(count)))
    return (100 * summed(hits) / _some(count)).tolist()


def at_the_end(logits: object) -> object:
    """Of logits [T, N, ...] those after the last step; what is no tensor as it is, to be refused."""
    return logits[-1] if isinstance(logits, Tensor) else logits


def _shown(batches: Batches, title: str) -> Iterable[Any]:
    """The batches of this process."""
    count = length_of(batches)
    total = None if count is None else -(-count // share()[1])
    return progress_bar(own_batches(batches), title, show=bool(title), total=total, leave=False)


def _pair(batch: object) -> tuple[Tensor, object]:
    """Images and labels of a batch."""
    if isinstance(batch, tuple | list) and len(batch) > 1 and is_readable(batch[0]):
        return batch[0], batch[1]
    raise DataError("a batch for an accuracy must be (images, labels); labels are integers [N], or 0 and 1")


def _some(count: int) -> int:
    """A number of images that is not 0."""
    if count == 0:
        raise DataError("the data are empty; accuracy needs at least one image")
    return count


def _kind_of(network: object) -> tuple[torch.device, torch.dtype | None]:
    """Where a network's tensors are, and the type that it reads images in."""
    module = network.module if isinstance(network, Graph) else network
    if not isinstance(module, nn.Module):
        return torch.device("cpu"), None
    device, dtype = place_of(module)
    return device, None if isinstance(module, SpikingNetwork) else dtype
