"""What `accuracy.py` writes: a table, plain data and a plot."""

from __future__ import annotations

import io
import json
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from simulators_report import markdown, processor

from fxsnn.display.plots import accuracy_against_timesteps
from fxsnn.storage import write_whole

_TIMESTEPS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Row:
    """A network at a bit width.

    Attributes:
        dataset: its name.
        network: its name.
        bits: weight bits.
        timesteps: T that it was fine-tuned for.
        seed: of everything.
        ann: accuracy of the float network on the test set, in percent.
        quantised: that of the n-bit network, activations rounded to T levels; `None` where it was not measured.
        spiking: that of the spiking network after 1, 2, ... steps.
        held_out: that of the spiking network at T on the images that were held out.
        ann_recipe: how the float network was trained.
        ann_seconds: how long that took.
        recipe: how the network was converted and fine-tuned.
        seconds: how long the fine-tuning took, interruptions left out.
        machine: where that was.
        untrained: that of the network converted for T steps without training, after 1, 2, ... steps up to T; `None`
            where it was not measured.
    """

    dataset: str
    network: str
    bits: int
    timesteps: int
    seed: int
    ann: float
    quantised: float | None
    spiking: tuple[float, ...]
    held_out: float
    ann_recipe: Mapping[str, Any]
    ann_seconds: float
    recipe: Mapping[str, Any]
    seconds: float
    machine: str
    untrained: tuple[float, ...] | None = None

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What was measured."""
        return self.dataset, self.bits, self.timesteps, self.seed

    @property
    def without_training(self) -> float | None:
        """Accuracy at T of the network that was not trained."""
        return None if self.untrained is None else self.untrained[self.timesteps - 1]

    def line(self) -> str:
        """All of it in a line."""
        spiking = ", ".join(f"T={t} {self.spiking[t - 1]:.2f}" for t in _TIMESTEPS if t <= len(self.spiking))
        return (
            f"{self.dataset}, {self.network}, {self.bits} bits, fine-tuned for T={self.timesteps}, seed {self.seed}: "
            f"ANN {self.ann:.2f}, without training {spread(self.without_training)}, "
            f"quantised {spread(self.quantised)}, spiking {spiking}; {self.seconds:.0f} s"
        )


def machine(device: str = "cpu") -> str:
    """Where this runs: results are the same twice only on one machine."""
    threads = torch.get_num_threads()
    where = f"{torch.cuda.get_device_name()}, with {processor()}" if device == "cuda" else processor()
    return f"{where}, {threads} threads, Python {platform.python_version()}, torch {torch.__version__}"


def read_rows(work: Path, report: Path) -> list[Row]:
    """All rows of an earlier report and those that were finished since then, which come before older ones.

    Args:
        work: a folder with a file for each row.
        report: a folder with a report.
    """
    earlier = report / "accuracy.json"
    found = json.loads(earlier.read_text()) if earlier.exists() else []
    found += [json.loads(path.read_text()) for path in sorted(work.glob("*-seed*.json"))]
    rows = {row.key: row for row in map(_read, found)}
    return sorted(rows.values(), key=lambda row: (row.dataset, -row.bits, row.timesteps, row.seed))


def _read(kept: Mapping[str, Any]) -> Row:
    untrained = kept.get("untrained")
    over_time = {"spiking": tuple(kept["spiking"]), "untrained": None if untrained is None else tuple(untrained)}
    return Row(**{**kept, **over_time})


def spread(*given: float | None) -> str:
    """Mean of the values that are there, half their range if there are several, their number if some are missing."""
    values = [value for value in given if value is not None]
    if not values:
        return "-"
    of = f" ({len(values)} of {len(given)})" if len(values) < len(given) else ""
    half_range = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):z.2f}{half_range}{of}"


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one network, bit width and T: they differ in the seed, and perhaps in recipe and machine."""
    found: dict[tuple[str, str, int, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row.dataset, row.network, row.bits, row.timesteps), []).append(row)
    return list(found.values())


def results_table(rows: Sequence[Row]) -> str:
    """A line for each data set, bit width and T."""
    header = ["data", "network", "bits", "fine-tuned for", "seeds", "ANN", "no training", "quantised"]
    header += [*(f"T = {t}" for t in _TIMESTEPS), "loss at that T", "ANN, s", "fine-tuning, s"]
    return markdown(header, [_cells(group) for group in groups(rows)])


def _cells(group: list[Row]) -> list[str]:
    first = group[0]
    cells = [first.dataset, first.network, str(first.bits), f"T = {first.timesteps}", str(len(group))]
    cells += [spread(*(row.ann for row in group)), spread(*(row.without_training for row in group))]
    cells.append(spread(*(row.quantised for row in group)))
    cells += [spread(*(row.spiking[t - 1] for row in group)) for t in _TIMESTEPS]
    cells.append(spread(*(row.ann - row.spiking[row.timesteps - 1] for row in group)))
    return [*cells, *(f"{statistics.mean(times):,.0f}" for times in zip(*_times(group), strict=True))]


def _times(group: list[Row]) -> list[tuple[float, float]]:
    return [(row.ann_seconds, row.seconds) for row in group]


def provenance(rows: Sequence[Row]) -> str:
    """Recipes and machines, each with the rows that it is of."""
    found: dict[str, list[str]] = {}
    for group in groups(rows):
        seeds: dict[str, list[int]] = {}
        for row in group:
            for line in _provenance(row):
                seeds.setdefault(line, []).append(row.seed)
        for line, of in seeds.items():
            some = "" if len(of) == len(group) else f", seed{'s' if len(of) > 1 else ''} {' and '.join(map(str, of))}"
            found.setdefault(line, []).append(f"{_name(group[0], rows)}{some}")
    return "\n".join(f"- {line} ({'; '.join(dict.fromkeys(names))})" for line, names in sorted(found.items()))


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Data and bits, and T and the network where rows differ in nothing else."""
    like = [one for one in rows if (one.dataset, one.bits) == (row.dataset, row.bits)]
    network = f", {row.network}" if len({one.network for one in like}) > 1 else ""
    timesteps = f", T = {row.timesteps}" if len({one.timesteps for one in like}) > 1 else ""
    return f"{row.dataset} {row.bits} bits{timesteps}{network}"


def _provenance(row: Row) -> tuple[str, ...]:
    return f"ANN: {_options(row.ann_recipe)}", f"fine-tuning: {_options(row.recipe)}", f"machine: {row.machine}"


def _options(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(recipe.items()))


def document(rows: Sequence[Row]) -> str:
    """The Markdown page."""
    where = "Accuracies in percent on the whole test set; of several seeds the mean and half the range."
    where += " Behind a value that not all seeds have: of how many it is."
    where += " No training: converted for the same T with the same data, but not fine-tuned, at that T."
    if any(row.dataset == "CIFAR10-JPEG" for row in rows):
        where += " CIFAR10-JPEG are the images of CIFAR-10 as JPEG files (quality 75): pixels differ a little."
    return "\n\n".join(["# Accuracy", where, results_table(rows), "## Recipes and machines", provenance(rows)]) + "\n"


def picture(rows: Sequence[Row]) -> bytes:
    """PNG: accuracy against T, a panel for each network and data set, a line for each bit width, seeds averaged."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.dataset, row.network) for row in rows))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * lines), layout="constrained")
    for axes, panel in zip(figure.subplots(lines, columns, squeeze=False).flat, panels, strict=False):
        of_it = [group for group in groups(rows) if (group[0].dataset, group[0].network) == panel]
        tuned = {group[0].timesteps for group in of_it}
        labels = [
            f"{group[0].bits} bit{'s' if group[0].bits > 1 else ''}"
            + (f", tuned for T = {group[0].timesteps}" if len(tuned) > 1 else "")
            for group in of_it
        ]
        means = [
            [statistics.mean(values) for values in zip(*(row.spiking for row in group), strict=True)] for group in of_it
        ]
        styles = [4 - group[0].bits for group in of_it] if len(tuned) == 1 else None
        # Rows of one seed may be of several trainings, and some seeds have more rows than others.
        seeds = {row.seed for group in of_it for row in group}
        ann = statistics.mean(
            statistics.mean(row.ann for group in of_it for row in group if row.seed == seed) for seed in seeds
        )
        accuracy_against_timesteps(axes, dict(zip(labels, means, strict=True)), ann, styles)
        axes.set_title(", ".join(panel))
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def write(folder: Path, rows: Sequence[Row]) -> None:
    """All files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "accuracy.md", document(rows).encode())
    write_whole(folder / "accuracy.json", json.dumps([asdict(row) for row in rows], indent=1).encode())
    write_whole(folder / "accuracy.png", picture(rows))
