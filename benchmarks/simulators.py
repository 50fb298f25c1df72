"""Our simulator against those that people would use otherwise: the same network, the same images, in turn.

    pip install 'fxsnn[benchmarks]'
    python benchmarks/simulators.py --out docs/benchmarks

Every round runs every contender once, so that a machine that is slow for a while is slow for all; figures are medians,
and ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.engine import engine_for
from fxsnn.engine.circuit import circuit_of

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from networks import ColourNet, DigitNet, ResNet20, SeparableNet
from peers import COMPILED_PEERS, GPU_PEERS, PEERS, Contender, float_network, ours
from simulators_report import FLOAT, FLOATS, HALF, OURS, Figure, Results, Row, machine, results_table, write


@dataclass(frozen=True)
class Network:
    """What is run.

    Attributes:
        build: builds it.
        shape: of an image.
        bits: of weights.
        target: chip.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    bits: int
    target: str = "hw_v1.0"


NETWORKS: Mapping[str, Network] = {
    "ColourNet": Network(ColourNet, (3, 32, 32), 2),
    "DigitNet": Network(DigitNet, (1, 28, 28), 4),
    "ResNet20": Network(ResNet20, (3, 32, 32), 4, "generic"),
    "SeparableNet": Network(SeparableNet, (3, 32, 32), 4, "generic"),
}

_SEEN = 64
"""Images that the conversion sees."""
_TRIAL_STEPS = 4
"""Layouts are tried with at most so many steps."""


@dataclass(frozen=True)
class Setting:
    """What is run.

    Attributes:
        batch: images at a time.
        timesteps: T.
    """

    batch: int
    timesteps: int


# The network and the contenders --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bench:
    """What all settings share: a network before and after conversion, and images."""

    model: nn.Module
    snn: fxsnn.SpikingNetwork
    images: Tensor


def bench_for(name: str, seed: int, count: int, device: str) -> Bench:
    """A network with random weights whose batch norms know their statistics, converted for noise images."""
    network = NETWORKS[name]
    torch.manual_seed(seed)
    model = with_statistics(network.build(), network.shape)
    images = torch.randn(count, *network.shape, generator=torch.Generator().manual_seed(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)  # random weights need no fine-tuning
        given: dict[str, Any] = {"calibration_data": images[:_SEEN], "correction": None, "average_pool": "plain"}
        snn = fxsnn.convert(model, target=network.target, bits=network.bits, **given)
    return Bench(model.to(device), snn.to(device), images.to(device))


def with_statistics(model: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The network in evaluation mode, its batch norms having seen some batches: neurons then fire at sensible rates."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    model.train()
    with torch.no_grad():
        for _ in range(8):
            model(torch.randn(16, *shape))
    return model.eval()


def contenders(model: nn.Module, *, compiled: bool, device: str) -> dict[str, Contender]:
    """All that can run here, by name."""
    gpu = device == "cuda"
    peers = {**PEERS, **(GPU_PEERS if gpu else {}), **(COMPILED_PEERS if compiled else {})}
    for name, contender in peers.items():
        if not contender.installed:
            print(f"{name} is left out: pip install 'fxsnn[benchmarks]'", file=sys.stderr)
    installed = {name: contender for name, contender in peers.items() if contender.installed}
    floats = {FLOAT: float_network(model), **({HALF: float_network(model, torch.float16)} if gpu else {})}
    return {OURS: ours("auto"), f"{OURS}, engine torch": ours("torch"), **installed, **floats}


def fastest_layout(contender: Contender, bench: Bench, setting: Setting) -> str:
    """The layout in which a contender is fastest on the first few steps."""
    if len(contender.layouts) == 1:
        return contender.layouts[0]
    images = bench.images[: setting.batch]
    steps = min(_TRIAL_STEPS, setting.timesteps)
    runners = {layout: partial(contender.prepare(bench.snn, steps, layout), images) for layout in contender.layouts}
    for run in runners.values():
        run()
    times = in_turn(runners, rounds=3, device=images.device)
    return min(times, key=lambda layout: min(times[layout]))


# Time ----------------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long a run takes."""
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def in_turn(runners: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every round; each round runs all, and each begins with another one."""
    names = list(runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(runners[name], device))
    return times


def measure(bench: Bench, setting: Setting, options: argparse.Namespace) -> list[Row]:
    """All contenders in one setting."""
    images = bench.images[: setting.batch]
    entered, layouts, runners, logits = {}, {}, {}, {}
    for name, contender in contenders(bench.model, compiled=options.compile, device=options.device).items():
        try:
            layouts[name] = fastest_layout(contender, bench, setting)
            runners[name] = contender.prepare(bench.snn, setting.timesteps, layouts[name])
            logits[name] = runners[name](images)  # it warms them up as well
        except Exception as error:
            if contender.package is None:
                raise
            runners.pop(name, None)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            print(f"{name} is left out of {setting}: {reason}", file=sys.stderr)
        else:
            entered[name] = contender
    times = in_turn({name: partial(run, images) for name, run in runners.items()}, options.rounds, images.device)
    return [
        Row(
            contender=name,
            layout=layouts[name] if len(contender.layouts) > 1 else "",
            batch=setting.batch,
            timesteps=setting.timesteps,
            seconds=tuple(times[name]),
            same_class=None if name in FLOATS else share_of_same_class(logits[name], logits[OURS]),
            deviation=None if name in FLOATS else float((logits[name] - logits[OURS]).abs().max()),
            memory=memory_of(name, contender, layouts[name], bench, setting, options),
        )
        for name, contender in entered.items()
    ]


def share_of_same_class(logits: Tensor, others: Tensor) -> float:
    """Share of the images whose largest logit stands at the same place."""
    return float((logits.argmax(1) == others.argmax(1)).float().mean())


# Memory --------------------------------------------------------------------------------------------------------------


def memory_of(
    name: str, contender: Contender, layout: str, bench: Bench, setting: Setting, options: argparse.Namespace
) -> float | None:
    """MiB that a first run needs at its peak beyond network and images; `None` where that cannot be known.

    On the CPU a process of its own measures it, on a GPU PyTorch's allocator knows.
    """
    if contender.cold:
        return None
    if options.device == "cuda":
        run, images = contender.prepare(bench.snn, setting.timesteps, layout), bench.images[: setting.batch]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(images)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    command = [sys.executable, __file__, "--memory", name, layout, str(setting.timesteps), str(setting.batch)]
    command += ["--network", options.network, "--seed", str(options.seed), "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1]
        print(f"memory of {name} is not known: {reason}", file=sys.stderr)
        return None
    return float(done.stdout.splitlines()[-1])


def print_memory(options: argparse.Namespace) -> None:
    """What `memory_of` reads."""
    name, layout, timesteps, batch = options.memory
    bench = bench_for(options.network, options.seed, max(64, int(batch)), "cpu")
    contender = contenders(bench.model, compiled=False, device="cpu")[name]
    run, images = contender.prepare(bench.snn, int(timesteps), layout), bench.images[: int(batch)]
    with torch.inference_mode():
        contender.prepare(bench.snn, 1, layout)(images[:1])  # loads libraries and compiled code
        forget_peak()
        before = process_memory("VmRSS")
        run(images)
    print(process_memory("VmHWM") - before)


def forget_peak() -> None:
    """Let the peak of this process start from what it holds now.

    Linux hands the peak of a parent down to its children in `ru_maxrss`, so that it says nothing about them.
    """
    gc.collect()
    with suppress(AttributeError):  # other C libraries than glibc keep what they keep
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def process_memory(entry: str) -> float:
    """An entry of this process's status on Linux, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024


# What surrounds the times --------------------------------------------------------------------------------------------


def firing_rates(bench: Bench, timesteps: int) -> dict[str, float]:
    """Spikes per neuron and step of each layer, on a few images."""
    bench.snn.timesteps = timesteps
    return bench.snn.simulate(bench.images[:4]).firing_rates


def roofline(bench: Bench) -> tuple[Figure, ...]:
    """How close our engine comes to the machine's limits; empty where another one than that of the CPU runs."""
    circuit = circuit_of(bench.snn.graph)
    engine = engine_for("auto", circuit)
    if engine is None or engine.name != "numba":
        return ()
    from roofline import roofline_of  # it needs numba

    with torch.no_grad():
        return roofline_of(circuit, bench.images)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--network", choices=NETWORKS, default="ColourNet")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="let PyTorch compile a peer too; a minute a setting")
    parser.add_argument("--out", type=Path, default=Path("out/simulators"))
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    if options.memory:
        print_memory(options)
        return 0
    bench = bench_for(options.network, options.seed, max(64, *options.batch), options.device)
    rows: list[Row] = []
    with torch.inference_mode():
        for setting in (Setting(batch, timesteps) for batch in options.batch for timesteps in options.timesteps):
            rows += (measured := measure(bench, setting, options))
            print(f"{results_table(measured)}\n", flush=True)
        rates = firing_rates(bench, max(options.timesteps))
    network = f"{options.network}, {NETWORKS[options.network].bits} bits, random weights, seed {options.seed}"
    results = Results(machine(network, options.device, given), tuple(rows), rates, roofline(bench))
    write(options.out, results)
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
