"""The notebooks run top to bottom, and are kept with what they show."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    """All text that a cell shows."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts += [output.get("text", ""), *(data[kind] for kind in ("text/plain", "text/html") if kind in data)]
    return "\n".join(parts)


def test_they_need_nothing_but_what_is_installed() -> None:
    beside = {path.stem for path in (REPOSITORY / "examples").glob("*.py")}
    for path in NOTEBOOKS:
        source = "\n".join(cell.source for cell in code_cells(read(path)))
        assert beside.isdisjoint(re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("found", [True, False])
def test_their_first_cell_installs_fxsnn_where_it_is_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, found: bool
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if found else None)
    called: list[tuple[str, str]] = []
    shell = SimpleNamespace(run_line_magic=lambda magic, line: called.append((magic, line)))
    manager = TransformerManager()  # type: ignore[no-untyped-call]  # IPython's, without types
    python = manager.transform_cell(code_cells(read(path))[0].source)
    exec(python, {"get_ipython": lambda: shell})
    assert called == ([] if found else [("pip", "install --quiet {SOURCE}")])


def test_there_are_four() -> None:
    names = ["1_first_conversion", "2_pass_by_pass", "3_bits_and_timesteps", "4_frames_and_streams"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_as_it_ran(path: Path) -> None:
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) >= 1 or any(
        "image/svg+xml" in output.get("data", {}) for cell in cells for output in cell.outputs
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_shows_no_path_of_the_machine_that_it_ran_on(path: Path) -> None:
    for cell in code_cells(read(path)):
        assert not re.search(r"(^|[\s\"'(])/[a-z]+/", shown(cell)), shown(cell)
        assert "Warning" not in shown(cell), shown(cell)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # what Jupyter's packages warn about is theirs
def test_it_runs_top_to_bottom_in_any_folder(path: Path, tmp_path: Path) -> None:
    notebook = read(path)
    before = [shown(cell) for cell in code_cells(notebook)]
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    alone = {"OMP_NUM_THREADS": "1"}  # other tests run beside it: threads would wait for processors, and spin meanwhile
    client.execute(env={**os.environ, **alone, "PYTHONPATH": str(REPOSITORY)})
    after = [shown(cell) for cell in code_cells(notebook)]
    assert [bool(text) for text in after] == [bool(text) for text in before]
