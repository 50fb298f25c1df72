"""The instruction sets that the CPU engine can use, and what differs between them.

All but one look up, in tables that stand in registers, what spikes add to weighted sums; see `fxsnn.engine.tables`. The
class of an instruction set is known to numba when it compiles: each has functions of its own. The other one multiplies
matrices, see `fxsnn.engine.tile_code`.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import NamedTuple

import llvmlite.binding as llvm
import numba


class Avx2(NamedTuple):
    """Vectors of 256 bits, tables of 16 entries.

    Attributes:
        per_byte: channels whose spikes form one index, and output channels that are computed together.
        lanes: places that are computed together, those of two vectors of bytes.
        vector: bytes of a vector.
    """

    per_byte: int = 4
    lanes: int = 64
    vector: int = 32


class Avx512bw(NamedTuple):
    """Vectors of 512 bits, the same tables; each is loaded once for twice as many places. See `Avx2`."""

    per_byte: int = 4
    lanes: int = 128
    vector: int = 64


class Avx512vbmi(NamedTuple):
    """Vectors of 512 bits, tables of 64 entries. See `Avx2`."""

    per_byte: int = 6
    lanes: int = 128
    vector: int = 64


class Neon(NamedTuple):
    """Vectors of 128 bits, tables of 16 entries: every ARM processor of 64 bits. See `Avx2`."""

    per_byte: int = 4
    lanes: int = 32
    vector: int = 16


class Amx(NamedTuple):
    """Tiles of 16 rows of 64 bytes, multiplied by a unit of their own: Intel's server processors since 2023.

    Attributes:
        per_byte: channels whose spikes share a byte.
        lanes: places that are computed together in any case.
        vector: bytes of a row of a tile.
    """

    per_byte: int = 1
    lanes: int = 1
    vector: int = 64


Lookups = Avx2 | Avx512bw | Avx512vbmi | Neon
InstructionSet = Amx | Lookups

_SETS: dict[str, InstructionSet] = {
    "amx": Amx(),
    "avx512bw": Avx512bw(),
    "avx512vbmi": Avx512vbmi(),
    "avx2": Avx2(),
    "neon": Neon(),
}
"""By name, the usually fastest first: on an Intel processor that has all of them, tables of 64 entries were as fast as
those of 16 with 2-bit weights or few steps, and slower otherwise: 8-bit sums of six channels have to be added up
sooner."""
_NEEDED: dict[str, tuple[str, ...]] = {
    "amx": ("avx2", "avx512f", "avx512bw", "amx-tile", "amx-int8"),
    "avx512bw": ("avx2", "avx512f", "avx512bw"),
    "avx512vbmi": ("avx2", "avx512f", "avx512bw", "avx512vbmi"),
    "avx2": ("avx2",),
    "neon": ("neon",),
}
"""Features of the processor, as LLVM names them."""
LOOKUPS: dict[type, str] = {
    Avx2: "llvm.x86.avx2.pshuf.b",
    Avx512bw: "llvm.x86.avx512.pshuf.b.512",
    Avx512vbmi: "llvm.x86.avx512.permvar.qi.512",
    Neon: "llvm.aarch64.neon.tbl1.v16i8",
}
"""LLVM's names for what chooses bytes: of a table, by indices."""
_ARM = ("aarch64", "arm64")
"""LLVM's names for ARM processors of 64 bits, on Linux and Windows and on macOS."""


def missing() -> str:
    """Why none of them can be used on this machine; "" if one can."""
    if numba.config.DISABLE_JIT:
        return "numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    feature, name = ("neon", "NEON") if _is_arm() else ("avx2", "AVX2")
    if not _is_there(feature):
        return f"the processor has no {name}"
    if not _may_be_used(feature):
        return f"numba is told not to use {name} (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES, NUMBA_ENABLE_AVX)"
    return ""


def usable() -> dict[str, InstructionSet]:
    """Those that can be used on this machine, by name, the usually fastest first."""
    return {name: one for name, one in _SETS.items() if not missing() and all(map(_has, _NEEDED[name])) and _given(one)}


def _given(one: InstructionSet) -> bool:
    """Whether the system lets this process use an instruction set."""
    return not isinstance(one, Amx) or _tiles_are_given()


@cache  # a process has asked, or it has not
def _tiles_are_given() -> bool:
    """Ask the system for the registers of tiles, which a process has to ask for.

    The request is arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA), see Documentation/arch/x86/xstate.rst of Linux.
    """
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return False
    call, request, tiles = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(call, request, tiles) == 0


def _has(feature: str) -> bool:
    """Whether the processor has a feature, and numba may use it: LLVM ends the process where it may not."""
    return _is_there(feature) and _may_be_used(feature)


def _is_arm() -> bool:
    return llvm.get_process_triple().partition("-")[0] in _ARM


def _is_there(feature: str) -> bool:
    if feature == "neon":  # part of the architecture; LLVM does not list it everywhere
        return _is_arm()
    return bool(llvm.get_host_cpu_features().get(feature, False))


def _may_be_used(feature: str) -> bool:
    told = numba.config.CPU_FEATURES
    mentions = [one[0] for one in (told or "").split(",") if one[1:] == feature]
    if mentions:
        return mentions[-1] == "+"
    if feature == "neon":  # every processor that NUMBA_CPU_NAME can name has it
        return True
    return not numba.config.CPU_NAME and (told is not None or bool(numba.config.ENABLE_AVX))
