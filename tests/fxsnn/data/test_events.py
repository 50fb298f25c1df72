"""Events that tonic counts in frames are images for a network of frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import fxsnn
from tests.nets import seeded
from tests.random_networks import quiet

transforms = pytest.importorskip("tonic.transforms")

SIZE, STEPS = (12, 12, 2), 6


class Recordings(Dataset[tuple[Tensor, int]]):
    """Noise of an event camera, counted as the documents say."""

    count = transforms.Compose([
        transforms.Denoise(filter_time=10_000),
        transforms.ToFrame(sensor_size=SIZE, n_time_bins=STEPS),
        lambda frames: torch.from_numpy(frames).float(),
    ])  # fmt: skip

    def __len__(self) -> int:
        return 16

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        random = np.random.default_rng(number)
        events = np.zeros(2000, np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)]))
        for name, most in (("x", SIZE[0]), ("y", SIZE[1]), ("t", 300_000), ("p", SIZE[2])):
            events[name] = random.integers(0, most, len(events))
        events["t"].sort()
        return self.count(events), number % 3


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))


def test_frames_of_events_are_converted_for_run_and_streamed() -> None:
    loader = DataLoader(Recordings(), 8)
    with quiet():
        snn = fxsnn.convert(seeded(network), target="generic", bits=4, input="frames", calibration_data=loader)
    frames, _ = next(iter(loader))
    assert frames.shape == (8, STEPS, 2, 12, 12)
    logits = snn(frames)
    with snn.stream(8) as stream:
        for step in range(STEPS):
            last = stream(frames[:, step])
    torch.testing.assert_close(last, logits, rtol=1e-5, atol=1e-6)
