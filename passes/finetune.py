"""Finetune: train the n-bit weights, with activations rounded to what T steps of spikes can express."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.fx.node import Node

from fxsnn.errors import OptionError, PipelineError
from fxsnn.finetune import TrainingOptions, labelled_batches, train
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU, LowBit
from fxsnn.stages import Pass, facts
from fxsnn.target import whole_number


class Finetune(Pass):
    """Straight-through fine-tuning with SGD; the learning rate falls to a tenth at 50 % and at 75 %.

    Weights keep a float shadow that is trained; each forward uses its n-bit form, and gradients pass straight through
    the rounding. Activations, pooled ones too, are rounded to T levels. The tail is not trained.

    Args:
        data: a pair of tensors (images, labels), or an iterable of (images, labels) such as a `DataLoader`.
        epochs: how often to go through the data.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: for a pair of tensors.
        timesteps: T, the levels of the activations; `None`: those for which the network is converted.
        seed: two runs with one seed give the same network on the same machine.
        progress: show a progress bar.
    """

    data: Any
    epochs: int = 5
    lr: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    timesteps: int | None = None
    seed: int = 0
    progress: bool = False

    needs = facts("thresholds", "low-bit-weights")
    gives = facts("finetuned")

    def __post_init__(self) -> None:
        self._options()
        if (whole_number(self.batch_size) or 0) < 1:
            raise OptionError(f"batch_size is {self.batch_size!r}; allowed are whole numbers from 1")

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        batches = labelled_batches(self.data, self.batch_size)
        if self.timesteps is None:
            raise PipelineError("finetune needs timesteps: the levels to which activations are rounded")
        for node in graph.body(LowBit):
            graph.replace(node, copy.deepcopy(graph[node]))  # to be trained: tensors of its own
        for node in graph.body(ClippedReLU):
            clipped = graph[node]
            assert isinstance(clipped, ClippedReLU)
            graph.replace(node, clipped.with_levels(self.timesteps))
        for node in graph.body(nn.AvgPool2d):
            threshold = _threshold_before(graph, node)
            graph.insert_after(node, f"{graph.name(node)}_levels", ClippedReLU(threshold, self.timesteps))
        graph.module.recompile()
        train(graph, batches, self._options())

    def _options(self) -> TrainingOptions:
        return TrainingOptions(self.epochs, self.lr, self.momentum, self.weight_decay, self.seed, self.progress)


def _threshold_before(graph: Graph, node: Node) -> float:
    """The threshold of the layer whose spikes a pooling layer reads."""
    source = node.all_input_nodes[0]
    while not graph.is_a(source, ClippedReLU):
        source = source.all_input_nodes[0]
    clipped = graph[source]
    assert isinstance(clipped, ClippedReLU)
    return clipped.threshold
