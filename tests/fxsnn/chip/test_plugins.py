"""Targets are found where they lie: ours in the folder, third parties' through their package's entry points."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import fxsnn
from fxsnn.chip import HardwareTarget, plugins
from fxsnn.errors import OptionError, PluginError, UnknownName

REPOSITORY = Path(__file__).parents[3]


def install_package(folder: Path, targets: dict[str, str], source: str) -> None:
    """Put a package with an entry point into `folder`, laid out as an installer lays it out."""
    (folder / "acme_chip.py").write_text(source)
    info = folder / "acme_chip-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-chip\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in targets.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{plugins.ENTRY_POINT_GROUP}]", *lines]) + "\n")


def python(folder: Path, code: str) -> str:
    """What a fresh interpreter prints that sees `folder` as installed packages."""
    path = f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}, {str(folder)!r}]\n"
    done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.strip()


ACME = """
from fxsnn import HardwareTarget
TARGET = HardwareTarget("acme_v1", input_channels={(3, 3): {2: 7}}, weight_bits=(2,))
"""


def test_our_targets_are_the_files_of_the_folder() -> None:
    files = {path.stem for path in (REPOSITORY / "hwtargets").glob("*.py")} - {"__init__"}
    ours = {source.origin.rpartition(".")[2] for source in plugins.target_sources().values() if source.target}
    assert ours == files
    assert {"hw_v1.0", "generic"} <= set(plugins.target_sources())


@pytest.mark.slow
def test_a_third_partys_target_in_an_installed_package_is_found(tmp_path: Path) -> None:
    install_package(tmp_path, {"acme_v1": "acme_chip:TARGET"}, ACME)
    code = "import fxsnn; print(fxsnn.get_target('acme_v1').input_channel_limit((3, 3), 2))"
    assert python(tmp_path, code) == "7"


@pytest.mark.slow
def test_a_broken_plugin_harms_nobody_until_it_is_asked_for(tmp_path: Path) -> None:
    install_package(tmp_path, {"acme_v1": "acme_chip:TARGET"}, "raise RuntimeError('no licence dongle')")
    code = """
import fxsnn
print(fxsnn.get_target("hw_v1.0").name)
try:
    fxsnn.get_target("acme_v1")
except fxsnn.PluginError as error:
    print(error)
"""
    first, second = python(tmp_path, code).splitlines()
    assert first == "hw_v1.0"
    assert "acme_v1" in second
    assert "acme-chip" in second
    assert "no licence dongle" in second


def test_a_target_object_is_taken_as_it_is() -> None:
    mine = HardwareTarget("mine")
    assert fxsnn.get_target(mine) is mine


@pytest.mark.parametrize("name", ["hw_v1.1", "", 3, None, ["hw_v1.0"]])
def test_an_unknown_name_gets_the_list_of_those_that_exist(name: object) -> None:
    with pytest.raises(UnknownName, match=r"known: generic, hw_v1\.0"):
        fxsnn.get_target(name)  # type: ignore[arg-type]
    assert issubclass(UnknownName, OptionError)


def inject(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, plugins.ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "_entry_points", lambda places: (point,))


def test_a_package_that_is_installed_while_python_runs_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert "acme_v1" not in plugins.target_sources()
    install_package(tmp_path, {"acme_v1": "acme_chip:TARGET"}, ACME)
    assert plugins.target_sources()["acme_v1"].origin == "acme-chip"


def test_a_name_given_twice_is_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, "hw_v1.0", "acme_chip:TARGET")
    with pytest.raises(PluginError, match=r"given twice: by fxsnn\.hwtargets\.v1_0 and by acme_chip:TARGET"):
        fxsnn.get_target("generic")


def test_a_plugin_that_gives_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, "odd", "math:pi")
    with pytest.raises(PluginError, match="is a float, no HardwareTarget"):
        fxsnn.get_target("odd")


def test_a_plugin_must_go_by_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, "odd", "fxsnn.hwtargets.generic:TARGET")
    with pytest.raises(PluginError, match="calls itself 'generic'"):
        fxsnn.get_target("odd")
