"""The command line, `fxsnn`.

Open `entry.py` first. It imports everything else, and nothing imports it.
"""

from fxsnn.cli.entry import main

__all__ = [
    "main",
]
