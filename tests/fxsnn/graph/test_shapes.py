"""What images of a network must look like, as its first layer with weights tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError
from fxsnn.graph import keeps_shape
from fxsnn.layers import ImageForm


class Behind(nn.Module):
    """A function of the images, and a layer that reads it."""

    def __init__(self, function: Callable[[Tensor], Tensor], layer: nn.Module) -> None:
        super().__init__()
        self.function, self.layer = function, layer
        self.register_buffer("mean", torch.zeros(1, 3, 1))

    def forward(self, x: Tensor) -> Any:
        return self.layer(self.function(x))


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), ImageForm(3, 4)),
        (nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3)), ImageForm(3, 4)),
        (nn.Sequential(nn.Conv1d(3, 4, 3)), ImageForm(3, 3)),
        (nn.Sequential(nn.BatchNorm1d(3), nn.AvgPool1d(2), nn.Conv1d(3, 4, 3)), ImageForm(3, 3)),
        (Behind(lambda x: (x - 0.5) / 0.2, nn.Conv1d(3, 4, 3)), ImageForm(3, 3)),
        (Behind(lambda x: x.unsqueeze(1), nn.Conv1d(1, 4, 3)), ImageForm()),
        (nn.Sequential(nn.Linear(3, 4)), ImageForm(3, 2)),
        (nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), nn.Linear(3, 4)), ImageForm(3, 2)),
        (Behind(lambda x: torch.clamp(x.float() * 2, min=0), nn.Linear(3, 4)), ImageForm(3, 2)),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 4)), ImageForm()),
        (Behind(lambda x: x.view(x.size(0), -1), nn.Linear(3, 4)), ImageForm()),
        (Behind(lambda x: x.mean(-1), nn.Linear(3, 4)), ImageForm()),
        (nn.Sequential(nn.ReLU()), ImageForm()),
    ],
)
def test_the_first_layer_tells(model: nn.Module, form: ImageForm) -> None:
    graph = fxsnn.capture(model.eval())
    assert graph.image_form == form
    assert graph.input_channels == form.channels


def test_images_that_were_captured_with_tell_more() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    assert fxsnn.capture(model, torch.randn(2, 8)).image_form == ImageForm(8, 2)
    assert fxsnn.capture(model, torch.randn(2, 3, 8)).image_form == ImageForm()  # along the last axis of a signal


def test_a_signal_without_a_batch_is_refused_though_pytorch_takes_it() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU())
    with pytest.raises(DataError, match=r"shape \[2, 16\]; expected \[N, 2, L\]"):
        fxsnn.capture(model, torch.randn(2, 16))


def test_every_stage_of_a_conversion_says_the_same() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14, 3)).eval()
    passes = fxsnn.pipeline(target="generic", bits=4, calibration_data=torch.randn(8, 2, 16))
    assert {step.after.image_form for step in passes.steps(model)} == {ImageForm(2, 3)}


@pytest.mark.parametrize(
    ("function", "keeps"),
    [
        (lambda x: x * 2, True),
        (lambda x: x + x, True),
        (F.relu, True),
        (lambda x: x.clamp(0, 1), True),
        (lambda x: x.relu_(), True),
        (lambda x: x.flatten(1), False),
        (lambda x: x[:, :1], False),
        (lambda x: x.mean(-1), False),
        (lambda x: F.max_pool1d(x, 2), False),
        (torch.matmul, False),
    ],
)
def test_what_works_number_by_number_keeps_shapes(function: Callable[..., Tensor], keeps: bool) -> None:
    around = (lambda x: function(x, x)) if function is torch.matmul else function
    graph = fxsnn.capture(Behind(around, nn.Identity()))
    assert keeps_shape(next(iter(graph.input().users)), graph.module) is keeps


def test_a_tensor_of_the_networks_own_may_be_of_another_shape() -> None:
    class Centred(Behind):
        def forward(self, x: Tensor) -> Any:
            return self.layer(x - self.get_buffer("mean"))

    graph = fxsnn.capture(Centred(F.relu, nn.Conv1d(3, 4, 3)))
    assert not keeps_shape(next(node for node in graph if node.op == "call_function"), graph.module)


class OwnConvolution(nn.Conv2d):
    """As timm's of "same" padding: it calls the function, on weights that are computed."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight * 2, self.bias)


class SpaceToDepth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        x = x.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return x.contiguous().view(count, channels * 4, height // 2, width // 2)


@pytest.mark.parametrize("first", [OwnConvolution(3, 12, 3), SpaceToDepth()], ids=["a function", "space to depth"])
def test_images_have_not_the_channels_of_a_layer_behind_something_that_changes_them(first: nn.Module) -> None:
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(12, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    given = torch.randn(2, 3, 12, 12)
    model(given)
    assert fxsnn.capture(model, given).image_form.channels is None
    report = fxsnn.check(model, target="generic", bits=4, example=given)  # raises nothing
    assert report.ok == isinstance(first, OwnConvolution), report
