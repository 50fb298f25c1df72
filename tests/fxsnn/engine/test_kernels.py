"""Compiling: once, whatever the disk is like, and never for arrays that would be read wrongly."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fxsnn.errors import EngineWarning
from tests.engines import ON_ARM, needs_numba

numba = pytest.importorskip("numba")

REPOSITORY = Path(__file__).parents[3]


def test_without_a_place_for_the_cache_functions_are_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxsnn.engine.compiling import compiled

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
    from fxsnn.engine.cpu import chosen
    from fxsnn.engine.over_places import fire_convolution

    how = chosen("neon" if ON_ARM else "avx2")
    given: dict[str, Any] = {
        "how": how,
        "tables": np.zeros((1, 4, 16), np.uint8),
        "sources": np.zeros(1, np.int64),
        "flushes": np.array([0, 1]),
        "blocks": np.array([0, 1]),
        "neurons": np.ones((1, 4, 3), np.int32),
        "starts": np.zeros((1, 4), np.int32),
        "fresh": True,
        "zero_reset": False,
        "mask": np.zeros(how.lanes, np.uint8),
        "given": np.zeros((1, 1, how.lanes), np.uint8),
        "membranes": np.zeros((1, 1, 4, how.lanes), np.int32),
        "runs": 1,
        "spikes": np.zeros((1, 1, how.lanes), np.uint8),
        "first": 0,
        "observed": None,
        "reached": None,
        "extremes": None,
    }
    fire_convolution(*given.values())
    with pytest.raises(numba.TypingError, match=told):
        fire_convolution(*{**given, name: array}.values())


def _doubled(value: int) -> int:
    return 2 * value


def test_what_is_on_disk_is_used_only_while_all_files_of_the_engine_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fxsnn.engine import compiling

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for stamp, hits in (("one", 0), ("one", 1), ("another", 0)):
        monkeypatch.setattr(compiling, "_stamp", lambda stamp=stamp: stamp)
        doubled: Any = compiling.compiled(_doubled)
        assert doubled(4) == 8
        assert sum(doubled.stats.cache_hits.values()) == hits


def test_a_stamp_has_every_file_and_what_is_in_it() -> None:
    from fxsnn.engine import compiling, vector_code

    stamp = dict(compiling._stamp())
    assert {"vector_code.py", "over_places.py", "kernels.py"} <= stamp.keys()
    assert stamp["vector_code.py"] == hashlib.sha256(Path(vector_code.__file__).read_bytes()).hexdigest()


def test_a_numba_that_keeps_its_cache_elsewhere_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxsnn.engine.compiling import compiled

    class Kernel:
        __slots__ = ("function",)  # as of a numba without the private name `_cache`: nothing can be hung on

        def __init__(self, function: Any) -> None:
            self.function = function

        def __call__(self, *given: Any) -> Any:
            return self.function(*given)

    monkeypatch.setattr(numba, "njit", lambda **_: Kernel)

    @compiled
    def doubled(value: int) -> int:
        return 2 * value

    assert doubled(4) == 8


PROGRAM = """
import resource, sys, warnings
import torch, fxsnn
from tests.nets import Small, images, seeded
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    snn = fxsnn.convert(seeded(Small), target="generic", bits=3, calibration_data=images(16), engine="torch")
    expected = snn.simulate(images()).spikes
    if "full" in sys.argv:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    snn.engine = "numba"
    found = snn.simulate(images()).spikes
assert all(torch.equal(found[name], spikes) for name, spikes in expected.items())
print("; ".join(str(one.message) for one in told if one.category is fxsnn.EngineWarning))
"""


@needs_numba
@pytest.mark.parametrize(
    ("action", "told"), [("load_overload", "is damaged; it is written anew"), ("save_overload", "cannot be written")]
)
def test_a_cache_that_fails_is_no_reason_to_stop(action: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import FunctionCache

    from fxsnn.engine import compiling

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FunctionCache, action, fail)
    compiling._tell.cache_clear()

    @compiling.compiled
    def doubled(value: float) -> float:
        return 2 * value

    with pytest.warns(EngineWarning, match=told) as warned:
        assert [doubled(value) for value in (4, 1.5)] == [8, 3]
    assert len(warned) == 1


@pytest.mark.slow
@needs_numba
class TestWhatNumbaKeepsOnDisk:
    """A process of its own each time: what is compiled stays in a process."""

    def told(self, folder: Path, *arguments: str) -> str:
        """The engine's warnings of a process that has its cache there; its spikes were those of PyTorch."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.strip()

    def test_a_disk_that_is_full_costs_time_and_one_warning(self, tmp_path: Path) -> None:
        assert re.fullmatch(r"numba's cache \S+ cannot be written; [^;]+", self.told(tmp_path, "full"))

    @pytest.mark.parametrize("kind", ["nbi", "nbc"])
    def test_what_is_damaged_costs_time_and_one_warning_and_is_written_anew(self, kind: str, tmp_path: Path) -> None:
        assert self.told(tmp_path) == ""
        for path in tmp_path.rglob(f"*.{kind}"):
            path.write_bytes(path.read_bytes()[:30])
        assert re.fullmatch(r"numba's cache \S+ is damaged; it is written anew", self.told(tmp_path))
        assert self.told(tmp_path) == ""
