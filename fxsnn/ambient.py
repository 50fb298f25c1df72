"""PyTorch's state that callers leave on: default device and type, autocast, inference mode, and the like.

What fxsnn computes does not depend on it: public functions, passes and networks run under `neutral`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_AUTOCAST = ("cpu", "cuda", "xpu", "mps", "hpu")


@contextmanager
def neutral(*, gradients: bool = True) -> Iterator[None]:
    """Run as in a process that has set nothing; afterwards everything is as it was. Also a decorator.

    Deterministic algorithms stay on; where PyTorch has none it warns instead of failing.

    Args:
        gradients: take inference mode and `no_grad` off, too. A network that is only run leaves them to its caller.
    """
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            stack.callback(torch.use_deterministic_algorithms, True)
            torch.use_deterministic_algorithms(True, warn_only=True)
        if gradients:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        yield
