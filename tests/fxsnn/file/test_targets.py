"""What files say of chips: all of those that readers cannot know by name (version 4), nothing that they need not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fxsnn
from fxsnn.chip import CODEBOOKS, JOINS, HardwareTarget
from fxsnn.errors import FileError
from fxsnn.file.schema_check import schema
from fxsnn.storage import load_arrays, save_arrays
from tests.converted_graphs import converted

CHIP = HardwareTarget("acme_v1", codebook="full", joins=("concatenate", "add"))


def saved(folder: Path, target: HardwareTarget | str, **options: Any) -> Path:
    return converted(bits=2, **{"target": target, "codebook": "symmetric", **options}).save(folder / "net.fxsnn")


@pytest.mark.parametrize("chip", [CHIP, replace(CHIP, joins=JOINS), replace(CHIP, codebook="symmetric")])
def test_a_target_that_nobody_knows_comes_back_whole(tmp_path: Path, chip: HardwareTarget) -> None:
    file = saved(tmp_path, chip)
    assert load_arrays(file)[1]["version"] == 4
    assert fxsnn.load(file).target == chip


def test_it_does_from_a_file_with_levels_too(tmp_path: Path) -> None:
    file = saved(tmp_path, CHIP, codebook="full")
    assert load_arrays(file)[1]["version"] == 4
    assert fxsnn.load(file).target == CHIP
    assert fxsnn.verify(file).ok


def test_the_document_is_what_the_schema_of_version_4_says(tmp_path: Path) -> None:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    document = load_arrays(saved(tmp_path, CHIP))[1]
    Draft202012Validator.check_schema(schema(4))
    earlier = [(f"file_v{one}.schema.json", Resource.from_contents(schema(one))) for one in (1, 2, 3)]
    validator = Draft202012Validator(schema(4), registry=Registry().with_resources(earlier))
    validator.validate(json.loads(json.dumps(document)))
    assert document["target"]["joins"] == ["add", "concatenate"]
    assert document["target"]["codebook"] == "full"


@pytest.mark.parametrize("name", ["generic", "hw_v1.6"])
def test_files_for_our_own_targets_stay_readable_for_older_readers(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path, name)
    document = load_arrays(file)[1]
    assert document["version"] == 2
    assert document["target"].keys().isdisjoint(("codebook", "joins"))
    assert fxsnn.load(file).target == fxsnn.get_target(name)


def test_so_do_those_for_one_of_which_earlier_versions_can_say_all(tmp_path: Path) -> None:
    chip = HardwareTarget("acme_v2", joins=JOINS, codebook=CODEBOOKS[0])
    file = saved(tmp_path, chip)
    assert load_arrays(file)[1]["version"] == 2
    assert fxsnn.load(file).target == chip


def test_a_target_with_other_joins_than_the_one_of_its_name_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, replace(fxsnn.get_target("generic"), joins=("add",)))
    with pytest.raises(FileError, match="a target 'generic' with other joins than the one here has"):
        fxsnn.load(file)
    assert fxsnn.load(file, target="generic").target == fxsnn.get_target("generic")


@pytest.mark.parametrize("joins", [["sum"], ["add", "add"], "add", None])
def test_joins_that_are_none_are_refused(tmp_path: Path, joins: object) -> None:
    arrays, document = load_arrays(saved(tmp_path, CHIP))
    document["target"]["joins"] = joins
    with pytest.raises(FileError, match=r"target\.joins"):
        fxsnn.load(save_arrays(tmp_path / "other.fxsnn", arrays, document))
