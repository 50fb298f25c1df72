"""Behind a concatenation a student knows what spikes of each part are worth, as the integers do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fxsnn
from fxsnn.calibration import Watch
from fxsnn.numerics import Dynamics
from fxsnn.passes import CalibrateThresholds, FoldBatchNorm, QuantizeWeights, front_end
from fxsnn.rewriting import Pipeline
from fxsnn.training import Student
from tests.fxsnn.training.test_residual import drives_of
from tests.joining import joined, rows
from tests.nets import images

GENERIC = fxsnn.get_target("generic")
IMAGES = images(8).double()


def parts(m: Any, x: Tensor, y: Tensor) -> Tensor:
    """Two activations, one many times as strong as the other, behind one another."""
    return torch.cat([x, F.relu(0.05 * y)], 1)


NETWORKS = {
    "read by a layer": lambda m, x, y: parts(m, x, y),
    "pooled": lambda m, x, y: F.avg_pool2d(parts(m, x, y), 2),
    "added up": lambda m, x, y: F.relu(parts(m, x, y) - 0.5 * parts(m, x, y).flip(3)),
}


def flattened(m: Any, x: Tensor, y: Tensor) -> Tensor:
    """Features of maps, of unlike strength."""
    return torch.cat([x.flatten(1), F.relu(0.05 * y).flatten(1)], 1)


@pytest.mark.parametrize("name", [*NETWORKS, "flattened"])
def test_for_the_rates_that_spikes_have_each_layer_is_driven_as_its_neurons_are(name: str) -> None:
    passes = (*front_end(GENERIC), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(4))
    model = joined(NETWORKS[name], 8) if name in NETWORKS else rows(flattened, 726)
    student = Student(Pipeline(passes, IMAGES).run(model.double()), GENERIC, Dynamics(8))
    wanted = drives_of(student.spiking(), IMAGES)
    student.simulate(IMAGES)
    graph, found = student.graph, dict[str, Tensor]()
    with torch.no_grad():
        Watch(graph, student.layers(), lambda node, value: found.__setitem__(graph.name(node), value)).run(IMAGES)
    for layer, drive in found.items():
        # A pooling takes its inputs for the unit of their layer, and counts by the spike value of each channel.
        near = 1e-3 if "pool" in layer else 1e-9
        torch.testing.assert_close(drive, wanted[layer].expand_as(drive), rtol=0, atol=near, msg=layer)
