"""Whether the tail of a network file fits together: it is run on PyTorch's meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node
from torch.utils._pytree import tree_leaves

from fxsnn.errors import FileError
from fxsnn.file.schema_check import DAMAGED, short
from fxsnn.file.structure import Size
from fxsnn.graph import Graph, Interpreter, copied
from fxsnn.layers import Channels, Decode

_LARGEST_VALUE = 1 << 24
"""So many numbers may a step of the tail have for one image."""


class _Sizes(Interpreter):
    """Runs a tail on the meta device, where nothing is computed, and holds every step's size and dimension.

    Args:
        tail: on the meta device.
        chosen: for each layer that chooses channels, the first and the last one that it takes.
    """

    def __init__(self, tail: fx.GraphModule, chosen: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(tail)
        self._chosen = chosen

    def run_node(self, n: Node) -> Any:
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, nn.Softmax | nn.LogSoftmax) and module.dim is not None:
            given = self.fetch_args_kwargs_from_env(n)[0][0]
            if not -given.dim() <= module.dim < given.dim():
                raise ValueError(f"{n.target}: softmax along dimension {module.dim} of {given.dim()}")
        if isinstance(module, Channels):  # whose numbers are not on the meta device
            count, (low, high) = self.fetch_args_kwargs_from_env(n)[0][0].shape[1], self._chosen[str(n.target)]
            if low < -1 or high >= count:
                raise ValueError(f"{n.target}: it takes the channels {low} to {high} of {count}")
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.numel() > max(1, len(value) if value.dim() else 1) * _LARGEST_VALUE:
            raise ValueError(f"{n.name}: a value of {list(value.shape)} is too large")
        return value


def logits_sizes(graph: Graph, sizes: Mapping[int, Size], image_size: Size) -> tuple[Size, ...]:
    """The sizes of all tensors that are returned, without the batch, whatever the batch is.

    Args:
        graph: the spiking graph.
        sizes: of what the nodes of the body give, without the batch; the last is what the tail reads.
        image_size: of an image, without the batch.

    Raises:
        FileError: the tail cannot be run, or gives no logits for each image.
    """
    decode = next(iter(graph.nodes(Decode)))
    tail = copied(graph.behind(decode), lambda tensor: tensor.to("meta"))
    layers: dict[str, Any] = {graph.name(node): graph[node] for node in graph.nodes(Channels)}
    chosen = {name: (int(layer.index.min()), int(layer.index.max())) for name, layer in layers.items()}
    module = graph[decode]
    assert isinstance(module, Decode)
    found = []
    for batch in (2, 3):
        value = torch.empty(batch, *sizes[max(sizes)], dtype=module.spike_value.dtype, device="meta")
        images = torch.empty(batch, *graph.image_form.with_time(image_size), device="meta")
        try:
            with torch.no_grad():
                logits = _Sizes(tail, chosen).run(value, images)
        except Exception as error:  # of any kind: the file says what is called
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise FileError(f"{DAMAGED} its tail does not fit together: {short(reason)}") from error
        leaves = [leaf for leaf in tree_leaves(logits) if leaf is not None]
        if not leaves or not all(_has_rows(leaf, batch) for leaf in leaves):
            raise FileError(f"{DAMAGED} its tail does not give logits for each image")
        found.append(tuple(tuple(leaf.shape[1:]) for leaf in leaves))
    if found[0] != found[1]:
        raise FileError(f"{DAMAGED} what its tail gives depends on the number of images")
    return found[0]


def _has_rows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == count and value.numel() > 0
