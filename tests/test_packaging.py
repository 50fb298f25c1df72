"""The wheel holds what the tree holds, under one name, and importing it is cheap."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import fxsnn
import fxsnn.passes

REPOSITORY = Path(__file__).parents[1]


LINKS = ("passes", "hwtargets")
"""Folders at the top that are links in `fxsnn/`."""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)


def test_the_wheel_holds_the_tree_under_one_top_level_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    made = shutil.ignore_patterns(".*", "build", "dist", "out", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=made)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {str(path.relative_to(source)) for path in (source / "fxsnn").rglob("*.py")}  # links are not followed
    expected |= {f"fxsnn/{name}/{path.name}" for name in LINKS for path in (source / name).glob("*.py")}
    expected |= {f"fxsnn/embedded/{path.name}" for path in (source / "fxsnn/embedded").iterdir()} | {"fxsnn/py.typed"}
    assert names == expected


@pytest.mark.slow
def test_a_clone_without_symbolic_links_installs_and_runs_its_tests(tmp_path: Path) -> None:
    """As git makes one where links are not to be had: each is a file with its target as text."""
    source, environment = tmp_path / "source", tmp_path / "environment"
    made = shutil.ignore_patterns(".*", "build", "dist", "out", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=made)
    for link in [path for path in (source / "fxsnn").iterdir() if path.is_symlink()]:
        target = link.readlink()
        link.unlink()
        link.write_text(str(target))
    venv.create(environment)
    # What is installed here is seen there, but not what .pth files here add, such as a checkout of ours.
    (packages,) = environment.glob("lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    own = str(environment / "bin" / "python")
    install = [own, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    whole = "import fxsnn.passes, fxsnn.hwtargets; print(fxsnn.get_target('hw_v1.0').name, fxsnn.__file__)"
    subprocess.run([*install, str(source)], check=True, capture_output=True)
    done = subprocess.run([own, "-c", whole], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["hw_v1.0", str(packages / "fxsnn" / "__init__.py")]
    subprocess.run([*install, "--editable", str(source)], check=True, capture_output=True)
    tests = ["tests/passes/test_fold_batch_norm.py", "tests/hwtargets"]
    done = subprocess.run([own, "-m", "pytest", "-q", *tests], capture_output=True, text=True, cwd=source, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", ["passes", "hwtargets"])
def test_the_folders_refuse_to_be_imported_under_their_bare_names(package: str) -> None:
    done = python(f"import {package}", REPOSITORY)
    assert done.returncode != 0
    assert f"this is the package fxsnn.{package}: import it by that name" in done.stderr


def test_importing_it_does_not_import_what_few_need() -> None:
    heavy = ("matplotlib", "GPUtil", "torchvision", "numba", "triton")
    done = python(f"import sys, fxsnn; print([name for name in {heavy} if name in sys.modules])", REPOSITORY)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_exists_once() -> None:
    for module in (fxsnn, fxsnn.passes):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_the_version_is_said_once() -> None:
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == fxsnn.__version__


MODULES = [
    info.name
    for package in (
        fxsnn,
        *(importlib.import_module(f"fxsnn.{name}") for name in ("engine", "layers", "passes", "hwtargets")),
    )
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module):
        if test.examples:  # each run takes a while, of none too
            runner.run(test)
    assert runner.failures == 0
