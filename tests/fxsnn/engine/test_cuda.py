"""The engine for CUDA without a GPU: with interpreted kernels it gives the reference's spikes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from fxsnn.engine import cuda

REPOSITORY = Path(__file__).parents[3]


def test_types_are_as_narrow_as_is_exact() -> None:
    assert cuda.exact_type(2048) == torch.float16
    assert cuda.exact_type(2049) == torch.float32
    assert cuda.exact_type(1 << 22) == torch.float64


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the interpreted run")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "chosen"),
    [
        (
            "tests/test_against_reference.py",
            "far_below_zero or fully_connected_first or row_t or all_zero or every_spike",
        ),
        ("tests/fxsnn/test_readout.py", "triton"),
        ("tests/test_any_tail.py", "random_tails"),
        ("tests/fxsnn/test_frames.py", "every_engine"),
        ("tests/fxsnn/engine/test_circuits.py", "triton or RandomGraphs and (give_the_spikes or images_that_change)"),
        # The interpreter itself is not made for several threads.
        ("tests/fxsnn/engine/test_engines.py", "triton and not Net and not 32_bits and not many_threads"),
    ],
)
def test_interpreted_kernels_pass_the_tests_of_every_engine(file: str, chosen: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", chosen, file]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
