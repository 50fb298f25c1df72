"""`fxsnn check` and `fxsnn targets`: what chips allow, and whether a network fits one."""

from __future__ import annotations

import argparse

from fxsnn.checking import check
from fxsnn.chip import HardwareTarget, target_sources
from fxsnn.cli.answer import Answer
from fxsnn.cli.inputs import model_named
from fxsnn.cli.option_values import bits_from
from fxsnn.display import aligned
from fxsnn.file import target_data


def check_command(options: argparse.Namespace) -> Answer:
    """Whether a network, trained or not, can be converted for a chip; everything that stands in the way, at once."""
    report = check(
        model_named(options, trained=False),
        target=options.target,
        bits=bits_from(options.bits),
        max_pool=options.max_pool,
    )
    return Answer(str(report), report.to_dict(), 0 if report.ok else 1)


def targets_command(options: argparse.Namespace) -> Answer:
    """The chips that are known here, and their limits."""
    chips = {name: (source.load(), source.origin) for name, source in sorted(target_sources().items())}
    text = "\n\n".join(_target_text(chip, origin) for chip, origin in chips.values())
    data = {
        name: {**target_data(chip), "codebook": chip.codebook, "origin": origin}
        for name, (chip, origin) in chips.items()
    }
    return Answer(text, {"targets": data})


def _target_text(chip: HardwareTarget, origin: str) -> str:
    registers = chip.registers
    lines = [
        f"{chip.name}: {chip.description} ({origin})",
        f"  registers, bits: codebook {registers.codebook}, threshold {registers.threshold}, leak {registers.leak}",
        f"  codebooks: {', '.join(chip.codebooks())}",
    ]
    if chip.input_channels is None:
        return "\n".join([*lines, f"  weights of {chip.weight_bits[0]} to {chip.weight_bits[-1]} bits, any kernel"])
    header = ("  most input channels", *(f"{bits} bit{'s' if bits > 1 else ''}" for bits in chip.weight_bits))
    rows = [
        (f"  {height}x{width}", *(str(row.get(bits, "-")) for bits in chip.weight_bits))
        for (height, width), row in chip.input_channels.items()
    ]
    return "\n".join([*lines, aligned([header, *rows])])
