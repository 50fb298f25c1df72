"""What a chip can hold, as plain data. No torch here.

A target is one file with one `HardwareTarget` in it:

    TARGET = HardwareTarget(name="acme_v1", description="...", input_channels={(3, 3): {2: 64}})
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from html import escape
from types import MappingProxyType
from typing import Any

from fxsnn.display import Rows, aligned, html
from fxsnn.errors import OptionError
from fxsnn.options import is_one_of, shown

KernelSize = tuple[int, int]

ALL_BITS = (1, 2, 3, 4)

JOINS = ("add", "concatenate", "pair")
"""How layers may read several others: neurons that add up several inputs, channels behind one another, and pairs of
layers that stand for one value with a sign."""

AUTOMATIC = "auto"

CODEBOOKS = ("symmetric", "full", "free")
"""What the levels of a layer's weights may be, each word allowing what stands before it too: whole numbers from `-Q` to
`Q`, `Q = 2**(b - 1) - 1`; those of two's complement, `-2**(b - 1)` to `Q`, or their mirror image; any `2**b` small
whole numbers. At 1 bit they are -1 and 1."""

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

        Examples:
            >>> Registers.range_of(11)
            (-1024, 1023)
        """
        return -(1 << (width - 1)), (1 << (width - 1)) - 1


@dataclass(frozen=True)
class HardwareTarget:
    """The limits and rules of one chip; `print` it, or let a notebook show it.

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
        joins: how layers may read several others, of `JOINS`: "add", neurons that add up several inputs (residual
            connections); "concatenate"; "pair", two layers for a value with a sign, which a convolution without a ReLU
            has. Without "pair" each convolution must have its ReLU.
        codebook: what the levels of a layer's weights may be, one of `CODEBOOKS`.

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
    joins: tuple[str, ...] = JOINS
    codebook: str = CODEBOOKS[0]

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
        if not isinstance(self.joins, tuple | list) or not set(self.joins) <= set(JOINS):
            raise OptionError(f"target {self.name!r}: joins is {shown(self.joins)}; allowed are several of {JOINS}")
        object.__setattr__(self, "joins", tuple(one for one in JOINS if one in self.joins))
        if not is_one_of(self.codebook, CODEBOOKS):
            raise OptionError(
                f"target {self.name!r}: codebook is {shown(self.codebook)}; allowed are "
                f"{', '.join(map(repr, CODEBOOKS))}"
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

    def codebooks(self) -> tuple[str, ...]:
        """Those of `CODEBOOKS` that the chip can have."""
        return CODEBOOKS[: CODEBOOKS.index(self.codebook) + 1]

    def require_codebook(self, codebook: object) -> str:
        """`codebook` as one of `CODEBOOKS` that the chip can have; "auto" is the widest of them.

        Raises:
            OptionError: it is none of these.
        """
        if is_one_of(codebook, (AUTOMATIC,)):
            return self.codebook
        if not is_one_of(codebook, self.codebooks()):
            allowed = ", ".join(map(repr, (*self.codebooks(), AUTOMATIC)))
            raise OptionError(f"codebook is {shown(codebook)}; target {self.name!r} allows {allowed}")
        return str(codebook)

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

    def limit_rows(self) -> Rows:
        """The largest number of input channels by kernel and weight bits as cells, header first; "-" for none."""
        header = ("kernel", *(f"{bits} bit{'s' if bits > 1 else ''}" for bits in self.weight_bits))
        rows = [header]
        for kernel in self.kernel_sizes():
            limits = (self.input_channel_limit(kernel, bits) for bits in self.weight_bits)
            rows.append(("x".join(map(str, kernel)), *(f"{limit:,}" if limit else "-" for limit in limits)))
        return rows

    def register_rows(self) -> Rows:
        """The registers as cells, header first."""
        rows = [("register", "bits", "holds")]
        for one in fields(self.registers):
            width = getattr(self.registers, one.name)
            low, high = Registers.range_of(width)
            rows.append((one.name, str(width), f"{low:,}..{high:,}"))
        return rows

    def _sections(self) -> list[tuple[str, Rows | None]]:
        """What to say, each with its table."""
        bits = f"weights of {', '.join(map(str, self.weight_bits))} bits"
        any_kernel = f"any kernel, any number of input channels; {bits}"
        limits = f"largest number of input channels (per group) of a convolution; {bits}"
        sizes = ((self.core_inputs, "input rows"), (self.core_outputs, "neurons"))
        core = ", ".join(f"{size:,} {what}" for size, what in sizes if size is not None) or "not known"
        return [
            (any_kernel, None) if self.input_channels is None else (limits, self.limit_rows()),
            ("registers", self.register_rows()),
            (f"codebooks: {', '.join(self.codebooks())}", None),
            (f"size of a core: {core}", None),
            (f"layers that read several others: {', '.join(self.joins) or 'none'}", None),
        ]

    def _heading(self) -> str:
        return f"{self.name}: {self.description}" if self.description else self.name

    def __str__(self) -> str:
        parts = (f"{title}\n{aligned(rows)}" if rows else title for title, rows in self._sections())
        return "\n\n".join([self._heading(), *parts])

    def __repr__(self) -> str:
        return f"HardwareTarget(name={self.name!r}, description={self.description!r}, ...)"

    def _repr_html_(self) -> str:
        parts = (f"<p>{escape(title)}</p>{html(rows) if rows else ''}" for title, rows in self._sections())
        return f"<p><b>{escape(self._heading())}</b></p>{''.join(parts)}"


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
