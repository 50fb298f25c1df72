"""Other simulators are given the very network that ours runs: they spike as often, and their logits are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peers import LAYOUTS, PEERS

import fxsnn
from tests import nets


@pytest.fixture(scope="module", params=[(0, 0.5), (1, 0.5), (2, 0.0)], ids=["seed 0", "seed 1", "from zero"])
def snn(request: pytest.FixtureRequest) -> fxsnn.SpikingNetwork:
    seed, start = request.param
    model = nets.seeded(nets.Small, seed)
    return fxsnn.convert(
        model, target="hw_v1.0", bits=4, initial_membrane=start, calibration_data=nets.images(16, seed=seed)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PEERS)
def test_peers_spike_as_ours_do(snn: fxsnn.SpikingNetwork, name: str, layout: str) -> None:
    pytest.importorskip(str(PEERS[name].package))
    images, timesteps = nets.images(5), 13
    snn.timesteps = timesteps
    expected = list(snn.simulate(images).spike_counts.values())[-1]
    assert 0 < expected.mean() < timesteps
    with torch.inference_mode():
        peer: Any = PEERS[name].prepare(snn, timesteps, layout)
        for _ in range(2):  # nothing is left over from an earlier run
            assert torch.equal(peer.counts(images).float(), expected)
            torch.testing.assert_close(peer(images), snn(images), rtol=0, atol=0)
