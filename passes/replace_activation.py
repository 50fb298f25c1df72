"""ReplaceActivation: smooth relatives of the ReLU become ReLUs, for networks that are trained afterwards."""

from __future__ import annotations

from fxsnn.graph import Graph
from fxsnn.rewriting import Pass, facts, find_nearly_rectifiers, put_activations


class ReplaceActivation(Pass):
    """SiLU, GELU, ELU, Mish, Softplus, Hardswish → ReLU, in modules, functions or written out.

    What changes each number by itself and is nowhere further from `max(x, 0)` than 1 is such a relative: its values
    say so, not its name. A ReLU is another function, and the network is to be trained with it; no other pass and no
    option does this. Activations that spikes can express stay as they are, and so do others (Tanh, Sigmoid, Softsign)
    and the tail.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> from fxsnn.passes import Canonicalize
        >>> body = nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Conv2d(2, 2, 3), nn.Hardswish()
        >>> model = nn.Sequential(*body, nn.Flatten(), nn.Linear(8, 2))
        >>> step = ReplaceActivation()(Canonicalize()(fxsnn.capture(model.eval())).after)
        >>> print(step.diff())
        replace-activation: SiLU → ReLU, Hardswish → ReLU
        -1  SiLU()  0
        +1  ReLU()  0
        -3  Hardswish()  2
        +3  ReLU()  2

        The new network is an ordinary one: train it, then convert it.

        >>> fxsnn.check(step.after.module, target="generic", bits=4).ok
        True
    """

    needs = facts("canonical")

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        while put_activations(graph, find_nearly_rectifiers(graph)):
            graph.tidy()  # one may be part of another: x * tanh(softplus(x)) is Mish
