"""How close the CPU engine's two parts come to what the machine can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from simulators_report import Figure
from torch import Tensor

from fxsnn.engine.avx2 import fire_convolution
from fxsnn.engine.circuit import Circuit
from fxsnn.engine.cpu import constants_of, workspace_for
from fxsnn.engine.layout import layout_of
from fxsnn.engine.lookups import weights_of
from fxsnn.engine.operations import ConstantLayer, Piece
from fxsnn.engine.planes import LANES
from fxsnn.engine.planning import plan_of
from fxsnn.engine.tables import CHANNELS, convolution_tables
from fxsnn.layers import SpikeConv2d

_STEPS = 16
_IMAGES = 2
_ROUNDS = 5
"""All is measured so often, in turn; the best counts."""


def best(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def roofline_of(circuit: Circuit, images: Tensor) -> tuple[Figure, ...]:
    """What one core does, held against what it could do at most.

    Convolutions are held against the same lookups with everything in the first cache, the pass over time against a
    plain copy: it writes a byte for four neurons a step and reads their sums once for all, so that computing bounds it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = [
            (lookup_peak(), copy_bandwidth(), float_convolution(circuit), *layers(circuit, images))
            for _ in range(_ROUNDS)
        ]
    finally:
        torch.set_num_threads(threads)
    peak, copied, single, products, neurons, moved = (max(values) for values in zip(*rounds, strict=True))
    return (
        Figure("lookups in the first cache, multiply-accumulates", peak, peak),
        Figure("convolutions of the network, neurons included, multiply-accumulates", products, peak),
        Figure("float32 convolution in PyTorch, multiply-accumulates", single, peak),
        Figure("copy, bytes", copied, copied),
        Figure("pass over time under a constant drive, bytes", moved, copied),
        Figure("the same, bytes if it read drives of int32 at every step", 4 * neurons, copied),
    )


def float_convolution(circuit: Circuit) -> float:
    """PyTorch's float32 convolution in the shape of the network's second layer, channels last, 32 x 32."""
    codes = next(layer.codes for _, layer in circuit.layers[1:] if isinstance(layer, SpikeConv2d)).float()
    x = torch.randn(8, codes.shape[1], 32, 32).contiguous(memory_format=torch.channels_last)
    weight = codes.contiguous(memory_format=torch.channels_last)
    return x.shape[0] * 32 * 32 * codes.numel() / best(lambda: F.conv2d(x, weight, padding="same")) / 1e9


def lookup_peak() -> float:
    """The engine's own loop on 64 places of one plane, with so many lookups that neurons hardly count."""
    channels = 800
    tables = convolution_tables(np.ones((CHANNELS, channels, 1, 1), np.int8), 1)
    given = np.ones((_STEPS, 1, LANES), np.uint8)
    membranes = np.zeros((1, 1, CHANNELS, LANES), np.int32)
    neurons, starts = np.ones((1, CHANNELS, 3), np.int32), np.zeros((1, CHANNELS), np.int32)
    mask, spikes = np.full(LANES, 15, np.uint8), np.zeros((_STEPS, 1, LANES), np.uint8)
    sources = np.zeros(len(tables.tables), np.int64)

    def run() -> None:
        for _ in range(20):
            fire_convolution(
                tables.tables, sources, tables.flushes, tables.blocks, neurons, starts, True, False, mask, given,
                membranes, 1, spikes, 0, None, None, None,
            )  # fmt: skip

    return 20 * _STEPS * LANES * CHANNELS * channels / best(run) / 1e9


def layers(circuit: Circuit, images: Tensor) -> tuple[float, float, float]:
    """Multiply-accumulates of the convolutions; neurons times steps, and bytes, of the first layer's pass over time."""
    weights = weights_of(circuit)
    layout = layout_of(circuit, weights, tuple(images.shape[1:]))
    space = workspace_for(plan_of(circuit, weights, layout, _IMAGES), _STEPS)
    constants = constants_of(circuit, weights, images[:_IMAGES], _IMAGES, space.plan.numbers)
    dynamics = replace(circuit.decode.dynamics, timesteps=_STEPS)
    piece = Piece(space.memory, space.origins, space.plan.shapes(), constants, _STEPS, True, dynamics)
    products = taken = fired = moved = 0.0
    for operation, membranes in zip(space.plan.operations, space.membranes, strict=True):
        elapsed = best(partial(operation.run, piece, membranes, None))
        steps = _IMAGES * operation.channels * operation.grid.size[0] * operation.grid.size[1] * _STEPS
        layer = dict(circuit.layers).get(operation.name)
        if isinstance(operation, ConstantLayer):
            fired = steps / elapsed
            moved = (constants[operation.number].nbytes + piece.planes(operation.number).nbytes) / elapsed
        elif isinstance(layer, SpikeConv2d):
            products += steps * layer.codes[0].numel()
            taken += elapsed
    return products / taken / 1e9, fired / 1e9, moved / 1e9


def copy_bandwidth() -> float:
    """Bytes read and written by a copy far larger than the caches."""
    source = np.ones(1 << 27, np.uint8)
    target = np.ones_like(source)
    return 2 * source.nbytes / best(lambda: np.copyto(target, source), 5) / 1e9
