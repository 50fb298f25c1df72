"""NIR graphs of other tools become ordinary networks, or it is said why they do not."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import ModelError, OptionError

SIXTY_FOUR = {"input": np.array([64])}


def foreign(**changes: Any) -> Any:
    """A graph as others write it: a convolution, neurons, a sum over windows with neurons, a fully connected end."""
    generator = np.random.default_rng(0)
    full = np.full((4, 8, 8), 1.0)
    nodes = {
        "input": nir.Input(input_type={"input": np.array([2, 8, 8])}),
        "conv": nir.Conv2d(
            (8, 8), generator.normal(size=(4, 2, 3, 3)) / 2, (1, 1), (1, 1), (1, 1), 1, generator.normal(size=4) / 4
        ),
        "if": nir.IF(full, full * np.array([0.5, 1, 2, 4])[:, None, None]),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "pool.if": nir.IF(np.ones((4, 4, 4)), np.full((4, 4, 4), 4.0)),
        "flatten": nir.Flatten({"input": np.array([4, 4, 4])}, 0, -1),
        "fc": nir.Linear(generator.normal(size=(3, 64))),
        "output": nir.Output(output_type={"output": np.array([3])}),
        **changes,
    }
    return nir.NIRGraph(nodes=nodes, edges=list(itertools.pairwise(nodes)))


class TestGraphsOfOthers:
    def test_become_networks_whose_activations_are_the_rates_of_their_neurons(self) -> None:
        model = fxsnn.model_from_nir(foreign())
        assert isinstance(model, nn.Sequential)
        assert [type(layer).__name__ for layer in model] == ["Conv2d", "ReLU", "AvgPool2d", "Flatten", "Linear"]
        x = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        graph = foreign()
        drive = torch.nn.functional.conv2d(
            x.double(), torch.tensor(graph.nodes["conv"].weight), torch.tensor(graph.nodes["conv"].bias), padding=1
        )
        rates = (drive / torch.tensor([0.5, 1, 2, 4]).view(1, -1, 1, 1)).clamp_min(0)
        with torch.no_grad():
            torch.testing.assert_close(model[:2](x), rates.float())
            pooled = torch.nn.functional.avg_pool2d(rates, 2).flatten(1)
            torch.testing.assert_close(model(x), (pooled @ torch.tensor(graph.nodes["fc"].weight).T).float())

    @pytest.mark.parametrize("window", [2, 3, 5, 7])
    def test_neurons_behind_a_sum_whose_threshold_is_the_windows_size_make_it_a_mean(self, window: int) -> None:
        size = (np.array([window, window]), np.array([window, window]), np.array([0, 0]))
        after = 8 // window
        spots = np.ones((4, after, after), np.float32)
        model = fxsnn.model_from_nir(
            foreign(
                pool=nir.SumPool2d(*size),
                **{"pool.if": nir.IF(spots, spots * np.float32(window * window))},
                flatten=nir.Flatten({"input": np.array([4, after, after])}, 0, -1),
                fc=nir.Flatten({"input": np.array([4 * after * after])}, -1, -1),
            )
        )
        assert [type(layer).__name__ for layer in model.children()] == [
            "Conv2d",
            "ReLU",
            "AvgPool2d",
            "Flatten",
            "Flatten",
        ]

    def test_can_be_converted(self) -> None:
        x = torch.rand(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        model = fxsnn.model_from_nir(foreign())
        snn = fxsnn.convert(model, target="generic", bits=4, timesteps=32, calibration_data=x)
        assert snn(x).shape == (8, 3)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"if": nir.LIF(*[np.ones((4, 8, 8))] * 4)}, "if: it is a LIF. Allowed are Conv2d"),
            ({"if": nir.IF(np.ones((4, 8, 8)), 1 + np.arange(256.0).reshape(4, 8, 8))}, "if: thresholds differ within"),
            ({"if": nir.IF(np.ones((4, 8, 8)), np.zeros((4, 8, 8)))}, "if: a threshold or r is not positive"),
            (
                {"conv": nir.IF(np.ones((2, 8, 8)), np.ones((2, 8, 8)))},
                r"conv: it reads a Input\. .*(?s:.*)if: it reads a IF",
            ),
            ({"flatten": nir.Flatten({"input": np.array([4, 4, 4])}, 1, 2)}, "flatten: it flattens some"),
            ({"pool.if": nir.IF(np.ones((4, 4, 4)), 1 + np.arange(64.0).reshape(4, 4, 4))}, "behind a pooling differ"),
            (
                {"pool.if": nir.IF(np.ones((4, 4, 4)), np.full((4, 4, 4), 2.0)), "fc": nir.Flatten(SIXTY_FOUR, -1, -1)},
                "pool: what it gives, with the neurons behind it, is 2 times a mean",
            ),
            (
                {
                    "pool.if": nir.AvgPool2d(*np.ones((2, 2), int), np.zeros(2, int)),
                    "fc": nir.Flatten(SIXTY_FOUR, -1, -1),
                },
                r"pool.if: .* is 4 times a mean",
            ),
        ],
    )
    def test_other_nodes_are_refused_by_name(self, changes: Any, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            fxsnn.model_from_nir(foreign(**changes))

    def test_without_the_package_it_is_said_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nir", None)
        told = r"a NIR graph needs the package nir, which is not installed: pip install 'fxsnn\[nir\]'"
        with pytest.raises(OptionError, match=told):
            fxsnn.model_from_nir("net.nir")

    def test_what_is_no_chain_is_refused(self) -> None:
        graph = foreign()
        graph.edges.append(("if", "fc"))
        with pytest.raises(ModelError, match=r"if: 2 nodes read it\. Only chains"):
            fxsnn.model_from_nir(graph)
        graph = foreign()
        graph.edges.pop(2)
        with pytest.raises(ModelError, match="graph: 3 of its 8 nodes form a chain"):
            fxsnn.model_from_nir(graph)
