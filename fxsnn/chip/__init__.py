"""What a chip can hold: a target as plain data, how targets are found, how a network fits one. No torch here.

Open `hardware.py` first, then `hwtargets/`, where the chips are. It imports display and the ground.
"""

from fxsnn.chip.cores import FORMULA, Read, Shape, estimated_cores
from fxsnn.chip.fit_report import FitReport, Violation, fit_layer, own_reset, reasons
from fxsnn.chip.hardware import (
    ALL_BITS,
    AUTOMATIC,
    CODEBOOKS,
    JOINS,
    Bits,
    HardwareTarget,
    Registers,
    require_target,
    whole_number,
)
from fxsnn.chip.plugins import get_target, target_sources

__all__ = [
    "ALL_BITS",
    "AUTOMATIC",
    "CODEBOOKS",
    "FORMULA",
    "JOINS",
    "Bits",
    "FitReport",
    "HardwareTarget",
    "Read",
    "Registers",
    "Shape",
    "Violation",
    "estimated_cores",
    "fit_layer",
    "get_target",
    "own_reset",
    "reasons",
    "require_target",
    "target_sources",
    "whole_number",
]
