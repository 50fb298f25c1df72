"""What computes a ReLU, one with an upper end, or one with levels becomes that, however it is written."""

from __future__ import annotations

import itertools
from math import inf
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import Finding, GraphError, ModelError
from fxsnn.graph import Activation, Graph
from fxsnn.layers import ClippedReLU
from fxsnn.passes import Canonicalize, CheckConvRelu, RecognizeActivations
from fxsnn.rewriting import Step
from tests.clipped import BOUNDED, BOUNDED_CHANNELS, LEVELS, REFUSED, RELUS, SHIFTED, Levels, Own, network
from tests.joining import UNPAIRED
from tests.nets import CONVERTIBLE, images, in_front, seeded
from tests.random_networks import random_seeds
from tests.sharing import cases

IMAGES = images(3)


def recognized(model: nn.Module, given: Tensor = IMAGES) -> Step:
    return RecognizeActivations()(Canonicalize()(fxsnn.capture(model, given), given).after, given)


def activations(graph: Graph) -> list[nn.Module]:
    return [graph[node] for node in graph.nodes(*Activation)]


def bounds(graph: Graph) -> list[tuple[Any, int | None]]:
    """Upper ends and levels; of a ReLU infinity."""
    found = (getattr(module, "bound", None) for module in activations(graph))
    return [(inf, None) if bound is None else (bound.value, bound.levels) for bound in found]


def findings(model: nn.Module) -> list[Finding]:
    return CheckConvRelu().findings(recognized(model).after)


@pytest.mark.parametrize("name", RELUS)
def test_a_relu_in_other_words(name: str) -> None:
    step = recognized(seeded(lambda: network(RELUS[name]())))
    assert [type(module) for module in activations(step.after)] == [nn.ReLU]
    assert step.moved == 0
    assert CheckConvRelu().findings(step.after) == []


@pytest.mark.parametrize("name", BOUNDED)
def test_an_upper_end_in_any_words(name: str) -> None:
    build, top = BOUNDED[name]
    step = recognized(seeded(lambda: network(build())))
    assert bounds(step.after) == [(pytest.approx(top, rel=1e-7), None)]
    assert step.moved is not None
    assert step.moved < 1e-14
    assert CheckConvRelu().findings(step.after) == []


@pytest.mark.parametrize("name", LEVELS)
def test_levels_in_any_words(name: str) -> None:
    build, top, levels = LEVELS[name]
    step = recognized(seeded(lambda: network(build())))
    assert bounds(step.after) == [(pytest.approx(top, rel=1e-7), levels)]
    assert step.moved is not None
    assert step.moved < 1e-14
    assert CheckConvRelu().findings(step.after) == []


@pytest.mark.parametrize("name", SHIFTED)
def test_one_beside_the_origin_is_shifted_and_scaled(name: str) -> None:
    build, top, levels = SHIFTED[name]
    model = seeded(lambda: network(build(), nn.ReLU()))
    step = recognized(model)
    assert step.moved is not None
    assert step.moved < 1e-13
    assert bounds(step.after)[0] == (pytest.approx(top, rel=1e-7), levels)
    assert CheckConvRelu().findings(in_front(model, IMAGES)) == []


@pytest.mark.parametrize("name", BOUNDED_CHANNELS)
def test_each_channel_may_have_an_upper_end(name: str) -> None:
    """They are scales around an end of 1, which layers take in."""
    model = seeded(lambda: network(BOUNDED_CHANNELS[name](), nn.ReLU()))
    step = recognized(model)
    assert step.moved is not None
    assert step.moved < 1e-13
    assert bounds(step.after)[0] == (pytest.approx(1), 4 if name == "levels" else None)
    assert CheckConvRelu().findings(in_front(model, IMAGES)) == []


def test_an_upper_end_for_each_feature() -> None:
    tops = torch.linspace(0.1, 1, 7)
    own = Own(lambda m, x: x.relu().minimum(m.tops), tops=tops)
    vectors = seeded(lambda: nn.Sequential(nn.Linear(6, 7), own, nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)))
    step = recognized(vectors, torch.randn(3, 6))
    assert bounds(step.after) == [(1.0, None), (inf, None)]


def test_upper_ends_of_places_are_refused() -> None:
    own = Own(lambda m, x: x.relu().minimum(m.tops), tops=torch.rand(12, 12) + 0.1)
    assert findings(seeded(lambda: network(own, nn.ReLU())))


def test_what_only_the_tail_reads_is_left_to_it() -> None:
    """Beside the origin it would not be decoded any better than it is computed."""
    step = recognized(seeded(lambda: nn.Sequential(network(nn.ReLU()), nn.Hardsigmoid())))
    assert bounds(step.after) == [(inf, None)]


@random_seeds(4, slow=71)
def test_random_networks_compute_what_they_computed(seed: int) -> None:
    """Spellings and bounds at random, on maps, signals and vectors; a second time there is nothing to do."""
    draw = Random(seed)

    def activation() -> nn.Module:
        top = 10 ** draw.uniform(-2, 1)
        return draw.choice([
            Levels(top, draw.randint(1, 32)), nn.Hardtanh(0, top), Own(lambda m, x: x.relu().minimum(m.top), top=top),
            Own(lambda _, x: x.clamp(0, top)), Own(lambda _, x: torch.where(x > 0, x, 0)), nn.ReLU6(),
        ])  # fmt: skip

    def model() -> nn.Module:
        if kind == "vectors":
            return nn.Sequential(nn.Linear(6, 7), activation(), nn.Linear(7, 7), activation(), nn.Linear(7, 3))
        if kind == "signals":
            body = nn.Sequential(nn.Conv1d(3, 8, 5), activation(), nn.AvgPool1d(2), nn.Conv1d(8, 4, 3), activation())
            return nn.Sequential(body, nn.Flatten(), nn.Linear(8, 3))
        return network(activation(), activation())

    kind = draw.choice(["vectors", "signals", "maps"])
    given = {"vectors": torch.randn(3, 6), "signals": torch.randn(3, 3, 12), "maps": IMAGES}[kind]
    step = recognized(seeded(model, seed), given)
    assert step.moved is not None
    assert step.moved < 1e-12
    assert len(activations(step.after)) == 2
    assert CheckConvRelu().findings(step.after) == [] or kind == "signals"
    assert RecognizeActivations()(step.after).after.text() == step.after.text()


@cases("name", REFUSED, quick=5)
def test_another_activation_is_left_and_refused_with_a_remedy_that_helps(name: str) -> None:
    build, better = REFUSED[name]
    model = seeded(lambda: network(build(), nn.ReLU()))
    step = recognized(model)
    assert step.moved == pytest.approx(0, abs=1e-12)
    found = CheckConvRelu().findings(step.after)
    assert found
    assert any("nn.ReLU" in finding.remedy for finding in found)
    assert len(found) <= 3
    with pytest.raises(ModelError):
        fxsnn.convert(model, target=UNPAIRED, bits=4)
    assert findings(seeded(lambda: network(better(), nn.ReLU()))) == []


def test_calls_that_are_no_activation_together_are_one_finding() -> None:
    model = seeded(lambda: network(REFUSED["ceil of a quotient"][0](), nn.ReLU()))
    about = findings(model)
    assert [finding.layer for finding in about] == ["truediv"]
    assert "with what follows up to mul_1 (mul) it is no activation that is supported" in about[0].problem
    assert "floor(clamp(x / c, 0, 1) * L + 0.5) / L * c" in about[0].remedy
    assert about[0].source.startswith("clipped.py:")


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_an_ordinary_network_stays_as_it_is(name: str) -> None:
    graph = Canonicalize()(fxsnn.capture(seeded(CONVERTIBLE[name]))).after
    assert RecognizeActivations()(graph).after.text() == graph.text()


def test_what_the_user_clipped_with_our_layer_stays_that() -> None:
    assert [type(one) for one in activations(recognized(network(ClippedReLU(2.0)).eval()).after)] == [ClippedReLU]


def test_a_layer_that_several_call_becomes_one_for_each_call() -> None:
    shared = nn.ReLU6()
    step = recognized(seeded(lambda: network(shared, shared)))
    assert bounds(step.after) == [(6.0, None)] * 2
    assert len({id(module) for module in activations(step.after)}) == 2


def test_the_tail_and_the_images_are_left_alone() -> None:
    body, clamp = network(nn.ReLU6()), Own(lambda _, x: x.clamp(0, 1))
    step = recognized(seeded(lambda: nn.Sequential(body, nn.ReLU6(), clamp)))
    assert bounds(step.after) == [(6.0, None)]
    assert step.after.text(hashes=False).count("ReLU6()") == 1
    model = seeded(lambda: nn.Sequential(clamp, network(nn.ReLU6())))
    assert "Do it before the network" in findings(model)[0].remedy


def test_what_stands_behind_an_upper_end_stays() -> None:
    """It is scaled: only the clip is an activation, and the longest part that is one is found."""
    step = recognized(seeded(lambda: network(Own(lambda _, x: (x * 1.0).clamp(0, 6) / 6))))
    assert bounds(step.after) == [(6.0, None)]
    assert [row[0] for row in step.after.rows() if "(6)" in row[1]] == ["truediv"]


def test_what_is_read_in_between_is_not_swallowed() -> None:
    """Nothing that reads a ReLU is negative, so that a clip from above is one from both sides."""

    def two(m: Any, x: Tensor) -> Tensor:
        y = x.relu()
        return y.clamp(max=1) + y

    step = recognized(seeded(lambda: network(Own(two))))
    assert step.moved == 0
    assert bounds(step.after) == [(inf, None), (1.0, None)]


def test_max_over_a_dimension_is_no_maximum() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return torch.max(m.conv(x), 1).values

    model = Own(forward)
    model.conv = nn.Conv2d(3, 4, 3)
    assert activations(recognized(model.eval()).after) == []


def test_a_bound_for_each_image_of_a_batch_is_none_of_the_layer() -> None:
    model = seeded(lambda: network(Own(lambda m, x: torch.minimum(F.relu(x), m.top), top=torch.ones(3, 1, 1, 1))))
    assert bounds(recognized(model).after) == [(inf, None)]


def test_a_constant_that_forward_writes_into_is_no_constant() -> None:
    def counted(m: Any, x: Tensor) -> Tensor:
        m.calls.add_(1.0)
        return x.relu().clamp(max=6) * m.calls / m.calls

    graph = fxsnn.capture(seeded(lambda: network(Own(counted, calls=1.0))).double())  # where it still writes
    state = {name: tensor.clone() for name, tensor in graph.module.state_dict().items()}
    RecognizeActivations().rewrite(graph)
    graph.tidy()
    assert bounds(graph) == [(6.0, None)]
    assert all(torch.equal(tensor, state[name]) for name, tensor in graph.module.state_dict().items())


def test_a_layer_whose_values_are_not_known_counts_as_one() -> None:
    """On the meta device: `check` needs no values."""
    report = fxsnn.check(network(Levels(), nn.ReLU6()).to("meta"), target="generic", bits=4)
    assert report.ok


def test_steps_themselves_are_where_rounding_decides() -> None:
    """Half way between levels `round` and `floor(x + 0.5)` differ: verification says so, and nothing else does."""
    model: Any = network(Own(lambda _, x: (x.clamp(0, 1) * 2).round() / 2)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(0.25)
        model[1].eps = 0.0
    with pytest.raises(GraphError, match="recognize-activations promises to keep the function"):
        recognized(model)
    for name, top in itertools.product(("autograd.Function", "detach"), (1.0, 0.3)):  # these have ours to the bit
        levels: Any = LEVELS[name][0]()
        levels.up.data.fill_(top)
        exact: Any = network(levels).eval()
        with torch.no_grad():
            exact[0].weight.zero_()
            exact[0].bias.copy_(torch.linspace(0, top, 8))
        assert recognized(exact).moved == 0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.LeakyReLU])
def test_of_flattened_maps_it_is_one_of_the_maps(convert: Any, activation: type[nn.Module]) -> None:
    """Whether a hidden layer or the classifier reads them."""
    x = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for hidden in ((), (nn.Linear(144, 20), nn.ReLU())):
        torch.manual_seed(0)
        last = nn.Linear(20 if hidden else 144, 5)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), activation(), *hidden, last).eval()
        snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
        found = torch.stack([snn(x).flatten(), model(x).flatten()]).detach()
        assert torch.corrcoef(found)[0, 1] > 0.97
