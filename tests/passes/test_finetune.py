"""Fine-tuning trains the low-bit layers and nothing else, the same way at every run."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.errors import DataError, FileError, OptionError, PipelineError, TrainingError
from fxsnn.finetune import Epoch, held_out
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU, LowBit
from fxsnn.passes import CalibrateThresholds, Canonicalize, Finetune, FoldBatchNorm, QuantizeWeights, SubstituteSpikes
from fxsnn.stages import Pipeline
from tests.nets import Small, images, seeded

LABELS = torch.arange(96) % 5
IMAGES = images(96) / 2 + (LABELS - 2).view(-1, 1, 1, 1)  # the class is the brightness
DATA = (IMAGES, LABELS)


def quantised(model: nn.Module | None = None, bits: int = 2) -> Graph:
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(bits))
    return Pipeline(passes).run(model or seeded(Small))


GRAPH = quantised()
V1 = fxsnn.get_target("hw_v1.0")


def finetune(data: Any = DATA, **options: Any) -> Finetune:
    return Finetune(data, **{"epochs": 3, "lr": 0.02, "batch_size": 32, "timesteps": 8, "target": V1, **options})


def loss(graph: Graph) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(graph(IMAGES), LABELS))


def test_the_loss_falls() -> None:
    assert loss(finetune(epochs=8, lr=0.2)(GRAPH).after) < 0.95 * loss(GRAPH)


def test_the_tail_is_not_trained() -> None:
    after = finetune()(GRAPH).after
    assert after["fc"].weight is GRAPH["fc"].weight


def test_the_graph_before_stays_bit_for_bit() -> None:
    text = GRAPH.text()
    after = finetune()(GRAPH).after
    assert GRAPH.text() == text
    assert not torch.equal(after["conv1"].weight, GRAPH["conv1"].weight)  # type: ignore[arg-type]


def test_activations_and_pooled_ones_have_the_levels_of_t_steps() -> None:
    graph = finetune(timesteps=4)(GRAPH).after
    clipped = graph.nodes(ClippedReLU)
    assert len(clipped) == 4  # three ReLUs and one pooling layer
    assert all(graph[node].levels == 4 for node in clipped)


def test_weights_stay_on_their_grid() -> None:
    graph = finetune()(GRAPH).after
    for node in graph.nodes(LowBit):
        layer: Any = graph[node]
        assert int(layer.codes().abs().max()) == 1


def test_one_seed_gives_one_network_and_leaves_the_users_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second = finetune(seed=7)(GRAPH).after.text(), finetune(seed=7)(GRAPH).after.text()
    assert first == second
    assert finetune(seed=8)(GRAPH).after.text() != first
    assert torch.equal(torch.get_rng_state(), state)


def test_the_learning_rate_falls_to_a_tenth_at_half_and_at_three_quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    finetune(epochs=4, batch_size=96, lr=0.1, schedule="step")(GRAPH)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_networks_that_return_probabilities_are_trained_on_them(last: nn.Module) -> None:
    model = nn.Sequential(seeded(Small), last)
    graph = quantised(model)
    after = finetune(epochs=8, lr=0.2)(graph).after

    def likelihood(network: Graph) -> float:
        with torch.no_grad():
            outputs = network(IMAGES)
        probabilities = outputs.exp() if isinstance(last, nn.LogSoftmax) else outputs
        return float(probabilities.gather(1, LABELS[:, None]).log().mean())

    assert likelihood(after) > likelihood(graph) + 0.1


def test_data_may_be_a_loader() -> None:
    loader = DataLoader(TensorDataset(*DATA), 32, shuffle=True)
    assert finetune(loader, seed=3)(GRAPH).after.text() == finetune(DATA, seed=3)(GRAPH).after.text()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES, LABELS[:5]), "96 images and 5 labels"),
        (IMAGES, "fine-tuning data is a Tensor"),
        (3, "fine-tuning data is a int"),
        ([], "fine-tuning data is empty"),
        (iter([(IMAGES, LABELS)]), "epoch 2 of fine-tuning had no batches"),
        ([IMAGES], r"must be \(images, labels\)"),
        ([(IMAGES, LABELS.float())], "labels are torch.float32"),
        ([(IMAGES[:, :2], LABELS)], "that is 2 channels"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        finetune(data)(GRAPH)


def test_a_loss_that_is_not_finite_stops_it() -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf).*use a smaller lr"):
        finetune(lr=1e20, epochs=20)(GRAPH)


@pytest.mark.parametrize(
    "options", [{"epochs": 1.5}, {"lr": 0}, {"momentum": 1}, {"weight_decay": -1}, {"batch_size": 0}]
)
def test_options_that_are_not_allowed_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        finetune(**options)


def test_it_needs_to_know_the_timesteps() -> None:
    with pytest.raises(PipelineError, match="needs timesteps"):
        dataclasses.replace(finetune(), timesteps=None)(GRAPH)


def test_a_conversion_gives_it_the_timesteps_and_leaves_the_model(convert: Any) -> None:
    model = seeded(Small)
    before = copy.deepcopy(model.state_dict())
    snn = convert(model, timesteps=8, calibration_data=IMAGES, finetune=finetune(timesteps=None))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(snn.get_submodule("fc").weight, model.fc.weight)
    plain = convert(model, timesteps=8, calibration_data=IMAGES)

    def loss_of(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(network(IMAGES), LABELS)

    assert loss_of(snn) < loss_of(plain)


def weights(graph: Graph) -> list[Tensor]:
    return [layer.weight for layer in layers(graph)]


def layers(graph: Graph) -> list[Any]:
    return [graph[node] for node in graph.nodes(LowBit)]


def test_weight_steps_and_thresholds_are_learned() -> None:
    after = finetune(lr=0.1)(GRAPH).after
    assert all(not torch.equal(one.step, two.step) for one, two in zip(layers(after), layers(GRAPH), strict=True))
    learned, before = ([graph[node].threshold for node in graph.nodes(ClippedReLU)] for graph in (after, GRAPH))
    assert learned[0] != before[0]
    assert all(not layer.step.requires_grad for layer in layers(after))


@pytest.mark.parametrize(
    "options",
    [
        {"spiking_epochs": 4, "epochs": 0, "lr": 0.1},
        {"optimiser": "adamw", "lr": 0.01},
        {"precision": "bfloat16", "lr": 0.1},
        {"distillation": 0.5, "lr": 0.1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_loss_of_the_spiking_network_falls(options: dict[str, Any], convert: Any) -> None:
    given = {"timesteps": 8, "calibration_data": IMAGES}
    model = seeded(Small)

    def loss_of(**more: Any) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(convert(model, **given, **more)(IMAGES), LABELS))

    assert loss_of(finetune=finetune(**{"epochs": 4, **options})) < 0.98 * loss_of()


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


def test_another_teacher_can_be_given_and_stays_as_it_is() -> None:
    teacher = seeded(Small, 5).train()
    other = finetune(distillation=1, teacher=teacher)(GRAPH).after
    assert other.text() != finetune(distillation=1)(GRAPH).after.text()
    assert teacher.training


def test_with_corrected_biases_the_network_itself_is_the_teacher(convert: Any) -> None:
    model = seeded(Small)
    given = {"timesteps": 8, "calibration_data": IMAGES, "correction": "biases"}
    tuned = finetune(distillation=1, epochs=1)
    default, explicit = (
        convert(model, **given, finetune=dataclasses.replace(tuned, teacher=teacher)) for teacher in (None, model)
    )
    assert default.graph.text() == explicit.graph.text()


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
    kept, out = held_out(DATA, 0.25, seed=0)
    assert (len(kept[0]), len(out[0])) == (72, 24)
    together = torch.cat([kept[0], out[0]]).flatten(1).sum(1).sort()[0]
    assert torch.equal(together, IMAGES.flatten(1).sum(1).sort()[0])


def test_without_progress_it_stops_early() -> None:
    history: list[Epoch] = []
    finetune(epochs=30, lr=1e-9, validation=0.25, patience=2, on_epoch=history.append)(GRAPH)
    assert len(history) == 2


def test_what_is_wrong_with_the_data_shows_before_training(tmp_path: Path) -> None:
    def refuse(_: Epoch) -> None:
        raise AssertionError("it trained")

    for validation, message in (((IMAGES[:, :2], LABELS), "that is 2 channels"), ([], "validation data is empty")):
        with pytest.raises(DataError, match=message):
            finetune(validation=validation, on_epoch=refuse)(GRAPH)
    with pytest.raises(FileError, match="there is no folder"):
        finetune(checkpoint=tmp_path / "nowhere" / "run.safetensors", on_epoch=refuse)(GRAPH)
    with pytest.raises(DataError, match="labels go from 5 to 9; the network has 5 classes, 0 to 4"):
        finetune((IMAGES, LABELS + 5), on_epoch=refuse)(GRAPH)


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize(
    "options", [{}, {"optimiser": "adamw", "validation": 0.25}, {"spiking_epochs": 2, "epochs": 2}]
)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path, options: dict[str, Any], at: int) -> None:
    path = tmp_path / "run.safetensors"

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == at:
            raise InterruptionError

    given = {"epochs": 4, "lr": 0.05, **options}
    with pytest.raises(InterruptionError):
        finetune(**given, checkpoint=path, on_epoch=interrupt)(GRAPH)
    numbers: list[int] = []
    resumed = finetune(**given, checkpoint=path, on_epoch=lambda epoch: numbers.append(epoch.number))(GRAPH).after
    assert numbers == list(range(at + 1, 5))
    assert resumed.text() == finetune(**given)(GRAPH).after.text()


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first = finetune(checkpoint=path)(GRAPH).after

    def refuse(_: Epoch) -> None:
        raise AssertionError("it trained again")

    assert finetune(checkpoint=path, on_epoch=refuse)(GRAPH).after.text() == first.text()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    finetune(checkpoint=path)(GRAPH)
    with pytest.raises(FileError, match=r"belongs to fine-tuning with other options.*delete it"):
        finetune(checkpoint=path, lr=0.03)(GRAPH)
    with pytest.raises(FileError, match="belongs to fine-tuning with other options"):
        finetune(checkpoint=path, timesteps=4)(GRAPH)
    path.write_bytes(b"no such file")
    with pytest.raises(FileError, match="cannot be read"):
        finetune(checkpoint=path)(GRAPH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs and spiking_epochs are both 0"),
        ({"spiking_epochs": -1}, "spiking_epochs is -1"),
        ({"optimiser": "adam"}, "optimiser is 'adam'; allowed are 'sgd' and 'adamw'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"distillation": 1.5}, "distillation is 1.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"spiking_lr": -1}, "spiking_lr is -1"),
        ({"patience": 0, "validation": 0.1}, "patience is 0"),
        ({"patience": 2}, "patience needs validation"),
    ],
)
def test_the_message_names_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune(**options)


@pytest.mark.parametrize(
    ("data", "validation", "message"),
    [
        (DATA, 1.5, "validation is 1.5; allowed are shares between 0 and 1"),
        ([DATA], 0.5, "data that come in batches cannot be split"),
    ],
)
def test_what_cannot_be_held_out_is_refused(data: Any, validation: float, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune(data, validation=validation)(GRAPH)


def test_it_needs_to_know_the_target() -> None:
    with pytest.raises(PipelineError, match="needs a target"):
        dataclasses.replace(finetune(), target=None)(GRAPH)


def test_it_can_be_run_again_on_its_own_result() -> None:
    twice = finetune()(finetune()(GRAPH).after).after
    assert len(twice.nodes(ClippedReLU)) == 4
