"""Accuracy of networks, and of spiking ones after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fxsnn.errors import DataError
from fxsnn.graph import Graph, place_of
from fxsnn.network import SpikingNetwork

Batches = Iterable[tuple[Tensor, Tensor]]
"""Batches of images [N, C, H, W] and labels [N]."""


def accuracy(network: Callable[[Tensor], Tensor], batches: Batches, title: str = "") -> float:
    """Share of the images that are classified correctly, in percent.

    Args:
        network: gives logits [N, classes]; a module or graph is given the images where its tensors are, and in the type
            of its parameters.
        batches: images and labels.
        title: of the progress bar.

    Raises:
        DataError: there are no images.
    """
    hits = count = 0
    device, dtype = _kind_of(network)
    with torch.no_grad():
        for images, labels in tqdm(batches, desc=title, disable=None, leave=False):
            given = images.to(device, dtype if images.is_floating_point() else None)
            hits += int((network(given).argmax(1).cpu() == torch.as_tensor(labels).cpu()).sum())
            count += len(labels)
    return 100 * hits / _some(count)


def accuracy_over_time(snn: SpikingNetwork, batches: Batches, timesteps: int, title: str = "") -> list[float]:
    """Accuracy in percent after 1, 2, ... `timesteps` steps, from one run; the network's own T stays.

    Args:
        snn: the network.
        batches: images and labels.
        timesteps: the largest T.
        title: of the progress bar.

    Raises:
        DataError: there are no images.
    """
    own, snn.timesteps = snn.timesteps, timesteps
    hits, count = torch.zeros(timesteps, dtype=torch.float64), 0
    try:
        for images, labels in tqdm(batches, desc=title, disable=None, leave=False):
            logits = snn.early_readout(images.to(snn.device))
            hits += (logits.argmax(2).cpu() == torch.as_tensor(labels).cpu()).sum(1)
            count += len(labels)
    finally:
        snn.timesteps = own
    return (100 * hits / _some(count)).tolist()


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
