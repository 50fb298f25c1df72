"""PyTorch's state that callers leave on: default device and type, autocast, inference mode, and the like.

What fxsnn computes does not depend on it: public functions, passes and networks run under `neutral`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

import torch

_AUTOCAST = ("cpu", "cuda", "xpu", "mps", "hpu")

_State = TypeVar("_State")


class _OfTheProcess(Generic[_State]):
    """A setting that all threads share: who comes first sets it, and who leaves last puts back what was there.

    Args:
        get: what it is.
        put: change it.
        neutral: what it is to be, for what it was.
    """

    def __init__(
        self, get: Callable[[], _State], put: Callable[[_State], None], neutral: Callable[[_State], _State]
    ) -> None:
        self._get, self._put, self._neutral = get, put, neutral
        self._lock = threading.Lock()
        self._inside = 0
        self._former: _State | None = None

    @contextmanager
    def neutral(self) -> Iterator[None]:
        """While somebody is in here, it is neutral."""
        with self._lock:
            former = self._get()
            if self._inside == 0 and self._neutral(former) != former:
                self._former = former
                self._put(self._neutral(former))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0 and self._former is not None:
                    self._put(self._former)
                    self._former = None


def _put_deterministic(mode: int) -> None:
    torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)


_DEFAULT_TYPE = _OfTheProcess(torch.get_default_dtype, torch.set_default_dtype, lambda _: torch.float32)
_DETERMINISTIC = _OfTheProcess(torch.get_deterministic_debug_mode, _put_deterministic, lambda mode: min(mode, 1))


def is_traced() -> bool:
    """Whether `torch.jit.trace` watches, or what calls it; sizes of tensors are tensors then."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]  # PyTorch does not list it


def is_recorded() -> bool:
    """Whether PyTorch makes a program of what runs: it is compiled, exported, or traced (`torch.jit`, ONNX).

    Values must not be looked at then, and only PyTorch's own operators get into the program.
    """
    return torch.compiler.is_compiling() or is_traced()


@contextmanager
def neutral(*, gradients: bool = True) -> Iterator[None]:
    """Run as in a process that has set nothing; afterwards everything is as it was. Also a decorator.

    Deterministic algorithms stay on; where PyTorch has none it warns instead of failing.

    Args:
        gradients: take inference mode and `no_grad` off, too, and what all threads of the process share: the default
            type, and errors of deterministic algorithms. A network that is only run leaves all these to its caller,
            and so does code of the user's.
    """
    with ExitStack() as stack:
        if torch.empty(0).device.type != "cpu":  # torch.get_default_device sees no `with torch.device` in PyTorch 2.6
            stack.enter_context(torch.device("cpu"))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if gradients:
            stack.enter_context(_DEFAULT_TYPE.neutral())
            stack.enter_context(_DETERMINISTIC.neutral())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        yield
