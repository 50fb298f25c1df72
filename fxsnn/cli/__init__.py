"""The command line, `fxsnn`.

Open `parser.py` first: it says which function runs each command. `entry.py` imports everything else, and nothing
imports it.
"""

from fxsnn.cli.entry import main

__all__ = [
    "main",
]
