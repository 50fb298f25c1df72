"""Capturing never touches the user's model; graphs are read, edited, checked and printed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import fxsnn
from fxsnn.errors import GraphError, ModelError
from tests.nets import CONVERTIBLE, OneRelu, Small, images, seeded


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_graph_computes_what_the_model_computes(name: str) -> None:
    model = seeded(CONVERTIBLE[name])
    with torch.no_grad():
        torch.testing.assert_close(fxsnn.capture(model)(images()), model(images()), rtol=0, atol=0)


class TestTheUsersModel:
    """Whatever happens to it, it stays as it was."""

    def test_training_mode_weights_and_device_stay(self) -> None:
        model = seeded(Small).train()
        before = copy.deepcopy(model.state_dict())
        fxsnn.capture(model)
        assert model.training
        assert all(module.training for module in model.modules())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_hooks_stay_and_do_not_fire(self) -> None:
        fired: list[str] = []
        model = seeded(Small)
        handle = model.conv1.register_forward_hook(lambda *_: fired.append("hook"))
        graph = fxsnn.capture(model)
        graph(images())
        assert fired == []
        model(images())
        assert fired == ["hook"]
        assert handle.id in model.conv1._forward_hooks

    def test_no_tensor_is_shared_with_the_graph(self) -> None:
        model = seeded(Small)
        ours = {t.data_ptr() for t in fxsnn.capture(model).module.parameters()}
        assert ours.isdisjoint(t.data_ptr() for t in model.parameters())

    def test_gradients_and_random_numbers_stay(self) -> None:
        model = seeded(Small)
        model(images()).sum().backward()
        before, state = model.conv1.weight.grad, torch.get_rng_state()
        fxsnn.capture(model)
        assert model.conv1.weight.grad is before
        assert torch.equal(torch.get_rng_state(), state)


class TestWhatCannotBeCaptured:
    """One finding with the place in the user's code and the remedy."""

    def test_branches_on_values(self) -> None:
        class Branching(Small):
            def forward(self, x: Tensor) -> Any:
                if x.sum() > 0:
                    return super().forward(x)
                return x

        with pytest.raises(ModelError, match=r"Branching \(test_graph\.py:\d+\): torch\.fx cannot trace .*branches"):
            fxsnn.capture(Branching())

    def test_something_else_than_a_module(self) -> None:
        with pytest.raises(ModelError, match=r"it is of type function, not a torch\.nn\.Module"):
            fxsnn.capture(lambda x: x)  # type: ignore[arg-type]

    def test_weights_that_are_computed_at_every_call(self) -> None:
        class Half(nn.Module):
            def forward(self, weight: Tensor) -> Tensor:
                return weight / 2

        model = Small()
        parametrize.register_parametrization(model.conv1, "weight", Half())
        prune.l1_unstructured(model.conv2, "weight", 0.5)
        with pytest.raises(ModelError) as caught:
            fxsnn.capture(model)
        assert [finding.layer for finding in caught.value.findings] == ["conv1", "conv2"]

    def test_lazy_layers_without_weights(self) -> None:
        with pytest.raises(ModelError, match="lazy and has no weights yet"):
            fxsnn.capture(nn.Sequential(nn.LazyConv2d(3, 3), nn.ReLU()))


def test_inputs_with_a_default_are_left_out() -> None:
    class Optional(Small):
        def forward(
            self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0, *, double: bool = False, word: str = "no"
        ) -> Any:
            logits = super().forward(x if mask is None else x * mask) * scale
            return 2 * logits if double else logits

    model = seeded(Optional)
    assert [node.name for node in fxsnn.capture(model) if node.op == "placeholder"] == ["x"]
    assert torch.equal(fxsnn.capture(model)(images()), model(images()))


def test_a_wrapper_is_taken_off() -> None:
    model = seeded(Small)
    assert "conv1" in fxsnn.capture(nn.DataParallel(model))


def test_nodes_know_their_name_and_their_line_in_the_users_code() -> None:
    graph = fxsnn.capture(seeded(OneRelu))
    first = graph.nodes(nn.Conv2d)[0]
    assert graph.name(first) == "block.conv"
    assert graph.source(first).startswith("nets.py:")


def test_body_and_tail_part_before_the_final_layer() -> None:
    graph = fxsnn.capture(seeded(OneRelu))
    assert [graph.name(node) for node in graph.tail()] == ["pool", "flatten", "dropout", "fc", "softmax"]
    assert graph.name(graph.body()[-1]) == "relu"


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_images_of_a_fitting_size_are_found(name: str) -> None:
    graph = fxsnn.capture(seeded(CONVERTIBLE[name]))
    found = graph.example_input()
    assert found is not None
    graph(found)


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
