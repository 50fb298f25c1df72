"""The report of networks with sums and shared readers: every figure once more by hand, nothing counted twice."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import fxsnn
from fxsnn.graph import Graph
from fxsnn.layers import Channels, Concat, Integers, Repeat
from fxsnn.report.activity import depth, fan_outs, sources
from tests.nets import images
from tests.residual import RESIDUAL

pytestmark = pytest.mark.filterwarnings("ignore:the spiking network cannot be saved")
T = 8
IMAGES = images(6)


@cache
def converted(name: str) -> fxsnn.SpikingNetwork:
    chip = replace(fxsnn.get_target("generic"), core_inputs=1024, core_outputs=256)
    options: Any = {"target": chip, "bits": 3, "timesteps": T, "correction": None}
    return fxsnn.convert(RESIDUAL[name](), calibration_data=IMAGES, **options)


def fed(conv: Any, spikes: Tensor) -> float:
    """Additions for spikes [T, N, C, H, W], spike by spike, of a convolution without groups."""
    reached = nn.functional.conv_transpose2d(
        torch.ones(1, 1, *[-(-size // conv.stride[0]) for size in spikes.shape[3:]]),
        torch.ones(1, 1, *conv.kernel_size),
        stride=conv.stride,
        padding=conv.padding,
        output_padding=(spikes.shape[3] - 1 + 2 * conv.padding[0] - conv.kernel_size[0] + 1) % conv.stride[0],
    )
    return float((spikes * reached).sum()) * conv.out_channels


def test_every_figure_by_hand() -> None:
    snn = converted("blocks")
    spikes, graph = snn.simulate(IMAGES).spikes, snn.graph
    report = snn.profile(IMAGES)
    rows = {row.layer: row for row in report.layers}
    assert [(name, row.kind, row.fan_in, row.rows, row.weight_memory, row.neurons) for name, row in rows.items()] == [
        ("stem", "SpikeConv2d", 27, 81, 6 * 27 * 3, 6 * 144),
        ("block1.conv1", "SpikeConv2d", 54, 162, 6 * 54 * 3, 6 * 144),
        ("block1.conv2", "SynapseConv2d", 54, 162, 6 * 54 * 3, None),
        ("block1.add", "SpikeAdd", 55, 163, 0, 6 * 144),
        ("block2.conv1", "SpikeConv2d", 54, 162, 8 * 54 * 3, 8 * 36),
        ("block2.conv2", "SynapseConv2d", 72, 216, 8 * 72 * 3, None),
        ("block2.down.0", "SynapseConv2d", 6, 18, 8 * 6 * 3, None),
        ("block2.add", "SpikeAdd", 78, 234, 0, 8 * 36),
    ]
    read = {
        "block1.conv1": "stem", "block1.conv2": "block1.conv1", "block2.conv1": "block1.add",
        "block2.conv2": "block2.conv1", "block2.down.0": "block1.add",
    }  # fmt: skip
    operations = {name: fed(graph[name], spikes[source]) / len(IMAGES) for name, source in read.items()}
    operations |= {"block1.add": float(spikes["stem"].sum()) / len(IMAGES), "block2.add": 0.0}
    for name, expected in operations.items():
        seen = rows[name].activity
        assert seen is not None
        assert seen.synaptic_operations == pytest.approx(expected), name
        assert not seen.reads_images
        assert (seen.firing_rate is None) == (name not in spikes)
    totals = report.totals()
    assert totals.synaptic_operations == pytest.approx(sum(operations.values()))
    stem = rows["stem"].activity
    assert stem is not None
    assert totals.input_operations == stem.synaptic_operations
    assert totals.neurons == sum(one[0, 0].numel() for one in spikes.values()) == 3 * 6 * 144 + 2 * 8 * 36
    assert totals.cores == sum(row.cores or 0 for row in report.layers)
    assert all((row.cores is None) == row.kind.startswith("Synapse") for row in report.layers)


def test_sums_say_what_they_add_and_how_far_whole_numbers_are_off() -> None:
    snn = converted("blocks")
    add: Any = snn.graph["block1.add"]
    (conv, as_it_is), (one, other) = (
        next(row.adds for row in snn.report.layers if row.layer == name) for name in ("block1.add", "block2.add")
    )
    assert (conv.name, conv.error, as_it_is.name) == ("block1.conv2", None, "stem")
    (place,) = (i for i, read in enumerate(snn.graph.calls("block1.add")[0].all_input_nodes) if read.name == "stem")
    assert as_it_is.gain == (int(add.weights[place].min()), int(add.weights[place].max()))
    off = (add.weights[place] * add.step / add.real_weights[place] - 1).abs()
    assert as_it_is.error == pytest.approx(float(off.max()))
    assert 0 < float(off.max()) < 0.5
    assert {one.name, other.name} == {"block2.conv2", "block2.down.0"}
    assert (one.error, other.error) == (None, None)


def test_it_is_shown_in_every_form() -> None:
    report = converted("blocks").profile(IMAGES)
    error = f"{report.layers[3].adds[1].error:.2%}"
    for text in (str(report), report.to_markdown(), report.to_html()):
        assert "Sums" in text
        assert error in text
    assert report.to_dict()["layers"][3]["adds"][0]["error"] is None
    axes = report.plot(Figure().subplots())
    assert axes.get_xlabel() or axes.get_ylabel()


def test_a_chain_has_no_table_of_sums(convert: Any) -> None:
    assert "Sums" not in str(
        convert(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval(), calibration_data=IMAGES).report
    )


def test_sources_of_sums_are_what_they_add_as_it_is() -> None:
    assert sources(converted("blocks").graph) == {
        "stem": (None,),
        "block1.conv1": ("stem",),
        "block1.conv2": ("block1.conv1",),
        "block1.add": ("stem",),
        "block2.conv1": ("block1.add",),
        "block2.conv2": ("block2.conv1",),
        "block2.down.0": ("block1.add",),
        "block2.add": (),
    }
    assert sources(converted("first is a sum").graph) == {"one": (None,), "other": (None,), "add_1": (None,)}


@pytest.mark.parametrize(("name", "longest"), [("blocks", 5), ("first is a sum", 1), ("no weights", 6), ("dense", 3)])
def test_depth_is_that_of_the_longest_way(name: str, longest: int) -> None:
    assert depth(converted(name).graph) == longest


@pytest.mark.parametrize("name", list(RESIDUAL))
def test_an_event_costs_its_fan_out_over_all_its_readers(name: str) -> None:
    graph = converted(name).graph
    sizes: dict[str | None, tuple[int, ...]] = {None: (3, 12, 12)}
    sizes |= {key: tuple(one.shape[2:]) for key, one in converted(name).simulate(IMAGES[:1]).spikes.items()}
    read = sources(graph)
    for node in graph.nodes(Integers):
        layer = graph.name(node)
        found = fan_outs(graph, node, sizes)
        assert set(found) == set(read[layer])
        assert all(tuple(counts.shape) == sizes[source] for source, counts in found.items())
        assert all(float(counts.max()) >= 1 for counts in found.values())
        if layer.endswith("add"):
            assert all(bool((counts == 1).all()) for counts in found.values())
        elif layer == "block2.down.0":  # every second row and column, eight neurons each
            (counts,) = found.values()
            assert counts[0, :2, :2].tolist() == [[8, 0], [0, 0]]


def test_wiring_is_passed_through_and_costs_nothing() -> None:
    """Channels that are read twice and places that are repeated are events as often."""
    graph: Graph = converted("blocks").graph.copy()
    node = graph.calls("block1.conv2")[0]
    before = fan_outs(graph, node, {"block1.conv1": (6, 6, 6)})["block1.conv1"]
    source = node.all_input_nodes[0]
    node.replace_input_with(source, graph.insert_after(source, "twice", Repeat(2, 1), [node]))
    node.replace_input_with(
        node.all_input_nodes[0],
        graph.insert_after(node.all_input_nodes[0], "c", Channels(torch.tensor([5, 5, 0, 1, 2, 3])), [node]),
    )
    graph.module.recompile()
    (after,) = fan_outs(graph, node, {"block1.conv1": (6, 6, 6)}).values()
    assert sources(graph)["block1.conv2"] == ("block1.conv1",)
    assert float(after[4].sum()) == 0
    torch.testing.assert_close(after[5], 2 * after[0])
    torch.testing.assert_close(after[0], after[1])
    assert float(after[1].sum()) > float(before[1].sum())


def test_both_inputs_of_a_concatenation_are_sources() -> None:
    graph: Graph = converted("no weights").graph.copy()
    node = graph.calls("left")[0]
    one, other = graph.calls("one")[0], graph.calls("add_1")[0]
    with graph.module.graph.inserting_before(node):
        graph.module.add_submodule("cat", Concat())
        cat = graph.module.graph.call_module("cat", (one, other))
    node.replace_input_with(node.all_input_nodes[0], cat)
    layer: Any = graph[node]
    layer.codes = torch.cat([layer.codes, layer.codes], 1)
    assert sources(graph)["left"] == ("one", "add_1")
    found = fan_outs(graph, node, {"one": (4, 12, 12), "add_1": (4, 12, 12)})
    assert {float(counts.unique()) for counts in found.values()} == {4.0}
