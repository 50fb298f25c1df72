"""Modules whose numbers keep their types, whatever the network is cast to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class KeptTypes(nn.Module):
    """A module that moves to devices as any does, and whose buffers a cast leaves as they are."""

    def keeps_types(self) -> bool:
        """Whether it does so by now."""
        return True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        for name, exact in before.items() if self.keeps_types() else ():
            moved = self._buffers[name]
            assert moved is not None
            if moved.dtype != exact.dtype:
                self._buffers[name] = exact.to(moved.device)
        return self
