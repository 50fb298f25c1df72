"""What only puts numbers elsewhere is a layer that says so, however it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.checking import rewrite_in_front
from fxsnn.layers import (
    Channels,
    Concat,
    FixedSize,
    FlattenMaps,
    PixelShuffle,
    Places,
    Repeat,
    Select,
    SpikeAdd,
    Spread,
    Turn,
    Wiring,
)
from fxsnn.passes import FRONT_END, Canonicalize, CheckConvRelu, RecognizeWiring
from tests.engines import all_spike_alike
from tests.joining import UNPAIRED, correlation, joined, rows
from tests.nets import images, in_front, seeded
from tests.sharing import cases


def shuffled(x: Tensor, groups: int) -> Tensor:
    """A channel shuffle, as ShuffleNet writes it."""
    count, channels, height, width = x.size()
    x = x.view(count, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(count, -1, height, width)


ONE: dict[str, tuple[Any, int, list[type[Wiring]]]] = {
    "cat": (lambda m, x, y: torch.cat([x, y.relu()], 1), 8, [Concat]),
    "cat from behind": (lambda m, x, y: torch.cat((x, y.relu(), x), dim=-3), 12, [Concat, Channels]),
    "cat of one": (lambda m, x, y: torch.cat([x, x, x], 1), 12, [Channels]),
    "cat of what is the same": (lambda m, x, y: torch.cat([x, x[:, :], y.relu()], 1), 12, [Concat, Channels]),
    "a slice": (lambda m, x, y: x[:, 1:3], 2, [Channels]),
    "every second channel": (lambda m, x, y: x[:, ::2], 2, [Channels]),
    "chunk": (lambda m, x, y: x.chunk(2, 1)[1], 2, [Channels]),
    "split": (lambda m, x, y: torch.split(x, [1, 3], dim=1)[1], 3, [Channels]),
    "shuffle": (lambda m, x, y: shuffled(x, 2), 4, [Channels]),
    "shuffle as a layer": (lambda m, x, y: nn.functional.channel_shuffle(x, 2), 4, [Channels]),
    "more channels": (lambda m, x, y: F.pad(x, (0, 0, 0, 0, 1, 3)), 8, [Channels]),
    "more channels of every second place": (
        lambda m, x, y: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
        8,
        [Places, Channels],
    ),
    "flip of channels": (lambda m, x, y: x.flip(1), 4, [Channels]),
    "nearest": (lambda m, x, y: F.interpolate(x, scale_factor=2, mode="nearest"), 4, [Repeat]),
    "repeated": (lambda m, x, y: x.repeat_interleave(2, 2).repeat_interleave(3, dim=3), 4, [Repeat, Repeat]),
    "pixel shuffle": (lambda m, x, y: F.pixel_shuffle(x, 2), 1, [PixelShuffle]),
    "pixel unshuffle": (lambda m, x, y: F.pixel_unshuffle(x, 2), 16, [PixelShuffle]),
    "every second row": (lambda m, x, y: x[:, :, ::2], 4, [Places]),
    "a crop": (lambda m, x, y: x[:, :, 2:, 1:], 4, [Places]),
    "a crop of many": (lambda m, x, y: F.interpolate(x, scale_factor=2)[:, :, 14:, 1:], 4, [Repeat, Places]),
    "a crop at all sides": (lambda m, x, y: x[:, :, 1:-1, 2:-1], 4, [Spread]),
    "a crop of some rows": (lambda m, x, y: x[:, :, 3:9], 4, [Spread]),
    "padded beside others": (
        lambda m, x, y: torch.cat([F.pad(x[:, :, 2:, 1:], (1, 0, 1, 1)), y.relu()], 1),
        8,
        [Places, Spread, Concat],
    ),
    "mirrored": (lambda m, x, y: torch.flip(x, [3]), 4, [Turn]),
    "transposed": (lambda m, x, y: x.transpose(2, 3), 4, [Turn]),
    "reflected": (lambda m, x, y: F.pad(x, (1, 2, 0, 3), mode="reflect"), 4, [Select]),
    "reflected, as a layer": (lambda m, x, y: nn.ReflectionPad2d(2)(x), 4, [Select]),
    "the edge again": (lambda m, x, y: F.pad(x, (1, 1, 1, 1), mode="replicate"), 4, [Select]),
    "round about": (lambda m, x, y: x.roll(1, 3), 4, [Select]),
    "nearest, not whole": (lambda m, x, y: F.interpolate(x, size=(17, 9), mode="nearest"), 4, [Select]),
    "there and back": (lambda m, x, y: shuffled(shuffled(x, 2), 2), 4, []),
    "nothing moves": (lambda m, x, y: x[:, :, :, :].reshape(x.shape), 4, []),
}


@pytest.mark.parametrize("name", ONE)
def test_it_is_a_layer_of_its_kind(name: str) -> None:
    function, channels, kinds = ONE[name]
    graph = in_front(joined(function, channels), images())
    assert [type(graph[node]) for node in graph.nodes(Wiring)] == kinds
    assert not CheckConvRelu().findings(graph)


def test_without_a_size_of_images_it_is_the_same() -> None:
    for name in ("chunk", "shuffle", "nearest", "cat", "a crop at all sides"):
        function, channels, kinds = ONE[name]
        graph = rewrite_in_front(fxsnn.capture(joined(function, channels)), FRONT_END)
        assert [type(graph[node]) for node in graph.nodes(Wiring)] == kinds, name


def test_reflections_are_seen_where_the_size_of_images_is_known() -> None:
    report = fxsnn.check(joined(ONE["reflected"][0]), target="generic", bits=4)
    assert "its mode is 'reflect'. Pad with zeros, or give example=" in str(report)


@pytest.mark.parametrize("front", [nn.ReflectionPad2d(1), nn.Sequential(nn.BatchNorm2d(3), nn.ReflectionPad2d(1))])
def test_images_may_be_reflected_at_their_edges(convert: Any, front: nn.Module) -> None:
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    model, x = seeded(lambda: nn.Sequential(front, *layers)), images(16)
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_what_is_so_at_one_size_only_takes_images_of_that_size() -> None:
    function = lambda m, x, y: x.view(-1, 2, 2, 12, 12).transpose(1, 2).reshape(-1, 4, 12, 12)  # noqa: E731
    graph = in_front(joined(function), images())
    assert [type(graph[node]) for node in graph.nodes(Channels, FixedSize)] == [FixedSize, Channels]
    assert not in_front(joined(ONE["chunk"][0], 2), images()).nodes(FixedSize)


@pytest.mark.parametrize(
    ("function", "channels", "words"),
    [
        (lambda m, x, y: torch.cat([x, y], 1), 8, "second"),
        (lambda m, x, y: torch.cat([x, y.relu()], 2), 4, "cat is not supported"),
        (lambda m, x, y: torch.stack([x, y.relu()], 1).flatten(1, 2), 8, "stack is not supported"),
        (lambda m, x, y: F.interpolate(x, scale_factor=2, mode="bilinear"), 4, "interpolate is not supported"),
    ],
    ids=["no activation", "rows", "a new axis", "between neighbours"],
)
def test_what_is_no_wiring_is_refused(function: Any, channels: int, words: str) -> None:
    report = fxsnn.check(joined(function, channels), target=UNPAIRED, bits=4, example=images())
    assert not report.ok
    assert words in str(report)


def test_a_squeeze_is_not_taken_for_nothing_where_sizes_are_not_known() -> None:
    """It does nothing to maps of most sizes, and drops a dimension of those of one row."""
    graph = RecognizeWiring()(Canonicalize()(fxsnn.capture(joined(lambda m, x, y: x.squeeze(3)))).after).after
    assert any(node.target == "squeeze" for node in graph)


def test_images_are_not_put_beside_spikes() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            return self.fc(F.relu(self.two(torch.cat([x, F.relu(self.one(x))], 1))).mean((2, 3)))

    report = fxsnn.check(Beside().eval(), target="generic", bits=4, example=images())
    assert "it puts the images beside spikes" in str(report)


@cases(
    "name",
    [
        "cat",
        "cat from behind",
        "cat of one",
        "cat of what is the same",
        "shuffle",
        "nearest",
        "pixel unshuffle",
        "a crop of many",
        "a crop at all sides",
        "padded beside others",
        "mirrored",
        "reflected",
        "more channels",
    ],
    quick=("cat from behind", "nearest", "pixel unshuffle"),
)
def test_a_network_with_wiring_is_converted(convert: Any, name: str) -> None:
    function, channels, _ = ONE[name]
    model, x = joined(function, channels), images(16)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_spikes_of_unlike_value_behind_one_another_are_worth_what_they_are(convert: Any) -> None:
    """One branch is 20 times as strong as the other: with one value for both, either would drown."""
    model, x = joined(lambda m, x, y: torch.cat([20 * x, y.relu()], 1), 8), images(16)
    with torch.no_grad():
        model.last.weight[:, :4] /= 20
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    values = [snn.graph[name].spike_value.mean() for name in ("first", "second")]
    assert values[0] > 3 * values[1]


def test_a_single_channel_in_front_of_others_is_worth_what_it_is(convert: Any) -> None:
    """It is 20 times as strong as they are; it was taken for images, which have one value for all channels."""
    model, x = joined(lambda m, x, y: torch.cat([20 * x[:, :1], y.relu()], 1), 5), images(16)
    with torch.no_grad():
        model.last.weight[:, :1] /= 20
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    (cat,) = snn.graph.nodes(Concat)
    each = torch.cat([snn.graph[node].spike_value for node in snn.graph.inputs(cat)])  # the scale has neurons
    assert float(snn.graph["last"].input_unit) == pytest.approx(float(each.mean()))


def test_a_sum_of_what_is_the_same_once_wiring_that_moves_nothing_is_gone_reads_it_once(convert: Any) -> None:
    model, x = joined(lambda m, x, y: F.relu(y + x - 0.5 * x[:, :4])), images(16)
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    (add,) = snn.graph.nodes(SpikeAdd)
    assert len(snn.graph.inputs(add)) == 2
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_a_chip_may_refuse_concatenation() -> None:
    chip = fxsnn.HardwareTarget("chain", joins=())
    report = fxsnn.check(joined(ONE["cat"][0], 8), target=chip, bits=4, example=images())
    assert "it concatenates several layers; chain has layers that read one other only" in str(report)
    assert fxsnn.check(joined(ONE["cat"][0], 8), target="hw_v1.0", bits=2, example=images()).ok


# Rows of features ----------------------------------------------------------------------------------------------------

BOTH: list[type[Wiring]] = [FlattenMaps, FlattenMaps, Concat]
ROWS: dict[str, tuple[Any, int, list[type[Wiring]]]] = {
    "flattened maps": (lambda m, x, y: torch.cat([x.flatten(1), y.flatten(1)], 1), 726, BOTH),
    "views": (lambda m, x, y: torch.cat((x.view(len(x), -1), y.flatten(1)), -1), 726, BOTH),
    "pooled maps": (lambda m, x, y: torch.cat([F.avg_pool2d(x, 4).flatten(1), y.flatten(1)], 1), 186, BOTH),
    "means": (lambda m, x, y: torch.cat([x.mean((2, 3)), y.mean((2, 3))], 1), 10, BOTH),
    "a vector beside maps": (
        lambda m, x, y: torch.cat([F.relu(m.vector(y.flatten(1))), x.flatten(1)], 1), 583, [FlattenMaps, Concat]
    ),
    "a part of maps": (lambda m, x, y: y.flatten(1)[:, 30:110], 80, [FlattenMaps, Channels]),
    "a part of a vector": (lambda m, x, y: F.relu(m.vector(y.flatten(1))).chunk(2, 1)[0], 4, [Channels]),
    "parts of maps": (
        lambda m, x, y: torch.cat([y.flatten(1)[:, ::2], x.flatten(1)[:, :20]], 1), 95,
        [FlattenMaps, Channels, FlattenMaps, Channels, Concat],
    ),
}  # fmt: skip


@pytest.mark.parametrize("hidden", [True, False], ids=["hidden", "tail"])
@pytest.mark.parametrize("name", ROWS)
def test_rows_are_layers_of_their_kind(name: str, hidden: bool) -> None:
    function, features, kinds = ROWS[name]
    graph = in_front(rows(function, features, hidden), images(2))
    assert [type(graph[node]) for node in graph.nodes(Wiring)] == kinds
    assert not CheckConvRelu().findings(graph)


@cases(
    "name, hidden",
    [(name, hidden) for name in ROWS for hidden in (True, False)],
    quick=(("flattened maps", True), ("a vector beside maps", True), ("pooled maps", False), ("parts of maps", False)),
)
def test_rows_are_converted(name: str, hidden: bool, convert: Any, tmp_path: Path) -> None:
    """Their spikes are the same in all engines, in files and for the reader in numpy."""
    function, features, _ = ROWS[name]
    model, x = rows(function, features, hidden), images(8)
    snn = convert(model, target="generic", bits=4, timesteps=64, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    assert all_spike_alike(snn, x[:2])
    path = snn.save(tmp_path / "net.fxsnn")
    assert read_network.main(str(path)) == 0
    found = fxsnn.load(path)
    assert torch.equal(found(x), snn(x))
    assert found.save(tmp_path / "again.fxsnn").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("hidden", [True, False], ids=["hidden", "tail"])
def test_features_of_unlike_value_are_worth_what_they_are(hidden: bool, convert: Any) -> None:
    """Some maps are 400 times as strong as others beside them: with one value for all, either would drown."""
    model, x = rows(*ROWS["flattened maps"][:2], hidden), images(16)
    with torch.no_grad():
        model.first.weight *= 20
        model.first.bias *= 20
        model.second.weight /= 400
        model.second.bias /= 20
        reader = model.hidden if hidden else model.fc
        reader.weight[:, :576] /= 20
        reader.weight[:, 576:] *= 20
    snn = convert(model, target="generic", bits=4, timesteps=256, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98
    values = [snn.graph[name].spike_value.mean() for name in ("first", "second")]
    assert values[0] > 50 * values[1]
    if hidden:
        worth = torch.cat([snn.graph["first"].spike_value.repeat_interleave(144),
                           snn.graph["second"].spike_value.repeat_interleave(25)])  # fmt: skip
        assert float(snn.graph["hidden"].input_unit) == pytest.approx(float(worth.mean()))


def test_a_value_with_a_sign_is_flattened_beside_another(convert: Any) -> None:
    function = lambda m, x, y: torch.cat([F.leaky_relu(m.second(x), 0.3).flatten(1), y.flatten(1)], 1)  # noqa: E731
    model, x = rows(function, 300), images(8)
    snn = convert(model, target="generic", bits=4, timesteps=96, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_rows_of_maps_of_unknown_size_are_refused() -> None:
    report = fxsnn.check(rows(*ROWS["flattened maps"][:2]), target=UNPAIRED, bits=4)
    assert "it puts flattened maps behind one another, whose size is not known. Give example=..." in str(report)


def test_such_a_network_takes_images_of_one_size(convert: Any) -> None:
    snn = convert(rows(*ROWS["means"][:2]), target="generic", bits=4, timesteps=4, calibration_data=images(4))
    with pytest.raises(fxsnn.errors.DataError, match=r"\[N, 3, 12, 12\]"):
        snn(images(2, size=14))


# Convolutions that pad by numbers of the map --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": "same"}, {"padding": (2, 1), "stride": 2}], ids=str)
@pytest.mark.parametrize("target", ["generic", "hw_v1.0"])
def test_padding_of_a_convolution_by_numbers_of_the_map_is_wiring(
    convert: Any, mode: Any, options: dict[str, Any], target: str
) -> None:
    def conv(channels: int) -> nn.Conv2d:
        return nn.Conv2d(channels, 6, 3, padding_mode=mode, **options)

    x = images(24)
    model = seeded(lambda: nn.Sequential(conv(3), nn.ReLU(), conv(6), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)))
    model(x)
    snn = convert(model, target=target, bits=4, timesteps=128, calibration_data=x)
    assert sum(isinstance(layer, Select) for layer in snn.modules()) == 2
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_signals_are_padded_by_their_own_numbers_too(convert: Any) -> None:
    x = torch.rand(24, 2, 20, generator=torch.Generator().manual_seed(0))
    model = seeded(
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 6, 5, padding=2, padding_mode="circular"), nn.ReLU()),
            *(nn.ReplicationPad1d(1), nn.Conv1d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(120, 5)),
        )
    )
    snn = convert(model, target="generic", bits=4, timesteps=128, calibration_data=x)
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_without_a_size_such_padding_asks_for_one() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()  # fmt: skip
    (finding,) = fxsnn.check(model, target="generic", bits=4).findings
    assert "its padding_mode is 'reflect', and the size of its maps is not known" in finding.problem
    assert "give example=" in finding.remedy
    assert fxsnn.check(model, target="generic", bits=4, example=images()).ok


def test_no_padding_is_none_in_any_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)).eval()
    assert fxsnn.check(model, target="generic", bits=4).ok
