"""What outputs and labels mean together, and that nothing is called an accuracy that is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fxsnn.data import gives_probabilities, reading_of, reading_without_labels, require_outputs
from fxsnn.data.reading import Meaning, Reading
from fxsnn.errors import AccuracyWarning, DataError
from fxsnn.insight import accuracy

TYPES = (torch.uint8, torch.int32, torch.int64, torch.bool, torch.float32, torch.float64)
SIZES = st.integers(1, 20)


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def numbers(draw: Any, *shape: int, low: float = -3, high: float = 3) -> Tensor:
    return torch.empty(*shape).uniform_(low, high, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))


def measured(outputs: Tensor, labels: Any, network: Callable[[Tensor], Tensor] | None = None) -> float:
    """The accuracy of a network that gives these outputs, in two batches."""
    images, half = torch.arange(float(len(outputs))), (len(outputs) + 1) // 2
    batches = [(images[:half], labels[:half]), (images[half:], labels[half:])]
    return accuracy(network or (lambda x: outputs[x.long()]), batches)


@given(st.data())
def test_of_one_logit_the_sign_decides_whatever_the_type_of_the_labels(data: st.DataObject) -> None:
    count = data.draw(SIZES)
    logits = numbers(data.draw, count, low=data.draw(st.sampled_from([-1.0, 0.0, -0.4])), high=0.9)
    wanted = numbers(data.draw, count) > 0
    labels = wanted.to(data.draw(st.sampled_from(TYPES)))
    share = 100 * float(((logits > 0) == wanted).double().mean())
    for outputs in (logits, logits[:, None], logits[:, None, None, None]):
        for one in (labels, labels[:, None]):
            assert measured(outputs, one) == pytest.approx(share)
    assert measured(logits, labels.tolist()) == pytest.approx(share)
    assert measured(logits, labels.numpy()) == pytest.approx(share)


@given(st.data())
def test_behind_a_sigmoid_one_half_decides(data: st.DataObject) -> None:
    count = data.draw(SIZES)
    logits, wanted = numbers(data.draw, count, 1), numbers(data.draw, count) > 0
    share = 100 * float(((logits[:, 0] > 0) == wanted).double().mean())
    assert measured(logits, wanted, lambda x: torch.sigmoid(logits[x.long()])) == pytest.approx(share)
    assert measured(logits, wanted, lambda x: logits[x.long()].sigmoid().squeeze(1).double()) == pytest.approx(share)


@given(st.data())
def test_of_classes_the_largest_output_decides(data: st.DataObject) -> None:
    count, classes = data.draw(SIZES), data.draw(st.integers(2, 5))
    outputs, wanted = numbers(data.draw, count, classes), numbers(data.draw, count, low=0, high=classes).long()
    share = 100 * float((outputs.argmax(1) == wanted).double().mean())
    for one in (wanted, wanted[:, None], wanted.to(torch.uint8)):
        assert measured(outputs, one) == pytest.approx(share)
        assert measured(outputs[:, :, None, None], one) == pytest.approx(share)


@given(st.data())
def test_values_have_no_accuracy(data: st.DataObject) -> None:
    count, width = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 4))
    outputs, labels = numbers(data.draw, count, width), numbers(data.draw, count, width, low=-9, high=9)
    with pytest.raises(DataError, match=r"they are values, not classes, which have no accuracy\. Measure a distance"):
        measured(outputs, labels)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (torch.zeros(4, 1), torch.tensor([-1, 1, 1, -1]), r"from -1 to 1, .* one output: .* give \(labels > 0\)"),
        (torch.zeros(4), torch.tensor([-1.0, 1, 1, -1]), r"give \(labels > 0\) instead of -1 and 1"),
        (torch.zeros(4, 1), torch.tensor([3, 1, 0, 7]), r"from 0 to 7, .* give labels.float\(\) if they are values"),
        (torch.zeros(4, 1), torch.zeros(4, 2), r"labels are torch.float32 \[4, 2\]; expected 0 and 1 \[4\], or floats"),
        (torch.zeros(4, 3), torch.zeros(4), r"expected a tensor of integers \[4\] for classes, or floats \[4, 3\]"),
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool), "labels are torch.bool"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "labels go from 0 to 3; the network has 3 classes, 0 to 2"),
        (torch.zeros(4, 3), torch.tensor([0, -1, 2, 2]), "labels go from -1 to 2; the network has 3 classes"),
        (
            torch.zeros(4, 3),
            torch.eye(4, 3),
            r"shares of classes; .* integer, labels.argmax\(1\), else tell .*loss=",
        ),
        (torch.zeros(4, 3), torch.full((4, 3), 1 / 3), "shares of classes"),
        (torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64), "about many places; tell fine-tuning .* loss="),
        (torch.zeros(4, 3, 2, 2), torch.zeros(4, 2, 2, dtype=torch.int64), r"or floats \[4, 3, 2, 2\] for values"),
    ],
)
def test_what_means_nothing_for_sure_is_refused(outputs: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        reading_of(outputs, labels, lambda: False, None)


def test_it_means_the_same_in_all_batches() -> None:
    outputs, marks, values = torch.zeros(2, 1), torch.tensor([0.0, 1.0]), torch.tensor([0.25, 7.0])
    binary, regression = (reading_of(outputs, labels, lambda: False, None) for labels in (marks, values))
    assert (binary.meaning, regression.meaning) == (Meaning.BINARY, Meaning.VALUES)
    assert reading_of(outputs, marks, lambda: False, regression) is regression  # zeros and ones are values, too
    with pytest.raises(DataError, match="those of an earlier batch were two classes by one output: give labels"):
        reading_of(outputs, values, lambda: False, binary)


@pytest.mark.parametrize(
    "outputs", [(torch.zeros(4, 2), torch.zeros(4)), {"a": torch.zeros(4, 2)}, None, torch.zeros(3)]
)
def test_several_outputs_are_refused_with_what_to_do(outputs: Any) -> None:
    with pytest.raises(DataError, match=r"network gives .*; expected a tensor \[4, 'classes'\] or \[4, 1\]: pick one"):
        require_outputs(outputs, torch.zeros(4), "the network", "pick one")
    with pytest.raises(DataError, match=r"a function that picks one, such as lambda images: network\(images\)\[0\]"):
        accuracy(lambda _: outputs, [(torch.zeros(4), torch.zeros(4, dtype=torch.int64))])


def test_without_labels_one_output_says_a_class_only_behind_a_sigmoid() -> None:
    assert reading_without_labels(torch.zeros(4, 1), lambda: True) == Reading(Meaning.BINARY, True)
    assert reading_without_labels(torch.zeros(4, 1), lambda: False) == Reading(Meaning.VALUES)
    assert reading_without_labels(torch.zeros(4, 3), lambda: False).meaning is Meaning.CLASSES
    assert reading_without_labels(torch.zeros(4, 3, 2, 2), lambda: False).meaning is Meaning.VALUES


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (nn.Sigmoid(), True),
        (nn.Sequential(nn.Sigmoid(), nn.Flatten(0)), True),
        (nn.Hardsigmoid(), True),
        (nn.Identity(), False),
        (nn.Sequential(nn.Sigmoid(), Call(lambda x: x - 0.5)), False),
        (nn.Tanh(), False),
    ],
    ids=str,
)
def test_probabilities_are_what_a_sigmoid_gives_last(last: nn.Module, expected: bool) -> None:
    assert gives_probabilities(nn.Sequential(nn.Linear(3, 1), last), torch.rand(5, 3)) == expected


PROBABILITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "by hand": lambda x: 1 / (1 + (-x).exp()),
    "tanh": lambda x: (x.tanh() + 1) / 2,
    "of the other class": lambda x: 1 - (-x).sigmoid(),
    "kept off the ends": lambda x: x.sigmoid().clamp(1e-6, 1 - 1e-6),
    "of two": lambda x: torch.cat([-x, x], 1).softmax(1)[:, 1],
    "clamped": lambda x: (x + 0.5).clamp(0, 1),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_lie_between_0_and_1_whatever_is_given(name: str) -> None:
    """However they are written."""
    images = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    layer = nn.Linear(3, 1)
    given = PROBABILITIES[name]
    assert gives_probabilities(lambda x: given(layer(x)), images)
    labels = (layer(images) > 0).long().squeeze(1)
    assert accuracy(lambda x: given(layer(x)), [(images, labels)]) == 100


def test_logits_that_happen_to_lie_between_0_and_1_are_logits() -> None:
    layer = nn.Linear(3, 1)
    assert not gives_probabilities(lambda x: 0.5 + layer(x) / 100, torch.rand(5, 3))


@pytest.mark.parametrize("last", [nn.LogSigmoid(), Call(lambda x: 100 * x.sigmoid()), nn.Softplus()], ids=str)
def test_one_output_that_has_one_sign_whatever_is_given_is_warned_of(last: nn.Module) -> None:
    with pytest.warns(AccuracyWarning, match="whatever images it is given, and its sign is to decide"):
        assert not gives_probabilities(nn.Sequential(nn.Linear(3, 1), last), torch.rand(5, 3))


def test_probabilities_are_known_in_parts_and_other_types() -> None:
    def in_parts(images: Tensor) -> Tensor:
        return torch.cat([part.sigmoid().to(torch.bfloat16) for part in images.split(2)])

    assert gives_probabilities(in_parts, torch.rand(5, 1))
    assert not gives_probabilities(lambda images: torch.cat([images[:2].sigmoid(), images[2:]]), torch.rand(5, 1))


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (torch.tensor([True, False, True]), "Give labels.long() if they are classes"),
        (torch.tensor([1.0, 0.0, 2.0]), "Give labels.long() if they are classes"),
        (torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]), "Give labels.argmax(1), the class of each image"),
        (torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 0]]), "Of several classes an image, tell fine-tuning"),
        (torch.tensor([0.5, 0.25, 2.0]), "or floats [2, 3] for values: the network gives torch.float32 [2, 3]"),
    ],
)
def test_labels_that_are_not_taken_say_what_they_may_be(labels: Tensor, advice: str) -> None:
    with pytest.raises(DataError, match=re.escape(advice)):
        measured(torch.randn(3, 3), labels)
