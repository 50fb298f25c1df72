"""A network takes one tensor of images and gives some tensor; forward may make sure of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import fxsnn
from fxsnn.errors import ModelError
from tests.nets import Small, images, seeded

EXAMPLE = images(5)


def written(forward: Callable[..., Any]) -> nn.Module:
    """A network with a forward; `self.inner` is an ordinary network."""

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.inner = Small()

    return seeded(type("Written", (nn.Module,), {"__init__": init, "forward": forward}))


def asserts(self: Any, x: Any) -> Any:
    assert isinstance(x, Tensor)
    assert not isinstance(x, list | tuple)
    return self.inner(x)


def raises(self: Any, x: Any) -> Any:
    if not torch.is_tensor(x):
        raise TypeError("a tensor, please")
    return self.inner(x)


def branches(self: Any, x: Any) -> Any:
    return self.inner(2 * x if isinstance(x, Tensor) else x)


def keeps(self: Any, x: Any) -> Any:
    self.last = x
    return self.inner(x)


def multiplies(self: Any, x: Any) -> Any:
    return self.inner(x.view(x.size(0), x.shape[1:].numel()).view(x.shape))


@pytest.mark.parametrize("forward", [asserts, raises, branches, keeps, multiplies], ids=lambda one: one.__name__)
@pytest.mark.parametrize("example", [EXAMPLE, None], ids=["with an example", "without"])
def test_images_are_a_tensor(forward: Callable[..., Any], example: Tensor | None) -> None:
    model = written(forward)
    assert torch.equal(fxsnn.capture(model, example)(EXAMPLE), model(EXAMPLE))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, *args, **kwargs: self.inner(*args, **kwargs),
        lambda self, *args: self.inner(args[0]) * (1 if len(args) == 1 else 2),
        lambda self, x, **kwargs: self.inner(x, **kwargs),
        lambda self, x, *args, scale=3.0: scale * self.inner(x, *args),
    ],
    ids=["all", "several", "by name", "with a default"],
)
def test_forward_may_take_more_than_it_is_given(forward: Callable[..., Any]) -> None:
    model = written(forward)
    kind = type(model)
    graph = fxsnn.capture(model, EXAMPLE)
    assert torch.equal(graph(EXAMPLE), model(EXAMPLE))
    assert "inner.conv1" in graph
    assert type(model) is kind


@pytest.mark.parametrize("inner", [False, True])
def test_means_of_weights_are_opened(inner: bool) -> None:
    model = seeded(Small)
    averaged: nn.Module = AveragedModel(model).eval()
    graph = fxsnn.capture(nn.Sequential(averaged).eval() if inner else averaged, EXAMPLE)
    assert ("0.conv1" if inner else "conv1") in graph
    assert torch.equal(graph(EXAMPLE), model(EXAMPLE))


class Own:
    """Something with a tensor in it."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda self, x: None, "Written: its forward returns nothing: there is no tensor in it. Let forward return"),
        (lambda self, x: ("a", 3), "its forward returns a tuple: there is no tensor in it"),
        (lambda self, x: Own(self.inner(x)), r"argument of type: .*Own.*Let forward return a tensor, or tuples, lists"),
        (
            lambda self, x: self.inner(x["image"]),
            r"reads its input by a name .*as of a dict.*the tensor of images itse",
        ),
        (lambda self, x: self.inner(sum(x)), "cannot be iterated.*take one tensor of images instead of several"),
        (lambda self, *, x: self.inner(x), "cannot be called with one tensor of images"),
        (lambda self, x, y, *more: self.inner(x + y), "cannot trace its forward|cannot be called|2 inputs"),
    ],
    ids=["nothing", "no tensor", "class", "dict", "several", "by name", "two"],
)
def test_other_inputs_and_outputs_are_refused_in_words(forward: Callable[..., Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        fxsnn.capture(written(forward), EXAMPLE)


def test_assertions_that_ask_for_values_are_named() -> None:
    def forward(self: Any, x: Any) -> Any:
        y = self.inner(x)
        assert type(y) is Tensor
        return y

    with pytest.raises(ModelError, match=r"test_images_only\.py:\d+.*\(AssertionError.*\)\. Remove that assertion"):
        fxsnn.capture(written(forward), EXAMPLE)
