"""What a file of weights holds, read without running anything in it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fxsnn.weights import advice
from fxsnn.weights.pickled import classes_in
from fxsnn.weights.stand_ins import stand_ins


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        value: dicts, lists, numbers and tensors; other objects have stand-ins. `None` where not even these can be read.
        unread: the classes of these other objects.
    """

    value: Any
    unread: tuple[str, ...] = ()


def content_of(path: Path) -> Content:
    """Read a file: its tensors, and nothing of other objects than that they are there.

    Raises:
        FileError: it is damaged, or no file of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return Content(load_file(path))
        return Content(_tensors_in(path))
    except Exception as error:
        classes = classes_in(path)
        if not classes:
            raise advice.unreadable(path, error) from error
    for allowed in stand_ins(classes):
        with suppress(Exception), torch.serialization.safe_globals(allowed):
            return Content(_tensors_in(path), tuple(classes))
    return Content(None, tuple(classes))


def _tensors_in(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
