"""Batch norms disappear into the layers that feed them, and the function stays the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxsnn
from fxsnn.layers import FoldedConv2d, FoldedLinear
from fxsnn.passes import FoldBatchNorm
from tests.nets import CONVERTIBLE, Dense, OneRelu, Small, images, seeded


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_the_function_is_kept_and_no_norm_is_left(name: str) -> None:
    step = FoldBatchNorm()(fxsnn.capture(seeded(CONVERTIBLE[name])), images())
    assert step.moved is not None
    assert step.moved < 1e-12
    assert not step.after.body(nn.BatchNorm1d, nn.BatchNorm2d)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    groups=st.sampled_from((1, 2)),
    bias=st.booleans(),
    affine=st.booleans(),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    eps=st.sampled_from((1e-5, 1e-1)),
)
def test_any_geometry_and_any_norm_can_be_folded(
    seed: int, groups: int, bias: bool, affine: bool, stride: int, dilation: int, eps: float
) -> None:
    def build() -> nn.Module:
        conv = nn.Conv2d(4, 6, 3, stride, 1, dilation, groups, bias)
        return nn.Sequential(conv, nn.BatchNorm2d(6, eps=eps, affine=affine), nn.ReLU())

    step = FoldBatchNorm()(fxsnn.capture(seeded(build, seed)), images(2, 4, 9, seed))
    assert step.moved is not None
    assert step.moved < 1e-12
    assert not step.after.nodes(nn.BatchNorm2d)


def test_the_new_layer_remembers_what_the_norm_knew() -> None:
    model = seeded(Small)
    folded = FoldBatchNorm()(fxsnn.capture(model)).after["conv1"]
    assert isinstance(folded, FoldedConv2d)
    assert torch.equal(folded.channel_mean, model.norm1.bias)
    assert torch.equal(folded.channel_deviation, model.norm1.weight.abs())


def test_a_norm_behind_a_fully_connected_layer_is_folded_too() -> None:
    graph = FoldBatchNorm()(fxsnn.capture(seeded(Dense))).after
    assert isinstance(graph["layers.1"], FoldedLinear)


def test_a_norm_without_scale_and_shift_is_folded_without_adding_any() -> None:
    folded = FoldBatchNorm()(fxsnn.capture(seeded(OneRelu)), images()).after["block.conv"]
    assert isinstance(folded, FoldedConv2d)
    assert folded.channel_mean.tolist() == [0] * 6
    assert folded.channel_deviation.tolist() == [1] * 6


class Twice(nn.Module):
    """The convolution is read past its batch norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.relu(self.norm(y)) + y


def test_a_convolution_that_others_read_is_left_alone() -> None:
    step = FoldBatchNorm()(fxsnn.capture(seeded(Twice)), images())
    assert step.after.nodes(nn.BatchNorm2d)
    assert step.moved == 0


def norm_in_the_tail() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5), nn.BatchNorm1d(5), nn.Softmax(1)
    )


@pytest.mark.parametrize("build", [norm_in_the_tail])
def test_the_tail_keeps_its_norm(build: Callable[[], nn.Module]) -> None:
    step = FoldBatchNorm()(fxsnn.capture(seeded(build)))
    assert step.after.nodes(nn.BatchNorm1d)
    assert step.diff().summary() == "nothing changed"


@pytest.mark.parametrize("eps", [1e-5, 1e-1])
@pytest.mark.parametrize("affine", [False, True])
@settings(max_examples=4)
@given(seed=st.integers(0, 1000), bias=st.booleans())
def test_behind_a_fully_connected_layer_any_norm_can_be_folded(affine: bool, eps: float, seed: int, bias: bool) -> None:
    def build() -> nn.Module:
        hidden = [nn.Linear(12, 6, bias), nn.BatchNorm1d(6, eps=eps, affine=affine), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(6, 2))

    step = FoldBatchNorm()(fxsnn.capture(seeded(build, seed)), images(5, 3, 2, seed))
    assert step.moved is not None
    assert step.moved < 1e-12
    assert not step.after.nodes(nn.BatchNorm1d)
