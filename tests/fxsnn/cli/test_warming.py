"""`fxsnn warm-up`: behind it, networks compile nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import needs_numba

REPOSITORY = Path(__file__).parents[3]
LATER = """
import sys, warnings
sys.path[:0] = ["examples"]
import fxsnn
from fxsnn.engine import kernels, over_places, tile_kernels
from networks import ResNet20
from tests.nets import CONVERTIBLE, images, seeded

warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
usual = {"target": "generic", "bits": 3, "correction": None}
for name, build in {**CONVERTIBLE, "residual": ResNet20}.items():
    x = images(4, 3, 32) if name == "residual" else images(4)
    for options in ({}, {"timesteps": 35, "reset": "zero"}, {"input_bits": None}, {"input_bits": 16}):
        snn = fxsnn.convert(seeded(build), calibration_data=x, **usual, **options)
        snn(x), snn.early_readout(x), snn.simulate(x), snn.stream(len(x))(x), snn.stream(len(x), record=True)(x)
        moving = x.unsqueeze(1).expand(-1, 3, *x.shape[1:])
        snn = fxsnn.convert(
            seeded(build), calibration_data=moving, input="frames", **{**usual, **options, "timesteps": 3}
        )
        snn(moving), snn.early_readout(moving), snn.simulate(moving), snn.stream(len(x))(x)
modules = (kernels, over_places, tile_kernels)
functions = [one for module in modules for one in vars(module).values() if hasattr(one, "stats")]
assert sum(sum(one.stats.cache_hits.values()) for one in functions) > 5
missed = {one.__name__: list(map(str, one.stats.cache_misses)) for one in functions if one.stats.cache_misses}
print("\\n".join(f"{name}: {given}" for name, all_given in missed.items() for given in all_given))
"""


@needs_numba
@pytest.mark.slow
def test_later_processes_compile_nothing(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-m", "fxsnn", "warm-up").startswith("The CPU engine is ready: ")
    assert run("-c", LATER) == "\n"
