"""Images that a network accepts are found from its layers."""

from __future__ import annotations

import pytest
from torch import nn

import fxsnn
from tests.nets import CONVERTIBLE, seeded


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([nn.Conv1d(3, 4, 5, padding=2), nn.ReLU()], (3, 128)),
        ([nn.Conv1d(3, 4, 5, 2), nn.AvgPool1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30, 2)], (3, 187)),
        ([nn.Conv1d(1, 2, 80, 16), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 996, 2)], (1, 16000)),
        ([nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 33331, 2)], (1, 33333)),
        ([nn.Conv1d(1, 2, 3, padding="same"), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 2)], (1, 128)),
        ([nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2)], (7,)),
        ([nn.Dropout(), nn.BatchNorm1d(7), nn.Linear(7, 4)], (7,)),
    ],
)
def test_signals_and_vectors_of_a_fitting_size_are_found(layers: list[nn.Module], size: tuple[int, ...]) -> None:
    found = fxsnn.capture(nn.Sequential(*layers).eval()).example_input()
    assert found is not None
    assert tuple(found.shape) == (2, *size)


def test_a_length_that_no_signal_has_is_not_looked_for() -> None:
    layers = [nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7, 2)]  # two channels give no seven numbers
    assert fxsnn.capture(nn.Sequential(*layers)).example_input() is None


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_images_of_a_fitting_size_are_found(name: str) -> None:
    graph = fxsnn.capture(seeded(CONVERTIBLE[name]))
    found = graph.example_input()
    assert found is not None
    graph(found)
