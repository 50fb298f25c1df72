"""All violations of a chip's limits in one report; the table itself is tested with its target."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import fxsnn
from fxsnn.errors import OptionError, TargetError
from fxsnn.passes import Canonicalize, CheckLimits, QuantizeWeights, SubstituteSpikes
from tests.nets import Small, seeded

V1 = fxsnn.get_target("hw_v1.0")
WIDE = nn.Sequential(
    nn.Conv2d(3, 60, 3), nn.ReLU(), nn.Conv2d(60, 60, 3), nn.ReLU(), nn.Conv2d(60, 120, 5, groups=2), nn.ReLU(),
    nn.Conv2d(120, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
)  # fmt: skip


def test_all_violations_come_in_one_error_with_the_report() -> None:
    with pytest.raises(TargetError) as caught:
        CheckLimits(V1, 2)(Canonicalize()(fxsnn.capture(WIDE)).after)
    report = caught.value.report
    assert report is not None
    assert [(v.layer, v.in_channels, v.limit, v.max_bits) for v in report.violations] == [
        ("2", 60, 56, 1),
        ("4", 30, 20, 1),
        ("6", 120, 56, None),
    ]
    assert str(caught.value).startswith("3 problems:")


def test_the_report_has_a_row_for_every_layer_that_would_spike() -> None:
    report = CheckLimits(V1, 4).report(Canonicalize()(fxsnn.capture(seeded(Small))).after)
    assert [(fit.layer, fit.kind, fit.limit, fit.ok) for fit in report.layers] == [
        ("conv1", "Conv2d", 28, True),
        ("conv2", "Conv2d", 28, True),
        ("hidden", "Linear", None, True),
    ]
    assert str(report).startswith("The network fits hw_v1.0 at 4 bits.")


def test_it_changes_nothing() -> None:
    assert CheckLimits(V1, 4)(fxsnn.capture(seeded(Small))).diff().summary() == "nothing changed"


def test_bits_are_those_of_the_target() -> None:
    with pytest.raises(OptionError, match="bits is 5"):
        CheckLimits(V1, 5)(fxsnn.capture(seeded(Small)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: CheckLimits("hw_v1.0", 2),  # type: ignore[arg-type]
        lambda: QuantizeWeights(2, target="hw_v1.0"),  # type: ignore[arg-type]
        lambda: SubstituteSpikes("hw_v1.0"),  # type: ignore[arg-type]
    ],
)
def test_passes_take_targets_not_their_names(make: Any) -> None:
    with pytest.raises(OptionError, match=r"target is 'hw_v1.0'; expected a HardwareTarget"):
        make()
