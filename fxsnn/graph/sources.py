"""Where in the user's code a call stands."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from itertools import takewhile
from pathlib import Path
from types import CodeType

import torch

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY_FOLDERS = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))


def source_of(stack_trace: str | None) -> str:
    """`file:line` of the innermost place of a stack trace that is the user's, or "" where there is none."""
    frames = _FRAME.findall(stack_trace or "")
    return next((place for place in (user_place(*frame) for frame in reversed(frames)) if place), "")


def user_frames(until: CodeType) -> str | None:
    """The frames of the user's code in which the caller runs, outermost first, as Python writes them.

    Args:
        until: what runs in the first frame that no longer counts, from the innermost on.
    """
    inner = takewhile(lambda place: place[0].f_code is not until, traceback.walk_stack(sys._getframe(1)))
    own = [place for place in inner if user_place(place[0].f_code.co_filename, "")]
    return "".join(traceback.StackSummary.extract(reversed(own)).format()).strip() or None


def user_place(file: str, line: str) -> str:
    """`file:line` of a place in the user's code; "" for one in a library."""
    # Decorators that are context managers have a frame of their own, which older versions of PyTorch do not leave out.
    library = file == contextlib.__file__ or file.startswith(_LIBRARY_FOLDERS)
    if library or file.startswith("<"):
        return ""
    path = Path(file)
    # Jupyter's kernel gives a cell the name of a temporary file that nobody ever sees.
    name = "notebook cell" if path.parent.name.startswith("ipykernel_") else path.name
    return f"{name}:{line}"
