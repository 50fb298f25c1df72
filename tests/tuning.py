"""A small network in front of fine-tuning, data that it can learn, and the pass with options that tests share."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.layers import LowBit
from fxsnn.passes import (
    CalibrateThresholds,
    Canonicalize,
    Finetune,
    FoldBatchNorm,
    QuantizeWeights,
    SubstituteSpikes,
)
from fxsnn.rewriting import Pipeline
from tests.nets import Small, images, seeded

LABELS = torch.arange(96) % 5
IMAGES = images(96) / 2 + (LABELS - 2).view(-1, 1, 1, 1)  # the class is the brightness
DATA = (IMAGES, LABELS)


def quantised(model: nn.Module | None = None, bits: int = 2, codebook: str = "symmetric") -> Graph:
    quantise = QuantizeWeights(bits, codebook=codebook)
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), quantise)
    return Pipeline(passes).run(model or seeded(Small))


GRAPH = quantised()
V1 = fxsnn.get_target("hw_v1.0")


def finetune(data: Any = DATA, **options: Any) -> Finetune:
    return Finetune(
        data,
        **{"epochs": 2, "spiking_epochs": 0, "lr": 0.02, "batch_size": 32, "timesteps": 8, "target": V1, **options},
    )


@functools.cache
def tuned(**options: Any) -> Graph:
    """What fine-tuning makes of the small network; made once for all calls with the same options."""
    return finetune(**options)(GRAPH).after


def layers(graph: Graph) -> list[Any]:
    return [graph[node] for node in graph.nodes(LowBit)]


def right(graph: Graph, data: Any = DATA) -> float:
    """Share of the images that the spiking network of a graph classifies right."""
    network = fxsnn.SpikingNetwork(SubstituteSpikes(V1, 8)(graph).after, V1)
    with torch.no_grad():
        return float((network(data[0]).argmax(1) == data[1]).float().mean())
