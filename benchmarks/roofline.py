"""How close the CPU engine comes to what one core of the machine can do at most, for each of its instruction sets.

    python benchmarks/roofline.py --out docs/benchmarks

What a core does at most is measured by bare loops of the instructions (`bare_loops.py`). Beside it stand PyTorch's
float32 convolution and one forward of the float network, on the same images. All is measured in turn, several times.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from bare_loops import best, copies, rate
from simulators_report import Figure, markdown
from torch import Tensor, nn

import fxsnn
from fxsnn.engine.circuit import Circuit, circuit_of
from fxsnn.engine.cpu import NumbaEngine, chosen, images_together, workspace_for
from fxsnn.engine.instructions import InstructionSet, usable
from fxsnn.engine.layout import layout_of
from fxsnn.engine.lookups import weights_of
from fxsnn.engine.operations import Piece
from fxsnn.engine.planning import plan_of
from fxsnn.engine.workspaces import OfImages
from fxsnn.layers import SpikeConv2d
from fxsnn.storage import write_whole

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from accuracy_report import machine
from networks import ColourNet, DigitNet, PoolingVGG, ResNet20

_STEPS = 16
_BYTES_OF_SUM = 4
"""What is read of a neuron of the first layer, once for all steps."""
_BATCH = 64
_ROUNDS = 5
"""All is measured so often, in turn."""
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "ColourNet, 2 bits": (ColourNet, (3, 32, 32), 2),
    "ColourNet, 4 bits": (ColourNet, (3, 32, 32), 4),
    "PoolingVGG, 4 bits": (partial(PoolingVGG, nn.AvgPool2d), (3, 32, 32), 4),
    "ResNet20, 4 bits": (ResNet20, (3, 32, 32), 4),
    "DigitNet, 4 bits": (DigitNet, (1, 28, 28), 4),
}
"""What builds them, the size of their images, and bits of weights; the first is looked at layer by layer."""


@dataclass(frozen=True)
class Layer:
    """What an operation did.

    Attributes:
        name: of the layer; "" of spikes that are only put elsewhere.
        seconds: for an image.
        products: billions of multiply-accumulates a second, 0 where there are none.
        fired: billions of neurons times steps a second.
        moved: billions of bytes a second that were read and written, of the first layer; 0 of others.
    """

    name: str
    seconds: float
    products: float
    fired: float
    moved: float


def roofline_of(circuit: Circuit, images: Tensor) -> tuple[Figure, ...]:
    """What one core does, held against what it could do at most.

    Convolutions are held against bare instructions, the pass over time against a plain copy: it writes a byte for some
    neurons a step and reads their sums once for all, so that computing bounds it.
    """
    how = chosen()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        limits = [(rate(how), copies(), float_convolution(circuit)) for _ in range(_ROUNDS)]
        done = [layers(circuit, images, how) for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    peak, copied, single = (max(values) for values in zip(*limits, strict=True))
    products = max(_together([one for one in found if one.products]) for found in done)
    first = [one for found in done for one in found if one.moved]
    neurons, moved = max(one.fired for one in first), max(one.moved for one in first)
    return (
        Figure("the instructions of the engine alone, multiply-accumulates", peak, peak),
        Figure("convolutions of the network, neurons included, multiply-accumulates", products, peak),
        Figure("float32 convolution in PyTorch, multiply-accumulates", single, peak),
        Figure("copy, bytes", copied, copied),
        Figure("pass over time under a constant drive, bytes", moved, copied),
        Figure("the same, bytes if it read drives of int32 at every step", 4 * neurons, copied),
    )


def _together(found: Sequence[Layer]) -> float:
    """Multiply-accumulates of several layers."""
    return sum(one.products * one.seconds for one in found) / sum(one.seconds for one in found)


def float_convolution(circuit: Circuit) -> float:
    """PyTorch's float32 convolution in the shape of the network's second layer, channels last, 32 x 32."""
    codes = next(layer.codes for _, layer in circuit.layers[1:] if isinstance(layer, SpikeConv2d)).float()
    x = torch.randn(8, codes.shape[1], 32, 32).contiguous(memory_format=torch.channels_last)
    weight = codes.contiguous(memory_format=torch.channels_last)
    return x.shape[0] * 32 * 32 * codes.numel() / best(lambda: F.conv2d(x, weight, padding="same")) / 1e9


def layers(circuit: Circuit, images: Tensor, how: InstructionSet) -> tuple[Layer, ...]:
    """What each operation does on as many images as the engine takes together, in 16 steps."""
    weights = weights_of(circuit, how)
    layout = layout_of(circuit, weights, tuple(images.shape[1:]), how)
    together = images_together(layout, _STEPS, len(images), 1)
    space = workspace_for(plan_of(circuit, weights, layout, together, _STEPS), circuit, _STEPS)
    driven = space.drive(OfImages(circuit, weights, images[:together]))
    dynamics = replace(circuit.decode.dynamics, timesteps=_STEPS)
    piece = Piece(space.memory, space.origins, space.plan.shapes, driven, 0, _STEPS, _STEPS, True, dynamics)
    first = {number for call, number in space.plan.numbers.items() if circuit.is_driven(call)}
    found = []
    for operation in space.plan.operations:
        elapsed = best(partial(space.run, piece, range(operation.number, operation.number + 1), None))
        neurons = together * operation.channels * operation.grid.size[0] * operation.grid.size[1]
        steps, layer = neurons * _STEPS, dict(circuit.layers).get(operation.name)
        products = moved = 0.0
        if operation.number in first:
            moved = (_BYTES_OF_SUM * neurons + operation.spikes(piece).nbytes) / elapsed / 1e9
        elif isinstance(layer, SpikeConv2d):
            products = steps * layer.codes[0].numel() / elapsed / 1e9
        found.append(Layer(operation.name, elapsed / together, products, steps / elapsed / 1e9, moved))
    return tuple(found)


def _converted(name: str, timesteps: int) -> tuple[nn.Module, Circuit, Tensor]:
    """A float network with random weights, what it becomes, and images."""
    build, size, bits = NETWORKS[name]
    torch.manual_seed(0)
    model, images = build().eval(), torch.rand(_BATCH, *size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        options: dict[str, Any] = {"calibration_data": images, "correction": None, "average_pool": "plain"}
        snn = fxsnn.convert(model, target="generic", bits=bits, timesteps=timesteps, **options)
    return model, circuit_of(snn.graph), images


def by_layer(circuit: Circuit, images: Tensor, rounds: int = _ROUNDS) -> list[list[str]]:
    """A row for each convolution of spikes: what it does with each instruction set, and the share of bare loops."""
    sets = usable()
    bare = dict.fromkeys(sets, 0.0)
    done: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, how in sets.items():
            bare[name] = max(bare[name], rate(how))
            for one in layers(circuit, images, how):
                if one.products:
                    of_layer = done.setdefault(one.name, dict.fromkeys(sets, 0.0))
                    of_layer[name] = max(of_layer[name], one.products)
    rows = [["bare loop", *(f"{bare[name]:,.0f}" for name in sets)]]
    return rows + [
        [layer, *(f"{rates[name]:,.0f} ({rates[name] / bare[name]:.0%})" for name in sets)]
        for layer, rates in done.items()
    ]


def whole(name: str, timesteps: int, rounds: int = _ROUNDS) -> list[str]:
    """A row: medians in milliseconds for 64 images, with each instruction set, and of forwards of the float network."""
    model, circuit, images = _converted(name, timesteps)
    forward = partial(model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last))

    def in_fewer_bits() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward()

    engines = {of: partial(NumbaEngine(circuit, how).counts, images) for of, how in usable().items()}
    runs: dict[str, Callable[[], Tensor]] = {**engines, "float32": forward, "bfloat16": in_fewer_bits}
    times: dict[str, list[float]] = {of: [] for of in runs}
    for _ in range(rounds + 1):
        for of, run in runs.items():
            times[of].append(best(run, 1))
    found = {of: 1e3 * median(values[1:]) for of, values in times.items()}  # the first round makes memory
    return [name, str(timesteps), *(f"{value:,.1f}" for value in found.values())]


def document(layered: Sequence[Sequence[str]], compared: Sequence[Sequence[str]], rounds: int) -> str:
    """The Markdown page."""
    sets, first = list(usable()), next(iter(NETWORKS))
    layers_of = (
        "Billions of multiply-accumulates a second that lookups stand for, or that AMX does, the best of "
        f"{rounds} rounds; in brackets, the share of a bare loop of the same instructions, which computes no neurons: "
        "its tables stand in registers, its tiles in the first cache. "
        f"{first}, T = {_STEPS}; neurons, and places or channels without one, are in the time."
    )
    networks = f"Milliseconds for {_BATCH} images, medians of {rounds} interleaved rounds; the first layer is in them."
    parts = [
        "# The CPU engine and what the processor can do",
        f"One core, random weights, seed 0. {machine()}. Made by `python benchmarks/roofline.py`.",
        *("## Layers", layers_of, markdown(["layer", *sets], layered)),
        *("## Whole networks", networks),
        markdown(["network", "T", *sets, "float32 forward, PyTorch", "in bfloat16"], compared),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="The CPU engine and what one core can do at most.")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--timesteps", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("out/roofline"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.no_grad():
        _, circuit, images = _converted(next(iter(NETWORKS)), _STEPS)
        layered = by_layer(circuit, images, options.rounds)
        compared = [whole(name, t, options.rounds) for name in options.networks for t in options.timesteps]
    page = document(layered, compared, options.rounds)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "roofline.md", page.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
