"""Our simulator against those that people would use otherwise: the same network, the same images, in turn.

    pip install 'fxsnn[benchmarks]'
    python benchmarks/simulators.py --out docs/simulators

Every round runs every contender once, so that a machine that is slow for a while is slow for all; figures are medians,
and ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.engine import engine_for
from fxsnn.engine.chain import chain_of

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from networks import ColourNet, DigitNet
from peers import PEERS, Simulator

if TYPE_CHECKING:
    from roofline import Figure

OURS = "fxsnn"
FLOAT, FLOAT_LAST = "float ANN, one forward", "float ANN, channels last"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "ColourNet": (ColourNet, (3, 32, 32), 2),
    "DigitNet": (DigitNet, (1, 28, 28), 4),
}
"""What builds it, the shape of an image, weight bits."""


@dataclass(frozen=True)
class Setting:
    """What is run: images at a time, and T."""

    batch: int
    timesteps: int


@dataclass
class Row:
    """What a contender showed in a setting.

    Attributes:
        contender: its name.
        batch: images at a time.
        timesteps: T.
        seconds: of every round.
        difference: of its logits from ours: mean magnitude over mean magnitude of ours. Peers compute in floats, in
            which a spike can come a step early or late.
        memory: MiB that its process needed at its peak beyond what it had before the run.
    """

    contender: str
    batch: int
    timesteps: int
    seconds: list[float] = field(default_factory=list)
    difference: float = 0.0
    memory: float | None = None

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Images times steps a second; images a second of the float network."""
        return self.batch * (1 if self.contender in (FLOAT, FLOAT_LAST) else self.timesteps) / self.median


def network_and_images(name: str, seed: int, count: int, device: str) -> tuple[nn.Module, Tensor]:
    """A network with random weights, whose batch norms have seen the images, and the images."""
    build, shape, _ = NETWORKS[name]
    torch.manual_seed(seed)
    model, images = build(), torch.randn(count, *shape)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(images)
    return model.eval().to(device), images.to(device)


def converted(name: str, model: nn.Module, images: Tensor, timesteps: int) -> fxsnn.SpikingNetwork:
    """The network as a spiking one; its weights are random, so that fine-tuning would change nothing here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        bits = NETWORKS[name][2]
        return fxsnn.convert(model, target="hw_v1.0", bits=bits, timesteps=timesteps, calibration_data=images)


def contenders(model: nn.Module, snn: fxsnn.SpikingNetwork) -> dict[str, Simulator]:
    """All that can run here, by name."""
    in_pytorch = copy.deepcopy(snn)
    in_pytorch.engine = "torch"
    found: dict[str, Simulator] = {OURS: snn, f"{OURS}, engine torch": in_pytorch}
    for name, (package, build) in PEERS.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is left out: pip install 'fxsnn[benchmarks]'", file=sys.stderr)
            continue
        found[name] = build(snn)
    found[FLOAT] = model
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found[FLOAT_LAST] = lambda given: last(given.contiguous(memory_format=torch.channels_last))
    return found


def seconds(run: Simulator, images: Tensor) -> float:
    """How long a run takes."""
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(setting: Setting, options: argparse.Namespace) -> list[Row]:
    """All contenders in one setting, in turn."""
    model, images = network_and_images(options.network, options.seed, 64, options.device)
    snn = converted(options.network, model, images, setting.timesteps)
    given = images[: setting.batch]
    runners = contenders(model, snn)
    expected = snn(given)
    rows = []
    for name, run in runners.items():
        difference = float((run(given) - expected).abs().mean() / expected.abs().mean())
        rows.append(Row(name, setting.batch, setting.timesteps, difference=difference))
    for number in range(options.rounds):
        for place in range(len(rows)):
            row = rows[(place + number) % len(rows)]
            row.seconds.append(seconds(runners[row.contender], given))
    for row in rows:
        row.memory = memory_of(row, options) if options.device == "cpu" and sys.platform == "linux" else None
    return rows


def memory_of(row: Row, options: argparse.Namespace) -> float:
    """MiB by which a process grows that runs one contender once."""
    command = [sys.executable, __file__, "--memory", row.contender, "--network", options.network]
    command += ["--timesteps", str(row.timesteps), "--batch", str(row.batch), "--threads", str(options.threads)]
    done = subprocess.run([*command, "--seed", str(options.seed)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def print_memory(options: argparse.Namespace) -> None:
    """What `memory_of` reads."""
    model, images = network_and_images(options.network, options.seed, 64, "cpu")
    snn = converted(options.network, model, images, options.timesteps[0])
    given = images[: options.batch[0]].clone()
    run = contenders(model, snn)[options.memory]
    run(given[:1])
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    run(given)
    print((_resident("VmHWM") - before) / 1024)


def _resident(kind: str) -> int:
    """KiB of memory, present or at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{kind}:")))


def ratio(row: Row, other: Row) -> tuple[float, float, float]:
    """How many times longer `row` took than `other`: median, smallest and largest of the rounds."""
    ratios = [one / two for one, two in zip(row.seconds, other.seconds, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


# The roofline --------------------------------------------------------------------------------------------------------


def roofline(options: argparse.Namespace) -> list[Figure]:
    """See `roofline.roofline_of`; empty where the CPU engine cannot run."""
    model, images = network_and_images(options.network, options.seed, 16, "cpu")
    snn = converted(options.network, model, images, 16)
    if engine_for("auto", chain_of(snn.graph)) is None:
        return []
    from roofline import roofline_of

    return roofline_of(chain_of(snn.graph), images)


# The report ----------------------------------------------------------------------------------------------------------


def machine(options: argparse.Namespace) -> dict[str, str]:
    """Where and what was measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        flags = next(line for line in lines if line.startswith("flags")).split()
        vectors = ", ".join(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags)
    except (OSError, StopIteration):
        model, vectors = platform.processor(), "unknown"
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "numba", "spikingjelly", "sinabs") if _has(name)
    }
    device = torch.cuda.get_device_name() if options.device == "cuda" else model
    return {
        "device": f"{device} ({vectors}), {os.cpu_count()} cores",
        "threads": str(options.threads),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "network": f"{options.network}, {NETWORKS[options.network][2]} bits, random weights, seed {options.seed}",
        "command": "python benchmarks/simulators.py " + " ".join(options.given),
    }


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def table(rows: list[Row]) -> str:
    """Markdown, a row for each contender and setting."""
    lines = [
        "| images | T | contender | images·steps/s | time / ours | (range) | time / float | logits off by | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        setting = (row.batch, row.timesteps)
        group = {other.contender: other for other in rows if (other.batch, other.timesteps) == setting}
        ours, low, high = ratio(row, group[OURS])
        against_float = ratio(row, group[FLOAT])[0]
        memory = "" if row.memory is None else f"{row.memory:,.0f} MiB"
        difference = "" if row.contender in (FLOAT, FLOAT_LAST) else f"{row.difference:.1%}"
        cells = [str(row.batch), str(row.timesteps), row.contender, f"{row.rate:,.0f}", f"{ours:.2f}"]
        cells += [f"{low:.2f}–{high:.2f}", f"{against_float:.2f}", difference, memory]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def step_costs(rows: list[Row]) -> str:
    """Markdown: what a step costs against T = 16."""
    ours = {(row.batch, row.timesteps): row.median / row.timesteps for row in rows if row.contender == OURS}
    lines = ["| images | T | time of a step / that at T = 16 |", "|---|---|---|"]
    for (batch, timesteps), cost in ours.items():
        if (batch, 16) in ours:
            lines.append(f"| {batch} | {timesteps} | {cost / ours[batch, 16]:.2f} |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Images times steps a second against T, a panel for each batch size."""
    from matplotlib.figure import Figure

    batches = sorted({row.batch for row in rows})
    names = [name for name in dict.fromkeys(row.contender for row in rows) if name not in (FLOAT, FLOAT_LAST)]
    figure = Figure(figsize=(4.6 * len(batches), 3.6), layout="constrained")
    colours = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73")  # Okabe and Ito, for colour-blind eyes
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False, sharey=True)[0], batches, strict=True):
        for name, colour, marker in zip(names, colours, "osD^v", strict=False):
            own = [row for row in rows if row.contender == name and row.batch == batch]
            axes.plot([row.timesteps for row in own], [row.rate for row in own], marker + "-", color=colour, label=name)
        forward = [row.rate for row in rows if row.contender == FLOAT and row.batch == batch]
        axes.axhline(statistics.median(forward), color="0.3", linestyle="--", label="float ANN, images/s")
        steps = sorted({row.timesteps for row in rows})
        axes.set(xscale="log", yscale="log", xlabel="timesteps T", title=f"{batch} image{'s' if batch > 1 else ''}")
        axes.set_xticks(steps, [str(step) for step in steps])
        axes.minorticks_off()
        axes.grid(axis="y", color="0.9")
    figure.axes[0].set_ylabel("images × steps / s")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)


def write(folder: Path, rows: list[Row], limits: list[Figure], where: dict[str, str]) -> None:
    """Table, plain data and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = "\n".join(f"- {name}: {value}" for name, value in where.items())
    figures = "\n".join(f"| {one.name} | {one.value:,.1f} | {one.share:.0%} |" for one in limits)
    parts = ["# Simulators", facts, table(rows), "## A step", step_costs(rows)]
    if limits:
        parts += ["## The roofline, one core", "| | billions a second | share of the peak |\n|---|---|---|\n" + figures]
    data = {"where": where, "rows": [asdict(row) for row in rows], "roofline": [asdict(one) for one in limits]}
    for name, text in (("simulators.md", "\n\n".join(parts) + "\n"), ("simulators.json", json.dumps(data, indent=1))):
        unfinished = folder / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)
    draw(rows, folder / "simulators.png")


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
    parser.add_argument("--out", type=Path, default=Path("out/simulators"))
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    options.given = given
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        if options.memory:
            print_memory(options)
            return 0
        rows: list[Row] = []
        for batch in options.batch:
            for timesteps in options.timesteps:
                rows += measure(Setting(batch, timesteps), options)
                print(table([row for row in rows if (row.batch, row.timesteps) == (batch, timesteps)]), flush=True)
        limits = roofline(options) if options.device == "cpu" else []
    write(options.out, rows, limits, machine(options))
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
