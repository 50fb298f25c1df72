"""A program is compiled when it is run, not whenever it changes; nobody who is given one notices."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

import fxsnn
from fxsnn.passes import Canonicalize
from tests.nets import Small, images, seeded


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The programs that were compiled, in order."""
    found: list[fx.GraphModule] = []
    as_ever = fx.GraphModule.recompile

    def recompile(module: fx.GraphModule) -> object:
        found.append(module)
        return as_ever(module)

    monkeypatch.setattr(fx.GraphModule, "recompile", recompile)
    return found


def stale() -> fxsnn.Graph:
    """A graph that has changed and was not run since."""
    graph = fxsnn.capture(seeded(Small))
    graph(images())
    for node in graph.nodes(nn.ReLU):
        graph.insert_after(node, "new", nn.Dropout().eval())
    graph.tidy()
    return graph


def test_a_copy_and_a_change_compile_nothing(compiled: list[fx.GraphModule]) -> None:
    graph = fxsnn.capture(seeded(Small))
    compiled.clear()
    other = graph.copy()
    other.tidy()
    assert compiled == []
    other(images())
    other(images())
    assert compiled == [other.module]


def test_what_runs_is_the_graph_as_it_is_now() -> None:
    graph = fxsnn.capture(seeded(Small))
    before = graph(images())
    graph.insert_after(graph.output().all_input_nodes[0], "last", nn.Softplus())
    graph.tidy()
    assert torch.equal(graph(images()), nn.functional.softplus(before))


@pytest.mark.parametrize("said", [str, lambda module: module.code], ids=["text", "code"])
def test_what_is_said_is_the_graph_as_it_is_now(said: Callable[[nn.Module], str]) -> None:
    assert "new" in said(stale().module)


def test_a_deep_copy_and_what_captures_passes_and_pipelines_give_can_be_traced_by_others() -> None:
    model = seeded(Small)
    graph = fxsnn.capture(model)
    step = Canonicalize()(graph)
    pipeline = fxsnn.Pipeline((Canonicalize(),))
    (one,) = pipeline.steps(model)
    for given in (graph, step.after, one.after, pipeline.run(model), copy.deepcopy(stale())):
        traced = fx.symbolic_trace(given.module)
        assert torch.equal(traced(images()), given(images()))


def test_a_program_that_was_not_run_yet_can_be_captured() -> None:
    graph = stale()
    assert torch.equal(fxsnn.capture(graph.module)(images()), graph(images()))
