"""Fine-tuning trains the low-bit layers and nothing else, the same way at every run."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fxsnn.errors import DataError, OptionError, PipelineError, TrainingError
from fxsnn.graph import Graph
from fxsnn.layers import ClippedReLU, LowBit
from fxsnn.passes import CalibrateThresholds, Canonicalize, Finetune, FoldBatchNorm, QuantizeWeights
from fxsnn.stages import Pipeline
from tests.nets import Small, images, seeded

LABELS = torch.arange(96) % 5
IMAGES = images(96) / 2 + (LABELS - 2).view(-1, 1, 1, 1)  # the class is the brightness
DATA = (IMAGES, LABELS)


def quantised(model: nn.Module | None = None, bits: int = 2) -> Graph:
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(bits))
    return Pipeline(passes).run(model or seeded(Small))


GRAPH = quantised()


def finetune(data: Any = DATA, **options: Any) -> Finetune:
    return Finetune(data, **{"epochs": 3, "lr": 0.02, "batch_size": 32, "timesteps": 8, **options})


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
    finetune(epochs=4, batch_size=96, lr=0.1)(GRAPH)
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
    "options", [{"epochs": 0}, {"epochs": 1.5}, {"lr": 0}, {"momentum": 1}, {"weight_decay": -1}, {"batch_size": 0}]
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
