"""Accuracy of networks, and of spiking ones after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.ambient import neutral
from fxsnn.data import accepted, check_labels, gone_through, length_of, require_classes, require_labels
from fxsnn.display import progress_bar
from fxsnn.errors import DataError
from fxsnn.graph import Graph, place_of
from fxsnn.layers import is_readable
from fxsnn.network import SpikingNetwork

Batches = Iterable[tuple[Tensor, Tensor]]
"""Batches of images [N, C, H, W] and labels [N]."""


@neutral()
def accuracy(network: Callable[[Tensor], Tensor], batches: Batches, title: str = "") -> float:
    """Share of the images that are classified correctly, in percent.

    Args:
        network: gives logits [N, classes]; a module or graph is given the images where its tensors are, and in the type
            of its parameters.
        batches: images and labels.
        title: of the progress bar; "": there is none.

    Raises:
        DataError: there are no images, the network cannot be run on them, or the labels are no classes of it.
    """
    hits = count = 0
    device, dtype = _kind_of(network)
    with torch.no_grad():
        for batch in _shown(batches, title):
            images, labels = _pair(batch)
            given = images.to(device, dtype if images.is_floating_point() else None)
            with accepted(given):
                outputs = network(given)
            hits += int(_right(require_classes(outputs, images, "the network").flatten(1), labels))
            count += len(images)
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
        DataError: there are no images, or the labels are no classes of the network.
    """
    own, snn.timesteps = snn.timesteps, timesteps
    hits, count = torch.zeros(timesteps, dtype=torch.float64), 0
    try:
        for batch in _shown(batches, title):
            images, labels = _pair(batch)
            readout = snn.early_readout(images.to(snn.device))
            require_classes(readout[-1] if isinstance(readout, Tensor) else readout, images, "the network")
            hits += _right(readout.flatten(2), labels)
            count += len(images)
    finally:
        snn.timesteps = own
    return (100 * hits / _some(count)).tolist()


def _shown(batches: Batches, title: str) -> Iterable[Any]:
    return progress_bar(gone_through(batches), title, show=bool(title), total=length_of(batches), leave=False)


def _pair(batch: object) -> tuple[Tensor, object]:
    """Images and labels of a batch."""
    if isinstance(batch, tuple | list) and len(batch) > 1 and is_readable(batch[0]):
        return batch[0], batch[1]
    raise DataError("a batch for an accuracy must be (images, labels); labels are an integer tensor [N]")


def _right(logits: Tensor, labels: object) -> Tensor:
    """How many images are classified right, by [..., N, classes]."""
    given = require_labels(_as_tensor(labels), logits.shape[-2]).cpu()
    check_labels(given, logits.shape[-1])
    return (logits.argmax(-1).cpu() == given).sum(-1)


def _as_tensor(labels: object) -> object:
    """A tensor of what data sets have for labels, lists and arrays too; else what they are."""
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return labels


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
