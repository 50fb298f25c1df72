"""Events of moving digits: a small data set of images that change over time, made from the embedded ones."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fxsnn.chip import whole_number
from fxsnn.errors import OptionError
from fxsnn.options import shown

_REACH = 4.0
"""Pixels from one turn of a path to the next."""
_CONTRAST = 0.2
"""Change of brightness, of 1 from black to white, that makes an event."""


def events_of(images: Tensor, steps: int, seed: int = 0) -> Tensor:
    """What an event camera in front of which images move gives, counted in frames.

    Each image moves along three straight lines and ends where it began, as the camera of N-MNIST did in front of its
    images (Orchard et al. 2015, "Converting static image datasets to spiking neuromorphic datasets using saccades");
    in which direction is drawn for each. Where a pixel becomes brighter by a contrast, that is an event of the first
    channel, where it becomes darker, of the second; a change by several contrasts counts several times.

    Args:
        images: [N, 1, H, W], from 0 (black) to 1.
        steps: frames, 3 at least.
        seed: of the directions.

    Returns:
        Counts [N, steps, 2, H, W], float32.

    Raises:
        OptionError: that is no number of steps.
    """
    count = whole_number(steps)
    if count is None or count < 3:
        raise OptionError(f"steps is {shown(steps)}; allowed are whole numbers from 3 on, as a path has three lines")
    turns = 2 * math.pi * torch.rand(len(images), generator=torch.Generator().manual_seed(seed))
    seen = [_moved(images, place) for place in _paths(turns, count)]
    changes = torch.stack([after - before for before, after in itertools.pairwise(seen)], dim=1)
    return torch.cat([changes, -changes], dim=2).div(_CONTRAST).floor().clamp(min=0)


def _paths(turns: Tensor, steps: int) -> list[Tensor]:
    """Places [N, 2] in pixels, across and down, before the first and after each step: a triangle turned by an angle."""
    corners = torch.tensor([[0.0, 0.0], [0.5, math.sqrt(0.75)], [1.0, 0.0], [0.0, 0.0]]) * _REACH
    found = []
    for step in range(steps + 1):
        line, share = divmod(3 * step / steps, 1)
        first = min(int(line), 2)
        share = share if line < 3 else 1.0
        across, down = corners[first] + (corners[first + 1] - corners[first]) * share
        sine, cosine = turns.sin(), turns.cos()
        found.append(torch.stack([across * cosine - down * sine, across * sine + down * cosine], dim=1))
    return found


def _moved(images: Tensor, places: Tensor) -> Tensor:
    """Images shifted by parts of pixels, black where nothing is."""
    height, width = images.shape[-2:]
    maps = torch.zeros(len(images), 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = 1
    maps[:, :, 2] = -2 * places / torch.tensor([width, height])
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
