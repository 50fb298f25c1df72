"""Targets are plain data that contradict themselves never and say clearly what fits."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from fxsnn.chip import HardwareTarget, Registers, fit_layer
from fxsnn.errors import OptionError

CHIP = HardwareTarget("chip", weight_bits=(1, 2), input_channels={(3, 3): {1: 8, 2: 4}})


def test_a_signed_register_holds_its_range() -> None:
    assert Registers.range_of(18) == (-131072, 131071)


def test_a_limit_is_looked_up_by_kernel_and_bits() -> None:
    assert CHIP.input_channel_limit((3, 3), 2) == 4


def test_a_kernel_without_an_entry_holds_nothing() -> None:
    assert CHIP.input_channel_limit((1, 1), 2) == 0
    assert CHIP.largest_bits((1, 1), 1) is None


def test_no_table_means_no_limit() -> None:
    free = HardwareTarget("free")
    assert free.input_channel_limit((7, 7), 4) is None
    assert free.largest_bits((7, 7), 10_000) == 4


@pytest.mark.parametrize(("channels", "bits"), [(4, 2), (5, 1), (8, 1), (9, None)])
def test_the_largest_bit_width_that_fits(channels: int, bits: int | None) -> None:
    assert CHIP.largest_bits((3, 3), channels) == bits


@pytest.mark.parametrize("choice", ["auto", {"other": 2}])
@pytest.mark.parametrize(
    ("kernel", "channels", "bits"),
    [((3, 3), 4, 2), ((3, 3), 5, 1), ((3, 3), 9, 1), ((1, 1), 1, 1), (None, 9, 2)],
)
def test_of_themselves_layers_have_the_widest_bits_that_fit_or_else_the_fewest(
    choice: Any, kernel: tuple[int, int] | None, channels: int, bits: int
) -> None:
    assert CHIP.bits_of("conv", choice, kernel, channels) == bits
    assert CHIP.bits_of("conv", {"conv": 2}, kernel, channels) == 2


@pytest.mark.parametrize("bits", [0, 3, 5, -1, "two", 2.0, True, None])
def test_bits_that_the_chip_does_not_know_are_refused(bits: object) -> None:
    with pytest.raises(OptionError, match=r"bits is .*; target 'chip' allows 1, 2"):
        CHIP.require_bits(bits)


def test_a_target_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CHIP.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        CHIP.input_channels[(3, 3)][1] = 99  # type: ignore[index]


def test_a_target_can_be_copied_and_pickled() -> None:
    assert copy.deepcopy(CHIP) == pickle.loads(pickle.dumps(CHIP)) == CHIP


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "x", "weight_bits": ()},
        {"name": "x", "weight_bits": (5,)},
        {"name": "x", "weight_bits": (1,), "input_channels": {(3, 3): {2: 4}}},
        {"name": "x", "input_channels": {(3, 3): {2: 0}}},
    ],
)
def test_data_that_contradict_themselves_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        HardwareTarget(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 5}, r"weight_bits is 5; expected several of \(1, 2, 3, 4\)"),
        ({"input_channels": 56}, "input_channels is 56; allowed are limits by kernel size and bits, such as"),
        ({"registers": 18}, r"registers is 18; expected fxsnn.Registers\("),
        ({"input_channels": {3: {2: 64}}}, r"3 is no kernel size; allowed are pairs \(height, width\)"),
        ({"input_channels": {(3, 0): {2: 64}}}, r"\(3, 0\) is no kernel size"),
        ({"input_channels": {(3, 3): 64}}, r"the row of kernel \(3, 3\) is 64"),
        ({"input_channels": {(3, 3): {2: "many"}}}, r"the row of kernel \(3, 3\) is \{2: 'many'\}"),
        ({"relu_behind_convolution": False}, "relu_behind_convolution is False; only chips on which it is True"),
        ({"binary_traffic": False}, "binary_traffic is False; only chips on which it is True"),
    ],
)
def test_what_no_compiler_could_use_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"target 'chip': {message}"):
        HardwareTarget("chip", **options)


@pytest.mark.parametrize("width", [0, 1, 32, -3, 8.0, "wide"])
@pytest.mark.parametrize("name", ["codebook", "threshold", "leak"])
def test_a_register_has_2_to_31_bits(name: str, width: Any) -> None:
    with pytest.raises(OptionError, match=f"the {name} register is {width!r} bits wide; allowed are 2 to 31"):
        Registers(**{name: width})


@pytest.mark.parametrize("width", [2, 31])
@pytest.mark.parametrize("name", ["codebook", "threshold", "leak"])
def test_the_narrowest_and_the_widest_register_can_be_had(name: str, width: int) -> None:
    assert getattr(Registers(**{name: width}), name) == width


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (9, "reads 9 input channels; chip allows at most 8 at 1 bit. No bit width fits: use at most 8 input channels"),
        (5, "reads 5 input channels; chip allows at most 4 at 2 bits. Use bits=1, at most 4 input channels"),
    ],
)
def test_a_violation_says_what_would_fit(channels: int, words: str) -> None:
    bits = 1 if channels > 8 else 2
    _, violation = fit_layer(
        CHIP, bits, layer="conv", kind="Conv2d", kernel_size=(3, 3), in_channels=channels, out_channels=1, groups=1
    )
    assert violation is not None
    assert words in violation.message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "its kernel is 3x3; chip supports no convolution. Use a supported kernel size"),
        ({(3, 3): {}}, "its kernel is 3x3; chip supports no convolution. Use a supported kernel size"),
        ({(3, 3): {}, (5, 5): {2: 4}}, "its kernel is 3x3; chip supports 5x5. Use a supported kernel size"),
        ({(3, 3): {1: 8}}, "reads 5 input channels; chip has no 3x3 kernels at 2 bits. Use bits=1."),
        ({(3, 3): {1: 4}}, "chip has no 3x3 kernels at 2 bits. No bit width fits: use at most 4 input channels"),
    ],
)
def test_a_table_may_leave_out_what_the_chip_cannot_do(table: dict[Any, Any], words: str) -> None:
    chip = HardwareTarget("chip", weight_bits=(1, 2), input_channels=table)
    _, violation = fit_layer(
        chip, 2, layer="conv", kind="Conv2d", kernel_size=(3, 3), in_channels=5, out_channels=1, groups=1
    )
    assert violation is not None
    assert words in f"{violation.message}."


def test_a_remedy_names_all_bits_that_fit() -> None:
    chip = HardwareTarget("chip", input_channels={(3, 3): {1: 8, 3: 6, 4: 2}})
    layer = {"layer": "c", "kind": "Conv2d", "kernel_size": (3, 3), "out_channels": 8, "groups": 1}
    _, violation = fit_layer(chip, 4, in_channels=5, **layer)  # type: ignore[arg-type]
    assert violation is not None
    assert "Use bits=3 or 1, at most 2 input channels" in violation.message


def test_with_groups_the_limit_binds_the_channels_of_one_group() -> None:
    layer = {"layer": "c", "kind": "Conv2d", "kernel_size": (3, 3), "out_channels": 8}
    assert fit_layer(CHIP, 2, in_channels=8, groups=2, **layer)[1] is None  # type: ignore[arg-type]
    violation = fit_layer(CHIP, 2, in_channels=10, groups=2, **layer)[1]  # type: ignore[arg-type]
    assert violation is not None
    assert violation.in_channels == 5
    assert "per group" in violation.message


def test_of_bits_by_layer_the_wrong_one_is_named() -> None:
    with pytest.raises(OptionError, match="layer 'conv1': bits is 9; target 'chip' allows 1, 2"):
        CHIP.require_choice({"conv0": 2, "conv1": 9})


def test_numpys_integers_are_whole_numbers() -> None:
    assert CHIP.require_bits(np.int64(2)) == 2
    assert type(CHIP.require_bits(np.int64(2))) is int


@pytest.mark.parametrize("name", [3, "", None])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(OptionError, match=r"a target's name is .*; expected a text that is not empty"):
        HardwareTarget(name)


def test_an_array_is_no_number_of_bits() -> None:
    with pytest.raises(OptionError, match=r"bits is array\(\[1, 2\]\)"):
        HardwareTarget("chip").require_choice(np.array([1, 2]))


class TestShowing:
    def test_the_limits_are_a_table(self) -> None:
        partly = HardwareTarget("chip", weight_bits=(1, 2), input_channels={(3, 3): {1: 1113, 2: 4}, (1, 5): {2: 8}})
        assert partly.limit_rows() == [("kernel", "1 bit", "2 bits"), ("3x3", "1,113", "4"), ("1x5", "-", "8")]

    def test_the_registers_are_another(self) -> None:
        assert CHIP.register_rows()[:2] == [("register", "bits", "holds"), ("codebook", "11", "-1,024..1,023")]

    def test_as_text(self) -> None:
        chip = dataclasses.replace(CHIP, description="a chip", core_inputs=1024, core_outputs=256)
        first, limits, registers, codebooks, core, joins = str(chip).split("\n\n")
        assert first == "chip: a chip"
        assert limits.splitlines() == [
            "largest number of input channels (per group) of a convolution; weights of 1, 2 bits",
            "kernel  1 bit  2 bits",
            "------  -----  ------",
            "3x3     8      4",
        ]
        assert "threshold  18    -131,072..131,071" in registers.splitlines()
        assert codebooks == "codebooks: symmetric"
        assert core == "size of a core: 1,024 input rows, 256 neurons"
        assert joins == "layers that read several others: add, concatenate, pair"
        assert str(dataclasses.replace(chip, joins=())).endswith("read several others: none")

    def test_what_has_no_limits_says_so(self) -> None:
        shown = str(HardwareTarget("any"))
        assert shown.startswith("any\n\nany kernel, any number of input channels; weights of 1, 2, 3, 4 bits\n")
        assert "size of a core: not known" in shown

    def test_as_html(self) -> None:
        shown = dataclasses.replace(CHIP, description="<new>")._repr_html_()
        assert "<b>chip: &lt;new&gt;</b>" in shown
        assert shown.count("<table>") == 2

    def test_in_short_by_its_name(self) -> None:
        assert repr(CHIP) == "HardwareTarget(name='chip', description='', ...)"


def test_joins_are_words_that_are_known() -> None:
    assert HardwareTarget("chip", joins=["add"]).joins == ("add",)  # type: ignore[arg-type]
    with pytest.raises(
        OptionError, match=r"joins is \('sum',\); allowed are several of \('add', 'concatenate', 'pair'\)"
    ):
        HardwareTarget("chip", joins=("sum",))


class TestCodebooks:
    def test_a_chip_has_symmetric_ones_if_nothing_is_said(self) -> None:
        assert HardwareTarget("chip").codebooks() == ("symmetric",)
        assert HardwareTarget("chip", codebook="free").codebooks() == ("symmetric", "full", "free")

    def test_automatic_is_the_widest_that_there_is(self) -> None:
        chip = HardwareTarget("chip", codebook="full")
        assert [chip.require_codebook(one) for one in ("symmetric", "full", "auto")] == ["symmetric", "full", "full"]

    @pytest.mark.parametrize("codebook", ["free", "ternary", None, 2])
    def test_what_the_chip_has_not_is_refused_with_what_it_has(self, codebook: object) -> None:
        message = f"codebook is {codebook!r}; target 'chip' allows 'symmetric', 'full', 'auto'"
        with pytest.raises(OptionError, match=message):
            HardwareTarget("chip", codebook="full").require_codebook(codebook)

    def test_words_are_those_that_are_known(self) -> None:
        with pytest.raises(OptionError, match="codebook is 'any'; allowed are 'symmetric', 'full', 'free'"):
            HardwareTarget("chip", codebook="any")
