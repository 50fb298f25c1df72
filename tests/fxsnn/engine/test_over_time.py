"""The kernels over time without a GPU: compiled, they make code; what they would misread is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

import fxsnn
from fxsnn.engine import over_time
from fxsnn.engine.circuit import Broken
from fxsnn.numerics import Dynamics, IntegerNeuron

INTEGERS = {"membranes": "*i32", "thresholds": "*i32", "leaks": "*i32", "lows": "*i32", "highs": "*i32"}
WIDE = dict.fromkeys(INTEGERS, "*i64")
FLOATS = dict.fromkeys(INTEGERS, "*fp64")


def code(kernel: Any, kinds: dict[str, str], constants: dict[str, Any], capability: int) -> str:
    """What a kernel comes to for a GPU of that capability."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
    source = ASTSource(kernel, signature, constexprs={(names.index(name),): value for name, value in constants.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Triton's about defaults of its own
        return str(compile_kernel(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("zero_reset", [False, True])
@pytest.mark.parametrize(
    ("kinds", "drive"),
    [
        ({"drive": "*fp16", **INTEGERS}, "sums"),
        ({"drive": "*fp32", **WIDE}, "sums"),
        ({"drive": "*fp64", **WIDE}, "sums"),
        ({"drive": "*i32", **INTEGERS}, "sums"),
        ({"drive": "*i64", **WIDE}, "sums"),
        ({"drive": "*i32", **INTEGERS}, "whole"),
        ({"drive": "*fp64", **FLOATS}, "whole"),
        ({"drive": "*i32", **INTEGERS}, "constant"),
        ({"drive": "*fp64", **FLOATS}, "constant"),
    ],
)
def test_the_pass_over_time_compiles(kinds: dict[str, str], drive: str, zero_reset: bool, capability: int) -> None:
    constants: dict[str, Any] = {"constant": drive == "constant", "whole": drive != "sums"}
    constants |= {"zero_reset": zero_reset, "record": zero_reset, "block": 1024}
    made = code(over_time._fire_over_time, {"spikes": "*fp16", **kinds}, constants, capability)
    assert f".target sm_{capability}" in made


@pytest.mark.parametrize("zero_reset", [False, True])
def test_the_pass_over_time_behind_a_pooling_compiles(zero_reset: bool) -> None:
    kinds = {"given": "*fp16", "spikes": "*fp16", **INTEGERS}
    constants = {"zero_reset": zero_reset, "record": zero_reset, "tall": 2, "wide": 3, "block": 1024}
    assert ".target sm_90" in code(over_time._pool_over_time, kinds, constants, 90)


@pytest.mark.parametrize("kind", ["*fp16", "*fp32", "*fp64", "*i64"])
@pytest.mark.parametrize("total", ["*i32", "*i64"])
def test_the_sum_of_several_inputs_compiles(kind: str, total: str) -> None:
    kinds = {"given": kind, "factors": total, "total": total}
    assert ".target sm_90" in code(over_time._add_over_time, kinds, {"fresh": False, "block": 1024}, 90)


@pytest.mark.parametrize(
    "drive",
    [
        torch.zeros(5, 2, 3, 4, 4),  # channels first
        torch.zeros(10, 2, 4, 4, 3).permute(0, 1, 4, 2, 3)[::2],
        torch.zeros(5, 2, 8, 4, 3).permute(0, 1, 4, 2, 3)[..., ::2, :],
    ],
)
def test_memory_that_a_kernel_would_misread_is_refused(drive: torch.Tensor) -> None:
    layer = fxsnn.SpikeConv2d(1, 3, 1)
    numbers = torch.ones(3, dtype=torch.int32)
    layer.become_spiking(IntegerNeuron(1, numbers, numbers, numbers.double()), numbers, Dynamics(5))
    neurons = over_time.neurons_of(layer, drive.shape[1:], torch.int32, Dynamics(5))
    with pytest.raises(Broken, match="would misread memory"):
        over_time.fire_over_time(neurons, drive, 5, False, None)
    fine, other = torch.zeros(5, 2, 4, 4, 3).permute(0, 1, 4, 2, 3), replace(neurons, leaks=neurons.leaks.long())
    with pytest.raises(Broken, match="would misread thresholds"):
        over_time.fire_over_time(other, fine, 5, False, None)
