"""How long a stream takes for one frame, beside a whole run: networks with random weights, one source or several.

    python benchmarks/streaming.py --rounds 5

Every round runs all of them once, so that a machine that is slow for a while is slow for all; figures are medians. The
whole run is one call of the network with as many frames, divided by their number.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

import fxsnn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from simulators import NETWORKS
from simulators_report import markdown, processor

_FRAMES = 32


def contenders(name: str, sources: int, frames: int) -> Mapping[str, Callable[[], Tensor]]:
    """What runs the network on some frames of each source."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    model, moving = network.build().eval(), torch.rand(max(sources, 2), frames, *network.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        snn = fxsnn.convert(
            model, target="generic", bits=network.bits, input="frames", calibration_data=moving, correction=None
        )
    moving = moving[:sources]

    def streamed(engine: str) -> Tensor:
        snn.engine = engine
        with snn.stream(sources) as stream:
            for step in range(frames):
                logits: Tensor = stream(moving[:, step])
        return logits

    def whole() -> Tensor:
        snn.engine = "auto"
        found: Tensor = snn(moving)
        return found

    expected = whole()
    for engine in ("auto", "torch"):  # compiled, and right, before anything is timed
        torch.testing.assert_close(streamed(engine), expected, rtol=1e-4, atol=1e-4)
    return {"stream": lambda: streamed("auto"), "stream, PyTorch": lambda: streamed("torch"), "one run": whole}


def measured(name: str, sources: int, frames: int, rounds: int) -> dict[str, float]:
    """Milliseconds for a frame of each source, by contender."""
    found = contenders(name, sources, frames)
    times: dict[str, list[float]] = {one: [] for one in found}
    for _ in range(rounds):
        for one, run in found.items():
            start = time.perf_counter()
            run()
            times[one].append(1000 * (time.perf_counter() - start) / frames)
    return {one: statistics.median(all_of) for one, all_of in times.items()}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=["DigitNet", "ColourNet", "ResNet20"], choices=list(NETWORKS))
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--frames", type=int, default=_FRAMES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    for name in options.networks:
        for sources in options.sources:
            found = measured(name, sources, options.frames, options.rounds)
            rows.append([name, str(sources), *(f"{value:.2f}" for value in found.values())])
    print(f"{processor()}; {torch.get_num_threads()} threads; milliseconds for a frame of each source\n")
    print(markdown(["network", "sources", "stream", "stream, PyTorch", "one run"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
