"""Where in the user's code a call stands."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Container
from pathlib import Path

import torch

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY_FOLDERS = (Path(torch.__file__).parent, Path(__file__).parents[1])


def source_of(stack_trace: str | None) -> str:
    """`file:line` of the innermost place of a stack trace that is the user's, or "" where there is none."""
    frames = _FRAME.findall(stack_trace or "")
    return next((place for place in (user_place(*frame) for frame in reversed(frames)) if place), "")


def without_frames(stack_trace: str | None, places: Container[tuple[str, str]]) -> str | None:
    """A stack trace without the frames at these places, each (file, line)."""
    if stack_trace is None:
        return None
    first, *frames = re.split(r'(?=^ *File ")', stack_trace, flags=re.MULTILINE)
    kept = [frame for frame in frames if (found := _FRAME.search(frame)) is None or found.groups() not in places]
    return "".join([first, *kept])


def user_place(file: str, line: str) -> str:
    """`file:line` of a place in the user's code; "" for one in a library."""
    path = Path(file)
    # Decorators that are context managers have a frame of their own, which older versions of PyTorch do not leave out.
    library = file == contextlib.__file__ or any(folder in path.parents for folder in _LIBRARY_FOLDERS)
    # Jupyter's kernel gives a cell the name of a temporary file that nobody ever sees.
    name = "notebook cell" if path.parent.name.startswith("ipykernel_") else path.name
    return "" if library or file.startswith("<") else f"{name}:{line}"


def user_level() -> int:
    """The `stacklevel` with which a warning of the caller points to the user's code, however deep it is called."""
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_stack(sys._getframe(1)))
    return next((level for level, file in enumerate(files, 1) if user_place(file, "")), 1)
