"""Which state of a training remains, on what it was judged, and that it is said."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import AccuracyWarning
from fxsnn.passes import (
    SubstituteSpikes,
)
from fxsnn.training import Epoch
from tests.sharing import cases
from tests.tuning import DATA, GRAPH, IMAGES, LABELS, V1, finetune, layers, right, tuned

pytestmark = pytest.mark.filterwarnings("ignore:fine-tuning kept the network that it began with")


def test_the_best_epoch_on_the_validation_data_remains() -> None:
    history: list[Epoch] = []
    whole = finetune(epochs=6, lr=0.3, validation=(IMAGES[::3], LABELS[::3]), on_epoch=history.append)(GRAPH).after
    accuracies = [epoch.validation for epoch in history if epoch.validation is not None]
    assert len(accuracies) == 6
    assert [epoch.number for epoch in history] == [1, 2, 3, 4, 5, 6]
    network = fxsnn.SpikingNetwork(SubstituteSpikes(V1, 8)(whole).after, V1)
    with torch.no_grad():
        share = float((network(IMAGES[::3]).argmax(1) == LABELS[::3]).float().mean())
    assert share >= max(accuracies)
    start = fxsnn.SpikingNetwork(SubstituteSpikes(V1, 8)(GRAPH).after, V1)
    with torch.no_grad():
        first = float((start(IMAGES[::3]).argmax(1) == LABELS[::3]).float().mean())
    assert share == pytest.approx(max([first, *accuracies]))


def test_a_share_of_the_images_can_be_held_out() -> None:
    history: list[Epoch] = []
    finetune(epochs=2, validation=0.25, on_epoch=history.append)(GRAPH)
    assert all(epoch.validation is not None for epoch in history)


def test_without_progress_it_stops_early() -> None:
    history: list[Epoch] = []
    finetune(epochs=30, lr=1e-9, validation=0.25, patience=2, on_epoch=history.append)(GRAPH)
    assert len(history) == 2


@pytest.mark.parametrize(("validation", "judged"), [(None, "training"), (DATA, "validation")])
def test_a_training_that_makes_it_worse_returns_the_start_and_says_so(
    validation: Any, judged: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = (
        rf"fine-tuning kept the network that it began with: {judged} images that its spikes classify right, \d\d\.\d\d%"
    )
    start = tuned(epochs=8, lr=0.2)  # from which a large learning rate leads only downhill
    caplog.set_level("INFO", "fxsnn.training.loop")
    with pytest.warns(AccuracyWarning, match=f"{said}.*A smaller lr, or more epochs"):
        after = finetune(epochs=2, lr=1.0, gradient_norm=None, validation=validation)(start).after
    assert right(after) == right(start)
    for one, two in zip(layers(after), layers(start), strict=True):
        assert torch.equal(one.codes(), two.codes())
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "fine-tuning, epoch 1",
        "fine-tuning, epoch 2",
        "fine-tuning kept the network that it began with",
    ]


@cases("options", [{"validation": DATA}, {"spiking_epochs": 1}, {}, {"distillation": 1.0}], quick=2)
def test_it_says_which_epoch_it_kept(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fxsnn.training.loop")
    finetune(epochs=4, lr=0.2, **options)(GRAPH)
    *epochs, last = [record.getMessage() for record in caplog.records]
    judged = "validation" if "validation" in options else "training"
    assert re.fullmatch(
        rf"fine-tuning kept epoch \d of {len(epochs)}: {judged} images that its spikes classify right, \d+\.\d\d%; "
        r"at the start \d+\.\d\d%",
        last,
    )
    if options != {"distillation": 1.0}:
        assert re.match(r"fine-tuning, epoch 1: loss \d\.\d{4}, accuracy \d+\.\d\d%", epochs[0])
    assert ("with spikes" in epochs[-1]) == ("spiking_epochs" in options)
    assert re.search(r", \d+\.\d s$", epochs[-1])


def test_data_that_can_be_gone_through_only_once_are_not_judged_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fxsnn.training.loop")
    finetune(iter([DATA]), epochs=1)(GRAPH)
    assert caplog.messages[-1] == (
        "fine-tuning kept epoch 1 of 1, unjudged: the data can be gone through only once; validation= judges it"
    )


def test_to_judge_on_training_images_does_not_move_a_generator_of_the_loaders_own() -> None:
    found = []
    for validation in (None, DATA):
        own = torch.Generator().manual_seed(3)
        loader = DataLoader(TensorDataset(*DATA), 32, shuffle=True, generator=own)
        history: list[Epoch] = []
        finetune(loader, epochs=1, validation=validation, on_epoch=history.append)(GRAPH)
        found.append((history[0].loss, own.get_state().tolist()))
    assert found[0] == found[1]
