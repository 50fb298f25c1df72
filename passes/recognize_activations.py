"""RecognizeActivations: what computes a ReLU, or one with an upper end, becomes that, however it is written."""

from __future__ import annotations

from torch import nn

from fxsnn.graph import Activation, Graph
from fxsnn.rewriting import Pass, facts, find_activations, put_activations, swap_calls


class RecognizeActivations(Pass):
    """ReLU6, Hardtanh(0, c), clamps, thresholds and layers of one's own → ReLU, or BoundedReLU with its upper end.

    Calls that change each number by itself and read nothing else but constants are evaluated together, on a grid in
    double precision. Where they give `max(x, 0)`, `clamp(x, 0, c)` or the activation with levels of networks that were
    trained to be converted (QCFS, Bu et al. 2022), to rounding, one module takes their place. On the steps of the
    latter themselves, where rounding decides, nothing is compared. An activation of flattened maps is one of the maps.
    The tail is left alone.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> from fxsnn.passes import Canonicalize
        >>> body = nn.Conv2d(1, 2, 3), nn.ReLU6(), nn.Conv2d(2, 2, 3), nn.Hardtanh(0, 1)
        >>> model = nn.Sequential(*body, nn.Flatten(), nn.Linear(8, 2))
        >>> graph = Canonicalize()(fxsnn.capture(model)).after
        >>> print(RecognizeActivations()(graph).diff())
        recognize-activations: ReLU6 → BoundedReLU, Hardtanh → BoundedReLU
        -1  ReLU6()  0
        +1  BoundedReLU(bound=6)  0
        -3  Hardtanh(min_val=0, max_val=1)  2
        +3  BoundedReLU(bound=1)  2
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        put_activations(graph, find_activations(graph))
        for node in graph.body(nn.Flatten):
            while (behind := graph.sole_user(node)) is not None and graph.is_a(behind, *Activation, nn.LeakyReLU):
                swap_calls(graph, node, behind)
