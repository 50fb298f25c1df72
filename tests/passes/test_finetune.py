"""Fine-tuning trains the low-bit layers and nothing else, the same way at every run."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import fxsnn
from fxsnn.errors import DataError, FileError, ModelError, OptionError, PipelineError, TrainingError
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU, LowBit
from fxsnn.passes import (
    CalibrateThresholds,
    Canonicalize,
    CorrectLayers,
    Finetune,
    FoldBatchNorm,
    QuantizeWeights,
    SubstituteSpikes,
)
from fxsnn.rewriting import Pipeline
from fxsnn.training import Epoch
from tests.nets import Small, seeded
from tests.tuning import DATA, GRAPH, IMAGES, LABELS, V1, finetune, layers, quantised, right, tuned

pytestmark = pytest.mark.filterwarnings("ignore:fine-tuning kept the network that it began with")


def loss(graph: Graph) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(graph(IMAGES), LABELS))


def test_the_loss_falls() -> None:
    assert loss(tuned(epochs=8, lr=0.2)) < 0.95 * loss(GRAPH)


def test_the_tail_is_not_trained() -> None:
    after = tuned()
    assert after["fc"].weight is GRAPH["fc"].weight


def test_the_graph_before_stays_bit_for_bit() -> None:
    text = GRAPH.text()
    flags = [parameter.requires_grad for parameter in GRAPH.module.parameters()]
    after = finetune(lr=0.2)(GRAPH).after
    assert GRAPH.text() == text
    assert [parameter.requires_grad for parameter in GRAPH.module.parameters()] == flags
    assert not torch.equal(after["conv1"].weight, GRAPH["conv1"].weight)  # type: ignore[arg-type]


def test_levels_stay_as_they_were_chosen_and_codes_are_such() -> None:
    before = quantised(codebook="free")
    after = finetune(lr=0.2)(before).after
    assert [layer.codebook for layer in layers(after)] == [layer.codebook for layer in layers(before)]
    for layer in layers(after):
        assert not layer.codebook.is_symmetric
        assert set(layer.codes().unique().tolist()) <= set(layer.codebook.levels)
    assert any(not torch.equal(a.codes(), b.codes()) for a, b in zip(layers(after), layers(before), strict=True))
    spiking = SubstituteSpikes(V1, 8)(after).after
    assert torch.equal(spiking["conv2"].codes, after["conv2"].codes())  # type: ignore[operator, arg-type]


def test_activations_and_pooled_ones_have_the_levels_of_t_steps() -> None:
    graph = finetune(timesteps=4)(GRAPH).after
    clipped = graph.nodes(ClippedReLU)
    assert len(clipped) == 4  # three ReLUs and one pooling layer
    assert all(graph[node].levels == 4 for node in clipped)


@pytest.mark.parametrize(
    "validation", [pytest.param(None, marks=pytest.mark.slow), 0.25, pytest.param(DATA, marks=pytest.mark.slow)]
)
def test_one_seed_gives_one_network_and_leaves_the_users_generator_alone(validation: Any) -> None:
    state = torch.get_rng_state()
    given = {"validation": validation, "lr": 0.2}
    first, second, other = (finetune(seed=seed, **given)(GRAPH).after.text() for seed in (7, 7, 8))
    assert first == second
    assert other != first
    assert torch.equal(torch.get_rng_state(), state)


def test_one_seed_gives_one_network_where_validation_draws_too() -> None:
    class Drawn:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            chosen = torch.randperm(len(IMAGES))[:20]
            yield IMAGES[chosen], LABELS[chosen]

    found = set()
    for state in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(state)
            history: list[Epoch] = []
            after = finetune(validation=Drawn(), on_epoch=history.append)(GRAPH).after
            found.add((after.text(), tuple(epoch.validation for epoch in history)))
    assert len(found) == 1


def test_mixed_precision_around_a_pass_does_not_reach_it() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        inside = finetune()(GRAPH).after.text()
    assert inside == tuned().text()


def test_what_is_written_about_it_has_no_address_in_memory() -> None:
    assert "on_epoch" not in finetune(on_epoch=print_nothing).describe()
    assert "lr=0.02" in finetune(on_epoch=print_nothing).describe()


def print_nothing(_: Epoch) -> None:
    """Called after each epoch."""


def test_the_learning_rate_falls_to_a_tenth_at_half_and_at_three_quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    finetune(epochs=4, batch_size=96, lr=0.1, schedule="step")(GRAPH)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def moved(**options: Any) -> float:
    """How far one step of plain gradient descent with a learning rate of 1 moves weights and biases together."""
    options = {"epochs": 1, "batch_size": 96, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, **options}
    after = finetune(iter([DATA]), **options)(GRAPH).after  # whatever it is worth
    changes = []
    for node in GRAPH.nodes(LowBit):
        for name in ("weight", "bias"):
            old, new = (getattr(graph[node], name) for graph in (GRAPH, after))
            changes.append((new - old).detach().flatten())
    return float(torch.cat(changes).norm())


def test_a_step_is_no_longer_than_the_gradient_may_be() -> None:
    assert moved(gradient_norm=None) > 1e-2
    assert moved(gradient_norm=1e-3) <= 1.0001e-3
    assert moved(gradient_norm=1e6) == moved(gradient_norm=None)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_networks_that_return_probabilities_are_trained_on_them(last: nn.Module) -> None:
    model = nn.Sequential(seeded(Small), last)
    graph = quantised(model)
    after = finetune(epochs=4, lr=0.2)(graph).after

    def likelihood(network: Graph) -> float:
        with torch.no_grad():
            outputs = network(IMAGES)
        probabilities = outputs.exp() if isinstance(last, nn.LogSoftmax) else outputs
        return float(probabilities.gather(1, LABELS[:, None]).log().mean())

    assert likelihood(after) > likelihood(graph) + 0.1


def test_probabilities_are_known_whatever_the_network_calls_to_make_them() -> None:
    class Wide(Small):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(super().forward(x), 1, dtype=torch.float64)

    losses = []
    for model in (seeded(Wide), nn.Sequential(seeded(Small), nn.Softmax(1))):
        history: list[Epoch] = []
        finetune(epochs=1, on_epoch=history.append)(quantised(model))
        losses.append(history[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class Extended(Small):
    """A network whose outputs are maps, [N, classes, places, 1]."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, None, None].repeat(1, 1, self.places, 1)


@pytest.mark.parametrize("validation", [None, DATA])
def test_outputs_that_say_nothing_about_classes_are_refused(validation: Any) -> None:
    message = (
        r"outputs are torch.float32 \[\d+, 5, 2, 1\], labels .*: they say something about many places; tell .*loss"
    )
    with pytest.raises(DataError, match=message):
        finetune(validation=validation)(quantised(seeded(lambda: Extended(2))))


def test_maps_of_one_place_are_classes() -> None:
    losses = []
    for model in (seeded(lambda: Extended(1)), seeded(Small)):
        history: list[Epoch] = []
        finetune(epochs=1, on_epoch=history.append)(quantised(model))
        losses.append([epoch.loss for epoch in history])
    assert losses[0] == losses[1]


def test_data_may_come_from_inference_mode() -> None:
    with torch.inference_mode():
        data = (IMAGES.clone(), LABELS.clone())
    assert finetune(list(zip(*(part.split(32) for part in data), strict=True)), epochs=1)(GRAPH).after is not GRAPH


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
        ([(IMAGES, LABELS > 2)], "labels are torch.bool"),
        ([(IMAGES[:, :2], LABELS)], "that is 2 channels"),
        ((IMAGES[:0], LABELS[:0]), "fine-tuning data is empty"),
        ([(IMAGES[:0], LABELS[:0])], "epoch 1 of fine-tuning had no batches"),
        ([(IMAGES[..., :5, :5], LABELS)], "the images are too small: they leave nothing behind conv2"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        finetune(data)(GRAPH)


def test_a_loss_that_is_not_finite_stops_it() -> None:
    teacher = seeded(Small)
    with torch.no_grad():
        teacher.fc.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 1, batch 1; use a smaller lr \(it is 0.02\)"):
        finetune(teacher=teacher, distillation=0.5)(GRAPH)


def test_a_value_that_leaves_its_register_stops_it() -> None:
    with pytest.raises(
        TrainingError, match=r"(?s)out of their registers: .*conv1 .*: its threshold is.*\. Use a smaller lr"
    ):
        finetune(lr=1e20, epochs=20)(GRAPH)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 1.5},
        {"lr": 0},
        {"lr": "0.1"},
        {"lr": float("inf")},
        {"momentum": 1},
        {"momentum": None},
        {"weight_decay": -1},
        {"batch_size": 0},
        {"seed": None},
        {"timesteps": 0},
        {"reset": "none"},
        {"teacher": "net"},
    ],
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
    snn = convert(model, timesteps=8, calibration_data=IMAGES, finetune=finetune(timesteps=None, epochs=20))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(snn.get_submodule("fc").weight, model.fc.weight)
    plain = convert(model, timesteps=8, calibration_data=IMAGES)

    def loss_of(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(network(IMAGES), LABELS)

    assert loss_of(snn) < loss_of(plain)


def weights(graph: Graph) -> list[Tensor]:
    return [layer.weight for layer in layers(graph)]


def test_weight_steps_and_thresholds_are_learned() -> None:
    after = finetune(lr=0.1)(GRAPH).after
    assert all(not torch.equal(one.step, two.step) for one, two in zip(layers(after), layers(GRAPH), strict=True))
    learned, before = ([graph[node].threshold for node in graph.nodes(ClippedReLU)] for graph in (after, GRAPH))
    assert learned[0] != before[0]
    assert all(not layer.step.requires_grad for layer in layers(after))


@pytest.mark.parametrize(
    "options",
    [
        {"spiking_epochs": 12, "epochs": 0, "lr": 0.1},
        pytest.param({"optimizer": "adamw", "lr": 0.01}, marks=pytest.mark.slow),
        pytest.param({"precision": "bfloat16", "lr": 0.1}, marks=pytest.mark.slow),
        pytest.param({"distillation": 0.5, "lr": 0.1}, marks=pytest.mark.slow),
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_loss_of_the_spiking_network_falls(options: dict[str, Any], convert: Any) -> None:
    given = {"timesteps": 8, "calibration_data": IMAGES}
    model = seeded(Small)

    def loss_of(**more: Any) -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(convert(model, **given, **more)(IMAGES), LABELS))

    assert loss_of(finetune=finetune(**{"epochs": 20, **options})) < 0.98 * loss_of()


@pytest.mark.parametrize(
    "option",
    [
        {"spiking_lr": 0.3},
        {"temperature": 4.0, "distillation": 1.0},
        pytest.param({"precision": "bfloat16"}, marks=pytest.mark.slow),
        {"reset": "zero"},
        pytest.param({"initial_membrane": 0.0}, marks=pytest.mark.slow),
        pytest.param({"momentum": 0.5}, marks=pytest.mark.slow),
        pytest.param({"weight_decay": 0.1}, marks=pytest.mark.slow),
        pytest.param({"lr": 0.01}, marks=pytest.mark.slow),
        {"schedule": "step"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_every_option_makes_a_difference(option: dict[str, Any]) -> None:
    given = {"epochs": 1, "spiking_epochs": 1, "distillation": option.get("distillation", 0.0)}
    assert finetune(**{**given, **option})(GRAPH).after.text() != tuned(**given).text()


def test_numbers_of_other_kinds_will_do(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 1, "seed": 3, "lr": 0.25, "validation": 0.25}
    other = {"epochs": np.int64(1), "seed": np.int64(3), "lr": np.float32(0.25), "validation": np.float64(0.25)}
    plain = tuned(**given).text()
    assert finetune(**other, checkpoint=tmp_path / "run.safetensors")(GRAPH).after.text() == plain


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_may_be_any_integers(dtype: torch.dtype) -> None:
    assert finetune((IMAGES, LABELS.to(dtype)))(GRAPH).after.text() == tuned().text()


class Stream(IterableDataset[Any]):
    """Data that do not know their length."""

    def __iter__(self) -> Any:
        return iter(zip(*DATA, strict=True))


def test_data_need_no_length() -> None:
    history: list[Epoch] = []
    loader = DataLoader(Stream(), 32)
    finetune(loader, validation=loader, epochs=2, schedule="step", lr=0.1, on_epoch=history.append)(GRAPH)
    assert [epoch.lr for epoch in history] == pytest.approx([0.1, 0.01])
    assert all(epoch.validation is not None for epoch in history)


def test_spiking_epochs_go_on_from_the_best_state_before() -> None:
    """An ordinary epoch that spoils everything is forgotten: at a rate of nearly 0 a spiking one stays at the start."""
    start = tuned(epochs=8, lr=0.2)
    history: list[Epoch] = []
    given = {"spiking_epochs": 1, "spiking_lr": 1e-9, "validation": DATA, "on_epoch": history.append}
    after = finetune(epochs=1, lr=1.0, **given)(start).after
    spoilt, spiking = (epoch.validation or 0 for epoch in history)
    assert spoilt < spiking
    for one, two in zip(weights(after), weights(start), strict=True):
        torch.testing.assert_close(one, two)


def test_adamw_has_a_learning_rate_of_its_own() -> None:
    assert loss(finetune(epochs=8, optimizer="adamw", lr=None)(GRAPH).after) < loss(GRAPH)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_with_adamw_the_learning_rate_of_steps_and_thresholds_is_a_share_of_them(optimizer: str) -> None:
    """Its first step is as long as the learning rate, whatever the gradient; one of SGD is as long as the gradient."""
    given = {"epochs": 1, "batch_size": 96, "weight_decay": 0.0, "momentum": 0.0}
    after = finetune(iter([DATA]), optimizer=optimizer, lr=1e-3, **given)(GRAPH).after  # whatever it is worth
    shares = []
    for old, new in zip(layers(GRAPH), layers(after), strict=True):
        shares.append(float((new.step - old.step).abs().max() / old.step.mean()))
    for node in GRAPH.nodes(ClippedReLU):
        clipped: list[Any] = [GRAPH[node], after[GRAPH.name(node)]]
        shares.append(abs(clipped[1].threshold / clipped[0].threshold - 1))
    assert len(shares) == 6
    assert all(share == pytest.approx(1e-3, rel=0.01) for share in shares) == (optimizer == "adamw")


def test_the_optimizer_may_be_given_by_the_name_that_the_option_had() -> None:
    old = finetune(optimiser="adamw")
    assert old.describe() == finetune(optimizer="adamw").describe()
    assert dataclasses.replace(old, epochs=2).optimizer == "adamw"
    assert dataclasses.replace(old, optimizer="sgd").optimizer == "sgd"
    with pytest.raises(OptionError, match="optimizer is 'adam'; allowed are 'sgd' and 'adamw'"):
        finetune(optimiser="adam")
    with pytest.raises(OptionError, match="are one option; give optimizer only"):
        finetune(optimizer="adamw", optimiser="adamw")


def test_every_option_is_explained_where_users_look() -> None:
    told = inspect.cleandoc(Finetune.__doc__ or "")  # Python 3.13 keeps it without its indentation
    assert [one.name for one in dataclasses.fields(Finetune) if f"\n    {one.name}: " not in told] == []


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
    with pytest.raises(DataError, match="labels go from 5 to 9"):
        finetune(validation=(IMAGES, LABELS + 5), on_epoch=refuse)(GRAPH)
    with pytest.raises(DataError, match="96 images and 5 labels"):
        finetune((IMAGES, LABELS[:5]), validation=0.25, on_epoch=refuse)(GRAPH)
    with pytest.raises(DataError, match="validation needs one of at least two"):
        finetune((IMAGES[:1], LABELS[:1]), validation=0.25, on_epoch=refuse)(GRAPH)


def test_a_conversion_starts_from_corrected_layers(convert: Any) -> None:
    """Without calibration data the images are those of the training; what can be read once is left for it."""
    model = seeded(Small)
    for data in (IMAGES, None):
        passes = fxsnn.pipeline(target=V1, bits=2, finetune=finetune(), calibration_data=data).passes
        [start] = [one for one in passes if isinstance(one, CorrectLayers)]
        assert start.parts() == ("weights", "biases")
        assert torch.equal(torch.cat(list(start.data)), IMAGES)
    made = [
        convert(model, calibration_data=IMAGES, timesteps=8, finetune=finetune(timesteps=None, epochs=1), **options)
        for options in ({}, {"correction": "weights+biases"}, {"correction": None})
    ]
    texts = [one.graph.text() for one in made]
    assert texts[0] == texts[1] != texts[2]
    assert [one.provenance["options"]["correction"] for one in made] == ["weights+biases", "weights+biases", None]
    once = fxsnn.pipeline(target=V1, bits=2, calibration_data=iter([IMAGES]), finetune=Finetune(iter([DATA])))
    assert not any(isinstance(one, CorrectLayers) for one in once.passes)


def test_without_fine_tuning_a_conversion_corrects_biases_on_a_part_of_the_images() -> None:
    many = torch.zeros(300, 3, 12, 12)
    passes = fxsnn.pipeline(target=V1, bits=2, calibration_data=many).passes
    [found] = [one for one in passes if isinstance(one, CorrectLayers)]
    assert (found.biases, found.thresholds, sum(map(len, found.data))) == (True, False, 256)
    for options in ({}, {"calibration_data": iter([IMAGES])}, {"calibration_data": IMAGES, "correction": None}):
        assert "correct-layers" not in [one.name for one in fxsnn.pipeline(target=V1, bits=2, **options).passes]


def test_the_layers_it_starts_from_are_corrected_on_so_many_images_of_whatever_data() -> None:
    many = torch.zeros(1100, 3, 12, 12)
    for data in (many, [(part, None) for part in many.split(300)]):
        passes = fxsnn.pipeline(target=V1, bits=2, calibration_data=data, finetune=finetune()).passes
        [start] = [one for one in passes if isinstance(one, CorrectLayers)]
        assert [sum(map(len, start.data)) for _ in range(2)] == [1000, 1000]


def test_a_loop_of_ones_own_is_as_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "FINETUNING.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    loader = DataLoader(TensorDataset(*DATA), 32)
    names: dict[str, Any] = {"model": seeded(Small), "images": IMAGES, "loader": loader}
    exec(snippet.replace("range(4)", "range(40)").replace("epoch == 3", "epoch == 39"), names)  # labels are random
    after, before = names["after"], names["before"]
    assert right(after) > right(before)
    assert torch.equal(names["snn"](IMAGES), fxsnn.SpikingNetwork(SubstituteSpikes(V1, 8)(after).after, V1)(IMAGES))
    assert len(after.nodes(ClippedReLU)) == 4


def test_spiking_epochs_are_usual() -> None:
    assert Finetune(DATA).spiking_epochs == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0, "spiking_epochs": 0}, "epochs and spiking_epochs are both 0"),
        ({"spiking_epochs": -1}, "spiking_epochs is -1"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; allowed are 'sgd' and 'adamw'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"distillation": 1.5}, "distillation is 1.5"),
        ({"temperature": 0}, "temperature is 0"),
        ({"spiking_lr": -1}, "spiking_lr is -1"),
        ({"gradient_norm": 0}, "gradient_norm is 0; allowed are positive numbers"),
        ({"gradient_norm": float("inf")}, "gradient_norm is inf"),
        ({"patience": 0, "validation": 0.1}, "patience is 0"),
        ({"patience": 2}, "patience needs validation"),
        ({"seed": 1 << 63}, "seed is 9223372036854775808; allowed are whole numbers from 0, below 2"),
        ({"checkpoint": 3}, "checkpoint is a int; allowed are a str and a pathlib.Path"),
        ({"on_epoch": 3}, "on_epoch is a int; allowed are functions, or None"),
        ({"validation": 1.5}, "validation is 1.5; allowed are shares between 0 and 1, data, or None"),
    ],
)
def test_the_message_names_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune(**options)


@pytest.mark.parametrize(
    ("data", "validation", "message"),
    [
        ([DATA], 0.5, "data that come in batches cannot be split"),
    ],
)
def test_what_cannot_be_held_out_is_refused(data: Any, validation: float, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        finetune(data, validation=validation)(GRAPH)


def test_a_target_is_given_as_such() -> None:
    with pytest.raises(OptionError, match=r"target is 'hw_v1.0'; expected a HardwareTarget, such as fxsnn.get_target"):
        Finetune(DATA, target="hw_v1.0")  # type: ignore[arg-type]


def test_weights_of_few_bits_are_refused_all_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        finetune()(quantised(seeded(Small).bfloat16()))
    assert [finding.layer for finding in caught.value.findings] == ["conv1", "conv2", "hidden"]
    assert "its weights are torch.bfloat16, too narrow to learn. Convert model.float()" in str(caught.value)


def test_it_needs_to_know_the_target() -> None:
    with pytest.raises(PipelineError, match="needs a target"):
        dataclasses.replace(finetune(), target=None)(GRAPH)


def test_it_can_be_run_again_on_its_own_result() -> None:
    twice = finetune()(tuned()).after
    assert len(twice.nodes(ClippedReLU)) == 4


def test_a_network_without_anything_that_could_spike_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval()
    passes = Pipeline((Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2), finetune()))
    with pytest.raises(ModelError, match="no convolution or hidden fully connected layer with a ReLU was found"):
        passes.run(model)
