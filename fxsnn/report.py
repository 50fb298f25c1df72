"""The layer table of a spiking network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from torch import nn

from fxsnn.graph import Graph
from fxsnn.layers import Encode, SpikeAvgPool2d, Spiking
from fxsnn.neuron import Dynamics
from fxsnn.tables import aligned
from fxsnn.target import HardwareTarget, fit_layer, reasons

_RESET_NOTE = (
    "reset to zero throws away what a membrane had above its threshold and costs accuracy; "
    "use reset='subtraction' where the chip has it"
)


@dataclass(frozen=True)
class LayerRow:
    """One spiking layer.

    Attributes:
        layer: name in the user's network.
        kind: "SpikeConv2d", "SpikeLinear" or "SpikeAvgPool2d".
        kernel_size: (height, width), `None` for a fully connected layer.
        in_channels: input channels per group, or input features; `None` for pooling.
        out_channels: output channels or features.
        bits: weight bits; `None` for pooling, whose weights are all 1.
        limit: most input channels per group that the target allows, `None` without a limit.
        why: where the target could hold other bits: why it has these.
        gain: codebook gain.
        threshold: smallest and largest integer threshold.
        leak: smallest and largest integer leak.
        spike_value: what a spike is worth in activation units, mean over the channels.
    """

    layer: str
    kind: str
    kernel_size: tuple[int, int] | None
    in_channels: int | None
    out_channels: int
    bits: int | None
    limit: int | None
    why: str
    gain: int
    threshold: tuple[int, int]
    leak: tuple[int, int]
    spike_value: float


@dataclass(frozen=True)
class Report:
    """What a spiking network consists of; `print` it, or let a notebook show it.

    Attributes:
        target: name of the target.
        timesteps: T.
        reset: "subtraction" or "zero".
        input_bits: width of the integer input, `None` for an analog one.
        input_unit: the input step.
        layers: the spiking layers in order.
        tail: names of the layers that were left untouched.
        notes: what the user should know.
    """

    target: str
    timesteps: int
    reset: str
    input_bits: int | None
    input_unit: float
    layers: tuple[LayerRow, ...]
    tail: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """The table as cells, header first."""
        header = (
            "layer",
            "kind",
            "kernel",
            "in/group",
            "limit",
            "out",
            "bits",
            "gain",
            "threshold",
            "leak",
            "spike value",
        )
        return [header, *(_cells(row) for row in self.layers)]

    def heading(self) -> str:
        """One line about the whole network."""
        given = "analog" if self.input_bits is None else f"{self.input_bits} bits, step {self.input_unit:.4g}"
        run = f"{self.target}, T={self.timesteps}, reset by {self.reset}"
        return f"{run}; input {given}; untouched: {', '.join(self.tail)}"

    def __str__(self) -> str:
        return "\n".join([self.heading(), aligned(self.rows()), *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        header, *rows = self.rows()
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<p>{escape(self.heading())}</p><table><tr>{head}</tr>{body}</table>{notes}"


def _cells(row: LayerRow) -> tuple[str, ...]:
    return (
        row.layer,
        row.kind,
        "x".join(map(str, row.kernel_size)) if row.kernel_size else "-",
        _or_dash(row.in_channels),
        _or_dash(row.limit),
        str(row.out_channels),
        _or_dash(row.bits),
        str(row.gain),
        _range(row.threshold),
        _range(row.leak),
        f"{row.spike_value:.4g}",
    )


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _range(ends: tuple[int, int]) -> str:
    low, high = ends
    return str(low) if low == high else f"{low}..{high}"


def report_of(graph: Graph, target: HardwareTarget, dynamics: Dynamics) -> Report:
    """The report of a converted graph."""
    encode = next((module for node in graph.nodes(Encode) if isinstance(module := graph[node], Encode)), None)
    rows = tuple(_row(graph.name(node), graph[node], target) for node in graph.nodes(Spiking))
    tail = tuple(graph.name(node) for node in graph.tail() if node.op == "call_module" and node.target != "decode")
    return Report(
        target.name,
        dynamics.timesteps,
        dynamics.reset,
        encode.bits if encode else None,
        encode.unit if encode else 1.0,
        rows,
        tail,
        (*reasons((row.layer, row.why) for row in rows), *((_RESET_NOTE,) if dynamics.reset == "zero" else ())),
    )


def _row(name: str, layer: nn.Module, target: HardwareTarget) -> LayerRow:
    assert isinstance(layer, Spiking)
    kernel, per_group, limit, why = None, None, None, ""
    if isinstance(layer, SpikeAvgPool2d):
        kernel = layer.window()
    elif isinstance(layer, nn.Conv2d):
        fit, _ = fit_layer(
            target,
            layer.bits,
            layer=name,
            kind="Conv2d",
            kernel_size=(layer.kernel_size[0], layer.kernel_size[1]),
            in_channels=layer.in_channels,
            out_channels=layer.out_channels,
            groups=layer.groups,
        )
        kernel, per_group, limit, why = fit.kernel_size, fit.in_channels, fit.limit, fit.why
    elif isinstance(layer, nn.Linear):
        per_group = layer.in_features
    return LayerRow(
        name,
        type(layer).__name__,
        kernel,
        per_group,
        len(layer.threshold),
        layer.bits or None,
        limit,
        why,
        layer.gain,
        (int(layer.threshold.min()), int(layer.threshold.max())),
        (int(layer.leak.min()), int(layer.leak.max())),
        float(layer.spike_value.mean()),
    )
