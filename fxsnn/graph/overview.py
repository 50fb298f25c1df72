"""The layers of a graph at any stage of the compilation: weight bits, steps, thresholds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxsnn.graph.graph import Graph
from fxsnn.graph.kinds import Pooling, Weighted
from fxsnn.layers import Add, ClippedReLU, Integers, LowBit, Spiking

HEADER = ("layer", "is a", "bits", "codebook", "weight step", "threshold", "levels")


def layer_rows(graph: Graph) -> list[tuple[str, ...]]:
    """A row for each layer that is to spike, and each weighted input of a sum, header first.

    What a stage does not know yet, or a weighted input does not have, is a dash.

    The threshold is in activation units until the layer spikes, and the integers of its channels afterwards.
    """
    rows: list[tuple[str, ...]] = [HEADER]
    for node in graph.body(*Weighted, *Pooling, Add, Integers):
        module: Any = graph[node]
        bits, codebook, step, threshold, levels = "-", "-", "-", "-", "-"
        if graph.spikes(node):
            if module.bits:
                bits, codebook, step = str(module.bits), str(module.codebook), _range(module.step)
            if graph.is_a(node, Spiking):
                threshold, levels = _range(module.threshold), str(module.dynamics.timesteps)
        else:
            if isinstance(module, LowBit):
                bits, codebook, step = str(module.bits), str(module.codebook), _range(module.step.detach())
            behind = graph.sole_user(node)
            if behind is not None and graph.is_a(behind, ClippedReLU):
                clipped: Any = graph[behind]
                threshold = f"{clipped.threshold:.4g}"
                levels = str(clipped.levels) if clipped.levels else "-"
        rows.append((graph.name(node), type(module).__name__, bits, codebook, step, threshold, levels))
    return rows


def _range(values: Tensor) -> str:
    form = ".4g" if values.is_floating_point() else "d"
    low, high = (f"{end.item():{form}}" for end in torch.aminmax(values))
    return low if low == high else f"{low}..{high}"
