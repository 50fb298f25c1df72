"""TakeFrames: from here on the network reads images that change over time, and computes with their mean."""

from __future__ import annotations

from fxsnn.errors import Finding, ModelError
from fxsnn.graph import Graph
from fxsnn.layers import AverageFrames
from fxsnn.rewriting import Pass, facts, require_not_spiking


class TakeFrames(Pass):
    """Images [N, C, H, W] → frames [N, T, C, H, W], signals and vectors alike.

    A spiking network gets one frame at each timestep. Its layers fire at rates, so that what it makes of them is near
    what the network makes of the mean of all frames: that is the network which thresholds are calibrated for, layers
    corrected and weights trained. The mean is taken off where spikes are substituted.
    """

    needs = facts("canonical")
    gives = facts("frames")

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        require_not_spiking(graph)
        if graph.image_form.frames is not None:
            raise ModelError([Finding("network", "it takes frames already", "Run TakeFrames once")])
        readers = list(graph.input().users)
        graph.insert_after(graph.input(), "average_frames", AverageFrames().eval(), readers)
