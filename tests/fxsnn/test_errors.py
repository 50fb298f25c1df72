"""One family; every message says layer, place, problem and remedy."""

from __future__ import annotations

import inspect

import pytest

from fxsnn import errors
from fxsnn.errors import Finding, FxsnnError, FxsnnWarning, ModelError

# RegisterError stands in fxsnn.neuron: users meet it only inside the findings of a TargetError.
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
