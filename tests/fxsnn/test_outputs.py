"""Outputs of any structure: looked through, changed, joined; refused where they cannot be told apart by image."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch

from fxsnn.errors import DataError
from fxsnn.outputs import distances, joined, require_rows, tensors_in, with_each

Pair = namedtuple("Pair", ["first", "second"])  # as networks return them
ROWS = torch.arange(6.0).view(3, 2)


def nested(rows: torch.Tensor) -> dict[str, Any]:
    return {"heads": [rows, (rows + 1, None)], "pair": Pair(rows[:, 0], rows.view(len(rows), 1, 2))}


def test_tensors_are_found_in_order() -> None:
    found = tensors_in(nested(ROWS))
    assert [tuple(one.shape) for one in found] == [(3, 2), (3, 2), (3,), (3, 1, 2)]
    assert tensors_in(ROWS)[0] is ROWS


def test_each_tensor_is_changed_and_the_structure_stays() -> None:
    found = with_each(lambda tensor: tensor * 2, nested(ROWS))
    assert isinstance(found["pair"], Pair)
    assert torch.equal(found["heads"][1][0], 2 * (ROWS + 1))
    assert found["heads"][1][1] is None


def test_parts_are_joined_along_a_dimension() -> None:
    found = joined([nested(ROWS[:1]), nested(ROWS[1:])])
    assert torch.equal(found["heads"][0], ROWS)
    assert isinstance(found["pair"], Pair)
    assert found["pair"].second.shape == (3, 1, 2)
    assert joined([(ROWS,), (ROWS,)], dim=1)[0].shape == (3, 4)


def test_parts_of_other_structure_are_refused() -> None:
    with pytest.raises(DataError, match="returns another structure for other images"):
        joined([(ROWS, ROWS), (ROWS,)])


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"loss": ROWS.sum()}, r"output\['loss'\] of the network is of shape \[\]; expected are tensors of 3 rows"),
        ([ROWS, ROWS.t()], r"output\[1\] of the network is of shape \[2, 3\]"),
        ((ROWS, 3), r"output\[1\] of the network is a int"),
    ],
)
def test_what_has_no_row_for_each_image_is_named(outputs: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        require_rows(outputs, 3)


def test_rows_may_come_with_nothing_beside_them() -> None:
    assert require_rows((ROWS, None), 3) == (ROWS, None)


def test_two_outputs_are_compared_tensor_by_tensor() -> None:
    nothing, large = torch.tensor([float("nan"), float("inf")]), torch.tensor([True, False])
    assert distances((ROWS, {"a": nothing, "b": large}), (ROWS + 2, {"a": nothing, "b": ~large})) == [2, 0, 1]
    assert distances([], []) == []


@pytest.mark.parametrize("other", [ROWS, (ROWS,), (ROWS, None), (ROWS, ROWS[:1])])
def test_outputs_of_another_form_have_no_distance(other: Any) -> None:
    with pytest.raises(DataError, match="the outputs have"):
        distances((ROWS, ROWS), other)
