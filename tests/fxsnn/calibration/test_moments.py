"""Gaussian moments against sampling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.calibration import gaussian_moments, gaussian_samples
from fxsnn.calibration.moments import Moments, clipped, rectified
from fxsnn.errors import ModelError
from fxsnn.passes import Canonicalize, FoldBatchNorm, RewriteTransposed
from tests.nets import Dense, Small, seeded


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 0.5), (-3.0, 1.0), (1.0, 0.0)])
def test_moments_behind_a_relu_are_those_of_a_rectified_gaussian(mean: float, variance: float) -> None:
    found = rectified(Moments(torch.tensor([mean]).double(), torch.tensor([variance]).double()))
    samples = torch.randn(400_000, generator=torch.Generator().manual_seed(0)).double() * variance**0.5 + mean
    assert float(found.mean) == pytest.approx(float(samples.relu().mean()), abs=5e-3)
    assert float(found.variance) == pytest.approx(float(samples.relu().var()), abs=5e-3)


@pytest.mark.parametrize("top", [0.2, 1.0, 6.0])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 0.5), (1.0, 0.0)])
def test_moments_behind_an_upper_end_are_those_of_a_gaussian_clipped_on_both_sides(
    mean: float, variance: float, top: float
) -> None:
    found = clipped(Moments(torch.tensor([mean]).double(), torch.tensor([variance]).double()), top)
    samples = torch.randn(400_000, generator=torch.Generator().manual_seed(0)).double() * variance**0.5 + mean
    assert float(found.mean) == pytest.approx(float(samples.clamp(0, top).mean()), abs=5e-3)
    assert float(found.variance) == pytest.approx(float(samples.clamp(0, top).var()), abs=5e-3)


def test_samples_have_the_moments_they_are_made_from() -> None:
    samples = gaussian_samples(Moments(torch.tensor([1.0, -2.0]).double(), torch.tensor([4.0, 0.25]).double()))
    torch.testing.assert_close(samples.mean(1), torch.tensor([1.0, -2.0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(samples.var(1), torch.tensor([4.0, 0.25]).double(), atol=0, rtol=1e-2)


def test_behind_a_batch_norm_they_are_its_shift_and_scale_folded_or_not() -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(Small))).after
    folded = FoldBatchNorm()(graph).after
    norm: nn.BatchNorm2d = graph["norm1"]  # type: ignore[assignment]
    before = gaussian_moments(graph)[graph.calls("norm1")[0]]
    after = gaussian_moments(folded)[folded.calls("conv1")[0]]
    for moments in (before, after):
        torch.testing.assert_close(moments.mean, norm.bias.detach().double())
        torch.testing.assert_close(moments.variance, norm.weight.detach().double().square())


def test_a_fully_connected_layer_on_the_images_sees_independent_pixels() -> None:
    graph = FoldBatchNorm()(Canonicalize()(fxsnn.capture(seeded(Dense))).after).after
    layer: nn.Linear = seeded(Dense).layers[4]
    found = gaussian_moments(graph)
    source, here = (found[graph.calls(name)[0]] for name in ("layers.3", "layers.4"))
    expected = layer.weight.detach().double() @ source.mean + layer.bias.detach().double()
    torch.testing.assert_close(here.mean, expected)


def test_zeros_between_the_places_of_maps_count() -> None:
    up = nn.ConvTranspose2d(4, 2, 4, stride=(2, 3))
    graph = RewriteTransposed()(fxsnn.capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), up, nn.ReLU()))).after
    found = gaussian_moments(graph)
    before, behind = (found[graph.calls(name)[0]] for name in ("1", "2_spread"))
    maps = before.mean[:, None] + before.variance.sqrt()[:, None] * torch.randn(4, 300_000).double()
    zeros = torch.cat([maps, torch.zeros(4, 1_500_000)], 1)  # five for each
    torch.testing.assert_close(behind.mean, zeros.mean(1), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(behind.variance, zeros.var(1), rtol=1e-2, atol=1e-3)


def test_a_layer_that_moments_cannot_pass_is_named() -> None:
    graph = fxsnn.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3), nn.ReLU()))
    with pytest.raises(ModelError, match="1: the range behind Sigmoid cannot be found without data"):
        gaussian_moments(graph)


def test_joined_branches_are_named() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv2(x + self.conv1(x).relu()).relu()

    with pytest.raises(ModelError, match=r"the range behind add.* cannot be found without data"):
        gaussian_moments(Canonicalize()(fxsnn.capture(Residual())).after)
