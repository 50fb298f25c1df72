"""A batch norm between two ReLUs has neurons of its own, where nothing else can take it in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import Add, Affine
from fxsnn.passes import CheckConvRelu, GiveAffineNeurons
from tests.joining import correlation, joined
from tests.nets import images, in_front, seeded

BETWEEN = joined(lambda m, x, y: F.relu(m.norm(x)) + F.relu(m.third(x)))


def test_it_is_a_sum_of_one_input() -> None:
    graph = in_front(BETWEEN, images())
    sums = [graph[node] for node in graph.nodes(Add)]
    assert [len(add.factor) for add in sums if isinstance(add, Add)] == [1, 2]
    assert not graph.nodes(Affine)
    assert not CheckConvRelu().findings(graph)


def test_it_spikes_as_it_should(convert: Any) -> None:
    snn = convert(BETWEEN, target="generic", bits=4, timesteps=128, calibration_data=images(16))
    assert correlation(BETWEEN(images(16)).detach(), snn(images(16)).detach()) > 0.99


def test_what_a_layer_can_take_in_costs_no_neurons() -> None:
    graph = in_front(joined(lambda m, x, y: F.relu(m.norm(y))), images())
    assert not graph.nodes(Add)
    assert GiveAffineNeurons()(graph, images()).diff().summary() == "nothing changed"


SCALED = {
    "pooled": joined(lambda m, x, y: F.avg_pool2d(torch.cat([20 * x, y.relu()], 1), 2), 8),
    "turned": joined(lambda m, x, y: torch.cat([5 * x, y.relu()], 1).flip(3), 8),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_of_one_branch_is_not_lost(convert: Any, name: str) -> None:
    """The activation has another reader, so that no layer in front of it can take the scale in."""
    model, x = SCALED[name], images(16)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_where_it_cannot_be_done_it_is_refused() -> None:
    model = joined(lambda m, x, y: torch.cat([5 * x, y.relu()], 1), 8)
    report = fxsnn.check(model, target="hw_v1.0", bits=2, example=images())
    assert "it scales and shifts each channel, which no layer beside it can take in" in str(report)
    graph = in_front(model, images())
    (node,) = graph.nodes(Add)
    kept, relu = graph[node], graph.sole_user(node)
    assert isinstance(kept, Add)
    assert relu is not None
    graph.replace(node, Affine(kept.factor[0], kept.shift))
    graph.bypass(relu)
    assert "which no layer can do for it there" in str(CheckConvRelu().findings(graph)[0])


def blurred(m: Any, x: Tensor, y: Tensor) -> Tensor:
    """As networks against aliasing do it, in front of a convolution that pads."""
    return F.relu(m.third(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), m.kernel, stride=2, groups=4)))


def test_a_convolution_without_a_negative_weight_has_neurons_and_no_pairs(convert: Any) -> None:
    model, x = joined(blurred), images(16)
    row = torch.tensor([1.0, 2.0, 1.0])
    model.register_buffer("kernel", row.outer(row).expand(4, 1, 3, 3) / 16)
    graph = in_front(model, x)
    assert len(graph.nodes(nn.Conv2d)) == len(graph.nodes(nn.ReLU)) == 4  # second is not read
    assert not CheckConvRelu().findings(graph)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


# Clips of what are activations already --------------------------------------------------------------------------------

CLIPS = {
    "ReLU6": lambda m, x, y: m.third(F.relu6(F.avg_pool2d(20 * x, 2))),
    "from above": lambda m, x, y: m.third(F.avg_pool2d(x, 3, 1, 1).clamp(max=0.2)),
    "minimum": lambda m, x, y: m.third(torch.minimum(F.avg_pool2d(x, 2), torch.tensor(0.3))),
    "beside its ReLU": lambda m, x, y: F.relu(m.third(x) + m.second(x.clamp(max=0.3))),
    "of a concatenation": lambda m, x, y: F.relu6(torch.cat([10 * x, y.relu()], 1)),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_behind_another_activation_has_neurons_of_its_own(convert: Any, name: str) -> None:
    model, x = joined(CLIPS[name], 8 if name == "of a concatenation" else 4), images(24)
    assert not CheckConvRelu().findings(in_front(model, x))
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.97


def test_a_chip_without_sums_says_what_takes_neurons() -> None:
    model = joined(CLIPS["from above"])
    (join,) = fxsnn.check(model, target="hw_v1.0", bits=2, example=images()).joins
    assert "takes neurons to clip what other activations were made to" in join.problem
    assert "Train it with the clip in place of the ReLU before it" in join.remedy
    clipped_first = joined(lambda m, x, y: m.third(F.avg_pool2d(y.clamp(0, 0.2), 3, 1, 1)))
    assert fxsnn.check(clipped_first, target="hw_v1.0", bits=2, example=images()).joins == ()


# In front of a convolution that pads ----------------------------------------------------------------------------------

PADDED = {
    "batch norm": lambda m, x, y: m.norm(x),
    "shift": lambda m, x, y: x + 1,
    "reversed": lambda m, x, y: 1 - x,
    "pooled": lambda m, x, y: F.avg_pool2d(m.norm(x), 2),
    "pooled with padding": lambda m, x, y: F.avg_pool2d(m.norm(x), 3, 1, 1),
    "by hand": lambda m, x, y: F.pad(m.norm(x), (1, 0, 0, 1)),
    "upsampled": lambda m, x, y: F.interpolate(m.norm(x), scale_factor=2),
    "maxima": lambda m, x, y: F.max_pool2d(m.norm(x), 2),
    "leaky": lambda m, x, y: m.norm(F.leaky_relu(y)),
    "clipped": lambda m, x, y: m.norm(F.relu6(x)),
    "two readers": lambda m, x, y: F.relu(m.second(m.norm(x)) + m.third(m.norm(x))),
    "sum": lambda m, x, y: (lambda z: F.relu(z + m.third(z)))(m.norm(x)),
    "behind one another": lambda m, x, y: m.norm(F.relu(m.third(m.norm(x)))),
}


def with_padding(name: str, **options: Any) -> nn.Module:
    """Such a network, whose last convolution pads."""
    model = joined(PADDED[name])
    model.last = nn.Conv2d(4, 6, 3, padding=1, **options)
    with torch.no_grad():
        model.norm.bias.copy_(torch.tensor([0.3, -0.4, 0.2, -0.1]))
    return model


@pytest.mark.parametrize("name", PADDED)
def test_what_a_padded_convolution_cannot_take_in_has_neurons(convert: Any, name: str) -> None:
    model, x = with_padding(name), images(24)
    options = {"max_pool": "rectifiers"} if name == "maxima" else {}
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x, **options)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.97


def test_each_channel_has_a_neuron_for_each_sign() -> None:
    model = with_padding("batch norm")
    graph = in_front(model, images())
    layer: Any = graph["norm"]
    reader: Any = graph["last"]
    assert (layer.in_channels, layer.out_channels, layer.groups, layer.kernel_size) == (4, 8, 4, (1, 1))
    assert reader.in_channels == 8
    assert torch.equal(reader.weight[:, ::2], -reader.weight[:, 1::2])


def test_one_is_enough_where_nothing_is_negative() -> None:
    graph = in_front(with_padding("shift"), images())
    assert [layer.out_channels for node in graph.nodes(nn.Conv2d) if (layer := graph[node]).groups == 4] == [4]
    assert graph["last"].in_channels == 4


def test_what_reads_numbers_of_both_signs_has_a_neuron_for_each() -> None:
    """Though it scales and shifts them upwards."""
    model: Any = with_padding("leaky")
    nn.init.constant_(model.norm.bias, 2.0)
    layer: Any = in_front(model, images())["norm"]
    assert layer.out_channels == 8


def test_groups_read_both_signs_of_their_own_channels(convert: Any) -> None:
    model, x = with_padding("batch norm", groups=2), images(24)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.97


def test_a_chip_without_convolutions_of_one_pixel_says_where_it_goes() -> None:
    model = with_padding("batch norm")
    report = fxsnn.check(model, target="hw_v1.0", bits=2, example=images())
    (finding,) = report.findings
    assert "last, which pads with zeros" in finding.problem
    assert 'such as "generic"' in finding.remedy
    assert fxsnn.check(model, target="generic", bits=2, example=images()).ok


def test_a_limit_of_channels_says_that_signs_count_twice() -> None:
    narrow = fxsnn.HardwareTarget("narrow", input_channels={(1, 1): {4: 9}, (3, 3): {4: 6}})
    report = fxsnn.check(with_padding("batch norm"), target=narrow, bits=4, example=images())
    (violation,) = report.violations
    assert violation.layer == "last"
    assert "it reads norm twice, once for each sign" in violation.finding.problem


# In front of a ReLU on the images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_norm_and_a_relu_on_the_images_are_the_first_layer(convert: Any, dimensions: int) -> None:
    """As networks with their activations in front have it."""
    norm, conv = (nn.BatchNorm1d, nn.Conv1d) if dimensions == 1 else (nn.BatchNorm2d, nn.Conv2d)
    x = torch.randn(64, 3, *[10] * dimensions, generator=torch.Generator().manual_seed(0))
    model = seeded(
        lambda: nn.Sequential(norm(3), nn.ReLU(), conv(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    )
    model(x)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert [row.layer for row in snn.report.layers] == ["0", "2"]
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    with pytest.raises(fxsnn.ModelError, match="directly behind the layer"):
        convert(model, target="hw_v1.0", bits=2, calibration_data=x)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_relu_on_the_images_is_a_layer(convert: Any, dimensions: int) -> None:
    conv = nn.Conv1d if dimensions == 1 else nn.Conv2d
    x = torch.randn(64, 3, *[10] * dimensions, generator=torch.Generator().manual_seed(0))
    model = seeded(lambda: nn.Sequential(nn.ReLU(), conv(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)))
    model(x)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
