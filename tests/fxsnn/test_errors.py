"""One family; every message says layer, place, problem and remedy."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest

import fxsnn
from fxsnn import errors
from fxsnn.errors import Finding, FxsnnError, FxsnnWarning, ModelError
from tests.nets import Small, images, seeded

# RegisterError stands in fxsnn.numerics: users meet it only inside the findings of a TargetError.
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_and_warning_belongs_to_the_family(kind: type[Exception]) -> None:
    assert issubclass(kind, FxsnnError | FxsnnWarning)


@pytest.mark.parametrize("kind", KINDS)
def test_the_drawn_family_is_complete(kind: type[Exception]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


def test_a_finding_is_one_sentence_with_its_place() -> None:
    finding = Finding("conv1", "it is too wide", "Use fewer channels", "net.py:7")
    assert str(finding) == "conv1 (net.py:7): it is too wide. Use fewer channels."
    assert str(Finding("conv1", "it is too wide", "Use fewer channels")).startswith("conv1: ")


def test_an_error_counts_and_lists_its_findings() -> None:
    findings = [Finding("a", "x", "y"), Finding("b", "x", "y")]
    assert str(ModelError(findings)) == "2 problems:\n  a: x. y.\n  b: x. y."
    assert ModelError(findings).findings == tuple(findings)


def test_what_is_said_of_many_layers_alike_is_folded_and_nothing_else() -> None:
    alike = [Finding(f"conv{i}", "it is too wide", "Use fewer channels", f"net.py:{i}") for i in range(58)]
    other = Finding("conv9", "it is too wide", "Use groups")
    error = ModelError([*alike[:30], other, *alike[30:]])
    first, *lines = str(error).splitlines()
    assert first == "59 problems:"
    assert lines[:3] == [f"  {one}" for one in alike[:3]]
    assert lines[3].startswith("  it is too wide: the same for 55 more layers: conv3, conv4, ")
    assert lines[3].endswith(", conv57")
    assert lines[4:] == [f"  {other}"]
    assert len(error.findings) == 59


def test_a_single_one_more_is_not_folded() -> None:
    findings = [Finding(name, "x", "y") for name in "abcd"]
    assert str(ModelError(findings)).splitlines()[1:] == [f"  {one}" for one in findings]


def test_warnings_point_to_the_users_line(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        snn = fxsnn.convert(seeded(Small), target="generic", bits=1)
        fxsnn.SpikingNetwork(snn.graph, snn.target).save(tmp_path / "net.fxsnn")
        fxsnn.convert(seeded(Small), target="generic", bits=4, calibration_data=images(), timesteps=2)(1e3 * images())
    about_us = [one for one in told if issubclass(one.category, fxsnn.FxsnnWarning)]
    assert {one.category for one in about_us} >= {fxsnn.CalibrationWarning, fxsnn.AccuracyWarning}
    assert len(about_us) >= 4
    assert {one.filename for one in about_us} == {__file__}
