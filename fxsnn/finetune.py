"""The training loop of fine-tuning: stochastic gradient descent on the low-bit layers of a graph."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from fxsnn.errors import DataError, OptionError, TrainingError
from fxsnn.graph import Graph
from fxsnn.layers import LowBit, check_images
from fxsnn.target import whole_number

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of stochastic gradient descent.

    Attributes:
        epochs: how often to go through the data, at least 1.
        lr: learning rate; it falls to a tenth at 50 % and again at 75 % of all iterations.
        momentum: from 0 to below 1.
        weight_decay: not negative.
        seed: of the order of the batches and whatever else draws from PyTorch's generator.
        progress: show a progress bar.

    Raises:
        OptionError: a value is not allowed.
    """

    epochs: int = 5
    lr: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if (whole_number(self.epochs) or 0) < 1:
            raise OptionError(
                f"epochs is {self.epochs!r}; allowed are whole numbers from 1 (leave fine-tuning out for 0)"
            )
        if not self.lr > 0:
            raise OptionError(f"lr is {self.lr!r}; allowed are positive numbers")
        if not 0 <= self.momentum < 1:
            raise OptionError(f"momentum is {self.momentum!r}; allowed are numbers from 0 to below 1")
        if not self.weight_decay >= 0:
            raise OptionError(f"weight_decay is {self.weight_decay!r}; allowed are numbers from 0")


def labelled_batches(data: Any, batch_size: int = 128) -> Iterable[Any]:
    """What users have as something that can be gone through once per epoch.

    Args:
        data: an iterable of (images, labels), or a pair of tensors, which is shuffled.
        batch_size: for a pair of tensors.

    Raises:
        DataError: it is neither, or it is empty.
    """
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise DataError(f"there are {len(data[0])} images and {len(data[1])} labels for fine-tuning")
        data = DataLoader(TensorDataset(*data), batch_size, shuffle=True)
    if not isinstance(data, Iterable) or isinstance(data, Tensor):
        raise DataError(
            f"fine-tuning data is a {type(data).__name__}; expected a pair (images, labels) or an iterable of such "
            "batches, such as a DataLoader"
        )
    if isinstance(data, Sized) and len(data) == 0:
        raise DataError("fine-tuning data is empty")
    return data


def train(graph: Graph, batches: Iterable[Any], options: TrainingOptions) -> list[float]:
    """Train the low-bit layers of `graph` in place; its tail is not touched. The weights must be the graph's own.

    After each update, weight steps are refitted to the shadow weights by least squares.

    Args:
        graph: a graph with `LowBit` layers.
        batches: (images, labels) batches; gone through once per epoch.
        options: see `TrainingOptions`.

    Returns:
        The mean loss of each epoch.

    Raises:
        DataError: a batch does not fit the network, or an epoch had no batches.
        TrainingError: the loss is not finite.
    """
    layers: list[Any] = [graph[node] for node in graph.nodes(LowBit)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter in graph.module.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.SGD(parameters, options.lr, momentum=options.momentum, weight_decay=options.weight_decay)
    loss_of = _loss(graph)
    weight = parameters[0]
    losses = []
    devices = [weight.device] if weight.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(options.seed)
        for epoch in range(options.epochs):
            total, count = 0.0, 0
            size = len(batches) if isinstance(batches, Sized) else None
            bar = tqdm(
                batches,
                desc=f"fine-tuning, epoch {epoch + 1}/{options.epochs}",
                total=size,
                disable=None if options.progress else True,
            )
            for iteration, batch in enumerate(bar):
                images, labels = _pair(batch, graph.input_channels)
                done = (epoch + (iteration / size if size else 0)) / options.epochs
                for group in optimiser.param_groups:
                    group["lr"] = options.lr * (0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0)
                loss = loss_of(graph(images.to(weight.device, weight.dtype)), labels.to(weight.device))
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss is {value} in epoch {epoch + 1}, batch {iteration + 1}; use a smaller lr "
                        f"(it is {options.lr}) or check the labels"
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                for layer in layers:
                    layer.refit()
                total, count = total + value * len(images), count + len(images)
                bar.set_postfix(loss=f"{total / count:.4f}", lr=f"{optimiser.param_groups[0]['lr']:.2g}")
            if count == 0:
                raise DataError(
                    f"epoch {epoch + 1} of fine-tuning had no batches; give data that can be gone through every epoch, "
                    "such as a DataLoader"
                )
            losses.append(total / count)
            _log.info("fine-tuning, epoch %d of %d: loss %.4f", epoch + 1, options.epochs, losses[-1])
    for parameter in parameters:
        parameter.grad = None
    return losses


def _pair(batch: Any, channels: int | None) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[1], Tensor):
        raise DataError("a batch for fine-tuning must be (images, labels); labels are an integer tensor [N]")
    images, labels = batch[0], batch[1]
    check_images(images, channels)
    if labels.is_floating_point() or labels.shape != images.shape[:1]:
        raise DataError(
            f"labels are {labels.dtype} of shape {list(labels.shape)}; expected integers of shape {[len(images)]}"
        )
    return images, labels


def _loss(graph: Graph) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy on what the network returns: logits, log-probabilities (the same thing) or probabilities."""
    last = graph.output().all_input_nodes[0]
    if graph.is_a(last, nn.Softmax):
        return lambda outputs, labels: F.nll_loss(outputs.clamp_min(1e-12).log(), labels)
    return F.cross_entropy
