"""Whether numbers are numbers."""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 1 << 20


def all_finite(tensor: Tensor) -> bool:
    """Whether none is NaN or infinite; a million at a time, since PyTorch makes temporaries as large as what it asks.

    >>> all_finite(torch.tensor([1.0, float("nan")]))
    False
    """
    return all(bool(torch.isfinite(part).all()) for part in tensor.detach().reshape(-1).split(_AT_ONCE))
