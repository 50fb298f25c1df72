"""Layers with levels of their own in files: version 3, its schema, the way back, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import read_network
import torch

import fxsnn
from fxsnn.errors import FileError
from fxsnn.file.schema_check import schema
from fxsnn.layers import Integers
from fxsnn.storage import load_arrays, save_arrays
from tests.converted_graphs import converted
from tests.engines import same
from tests.nets import images


@pytest.fixture(scope="module")
def snn() -> fxsnn.SpikingNetwork:
    """With sums, whose inputs have levels too."""
    return converted(bits=2, codebook="free")


@pytest.fixture(scope="module")
def file(snn: fxsnn.SpikingNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snn.save(tmp_path_factory.mktemp("files") / "net.fxsnn")


def codebooks(network: fxsnn.SpikingNetwork) -> dict[str, str]:
    found = {name: one for name, one in network.named_modules() if isinstance(one, Integers)}
    return {name: str(one.codebook) for name, one in found.items() if one.codebook is not None}


def test_levels_and_codes_come_back(snn: fxsnn.SpikingNetwork, file: Path) -> None:
    back = fxsnn.load(file)
    assert codebooks(back) == codebooks(snn)
    assert set(codebooks(snn).values()) <= {"-1..1", "-2..1", "-1..2", "-3, -1, 1, 3", "-4, -1, 1, 4"}
    assert same(back.simulate(images(4)).spikes, snn.simulate(images(4)).spikes)
    assert back.target == snn.target
    assert fxsnn.verify(file).ok
    assert read_network.main(str(file)) == 0


def test_the_document_is_what_the_schema_of_version_3_says(file: Path) -> None:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    _, document = load_arrays(file)
    Draft202012Validator.check_schema(schema(3))
    earlier = [(f"file_v{one}.schema.json", Resource.from_contents(schema(one))) for one in (1, 2)]
    validator = Draft202012Validator(schema(3), registry=Registry().with_resources(earlier))
    validator.validate(json.loads(json.dumps(document)))
    assert (document["version"], document["target"]["codebook"]) == (3, "free")


def test_a_layer_with_a_symmetric_codebook_has_no_levels(file: Path, snn: fxsnn.SpikingNetwork) -> None:
    arrays, _ = load_arrays(file)
    told = {name.removesuffix(".levels") for name in arrays if name.endswith(".levels")}
    assert told == {name for name, levels in codebooks(snn).items() if levels != "-1..1"} != set()


def test_files_with_symmetric_codebooks_alone_have_the_words_of_earlier_versions(tmp_path: Path) -> None:
    arrays, document = load_arrays(converted(bits=2, codebook="symmetric").save(tmp_path / "net.fxsnn"))
    assert document["version"] == 2
    assert "codebook" not in document["target"]
    assert not any(name.endswith(".levels") for name in arrays)
    assert fxsnn.load(tmp_path / "net.fxsnn").target == fxsnn.get_target("generic")


def changed(file: Path, folder: Path, name: str, levels: torch.Tensor, **document: Any) -> Path:
    arrays, told = load_arrays(file)
    arrays[name] = levels
    return save_arrays(folder / "damaged.fxsnn", arrays, {**told, **document})


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        (torch.tensor([-3, -1, 3, 1], dtype=torch.int32), "the levels of a codebook are"),
        (torch.tensor([-16, -1, 1, 3], dtype=torch.int32), "the levels of a codebook are"),
        (torch.tensor([0, 1, 2, 3], dtype=torch.int32), "the levels of a codebook are"),
        (torch.zeros(0, dtype=torch.int32), "the levels of a codebook are"),
        (torch.tensor([-1, 0, 1], dtype=torch.int32), "its 3 levels are not those of a codebook of 2 bits"),
        (torch.tensor([-1, 1], dtype=torch.int32), "its 2 levels are not those of a codebook of 2 bits"),
        (torch.tensor([-3, -2, -1, 1, 3], dtype=torch.int32), "its 5 levels are not those of a codebook of 2 bits"),
        (torch.tensor([[-3, -1, 1, 3]], dtype=torch.int32), "its 4 levels are not those of a codebook of 2 bits"),
        (torch.tensor([-3, -1, 1, 3]), r"'stem.levels' is torch\.int64 \[4\]"),
        (torch.tensor([-15, -1, 1, 3], dtype=torch.int32), "stem: its codebook entry is .* generic holds"),
    ],
)  # fmt: skip
def test_levels_that_are_none_are_refused(levels: torch.Tensor, says: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=says):
        fxsnn.load(changed(file, tmp_path, "stem.levels", levels))


def test_an_earlier_version_knows_no_levels(tmp_path: Path) -> None:
    file = converted(bits=2, codebook="symmetric").save(tmp_path / "net.fxsnn")
    with pytest.raises(FileError, match=r"array 'stem.levels': nothing needs it"):
        fxsnn.load(changed(file, tmp_path, "stem.levels", torch.tensor([-3, -1, 1, 3], dtype=torch.int32)))


def test_a_target_without_such_codebooks_is_told(file: Path) -> None:
    narrow = replace(fxsnn.get_target("generic"), name="narrow", codebook="symmetric")
    with pytest.raises(FileError, match="stem: its codebook is -3, -1, 1, 3; narrow has symmetric ones alone"):
        fxsnn.load(file, target=narrow)
    with pytest.raises(FileError, match="narrow has symmetric, full ones alone"):
        fxsnn.load(file, target=replace(narrow, codebook="full"))


def test_a_target_with_other_codebooks_than_the_one_of_its_name_is_refused(tmp_path: Path) -> None:
    file = converted(bits=2, codebook="full").save(tmp_path / "net.fxsnn")
    arrays, document = load_arrays(file)
    document["target"]["codebook"] = "full"
    with pytest.raises(FileError, match="a target 'generic' with other codebook than the one here has"):
        fxsnn.load(save_arrays(tmp_path / "other.fxsnn", arrays, document))
    document["target"]["codebook"] = "any"
    with pytest.raises(FileError, match=r"target.codebook: 'any' is not one of"):
        fxsnn.load(save_arrays(tmp_path / "other.fxsnn", arrays, document))
