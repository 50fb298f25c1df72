"""Runs programs node by node, for those who look at what each gives."""

from __future__ import annotations

from torch import fx


class Interpreter(fx.Interpreter):
    """Runs a graph node by node. Errors stay as they are: PyTorch would write into them which node it was at.

    Args:
        module: of the graph.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False
