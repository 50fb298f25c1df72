"""What of a layer in a file the target does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxsnn.chip import HardwareTarget, fit_layer
from fxsnn.file.schema_check import Problems
from fxsnn.numerics import Codebook, kind_of


@dataclass(frozen=True)
class Limits:
    """Holds layers against a target.

    Attributes:
        target: the chip.
        problem: is told what is wrong.
    """

    target: HardwareTarget
    problem: Problems

    def require_fitting(self, node: Mapping[str, Any], layer: nn.Module, codebook: Codebook) -> None:
        """Weights of these bits and levels, in this shape, are some that the target has."""
        name, bits = str(node["name"]), node["bits"]
        if bits not in self.target.weight_bits:
            self.problem(f"{name}: it has {bits}-bit weights, which {self.target.name} does not know")
        if kind_of(codebook) not in self.target.codebooks():
            allowed = ", ".join(self.target.codebooks())
            self.problem(f"{name}: its codebook is {codebook}; {self.target.name} has {allowed} ones alone")
        if isinstance(layer, nn.Conv2d):
            _, violation = fit_layer(
                self.target,
                bits,
                layer=name,
                kind="Conv2d",
                kernel_size=(layer.kernel_size[0], layer.kernel_size[1]),
                in_channels=layer.in_channels,
                out_channels=layer.out_channels,
                groups=layer.groups,
            )
            if violation is not None:
                self.problem(violation.message)

    def require_registers(self, name: str, entry: int, *neuron: Tensor) -> None:
        """The largest codebook entry, thresholds and leaks are some that the target holds."""
        self.require_range(name, "codebook entry", entry, entry, "codebook")
        for what, numbers in zip(("threshold", "leak"), neuron, strict=False):
            self.require_range(name, what, int(numbers.min()), int(numbers.max()), what)

    def require_range(self, name: str, what: str, low: int, high: int, register: str) -> None:
        """All integers from `low` to `high` are some that a register holds."""
        registers = self.target.registers
        least, most = registers.range_of(getattr(registers, register))
        least = 1 if register == "threshold" else least
        if low < least or high > most:
            self.problem(f"{name}: its {what} is {low} to {high}; {self.target.name} holds {least} to {most}")
