"""Dependencies run downward: a file imports only from floors below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

FLOORS: list[set[str]] = [
    {"fxsnn.errors", "fxsnn.tables", "fxsnn.cores", "fxsnn.version"},  # words
    {"fxsnn.difference"},
    {"fxsnn.options"},
    {"fxsnn.target"},  # plain data
    {"fxsnn.ambient", "fxsnn.storage"},
    {"fxsnn.lowbit", "fxsnn.hwtargets", "fxsnn.device", "fxsnn.datasets", "fxsnn.plots"}
    | {"fxsnn.user_code", "fxsnn.nir_model", "fxsnn.names", "fxsnn.image_sizes"},
    {"fxsnn.neuron", "fxsnn.plugins", "fxsnn.drawing", "fxsnn.packing", "fxsnn.training_options"},
    {"fxsnn.layers.plain_numbers"},
    {"fxsnn.layers.clipping", "fxsnn.layers.decode", "fxsnn.layers.folded", "fxsnn.layers.geometry"}
    | {"fxsnn.layers.images", "fxsnn.layers.low_bit"},
    {"fxsnn.layers.spiking"},
    {"fxsnn.layers"},  # arithmetic
    {"fxsnn.batches"},
    {"fxsnn.graph"},  # the program, and what it reads
    {"fxsnn.tracing"},
    {"fxsnn.engine.chain", "fxsnn.engine.tables"},  # the engines
    {"fxsnn.engine.planes"},
    {"fxsnn.engine.kernels"},
    {"fxsnn.engine.avx2"},
    {"fxsnn.engine.operations"},
    {"fxsnn.engine.planning"},
    {"fxsnn.engine.cpu", "fxsnn.engine.cuda"},
    {"fxsnn.engine"},
    {"fxsnn.overview", "fxsnn.activity", "fxsnn.document"},
    {"fxsnn.stages", "fxsnn.observe", "fxsnn.moments", "fxsnn.fitting", "fxsnn.report"}
    | {"fxsnn.reconstruction", "fxsnn.golden"},  # the machine
    {"fxsnn.simulation", "fxsnn.substitution", "fxsnn.writable"},
    {"fxsnn.network"},
    {"fxsnn.student"},
    {"fxsnn.finetune", "fxsnn.frontier"},
    {"fxsnn.passes"},
    {"fxsnn.effects"},
    {"fxsnn.compiler", "fxsnn.budget", "fxsnn.sweeps", "fxsnn.loading", "fxsnn.evaluation"} | {"fxsnn.interchange"},
    {"fxsnn"},
    {"fxsnn.cli"},
    {"fxsnn.__main__"},
]

FOLDERS = {
    "fxsnn": "fxsnn",
    "fxsnn/engine": "fxsnn.engine",
    "fxsnn/layers": "fxsnn.layers",
    "passes": "fxsnn.passes",
    "hwtargets": "fxsnn.hwtargets",
}
FILES = {
    path: prefix if path.stem == "__init__" else f"{prefix}.{path.stem}"
    for folder, prefix in FOLDERS.items()
    for path in sorted((REPOSITORY / folder).glob("*.py"))
}


def floor(module: str) -> int:
    """The floor on which a module stands; the files of a package that is one room stand together."""
    room = module.rpartition(".")[0] if module.startswith(("fxsnn.passes.", "fxsnn.hwtargets.")) else module
    return next(height for height, rooms in enumerate(FLOORS) if room in rooms)


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports at run time."""
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            own = {f"{node.module}.{alias.name}" for alias in node.names} & set(FILES.values())
            found |= own or {node.module}
    return {name for name in found if name.split(".")[0] == "fxsnn"}


@pytest.mark.parametrize("path", FILES, ids=[str(name) for name in FILES.values()])
def test_a_file_imports_only_from_floors_below(path: Path) -> None:
    here = floor(FILES[path])
    inside_package = path.stem == "__init__" and path.parent.name != "fxsnn"
    upward = {name for name in imports(path) if floor(name) >= here and not (inside_package and floor(name) == here)}
    assert upward == set()


def test_a_pass_never_imports_another_pass() -> None:
    for path, name in FILES.items():
        if name.startswith("fxsnn.passes."):
            assert not any(other.startswith("fxsnn.passes") for other in imports(path)), name


def test_a_target_is_data_and_imports_nothing_but_its_class() -> None:
    for path, name in FILES.items():
        if name.startswith("fxsnn.hwtargets."):
            assert imports(path) == {"fxsnn.target"}


def test_targets_need_no_torch() -> None:
    for file in ("target.py", "errors.py", "cores.py"):
        tree = list(ast.walk(ast.parse((REPOSITORY / "fxsnn" / file).read_text())))
        names = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in tree if isinstance(node, ast.ImportFrom)]
        assert "torch" not in {name.partition(".")[0] for name in names}


def test_no_function_hides_a_module_of_its_name() -> None:
    import fxsnn

    public = {name for name in fxsnn.__all__ if not isinstance(getattr(fxsnn, name), type(ast))}
    assert public.isdisjoint(path.stem for path in FILES if path.parent.name == "fxsnn")


def test_there_is_no_junk_drawer() -> None:
    assert {path.stem for path in FILES}.isdisjoint({"utils", "util", "helpers", "common", "base", "misc"})
