"""How much faster several processes are than one, here; and by arithmetic elsewhere.

    python benchmarks/scaling.py --rounds 3

Every round runs every setting once, so that a machine that is slow for a while is slow for all; figures are medians.
The times are of the work alone, without the start of Python. Networks and images are random.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

import fxsnn
from fxsnn.insight import accuracy_over_time

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from simulators import NETWORKS
from simulators_report import markdown, processor

_RESULT = "seconds: "
_BATCH = 64
_TIMESTEPS = 8
WORKS = ("calibration", "correction", "epoch", "spiking epoch", "accuracy")
"""What is measured, in this order."""


@dataclass(frozen=True)
class Setting:
    """How it is run: so many processes, with so many threads each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        """As a column's name."""
        process = "process" if self.processes == 1 else "processes"
        return f"{self.processes} {process}, {self.threads} thread{'s' * (self.threads > 1)} each"


def work(name: str, images: int) -> dict[str, float]:
    """Seconds of each kind of work, by this process and those that work with it."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    model, x = network.build().eval(), torch.randn(images, *network.shape)
    with torch.no_grad():
        y = model(x).argmax(1)
    batches = list(zip(x.split(_BATCH), y.split(_BATCH), strict=True))
    found: dict[str, float] = {}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        found[what] = time.perf_counter() - start

    def tune(epochs: int, spiking_epochs: int) -> fxsnn.Finetune:
        return fxsnn.Finetune(
            batches,
            epochs=epochs,
            spiking_epochs=spiking_epochs,
            validation=[(x[:1], y[:1])],
            timesteps=_TIMESTEPS,
            lr=1e-3,
            target=fxsnn.get_target(network.target),
        )

    passes = fxsnn.pipeline(target=network.target, bits=network.bits, timesteps=_TIMESTEPS, calibration_data=batches)
    before, after = passes.split("fold-batch-norm")
    graph = before.run(model)
    for one in after.passes:
        named = {"calibrate-thresholds": "calibration", "correct-layers": "correction"}.get(one.name)
        if one.name == "substitute-spikes":
            for what, epochs in (("epoch", (1, 0)), ("spiking epoch", (0, 1))):
                with timed(what):
                    tune(*epochs)(graph)
        with timed(named) if named else nullcontext():
            graph = one(graph).after
    snn = fxsnn.SpikingNetwork(graph, fxsnn.get_target(network.target))
    snn(x[:2])  # compiled before it is timed
    with timed("accuracy"):
        accuracy_over_time(snn, batches, _TIMESTEPS)
    return found


def worker(name: str, images: int) -> None:
    """Do the work, and let the first process say how long it took."""
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.distributed.init_process_group("gloo")
    with fxsnn.across_processes():
        found = work(name, images)
    if torch.distributed.get_rank() == 0:
        print(_RESULT + json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def run(name: str, images: int, setting: Setting) -> dict[str, float]:
    """Seconds of each kind of work, in processes of their own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.processes)]
    told = subprocess.run(
        [sys.executable, *torchrun, __file__, "--worker", name, "--images", str(images)],
        env={**os.environ, "OMP_NUM_THREADS": str(setting.threads)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    (line,) = [line for line in told.stdout.splitlines() if line.startswith(_RESULT)]
    found: dict[str, float] = json.loads(line.removeprefix(_RESULT))
    return found


def measured(
    names: Sequence[str], images: int, settings: Sequence[Setting], rounds: int
) -> Mapping[tuple[str, Setting], Mapping[str, float]]:
    """Medians of seconds, by network and setting."""
    times: dict[tuple[str, Setting], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name in names:
            for setting in settings:
                times.setdefault((name, setting), []).append(run(name, images, setting))
    return {
        key: {what: statistics.median(one[what] for one in all_of) for what in WORKS} for key, all_of in times.items()
    }


# On paper ------------------------------------------------------------------------------------------------------------


def step_seconds(
    compute: float, parameters: float, processes: int, bandwidth: float, latency: float
) -> tuple[float, float]:
    """Seconds of a step of fine-tuning: of the computing, and of the reduction of gradients, if nothing overlaps.

    A ring sends to each neighbour, in 2 (W - 1) rounds, a W-th of 4 bytes a parameter (Patarasuk and Yuan 2009).

    Args:
        compute: seconds of the global batch on one process.
        parameters: of layers that spike.
        processes: W.
        bandwidth: bytes a second between two neighbours.
        latency: seconds of a message.
    """
    rounds = 2 * (processes - 1)
    return compute / processes, rounds * (4 * parameters / processes / bandwidth + latency)


@dataclass(frozen=True)
class Cluster:
    """Machines on paper."""

    name: str
    processes: int
    bandwidth: float
    latency: float


_CLUSTERS = (
    Cluster("8 GPUs, 100 GB/s", 8, 100e9, 10e-6),
    Cluster("8 GPUs, PCIe 16 GB/s", 8, 16e9, 20e-6),
    Cluster("64 machines, 100 Gbit/s", 64, 12.5e9, 30e-6),
    Cluster("64 machines, 10 Gbit/s", 64, 1.25e9, 50e-6),
)
_PARAMETERS = {"ResNet-20": 0.27e6, "ResNet-18": 11.2e6, "ResNet-50": 23.5e6}


def on_paper(compute: float) -> str:
    """A table of steps whose batch takes one process so many seconds."""
    rows = []
    for network, parameters in _PARAMETERS.items():
        for cluster in _CLUSTERS:
            here, sent = step_seconds(compute, parameters, cluster.processes, cluster.bandwidth, cluster.latency)
            share = compute / (here + sent) / cluster.processes
            sizes = f"{8 * parameters * (1 - 1 / cluster.processes) / 1e6:,.1f} MB"
            rows.append([network, cluster.name, sizes, f"{1e3 * here:,.1f}", f"{1e3 * sent:,.1f}", f"{share:.0%}"])
    return markdown(["network", "processes", "sent by each", "computing, ms", "reducing, ms", "efficiency"], rows)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=["DigitNet", "ResNet20"], choices=list(NETWORKS))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="with a thread each")
    parser.add_argument("--threads", type=int, default=2, help="one process with so many is measured, too")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compute", type=float, default=1.0, help="seconds of a step on one process, on paper")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        worker(options.worker, options.images)
        return 0
    settings = [Setting(1, options.threads), *(Setting(count, 1) for count in options.processes)]
    settings = list(dict.fromkeys(settings))
    found = measured(options.networks, options.images, settings, options.rounds)
    print(f"\n{processor()}, torch {torch.__version__}; {options.images} images, T = {_TIMESTEPS}\n")
    rows = [
        [name, what, *(f"{found[name, setting][what]:.2f}" for setting in settings)]
        for name in options.networks
        for what in WORKS
    ]
    print(markdown(["network", "seconds of", *map(str, settings)], rows))
    print(f"\nSteps of fine-tuning on paper; the batch takes one process {1e3 * options.compute:,.0f} ms\n")
    print(on_paper(options.compute))
    return 0


if __name__ == "__main__":
    sys.exit(main())
