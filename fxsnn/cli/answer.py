"""What a command found, for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        text: for people.
        data: for machines.
        status: the exit status, 0 or 1.
    """

    text: str
    data: dict[str, Any]
    status: int = 0
