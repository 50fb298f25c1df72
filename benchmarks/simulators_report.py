"""What `simulators.py` writes: tables, plain data and a plot."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fxsnn.storage import write_whole

OURS, FLOAT, HALF = "fxsnn", "float ANN, one forward", "float16 ANN, one forward"
FLOATS = (FLOAT, HALF)
_PACKAGES = ("torch", "numpy", "numba", "triton", "spikingjelly", "sinabs")
_VECTORS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
# Okabe and Ito's palette, told apart by colour-blind eyes; markers tell the lines apart in grey print.
_COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7")
_MARKERS = "osD^vP"


@dataclass(frozen=True)
class Row:
    """What a contender showed in a setting.

    Attributes:
        contender: its name.
        layout: how its maps lay in memory, "" where it has no choice.
        batch: images at a time.
        timesteps: T.
        seconds: of every round.
        same_class: share of the images that it classifies as fxsnn does; `None` for float networks.
        deviation: largest difference of a logit from that of fxsnn; `None` for float networks.
        memory: MiB that a run needs at its peak, `None` where that is not known.
    """

    contender: str
    layout: str
    batch: int
    timesteps: int
    seconds: tuple[float, ...]
    same_class: float | None = None
    deviation: float | None = None
    memory: float | None = None

    @property
    def rate(self) -> float:
        """Images times steps a second; images a second of float networks."""
        return self.batch * (1 if self.contender in FLOATS else self.timesteps) / statistics.median(self.seconds)


@dataclass(frozen=True)
class Figure:
    """Something done on one core.

    Attributes:
        name: what.
        value: how much of it, in billions a second.
        peak: the most that was measured of its kind.
    """

    name: str
    value: float
    peak: float


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        where: machine, versions, network and command.
        rows: a row for each contender and setting.
        rates: mean firing rate of each layer.
        roofline: how close our engine comes to the machine's limits; empty where it was not measured.
    """

    where: Mapping[str, str]
    rows: tuple[Row, ...]
    rates: Mapping[str, float]
    roofline: tuple[Figure, ...] = ()


def ratios(row: Row, other: Row) -> list[float]:
    """How many times longer `row` took than `other`, in each round."""
    return [one / two for one, two in zip(row.seconds, other.seconds, strict=True)]


def in_setting(rows: Iterable[Row], batch: int, timesteps: int) -> dict[str, Row]:
    """The rows of one setting by contender."""
    return {row.contender: row for row in rows if (row.batch, row.timesteps) == (batch, timesteps)}


# Where it was measured -----------------------------------------------------------------------------------------------


def machine(network: str, device: str, arguments: Sequence[str]) -> dict[str, str]:
    """Where and what was measured."""
    cpu = processor()
    return {
        "device": f"{torch.cuda.get_device_name()}, with {cpu}" if device == "cuda" else cpu,
        "threads": str(torch.get_num_threads()),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions()]),
        "network": network,
        "command": shlex.join(["python", "benchmarks/simulators.py", *arguments]),
    }


def processor() -> str:
    """Model, vector instructions and number of cores."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    entries = {name.strip(): value.strip() for name, _, value in lines}
    flags = entries.get("flags", "").split()
    vectors = ", ".join(flag for flag in _VECTORS if flag in flags)
    return f"{entries.get('model name', platform.machine())} ({vectors}), {os.cpu_count()} cores"


def versions() -> list[str]:
    """The packages that decide about speed."""
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    return [f"{name} {installed[name]}" for name in _PACKAGES if name in installed]


# Tables --------------------------------------------------------------------------------------------------------------


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def results_table(rows: Sequence[Row]) -> str:
    """A line for each contender and setting."""
    header = ["images", "T", "contender", "images·steps/s", "time / fxsnn", "(range)", "time / float ANN"]
    return markdown([*header, "(range)", "same class", "memory"], [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    setting = in_setting(rows, row.batch, row.timesteps)
    compared = []
    for other in (OURS, FLOAT):
        times = ratios(row, setting[other])
        compared += [f"{statistics.median(times):.2f}", f"{min(times):.2f}–{max(times):.2f}"]
    name = f"{row.contender} ({row.layout})" if row.layout else row.contender
    same = "" if row.same_class is None else f"{row.same_class:.1%}"
    memory = "" if row.memory is None else f"{row.memory:,.0f} MiB"
    return [str(row.batch), str(row.timesteps), name, f"{row.rate:,.0f}", *compared, same, memory]


def step_table(rows: Sequence[Row]) -> str:
    """What a step costs against one at T = 16, or at the T next to it."""
    timesteps = sorted({row.timesteps for row in rows})
    standard = min(timesteps, key=lambda steps: abs(steps - 16))
    names = [name for name in dict.fromkeys(row.contender for row in rows) if name not in FLOATS]
    lines = []
    for batch in sorted({row.batch for row in rows}):
        for name in names:
            costs = [1 / in_setting(rows, batch, steps)[name].rate for steps in timesteps]
            shares = [f"{cost / costs[timesteps.index(standard)]:.2f}" for cost in costs]
            lines.append([str(batch), name, *shares])
    header = [f"T = {steps}" for steps in timesteps]
    return markdown(["images", f"time of a step / that at T = {standard}", *header], lines)


# Files ---------------------------------------------------------------------------------------------------------------


def document(results: Results) -> str:
    """The Markdown page."""
    parts = ["# Simulators", "\n".join(f"- {name}: {value}" for name, value in results.where.items())]
    parts += [results_table(results.rows), "## A step", step_table(results.rows), "## Firing rates"]
    parts.append(markdown(["layer", "spikes per neuron and step"], [[k, f"{v:.3f}"] for k, v in results.rates.items()]))
    if results.roofline:
        cells = [[one.name, f"{one.value:,.1f}", f"{one.value / one.peak:.0%}"] for one in results.roofline]
        parts += ["## One core", markdown(["", "billions a second", "share of the peak"], cells)]
    return "\n\n".join(parts) + "\n"


def picture(rows: Sequence[Row]) -> bytes:
    """PNG: images times steps a second against T, a panel for each batch size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    batches, timesteps = sorted({row.batch for row in rows}), sorted({row.timesteps for row in rows})
    names = [name for name in dict.fromkeys(row.contender for row in rows) if name not in FLOATS]
    figure = Figure(figsize=(4.6 * len(batches), 4.2), layout="constrained")
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False, sharey=True)[0], batches, strict=True):
        for i, name in enumerate(names):
            rates = [in_setting(rows, batch, steps)[name].rate for steps in timesteps]
            style = _MARKERS[i % len(_MARKERS)] + ("-" if name == OURS else ":")
            axes.plot(timesteps, rates, style, color=_COLOURS[i % len(_COLOURS)], label=name)
        forward = statistics.median(in_setting(rows, batch, steps)[FLOAT].rate for steps in timesteps)
        axes.axhline(forward, color="0.3", linestyle="--", label="float ANN, images/s")
        axes.set(xscale="log", yscale="log", xlabel="timesteps T", title=f"{batch} image{'s' if batch > 1 else ''}")
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xticks(timesteps, [str(steps) for steps in timesteps])
        axes.grid(axis="y", color="0.9")
    figure.axes[0].set_ylabel("images × steps / s")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def write(folder: Path, results: Results) -> None:
    """All files, each of them whole or not at all."""
    files = {
        "simulators.md": document(results).encode(),
        "simulators.json": json.dumps(asdict(results), indent=1).encode(),
        "simulators.png": picture(results.rows),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(folder / name, content)
