"""Hardware v1.0: the documented table, cell by cell, up to the messages that users read."""

from __future__ import annotations

import pytest
from torch import nn

import fxsnn

TABLE = {(3, 1): 113, (3, 2): 56, (3, 3): 37, (3, 4): 28, (5, 1): 40, (5, 2): 20, (5, 3): 13, (5, 4): 10}


def network(kernel: int, channels: int) -> nn.Module:
    """A second convolution, named `wide`, that reads `channels` channels."""
    layers = nn.Sequential()
    layers.add_module("first", nn.Conv2d(1, channels, 3, padding=1))
    layers.add_module("relu1", nn.ReLU())
    layers.add_module("wide", nn.Conv2d(channels, 2, kernel))
    layers.add_module("relu2", nn.ReLU())
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("fc", nn.Linear(2 * (9 - kernel) ** 2, 3))
    return layers


@pytest.mark.parametrize(("kernel", "bits"), TABLE)
def test_the_table_is_the_fan_in_of_a_neuron_on_1024_rows(kernel: int, bits: int) -> None:
    limit = fxsnn.get_target("hw_v1.0").input_channel_limit((kernel, kernel), bits)
    assert limit == TABLE[kernel, bits] == 1024 // (kernel * kernel * bits)


@pytest.mark.parametrize(("kernel", "bits"), TABLE)
def test_at_the_limit_a_network_is_accepted(kernel: int, bits: int) -> None:
    report = fxsnn.check(network(kernel, TABLE[kernel, bits]), target="hw_v1.0", bits=bits)
    assert report.ok
    assert report.violations == ()


@pytest.mark.parametrize(("kernel", "bits"), TABLE)
def test_one_above_the_limit_a_network_is_refused_with_all_that_is_needed_to_mend_it(kernel: int, bits: int) -> None:
    channels = TABLE[kernel, bits] + 1
    fitting = max((b for b in (1, 2, 3, 4) if channels <= TABLE[kernel, b]), default=None)
    report = fxsnn.check(network(kernel, channels), target="hw_v1.0", bits=bits)
    (violation,) = report.violations
    assert not report.ok
    assert (violation.layer, violation.in_channels) == ("wide", channels)
    assert (violation.limit, violation.max_bits) == (TABLE[kernel, bits], fitting)
    for part in ("wide", f"{kernel}x{kernel}", f"{channels} input channels", f"at most {violation.limit}"):
        assert part in violation.message
    assert (f"bits={fitting}" if fitting else "No bit width fits") in violation.message


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (7, 7), (3, 5)])
def test_a_kernel_size_without_an_entry_is_not_supported(kernel: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, kernel), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3))
    (violation,) = fxsnn.check(model, target="hw_v1.0", bits=1).violations
    assert (violation.limit, violation.max_bits) == (0, None)
    assert f"its kernel is {kernel[0]}x{kernel[1]}; hw_v1.0 supports 3x3, 5x5" in violation.message


def test_registers_are_as_wide_as_documented() -> None:
    registers = fxsnn.get_target("hw_v1.0").registers
    assert (registers.codebook, registers.threshold, registers.leak) == (11, 18, 19)


def test_the_rules_bind() -> None:
    target = fxsnn.get_target("hw_v1.0")
    assert target.relu_behind_convolution
    assert target.binary_traffic


def test_the_generic_target_has_no_limits() -> None:
    assert fxsnn.check(network(5, 500), target="generic", bits=4).ok
