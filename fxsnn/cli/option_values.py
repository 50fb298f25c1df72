"""Values of options as they are typed: numbers with bounds, and weight bits."""

from __future__ import annotations

import argparse
import sys

from fxsnn.chip import AUTOMATIC, Bits
from fxsnn.errors import OptionError


def positive(text: str) -> int:
    """A number from 1, as an option; argparse says what is wrong with another one."""
    return _from(1, int(text))


def not_negative(text: str) -> int:
    """The same from 0."""
    return _from(0, int(text))


def _from(least: int, number: int) -> int:
    if not least <= number <= sys.maxsize:
        raise argparse.ArgumentTypeError(f"it is {number}; allowed are numbers from {least} to {sys.maxsize}")
    return number


def random_seed(text: str) -> int:
    """A seed that PyTorch takes, as an option."""
    number = int(text)
    if not 0 <= number < 1 << 63:
        raise argparse.ArgumentTypeError(f"it is {number}; allowed are numbers from 0 to 2^63 - 1")
    return number


def bits_from(text: str) -> Bits:
    """Weight bits as they are typed: "2", "auto", or "conv1=4,conv2=2".

    Raises:
        OptionError: it is none of these.
    """
    try:
        if "=" in text:
            pairs = [(layer.strip(), int(bits)) for layer, bits in (part.split("=") for part in text.split(","))]
        else:
            return text if text == AUTOMATIC else int(text)
    except ValueError:
        raise OptionError(f"--bits is {text!r}; allowed are 1 to 4, {AUTOMATIC!r}, or conv1=4,conv2=2") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise OptionError(f"--bits is {text!r}, which names a layer twice; give each layer one width")
    return found
