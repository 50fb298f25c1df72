"""Weight bits by layer: the widest that fit, or those that were asked for."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import OptionError, TargetError
from tests.nets import images, seeded

V1 = fxsnn.get_target("hw_v1.0")


def wide() -> nn.Sequential:
    """Convolutions that read 3, 28, 56 and 113 channels, and a hidden layer."""
    layers: list[nn.Module] = []
    for read, write in ((3, 28), (28, 56), (56, 113), (113, 4)):
        layers += [nn.Conv2d(read, write, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, 3))


MODEL = seeded(wide)
IMAGES = images(8, size=6)


def widths(bits: Any) -> list[int]:
    report = fxsnn.check(MODEL, target=V1, bits=bits)
    assert report.ok
    return [fit.bits for fit in report.layers]


def test_automatic_bits_are_the_widest_legal_ones() -> None:
    assert widths("auto") == [4, 4, 2, 1, 4]


def test_bits_can_be_set_by_layer_and_the_others_stay_automatic() -> None:
    assert widths({"0": 3, "9": 2}) == [3, 4, 2, 1, 2]
    assert widths({}) == widths("auto")


def test_one_number_is_for_all_layers() -> None:
    assert widths(1) == [1] * 5


def test_what_was_asked_for_by_layer_must_fit() -> None:
    report = fxsnn.check(MODEL, target=V1, bits={"4": 3, "6": 2})
    assert [violation.layer for violation in report.violations] == ["4", "6"]
    assert "hw_v1.0 allows at most 37 at 3 bits" in str(report)
    with pytest.raises(TargetError, match="allows at most 56 at 2 bits"):
        fxsnn.convert(MODEL, target=V1, bits={"6": 2})


def test_where_nothing_fits_the_report_says_so() -> None:
    report = fxsnn.check(seeded(lambda: nn.Sequential(nn.Conv2d(200, 4, 3), nn.ReLU())), target=V1, bits="auto")
    assert "No bit width fits" in str(report)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("widest", "bits is 'widest'; allowed are 'auto', a number, or a number for each layer"),
        (5, r"bits is 5; target 'hw_v1\.0' allows 1, 2, 3, 4"),
        ({"0": 0}, "bits is 0"),
        ({"0": "auto"}, "bits is 'auto'; target"),
        ({"conv": 2}, r"bits names 'conv'; the layers that spike are '0', '2', '4', '6', '9'"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(bits: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fxsnn.check(MODEL, target=V1, bits=bits)


@pytest.mark.parametrize("bits", ["auto", {"0": 3, "9": 2}])
def test_a_conversion_has_the_bits_of_the_check(bits: str | Mapping[str, int], convert: Any) -> None:
    snn = convert(MODEL, bits=bits, calibration_data=IMAGES)
    assert [row.bits for row in snn.report.layers] == widths(bits)
    for row in snn.report.layers:
        levels = set(row.levels or ())
        assert set(snn.get_submodule(row.layer).codes.unique().tolist()) <= levels
        assert len(levels) <= 1 << (row.bits or 0)
    assert torch.isfinite(snn(IMAGES)).all()


def test_both_reports_show_the_choice_and_why(convert: Any) -> None:
    bits = {"0": 3, "9": 2}
    check = fxsnn.check(MODEL, target=V1, bits=bits)
    assert "fits hw_v1.0 at 1 to 4 bits" in str(check)
    assert "note: 0: 3 input channels would allow 4 bits" in str(check)
    report = convert(MODEL, bits=bits, calibration_data=IMAGES).report
    assert "0: 3 input channels would allow 4 bits" in report.notes
    assert "4: 2 bits at most for 56 input channels; 3 bits allow 37" in report.notes
    assert "6: 1 bit at most for 113 input channels; 2 bits allow 56" in report.notes
    assert "9: fully connected layers have no limit: 4 bits would fit" in report.notes
    assert not any(note.startswith("2:") for note in report.notes)
    assert check.notes == report.notes


@pytest.mark.parametrize(
    ("table", "bits", "note"),
    [
        ({(3, 3): {2: 113}}, "auto", None),
        ({(3, 3): {1: 113, 4: 8}}, "auto", "4: 1 bit at most for 56 input channels; 4 bits allow 8"),
        ({(3, 3): {1: 113, 4: 8}}, {"9": 1}, "9: fully connected layers have no limit: 4 bits would fit"),
        (None, 3, "0, 2, 4, 6, 9: free has no limit: 4 bits would fit"),
    ],
)
def test_a_reason_names_widths_that_there_are(table: Any, bits: Any, note: str | None) -> None:
    notes = fxsnn.check(MODEL, target=fxsnn.HardwareTarget("free", input_channels=table), bits=bits).notes
    assert (notes == ()) if note is None else note in notes


def test_a_report_of_bits_by_layer_can_be_copied_and_sent() -> None:
    report = fxsnn.check(MODEL, target=V1, bits={"0": 3})
    assert copy.deepcopy(report) == report
    assert pickle.loads(pickle.dumps(report)) == report
    assert dataclasses.asdict(report)["bits"] == {"0": 3}
    assert "CheckLimits(bits={'0': 3})" in str(fxsnn.pipeline(target=V1, bits={"0": 3}))
