"""Programs of torch.fx that are compiled when they are first run: most of those between two passes never are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import fx


class Program(fx.GraphModule):
    """A `torch.fx.GraphModule` that a new graph makes stale; `forward` is compiled when it is next asked for.

    `recompile` compiles at once, as ever: for who looks into the class, as tracers do.
    """

    @property
    def graph(self) -> fx.Graph:
        """See `torch.fx.GraphModule`."""
        return self._graph

    @graph.setter
    def graph(self, g: fx.Graph) -> None:
        self._graph = g
        g.owning_module = self
        if not self._is_stale():  # torch.fx makes a class for each program, and puts into it what it compiles
            del type(self).forward

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]  # a function, once it is compiled
        """The function that the graph computes."""
        self.recompile()
        return cast(Any, self).forward

    @property
    def code(self) -> str:
        """See `torch.fx.GraphModule`."""
        if self._is_stale():
            self.recompile()
        return super().code

    def __str__(self) -> str:
        return super().__str__() if self.code else ""

    def _is_stale(self) -> bool:
        return "forward" not in vars(type(self))
