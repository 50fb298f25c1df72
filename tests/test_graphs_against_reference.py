"""Random networks that branch and join: the converted network against the contract's integers, computed apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import read_network
import torch
from torch import Tensor

import fxsnn
from fxsnn.layers import ClippedReLU, LowBit, QuantizedInput, SpikeAdd, Spiking
from tests import reference, reference_of_sums
from tests.engines import EVERY_ENGINE
from tests.graph_plans import (
    IMAGES,
    Add,
    Enlarge,
    Join,
    Layer,
    MaxPool,
    Pick,
    PlannedGraph,
    Pool,
    Step,
    Tap,
    TransposedPlan,
    reads_of,
)
from tests.random_graphs import GraphCase, convertible_graph
from tests.random_networks import ConvPlan, LayerPlan, arguments, quiet, random_seeds
from tests.reference import Integers, Reals
from tests.test_against_reference import (
    WIDTHS,
    Quantiser,
    assert_rounded,
    assert_same_codes,
    assert_same_run,
    encode,
    folded,
    held,
    real,
    whole,
)

# Noise has long tails, which an input of few bits clips.
pytestmark = pytest.mark.filterwarnings("ignore:images range from")

SLACK = 1e-3  # of what is rounded to an integer: λ and b are float32


# Both sides ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Quantised:
    """u of the input, Δ and levels of every layer and λ of every ReLU, before anything spikes."""

    unit: float
    steps: dict[str, Reals]
    levels: dict[str, reference.Levels]
    thresholds: dict[str, float]


def quantised(case: GraphCase, images: Tensor) -> Quantised:
    """As the pipeline's graph holds them; ReLUs of sums stand in it in the order of the plan."""
    with quiet():
        given = {**arguments(images, case.options), **({"input": "frames", "example": None} if case.frames else {})}
        passes = fxsnn.pipeline(**given, correction=None, max_pool=case.max_pool)
        *_, last = passes.until("quantize-weights").steps(case.model)
    graph = last.after
    (encoded,) = (graph[node] for node in graph.nodes(QuantizedInput))
    assert isinstance(encoded, QuantizedInput)
    steps: dict[str, Reals] = {}
    levels: dict[str, reference.Levels] = {}
    thresholds: dict[str, float] = {}
    sums = [step.name for step in case.steps if isinstance(step, Add)]
    for node in graph.nodes(LowBit):
        layer = graph[node]
        assert isinstance(layer, LowBit)
        steps[graph.name(node)] = np.broadcast_to(real(layer.step), layer.weight.shape[:1])
        levels[graph.name(node)] = layer.codebook.levels
        assert reference.are_levels(layer.codebook.levels, case.options.bits, case.options.codebook)
    for node in graph.nodes(ClippedReLU):
        clipped, read = graph[node], node.all_input_nodes[0]
        assert isinstance(clipped, ClippedReLU)
        name = graph.name(read) if isinstance(graph[read], LowBit) else sums.pop(0)
        thresholds[name] = clipped.threshold
    assert not sums
    return Quantised(encoded.unit, steps, levels, thresholds)


def names_in(snn: fxsnn.SpikingNetwork, steps: tuple[Step, ...]) -> dict[str, str]:
    """What the converted network calls the steps that spike, in their order: sums have no name in the network."""
    spiking = [step for step in steps if isinstance(step, Layer | Add | Pool | MaxPool)]
    found = [snn.graph.name(node) for node in snn.graph.nodes(Spiking)]
    for step, name in zip(spiking, found, strict=True):
        assert isinstance(step, Add) == isinstance(held(snn, name), SpikeAdd)
        assert isinstance(step, Add) or step.name == name
    return {step.name: name for step, name in zip(spiking, found, strict=True)}


def weighted(plan: LayerPlan, codes: Integers) -> Any:
    """Σ q·x of a layer."""
    if isinstance(plan, TransposedPlan):
        return partial(
            reference.transposed, codes=codes, stride=plan.stride, padding=plan.padding, more=plan.more,
            dilation=plan.dilation, groups=plan.groups,
        )  # fmt: skip
    if not isinstance(plan, ConvPlan):
        return partial(reference.multiplied, codes=codes)
    return partial(
        reference.convolved, codes=codes, stride=plan.stride, padding=plan.sides, dilation=plan.dilation,
        groups=plan.groups,
    )  # fmt: skip


def reference_nodes(snn: fxsnn.SpikingNetwork, case: GraphCase) -> list[reference.Node]:
    """The reference's graph: what reads what, and geometry, from the plan; integers from the converted network."""
    names, nodes = names_in(snn, case.steps), list[reference.Node]()
    channels = {IMAGES: case.plan.image[0]}
    for step in case.steps:
        reads = reads_of(step)
        does: reference.Layer | reference.Wiring
        channels[step.name] = channels[reads[0]]
        if isinstance(step, Layer):
            layer = held(snn, step.name)
            neurons = reference.Neurons(layer.gain, whole(layer.threshold), whole(layer.leak))
            if isinstance(step.plan, ConvPlan):
                plan = step.plan
                geometry = (plan.stride, plan.sides, plan.dilation, plan.groups)
                does = reference.Convolution(neurons, whole(layer.codes), *geometry)
            elif isinstance(step.plan, TransposedPlan):
                up = step.plan
                shape = (up.stride, up.padding, up.more, up.dilation, up.groups)
                does = reference.TransposedConvolution(neurons, whole(layer.codes), *shape)
            else:
                does = reference.FullyConnected(neurons, whole(layer.codes))
            channels[step.name] = step.plan.outputs
        elif isinstance(step, Add):
            layer = held(snn, names[step.name])
            for place, branch in enumerate(step.branches):
                if branch.plan is not None:
                    own: Any = snn.get_submodule(step.layer(place))
                    synapses = reference.Synapses(whole(own.gain), weighted(branch.plan, whole(own.codes)))
                    nodes.append(reference.Node(step.layer(place), synapses, (branch.reads,)))
            reads = tuple(b.reads if b.plan is None else step.layer(p) for p, b in enumerate(step.branches))
            neurons = reference.Neurons(1, whole(layer.threshold), whole(layer.leak))
            does = reference.Sum(neurons, whole(layer.weights))
            channels[step.name] = len(neurons.theta)
        elif isinstance(step, Pool | MaxPool):
            plan_of_pool = step.plan
            pooling = reference.AveragePooling if isinstance(step, Pool) else reference.AnyPooling
            does = pooling(channels[step.reads], plan_of_pool.kernel, plan_of_pool.stride, plan_of_pool.padding)
        elif isinstance(step, Join):
            does = reference.Wiring(reference.concatenated)
            channels[step.name] = sum(channels[name] for name in reads)
        elif isinstance(step, Pick):
            picked = step.of(channels[step.reads])
            does = reference.Wiring(lambda x, picked=picked: x[:, picked])
            channels[step.name] = len(picked)
        elif isinstance(step, Tap):
            does = reference.Wiring(partial(reference.tap, place=step.place, **vars(step.plan)))
        else:
            assert isinstance(step, Enlarge)
            does = reference.Wiring(partial(reference.enlarged, down=step.factor[0], across=step.factor[1]))
        nodes.append(reference.Node(step.name, does, reads))
    return nodes


# Integers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Worth:
    """Of every channel: what one unit is worth, and what it was thought to be worth before thresholds were rounded."""

    value: Reals
    threshold: Reals

    @property
    def unit(self) -> float:
        """u of who reads it."""
        return float(self.value.mean())

    def scaled(self, weight: Reals, groups: int = 1) -> Reals:
        """Weights [C, inputs per group, ...] of who reads it, as if all channels were worth their mean."""
        ratio = self.threshold / self.threshold.mean()
        if weight.ndim == 2:
            return weight * np.repeat(ratio, weight.shape[1] // len(ratio))
        each = weight.shape[1]
        per_group = len(weight) // groups
        found = weight.copy()
        for output in range(len(weight)):
            first = output // per_group * each
            found[output] *= ratio[first : first + each].reshape(-1, 1, 1)
        return found


def behind(step: Step, worth: dict[str, Worth]) -> Worth:
    """What spikes are worth behind wiring and pooling."""
    read = [worth[name] for name in reads_of(step)]
    if isinstance(step, Join):
        return Worth(np.concatenate([w.value for w in read]), np.concatenate([w.threshold for w in read]))
    if isinstance(step, Pick):
        places = step.of(len(read[0].value))
        return Worth(read[0].value[places], read[0].threshold[places])
    return read[0]


def groups_of(plan: LayerPlan) -> int:
    """Of a convolution, else 1."""
    return plan.groups if isinstance(plan, ConvPlan | TransposedPlan) else 1


def assert_layer(step: Layer, case: GraphCase, given: Quantised, read: Worth) -> Worth:
    """q, m, θ, β and s of a layer follow from W, b, λ, Δ and u."""
    layer, own = held(case.snn, step.name), folded(case.model, step.name, torch.float32)  # type: ignore[arg-type]
    levels = given.levels[step.name]
    quantiser = Quantiser(given.thresholds[step.name], given.steps[step.name], levels)
    np.testing.assert_allclose(layer.input_unit, read.unit, rtol=1e-12)
    assert np.array_equal(real(layer.step), quantiser.step)
    assert_same_codes(whole(layer.codes), read.scaled(own.weight, groups_of(step.plan)), quantiser.step, levels)
    edges = [
        reference.largest_gain(
            quantiser.threshold, own.bias + sign * own.bias_error, quantiser.step, read.unit, levels, WIDTHS["generic"]
        )
        for sign in (-1, 1)
    ]
    gain = layer.gain
    assert min(edges) <= gain <= max(edges)
    theta, beta = whole(layer.threshold), whole(layer.leak)
    exact = reference.real_threshold(quantiser.threshold, quantiser.step, read.unit, gain)
    assert_rounded(theta, np.maximum(1, exact), SLACK)
    error = np.maximum(SLACK, own.bias_error * gain / (quantiser.step * read.unit))
    assert_rounded(beta, reference.real_leak(own.bias, quantiser.step, read.unit, gain), error)
    value = real(layer.spike_value)
    np.testing.assert_allclose(value, reference.spike_value(theta, quantiser.step, read.unit, gain), rtol=1e-12)
    return Worth(value, np.full(len(value), quantiser.threshold))


def norm_behind(step: Add, model: PlannedGraph, channels: int) -> tuple[Reals, Reals]:
    """Factor and shift of the batch norm behind a sum."""
    norm: Any = dict(model.named_children()).get(f"{step.name}_norm")
    if norm is None:
        return np.ones(channels), np.zeros(channels)
    factor = 1 / np.sqrt(real(norm.running_var) + norm.eps)
    factor = factor * real(norm.weight) if norm.affine else factor
    shift = real(norm.bias) if norm.affine else np.zeros(channels)
    return factor, shift - real(norm.running_mean) * factor


def assert_sum(step: Add, case: GraphCase, given: Quantised, worth: dict[str, Worth], name: str) -> Worth:
    """The integers of a sum and of what it reads follow from w, λ and b, whose Δ are those before it was made."""
    layer, threshold = held(case.snn, name), given.thresholds[step.name]
    channels = len(layer.threshold)
    behind_sum, bias = norm_behind(step, case.model, channels)
    rows, codes, bias_error = [], [], np.zeros(channels)
    for place, branch in enumerate(step.branches):
        factor, read = branch.factor * behind_sum, worth[branch.reads]
        if branch.plan is None:
            rows.append(factor * read.value)
            codes.append(1)
            continue
        own = folded(case.model, step.layer(place), torch.float32)  # type: ignore[arg-type]
        rows.append(reference_of_sums.worth_of_codes(factor, given.steps[step.layer(place)], read.unit))
        codes.append(reference.largest_code(given.levels[step.layer(place)]))
        bias = bias + factor * own.bias
        bias_error = bias_error + np.abs(factor) * (own.bias_error + 1e-6 * np.abs(own.bias))
    exact, grain = np.stack(rows), real(layer.step)
    smallest = reference_of_sums.smallest_grain(exact, codes, threshold, bias, WIDTHS["generic"])
    assert np.all(np.isclose(reference_of_sums.candidates(smallest), grain, rtol=1e-6, atol=0).any(axis=0))
    best = reference_of_sums.best_grain(exact, smallest)
    assert np.all(
        reference_of_sums.rounding_of_gains(exact, grain) <= reference_of_sums.rounding_of_gains(exact, best) + 1e-12
    )
    whole_gains = reference_of_sums.gains(exact, grain)
    for place, branch in enumerate(step.branches):
        if branch.plan is None:
            assert np.array_equal(whole(layer.weights)[place], whole_gains[place])
            np.testing.assert_allclose(real(layer.real_weights)[place], exact[place], rtol=1e-9)
            continue
        own, read = folded(case.model, step.layer(place), torch.float32), worth[branch.reads]  # type: ignore[arg-type]
        synapses: Any = case.snn.get_submodule(step.layer(place))
        assert np.all(whole(layer.weights)[place] == 1)
        assert np.array_equal(whole(synapses.gain), whole_gains[place])
        refitted = reference_of_sums.refitted_step(
            given.steps[step.layer(place)], whole_gains[place], grain, branch.factor * behind_sum, read.unit
        )
        np.testing.assert_allclose(real(synapses.step), refitted, rtol=1e-9)
        np.testing.assert_allclose(synapses.input_unit, read.unit, rtol=1e-12)
        assert_same_codes(
            whole(synapses.codes),
            read.scaled(own.weight, groups_of(branch.plan)),
            refitted,
            given.levels[step.layer(place)],
        )
    theta, beta = whole(layer.threshold), whole(layer.leak)
    assert_rounded(theta, np.maximum(1, threshold / grain), SLACK)
    assert_rounded(beta, bias / grain, np.maximum(SLACK, bias_error / grain))
    value = real(layer.spike_value)
    np.testing.assert_allclose(value, theta * grain, rtol=1e-12)
    return Worth(value, np.full(channels, threshold))


def assert_same_integers(case: GraphCase) -> dict[str, Worth]:
    """The integers of every layer; what the spikes of each step are worth comes back."""
    given = quantised(case, case.images(8, seed=1))
    assert encode(case.snn).unit == given.unit
    channels = case.plan.image[0]
    worth = {IMAGES: Worth(np.full(channels, given.unit), np.ones(channels))}
    names = names_in(case.snn, case.steps)
    for step in case.steps:
        if isinstance(step, Layer):
            worth[step.name] = assert_layer(step, case, given, worth[step.reads])
        elif isinstance(step, Add):
            worth[step.name] = assert_sum(step, case, given, worth, names[step.name])
        else:
            worth[step.name] = behind(step, worth)
        if isinstance(step, Pool | MaxPool):
            layer, kernel = held(case.snn, step.name), step.plan.kernel
            size = kernel[0] * kernel[1] if isinstance(step, Pool) else 1
            assert (layer.gain, set(layer.threshold.tolist()), set(layer.leak.tolist())) == (1, {size}, {0})
            assert np.array_equal(real(layer.spike_value), worth[step.name].value)
    return worth


# The rules -----------------------------------------------------------------------------------------------------------


def assert_same_dynamics(case: GraphCase, snn: fxsnn.SpikingNetwork, images: Tensor, value: Reals) -> None:
    """Every spike, every membrane and the logits after every step are the reference's."""
    nodes, names = reference_nodes(snn, case), names_in(snn, case.steps)
    current = reference.encoded(real(images), encode(snn).unit, case.options.input_bits)
    outputs, traces = reference.simulated_graph(
        nodes,
        current,
        timesteps=case.options.timesteps,
        reset=case.options.reset,
        half_start=case.options.initial_membrane == 0.5,
        frames=case.frames,
    )
    busy = any(0 < trace.spikes.mean() < 1 for trace in traces.values())
    assert busy or case.options.timesteps <= 2, "a silent network proves nothing"
    last = outputs[nodes[-1].name]
    with torch.no_grad():
        rows = [torch.from_numpy(reference.decoded(last[: t + 1], value)).float() for t in range(len(last))]
        logits = torch.stack([case.model.classifier(row.flatten(1)) for row in rows])
    for engine in EVERY_ENGINE:
        snn.engine = engine
        assert_same_run(snn, images, {names[name]: trace for name, trace in traces.items()}, logits)


@random_seeds(2, slow=58)
def test_graphs_follow_the_contract(seed: int, tmp_path: Path) -> None:
    assert_follows(convertible_graph(seed), tmp_path)


@random_seeds(1, slow=19)
def test_graphs_with_max_pooling_by_any_neuron_of_the_window_do(seed: int, tmp_path: Path) -> None:
    assert_follows(convertible_graph(seed, "any", pooled=True), tmp_path)


@random_seeds(2, slow=58)
def test_graphs_of_frames_follow_the_contract(seed: int, tmp_path: Path) -> None:
    assert_follows(convertible_graph(seed, frames=True), tmp_path)


def assert_follows(case: GraphCase, tmp_path: Path) -> None:
    """Integers, spikes, membranes and logits, in every engine, from the file and in the numpy reader."""
    worth = assert_same_integers(case)
    images, value = 1.2 * case.images(2, seed=2), worth[case.steps[-1].name].value
    assert_same_dynamics(case, case.snn, images, value)
    path = case.snn.save(tmp_path / "net.fxsnn")
    assert read_network.main(str(path)) == 0
    assert_same_dynamics(case, fxsnn.load(path), images, value)
