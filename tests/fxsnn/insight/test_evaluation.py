"""Accuracy of any network, wherever its tensors are and whatever their type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fxsnn.errors import DataError
from fxsnn.insight import accuracy, accuracy_over_time
from tests.nets import Small, images, seeded
from tests.sharing import cases

X = images(20)
MODEL = seeded(Small)
LABELS = MODEL(X).argmax(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_says_what_it_says_in_its_own_type(dtype: torch.dtype) -> None:
    assert accuracy(seeded(Small).to(dtype), [(X[:10], LABELS[:10]), (X[10:], LABELS[10:])]) == 100


def test_images_stay_whole_numbers_and_only_floating_parameters_count() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = nn.Parameter(torch.tensor([3]), requires_grad=False)
            self.network = seeded(Small)

        def forward(self, x: torch.Tensor) -> Any:
            return self.network(x / 255 if x.dtype == torch.uint8 else x)

    assert accuracy(Bytes(), [(X, LABELS)]) == 100
    pixels = (X.clamp(0, 1) * 255).to(torch.uint8)
    wanted = MODEL(pixels / 255).argmax(1)
    assert accuracy(Bytes(), [(pixels, wanted)]) == 100
    assert accuracy(Bytes(), [(pixels, wanted.numpy())]) == 100  # as loaders of others do


def test_a_function_is_given_the_images_as_they_are() -> None:
    assert accuracy(lambda x: MODEL(x), [(X, LABELS)]) == 100


def test_after_every_step_of_one_run(convert: Any) -> None:
    snn = convert(MODEL, calibration_data=X, timesteps=3)
    found = accuracy_over_time(snn, [(X, LABELS)], 8)
    assert snn.timesteps == 3
    for timesteps in (1, 8):
        snn.timesteps = timesteps
        assert found[timesteps - 1] == pytest.approx(accuracy(snn, [(X, LABELS)]))


def test_maps_of_one_place_are_classes_too(convert: Any) -> None:
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model = seeded(lambda: nn.Sequential(*layers))
    labels = model(X).flatten(1).argmax(1)
    assert accuracy(model, [(X, labels)]) == 100
    assert accuracy_over_time(convert(model, calibration_data=X, bits=4), [(X, labels)], 64)[-1] > 90


@cases(
    "labels, message",
    [
        (LABELS + 50, "the network has 5 classes, 0 to 4"),
        (LABELS[:, None].expand(-1, 2), "expected a tensor of integers"),
        (LABELS.float(), "expected a tensor of integers"),
        (LABELS[:3], "expected a tensor of integers"),
        (["cat"] * 20, "labels are a list; expected a tensor of integers"),
        ([[1], [2, 3]], "labels are a list; expected a tensor of integers"),
        (LABELS.to("meta"), "labels are a tensor on the meta device"),
    ],
    quick=3,
)
def test_labels_are_classes_of_the_network(convert: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        accuracy(MODEL, [(X, labels)])
    with pytest.raises(DataError, match=message):
        accuracy_over_time(convert(MODEL, calibration_data=X), [(X, labels)], 4)


@pytest.mark.parametrize("batch", [X, (X,), None, ("images", LABELS), (X.to_sparse(), LABELS)], ids=type)
def test_a_batch_has_images_and_labels(batch: Any) -> None:
    with pytest.raises(DataError, match=r"a batch for an accuracy must be \(images, labels\)"):
        accuracy(MODEL, [batch])


def test_without_images_there_is_none(convert: Any) -> None:
    with pytest.raises(DataError, match="the data are empty"):
        accuracy(MODEL, [])
    with pytest.raises(DataError, match="the data are empty"):
        accuracy_over_time(convert(MODEL, calibration_data=X), [], 4)


def test_images_that_the_network_cannot_be_run_on_are_data_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"the network does not accept images of shape \[20, 1, 12, 12\]: "):
        accuracy(MODEL, [(X[:, :1], LABELS)])
