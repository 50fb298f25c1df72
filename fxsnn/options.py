"""What an option may be: a number, a yes or no, one of several words. Arrays and tensors are none of these."""

from __future__ import annotations

import math
from collections.abc import Container
from numbers import Real

import numpy as np

from fxsnn.errors import OptionError

_LONGEST = 200


def shown(value: object) -> str:
    """`repr(value)` for a message, or of what is long only what it is."""
    try:
        text = repr(value)
    except Exception:  # Python's own of a number with too many digits, too
        text = ""
    return text if 0 < len(text) <= _LONGEST and "\n" not in text else f"a {type(value).__name__}"


def real_number(value: object) -> float | None:
    """`value` as a float, fractions and numpy's numbers included; `None` for all that is no finite number, `True` too.

    >>> real_number(3), real_number(True), real_number("3"), real_number(10**400)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def require_flag(name: str, value: object) -> bool:
    """`value` as a `bool`; 0, 1 and numpy's are taken, too.

    Raises:
        OptionError: it is neither true nor false.
    """
    if isinstance(value, bool | int | np.bool_) and value in (0, 1):
        return bool(value)
    raise OptionError(f"{name} is {shown(value)}; allowed are True and False")


def is_one_of(value: object, words: Container[object]) -> bool:
    """Whether it is one of several words; arrays, which compare element by element, are not."""
    return isinstance(value, str) and value in words
