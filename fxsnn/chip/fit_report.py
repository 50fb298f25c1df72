"""How a network fits a chip: each layer against the target's limits, and the report of all. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

from fxsnn.chip.hardware import Bits, HardwareTarget, KernelSize
from fxsnn.display import MARKED, aligned, html
from fxsnn.errors import Finding, listing


@dataclass(frozen=True)
class LayerFit:
    """One convolution or hidden fully connected layer against the target.

    Attributes:
        layer: its name in the user's network.
        kind: "Conv2d" or "Linear".
        kernel_size: (height, width), or `None` for a fully connected layer.
        in_channels: input channels per group, or input features.
        out_channels: output channels, or output features.
        groups: groups of a convolution, otherwise 1.
        bits: weight bits asked for.
        limit: the most input channels per group allowed; 0 for a kernel size the target does not have; `None` where
            the target documents no limit.
        max_bits: the largest bit width that would fit, `None` if none would.
        source: `file:line` of the call in the user's code, or "".
        why: why it has these bits where the target could hold wider weights; otherwise "".
    """

    layer: str
    kind: str
    kernel_size: KernelSize | None
    in_channels: int
    out_channels: int
    groups: int
    bits: int
    limit: int | None
    max_bits: int | None
    source: str = ""
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether the layer fits."""
        return self.limit is None or self.in_channels <= self.limit


@dataclass(frozen=True)
class Violation:
    """A layer that does not fit.

    Attributes:
        layer: its name in the user's network.
        in_channels: input channels per group that it has.
        limit: the most that are allowed, 0 for a kernel size that the target does not have.
        max_bits: the largest bit width that would fit, `None` if none would.
        finding: all of it in words, with the remedy.
    """

    layer: str
    in_channels: int
    limit: int
    max_bits: int | None
    finding: Finding

    @property
    def message(self) -> str:
        """Layer, what was found, what is allowed, what to do."""
        return str(self.finding)


@dataclass(frozen=True)
class FitReport:
    """How a network fits a target at a bit width; `print` it.

    Attributes:
        target: name of the target.
        bits: weight bits as they were asked for, see `Bits`; those of each layer are in `layers`.
        layers: every layer that would spike.
        violations: every layer that exceeds a limit of the target.
        joins: sums and concatenations, where the target cannot do such.
        assumed: what the target is taken to do without a word of it in its document, see `own_reset`.
        findings: what else stands in the way: unsupported layers, a convolution without its ReLU, ...
        unwritable: what keeps the converted network from being saved; it can be converted all the same.
        tail: the layers with weights behind those that spike, which stay as they are.
    """

    target: str
    bits: Bits
    layers: tuple[LayerFit, ...]
    violations: tuple[Violation, ...]
    findings: tuple[Finding, ...] = ()
    unwritable: tuple[Finding, ...] = ()
    tail: tuple[str, ...] = ()
    joins: tuple[Finding, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the network can be converted for the target."""
        return self.fits and not self.findings

    @property
    def fits(self) -> bool:
        """Whether it is within the limits of the target."""
        return not self.violations and not self.joins

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings, violations and joins together."""
        return (*self.findings, *(violation.finding for violation in self.violations), *self.joins)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why layers have the bits they have, a line for each reason; what is assumed of the target; what is left to
        the host, if that is more than one layer with weights; and what would keep the network out of files.
        """
        why = reasons((fit.layer, fit.why) for fit in self.layers if fit.ok)
        host = f"{', '.join(self.tail)}: behind the last activation, so left to the host as they are"
        several = (host,) if len(self.tail) > 1 else ()  # of one final layer everyone knows
        return (*why, *self.assumed, *several, *(f"cannot be saved: {finding}" for finding in self.unwritable))

    def widths(self) -> str:
        """The weight bits in words."""
        widths = {fit.bits for fit in self.layers} or {0}
        low, high = (self.bits, self.bits) if isinstance(self.bits, int) else (min(widths), max(widths))
        if low == high:
            return _widths(low)
        return f"{low} to {high} bits"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        bits = dict(self.bits) if isinstance(self.bits, Mapping) else self.bits
        return {"ok": self.ok, **asdict(replace(self, bits=bits)), "notes": list(self.notes)}

    def verdict(self) -> str:
        """In a sentence, whether the network can be converted for the target."""
        if not self.fits:
            return f"The network does not fit {self.target} at {self.widths()}."
        if self.findings:
            return "The network cannot be converted."
        return f"The network fits {self.target} at {self.widths()}."

    def layer_rows(self) -> list[tuple[str, ...]]:
        """The layers as cells, header first."""
        header = ("layer", "kind", "kernel", "in/group", "limit", "bits", "largest bits", "fits")
        rows = [
            (
                fit.layer,
                fit.kind,
                "x".join(map(str, fit.kernel_size)) if fit.kernel_size else "-",
                str(fit.in_channels),
                "-" if fit.limit is None else str(fit.limit),
                str(fit.bits),
                "none" if fit.max_bits is None else str(fit.max_bits),
                "yes" if fit.ok else "NO",
            )
            for fit in self.layers
        ]
        return [header, *rows]

    def __str__(self) -> str:
        lines = [self.verdict()]
        if self.layers:
            lines.append(aligned(self.layer_rows()))
        lines += [f"note: {note}" for note in self.notes]
        if self.problems:
            lines.append(listing(self.problems))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        colours = ["" if fit.ok else MARKED for fit in self.layers]
        below = [*(f"note: {note}" for note in self.notes), *map(str, self.problems)]
        table = html(self.layer_rows(), colours) if self.layers else ""
        return f"<p><b>{escape(self.verdict())}</b></p>{table}" + "".join(f"<p>{escape(line)}</p>" for line in below)


def own_reset(layers: Sequence[str], target: str) -> str:
    """What is assumed of a target that has layers which spike with any neuron of their window."""
    return (
        f"{', '.join(layers)}: max pooling by any neuron of the window, which overestimates; reset to zero: where the "
        f"network is reset by subtraction, {target} is assumed to have a reset for each layer"
    )


def fit_layer(
    target: HardwareTarget,
    bits: int,
    *,
    layer: str,
    kind: str,
    kernel_size: KernelSize | None,
    in_channels: int,
    out_channels: int,
    groups: int,
    source: str = "",
) -> tuple[LayerFit, Violation | None]:
    """Hold one layer against the target; `in_channels` counts all groups together."""
    per_group = in_channels // groups
    if kernel_size is None:  # hidden fully connected layers have no documented limit
        widest = max(target.weight_bits)
        why = _why(target, bits, widest, None, per_group)
        return LayerFit(layer, kind, None, per_group, out_channels, groups, bits, None, widest, source, why), None
    limit = target.input_channel_limit(kernel_size, bits)
    largest = target.largest_bits(kernel_size, per_group)
    why = _why(target, bits, largest, kernel_size, per_group)
    fit = LayerFit(layer, kind, kernel_size, per_group, out_channels, groups, bits, limit, largest, source, why)
    if fit.ok or limit is None:
        return fit, None
    return fit, Violation(layer, per_group, limit, largest, _finding(target, fit, limit))


def _why(
    target: HardwareTarget, bits: int, largest: int | None, kernel_size: KernelSize | None, in_channels: int
) -> str:
    wider = [
        width
        for width in target.weight_bits
        if width > bits and (kernel_size is None or target.input_channel_limit(kernel_size, width) != 0)
    ]
    if not wider or largest is None:
        return ""
    if target.input_channels is None:
        return f"{target.name} has no limit: {_widths(largest)} would fit"
    if kernel_size is None:
        return f"fully connected layers have no limit: {_widths(largest)} would fit"
    if largest > bits:
        return f"{_channels(in_channels)} would allow {_widths(largest)}"
    limit = target.input_channel_limit(kernel_size, min(wider))
    return f"{_widths(bits)} at most for {_channels(in_channels)}; {_widths(min(wider))} allow {limit}"


def _channels(count: int) -> str:
    return f"{count} input channel{'s' if count > 1 else ''}"


def _widths(bits: int) -> str:
    return f"{bits} bit{'s' if bits > 1 else ''}"


def reasons(why: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Layers and reasons, those with the same reason on one line.

    >>> reasons([("conv1", ""), ("conv2", "it is large"), ("conv3", "it is large")])
    ('conv2, conv3: it is large',)
    """
    layers: dict[str, list[str]] = {}
    for layer, reason in why:
        if reason:
            layers.setdefault(reason, []).append(layer)
    return tuple(f"{', '.join(names)}: {reason}" for reason, names in layers.items())


def _finding(target: HardwareTarget, fit: LayerFit, limit: int) -> Finding:
    assert fit.kernel_size is not None  # only convolutions have limits
    kernel = "x".join(map(str, fit.kernel_size))
    if fit.kernel_size not in target.kernel_sizes():
        sizes = target.kernel_sizes()
        allowed = ", ".join(f"{height}x{width}" for height, width in sizes)
        remedy = "Use a supported kernel size"
        of_signals = fit.kernel_size[0] == 1 < fit.kernel_size[1]
        if of_signals and all(height > 1 for height, _ in sizes):
            remedy = f'{remedy}, or a target with kernels of one row, such as "generic"'
        problem = f"its kernel is {kernel}; {target.name} supports {allowed or 'no convolution'}"
        return Finding(fit.layer, problem, remedy, fit.source)
    per_group = " per group" if fit.groups > 1 else ""
    allows = f"allows at most {limit}" if limit else f"has no {kernel} kernels"
    problem = (
        f"its {kernel} kernel reads {_channels(fit.in_channels)}{per_group}; "
        f"{target.name} {allows} at {_widths(fit.bits)}"
    )
    if fit.max_bits is None:
        fewer = max((target.input_channels or {})[fit.kernel_size].values())
        remedy = f"No bit width fits: use at most {_channels(fewer)}{per_group}, or more groups"
    else:
        *others, last = map(str, target.fitting_bits(fit.kernel_size, fit.in_channels))
        narrower = f"bits={', '.join(others)} or {last}" if others else f"bits={last}"
        instead = f", at most {_channels(limit)}{per_group}, or more groups" if limit else ""
        remedy = f"Use {narrower}{instead}"
    return Finding(fit.layer, problem, remedy, fit.source)
