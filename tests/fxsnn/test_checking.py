"""`check`: whatever stands in the way of a conversion, all at once, before anything is converted."""

from __future__ import annotations

import copy
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fxsnn
from fxsnn.errors import (
    DataError,
    FileError,
    FxsnnWarning,
    ModelError,
    TargetError,
)
from tests.nets import Small, images, seeded

Convert = Callable[..., fxsnn.SpikingNetwork]


BOTH = nn.Sequential(
    nn.Conv2d(3, 60, 3), nn.ReLU(), nn.Conv2d(60, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3),
    nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
)  # fmt: skip


def test_images_that_the_network_cannot_be_run_on_are_refused() -> None:
    with pytest.raises(DataError, match="the network does not accept example or calibration images of shape"):
        fxsnn.check(Small(), target="hw_v1.0", bits=4, example=images(size=16))


def test_an_untrained_network_that_fits() -> None:
    report = fxsnn.check(Small(), target="hw_v1.0", bits=4)
    assert report.ok
    assert [layer.layer for layer in report.layers] == ["conv1", "conv2", "hidden"]


def test_limits_and_structure_come_in_one_report() -> None:
    report = fxsnn.check(BOTH, target="hw_v1.0", bits=2)
    assert not report.ok
    assert [violation.layer for violation in report.violations] == ["2"]
    assert [finding.layer for finding in report.findings] == ["4", "5"]
    assert "3 problems:" in str(report)


def test_conversion_raises_that_very_report(convert: Convert) -> None:
    with pytest.raises(TargetError) as caught:
        convert(BOTH)
    assert caught.value.report == fxsnn.check(BOTH, target="hw_v1.0", bits=2)
    assert len(caught.value.findings) == 3


def test_conversion_stops_at_once_when_only_the_structure_is_wrong(convert: Convert) -> None:
    calibration: Any = iter(lambda: pytest.fail("the data were touched"), None)
    with pytest.raises(ModelError) as caught:
        convert(nn.Sequential(*list(BOTH)[4:6], *list(BOTH)[6:]), calibration_data=calibration)
    assert not isinstance(caught.value, TargetError)


def test_it_makes_nothing_as_large_as_the_weights() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 10_000), nn.BatchNorm1d(10_000), nn.ReLU(), nn.Linear(10_000, 1_000)
    )
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    made: list[int] = []

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and not out.is_meta and out.untyped_storage().data_ptr() not in own:
                made.append(out.untyped_storage().nbytes())
            return out

    with Watch():
        report = fxsnn.check(model, target="generic", bits=2)
    assert report.ok
    assert not report.unwritable
    weights = [tensor.untyped_storage().nbytes() for tensor in model.parameters() if tensor.dim() > 1]
    assert max(made) < min(weights) / 2


def test_a_network_that_cannot_be_traced_has_a_report_too() -> None:
    class Branching(Small):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x) if x.mean() > 0 else x

    report = fxsnn.check(Branching(), target="hw_v1.0", bits=2)
    assert not report.ok
    assert "cannot trace" in str(report)


def test_an_untrained_network_without_values_fits_but_cannot_be_converted(convert: Convert) -> None:
    model = Small().to("meta")
    assert fxsnn.check(model, target="hw_v1.0", bits=4).ok
    with pytest.raises(ModelError, match="its weights are on the meta device, which holds no values"):
        convert(model, bits=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_was_something_else_before_is_named(convert: Convert) -> None:
    model = seeded(Small)
    prepared = copy.deepcopy(model)
    prepared.observer = torch.ao.quantization.MinMaxObserver()
    for other, problem in (
        (torch.jit.trace(model, images()), "it is a TorchScript module"),
        (prepared, r"it has been quantised or prepared for it by PyTorch \(MinMaxObserver\)"),
        (convert(model), "it is a spiking network already"),
    ):
        report = fxsnn.check(other, target="hw_v1.0", bits=2)
        assert len(report.findings) == 1
        assert re.search(problem, str(report))


def test_what_cannot_be_saved_is_said_before_any_work(convert: Convert) -> None:
    class Clamped(Small):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.clamp(super().forward(x), -1, 1)

    model = seeded(Clamped)
    report = fxsnn.check(model, target="hw_v1.0", bits=4)
    assert report.ok
    assert [finding.layer for finding in report.unwritable] == ["clamp"]
    assert "note: cannot be saved: clamp (test_checking.py:" in str(report)
    with pytest.warns(FxsnnWarning, match="the spiking network cannot be saved: clamp"):
        snn = fxsnn.convert(model, target="hw_v1.0", bits=4, calibration_data=images(16))
    with pytest.raises(FileError, match="clamp has no name in the format of files"):
        snn.save("nowhere.fxsnn")


def test_names_that_no_file_sees_are_no_trouble(convert: Convert, tmp_path: Path) -> None:
    layers = [("conv", nn.Conv2d(3, 4, 3)), ("größe", nn.BatchNorm2d(4)), ("α", nn.ReLU()), ("flat", nn.Flatten())]
    model = seeded(lambda: nn.Sequential(OrderedDict([*layers, ("fc", nn.Linear(400, 5))])))
    assert fxsnn.check(model, target="hw_v1.0", bits=4).unwritable == ()
    convert(model, calibration_data=images(8)).save(tmp_path / "net.fxsnn")


def test_the_report_is_text_html_and_plain_data() -> None:
    good, bad = (fxsnn.check(model, target="hw_v1.0", bits=2) for model in (Small(), BOTH))
    assert str(good).startswith("The network fits hw_v1.0 at 2 bits.")
    assert str(bad).startswith("The network does not fit hw_v1.0 at 2 bits.")
    assert "<b>The network fits" in good._repr_html_()
    assert "background" in bad._repr_html_()
    assert "MaxPool2d is not supported" in bad._repr_html_()
    data = json.loads(json.dumps(bad.to_dict()))
    assert (data["ok"], len(data["findings"]), data["violations"][0]["layer"]) == (False, 2, "2")


def test_a_network_that_no_chip_could_run_does_not_blame_this_one() -> None:
    two = (nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), *two)
    assert str(fxsnn.check(model, target="hw_v1.0", bits=2)).startswith("The network cannot be converted.")


def test_layers_that_are_left_to_the_host_are_told_if_there_are_several() -> None:
    body = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    one = fxsnn.check(nn.Sequential(*body, nn.Linear(800, 4)), target="generic", bits=4)
    two = fxsnn.check(nn.Sequential(*body, nn.Linear(800, 9), nn.Linear(9, 4)), target="generic", bits=4)
    assert (one.tail, two.tail) == (("3",), ("3", "4"))
    assert not any("host" in note for note in one.notes)
    assert "3, 4: behind the last activation, so left to the host as they are" in str(two)


def test_the_generic_target_takes_any_kernel() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 999, 1), nn.ReLU(), nn.Conv2d(999, 4, 7), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )
    assert fxsnn.check(model, target="generic", bits=4).ok
    assert not fxsnn.check(model, target="hw_v1.0", bits=4).ok


def test_what_keeps_several_calls_of_one_kind_from_being_saved_is_said_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
            for end in (3, 2, 1):
                x = x.clamp(max=end)
            return x

    (found,) = fxsnn.check(seeded(Net), target="generic", bits=4, example=images()).unwritable
    assert found.layer == "clamp and 2 more"
