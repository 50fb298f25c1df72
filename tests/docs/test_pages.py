"""The code of the pages runs, and prints what they say it prints, figures aside."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import fxsnn
import fxsnn.passes
from fxsnn.chip.plugins import ENTRY_POINT_GROUP
from fxsnn.cli import main

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
FENCED = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK_START = DOCS / "quickstart.md"
COMMAND_LINE = DOCS / "how-to" / "command-line.md"
BY_THEMSELVES = sorted((DOCS / "extend").glob("*.md"))
BEHIND_THE_QUICK_START = sorted(page for page in (DOCS / "how-to").glob("*.md") if "```python" in page.read_text())

# The pages warn of what they do on purpose: 2 bits without fine-tuning. Libraries' warnings are not theirs.
pytestmark = pytest.mark.filterwarnings("default")


@dataclass(frozen=True)
class Block:
    """A piece of Python on a page.

    Attributes:
        code: what stands there, at its own line.
        printed: what the page says it prints, `None` if it does not say.
    """

    code: str
    printed: str | None


def blocks(page: Path) -> list[Block]:
    """The Python of a page in order; a block of text directly behind one is what it prints."""
    text = page.read_text()
    fenced = list(FENCED.finditer(text))
    found = []
    for this, behind in zip(fenced, [*fenced[1:], None], strict=True):
        if this[1] == "python":
            says = behind is not None and behind[1] == "text" and not text[this.end() : behind.start()].strip()
            line = text.count("\n", 0, this.start(2))
            found.append(Block("\n" * line + this[2], behind[2] if behind is not None and says else None))
    return found


def shape(text: str) -> str:
    """What was printed without its figures, its hashes of tensors and the widths of its columns."""
    return " ".join(re.sub(r"-{2,}", "--", re.sub(r"#[0-9a-f]{8}|\d[\d.,]*", "#", text)).split())


def run(page: Path, names: dict[str, Any]) -> dict[str, Any]:
    """Run a page with these names at hand, and compare what it prints; its names afterwards."""
    names = {"__name__": "__main__"} | names
    for block in blocks(page):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block.code, str(page), "exec"), names)
        if block.printed is not None:
            assert shape(printed.getvalue()) == shape(block.printed), printed.getvalue()
    return names


@pytest.fixture(scope="session")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("quickstart"))
        return run(QUICK_START, {})


@pytest.mark.parametrize("page", BY_THEMSELVES, ids=lambda page: page.stem)
def test_a_page_about_extending_runs_by_itself(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(page, {})


@pytest.mark.slow
def test_the_quick_start_runs_and_its_networks_are_worth_having(quick_start: dict[str, Any]) -> None:
    accuracy = quick_start["accuracy"]
    assert accuracy(quick_start["model"]) > 90
    assert accuracy(quick_start["snn"]) > 90


@pytest.mark.slow
@pytest.mark.parametrize("page", BEHIND_THE_QUICK_START, ids=lambda page: page.stem)
def test_a_page_by_task_runs_behind_the_quick_start(
    page: Path, quick_start: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(fxsnn.datasets, "_registered", dict(fxsnn.datasets._registered))  # a page registers its own
    assert run(page, quick_start)


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_their_order(
    quick_start: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network, _, _ = blocks(QUICK_START)[0].code.partition("torch.manual_seed")
    Path("net.py").write_text(network.lstrip())
    torch.save(quick_start["model"].state_dict(), "net.pt")
    commands = re.findall(r"^    fxsnn (.+)$", COMMAND_LINE.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        assert main(shlex.split(command, comments=True)) == 0, command


@pytest.mark.slow
def test_the_readme_runs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(README, {})


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_the_pages_beside_the_site_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_reference_has_every_public_name() -> None:
    pages = [page.read_text() for page in (DOCS / "reference").glob("*.md")]
    shown = {name for page in pages for name in re.findall(r"^::: (\S+)", page, re.MULTILINE)}
    public = {f"fxsnn.{name}" for name in fxsnn.__all__ if name != "__version__"}
    public |= {f"fxsnn.passes.{name}" for name in fxsnn.passes.__all__ if name not in fxsnn.__all__}
    assert public - shown == set()


def test_the_package_of_a_target_names_it_as_fxsnn_looks_for_it() -> None:
    page = (DOCS / "extend" / "target.md").read_text()
    assert f'[project.entry-points."{ENTRY_POINT_GROUP}"]\nacme_v1 = ' in page
    assert 'name="acme_v1"' in page


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {fxsnn.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()


def test_what_a_block_prints_is_told_from_other_text(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n```python\nprint(1)\n```\n\n```text\n1\n```\n```python\nx = 2\n```\nsays\n```text\n3\n```\n")
    assert [(block.code.strip(), block.printed) for block in blocks(page)] == [("print(1)", "1\n"), ("x = 2", None)]


def test_a_page_that_prints_something_else_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('two')\n```\n```text\none\n```\n")
    with pytest.raises(AssertionError):
        run(page, {})
