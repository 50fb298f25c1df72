"""Other simulators are given the very network that ours runs: they spike as often, and their logits are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peers import LAYOUTS, PEERS, peer
from torch import Tensor, nn

import fxsnn
from tests import nets
from tests.converted_graphs import pooled
from tests.residual import Residual


@dataclass(frozen=True)
class Case:
    """A converted network and images for it."""

    snn: fxsnn.SpikingNetwork
    images: Tensor


@pytest.fixture(scope="module", params=[(0, 0.5), (1, 0.5), (2, 0.0)], ids=["seed 0", "seed 1", "from zero"])
def chain(request: pytest.FixtureRequest) -> Case:
    seed, start = request.param
    model, given = nets.seeded(nets.Small, seed), nets.images(16, seed=seed)
    snn = fxsnn.convert(model, target="hw_v1.0", bits=4, initial_membrane=start, calibration_data=given)
    return Case(snn, nets.images(5))


@pytest.fixture(scope="module")
def residual() -> Case:
    given = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    snn = fxsnn.convert(nets.seeded(Residual, 0), target="generic", bits=4, calibration_data=given)
    return Case(snn, given[:5])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PEERS)
def test_peers_spike_as_ours_do(chain: Case, name: str, layout: str) -> None:
    check_peer(chain, name, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PEERS)
def test_peers_add_up_spikes_as_ours_do(residual: Case, name: str, layout: str) -> None:
    check_peer(residual, name, layout)


def test_neurons_with_a_reset_of_their_own_are_not_known_to_them() -> None:
    parts: Any = {"synapses": nn.Identity, "neurons": nn.Identity, "runner": lambda network: network}
    with pytest.raises(TypeError, match="pool: a SpikeAnyPool2d is not known to the peers"):
        peer(pooled(), 4, next(iter(LAYOUTS)), **parts)


def check_peer(case: Case, name: str, layout: str) -> None:
    pytest.importorskip(str(PEERS[name].package))
    snn, images, timesteps = case.snn, case.images, 13
    snn.timesteps = timesteps
    expected = list(snn.simulate(images).spike_counts.values())[-1]
    assert 0 < expected.mean() < timesteps
    with torch.inference_mode():
        peer: Any = PEERS[name].prepare(snn, timesteps, layout)
        for _ in range(2):  # nothing is left over from an earlier run
            assert torch.equal(peer.counts(images).float(), expected)
            # The tail is the same, on maps in another layout: sums are rounded in another order.
            torch.testing.assert_close(peer(images), snn(images), rtol=1e-5, atol=1e-6)
