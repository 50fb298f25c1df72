"""A pass is a value, the machine copies, checks and records, and a pipeline is a list that can be read and changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import GraphError, PipelineError, UnknownName
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU
from fxsnn.passes import Canonicalize, CorrectLayers, FoldBatchNorm
from fxsnn.rewriting import Pass, Pipeline, facts
from tests.nets import Small, images, seeded


class ScaleBias(Pass):
    """Multiplies every bias; `preserves` is a lie unless the factor is 1."""

    factor: float = 1.0
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        for node in graph.nodes(nn.Linear):
            layer: Any = graph[node]
            scaled = nn.Linear(layer.in_features, layer.out_features, device="meta")
            scaled.weight, scaled.bias = layer.weight, nn.Parameter(layer.bias.detach() * self.factor)
            graph.replace(node, scaled)


class WriteIntoWeight(Pass):
    def rewrite(self, graph: Graph) -> None:
        conv: Any = graph["conv1"]
        with torch.no_grad():
            conv.weight.mul_(2)


class Break(Pass):
    def rewrite(self, graph: Graph) -> None:
        graph.nodes(nn.ReLU)[0].target = "nowhere"


class Nothing(Pass):
    needs = facts("gold")

    def rewrite(self, graph: Graph) -> None:
        pass


class Look(Pass):
    """Changes nothing, and keeps the graph that it was given to edit."""

    given: list[Graph]

    def rewrite(self, graph: Graph) -> None:
        self.given.append(graph)


class LookAgain(Look):
    pass


class Note(Pass):
    """Changes nothing but what a graph says of itself."""

    def rewrite(self, graph: Graph) -> None:
        graph.module.meta["noted"] = True


class LookAtLast(Look):
    pass


@pytest.fixture
def graph() -> Graph:
    return fxsnn.capture(seeded(Small))


class TestPass:
    def test_its_fields_are_its_options_without_any_decorator(self) -> None:
        assert ScaleBias(factor=2.0).factor == 2.0
        assert ScaleBias(2.0).describe() == "ScaleBias(factor=2.0)"

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            ScaleBias().factor = 3.0  # type: ignore[misc]

    def test_its_name_is_that_of_its_class(self) -> None:
        assert FoldBatchNorm().name == "fold-batch-norm"

    def test_it_leaves_the_graph_that_it_was_given(self, graph: Graph) -> None:
        text = graph.text()
        step = ScaleBias(0.5)(graph)
        assert graph.text() == text
        assert step.before is graph
        assert step.after.text() != text

    def test_one_that_writes_into_a_tensor_is_caught(self, graph: Graph) -> None:
        with pytest.raises(GraphError, match=r"write-into-weight wrote into conv1\.weight of the graph"):
            WriteIntoWeight()(graph)

    def test_one_that_writes_past_pytorchs_version_counter_is_caught_too(self, graph: Graph) -> None:
        class ClampBias(Pass):
            def rewrite(self, graph: Graph) -> None:
                layer: Any = graph["fc"]
                layer.bias.data.clamp_(-1e-3, 1e-3)

        with pytest.raises(GraphError, match=r"clamp-bias wrote into fc\.bias of the graph that it was given"):
            ClampBias()(graph)

    def test_one_that_leaves_a_broken_graph_is_caught(self, graph: Graph) -> None:
        with pytest.raises(GraphError, match="nowhere"):
            Break()(graph)

    def test_one_that_breaks_its_promise_is_caught(self, graph: Graph) -> None:
        with pytest.raises(
            GraphError, match=r"scale-bias promises to keep the function, but its outputs moved by 0\.\d+"
        ):
            ScaleBias(0.5)(graph, example=images())

    def test_one_that_keeps_its_promise_is_measured(self, graph: Graph) -> None:
        assert ScaleBias(1.0)(graph, example=images()).moved == 0
        assert ScaleBias(0.5)(graph).moved is None

    def test_one_without_rewrite_says_so(self, graph: Graph) -> None:
        class Empty(Pass):
            pass

        with pytest.raises(NotImplementedError, match="Empty defines no rewrite"):
            Empty()(graph)

    def test_in_short_it_has_no_images_in_it(self) -> None:
        chip = fxsnn.get_target("hw_v1.0")
        shown = repr(CorrectLayers(torch.rand(2000, 1, 4, 4), chip, timesteps=8))
        assert shown.startswith("CorrectLayers(weights=True, biases=True, thresholds=True, timesteps=8")
        assert "tensor" not in shown


class TestStep:
    def test_the_diff_shows_only_what_changed(self, graph: Graph) -> None:
        diff = ScaleBias(0.5)(graph).diff()
        assert diff.summary() == "Linear changed (2)"
        assert all(line.split()[0][1:] in ("hidden", "fc") for line in diff.lines())
        assert "hidden" in diff._repr_html_()

    def test_drift_is_the_largest_difference_of_the_outputs(self, graph: Graph) -> None:
        step = ScaleBias(0.5)(graph)
        expected = (graph(images()) - step.after(images())).detach().abs().max()
        assert step.drift(images()) == pytest.approx(float(expected))
        assert Canonicalize()(graph).drift(images()) == 0

    def test_in_short_it_has_no_graphs_in_it(self, graph: Graph) -> None:
        assert repr(ScaleBias(0.5)(graph)) == f"Step of scale-bias: {len(graph)} nodes before, {len(graph)} after"

    def test_its_summary_is_one_line(self, graph: Graph) -> None:
        assert ScaleBias(0.5)(graph).summary().startswith("ScaleBias(factor=0.5): Linear changed (2) in ")

    def test_in_a_terminal_it_shows_what_changed_and_the_layers(self) -> None:
        *_, fold, _, _, quantise, _, _ = fxsnn.pipeline(target="hw_v1.0", bits=2, calibration_data=images()).steps(
            seeded(Small)
        )
        assert "-norm1  BatchNorm2d" in str(fold)
        assert "weight step" not in str(fold)  # nothing is known yet
        assert "+conv1  LowBitConv2d" in str(quantise)
        assert "conv1   LowBitConv2d  2" in str(quantise)

    def test_a_long_one_is_cut(self) -> None:
        deep = seeded(lambda: nn.Sequential(*_layers(30)))
        step = FoldBatchNorm()(Canonicalize()(fxsnn.capture(deep)).after)
        assert "120 more: step.diff()" in str(step)
        assert len(str(step).splitlines()) == 32
        assert len(step.diff().lines()) == 150
        assert "<details>" in step._repr_html_()  # folded

    def test_in_a_notebook_it_is_side_by_side(self, graph: Graph) -> None:
        html = ScaleBias(0.5)(graph)._repr_html_()
        assert "<th" in html
        assert "before</th>" in html
        assert "<details open>" in html


def _layers(count: int) -> list[nn.Module]:
    return [module for _ in range(count) for module in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())]


class TestPipeline:
    def test_every_step_goes_on_from_the_one_before(self, graph: Graph) -> None:
        first, second = Pipeline((Canonicalize(), FoldBatchNorm())).steps(seeded(Small))
        assert second.before is first.after
        assert not second.after.nodes(nn.BatchNorm2d)

    def test_promises_are_verified_on_images_of_a_size_that_it_finds(self) -> None:
        moved = [step.moved for step in Pipeline((Canonicalize(), FoldBatchNorm())).steps(seeded(Small))]
        assert all(value is not None and value < 1e-12 for value in moved)

    def test_a_broken_promise_stops_it(self) -> None:
        with pytest.raises(GraphError, match="scale-bias promises"):
            Pipeline((ScaleBias(0.5),)).run(seeded(Small))

    def test_a_pass_whose_needs_nobody_gives_is_refused_when_it_is_built(self) -> None:
        with pytest.raises(PipelineError, match="nothing needs gold; no earlier pass"):
            Pipeline((Canonicalize(), Nothing()))

    def test_two_passes_of_one_name_are_refused(self) -> None:
        with pytest.raises(PipelineError, match="two passes are named canonicalize"):
            Pipeline((Canonicalize(), Canonicalize()))

    def test_it_can_be_changed_by_name(self) -> None:
        usual = Pipeline((Canonicalize(), FoldBatchNorm()))
        assert usual.after("canonicalize", ScaleBias()).passes[1].name == "scale-bias"
        assert usual.after("fold-batch-norm", ScaleBias()).passes[2].name == "scale-bias"
        assert usual.before("canonicalize", ScaleBias()).passes[0].name == "scale-bias"
        assert [p.name for p in usual.without("fold-batch-norm").passes] == ["canonicalize"]
        assert [p.name for p in usual.until("canonicalize").passes] == ["canonicalize"]
        with pytest.raises(UnknownName, match="no pass named 'fold'; this pipeline has canonicalize, fold-batch-norm"):
            usual.without("fold")

    def test_it_can_stop_at_a_breakpoint_and_go_on_with_a_changed_graph(self) -> None:
        whole = fxsnn.pipeline(target="hw_v1.0", bits=2, calibration_data=images())
        first, rest = whole.split("calibrate-thresholds")
        assert [one.name for one in (*first.passes, *rest.passes)] == [one.name for one in whole.passes]
        graph = first.run(seeded(Small))
        (node,) = graph.calls("relu1")
        graph.replace(node, ClippedReLU(0.5))
        converted: Any = rest.run(graph)["conv1"]
        assert float(converted.spike_value.mean()) == pytest.approx(0.5, rel=1e-3)
        with pytest.raises(PipelineError, match="quantize-weights needs no-batch-norm"):
            Pipeline(rest.passes)

    def test_it_can_go_on_from_a_graph(self, graph: Graph) -> None:
        assert not Pipeline((FoldBatchNorm(),)).run(graph).nodes(nn.BatchNorm2d)

    def test_a_copy_that_nothing_changed_is_what_the_next_pass_edits(self, graph: Graph) -> None:
        text, given = graph.text(), list[Graph]()
        passes = Pipeline((Look(given), LookAgain(given), FoldBatchNorm(), LookAtLast(given)))
        after = passes.run(graph)
        first, second, last = given
        assert first is second is not graph
        assert last is after is not first
        assert not after.nodes(nn.BatchNorm2d)
        assert graph.text() == text

    @pytest.mark.parametrize("passes", [(Look([]), Note(), FoldBatchNorm()), (Canonicalize(), Note(), LookAtLast([]))])
    def test_run_gives_what_the_last_step_does(self, graph: Graph, passes: tuple[Pass, ...]) -> None:
        *_, last = Pipeline(passes).steps(graph)
        after = Pipeline(passes).run(graph)
        assert after.text() == last.after.text()
        assert after.module.meta["noted"]
        assert "noted" not in graph.module.meta

    def test_a_step_says_whether_it_changed_anything(self, graph: Graph) -> None:
        steps = Pipeline((Look([]), FoldBatchNorm(), Note())).steps(graph)
        assert [step.idle for step in steps] == [True, False, False]

    def test_who_looks_at_each_step_gets_a_graph_of_its_own(self, graph: Graph) -> None:
        given: list[Graph] = []
        list(Pipeline((Look(given), LookAgain(given))).steps(graph))
        assert given[0] is not given[1]

    def test_it_reads_top_to_bottom(self) -> None:
        assert str(Pipeline((Canonicalize(), ScaleBias(2.0)))) == "Canonicalize()\nScaleBias(factor=2.0)"


class ShiftTheSmall(Pass):
    """Adds to the small one of two outputs; `preserves` is a lie unless it adds nothing."""

    by: float = 0.0
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        output, program = graph.output(), graph.module.graph
        returned: Any = output.args[0]
        with program.inserting_before(output):
            shifted = program.call_function(torch.add, (returned["small"][0], self.by))
        output.args = ({**returned, "small": (shifted, None)},)


def test_each_of_several_outputs_is_held_against_its_own_size() -> None:
    class Heads(Small):
        def forward(self, x: torch.Tensor) -> Any:
            logits = super().forward(x)
            return {"large": logits * 1e9, "small": (logits, None)}

    graph = fxsnn.capture(seeded(Heads))
    assert ShiftTheSmall()(graph, images()).moved == 0
    with pytest.raises(GraphError, match="its outputs moved by"):
        ShiftTheSmall(1e-3)(graph, images())
    assert ShiftTheSmall(1e-3)(graph).drift(images()) == pytest.approx(1e-3, rel=1e-3)


def test_a_network_that_makes_numbers_of_its_own_type_is_compared_in_that() -> None:
    """A state of zeros, with which a recurrent layer begins, is no double."""

    class Recurrent(Small):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(5, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.gru(super().forward(x)[None], torch.zeros(1, x.size(0), 3))[0][0]

    graph = fxsnn.capture(seeded(Recurrent), images())
    step = Canonicalize()(graph, images())
    assert step.moved is not None
    assert step.moved < 1e-6

    class Wrong(ScaleBias):
        preserves = True

    with pytest.raises(GraphError, match=r"in its own precision; allowed is 0\.0001"):
        Wrong(2.0)(step.after, images())
