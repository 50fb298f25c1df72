"""Hooks that fail, and those that look at how many images there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import FxsnnWarning, ModelError
from tests.nets import Small, images, seeded

EXAMPLE = images(5)


@pytest.mark.filterwarnings("ignore:the network has hooks")
def test_a_hook_that_fails_is_named_among_others() -> None:
    def fails(module: nn.Module, inputs: Any) -> None:
        raise KeyError("no such thing")

    model = seeded(Small)
    model.conv1.register_forward_hook(lambda module, inputs, output: None)
    model.conv2.register_forward_pre_hook(fails)
    with pytest.raises(ModelError, match=r"Small\.conv2: its hook \(fails, .*\) fails .*'no such thing'") as told:
        fxsnn.capture(model, EXAMPLE)
    assert "conv1" not in str(told.value)


@pytest.mark.filterwarnings("ignore:the network has hooks")
def test_hooks_without_lines_of_their_own_are_all_named() -> None:
    class Fails:
        def __call__(self, module: nn.Module, *given: Any) -> None:
            raise KeyError("no such thing")

    model = seeded(Small)
    model.conv1.register_forward_hook(Fails())
    model.conv2.register_forward_hook(Fails())
    with pytest.raises(ModelError, match=r"conv1: its hook \(Fails\) may be the one(.|\n)*conv2: its hook"):
        fxsnn.capture(model, EXAMPLE)


@pytest.mark.filterwarnings("ignore:the network has hooks")
@pytest.mark.parametrize("limit", [8, 32, 60])
def test_hooks_that_act_on_many_images_are_found(limit: int) -> None:
    model = seeded(Small)
    model.register_forward_hook(lambda module, inputs, output: -output if len(output) > limit else output)
    with pytest.raises(ModelError, match="it has a hook that may change values"):
        fxsnn.capture(model, EXAMPLE)


def test_hooks_of_networks_for_large_images_run_on_a_few() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    model.register_forward_hook(lambda module, inputs, output: None)
    with pytest.warns(FxsnnWarning, match="on 3 example images"):
        fxsnn.capture(model, torch.rand(1, 1, 600, 600))
