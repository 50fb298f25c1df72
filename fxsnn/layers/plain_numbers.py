"""Modules whose plain numbers travel in state dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_KEY = "plain_numbers"


class PlainNumbers(nn.Module):
    """A module with numbers that are no tensors, and that belong to its tensors.

    In a state dict they stand beside them as one float64 tensor `plain_numbers`: `load_state_dict` would otherwise take
    the codes of one conversion and leave the gain of another.
    """

    def numbers(self) -> Mapping[str, type[int] | type[float]]:
        """Names of the attributes and their types; each may be `None`, too. Empty: nothing is kept."""
        raise NotImplementedError(type(self).__name__)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if names := self.numbers():
            values = [math.nan if getattr(self, name) is None else getattr(self, name) for name in names]
            destination[f"{prefix}{_KEY}"] = torch.tensor(values, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key, kinds = f"{prefix}{_KEY}", self.numbers()
        found = state_dict.pop(key, None) if kinds else None  # the module has nothing of that name
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not kinds:
            return
        if found is None:
            missing_keys.append(key)
        elif isinstance(found, Tensor) and found.is_meta:
            return  # no values at all, as of the tensors beside it
        elif not isinstance(found, Tensor) or found.shape != (len(kinds),) or found.dtype != torch.float64:
            error_msgs.append(
                f"{key} is no float64 tensor of {len(kinds)} numbers: in another type they would be rounded"
            )
        else:
            for (name, kind), value in zip(kinds.items(), found.tolist(), strict=True):
                setattr(self, name, None if math.isnan(value) else kind(value))
