"""Accuracy of networks, and of spiking ones after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fxsnn.graph import Graph
from fxsnn.network import SpikingNetwork

Batches = Iterable[tuple[Tensor, Tensor]]
"""Batches of images [N, C, H, W] and labels [N]."""


def accuracy(network: Callable[[Tensor], Tensor], batches: Batches, title: str = "") -> float:
    """Share of the images that are classified correctly, in percent.

    Args:
        network: gives logits [N, classes]; a module or graph is given the images where its tensors are.
        batches: images and labels.
        title: of the progress bar.
    """
    hits = count = 0
    with torch.no_grad():
        for images, labels in tqdm(batches, desc=title, disable=None, leave=False):
            hits += int((network(images.to(_device_of(network))).argmax(1).cpu() == labels).sum())
            count += len(labels)
    return 100 * hits / count


def accuracy_over_time(snn: SpikingNetwork, batches: Batches, timesteps: int, title: str = "") -> list[float]:
    """Accuracy in percent after 1, 2, ... `timesteps` steps, from one run; the network's own T stays.

    Args:
        snn: the network.
        batches: images and labels.
        timesteps: the largest T.
        title: of the progress bar.
    """
    own, snn.timesteps = snn.timesteps, timesteps
    hits, count = torch.zeros(timesteps, dtype=torch.float64), 0
    try:
        for images, labels in tqdm(batches, desc=title, disable=None, leave=False):
            logits = snn.early_readout(images.to(snn.device))
            hits += (logits.argmax(2).cpu() == labels).sum(1)
            count += len(labels)
    finally:
        snn.timesteps = own
    return (100 * hits / count).tolist()


def _device_of(network: object) -> torch.device:
    """Where a network's tensors are."""
    module = network.module if isinstance(network, Graph) else network
    tensors = chain(module.parameters(), module.buffers()) if isinstance(module, nn.Module) else iter(())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
