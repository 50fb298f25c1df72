"""Distillation: what a teacher gives, whatever it is, and what cannot teach."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxsnn.errors import DataError, OptionError
from fxsnn.graph import Graph
from fxsnn.training import Epoch
from tests.nets import Small, seeded
from tests.sharing import cases
from tests.tuning import GRAPH, IMAGES, LABELS, finetune, quantised, tuned

pytestmark = pytest.mark.filterwarnings("ignore:fine-tuning kept the network that it began with")


def test_with_distillation_alone_labels_are_not_looked_at() -> None:
    """Unlabelled splits have labels of -1; others have more classes, or none that are integers."""
    given: dict[str, Any] = {"distillation": 1, "validation": 0.25, "epochs": 1}
    plain = finetune(IMAGES, **given)(GRAPH).after.text()
    for labels in (LABELS - 6, LABELS + 40, LABELS.float()):
        assert finetune((IMAGES, labels), **given)(GRAPH).after.text() == plain


@cases("precision, tolerance", [("float32", 1e-4), ("bfloat16", 0.05)], quick=1)
def test_a_teacher_may_give_logits_where_the_network_gives_probabilities(precision: str, tolerance: float) -> None:
    """In bfloat16 probabilities do not quite add up to 1."""
    graph = quantised(nn.Sequential(seeded(Small), nn.Softmax(1)))
    losses: list[list[float]] = []
    for teacher in (seeded(Small, 5), nn.Sequential(seeded(Small, 5), nn.Softmax(1)), seeded(Small, 5).double()):
        history: list[Epoch] = []
        given: dict[str, Any] = {"teacher": teacher, "precision": precision, "on_epoch": history.append}
        finetune(IMAGES, distillation=1, epochs=1, **given)(graph)
        losses.append([epoch.loss for epoch in history])
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    assert losses[2] == pytest.approx(losses[0], rel=tolerance)


def test_the_teacher_runs_in_mixed_precision_but_for_validation() -> None:
    class Watched(Small):
        def forward(self, images: Tensor) -> Tensor:
            mixed.append((len(images), torch.is_autocast_enabled("cpu")))
            return super().forward(images)

    mixed: list[tuple[int, bool]] = []
    options = {"teacher": seeded(Watched), "precision": "bfloat16", "batch_size": 32}
    finetune(IMAGES[:32], distillation=1, validation=[IMAGES[:7]], epochs=1, **options)(GRAPH)
    assert mixed == [(7, False), (32, True), (7, False)]


def test_a_teacher_with_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"the teacher gives outputs of shape \[32, 7\], the network \[32, 5\]"):
        finetune(distillation=1, teacher=nn.Sequential(seeded(Small), nn.Linear(5, 7)))(GRAPH)


def test_distillation_alone_needs_no_labels() -> None:
    teacher = seeded(Small)
    with torch.no_grad():
        wanted = teacher(IMAGES).softmax(1)

    def distance(graph: Graph) -> float:
        with torch.no_grad():
            return float(nn.functional.kl_div(graph(IMAGES).log_softmax(1), wanted, reduction="batchmean"))

    after = finetune(IMAGES, distillation=1, epochs=8, lr=0.1)(GRAPH).after
    assert distance(after) < 0.8 * distance(GRAPH)
    batches = [(part,) for part in IMAGES.split(32)]
    assert distance(finetune(batches, distillation=1.0, epochs=8, lr=0.1)(GRAPH).after) < 0.8 * distance(GRAPH)


def test_what_the_teacher_gives_is_judged_once() -> None:
    """A few logits can look like probabilities."""

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(5)[:1].expand(len(x), 5) if len(x) < 32 else seeded(Small)(x)

    history: list[Epoch] = []
    finetune(IMAGES[:33], distillation=1, teacher=Sure(), on_epoch=history.append, epochs=1)(GRAPH)
    assert history[0].loss < 5  # probabilities of 0 would lie far away from all that a network says


def test_a_teacher_may_keep_more_than_tensors(tmp_path: Path) -> None:
    class Noted(Small):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 3}

    path = tmp_path / "run.safetensors"
    finetune(distillation=0.5, teacher=seeded(Noted), checkpoint=path, epochs=1)(GRAPH)
    assert path.exists()


def _locked() -> nn.Module:
    teacher = seeded(Small)
    teacher.lock = threading.Lock()
    return teacher


class Demanding(Small):
    def forward(self, x: Tensor, more: Tensor) -> Tensor:  # type: ignore[override]  # as a user may write it
        return super().forward(x) + more


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (_locked(), r"teacher cannot be copied to cpu as torch.float32 \(TypeError: cannot pickle"),
        (seeded(Small).to("meta"), r"teacher cannot be copied .*NotImplementedError: Cannot copy out of meta"),
        (seeded(Demanding), r"the teacher fails on images alone \(TypeError: .*'more'"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(teacher: nn.Module, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune(distillation=0.5, teacher=teacher)(GRAPH)


def test_another_teacher_can_be_given_and_stays_as_it_is() -> None:
    teacher = seeded(Small, 5).train()
    other = finetune(distillation=1, epochs=1, teacher=teacher)(GRAPH).after
    assert other.text() != finetune(distillation=1, epochs=1)(GRAPH).after.text()
    assert teacher.training


def test_the_teacher_is_the_float_network_whatever_came_before(convert: Any) -> None:
    """Corrected biases, or an earlier training, are not what is to be learned from."""
    model = seeded(Small)
    given = {"timesteps": 8, "calibration_data": IMAGES, "correction": "biases"}
    distilled = finetune(distillation=1, epochs=1)
    losses: list[float] = []
    for teacher in (None, model):
        passes = dataclasses.replace(distilled, teacher=teacher, on_epoch=lambda epoch: losses.append(epoch.loss))
        convert(model, **given, finetune=passes)
        passes(tuned(epochs=2, lr=0.1))
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-4)
