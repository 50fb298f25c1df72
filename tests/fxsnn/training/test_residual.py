"""Networks with sums and shared readers in training: a student computes what their integers compute, and learns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxsnn
from fxsnn.calibration import Watch
from fxsnn.chip import HardwareTarget, Registers
from fxsnn.errors import FileError, TargetError
from fxsnn.graph import Graph
from fxsnn.layers import Add, ClippedReLU, LowBit, RateReLU, SpikeAdd, Spiking
from fxsnn.numerics import Dynamics
from fxsnn.passes import (
    FRONT_END,
    CalibrateThresholds,
    CorrectLayers,
    Finetune,
    FoldBatchNorm,
    QuantizeWeights,
)
from fxsnn.rewriting import Pipeline
from fxsnn.training import Epoch, Student, float_form
from tests.nets import images
from tests.residual import RESIDUAL
from tests.sharing import cases, rewritten_once
from tests.tuning import DATA, right

GENERIC = fxsnn.get_target("generic")
IMAGES = images(8).double()


@rewritten_once
def quantised(name: str, bits: int = 2) -> Graph:
    passes = (*FRONT_END, FoldBatchNorm(), CalibrateThresholds(IMAGES), QuantizeWeights(bits, codebook="free"))
    return Pipeline(passes).run(RESIDUAL[name]().double())


def drives_of(snn: fxsnn.SpikingNetwork, x: Tensor) -> dict[str, Tensor]:
    """By layer, what its neurons add to their membranes at a step, on average, in activation units."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def see(layer: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            grain = (layer.spike_value / layer.threshold).view(-1, *[1] * (inputs[0].dim() - 2))
            steps = 1 if layer.constant_input else snn.timesteps
            found[name] = layer.drive(*inputs).double().unflatten(0, (steps, -1)).mean(0) * grain

        return see

    for node in snn.graph.nodes(Spiking):
        snn.graph[node].register_forward_hook(hook(snn.graph.name(node)))
    with torch.no_grad():
        snn(x)
    return found


@cases(
    "name, bits",
    itertools.product(RESIDUAL, (1, 3)),
    quick=[("blocks", 1), ("blocks", 3), ("first is a sum", 3), ("no weights", 1), ("dense", 3)],
)
@pytest.mark.parametrize("dynamics", [Dynamics(8), Dynamics(4, "zero", 0.0)], ids=str)
def test_for_the_rates_that_spikes_have_each_layer_is_driven_as_its_neurons_are(
    name: str, bits: int, dynamics: Dynamics
) -> None:
    """Of sums, weights that fit whole gains, whole numbers for spikes as they are, and the rounded leak are in it."""
    student = Student(quantised(name, bits), GENERIC, dynamics)
    wanted = drives_of(student.spiking(), IMAGES)
    student.simulate(IMAGES)
    found: dict[str, Tensor] = {}
    graph = student.graph
    with torch.no_grad():
        Watch(graph, student.layers(), lambda node, value: found.__setitem__(graph.name(node), value)).run(IMAGES)
    assert any(graph.is_a(node, Add) for node in student.layers())
    for layer, drive in found.items():
        torch.testing.assert_close(drive, wanted[layer].expand_as(drive), rtol=0, atol=1e-9, msg=layer)


@pytest.mark.parametrize("dynamics", [Dynamics(8), Dynamics(16, "zero"), Dynamics(5, "zero", 0.0)], ids=str)
def test_under_a_steady_drive_the_rates_of_a_sum_are_those_of_the_spiking_network(dynamics: Dynamics) -> None:
    student = Student(quantised("first is a sum"), GENERIC, dynamics)
    (node,) = student.graph.nodes(RateReLU)
    found: list[Tensor] = []
    with torch.no_grad():
        Watch(student.graph, [node], lambda _, value: found.append(value)).run(IMAGES)
    activation: Any = student.graph[node]
    (counts,) = student.spiking().simulate(IMAGES).spike_counts.values()
    rates = found[0] / activation.unit.view(-1, 1, 1)
    torch.testing.assert_close(rates, counts.double() / dynamics.timesteps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", list(RESIDUAL))
def test_with_simulated_rates_the_outputs_are_those_of_the_spiking_network(name: str) -> None:
    student = Student(quantised(name), GENERIC, Dynamics(8))
    student.simulate(IMAGES)
    torch.testing.assert_close(student.graph(IMAGES), student.spiking()(IMAGES), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", list(RESIDUAL))
def test_what_was_moved_and_finished_stands_for_the_same_integers(name: str) -> None:
    graph = quantised(name)
    student = Student(graph, GENERIC, Dynamics(8))
    with torch.no_grad():
        for tensor in student.tensors().values():
            tensor.mul_(1.05)
    student.round()
    for node in student.layers():
        spiking: Any = student.spiking().graph[student.graph.name(node)]
        student.move_bias(node, torch.full_like(spiking.real_bias, 0.02))
        student.set_threshold(node, 0.9 * student.threshold(node))
    student.round()
    expected = student.spiking()(IMAGES)
    student.finish()
    assert not graph.nodes(RateReLU)
    for node in graph.nodes(Add, LowBit):
        layer: Any = graph[node]
        left = [layer.correction] if isinstance(layer, Add) else [layer.step_ratio, layer.bias_error]
        assert left == [None] * len(left), graph.name(node)
    assert torch.equal(Student(graph, GENERIC, Dynamics(8)).spiking()(IMAGES), expected)


def test_the_bias_that_a_sum_is_moved_by_reaches_its_leak_once() -> None:
    student = Student(quantised("blocks"), GENERIC, Dynamics(8))
    node = next(node for node in student.layers() if student.graph.is_a(node, Add))
    name = student.graph.name(node)
    before: Any = student.spiking().graph[name]
    assert isinstance(before, SpikeAdd)
    student.move_bias(node, torch.full_like(before.real_bias, 0.25))
    after: Any = student.spiking().graph[name]
    torch.testing.assert_close(after.real_bias, before.real_bias + 0.25)


def test_an_activation_that_several_layers_read_is_one_and_learns_once() -> None:
    student = Student(quantised("blocks"), GENERIC, Dynamics(8))
    activations = student.graph.nodes(RateReLU)
    assert len(activations) == len(student.layers()) == 5
    assert max(len(node.users) for node in activations) == 2
    assert sum(name.startswith("threshold") for name in student.tensors()) == 5


@pytest.mark.parametrize("name", list(RESIDUAL))
def test_gradients_reach_everything_that_learns(name: str) -> None:
    student = Student(quantised(name, 3), GENERIC, Dynamics(8))
    student.graph.module(IMAGES).square().sum().backward()
    for what, tensor in student.tensors().items():
        assert tensor.grad is not None, what
        assert float(tensor.grad.abs().sum()) > 0, what


def test_the_float_form_is_the_network_before_its_sums_were_corrected() -> None:
    graph = quantised("no weights")
    corrected = CorrectLayers(IMAGES, GENERIC, timesteps=8)(graph).after
    moved: list[Any] = [corrected[node] for node in corrected.nodes(Add)]
    assert all(float((add.shift - add.float_shift).abs().max()) > 0 for add in moved)
    torch.testing.assert_close(float_form(corrected)(IMAGES), RESIDUAL["no weights"]().double()(IMAGES))


def test_levels_of_a_pooling_are_those_of_what_it_reads() -> None:
    student = Student(quantised("no weights"), GENERIC, Dynamics(8))
    student.finish()
    graph = student.graph
    (pool,) = (node for node in graph.body() if graph.name(node) == "pool")
    levels, read = graph[next(iter(pool.users))], graph[pool.all_input_nodes[0]]
    assert isinstance(levels, ClippedReLU)
    assert isinstance(read, ClippedReLU)
    assert levels.threshold == read.threshold


def test_a_sum_that_fits_no_register_is_said_before_training() -> None:
    graph = quantised("blocks")
    conv: Any = graph["block1.conv2"]
    with torch.no_grad():
        conv.bias[0] = -5000.0
    narrow = HardwareTarget("narrow", input_channels=None, registers=Registers(threshold=24, leak=8, codebook=11))
    with pytest.raises(TargetError, match=r"block1\.add .*its threshold is less than half"):
        Student(graph, narrow, Dynamics(8))


OPTIONS: dict[str, Any] = {"target": GENERIC, "timesteps": 8, "lr": 0.05, "batch_size": 32, "distillation": 0.0}


@rewritten_once
def in_training() -> Graph:
    passes = (*FRONT_END, FoldBatchNorm(), CalibrateThresholds(DATA[0]), QuantizeWeights(2))
    return Pipeline(passes).run(RESIDUAL["blocks"]())


def test_a_residual_network_learns_and_each_time_alike() -> None:
    graph = in_training()
    first, second = (
        Finetune(DATA, epochs=5, spiking_epochs=1, spiking_lr=0.002, seed=3, **OPTIONS)(graph).after for _ in range(2)
    )
    assert first.text() == second.text()
    assert right(first) > right(graph) + 0.15
    assert {graph.name(node) for node in graph.nodes(Add)} == {first.name(node) for node in first.nodes(Add)}


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    class InterruptionError(Exception):
        pass

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise InterruptionError

    graph, path = in_training(), tmp_path / "run.safetensors"
    given = {**OPTIONS, "epochs": 2, "spiking_epochs": 1}
    with pytest.raises(InterruptionError):
        Finetune(DATA, checkpoint=path, on_epoch=interrupt, **given)(graph)
    numbers: list[int] = []
    resumed = Finetune(DATA, checkpoint=path, on_epoch=lambda epoch: numbers.append(epoch.number), **given)(graph).after
    assert numbers == [3]
    assert resumed.text() == Finetune(DATA, **given)(graph).after.text()


def test_a_checkpoint_is_not_of_a_network_whose_sums_shift_otherwise(tmp_path: Path) -> None:
    graph, path = in_training(), tmp_path / "run.safetensors"
    given = {**OPTIONS, "epochs": 1, "spiking_epochs": 0, "checkpoint": path}
    Finetune(DATA, **given)(graph)
    node = graph.nodes(Add)[0]
    add: Any = graph[node]
    graph.replace(node, Add(add.factor, add.shift + 0.1, add.float_shift).eval())
    with pytest.raises(FileError, match="checkpoint"):
        Finetune(DATA, **given)(graph)
