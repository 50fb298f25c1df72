"""One logit, values, a loss of the user's: what is trained, what it is judged by, and what is said about it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError, FileError, OptionError
from fxsnn.graph import Graph
from fxsnn.passes import Finetune, SubstituteSpikes
from fxsnn.training import Epoch
from tests.nets import Ending, seeded
from tests.sharing import cases
from tests.tuning import IMAGES, LABELS, V1, finetune, quantised

pytestmark = pytest.mark.filterwarnings("ignore:fine-tuning kept the network that it began with")


@functools.cache
def graph_of(outputs: int, *last: nn.Module, seed: int = 0) -> Graph:
    return quantised(seeded(lambda: Ending(outputs, *last), seed))


LOGIT, PROBABILITY = graph_of(1), graph_of(1, nn.Sigmoid())
BRIGHT = LABELS >= 2
VALUES = IMAGES.mean((1, 2, 3)) * 3 + 0.5
TWO_VALUES = torch.stack([VALUES, -VALUES], 1)


def outputs_of(graph: Graph) -> Tensor:
    """What the spiking network of a graph says."""
    with torch.no_grad():
        return fxsnn.SpikingNetwork(SubstituteSpikes(V1, 8)(graph).after, V1)(IMAGES).squeeze(1)


def tuned(graph: Graph, labels: Any, **options: Any) -> tuple[Graph, list[Epoch]]:
    history: list[Epoch] = []
    after = finetune((IMAGES, labels), on_epoch=history.append, **{"epochs": 6, "lr": 0.1, **options})(graph).after
    return after, history


class TestOneLogit:
    @cases("graph", [LOGIT, PROBABILITY], quick=1, ids=["logit", "probability"])
    def test_it_learns_and_its_accuracy_is_that_of_the_sign(self, graph: Graph) -> None:
        border = 0.5 if graph is PROBABILITY else 0.0
        after, history = tuned(graph, BRIGHT, validation=(IMAGES, BRIGHT))
        right = float(((outputs_of(after) > border) == BRIGHT).double().mean())
        assert right == pytest.approx(max(epoch.validation or 0 for epoch in history))
        assert right > 0.9 > float(((outputs_of(graph) > border) == BRIGHT).double().mean())
        assert history[-1].loss < 0.5 * history[0].loss
        assert all(epoch.accuracy is not None and epoch.validation_loss is None for epoch in history)

    def test_the_type_and_shape_of_the_labels_do_not_matter(self) -> None:
        texts = {tuned(LOGIT, one, epochs=1)[0].text() for one in (BRIGHT, BRIGHT.long(), BRIGHT[:, None].float())}
        assert len(texts) == 1

    def test_the_loss_is_the_binary_cross_entropy(self) -> None:
        for graph, function in ((LOGIT, F.binary_cross_entropy_with_logits), (PROBABILITY, F.binary_cross_entropy)):
            own: Any = lambda outputs, labels, function=function: function(outputs, labels.float())  # noqa: E731
            chosen, given = (tuned(graph, BRIGHT[:, None], epochs=1, loss=loss)[1] for loss in (None, own))
            assert chosen[0].loss == pytest.approx(given[0].loss, rel=1e-5)
            assert (given[0].accuracy, given[0].validation) == (None, None)  # nobody knows what it means

    @cases("teacher", [None, seeded(lambda: Ending(1, nn.Sigmoid())), seeded(lambda: Ending(1))], quick=1)
    def test_a_teacher_teaches_its_softened_probability(self, teacher: nn.Module | None) -> None:
        """Hinton et al. 2015 of two classes, of which the logit of one is 0."""

        class Two(Ending):
            def forward(self, x: Tensor) -> Tensor:
                logit = super().forward(x)
                return torch.cat([torch.zeros_like(logit), logit], 1)

        two = quantised(seeded(lambda: Two(1)))
        options = {"distillation": 0.5, "temperature": 3.0, "epochs": 2}
        losses = [[epoch.loss for epoch in tuned(graph, BRIGHT.long(), **options)[1]] for graph in (two, LOGIT)]
        given = [epoch.loss for epoch in tuned(LOGIT, BRIGHT, teacher=teacher, **options)[1]]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        assert given == pytest.approx(losses[0], rel=1e-4)

    @cases("graph", [LOGIT, PROBABILITY], quick=1, ids=["logit", "probability"])
    def test_distillation_alone_comes_closer_to_the_teacher(self, graph: Graph) -> None:
        with torch.no_grad():
            wanted = seeded(lambda: Ending(1, *([nn.Sigmoid()] if graph is PROBABILITY else [])))(IMAGES).squeeze(1)
        history: list[Epoch] = []
        after = finetune(IMAGES, distillation=1, epochs=8, lr=0.1)(graph).after
        before, now = (float(F.mse_loss(outputs_of(one), wanted)) for one in (graph, after))
        assert now < 0.8 * before
        finetune(IMAGES, distillation=1, epochs=1, validation=0.25, on_epoch=history.append)(graph)
        assert (history[0].validation is None) == (graph is LOGIT)  # without labels a logit may be a value

    @pytest.mark.parametrize("labels", [BRIGHT.long() * 2 - 1, LABELS])
    def test_labels_that_are_not_0_and_1_are_refused(self, labels: Tensor) -> None:
        with pytest.raises(DataError, match=r"from -?\d to \d, and the network has one output: .* are 0 and 1; give"):
            tuned(LOGIT, labels)


class TestValues:
    @cases("graph, labels", [(graph_of(2), TWO_VALUES), (LOGIT, VALUES), (LOGIT, VALUES[:, None])], quick=1)
    def test_they_are_learned_by_squared_error_and_have_no_accuracy(
        self, graph: Graph, labels: Tensor, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "fxsnn.training.loop")
        after, history = tuned(graph, labels, validation=(IMAGES, labels))
        wanted = labels.squeeze(1) if labels.dim() == 2 else labels
        now, before = (float(F.mse_loss(outputs_of(one), wanted)) for one in (after, graph))
        assert now < 0.8 * before
        assert now == pytest.approx(min(epoch.validation_loss or 0 for epoch in history), rel=1e-4)
        assert all(epoch.accuracy is None and epoch.validation is None for epoch in history)
        assert not any("accuracy" in message or "%" in message for message in caplog.messages)
        assert re.fullmatch(
            r"fine-tuning kept epoch \d of 6: validation images, loss of its spikes \d+\.\d{4}; at the start \d+\.\d+",
            caplog.messages[-1],
        )
        assert re.match(r"fine-tuning, epoch 1: loss \d+\.\d{4}, validation loss \d+\.\d{4}, ", caplog.messages[0])

    @pytest.mark.parametrize("validation", [None, (IMAGES, VALUES)])
    def test_a_training_that_makes_them_worse_returns_the_start(self, validation: Any) -> None:
        start = tuned(LOGIT, VALUES)[0]
        with pytest.warns(fxsnn.AccuracyWarning, match=r"began with: \w+ images, loss of its spikes \d.*did no better"):
            after = tuned(start, VALUES, epochs=1, lr=2.0, gradient_norm=None, validation=validation)[0]
        assert torch.equal(outputs_of(after), outputs_of(start))

    def test_a_teacher_teaches_its_values(self) -> None:
        teacher = seeded(lambda: Ending(2), 3)
        with torch.no_grad():
            wanted = teacher(IMAGES)
        chosen = tuned(graph_of(2), TWO_VALUES, epochs=1, distillation=0.5, teacher=teacher, batch_size=96)[1]
        parts = [tuned(graph_of(2), one, epochs=1, batch_size=96)[1] for one in (TWO_VALUES, wanted)]
        assert chosen[0].loss == pytest.approx(sum(part[0].loss for part in parts) / 2, rel=1e-4)


def heads(outputs: Any, labels: Any) -> Tensor:
    return F.cross_entropy(outputs[:, :5], labels["class"]) + F.mse_loss(outputs[:, 5], labels["value"])


class TestALossOfTheUsers:
    GRAPH = graph_of(6)
    HEADS: ClassVar = {"class": LABELS, "value": VALUES}

    def test_labels_are_of_any_structure_and_the_smaller_loss_remains(self) -> None:
        after, history = tuned(self.GRAPH, self.HEADS, loss=heads, validation=0.25, spiking_epochs=1)
        now, before = (float(heads(outputs_of(one), self.HEADS)) for one in (after, self.GRAPH))
        assert now < 0.8 * before
        assert all(epoch.accuracy is None and epoch.validation is None for epoch in history)
        assert all(epoch.validation_loss is not None for epoch in history)

    def test_outputs_are_given_as_the_network_gives_them(self) -> None:
        def of_structure(outputs: Any, labels: Any) -> Tensor:
            return heads(outputs["all"][0], labels)

        graph = self.GRAPH.copy()
        (out,) = graph.output().args
        graph.output().args = ({"all": (out, None)},)
        graph.module.recompile()
        trained, plain = (
            tuned(one, self.HEADS, loss=loss, validation=0.25, spiking_epochs=1)
            for one, loss in ((graph, of_structure), (self.GRAPH, heads))
        )
        assert [epoch.loss for epoch in trained[1]] == [epoch.loss for epoch in plain[1]]
        with pytest.raises(DataError, match=r"the network gives a dict; .*: of others tell fine-tuning .* loss="):
            tuned(graph, LABELS)

    def test_batches_may_have_a_part_for_each_head(self) -> None:
        def of_parts(outputs: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
            return heads(outputs, {"class": labels[0], "value": labels[1]})

        batches = list(zip(IMAGES.split(32), LABELS.split(32), VALUES.split(32), strict=True))
        dicts = [(images, {"class": one, "value": other}) for images, one, other in batches]
        first = finetune(batches, loss=of_parts)(self.GRAPH).after
        assert first.text() == finetune(dicts, loss=heads)(self.GRAPH).after.text()

    def test_it_is_the_chosen_one_to_the_bit_where_it_is_the_same(self) -> None:
        texts = [tuned(graph_of(2), TWO_VALUES, epochs=2, loss=loss)[0].text() for loss in (None, F.mse_loss)]
        assert texts[0] == texts[1]

    def test_in_mixed_precision_it_is_given_float32(self) -> None:
        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            types.add(outputs.dtype)
            return F.mse_loss(outputs, labels)

        types: set[torch.dtype] = set()
        tuned(graph_of(2), TWO_VALUES, epochs=1, loss=loss, precision="bfloat16")
        assert types == {torch.float32}

    @pytest.mark.parametrize(
        ("loss", "name"),
        [
            (heads, "heads"),
            (functools.partial(F.huber_loss, delta=2.0), "huber_loss"),
            (nn.SmoothL1Loss(), "SmoothL1Loss()"),
            (lambda outputs, _: outputs.mean(), r"TestALossOfTheUsers.<lambda>"),
        ],
    )
    def test_it_goes_by_its_name(self, loss: Any, name: str, tmp_path: Path) -> None:
        assert f", loss={name})" in Finetune((IMAGES, LABELS), loss=loss).describe()
        assert ", loss=None)" in Finetune((IMAGES, LABELS)).describe()

    def test_a_checkpoint_knows_it_by_its_name_and_goes_on(self, tmp_path: Path) -> None:
        given = {"loss": F.mse_loss, "checkpoint": tmp_path / "run.safetensors", "epochs": 2}
        whole, history = tuned(graph_of(2), TWO_VALUES, validation=0.25, **given)
        again, none = tuned(graph_of(2), TWO_VALUES, validation=0.25, **given)
        assert (again.text(), len(history), none) == (whole.text(), 2, [])
        with pytest.raises(FileError, match="with other options"):
            tuned(graph_of(2), TWO_VALUES, validation=0.25, **{**given, "loss": F.l1_loss})

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (
                lambda outputs, labels: (outputs - labels).square(),
                r"gives \[32, 2\]; expected a tensor of one floating",
            ),
            (lambda outputs, labels: 3.0, r"gives a float; expected a tensor of one floating number, such as a mean"),
            (lambda outputs, labels: labels.mean(), "does not depend on the outputs; compute it from them"),
            (lambda outputs, labels: outputs.no_such, r"fails on outputs and labels \(AttributeError: "),
            (lambda outputs: outputs.mean(), r"fails on outputs and labels \(TypeError: "),
        ],
    )
    def test_what_is_no_loss_is_refused(self, loss: Any, message: str) -> None:
        with pytest.raises(OptionError, match=rf"loss TestALossOfTheUsers.<lambda> {message}"):
            finetune([(IMAGES[:32], TWO_VALUES[:32])], loss=loss)(graph_of(2))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"loss": "mse"}, "loss is 'mse'; allowed are functions of outputs and labels, such as torch.nn"),
            ({"loss": nn.MSELoss}, "loss is <class .*MSELoss'>; allowed are functions"),
            (
                {"loss": heads, "distillation": 0.5},
                "loss is heads and distillation 0.5: .* Leave loss or distillation out",
            ),
        ],
    )
    def test_options_that_are_not_allowed_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            finetune(**options)
