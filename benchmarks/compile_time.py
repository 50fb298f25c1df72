"""How long checking and converting take: networks of fifty layers, without data.

    OMP_NUM_THREADS=1 python benchmarks/compile_time.py

Each round does everything once; figures are medians of processor seconds, which other programs hardly change, and of
seconds on the clock.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from simulators_report import processor
from torch import Tensor, nn

import fxsnn

_STAGES = 4
"""Behind each but the last, images are half as high and wide, and layers have twice as many channels."""

_OPTIONS: dict[str, Any] = {"target": "generic", "bits": 4}


Seconds: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
"""Of the processor, and on the clock."""


# Networks -------------------------------------------------------------------------------------------------------------


def convolutions(depth: int, width: int) -> Iterator[tuple[nn.Conv2d, bool]]:
    """All layers with weights but the last one, and whether a pooling stands behind.

    Args:
        depth: so many layers with weights.
        width: channels of the first stage.
    """
    count, channels = depth - 1, 3
    for place in range(count):
        stage, following = (_STAGES * one // count for one in (place, place + 1))
        yield nn.Conv2d(channels, width << stage, 3, padding=1), stage < following < _STAGES
        channels = width << stage


def chain(depth: int, width: int) -> nn.Module:
    """Convolution, batch norm, ReLU, over and over, as modules."""
    layers: list[nn.Module] = []
    for convolution, pooled in convolutions(depth, width):
        layers += [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]
        layers += [nn.AvgPool2d(2)] if pooled else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(10))


class Functional(nn.Module):
    """The same without batch norms, with functions, and a forward that computes with sizes."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        layers, self.pooled = zip(*convolutions(depth, width), strict=True)
        self.layers, self.fc = nn.ModuleList(layers), nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images [N, 3, H, W]."""
        assert x.shape[1] == 3
        for layer, pooled in zip(self.layers, self.pooled, strict=True):
            x = F.relu(layer(x), inplace=True)
            x = F.avg_pool2d(x, 2) if pooled else x
        count, channels, height, width = x.size()
        return self.fc(F.avg_pool2d(x, (height, width)).view(count, channels))


NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {"modules": chain, "functions and sizes": Functional}


# Measuring ------------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], object]) -> Seconds:
    """How long a call takes."""
    clock, own = time.perf_counter(), time.process_time()
    run()
    return np.array([time.process_time() - own, time.perf_counter() - clock])


def one_round(model: nn.Module, snn: fxsnn.SpikingNetwork, images: Tensor) -> dict[str, Seconds]:
    """Everything once: a network, what was converted of it, and images on which rewrites are verified."""
    passes, graph = fxsnn.pipeline(**_OPTIONS).passes, fxsnn.capture(model)
    check = timed(lambda: fxsnn.check(model, **_OPTIONS))
    convert = timed(lambda: fxsnn.convert(model, **_OPTIONS))
    verified, unverified = (timed(partial(rewrite, passes, graph, example)) for example in (images, None))
    engine = timed(lambda: snn.verify_engine(images))
    verification = verified - unverified + engine
    return {"check": check, "convert": convert, "of which verification": verification, "rest": convert - verification}


def rewrite(passes: Sequence[fxsnn.Pass], graph: fxsnn.Graph, example: Tensor | None) -> fxsnn.Graph:
    """Run all passes, with verification or without."""
    for one in passes:
        graph = one(graph, example).after
    return graph


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description="How long checking and converting take.")
    parser.add_argument("--depth", type=int, default=50, help="layers with weights")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layers")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    print(f"{processor()}; {torch.get_num_threads()} thread(s) of PyTorch")
    print(f"Python {platform.python_version()}, PyTorch {torch.__version__}, fxsnn {fxsnn.__version__}")
    print(f"{shlex.join(['python', 'benchmarks/compile_time.py', *arguments])}\n")
    print("| network | | processor seconds | seconds |\n|---|---|---|---|")
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)  # thresholds without data
    for name, build in NETWORKS.items():
        model = build(options.depth, options.width).eval()
        images = torch.randn(2, 3, 32, 32)
        model(images)
        first = timed(partial(fxsnn.check, model, **_OPTIONS))
        snn = fxsnn.convert(model, **_OPTIONS)
        rounds = [one_round(model, snn, images) for _ in range(options.rounds)]
        medians = {what: np.median([one[what] for one in rounds], axis=0) for what in rounds[0]}
        for what, (own, clock) in {"first check": first, **medians}.items():
            print(f"| {name} | {what} | {own:.2f} | {clock:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
