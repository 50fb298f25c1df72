"""A transposed convolution is a convolution of maps with zeros between their places: as many neurons, and its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import Affine, FixedSize, FoldedConv2d, SpikeAdd, SpikeConv2d, Spread
from fxsnn.passes import Canonicalize, RewriteTransposed
from tests.engines import all_spike_alike
from tests.joining import UNPAIRED, correlation
from tests.nets import images, in_front, seeded
from tests.sharing import cases

Call = Callable[[Any, Tensor, Tensor], Tensor]


def rewritten(model: nn.Module, given: Tensor) -> fxsnn.Graph:
    return RewriteTransposed()(Canonicalize()(fxsnn.capture(model, given)).after, given).after


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


geometry = given(
    kernel=pairs, stride=pairs, dilation=pairs, size=pairs, groups=st.integers(1, 3), channels=pairs,
    padding=st.tuples(st.integers(0, 7), st.integers(0, 7)), more=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    bias=st.booleans(),
)  # fmt: skip


def it_computes_the_same(
    kernel: Any, stride: Any, dilation: Any, size: Any, groups: int, channels: Any, padding: Any, more: Any, bias: bool
) -> None:
    largest = [max(one, two) - 1 for one, two in zip(stride, dilation, strict=True)]
    output_padding = (min(more[0], largest[0]), min(more[1], largest[1]))
    conv = nn.ConvTranspose2d(
        groups * channels[0], groups * channels[1], kernel, stride, padding, output_padding, groups, bias, dilation
    ).double()
    x = torch.randn(2, groups * channels[0], *size, dtype=torch.float64)
    try:
        expected = conv(x).relu()
    except RuntimeError:
        assume(False)
    graph = rewritten(nn.Sequential(conv, nn.ReLU()).eval(), x)
    torch.testing.assert_close(graph(x), expected.detach(), rtol=1e-12, atol=1e-12)
    (made,) = (graph[node] for node in graph.nodes(nn.Conv2d))
    assert isinstance(made, nn.Conv2d)
    assert made.out_channels == conv.out_channels  # a neuron for each output, a threshold for each channel
    assert bool((made.weight != 0).all())  # no zeros that training could make something else of
    assert made.weight.numel() == conv.weight.numel()
    assert len(graph.nodes(Spread)) <= 1
    if stride == (1, 1) and padding == (0, 0):
        assert not graph.nodes(Spread)


@cases("examples", [40, 400], quick=1)
def test_any_geometry_computes_the_same(examples: int) -> None:
    settings(max_examples=examples)(geometry(it_computes_the_same))()


class Net(nn.Module):
    """3x12x12: maps of half the size are made large again by `call`, of them and of those in front of them."""

    def __init__(self, call: Call, channels: int = 4, signals: bool = False) -> None:
        super().__init__()
        self.call = call
        conv, up, norm = nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d
        self.first, self.down = conv(3, 4, 3, padding=1), conv(4, 6, 3, stride=2, padding=1)
        self.up = up(6, 4, 2, stride=2)
        self.wide = up(6, 4, 4, stride=2, padding=1, bias=False)
        self.odd = up(6, 4, (3, 5), stride=2, padding=(1, 2), output_padding=1, groups=2)
        self.same = up(4, 4, 3, padding=1, dilation=1)
        self.norm, self.prelu = norm(4), nn.PReLU(4)
        self.beside, self.one = conv(4, 4, 3, padding=1), conv(4, 4, 1)
        self.last, self.pool, self.fc = conv(channels, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        y = F.relu(self.down(x))
        return self.fc(self.pool(F.relu(self.last(self.call(self, x, y)))).flatten(1))


PLAIN: dict[str, tuple[Call, int]] = {
    "a ReLU": (lambda m, x, y: F.relu(m.up(y)), 4),
    "a batch norm": (lambda m, x, y: F.relu(m.norm(m.wide(y))), 4),
    "groups and output_padding": (lambda m, x, y: F.relu6(m.odd(y)), 4),
    "of stride 1": (lambda m, x, y: F.relu(m.same(x)), 4),
    "called": (lambda m, x, y: F.relu(F.conv_transpose2d(y, m.up.weight, m.up.bias, stride=2)), 4),
    "told the size of its output": (lambda m, x, y: F.relu(m.odd(y, output_size=x.size())), 4),
    "beside a skip": (lambda m, x, y: torch.cat([F.relu(m.norm(m.up(y))), x], 1), 8),
    "added to a skip": (lambda m, x, y: F.relu(m.up(y) + x), 4),
    "added to a convolution": (lambda m, x, y: F.relu(m.norm(m.wide(y) - m.beside(x))), 4),
    "two of them added": (lambda m, x, y: F.relu(torch.add(m.wide(y), m.norm(m.odd(y)), alpha=0.5)), 4),
    "behind a scale": (lambda m, x, y: F.relu(m.up(0.5 * y)), 4),
    "behind a pooling": (lambda m, x, y: F.relu(m.up(F.avg_pool2d(y, 3, 1, 1))), 4),
    "in front of a convolution": (lambda m, x, y: F.relu(m.one(m.norm(m.up(y)))), 4),
    "twice": (lambda m, x, y: F.relu(m.same(F.relu(m.same(x)))), 4),
}
SIGNED: dict[str, tuple[Call, int]] = {
    "LeakyReLU": (lambda m, x, y: F.leaky_relu(m.norm(m.up(y)), 0.2), 4),
    "PReLU": (lambda m, x, y: m.prelu(m.wide(y)), 4),
    "in front of a convolution that pads": (lambda m, x, y: F.relu(m.beside(m.norm(m.up(y)))), 4),
    "as it is, beside a skip": (lambda m, x, y: torch.cat([x, m.up(y)], 1), 8),
    "behind a batch norm of activations": (lambda m, x, y: F.relu(m.up(m.shift(y))), 4),
    "of a value with a sign": (lambda m, x, y: F.relu(m.up(m.shift(y - 2 * y.flip(2)))), 4),
}
EVERY = {**PLAIN, **SIGNED}


def net(name: str) -> Any:
    call, channels = EVERY[name]
    model = seeded(lambda: Net(call, channels))
    model.shift = nn.BatchNorm2d(6)
    model.shift.running_mean.normal_(0, 0.3)
    return model.eval()


def chip(name: str) -> Any:
    return "generic" if name in SIGNED else UNPAIRED


@pytest.mark.parametrize("name", EVERY)
def test_layers_that_can_spike_take_its_place(name: str) -> None:
    assert not in_front(net(name), images(2)).nodes(nn.ConvTranspose2d)
    assert fxsnn.check(net(name), target=chip(name), bits=4, example=images(2)).ok


@cases(
    "name",
    EVERY,
    quick=(
        "groups and output_padding",
        "told the size of its output",
        "added to a convolution",
        "in front of a convolution that pads",
        "as it is, beside a skip",
    ),
)
def test_networks_with_it_are_converted(name: str, convert: Any, tmp_path: Path) -> None:
    """Their spikes are the same in all engines, in files and for the reader in numpy."""
    model, x = net(name), images(8)
    snn = convert(model, target=chip(name), bits=4, timesteps=64, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.97
    assert all_spike_alike(snn, x[:2])
    path = snn.save(tmp_path / "net.fxsnn")
    assert read_network.main(str(path)) == 0
    assert fxsnn.verify(path).ok
    assert torch.equal(fxsnn.load(path)(x), snn(x))


@pytest.mark.parametrize("name", ["a batch norm", "added to a skip"])
def test_it_keeps_its_name(name: str, convert: Any) -> None:
    snn = convert(net(name), target="generic", bits=4, timesteps=8, calibration_data=images(16))
    assert {"wide", "up"}.intersection(name for name, _ in snn.graph.module.named_modules())
    kinds = [type(snn.graph[node]) for node in snn.graph.nodes(SpikeConv2d, SpikeAdd)]
    assert kinds[2] is (SpikeAdd if "added" in name else SpikeConv2d)


@pytest.mark.parametrize("name", ["a batch norm", "beside a skip", "two of them added"])
def test_a_batch_norm_behind_it_is_folded_into_it(name: str) -> None:
    passes = fxsnn.pipeline(target=UNPAIRED, bits=4, calibration_data=images()).until("fold-batch-norm")
    graph = passes.run(net(name))
    assert len(graph.nodes(FoldedConv2d)) == 1
    assert not graph.nodes(Affine)


def test_its_stages_are_fine_tuned(convert: Any) -> None:
    model, x = net("beside a skip"), images(32)
    labels = torch.arange(32) % 5
    tuned = convert(
        model, target="generic", bits=2, timesteps=8, calibration_data=x,
        finetune=fxsnn.Finetune((x, labels), epochs=1, progress=False),
    )  # fmt: skip
    (up,) = (layer for name, layer in tuned.graph.module.named_modules() if name == "up")
    assert up.codes.shape == (4, 6, 2, 2)


def test_what_is_told_the_size_of_its_output_takes_images_of_one_size() -> None:
    assert in_front(net("told the size of its output"), images()).nodes(FixedSize)
    assert not in_front(net("a ReLU"), images()).nodes(FixedSize)


def test_without_a_size_of_images_that_is_refused() -> None:
    report = fxsnn.check(net("told the size of its output"), target=UNPAIRED, bits=4)
    assert "odd (test_rewrite_transposed.py:" in str(report)
    assert "the size of its output is given in the call, and the size of the map that it reads is not known" in str(
        report
    )
    assert fxsnn.check(net("a ReLU"), target=UNPAIRED, bits=4).ok


def test_signals_are_transposed_on_maps_of_one_row(convert: Any) -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.ConvTranspose1d(2, 4, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose1d(4, 6, 5, 3),
            nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 62, 5),
        )
    )  # fmt: skip
    x = torch.randn(16, 2, 10)
    snn = convert(model, target="generic", bits=4, timesteps=96, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    assert not snn.graph.nodes(nn.ConvTranspose1d)


class Told(nn.Module):
    """2x15: signals are made short, and as long again as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 4, 3, 2, 1)
        self.up, self.fc = nn.ConvTranspose1d(4, 4, 3, 2, 1), nn.Linear(4 * 15, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        return self.fc(F.relu(self.up(F.relu(self.down(x)), output_size=x.shape[2:]) + x).flatten(1))


def test_signals_may_be_told_the_size_of_their_output(convert: Any) -> None:
    model, x = seeded(Told), torch.randn(16, 2, 15)
    snn = convert(model, target="generic", bits=4, timesteps=96, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    assert snn.image_size == (2, 15)


def test_the_last_one_stays_in_the_tail(convert: Any, tmp_path: Path) -> None:
    """An autoencoder: the transposed convolution that gives the images back is the user's own, in files, too."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1),
            nn.ReLU(), nn.ConvTranspose2d(6, 3, (3, 2), (2, 1), (1, 0), (1, 0), 3), nn.Sigmoid(),
        )
    )  # fmt: skip
    x = images(16)
    snn = convert(model, target="generic", bits=4, timesteps=96, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    assert isinstance(snn.get_submodule("4"), nn.ConvTranspose2d)
    assert torch.equal(fxsnn.load(snn.save(tmp_path / "net.fxsnn"))(x), snn(x))


def test_a_chip_without_joins_has_it_where_it_has_the_kernel() -> None:
    """What it computes is a convolution of the same kernel, whose input has zeros in it."""
    layers = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.ReLU()
    model = nn.Sequential(*layers, nn.Conv2d(4, 5, 1)).eval()
    assert fxsnn.check(model, target="hw_v1.0", bits=2, example=images()).ok
    model[2] = nn.ConvTranspose2d(4, 4, 4, 2, 1).eval()
    report = fxsnn.check(model, target="hw_v1.0", bits=2, example=images())
    assert "2: its kernel is 4x4; hw_v1.0 supports 3x3, 5x5" in str(report)
    assert fxsnn.check(model, target="hw_v1.6", bits=2, example=images()).ok
