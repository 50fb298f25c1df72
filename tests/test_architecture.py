"""Rules of the house beyond the order of its wings, which is import-linter's contract in `pyproject.toml`."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import fxsnn

REPOSITORY = Path(__file__).parents[1]
ROOMS = ["fxsnn", *(f"fxsnn.{room.name}" for room in pkgutil.iter_modules(fxsnn.__path__) if room.ispkg)]
FILES = [
    path
    for folder in ("fxsnn", "passes", "hwtargets", "benchmarks", "examples", "tests")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
MODES = {f"torch.{mode}()" for mode in ("no_grad", "enable_grad", "inference_mode")} | {"torch.inference_mode(False)"}


def imports(path: Path) -> set[str]:
    """What a file imports, at its top or within functions."""
    tree = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "hwtargets").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_a_target_is_data_and_imports_nothing_but_its_class(path: Path) -> None:
    assert imports(path) == {"fxsnn.chip"}


@pytest.mark.parametrize("wing", ["chip", "display"])
def test_targets_need_no_torch(wing: str) -> None:
    for path in (REPOSITORY / "fxsnn" / wing).glob("*.py"):
        assert "torch" not in {name.partition(".")[0] for name in imports(path)}, path.name


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_one_comes_for_and_no_function_in_it_hides_a_module(room: str) -> None:
    package = importlib.import_module(room)
    assert package.__doc__
    values = {name for name, value in vars(package).items() if not inspect.ismodule(value)}
    assert values.isdisjoint(module.name for module in pkgutil.iter_modules(package.__path__))


def test_there_is_no_junk_drawer() -> None:
    assert FILES
    assert {path.stem for path in FILES}.isdisjoint({"utils", "util", "helpers", "common", "base", "misc"})


def test_no_generator_holds_a_mode_of_torch_while_its_consumer_runs() -> None:
    """Between two values it would be the consumer's, too; and one that is not run to its end puts it back any time."""
    holding = [
        (path.name, function.name)
        for path in FILES
        if "yield" in (text := path.read_text())
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef) and "contextmanager" not in map(ast.unparse, function.decorator_list)
        for block in ast.walk(function)
        if isinstance(block, ast.With) and MODES & {ast.unparse(item.context_expr) for item in block.items}
        if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(block))
    ]
    assert holding == []
