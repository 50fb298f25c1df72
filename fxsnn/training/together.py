"""The part of a training step that differs where several processes train together, see `fxsnn.across_processes`.

Each computes with its rows of every batch. The loss of a batch is a mean over all of its images, and gradients are
means over processes: so each weighs its own loss by its share of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxsnn.data import divider_of
from fxsnn.graph import Graph
from fxsnn.processes import share, summed, trained_together


class Together:
    """A network in training, and the batches that it is trained on.

    Args:
        graph: the network.
        learned: its tensors that are trained.
        data: what batches come from.

    Attributes:
        run: the network; gradients behind it are means over all processes.
    """

    def __init__(self, graph: Graph, learned: Sequence[Tensor], data: Any) -> None:
        self.run = trained_together(_Running(graph, learned))
        self._divider = divider_of(data) if share()[1] > 1 else None

    def begin(self, epoch: int) -> None:
        """Tell a sampler that gives each process other images which epoch it is: else it shuffles as before."""
        if self._divider is not None:
            self._divider.set_epoch(epoch)

    def own_rows(self, images: Tensor, labels: Any) -> tuple[Tensor, Any, int]:
        """This process's images and labels of a batch, and how many count: of none, one stands there and counts not."""
        rank, size = share()
        if size == 1 or self._divider is not None:
            return images, labels, len(images)
        count, rows = len(images), slice(rank, None, size)
        own = len(images[rows])
        rows = rows if own else slice(0, 1)

        def cut(label: Any) -> Any:
            listed = _is_list_of(count, label) or (isinstance(label, Tensor) and label.dim() and len(label) == count)
            return label[rows] if listed else label

        return images[rows], tree_map(cut, labels, is_leaf=lambda value: _is_list_of(count, value)), own

    def weighed(self, loss: Tensor, count: int, total: int) -> Tensor:
        """What to derive, of `total` images `count` here: the mean over processes is that over images."""
        size = share()[1]
        return loss if size == 1 else loss * (count * size / total)

    def in_all(self, loss: Tensor, count: int, right: int | None) -> tuple[float, int, int | None]:
        """Mean loss, number of images and of those that are right, of all processes."""
        if share()[1] == 1:
            return float(loss.detach()), count, right
        told = [float(loss.detach()) * count, count, right or 0] if count else [0.0] * 3
        total, images, hits = summed(torch.tensor(told, dtype=torch.float64)).tolist()
        return total / images, int(images), None if right is None else int(hits)


def _is_list_of(count: int, value: object) -> bool:
    """Whether it says something that is no tensor of each image, such as a name."""
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and not any(isinstance(one, Tensor) for one in tree_leaves(value))
    )


class _Running(nn.Module):
    """A graph as PyTorch's way of training together wants it: a module whose parameters are those that are trained."""

    def __init__(self, graph: Graph, learned: Sequence[Tensor]) -> None:
        super().__init__()
        self.learned = nn.ParameterList(learned)
        self._graph = graph

    def forward(self, images: Tensor) -> Any:
        """What the network gives."""
        return self._graph.run(images)
