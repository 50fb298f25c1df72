"""The engines that can run here, for tests that hold every one of them to the same spikes."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import OptionError
from tests.nets import images, seeded


def tiny() -> nn.Module:
    """3x12x12: one convolution."""
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(200, 2))


def engines() -> tuple[str, ...]:
    """Those for which this machine has what they need."""
    snn, found = fxsnn.convert(seeded(tiny), target="generic", bits=3, calibration_data=images()), []
    for name in ("torch", "numba", "triton"):
        snn.engine = name
        with suppress(OptionError):
            snn(images())
            found.append(name)
    return tuple(found)


def instruction_sets() -> tuple[str, ...]:
    """Engines for the instruction sets that this processor has, but that `numba` itself does not choose here."""
    if "numba" not in ENGINES:
        return ()
    from fxsnn.engine.instructions import usable

    return tuple(f"numba-{name}" for name in list(usable())[1:])


ENGINES = engines()
EVERY_ENGINE = (*ENGINES, *instruction_sets())

ON_ARM = platform.machine().lower() in ("aarch64", "arm64")

on_arm = pytest.mark.skipif(not ON_ARM, reason="needs an ARM processor")
on_x86 = pytest.mark.skipif(ON_ARM, reason="needs an x86 processor")
needs_numba = pytest.mark.skipif("numba" not in ENGINES, reason="needs numba and a processor with AVX2 or NEON")


def has_tiles() -> bool:
    """Whether the processor has a unit for tiles."""
    told = Path("/proc/cpuinfo")
    return told.exists() and "amx_int8" in told.read_text()


def all_spike_alike(snn: fxsnn.SpikingNetwork, given: torch.Tensor) -> bool:
    """Whether all layers have the same spikes in every engine; the last one stays set."""
    runs = []
    for engine in ENGINES:
        snn.engine = engine
        runs.append(snn.simulate(given).spikes)
    return all(torch.equal(run[layer], runs[0][layer]) for run in runs for layer in runs[0])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all layers have the same spikes."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
