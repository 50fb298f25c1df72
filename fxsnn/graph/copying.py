"""Copies of programs of torch.fx, and the lock for what torch.fx does to the whole process."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)

ONE_TRACES = threading.RLock()
"""While torch.fx traces, `nn.Module` itself calls the tracer; while it unpickles, a class of its own has the code of
one program. Two at once would take each other's for their own, or leave it behind for good."""


def copied(module: _Module, tensor_copy: Callable[[Tensor], Tensor]) -> _Module:
    """A deep copy in which every tensor is `tensor_copy(tensor)`; parameters stay parameters."""
    memo: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        new = tensor_copy(tensor)
        if isinstance(tensor, nn.Parameter) and not isinstance(new, nn.Parameter):
            new = nn.Parameter(new, tensor.requires_grad)
        memo[id(tensor)] = new
    # Most of what a module holds are empty dictionaries of hooks, which deepcopy takes apart one by one.
    for one in module.modules():
        memo.update(
            (id(value), type(value)())
            for value in vars(one).values()
            if type(value) in (dict, OrderedDict) and not value
        )
    return copy.deepcopy(module, memo)
