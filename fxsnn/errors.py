"""Every error and warning of fxsnn, one family.

FxsnnError
├── OptionError      an option has a value that is not allowed (also a ValueError)
├── UnknownName      a target, data set or pass is not known by that name (also an OptionError)
├── DataError        images, labels or calibration data do not fit
├── FileError        a file is missing, damaged or does not match
├── PluginError      a third party's target is broken, or two have one name
├── TrainingError    fine-tuning cannot go on
├── DistributedError another process of a run has ended
├── ModelError       the user's network cannot be converted; carries every finding
│   └── TargetError  the network does not fit the chip; carries the report of `fxsnn.check`
├── RegisterError    (in fxsnn.numerics) a value does not fit; users meet it as a finding of a TargetError
├── PipelineError    passes are put together in an order that cannot work
└── GraphError       a pass has a bug: it broke the graph or a promise of its own

FxsnnWarning
├── CalibrationWarning  thresholds that deserve a second look
├── AccuracyWarning     a choice of options, or of images, that is known to cost accuracy
├── EngineWarning       a fast engine fails here, and PyTorch or a slower start takes its place
└── InterchangeWarning  another program will compute something else from what was written
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_NOT_THE_USERS = ("fxsnn", "torch", "contextlib")
"""Packages whose lines a warning does not speak about."""


@dataclass(frozen=True)
class Finding:
    """One thing about the user's network that stands in the way of its conversion.

    Attributes:
        layer: the name of the layer in the user's network, or of the operation where it is no module.
        problem: what was found and, where there is a bound, what is allowed.
        remedy: what the user can do about it.
        source: `file:line` of the call in the user's code, or "" where it is not known.
    """

    layer: str
    problem: str
    remedy: str
    source: str = ""

    def __str__(self) -> str:
        place = f"{self.layer} ({self.source})" if self.source else self.layer
        return f"{place}: {self.problem}. {self.remedy}."


class FxsnnError(Exception):
    """The root of all errors that fxsnn raises."""


class OptionError(FxsnnError, ValueError):
    """An option has a value that is not allowed; the message names both."""


class UnknownName(OptionError):  # noqa: N818 - reads as a sentence where it is raised
    """A target, data set or pass is not known by that name; the message lists those that exist."""


class DataError(FxsnnError, ValueError):
    """Images, labels or calibration data do not fit the network."""


class FileError(FxsnnError):
    """A file is missing, damaged, or does not match what it is loaded into."""


class PluginError(FxsnnError):
    """A third party's plug-in is broken, or two sources give one name."""


class TrainingError(FxsnnError):
    """Fine-tuning cannot go on, for instance because the loss is not finite."""


class DistributedError(FxsnnError):
    """Another process, with which this one works together, has ended or cannot be reached."""


class PipelineError(FxsnnError):
    """Passes are put together in an order that cannot work."""


class GraphError(FxsnnError):
    """A pass has a bug: it left a broken graph, wrote into a tensor, or did not keep the function as it promised."""


class ModelError(FxsnnError):
    """The user's network cannot be converted.

    Attributes:
        findings: every problem that was found, not only the first.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(listing(self.findings))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.findings,)


class TargetError(ModelError):
    """The network does not fit the chip.

    Attributes:
        findings: every problem that was found.
        report: the `fxsnn.FitReport` that `fxsnn.check` gives for this network, or `None` where the problem shows only
            in the numbers of a converted layer (a threshold that does not fit its register, for instance).
    """

    def __init__(self, findings: Sequence[Finding], report: Any = None) -> None:
        super().__init__(findings)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.findings, self.report)


class FxsnnWarning(UserWarning):
    """The root of all warnings that fxsnn gives."""


class CalibrationWarning(FxsnnWarning):
    """Thresholds were found, but deserve a second look."""


class AccuracyWarning(FxsnnWarning):
    """A choice of options, or of images, that is known to cost accuracy."""


class EngineWarning(FxsnnWarning):
    """A fast engine fails here; what takes its place gives the same spikes, later."""


class InterchangeWarning(FxsnnWarning):
    """Another program computes something else from what was written."""


_SHOWN = 3
"""So many findings of one kind have a line of their own."""


def listing(findings: Sequence[Finding]) -> str:
    """All findings as one text, a line each, under a line that counts them.

    Of findings that say the same of many layers, problem and remedy alike to the letter, the first three have lines of
    their own, and the layers of the others are named in one.
    """
    count = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.problem, finding.remedy), []).append(finding)
    lines = [f"{count}:"]
    told: dict[tuple[str, str], int] = dict.fromkeys(alike, 0)
    for finding in findings:
        kind = (finding.problem, finding.remedy)
        told[kind] += 1
        rest = alike[kind][_SHOWN:]
        if told[kind] <= _SHOWN or len(rest) == 1:
            lines.append(f"  {finding}")
        elif told[kind] == _SHOWN + 1:
            layers = ", ".join(one.layer for one in rest)
            lines.append(f"  {finding.problem}: the same for {len(rest)} more layers: {layers}")
    return "\n".join(lines)


@contextmanager
def importing(package: str, purpose: str, kind: type[FxsnnError], install: str = "") -> Iterator[None]:
    """Around the import of a package that only some need: it may be missing, or broken.

    Args:
        package: its name.
        purpose: what needs it, for the message.
        kind: what to raise.
        install: what pip is to install; "" means the package by its name.

    Raises:
        FxsnnError: of that kind, instead of whatever the import raised.
    """
    try:
        yield
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = next(iter(str(error).splitlines()), "")
        found = "is not installed" if missing else f"fails here ({type(error).__name__}: {reason})"
        remedy = f"pip install {'' if missing else '--upgrade '}{install or package}"
        raise kind(f"{purpose} needs the package {package}, which {found}: {remedy}") from error


def warn(text: str, kind: type[FxsnnWarning]) -> None:
    """Warn at the line of the user's code that led here, however deep it is."""
    packages = (
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in traceback.walk_stack(sys._getframe(1))
    )
    level = next((level for level, package in enumerate(packages, 2) if package not in _NOT_THE_USERS), 1)
    warnings.warn(text, kind, stacklevel=level)
