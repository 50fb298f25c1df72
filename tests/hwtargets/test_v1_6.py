"""The chip of the later versions: sums and concatenation, limits unknown."""

from __future__ import annotations

import torch.nn.functional as F

import fxsnn
from fxsnn.layers import SpikeAdd
from tests.joining import joined
from tests.nets import images, seeded
from tests.residual import Residual


def test_it_is_found_by_its_name_and_says_what_it_can() -> None:
    shown = str(fxsnn.get_target("hw_v1.6"))
    assert "layers that read several others: add, concatenate" in shown
    assert "codebook   11    -1,024..1,023" in shown


def test_residual_networks_fit_and_values_with_a_sign_do_not() -> None:
    assert fxsnn.check(seeded(Residual), target="hw_v1.6", bits=4, example=images()).ok
    report = fxsnn.check(joined(lambda m, x, y: F.relu(y + x) + y), target="hw_v1.6", bits=4, example=images())
    assert "no ReLU of its own behind it" in str(report)


def test_a_sum_keeps_to_its_registers() -> None:
    snn = fxsnn.convert(seeded(Residual), target="hw_v1.6", bits=3, timesteps=8, calibration_data=images(16))
    registers, add = snn.target.registers, snn.graph["block1.add"]
    assert isinstance(add, SpikeAdd)
    assert int(add.threshold.max()) <= registers.range_of(registers.threshold)[1]
    assert int(add.weights.abs().max()) <= registers.range_of(registers.codebook)[1]
