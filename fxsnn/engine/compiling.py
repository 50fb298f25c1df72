"""How the functions of the CPU engine are compiled, and what of that is kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

from fxsnn.errors import EngineWarning, warn

_Function = TypeVar("_Function", bound=Callable[..., Any])

_log = logging.getLogger(__name__)


class _Cache:
    """What numba keeps on disk; where that is damaged or full, functions are compiled as if there were nothing.

    Args:
        kept: numba's own cache of a function.
    """

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kept, name)

    def load_overload(self, *given: Any) -> Any:
        """See numba."""
        try:
            return self._kept.load_overload(*given)
        except Exception as error:  # pickle raises whatever the bytes make it raise
            _log.info("numba's cache %s: %r", self.cache_path, error)
            _tell(f"numba's cache {self.cache_path} is damaged; it is written anew")
            with suppress(Exception):
                self.flush()  # numba would read the damaged index before it writes one
            return None

    def save_overload(self, *given: Any) -> None:
        """See numba."""
        try:
            self._kept.save_overload(*given)
        except Exception as error:
            _log.info("numba's cache %s: %r", self.cache_path, error)
            _tell(
                f"numba's cache {self.cache_path} cannot be written; every process compiles the CPU engine anew, for "
                "some seconds. Make room there, or let NUMBA_CACHE_DIR name another folder"
            )


@cache  # there are many functions, and one cache
def _tell(text: str) -> None:
    warn(text, EngineWarning)


def compiled(function: _Function) -> _Function:
    """Compile at the first call, and keep the result on disk where there is a place for it."""
    try:
        kernel: Any = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(nogil=True)(function)
    if hasattr(kernel, "_cache"):  # numba's own name: a version without it keeps its cache as it does
        if hasattr(kernel._cache, "_cache_file"):  # the same
            kernel._cache._cache_file._source_stamp = _stamp()
        kernel._cache = _Cache(kernel._cache)
    return kernel


@cache
def _stamp() -> tuple[tuple[str, str], ...]:
    """What the files of the engine hold: what is on disk is of no use when one of them has changed.

    Numba itself looks only at the file of a function, and would keep what that calls in others as it was; and at when
    it was written, which a container's image may round.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)
