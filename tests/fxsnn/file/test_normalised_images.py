"""Files of networks that normalise their images: what is wrong about the numbers of `encode` is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.file import described, rebuilt
from tests.nets import images, seeded
from tests.random_networks import quiet

Document = dict[str, Any]


@pytest.fixture(scope="module")
def written() -> tuple[Document, dict[str, Tensor]]:
    model = seeded(
        lambda: nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5)
        )
    )
    with quiet():
        snn = fxsnn.convert(model, target="generic", bits=4, codebook="symmetric", calibration_data=images())
    return described(snn.graph, snn.target, snn.dynamics, (3, 12, 12), {})


def test_the_document_has_its_numbers(written: tuple[Document, dict[str, Tensor]]) -> None:
    document, arrays = written
    assert document["version"] == 2
    assert {name: list(arrays[name].shape) for name in arrays if name.startswith("encode")} == {
        "encode.scale": [3],
        "encode.shift": [3],
    }
    encode: Any = rebuilt(document, arrays).graph["encode"]
    assert torch.equal(encode.affine.scale, arrays["encode.scale"])


DAMAGES: dict[str, tuple[Callable[[Any, dict[str, Tensor]], Any], str]] = {
    "another count": (lambda nodes, arrays: nodes[1].update(affine=2), "it scales 2 channels of 3"),
    "no count": (lambda nodes, arrays: nodes[1].update(affine=0), "nodes"),
    "a count that is no number": (lambda nodes, arrays: nodes[1].update(affine="3"), "nodes"),
    "no scale": (lambda nodes, arrays: arrays.pop("encode.scale"), "'encode.scale' is missing"),
    "too few": (lambda nodes, arrays: arrays.update({"encode.shift": torch.zeros(2).double()}), "encode.shift"),
    "float32": (lambda nodes, arrays: arrays.update({"encode.shift": torch.zeros(3)}), "torch.float64"),
    "not finite": (
        lambda nodes, arrays: arrays.update({"encode.shift": torch.full((3,), torch.inf).double()}),
        "NaN or infinite",
    ),
    "not asked for": (lambda nodes, arrays: nodes[1].pop("affine"), "nothing needs it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_told(written: tuple[Document, dict[str, Tensor]], damage: str) -> None:
    document, arrays = written
    nodes, arrays = [dict(node) for node in document["nodes"]], dict(arrays)
    change, words = DAMAGES[damage]
    change(nodes, arrays)
    with pytest.raises(fxsnn.FileError, match=words):
        rebuilt({**document, "nodes": nodes}, arrays)


def test_version_1_has_no_words_for_it(written: tuple[Document, dict[str, Tensor]]) -> None:
    document, arrays = written
    with pytest.raises(fxsnn.FileError, match="affine"):
        rebuilt({**document, "version": 1}, arrays)
