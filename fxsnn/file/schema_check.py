"""Whether a network file's document is of a version and form that this fxsnn reads: the first look at it.

All that is wrong is told at once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from fxsnn.errors import FileError, importing
from fxsnn.file.document import FORMAT, VERSION

DAMAGED = "it is damaged or was not written by fxsnn:"
"""How messages about files begin."""

_MOST_TOLD = 20
_MOST_CALLS = 64
_DEEPEST = 16

Document = Mapping[str, Any]


class Problems:
    """Collects what is wrong, to tell it all at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, problem: str) -> None:
        """Note one."""
        self.found.append(problem)

    def stop(self) -> None:
        """Raise what was found so far, if anything was."""
        if self.found:
            more = len(self.found) - _MOST_TOLD
            told = self.found[:_MOST_TOLD] + ([f"... and {more} more"] if more > 0 else [])
            raise FileError("\n".join([DAMAGED, *(f"  {one}" for one in told)]))


@cache
def schema(version: int) -> dict[str, Any]:
    """The JSON schema of the document; later ones refer to earlier ones, by the names of their files."""
    text = resources.files("fxsnn").joinpath("embedded", _file_of(version)).read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def _file_of(version: int) -> str:
    return f"file_v{version}.schema.json"


def require_schema(document: Document) -> None:
    """Hold a document against its version and schema.

    Raises:
        FileError: it is of another version, or not what the schema says; or the package jsonschema is missing or
            broken, without which no file can be trusted.
    """
    with importing("jsonschema", "a network file", FileError):
        import jsonschema.validators  # noqa: F401
    if document.get("format") != FORMAT or "version" not in document:
        raise FileError("it holds no spiking network of fxsnn, or one from before files could be loaded")
    version = document["version"]
    if type(version) is int and version > VERSION:
        raise FileError(f"it has version {version}; this fxsnn reads versions up to {VERSION}. Install a newer fxsnn")
    nodes = document.get("nodes")
    number = version if type(version) is int and version > 0 else 1
    most = schema(1)["properties"]["nodes"]["maxItems"]
    nodes = nodes if isinstance(nodes, list) else []
    if len(nodes) > most:
        raise FileError(f"it has {len(nodes):,} nodes; allowed are {most:,}")
    calls = [node for node in nodes if isinstance(node, dict) and node.get("op") == "call"]
    if len(calls) > _MOST_CALLS:
        raise FileError(f"it has {len(calls):,} calls in its tail; allowed are {_MOST_CALLS}")
    if any(_depth(node.get("returns")) > 2 * _DEEPEST for node in nodes if isinstance(node, dict)):
        raise FileError(f"what it returns is nested more than {_DEEPEST} deep")
    problems = Problems()
    for error in itertools.islice(_validator(number).iter_errors(document), _MOST_TOLD):
        problems(f"{error.json_path}: {short(error.message)}")
    if type(version) is not int:
        problems(f"$.version: {short(repr(version))} is no integer")
    if _depth(document["provenance"] if not problems.found else {}) > _DEEPEST:
        problems(f"$.provenance: it is nested more than {_DEEPEST} deep")
    problems.stop()


@cache
def _validator(version: int) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry, Resource

    # To JSON Schema 3.0 is an integer too; to PyTorch it is none.
    kinds = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict: Any = extend(Draft202012Validator, type_checker=kinds)
    known: Any = Registry().with_resources(
        (_file_of(one), Resource.from_contents(schema(one))) for one in range(1, version + 1)
    )
    return strict(schema(version), registry=known)


def _depth(value: Any) -> int:
    """How deep lists and objects are nested; what JSON's parser lets through is less deep than Python's stack."""
    depth, level = 0, [value]
    while level:
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth


def short(message: str) -> str:
    """A message, without its middle where it is long."""
    return message if len(message) <= 160 else f"{message[:80]} ... {message[-70:]}"
