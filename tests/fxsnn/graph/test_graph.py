"""Capturing never touches the user's model; graphs are read, edited, checked and printed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.errors import GraphError
from fxsnn.insight import accuracy
from fxsnn.layers import Channels
from tests.nets import CONVERTIBLE, OneRelu, Small, images, seeded
from tests.sharing import cases


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_graph_computes_what_the_model_computes(name: str) -> None:
    model = seeded(CONVERTIBLE[name])
    with torch.no_grad():
        torch.testing.assert_close(fxsnn.capture(model)(images()), model(images()), rtol=0, atol=0)


def test_nodes_know_their_name_and_their_line_in_the_users_code() -> None:
    graph = fxsnn.capture(seeded(OneRelu))
    first = graph.nodes(nn.Conv2d)[0]
    assert graph.name(first) == "block.conv"
    assert graph.source(first).startswith("nets.py:")


def test_body_and_tail_part_before_the_final_layer() -> None:
    graph = fxsnn.capture(seeded(OneRelu))
    assert [graph.name(node) for node in graph.tail()] == ["pool", "flatten", "dropout", "fc", "softmax"]
    assert graph.name(graph.body()[-1]) == "relu"


class WideTail(Small):
    """A tensor of another type, which stands first among the parameters, scales the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((5,), 0.5, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


def test_the_type_of_images_is_that_of_the_layers_that_read_them() -> None:
    model = seeded(WideTail)
    graph = fxsnn.capture(model)
    assert graph.dtype == torch.float32
    assert graph.example_input() is not None
    assert graph(images()).dtype == torch.float64
    assert accuracy(model, [(images(), model(images()).argmax(1))]) == 100


@cases("correction", ["both", None], quick=1)
def test_a_network_with_outputs_of_another_type_can_be_converted(convert: Any, correction: str | None) -> None:
    model = seeded(WideTail)
    snn = convert(model, calibration_data=images(32), correction=correction)
    assert snn(images()).dtype == torch.float64
    plain = convert(seeded(Small), calibration_data=images(32), correction=correction)
    torch.testing.assert_close(snn(images()), plain(images()).double() * 0.5)


def test_a_module_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(KeyError, match=r"no module 'conv9' in this graph; there are: conv1, "):
        fxsnn.capture(Small())["conv9"]


class TestCopies:
    def test_share_tensors_but_not_modules(self) -> None:
        graph = fxsnn.capture(seeded(Small))
        other = graph.copy()
        assert other["conv1"] is not graph["conv1"]
        assert other["conv1"].weight is graph["conv1"].weight

    def test_an_edit_does_not_reach_the_original(self) -> None:
        graph = fxsnn.capture(seeded(Small))
        text, other = graph.text(), graph.copy()
        other.bypass(other.nodes(nn.ReLU)[0])
        other.tidy()
        assert graph.text() == text
        assert other.text() != text


class TestInvariants:
    def test_a_dangling_target_is_found(self) -> None:
        graph = fxsnn.capture(seeded(Small))
        graph.nodes(nn.ReLU)[0].target = "nowhere"
        with pytest.raises(GraphError, match="nowhere"):
            graph.check()

    def test_a_module_newly_called_twice_is_found(self) -> None:
        graph = fxsnn.capture(seeded(Small))
        other = graph.copy()
        first, second, *_ = other.nodes(nn.ReLU)
        second.target = first.target
        with pytest.raises(GraphError, match="relu1; one node, one module"):
            other.check(before=graph)


def test_the_text_shows_a_changed_weight_and_nothing_else() -> None:
    first, second = fxsnn.capture(seeded(Small)), fxsnn.capture(seeded(Small))
    assert first.text() == second.text()
    conv: Any = second["conv2"]
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] += 1e-6
    changed = [
        a.split()[0] for a, b in zip(first.text().splitlines(), second.text().splitlines(), strict=True) if a != b
    ]
    assert changed == ["conv2"]


def test_in_a_notebook_it_is_a_table() -> None:
    graph = fxsnn.capture(seeded(Small))
    shown = graph._repr_html_()
    assert shown.count("<tr>") == 1 + len(graph.rows())
    assert all(f"{cell}</th>" in shown for cell in ("name", "calls", "reads", "tensors"))


def test_modules_that_are_put_in_come_to_where_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[object] = []

    class Watched(nn.Identity):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            moved.extend(args)
            return self

    graph = fxsnn.capture(seeded(Small))
    monkeypatch.setattr(type(graph), "device", torch.device("cuda", 1))
    first = graph.nodes(nn.ReLU)[0]
    graph.insert_after(first, "watched", Watched())
    graph.replace(first, Watched())
    assert moved == [torch.device("cuda", 1)] * 2


def test_what_is_put_into_a_graph_without_values_keeps_its_own() -> None:
    graph = fxsnn.capture(seeded(Small).to("meta"))
    wiring = Channels(torch.tensor([0, 1]))
    graph.insert_after(graph.nodes(nn.ReLU)[0], "wiring", wiring)
    assert wiring.index.tolist() == [0, 1]
