"""What a chip can hold, as plain data, and the report of how a network fits it. No torch here.

A target is one file with one `HardwareTarget` in it:

    TARGET = HardwareTarget(name="acme_v1", description="...", input_channels={(3, 3): {2: 64}})
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from html import escape
from types import MappingProxyType
from typing import Any

from fxsnn.errors import Finding, OptionError, listing
from fxsnn.options import shown
from fxsnn.tables import MARKED, aligned, html

KernelSize = tuple[int, int]

ALL_BITS = (1, 2, 3, 4)

AUTOMATIC = "auto"

Bits = int | str | Mapping[str, int]
"""Weight bits: of all layers, "auto" for the widest that each layer can have, or by layer, all others automatic."""


def whole_number(value: object) -> int | None:
    """`value` as an `int` where it is a whole number, numpy's included; `None` for all else, `True` and `2.0` too.

    >>> whole_number(3), whole_number(2.0), whole_number(True)
    (3, None, None)
    """
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # what has no index raises
    except (TypeError, RuntimeError):  # PyTorch's, of tensors that have no values
        return None


def _between(value: object, low: int, high: int | None = None) -> bool:
    """Whether it is a whole number in a range."""
    whole = whole_number(value)
    return whole is not None and low <= whole and (high is None or whole <= high)


@dataclass(frozen=True)
class Registers:
    """Widths, in bits, of the chip's registers; all are signed two's complement.

    Attributes:
        codebook: of a codebook entry, that is of a weight code times the codebook gain.
        threshold: of a threshold.
        leak: of a leak (the bias that is added at every step).

    Raises:
        OptionError: a width is not a whole number from 2 to 31.
    """

    codebook: int = 11
    threshold: int = 18
    leak: int = 19

    def __post_init__(self) -> None:
        for one in fields(self):
            width = getattr(self, one.name)
            if not _between(width, 2, 31):
                raise OptionError(f"the {one.name} register is {width!r} bits wide; allowed are 2 to 31")

    @staticmethod
    def range_of(width: int) -> tuple[int, int]:
        """Smallest and largest value of a signed register of `width` bits.

        >>> Registers.range_of(11)
        (-1024, 1023)
        """
        return -(1 << (width - 1)), (1 << (width - 1)) - 1


@dataclass(frozen=True)
class HardwareTarget:
    """The limits and rules of one chip.

    Attributes:
        name: what users write as `target=`.
        description: one line for lists.
        weight_bits: the weight widths the chip knows, a subset of 1..4.
        input_channels: the largest number of input channels (per group) of a convolution, by kernel size (height,
            width) and weight bits. `None` means no limit; a kernel size without an entry is not supported.
        registers: widths of the chip's registers; those of Hardware v1.0 where they are not given.
        relu_behind_convolution: each convolution must have its ReLU directly behind it (batch norm may stand between).
            Only such networks can be made today: it must be true.
        binary_traffic: all traffic between layers is spikes, 0 or 1. The same.
        core_inputs: input rows of a core; `None` where that is not known.
        core_outputs: neurons of a core; `None` where that is not known.

    Raises:
        OptionError: the data contradict themselves.
    """

    name: str
    description: str = ""
    weight_bits: tuple[int, ...] = ALL_BITS
    input_channels: Mapping[KernelSize, Mapping[int, int]] | None = None
    registers: Registers = field(default_factory=Registers)
    relu_behind_convolution: bool = True
    binary_traffic: bool = True
    core_inputs: int | None = None
    core_outputs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise OptionError(f"a target's name is {shown(self.name)}; expected a text that is not empty")
        if not isinstance(self.weight_bits, Iterable) or getattr(self.weight_bits, "ndim", 1) == 0:
            raise OptionError(
                f"target {self.name!r}: weight_bits is {shown(self.weight_bits)}; expected several of {ALL_BITS}"
            )
        widths = tuple(map(whole_number, self.weight_bits))
        if not widths or not set(widths) <= set(ALL_BITS):
            raise OptionError(
                f"target {self.name!r}: weight_bits is {self.weight_bits}; allowed are values of {ALL_BITS}"
            )
        object.__setattr__(self, "weight_bits", widths)
        if not isinstance(self.registers, Registers):
            raise OptionError(
                f"target {self.name!r}: registers is {shown(self.registers)}; expected fxsnn.Registers(...)"
            )
        for name in ("relu_behind_convolution", "binary_traffic"):
            if getattr(self, name) is not True:
                raise OptionError(
                    f"target {self.name!r}: {name} is {getattr(self, name)!r}; only chips on which it is True are "
                    "supported"
                )
        for name in ("core_inputs", "core_outputs"):
            size = getattr(self, name)
            if size is not None and not _between(size, 1):
                raise OptionError(
                    f"target {self.name!r}: {name} is {shown(size)}; allowed are whole numbers from 1, or None"
                )
        if self.input_channels is not None:
            table = self._table(self.input_channels)
            object.__setattr__(self, "input_channels", MappingProxyType(table))

    def _table(self, given: object) -> dict[KernelSize, Mapping[int, int]]:
        """The limits of input channels, read-only, if they are such."""
        if not isinstance(given, Mapping):
            raise OptionError(
                f"target {self.name!r}: input_channels is {shown(given)}; allowed are limits by kernel size and bits, "
                "such as {(3, 3): {2: 56}}, or None"
            )
        for kernel, row in given.items():
            if not isinstance(kernel, tuple) or len(kernel) != 2 or not all(_between(side, 1) for side in kernel):
                raise OptionError(
                    f"target {self.name!r}: {kernel!r} is no kernel size; allowed are pairs (height, width), such as "
                    "(3, 3)"
                )
            if (
                not isinstance(row, Mapping)
                or not set(row) <= set(self.weight_bits)
                or not all(_between(limit, 1) for limit in row.values())
            ):
                found = dict(row) if isinstance(row, Mapping) else row
                raise OptionError(
                    f"target {self.name!r}: the row of kernel {kernel} is {shown(found)}; allowed are limits of at "
                    f"least 1 for bits out of {self.weight_bits}"
                )
        return {kernel: MappingProxyType(dict(row)) for kernel, row in given.items()}

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], HardwareTarget], tuple[dict[str, Any]]]:
        # The read-only table cannot be pickled or deep-copied as it stands, but spiking networks carry their target.
        state = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.input_channels is not None:
            state["input_channels"] = {kernel: dict(row) for kernel, row in self.input_channels.items()}
        return _rebuilt, (state,)

    def require_bits(self, bits: object, layer: object = None) -> int:
        """`bits` as an integer that the target knows.

        Args:
            bits: what the user gave.
            layer: whose they are, for the message; `None`: of all layers.

        Raises:
            OptionError: it is no integer, or not one of `weight_bits`.
        """
        whole = whole_number(bits)
        if whole is None or whole not in self.weight_bits:
            allowed = ", ".join(map(str, self.weight_bits))
            whose = "" if layer is None else f"layer {layer!r}: "
            raise OptionError(f"{whose}bits is {shown(bits)}; target {self.name!r} allows {allowed}")
        return whole

    def require_choice(self, bits: object) -> Bits:
        """`bits` as what `Bits` says, each number one that the target knows.

        Raises:
            OptionError: it is neither an integer, nor "auto", nor a mapping from layers to integers.
        """
        if isinstance(bits, str) and bits == AUTOMATIC:
            return AUTOMATIC
        if isinstance(bits, Mapping):
            return {str(layer): self.require_bits(width, layer) for layer, width in bits.items()}
        if isinstance(bits, str):
            raise OptionError(f"bits is {shown(bits)}; allowed are {AUTOMATIC!r}, a number, or a number for each layer")
        return self.require_bits(bits)

    def bits_of(self, layer: str, choice: Bits, kernel_size: KernelSize | None, in_channels: int) -> int:
        """The weight bits of a layer under a choice.

        Args:
            layer: its name.
            choice: see `Bits`.
            kernel_size: (height, width), `None` for a fully connected layer.
            in_channels: per group.
        """
        if isinstance(choice, int):
            return choice
        if isinstance(choice, Mapping) and layer in choice:
            return choice[layer]
        if kernel_size is None:  # hidden fully connected layers have no documented limit
            return max(self.weight_bits)
        return self.largest_bits(kernel_size, in_channels) or min(self.weight_bits)

    def input_channel_limit(self, kernel_size: KernelSize, bits: int) -> int | None:
        """The largest number of input channels per group, 0 for an unsupported kernel, `None` without a limit."""
        if self.input_channels is None:
            return None
        return self.input_channels.get(kernel_size, {}).get(bits, 0)

    def largest_bits(self, kernel_size: KernelSize, in_channels: int) -> int | None:
        """The largest bit width at which `in_channels` per group fit, or `None` if there is none."""
        return max(self.fitting_bits(kernel_size, in_channels), default=None)

    def fitting_bits(self, kernel_size: KernelSize, in_channels: int) -> list[int]:
        """The bit widths at which `in_channels` per group fit, widest first."""
        limits = {bits: self.input_channel_limit(kernel_size, bits) for bits in self.weight_bits}
        fitting = (bits for bits, limit in limits.items() if limit is None or in_channels <= limit)
        return sorted(fitting, reverse=True)

    def kernel_sizes(self) -> tuple[KernelSize, ...]:
        """The kernel sizes that have an entry; empty where there is no limit."""
        return tuple(kernel for kernel, row in (self.input_channels or {}).items() if row)


def require_target(given: object) -> None:
    """Refuse what is no target.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(given, HardwareTarget):
        found = shown(given)
        raise OptionError(f"target is {found}; expected a HardwareTarget, such as fxsnn.get_target('hw_v1.0') gives")


def _rebuilt(state: dict[str, Any]) -> HardwareTarget:
    return HardwareTarget(**state)


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
        findings: what else stands in the way: unsupported layers, a convolution without its ReLU, ...
        unwritable: what keeps the converted network from being saved; it can be converted all the same.
    """

    target: str
    bits: Bits
    layers: tuple[LayerFit, ...]
    violations: tuple[Violation, ...]
    findings: tuple[Finding, ...] = ()
    unwritable: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the network can be converted for the target."""
        return not self.violations and not self.findings

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings and violations together."""
        return self.findings + tuple(violation.finding for violation in self.violations)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why layers have the bits they have, a line for each reason, and what would keep the network out of files."""
        why = reasons((fit.layer, fit.why) for fit in self.layers if fit.ok)
        return (*why, *(f"cannot be saved: {finding}" for finding in self.unwritable))

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
        if self.violations:
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
        allowed = ", ".join(f"{height}x{width}" for height, width in target.kernel_sizes())
        return Finding(
            fit.layer,
            f"its kernel is {kernel}; {target.name} supports {allowed or 'no convolution'}",
            "Use a supported kernel size",
            fit.source,
        )
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
