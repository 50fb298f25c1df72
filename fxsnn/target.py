"""What a chip can hold, as plain data, and the report of how a network fits it. No torch here.

A target is one file with one `HardwareTarget` in it:

    TARGET = HardwareTarget(name="acme_v1", description="...", input_channels={(3, 3): {2: 64}})
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from fxsnn.errors import Finding, OptionError, listing
from fxsnn.tables import aligned

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
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


@dataclass(frozen=True)
class Registers:
    """Widths, in bits, of the chip's registers; all are signed two's complement.

    Attributes:
        codebook: of a codebook entry, that is of a weight code times the codebook gain.
        threshold: of a threshold.
        leak: of a leak (the bias that is added at every step).
    """

    codebook: int = 11
    threshold: int = 18
    leak: int = 19

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
        registers: widths of the chip's registers.
        relu_behind_convolution: each convolution must have its ReLU directly behind it (batch norm may stand between).
        binary_traffic: all traffic between layers is spikes, 0 or 1.
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
        if not self.name:
            raise OptionError("a target needs a name")
        if not self.weight_bits or not set(self.weight_bits) <= set(ALL_BITS):
            raise OptionError(
                f"target {self.name!r}: weight_bits is {self.weight_bits}; allowed are values of {ALL_BITS}"
            )
        for name in ("core_inputs", "core_outputs"):
            size = getattr(self, name)
            if size is not None and (whole_number(size) or 0) < 1:
                raise OptionError(
                    f"target {self.name!r}: {name} is {size!r}; allowed are whole numbers from 1, or None"
                )
        if self.input_channels is not None:
            table = {kernel: MappingProxyType(dict(row)) for kernel, row in self.input_channels.items()}
            for kernel, row in table.items():
                if not set(row) <= set(self.weight_bits) or any(limit < 1 for limit in row.values()):
                    raise OptionError(
                        f"target {self.name!r}: the row of kernel {kernel} is {dict(row)}; allowed are limits of at "
                        f"least 1 for bits out of {self.weight_bits}"
                    )
            object.__setattr__(self, "input_channels", MappingProxyType(table))

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], HardwareTarget], tuple[dict[str, Any]]]:
        # The read-only table cannot be pickled or deep-copied as it stands, but spiking networks carry their target.
        state = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.input_channels is not None:
            state["input_channels"] = {kernel: dict(row) for kernel, row in self.input_channels.items()}
        return _rebuilt, (state,)

    def require_bits(self, bits: object) -> int:
        """`bits` as an integer that the target knows.

        Raises:
            OptionError: it is no integer, or not one of `weight_bits`.
        """
        whole = whole_number(bits)
        if whole is None or whole not in self.weight_bits:
            allowed = ", ".join(map(str, self.weight_bits))
            raise OptionError(f"bits is {bits!r}; target {self.name!r} allows {allowed}")
        return whole

    def require_choice(self, bits: object) -> Bits:
        """`bits` as what `Bits` says, each number one that the target knows.

        Raises:
            OptionError: it is neither an integer, nor "auto", nor a mapping from layers to integers.
        """
        if bits == AUTOMATIC:
            return AUTOMATIC
        if isinstance(bits, Mapping):
            return {str(layer): self.require_bits(width) for layer, width in bits.items()}
        if isinstance(bits, str):
            raise OptionError(f"bits is {bits!r}; allowed are {AUTOMATIC!r}, a number, or a number for each layer")
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
        fitting = [
            bits
            for bits in self.weight_bits
            if (limit := self.input_channel_limit(kernel_size, bits)) is None or in_channels <= limit
        ]
        return max(fitting, default=None)

    def kernel_sizes(self) -> tuple[KernelSize, ...]:
        """The kernel sizes that have an entry; empty where there is no limit."""
        return tuple(self.input_channels or ())


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
        why: why it has these bits, where the target could hold wider weights; otherwise "".
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
        message: all of it in words, with the remedy.
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
    """

    target: str
    bits: Bits
    layers: tuple[LayerFit, ...]
    violations: tuple[Violation, ...]
    findings: tuple[Finding, ...] = ()

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
        """Why layers have the bits they have, a line for each reason."""
        return reasons((fit.layer, fit.why) for fit in self.layers if fit.ok)

    def widths(self) -> str:
        """The weight bits in words."""
        widths = {fit.bits for fit in self.layers} or {0}
        low, high = (self.bits, self.bits) if isinstance(self.bits, int) else (min(widths), max(widths))
        if low == high:
            return _widths(low)
        return f"{low} to {high} bits"

    def __str__(self) -> str:
        header = ("layer", "kind", "kernel", "in/group", "limit", "bits", "largest bits", "fits")
        rows = [header] + [
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
        verdict = "fits" if self.ok else "does not fit"
        lines = [f"The network {verdict} {self.target} at {self.widths()}."]
        if self.layers:
            lines.append(aligned(rows))
        lines += [f"note: {note}" for note in self.notes]
        if self.problems:
            lines.append(listing(self.problems))
        return "\n".join(lines)


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
        return LayerFit(
            layer, kind, None, per_group, out_channels, groups, bits, None, max(target.weight_bits), source
        ), None
    limit = target.input_channel_limit(kernel_size, bits)
    largest = target.largest_bits(kernel_size, per_group)
    why = _why(target, bits, largest, kernel_size, per_group)
    fit = LayerFit(layer, kind, kernel_size, per_group, out_channels, groups, bits, limit, largest, source, why)
    if fit.ok or limit is None:
        return fit, None
    return fit, Violation(layer, per_group, limit, largest, _finding(target, fit, limit))


def _why(target: HardwareTarget, bits: int, largest: int | None, kernel_size: KernelSize, in_channels: int) -> str:
    wider = [width for width in target.weight_bits if width > bits]
    if not wider or largest is None:
        return ""
    if largest > bits:
        return f"{in_channels} input channels would allow {_widths(largest)}"
    limit = target.input_channel_limit(kernel_size, min(wider))
    return f"{_widths(bits)} at most for {in_channels} input channels; {_widths(min(wider))} allow {limit}"


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
    kernel = "x".join(map(str, fit.kernel_size or ()))
    if fit.kernel_size not in target.kernel_sizes():
        allowed = ", ".join(f"{height}x{width}" for height, width in target.kernel_sizes())
        return Finding(
            fit.layer,
            f"its kernel is {kernel}; {target.name} supports {allowed}",
            "Use a supported kernel size",
            fit.source,
        )
    per_group = " per group" if fit.groups > 1 else ""
    problem = (
        f"its {kernel} kernel reads {fit.in_channels} input channels{per_group}; "
        f"{target.name} allows at most {limit} at {fit.bits} bit{'s' if fit.bits > 1 else ''}"
    )
    if fit.max_bits is None:
        fewer = max((target.input_channels or {})[fit.kernel_size or (0, 0)].values())
        remedy = f"No bit width fits: use at most {fewer} input channels{per_group}, or more groups"
    else:
        remedy = f"Use bits={fit.max_bits} or fewer, at most {limit} input channels{per_group}, or more groups"
    return Finding(fit.layer, problem, remedy, fit.source)
