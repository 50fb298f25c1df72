"""The CPU engine's plan: which operations a network comes to, for a number of images of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fxsnn.engine.circuit import Circuit
from fxsnn.engine.instructions import Amx, InstructionSet
from fxsnn.engine.layout import Layout, row_of
from fxsnn.engine.lookup_planning import LookupPlanner
from fxsnn.engine.lookups import Weights
from fxsnn.engine.operations import Operation
from fxsnn.engine.tile_operations import SPARE
from fxsnn.engine.tile_planning import TilePlanner

ALIGNED = 64
"""Planes begin at multiples of so many bytes, those of a line of the cache."""
_PAGE = 1 << 12
_APART = 17 * ALIGNED
"""How far beyond whole pages planes that follow each other are apart. Processors tell what is written from what is read
later by the place within a page alone at first, and wait where these are the same."""


@dataclass(frozen=True)
class Places:
    """Where in one memory the planes of operations lie.

    Attributes:
        origins: where those of each begin.
        shared: whether another one's lie there at another time.
        size: bytes of the whole.
    """

    origins: tuple[int, ...]
    shared: tuple[bool, ...]
    size: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The operations for a number of images of one size.

    Attributes:
        operations: each behind those whose spikes it reads; the last gives what is decoded.
        numbers: of the operation of each call that has one.
        images: how many.
        how: the instruction set.
        steps: for how many there is memory.
        made: what workspaces have made of it for others, by whether membranes are kept and by steps of drives.
    """

    operations: tuple[Operation, ...]
    numbers: Mapping[int, int]
    images: int
    how: InstructionSet
    steps: int
    made: dict[tuple[bool, int], Any] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Groups and places of each operation's planes."""
        spare = SPARE if isinstance(self.how, Amx) else 0
        return tuple((row_of(self.how, one.channels), one.grid.length + spare) for one in self.operations)

    def places(self) -> Places:
        """Where the planes lie: in the place of others whose last reader has run."""
        last = list(range(len(self.operations)))
        for operation in self.operations:
            for one in operation.inputs:
                last[one] = operation.number
        sizes = [-(-self.steps * groups * length // _PAGE) * _PAGE + _APART for groups, length in self.shapes]
        begins: list[int] = []
        for number, size in enumerate(sizes):
            begin = 0
            for other in sorted((one for one in range(number) if last[one] >= number), key=begins.__getitem__):
                if begin + size <= begins[other]:
                    break
                begin = max(begin, begins[other] + sizes[other])
            begins.append(begin)
        ends = [begin + size for begin, size in zip(begins, sizes, strict=True)]
        shared = [
            any(one != other and begins[one] < ends[other] and begins[other] < ends[one] for other in range(len(ends)))
            for one in range(len(ends))
        ]
        return Places(tuple(begins), tuple(shared), max(ends))


def plan_of(circuit: Circuit, weights: Mapping[int, Weights], layout: Layout, images: int, steps: int) -> Plan:
    """The plan of a circuit.

    Args:
        circuit: the circuit.
        weights: of its layers with neurons.
        layout: of its values.
        images: how many images the plan is for.
        steps: for how many steps there is memory.
    """
    planner: LookupPlanner | TilePlanner
    if isinstance(layout.how, Amx):
        planner = TilePlanner(circuit, weights, layout, images, steps)
    else:
        planner = LookupPlanner(circuit, layout, images)
    for number in layout.sections:
        if number in layout.wires:
            planner.wiring(number)
        else:
            planner.layer(number, weights[number])
    return Plan(tuple(planner.operations), planner.numbers, images, layout.how, steps)
