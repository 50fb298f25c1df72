"""The hardware report of a spiking network: what each layer takes of the chip, and what it does on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fxsnn.chip import FORMULA
from fxsnn.display import Part, Rows, page_of, tables
from fxsnn.numerics import Codebook
from fxsnn.report.activity import LayerActivity
from fxsnn.storage import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NO_IMAGES_NOTE = (
    "neurons, cores and activity depend on images: snn.profile(images) gives the report with them "
    "(convert(calibration_data=...) keeps a few for it)"
)

Range = tuple[int, int]


class Shown(Protocol):
    """What has a table and a figure: an error budget, a sweep."""

    def plot(self, axes: Axes) -> Axes:
        """Draw it."""

    def _repr_html_(self) -> str: ...


@dataclass(frozen=True)
class Summand:
    """One of the inputs of a sum.

    Attributes:
        name: of its layer: a weighted input, or one whose spikes are added as they are.
        gain: smallest and largest of what a code of 1, or such a spike, adds to the membranes.
        error: of spikes that are added as they are, the largest relative error of rounding to these whole numbers;
            `None` of a weighted input, whose weight step fits them.
    """

    name: str
    gain: Range
    error: float | None


@dataclass(frozen=True)
class LayerRow:
    """One spiking layer, or one weighted input of a sum, whose neurons are the sum's.

    Attributes:
        layer: name in the user's network.
        kind: "SpikeConv2d", "SpikeLinear", "SpikeAvgPool2d", "SpikeAnyPool2d"; "SpikeAdd" of a sum, "SynapseConv2d" or
            "SynapseLinear" of its weighted inputs.
        kernel_size: (height, width), `None` for a fully connected layer.
        in_channels: input channels per group, or input features; `None` for poolings and sums.
        out_channels: output channels or features.
        bits: weight bits; `None` for poolings and sums, which have no codes.
        limit: most input channels per group that the target allows, `None` without a limit.
        why: where the target could hold other bits: why it has these.
        gain: smallest and largest codebook gain; of a sum, what spikes count that it adds as they are, `None` where it
            adds none.
        threshold: smallest and largest integer threshold; `None` without neurons.
        leak: smallest and largest integer leak; `None` without neurons.
        codebook: smallest and largest codebook entry, level times gain; `None` for pooling.
        spike_value: what a spike is worth in activation units, mean over the channels; `None` without neurons.
        fan_in: synapses of a neuron; of a sum, those of all inputs together.
        rows: input rows that these take on a core: fan-in times bits (1 for a pooling, and for what is added as it is).
        weight_memory: bits that the weight codes take; 0 for poolings and sums.
        cores: estimate, see `fxsnn.chip.cores`; `None` without images or neurons, or where the target does not say how
            large a core is.
        activity: what it does on images, `None` without any.
        adds: the inputs of a sum.
        levels: what weight codes may be; `None` for poolings and sums.
    """

    layer: str
    kind: str
    kernel_size: tuple[int, int] | None
    in_channels: int | None
    out_channels: int
    bits: int | None
    limit: int | None
    why: str
    gain: Range | None
    threshold: Range | None
    leak: Range | None
    codebook: Range | None
    spike_value: float | None
    fan_in: int
    rows: int
    weight_memory: int
    cores: int | None = None
    activity: LayerActivity | None = None
    adds: tuple[Summand, ...] = ()
    levels: tuple[int, ...] | None = None

    @property
    def neurons(self) -> int | None:
        """How many neurons it has; `None` without images, or where they are those of a sum."""
        return None if self.activity is None or self.threshold is None else prod(self.activity.size)


@dataclass(frozen=True)
class Totals:
    """Sums over all layers; `None` where one is not known.

    Attributes:
        neurons: neurons.
        weight_memory: bits that weight codes take.
        cores: estimate.
        synaptic_operations: per image; those of layers that read the images, which multiply, are left out.
        input_operations: multiplications of layers that read the images, per image.
        silent: neurons that never spiked.
    """

    neurons: int | None
    weight_memory: int
    cores: int | None
    synaptic_operations: float | None
    input_operations: float | None
    silent: int | None


@dataclass(frozen=True)
class Report:
    """What a spiking network takes and does; `print` it, or let a notebook show it.

    Attributes:
        target: name of the target.
        timesteps: T.
        reset: "subtraction" or "zero".
        input_bits: width of the integer input, `None` for an analog one.
        input_unit: the input step.
        layers: the spiking layers in order.
        tail: names of the layers that were left untouched.
        notes: what the user should know.
        core_inputs: input rows of a core of the target, `None` where it does not say.
        threshold_register: smallest and largest threshold that the target holds.
        leak_register: the same of leaks.
        codebook_register: the same of codebook entries.
        images: on how many images activity was measured; 0: not at all.
    """

    target: str
    timesteps: int
    reset: str
    input_bits: int | None
    input_unit: float
    layers: tuple[LayerRow, ...] = field(repr=False)
    tail: tuple[str, ...]
    notes: tuple[str, ...]
    core_inputs: int | None
    threshold_register: Range
    leak_register: Range
    codebook_register: Range
    images: int = 0

    def totals(self) -> Totals:
        """Sums over all layers."""
        activities = [row.activity for row in self.layers if row.activity is not None]
        known = len(activities) == len(self.layers)
        of_neurons = [row for row in self.layers if row.threshold is not None]
        cores = [row.cores for row in of_neurons if row.cores is not None]
        return Totals(
            sum(row.neurons or 0 for row in of_neurons) if known else None,
            sum(row.weight_memory for row in self.layers),
            sum(cores) if len(cores) == len(of_neurons) else None,
            sum(one.synaptic_operations for one in activities if not one.reads_images) if known else None,
            sum(one.synaptic_operations for one in activities if one.reads_images) if known else None,
            sum(one.silent for one in activities) if known else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "totals": asdict(self.totals()), "core_formula": FORMULA}

    def rows(self) -> list[tuple[str, ...]]:
        """The integers of each layer as cells, header first."""
        header = (
            "layer", "kind", "kernel", "in/group", "limit", "out", "bits", "codebook", "gain", "threshold", "leak",
            "spike value",
        )  # fmt: skip
        return [header, *(_cells(row) for row in self.layers)]

    def chip_rows(self) -> list[tuple[str, ...]]:
        """What each layer takes of the chip as cells, header first, sums last."""
        of = f" of {self.core_inputs:,}" if self.core_inputs else ""
        header = (
            "layer", "fan-in", f"rows{of}", "share", "weight memory, bits",
            *(f"{name} of {_range(ends)}" for name, ends in (
                ("codebook", self.codebook_register),
                ("threshold", self.threshold_register),
                ("leak", self.leak_register),
            )),
            "neurons", "cores (estimate)",
        )  # fmt: skip
        found = [
            (
                row.layer,
                f"{row.fan_in:,}",
                f"{row.rows:,}",
                f"{row.rows / self.core_inputs:.0%}" if self.core_inputs else "-",
                f"{row.weight_memory:,}",
                _range(row.codebook),
                _range(row.threshold),
                _range(row.leak),
                _or_dash(row.neurons),
                _or_dash(row.cores),
            )
            for row in self.layers
        ]
        sums = self.totals()
        total = ("total", "", "", "", f"{sums.weight_memory:,}", "", "", "", _or_dash(sums.neurons))
        return [header, *found, (*total, _or_dash(sums.cores))]

    def activity_rows(self) -> list[tuple[str, ...]]:
        """What each layer does as cells, header first, sums last; the header alone without images."""
        header = (
            "layer", "firing rate", "silent neurons", "saturated", "membrane", "threshold", "synaptic operations/image",
        )  # fmt: skip
        found: list[tuple[str, ...]] = [header]
        for row in self.layers:
            one = row.activity
            if one is None:
                return [header]
            operations = f"{one.synaptic_operations:,.0f}" + (" (multiplications)" if one.reads_images else "")
            found.append((row.layer, *_neurons_cells(one), _range(row.threshold), operations))
        sums = self.totals()
        return [*found, ("total", "", _or_dash(sums.silent), "", "", "", f"{sums.synaptic_operations:,.0f}")]

    def sum_rows(self) -> list[tuple[str, ...]]:
        """The inputs of sums as cells, header first."""
        header = ("sum", "adds", "gain", "largest error of rounding")
        return [
            header,
            *(
                (row.layer, one.name, _range(one.gain), "-" if one.error is None else f"{one.error:.2%}")
                for row in self.layers
                for one in row.adds
            ),
        ]

    def heading(self) -> str:
        """One line about the whole network."""
        given = "analog" if self.input_bits is None else f"{self.input_bits} bits, step {self.input_unit:.4g}"
        run = f"{self.target}, T={self.timesteps}, reset by {self.reset}"
        return f"{run}; input {given}; untouched: {', '.join(self.tail) or 'nothing'}"

    def sections(self) -> list[tuple[str, Rows]]:
        """Titles and tables."""
        found: list[tuple[str, Rows]] = [("Layers", self.rows()), ("On the chip", self.chip_rows())]
        if any(row.adds for row in self.layers):
            found.append(("Sums", self.sum_rows()))
        if self.images:
            found.append((f"On {self.images} images", self.activity_rows()))
        return found

    def all_notes(self) -> tuple[str, ...]:
        """Notes, and what the tables leave open."""
        estimate = (f"cores are an estimate: {FORMULA}",) if self.totals().cores is not None else ()
        return (*self.notes, *estimate, *(() if self.images else (_NO_IMAGES_NOTE,)))

    def __str__(self) -> str:
        parts = [f"\n{title}\n{tables.aligned(rows)}" for title, rows in self.sections()]
        return "\n".join([self.heading(), *parts, "", *(f"note: {note}" for note in self.all_notes())])

    def to_markdown(self) -> str:
        """Markdown, for a page about the network."""
        parts = [f"**{title}**\n\n{tables.markdown(rows)}" for title, rows in self.sections()]
        return "\n\n".join([self.heading(), *parts, "\n".join(f"- {note}" for note in self.all_notes())]) + "\n"

    def to_html(self) -> str:
        """HTML; a notebook shows it."""
        parts = [tables.folded(title, tables.html(rows), len(rows)) for title, rows in self.sections()]
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.all_notes())
        return f"<p>{escape(self.heading())}</p>{''.join(parts)}<ul>{notes}</ul>"

    def _repr_html_(self) -> str:
        return self.to_html()

    def save_page(
        self,
        path: str | Path,
        title: str = "",
        *,
        accuracy: Mapping[str, float] | None = None,
        budget: Shown | None = None,
        sweep: Shown | None = None,
        note: str = "",
    ) -> Path:
        """Write a page of HTML with tables and figures, whole or not at all; it needs no other file.

        Args:
            path: of the file.
            title: of the page; "": what was converted, for which chip.
            accuracy: in percent, by what was measured, such as `{"ANN": 99.9, "spiking, T=16": 99.8}`.
            budget: what `fxsnn.error_budget` gives.
            sweep: what `fxsnn.sweep` gives.
            note: a line at the end.

        Returns:
            The path.

        Raises:
            FileError: it cannot be written.
        """
        parts = [Part("The network", self.to_html(), self.plot)]
        if accuracy:
            rows = [("", "accuracy"), *((what, f"{share:.2f} %") for what, share in accuracy.items())]
            parts.insert(0, Part("Accuracy", tables.html(rows)))
        for heading, one in (("Error budget", budget), ("Timesteps", sweep)):
            if one is not None:
                parts.append(Part(heading, one._repr_html_(), one.plot))
        if note:
            parts.append(Part("", f"<p>{escape(note)}</p>"))
        page = page_of(title or f"A spiking network for {self.target}", parts)
        return write_whole(path, page.encode())

    def plot(self, axes: Axes) -> Axes:
        """Draw what each layer takes of the chip's limits, and how often it spikes, in percent."""
        from fxsnn.display import plots

        shares: dict[str, Sequence[float]] = {}
        if self.core_inputs:
            shares["input rows"] = [100 * row.rows / self.core_inputs for row in self.layers]
        for name, top, ranges in zip(
            ("codebook range", "threshold range"),
            (self.codebook_register[1], self.threshold_register[1]),
            ([row.codebook for row in self.layers], [row.threshold for row in self.layers]),
            strict=True,
        ):
            shares[name] = [100 * max(map(abs, ends or (0,))) / top for ends in ranges]
        if self.images:
            seen = [row.activity for row in self.layers if row.activity is not None]
            shares["firing rate"] = [100 * (one.firing_rate or 0.0) for one in seen]
        return plots.shares_by_layer(axes, [row.layer for row in self.layers], shares)


def _cells(row: LayerRow) -> tuple[str, ...]:
    return (
        row.layer,
        row.kind,
        "x".join(map(str, row.kernel_size)) if row.kernel_size else "-",
        _or_dash(row.in_channels),
        _or_dash(row.limit),
        str(row.out_channels),
        _or_dash(row.bits),
        "-" if row.levels is None else str(Codebook(row.levels)),
        _range(row.gain),
        _range(row.threshold),
        _range(row.leak),
        "-" if row.spike_value is None else f"{row.spike_value:.4g}",
    )


def _or_dash(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _neurons_cells(one: LayerActivity) -> tuple[str, ...]:
    """What neurons did; dashes where there are none."""
    if one.membrane is None or one.firing_rate is None or one.saturated is None:
        return ("-",) * 4
    low, high = one.membrane
    silent = f"{one.silent:,} ({one.silent / prod(one.size):.0%})"
    return f"{one.firing_rate:.4f}", silent, f"{one.saturated:.2%}", f"{low:,.0f}..{high:,.0f}"


def _range(ends: Range | None) -> str:
    if ends is None:
        return "-"
    low, high = ends
    return f"{low:,}" if low == high else f"{low:,}..{high:,}"
