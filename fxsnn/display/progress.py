"""How far something is: a bar in terminals and notebooks, a line every few seconds in logs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, TextIO

from tqdm import tqdm

from fxsnn.processes import is_first

SECONDS = 5.0
"""Between two lines of a log."""

_LINE = "{desc}: {n_fmt} of {total_fmt} [{elapsed}<{remaining}{postfix}]"


def progress_bar(
    items: Iterable[Any] | None, title: str, *, show: bool, total: int | None = None, leave: bool = True
) -> Any:
    """The items one after the other, and on stderr how far that is.

    In a terminal it is a bar; in a notebook too, as a widget where ipywidgets is installed; anywhere else, such as a
    log, a line every `SECONDS` and one at each end.

    Args:
        items: what to go through; `None`: `update()` is called for each.
        title: what is done.
        show: `False`: nothing is written; nor by other processes than the first, see `fxsnn.across_processes`.
        total: how many items; `None`: as many as they say themselves.
        leave: the bar stays when all is done; the last line of a log always does.

    Returns:
        A bar of tqdm: to be gone through, or a context with `update` and `set_postfix`. Set a postfix with
        `refresh=False`: each refresh is a line in a log.
    """
    show = show and is_first()
    notebook = show and _in_notebook()
    if notebook and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as widget

        return widget(items, desc=title, total=total, leave=leave)
    if not show or notebook or sys.stderr.isatty():
        return tqdm(items, desc=title, total=total, leave=leave, disable=not show)
    return tqdm(items, desc=title, total=total, file=_Lines(sys.stderr), mininterval=SECONDS, bar_format=_LINE)


def _in_notebook() -> bool:
    """Whether this runs in a kernel of Jupyter."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})


class _Lines:
    """A file for a bar that would overwrite itself: each new state becomes a line.

    Args:
        stream: where lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        """Write a state of the bar, unless that is what was written last or there is none in the text."""
        line = text.strip()
        if line and line != self._last:
            self._stream.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        """Pass it on."""
        self._stream.flush()
