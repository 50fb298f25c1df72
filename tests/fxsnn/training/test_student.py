"""A graph in training computes what the integers compute that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.node import Node

import fxsnn
from fxsnn.calibration import Watch, forget_calibration
from fxsnn.chip import HardwareTarget, Registers
from fxsnn.errors import TargetError
from fxsnn.graph import Graph
from fxsnn.layers import AnyPool2d, ClippedReLU, LowBit, RateReLU
from fxsnn.numerics import Dynamics
from fxsnn.numerics.lowbit import scaled_gradient
from fxsnn.passes import (
    FRONT_END,
    CalibrateThresholds,
    Canonicalize,
    FoldBatchNorm,
    QuantizeWeights,
    ReplaceMaxPool,
)
from fxsnn.rewriting import Pipeline
from fxsnn.training import Student, float_form
from tests.clipped import Levels, network
from tests.nets import CONVERTIBLE, Small, images, seeded
from tests.sharing import cases, rewritten_once

V1 = fxsnn.get_target("hw_v1.0")
IMAGES = images(16)


@rewritten_once
def quantised(name: str = "modules", bits: int = 2, dtype: torch.dtype = torch.float64) -> Graph:
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES.to(dtype)), QuantizeWeights(bits))
    return Pipeline(passes).run(seeded(CONVERTIBLE[name]).to(dtype))


def rates_of(graph: Graph, x: torch.Tensor) -> list[torch.Tensor]:
    """What each activation gives, as a rate."""
    found = []

    def hook(module: Any, _: Any, output: torch.Tensor) -> None:
        found.append(output.detach() / module.unit.view(-1, *[1] * (output.dim() - 2)))

    hooks = [graph[node].register_forward_hook(hook) for node in graph.nodes(RateReLU)]
    graph(x)
    for one in hooks:
        one.remove()
    return found


DYNAMICS = [Dynamics(8), Dynamics(8, initial_membrane=0.0), Dynamics(16, "zero"), Dynamics(5, "zero", 0.0)]


@cases("name", CONVERTIBLE, quick=("modules", "one relu", "dense"))
@pytest.mark.parametrize("bits", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dynamics", DYNAMICS, ids=str)
def test_under_a_steady_drive_rates_are_those_of_the_spiking_network(name: str, bits: int, dynamics: Dynamics) -> None:
    student = Student(quantised(name, bits), V1, dynamics)
    counts = next(iter(student.spiking().simulate(IMAGES.double()).spike_counts.values()))
    rates = rates_of(student.graph, IMAGES.double())[0]
    torch.testing.assert_close(rates, counts.double() / dynamics.timesteps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=str)
def test_what_training_leaves_has_the_rates_that_were_trained(dynamics: Dynamics) -> None:
    """But for the rounding of thresholds, which is not in it: poolings too, where half levels are frequent."""
    student = Student(quantised("modules", 4), V1, dynamics)
    trained = rates_of(student.graph, IMAGES.double())
    student.finish()
    found: list[Tensor] = []
    nodes = student.graph.nodes(ClippedReLU)
    assert any(student.graph.is_a(node.all_input_nodes[0], nn.AvgPool2d) for node in nodes)

    def see(node: Node, value: Tensor) -> None:
        clipped: Any = student.graph[node]
        found.append(value / clipped.threshold)

    Watch(student.graph, nodes, see).run(IMAGES.double())
    for rates, left in zip(trained, found, strict=True):
        assert ((rates - left).abs() > 1e-6).double().mean() < 0.01


def test_in_bfloat16_poolings_round_what_they_read_and_not_what_is_left_of_it() -> None:
    counts = torch.randint(0, 9, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    neurons, pooled = (RateReLU(torch.tensor(0.7), Dynamics(8)) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        rates = neurons((counts * 0.7 / 8).bfloat16())
        levels = (pooled(F.avg_pool2d(rates, 2)) / 0.7 * 8).round()
    sums = F.avg_pool2d(counts.double(), 2, divisor_override=1)
    assert torch.equal(levels.double(), (sums / 4 + 0.5).floor())


def test_in_bfloat16_rates_are_those_of_the_wider_type() -> None:
    """A threshold or a level rounded to bfloat16 would be another one."""
    activation = RateReLU(torch.nn.Parameter(torch.tensor(1.2345)), Dynamics(64))
    x = torch.linspace(-0.1, 1.4, 4096).bfloat16()
    rates = activation(x.view(8, -1)).detach().flatten()
    expected = activation(x.float().view(8, -1)).detach().flatten()
    assert rates.dtype == torch.float32
    assert torch.equal(rates, expected)


def test_only_weights_decay() -> None:
    student = Student(quantised(), V1, Dynamics(8))
    groups = student.groups(weight_decay=0.1, relative=False)
    decaying = {id(one) for group in groups if group["weight_decay"] > 0 for one in group["params"]}
    named = student.tensors()
    assert decaying == {id(tensor) for name, tensor in named.items() if name.endswith(".weight")}
    assert sum(len(group["params"]) for group in groups) == len(named)


@pytest.mark.parametrize("relative", [True, False])
def test_learning_rates_of_steps_and_thresholds_are_a_share_of_them_if_asked_for(relative: bool) -> None:
    student = Student(quantised(), V1, Dynamics(8))
    scales = {
        id(one): group["scale"]
        for group in student.groups(weight_decay=0, relative=relative)
        for one in group["params"]
    }
    for name, tensor in student.tensors().items():
        own = relative and not name.endswith(("weight", "bias"))
        assert scales[id(tensor)] == (pytest.approx(float(tensor.detach().mean())) if own else 1), name


def test_steps_and_thresholds_stay_positive() -> None:
    student = Student(quantised(), V1, Dynamics(8))
    before = {name: tensor.detach().clone() for name, tensor in student.tensors().items()}
    with torch.no_grad():
        for name, tensor in student.tensors().items():
            if not name.endswith(("weight", "bias")):
                tensor.fill_(-1.0)
    student.confine()
    for name, tensor in student.tensors().items():
        if not name.endswith(("weight", "bias")):
            assert bool((tensor > 0).all()), name
            assert bool((tensor < before[name].median()).all()), name


def test_no_step_stays_below_a_sixteenth_of_the_median_of_its_layer() -> None:
    student = Student(quantised(), V1, Dynamics(8))
    steps = [tensor for name, tensor in student.tensors().items() if name.endswith("step")]
    with torch.no_grad():
        for step in steps:
            step.fill_(2.0)
            step[0] = 0.1
    student.confine()
    assert steps
    for step in steps:
        assert step.tolist() == [pytest.approx(2 / 16), *[2.0] * (len(step) - 1)]


def test_the_graph_it_was_made_from_still_learns() -> None:
    graph = quantised()
    flags = [parameter.requires_grad for parameter in graph.module.parameters()]
    copy = graph.copy()
    Student(copy, V1, Dynamics(8)).finish()
    assert [parameter.requires_grad for parameter in graph.module.parameters()] == flags
    assert any(flags)


@cases("name", CONVERTIBLE, quick=("modules", "one relu", "dense", "hand-written"))
def test_with_simulated_rates_the_outputs_are_those_of_the_spiking_network(name: str) -> None:
    student = Student(quantised(name), V1, Dynamics(8))
    student.simulate(IMAGES.double())
    outputs = student.graph(IMAGES.double()).detach()
    torch.testing.assert_close(outputs, student.spiking()(IMAGES.double()).detach(), rtol=0, atol=1e-9)
    student.forget()
    assert not torch.equal(student.graph(IMAGES.double()), outputs)


def pooled_by_any() -> Graph:
    """With a max pooling for which any neuron of the window will stand."""
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    model = seeded(lambda: nn.Sequential(*layers, nn.Linear(36, 5)).double())
    passes = (Canonicalize(), ReplaceMaxPool("any"), FoldBatchNorm(), CalibrateThresholds(IMAGES.double()))
    return Pipeline((*passes, QuantizeWeights(4))).run(model)


class TestMaxPoolingByAnyNeuron:
    """Rates are those of spikes that know nothing of each other; simulated ones are the very ones of the network."""

    @pytest.mark.parametrize("dynamics", DYNAMICS, ids=str)
    def test_with_simulated_rates_the_outputs_are_those_of_the_spiking_network(self, dynamics: Dynamics) -> None:
        student = Student(pooled_by_any(), V1, dynamics)
        student.simulate(IMAGES.double())
        outputs = student.graph(IMAGES.double()).detach()
        torch.testing.assert_close(outputs, student.spiking()(IMAGES.double()).detach(), rtol=0, atol=1e-8)

    @pytest.mark.parametrize("dynamics", [Dynamics(8), Dynamics(16, "zero")], ids=str)
    def test_its_rates_come_near_those_of_the_network_and_the_maximum_does_not(self, dynamics: Dynamics) -> None:
        student = Student(pooled_by_any(), V1, dynamics)
        counts = student.spiking().count_spikes(IMAGES.double())
        before, rates = (counts[name].double() / dynamics.timesteps for name in ("0", "2"))
        (node,) = student.graph.nodes(AnyPool2d)
        pool: Any = student.graph[node]
        expected = pool(before * pool.unit) / pool.unit
        assert (expected - rates).square().mean() < (F.max_pool2d(before, 2) - rates).square().mean() / 2
        levels: Any = student.graph[next(iter(node.users))]
        torch.testing.assert_close(levels(rates * pool.unit) / pool.unit, rates)  # levels are left as they are

    def test_what_training_leaves_computes_rates_until_the_calibration_is_forgotten(self) -> None:
        graph = pooled_by_any()
        student = Student(graph, V1, Dynamics(8))
        student.finish()
        assert [graph.is_a(node, AnyPool2d) for node in graph.nodes()].count(True) == 1
        assert not graph.nodes(RateReLU)
        (node,) = graph.nodes(AnyPool2d)
        assert not graph.is_a(graph.sole_user(node), ClippedReLU)
        assert graph[node].unit is not None
        expected = student.spiking()(IMAGES.double())
        assert torch.equal(Student(graph.copy(), V1, Dynamics(8)).spiking()(IMAGES.double()), expected)
        forget_calibration(graph)
        (node,) = graph.nodes(AnyPool2d)
        assert graph[node].unit is None

    def test_gradients_pass_through(self) -> None:
        student = Student(pooled_by_any(), V1, Dynamics(8))
        student.graph(IMAGES.double()).square().sum().backward()
        first: Any = student.graph[student.graph.nodes(LowBit)[0]]
        assert first.weight.grad.abs().sum() > 0
        assert first.weight.grad.isfinite().all()


def test_a_finished_graph_stands_for_the_same_integers() -> None:
    graph = quantised()
    student = Student(graph, V1, Dynamics(8))
    with torch.no_grad():
        for tensor in student.tensors().values():
            tensor.mul_(1.05)
    student.round()
    expected = student.spiking()(IMAGES.double())
    student.finish()
    assert not graph.nodes(RateReLU)
    assert torch.equal(Student(graph, V1, Dynamics(8)).spiking()(IMAGES.double()), expected)


def test_gradients_reach_weights_steps_thresholds_and_biases() -> None:
    student = Student(quantised(), V1, Dynamics(8))
    student.graph(IMAGES.double()).square().sum().backward()
    for name, tensor in student.tensors().items():
        assert tensor.grad is not None, name
        assert float(tensor.grad.abs().sum()) > 0, name


def test_the_gradient_to_a_threshold_is_that_of_the_paper() -> None:
    """Esser et al. 2020, eq. 3: rounded minus real level inside, T above; times 1 / sqrt(neurons * T), for the step
    between two levels. The threshold is T of these steps: what an optimiser takes off it is T times what it takes off
    the step."""
    upper = torch.nn.Parameter(torch.tensor(2.0))
    RateReLU(upper, Dynamics(4))(torch.tensor([[-1.0, 0.7, 1.9, 3.0]])).sum().backward()
    to_the_step = (0 + (1 - 1.4) + (4 - 3.8) + 4) / (4 * 4) ** 0.5
    assert upper.grad is not None
    assert float(upper.grad) == pytest.approx(4 * to_the_step)


def test_gradients_of_a_rate_are_those_of_its_formula() -> None:
    """Written out with straight-through estimators; one value and one unit for each channel."""
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upper = torch.nn.Parameter(torch.tensor(0.9, dtype=torch.float64))
    activation = RateReLU(upper, Dynamics(4))
    activation.spike_value = torch.tensor([0.8, 0.9, 1.0], dtype=torch.float64)
    activation.unit = torch.tensor([0.7, 0.9, 1.1], dtype=torch.float64)

    def written_out() -> Tensor:
        learned = scaled_gradient(upper, 4**2 * (3 * 4 * 4 * 4) ** -0.5)
        value, unit = ((one - learned).detach() + learned for one in (activation.spike_value, activation.unit))
        ratio = (x / value.view(3, 1, 1)).clamp(0, 1)
        rates = (ratio.detach() * 4 + 0.5).floor() / 4
        return ((rates - ratio).detach() + ratio) * unit.view(3, 1, 1)

    weights = torch.arange(x.numel(), dtype=torch.float64).view(x.shape)
    torch.testing.assert_close(activation(x), written_out())
    found, expected = (torch.autograd.grad((out * weights).sum(), (x, upper)) for out in (activation(x), written_out()))
    torch.testing.assert_close(found, expected)


def test_what_fits_no_register_is_said_before_training() -> None:
    narrow = HardwareTarget("narrow", registers=Registers(threshold=3))
    with pytest.raises(TargetError, match="its threshold is"):
        Student(quantised(), narrow, Dynamics(8))


def test_the_float_form_is_the_network_before_quantisation() -> None:
    model = seeded(Small).double()
    graph = float_form(quantised())
    assert not graph.nodes(ClippedReLU)
    torch.testing.assert_close(graph(IMAGES.double()), model(IMAGES.double()))


def test_the_float_form_keeps_what_the_user_has_clipped() -> None:
    layers = (nn.Conv2d(3, 4, 3), ClippedReLU(0.05), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(100, 5))
    model = nn.Sequential(*layers).eval()
    passes = (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2))
    graph = float_form(Pipeline(passes).run(model))
    torch.testing.assert_close(graph(IMAGES), model(IMAGES))


def test_the_float_form_has_the_upper_ends_of_the_network_before_and_after_training() -> None:
    model = seeded(lambda: network(Levels(1.5), nn.Hardtanh(0, 0.2), nn.ReLU()))
    passes = (*FRONT_END, FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(2))
    graph = Pipeline(passes).run(model)
    for _ in range(2):  # a second training goes on from the first
        torch.testing.assert_close(float_form(graph)(IMAGES), model(IMAGES))
        student = Student(graph, V1, Dynamics(8))
        student.finish()
        student.graph.module.recompile()
