"""The CPU engine on processors that multiply tiles: what the random graphs of the other tests are too small for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import ColourNet, StridedColourNet
from torch import Tensor, nn

import fxsnn
from fxsnn.engine.circuit import circuit_of
from tests.engines import EVERY_ENGINE, has_tiles, same
from tests.nets import seeded

pytestmark = pytest.mark.skipif(
    "numba" not in EVERY_ENGINE or not has_tiles(), reason="needs numba and a processor with AMX"
)


def converted(build: Callable[[], nn.Module], images: Tensor, **options: Any) -> fxsnn.SpikingNetwork:
    usual: dict[str, Any] = {"target": "generic", "bits": 4, "correction": None, "average_pool": "plain"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        return fxsnn.convert(seeded(build), calibration_data=images, engine="torch", **{**usual, **options})


def hold(snn: fxsnn.SpikingNetwork, images: Tensor) -> None:
    """Spikes and ranges of PyTorch; the same logits without a recording, which runs all layers in one call."""
    snn.engine = "torch"
    expected, logits = snn.simulate(images), snn(images)
    snn.engine = "numba-amx"
    found = snn.simulate(images)
    assert same(found.spikes, expected.spikes)
    assert found.membrane_range == expected.membrane_range
    assert torch.equal(snn(images), logits)
    assert torch.equal(snn.early_readout(images), expected.logits)


def wide() -> nn.Sequential:
    """3x17x17: odd numbers of tiles of channels, more codes than the first cache holds, groups, strides."""
    relu = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), relu,
        nn.Conv2d(20, 72, 3, stride=2, padding=1), relu,
        nn.Conv2d(72, 72, 3, padding=2, groups=72), relu,
        nn.Conv2d(72, 136, 3, padding=1), relu, nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(136, 48, 3, padding=(0, 1), groups=2), relu,
        nn.Flatten(), nn.Linear(48 * 4 * 6, 40), relu, nn.Linear(40, 3),
    )  # fmt: skip


class TestWideNetworks:
    @pytest.mark.parametrize("timesteps", [1, 2, 5, 16, 19])
    def test_give_the_spikes_of_pytorch(self, timesteps: int) -> None:
        images = torch.randn(3, 3, 17, 17)
        hold(converted(wide, images, timesteps=timesteps), images)

    def test_with_resets_to_zero(self) -> None:
        images = torch.randn(3, 3, 17, 17)
        hold(converted(wide, images, timesteps=6, reset="zero"), images)

    def test_with_pools_of_the_maximum(self) -> None:
        images = torch.randn(2, 3, 16, 16)
        net = converted(
            lambda: nn.Sequential(*list(wide())[:8], nn.MaxPool2d(2), nn.Flatten(), nn.Linear(136 * 25, 2)), images
        )
        hold(net, images)

    @pytest.mark.slow
    @pytest.mark.parametrize("timesteps", [4, 16, 33])
    @pytest.mark.parametrize("build", [ColourNet, StridedColourNet])
    def test_of_the_examples(self, build: Callable[[], nn.Module], timesteps: int) -> None:
        images = torch.randn(3, 3, 32, 32)
        hold(converted(build, images, bits=2, timesteps=timesteps), images)


class TestImages:
    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5), (5, 1)])
    def test_of_any_window_are_multiplied_as_pytorch_adds_them_up(self, kernel: tuple[int, int], stride: int) -> None:
        images = torch.randn(2, 3, 13, 11)

        def made() -> nn.Module:
            conv = nn.Conv2d(3, 18, kernel, stride, padding=(1, 2))
            return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(conv(images)[0].numel(), 2))

        hold(converted(made, images, timesteps=3), images)

    @pytest.mark.filterwarnings("ignore:images range from:fxsnn.AccuracyWarning")
    def test_that_reach_both_ends_of_8_bits(self) -> None:
        images = torch.randn(4, 2, 9, 9)
        snn = converted(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 2)), images)
        extreme = torch.where(torch.rand(4, 2, 9, 9) < 0.5, -1e3, 1e3)
        values = circuit_of(snn.graph).of_images(extreme)[0]
        assert (int(values.min()), int(values.max())) == (-128, 127)
        hold(snn, extreme)

    @pytest.mark.parametrize("bits", [16, None])
    def test_of_more_bits_are_added_up_by_pytorch(self, bits: int | None) -> None:
        images = torch.randn(4, 2, 9, 9)
        build = lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(196, 2))  # noqa: E731
        hold(converted(build, images, input_bits=bits), images)

    def test_a_batch_that_does_not_fill_its_last_part(self) -> None:
        images = torch.randn(70, 3, 17, 17)
        snn = converted(wide, images, timesteps=2)
        hold(snn, images)
        assert torch.equal(snn(images[:1]), snn(images)[:1])

    def test_of_other_sizes_follow_each_other(self) -> None:
        images = torch.randn(4, 3, 12, 12)
        pooled = lambda: nn.Sequential(  # noqa: E731
            nn.Conv2d(3, 20, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 2)
        )
        snn = converted(pooled, images)
        for size in (12, 9, 12, 20):
            hold(snn, torch.randn(2, 3, size, size))


def test_sums_beyond_what_tables_hold_are_no_limit() -> None:
    """16-bit sums are: of those networks, PyTorch runs them on other processors."""
    images = torch.rand(2, 600, 3, 3)
    snn = converted(
        lambda: nn.Sequential(
            nn.Conv2d(600, 600, 1),
            nn.ReLU(),
            nn.Conv2d(600, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 2),
        ),
        images,
    )
    layer: Any = circuit_of(snn.graph).layers[1][1]
    with torch.no_grad():
        layer.codes.copy_(torch.where(torch.rand(layer.codes.shape) < 0.5, -15, 15))
        layer.threshold.fill_(20000)
    layer.largest_sum = int(layer.codes.long().abs().sum((1, 2, 3)).max())
    assert layer.largest_sum > 1 << 16
    hold(snn, images)
    snn.engine = "numba-avx2"
    with pytest.raises(fxsnn.OptionError, match="have magnitudes that add up to"):
        snn(images)
