"""Compiling: once, and without a place to keep the result too."""

from __future__ import annotations

from typing import Any

import pytest

numba = pytest.importorskip("numba")


def test_without_a_place_for_the_cache_functions_are_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxsnn.engine.kernels import compiled

    original, asked = numba.njit, []

    def njit(**options: Any) -> Any:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return original(**options)

    monkeypatch.setattr(numba, "njit", njit)

    @compiled
    def doubled(value: int) -> int:
        return 2 * value

    assert doubled(4) == 8
    assert asked == [{"nogil": True, "cache": True}, {"nogil": True}]
