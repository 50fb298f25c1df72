"""Compiling: once, without a place to keep the result too, and never for arrays that would be read wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engines import needs_numba

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


@needs_numba
@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("tables", np.zeros((16, 4, 1), np.uint8).T.copy(order="F"), "tables is .*, F"),
        ("tables", np.zeros((1, 4, 32), np.uint8)[..., ::2], "tables is .*, A"),
        ("sources", np.zeros(4, np.int64)[::2], "sources is .*, A"),
        ("flushes", np.zeros(2, np.int32), "flushes is array\\(int32"),
        ("neurons", np.zeros((1, 4, 3), np.int64), "neurons is array\\(int64"),
    ],
)
def test_an_array_in_another_order_or_of_another_type_is_refused_not_misread(
    name: str, array: np.ndarray[Any, Any], told: str
) -> None:
    from fxsnn.engine.avx2 import fire_convolution

    given: dict[str, Any] = {
        "tables": np.zeros((1, 4, 16), np.uint8),
        "sources": np.zeros(1, np.int64),
        "flushes": np.array([0, 1]),
        "blocks": np.array([0, 1]),
        "neurons": np.ones((1, 4, 3), np.int32),
        "starts": np.zeros((1, 4), np.int32),
        "fresh": True,
        "zero_reset": False,
        "mask": np.zeros(64, np.uint8),
        "given": np.zeros((1, 1, 64), np.uint8),
        "membranes": np.zeros((1, 1, 4, 64), np.int32),
        "runs": 1,
        "spikes": np.zeros((1, 1, 64), np.uint8),
        "first": 0,
        "observed": None,
        "reached": None,
        "extremes": None,
    }
    fire_convolution(*given.values())
    with pytest.raises(numba.TypingError, match=told):
        fire_convolution(*{**given, name: array}.values())
