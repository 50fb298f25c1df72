"""What the CPU engine makes of the geometry of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxsnn
from fxsnn.engine.lookups import window_of
from tests.nets import images


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("padding", ["same", "valid", 1, (2, 0)])
@pytest.mark.parametrize("dilation", [1, (1, 2), (3, 1)])
@pytest.mark.parametrize("kernel", [3, 2, 4, (2, 3), (3, 4), (1, 2)])
def test_padding_is_on_the_sides_on_which_pytorch_has_it(kernel: Any, dilation: Any, padding: Any) -> None:
    """What is odd about "same" goes below and right."""
    conv = fxsnn.SpikeConv2d(3, 2, kernel, padding=padding, dilation=dilation)
    window = window_of(conv)
    (above, left), (below, right) = window.before, window.behind
    padded = F.pad(images(), (left, right, above, below))
    plain = nn.Conv2d(3, 2, window.kernel, dilation=window.dilation)
    plain.load_state_dict(conv.state_dict())
    torch.testing.assert_close(plain(padded), conv(images()))
    assert window.output((12, 12)) == conv(images()).shape[2:]
