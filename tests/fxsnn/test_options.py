"""What an option may be: numbers of all kinds, but no truth values, no text, no arrays."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import fxsnn
from fxsnn.errors import OptionError
from fxsnn.options import is_one_of, real_number, require_flag, shown
from fxsnn.passes import CalibrateThresholds, CorrectLayers, QuantizeWeights

ARRAYS = [np.array([1, 2]), np.array([]), np.array(["a", "b"]), torch.tensor([1, 2]), torch.tensor([])]
META = torch.empty((), dtype=torch.int64, device="meta")


@pytest.mark.parametrize("value", [2, 2.0, Fraction(4, 2), np.float32(2), np.int64(2)])
def test_numbers_of_all_kinds_are_numbers(value: Any) -> None:
    found = real_number(value)
    assert type(found) is float
    assert found == 2


@pytest.mark.parametrize("value", [None, True, "2", b"2", math.nan, math.inf, 10**400, Decimal(2), 2j, META, *ARRAYS])
def test_what_is_no_finite_number_is_none(value: Any) -> None:
    assert real_number(value) is None


def test_what_is_long_is_told_by_its_kind() -> None:
    assert [shown(value) for value in (7, "a", 10**400, np.zeros((9, 9)))] == ["7", "'a'", "a int", "a ndarray"]
    assert shown(10**5000) == "a int"  # Python refuses to write it


def test_truth_values_are_true_and_false_and_nothing_else() -> None:
    assert [require_flag("x", value) for value in (True, False, 1, 0, np.True_)] == [True, False, True, False, True]
    for value in (None, "yes", 2, 1.0, META, *ARRAYS):
        with pytest.raises(OptionError, match=r"x is .*; allowed are True and False"):
            require_flag("x", value)


def test_words_are_compared_with_words_only() -> None:
    assert is_one_of("a", ("a", "b"))
    assert not any(is_one_of(value, ("a", "b")) for value in ("c", None, 1, ["a"], META, *ARRAYS))


@pytest.mark.parametrize(
    "option",
    ["timesteps", "reset", "initial_membrane", "calibration", "percentile", "input_bits", "per_channel", "codebook",
     "correction",
     "finetune", "progress", "bits", "target"],
)  # fmt: skip
@pytest.mark.parametrize("value", [*ARRAYS, META, 10**400], ids=lambda value: type(value).__name__)
def test_options_of_a_conversion_are_no_arrays(option: str, value: Any) -> None:
    with pytest.raises(OptionError):
        fxsnn.pipeline(**{"target": "hw_v1.0", "bits": 2, "calibration_data": torch.zeros(1, 1, 8, 8), option: value})


@pytest.mark.parametrize(
    "option",
    ["optimizer", "optimiser", "schedule", "precision", "lr", "momentum", "distillation", "batch_size", "patience",
     "seed", "progress", "reset", "initial_membrane", "timesteps", "checkpoint", "teacher", "on_epoch", "target"],
)  # fmt: skip
@pytest.mark.parametrize("value", [*ARRAYS, META, 10**400], ids=lambda value: type(value).__name__)
def test_options_of_fine_tuning_are_no_arrays(option: str, value: Any) -> None:
    with pytest.raises(OptionError):
        fxsnn.Finetune([], **{option: value})


def test_true_is_no_percentile_and_no_start_of_the_membranes() -> None:
    with pytest.raises(OptionError, match="percentile is True; allowed are numbers above 0 and up to 100"):
        CalibrateThresholds(percentile=True)
    with pytest.raises(OptionError, match=r"initial_membrane is False; allowed are 0 and 0\.5"):
        CalibrateThresholds(initial_membrane=False)
    with pytest.raises(OptionError, match="validation is True; allowed are shares between 0 and 1"):
        fxsnn.Finetune([], validation=True)


def test_fractions_and_numpys_numbers_become_plain_ones() -> None:
    percentile = CalibrateThresholds(percentile=Fraction(199, 2)).percentile  # type: ignore[arg-type]  # on purpose
    assert (type(percentile), percentile) == (float, 99.5)
    batch_size = fxsnn.Finetune([], batch_size=np.int64(3)).batch_size  # type: ignore[arg-type]  # on purpose
    assert (type(batch_size), batch_size) == (int, 3)
    assert QuantizeWeights(2, per_channel=np.False_).per_channel is False  # type: ignore[arg-type]  # on purpose


def test_the_flags_of_a_correction_are_flags() -> None:
    for name in ("biases", "thresholds", "progress"):
        with pytest.raises(OptionError, match=f"{name} is 'no'; allowed are True and False"):
            CorrectLayers([], fxsnn.get_target("generic"), **dict[str, Any]({name: "no"}))


def test_weight_bits_of_a_target_may_come_in_an_array_and_are_whole_numbers() -> None:
    assert fxsnn.HardwareTarget("mine", weight_bits=np.array([1, 2])).weight_bits == (1, 2)  # type: ignore[arg-type]
    wrong: list[Any] = [np.array(2), np.array(["a"]), (np.array([1, 2]),), ({},), META]
    for value in wrong:
        with pytest.raises(OptionError, match="weight_bits is"):
            fxsnn.HardwareTarget("mine", weight_bits=value)
