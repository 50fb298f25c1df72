"""Runs a command of the command line: exit status, JSON, warnings and errors.

Exit status: 0, 1 for a "no" (the network does not fit, golden vectors differ), 2 for a user's mistake, which gets one
message and no traceback, 3 for an error that fxsnn did not expect, 130 when it is interrupted. With `--json`, standard
output is one JSON object, errors too (but not what is wrong with the options themselves); progress bars, warnings and
what the user's code prints go to standard error.

Of several processes that torchrun starts the first one prints, but each says an error that it alone has.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from typing import Any

from fxsnn.cli import user_code
from fxsnn.cli.answer import Answer
from fxsnn.cli.parser import command_line
from fxsnn.cli.torchrun import is_first_of_torchrun, torchrun
from fxsnn.errors import FxsnnError, FxsnnWarning, ModelError
from fxsnn.processes import is_raised_by_all

_FIRST_SAYS_IT = 2.0
"""Seconds in which the first process, if it has the same error, says so and ends; torchrun then ends the others."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = command_line().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    command: Callable[[argparse.Namespace], Answer] = options.command
    try:
        with redirect_stdout(sys.stderr), _warnings_as_lines(), torchrun():
            for script in options.run or ():
                user_code.run(script)
            answer = command(options)
    except KeyboardInterrupt:
        if is_first_of_torchrun():
            print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # one that is not ours is a user's mistake that nobody thought of, or a fault here
        status = 2 if isinstance(error, FxsnnError) else 3
        if not is_first_of_torchrun():
            if is_raised_by_all(error):
                return status
            time.sleep(_FIRST_SAYS_IT)
        return _failed(error, options, status)
    if not is_first_of_torchrun():
        return answer.status
    return _printed(json.dumps(_finite(answer.data), indent=2) if options.json else answer.text, answer.status)


def _failed(error: Exception, options: argparse.Namespace, status: int) -> int:
    """Say what happened, for people and machines."""
    if options.traceback:
        traceback.print_exc()
    kind, message = type(error).__name__, str(error)
    hint = "" if status == 2 or options.traceback else " (--traceback shows where)"
    print(f"{kind}: {message if status == 2 else next(iter(message.splitlines()), '')}{hint}", file=sys.stderr)
    if options.json:
        findings = [asdict(one) for one in error.findings] if isinstance(error, ModelError) else []
        text = json.dumps({"error": {"type": kind, "message": message, "findings": findings}}, indent=2)
        return _printed(text, status)
    return status


def _printed(text: str, status: int) -> int:
    """Print an answer; who reads it may have gone (`fxsnn report FILE | head`), or have no room."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"the answer cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _finite(value: Any) -> Any:
    """Plain data for JSON, which has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Our warnings are for the user who typed the command: one line, without the place in our code."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, FxsnnWarning):
            print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FxsnnWarning)
        warnings.showwarning = show  # catch_warnings puts it back
        yield
