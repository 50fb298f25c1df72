"""Graphs as SVG: every node a box, every edge an arrow, nothing on top of anything else."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import fxsnn
from fxsnn.display import Box, Drawing, draw
from fxsnn.display.drawing import COLOURS
from fxsnn.errors import FileError
from tests.nets import Small, images, seeded

SVG = "{http://www.w3.org/2000/svg}"
Rectangle = tuple[float, float, float, float]


def box(name: str, *reads: int, kind: str = "other") -> Box:
    return Box(name, "label", f"details of {name}", kind, reads)


def rectangles(drawing: Drawing) -> list[tuple[str, Rectangle]]:
    """Details, and left, top, width and height, of every box."""
    found = []
    for group in ElementTree.fromstring(drawing.svg).iter(f"{SVG}g"):
        title, rectangle = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert rectangle is not None
        left, top, width, height = (float(rectangle.attrib[key]) for key in ("x", "y", "width", "height"))
        found.append((title.text or "", (left, top, width, height)))
    return found


def arrows(drawing: Drawing) -> list[str]:
    paths = ElementTree.fromstring(drawing.svg).iter(f"{SVG}path")
    return [path.attrib["d"] for path in paths if "marker-end" in path.attrib]


def ends(path: str) -> tuple[tuple[float, float], float]:
    """Where an arrow starts, and the height at which it ends."""
    start = re.match(r"M([\d.]+) ([\d.]+)", path)
    end = re.search(r"V([\d.]+)$", path)
    assert start is not None
    assert end is not None
    return (float(start[1]), float(start[2])), float(end[1])


@st.composite
def networks(draw_from: st.DrawFn) -> list[Box]:
    """Boxes that read any boxes before them."""
    count = draw_from(st.integers(1, 30))
    return [
        box(f"n{i}", *sorted(draw_from(st.sets(st.integers(0, i - 1), max_size=3)) if i else ())) for i in range(count)
    ]


@given(networks(), st.integers(2, 12))
def test_boxes_never_overlap_and_every_edge_is_an_arrow_from_box_to_box(boxes: list[Box], rows: int) -> None:
    drawing = draw(boxes, rows)
    stood = [place for _, place in rectangles(drawing)]
    assert len(stood) == len(boxes)
    for i, (left, top, width, height) in enumerate(stood):
        for other_left, other_top, _, _ in stood[:i]:
            assert abs(left - other_left) >= width or abs(top - other_top) >= height
    starts = {(round(left + width / 2), round(top + height)) for left, top, width, height in stood}
    tops = {round(top) for _, top, _, _ in stood}
    paths = arrows(drawing)
    assert len(paths) == sum(len(one.reads) for one in boxes)
    for path in paths:
        start, end = ends(path)
        assert start in starts
        assert end in tops


@given(networks(), st.integers(2, 12))
def test_all_of_it_lies_inside_the_picture(boxes: list[Box], rows: int) -> None:
    drawing = draw(boxes, rows)
    attributes = ElementTree.fromstring(drawing.svg).attrib
    for left, top, width, height in (place for _, place in rectangles(drawing)):
        assert left >= 0
        assert left + width <= float(attributes["width"])
        assert top + height <= float(attributes["height"])


def test_a_box_stands_below_all_that_it_reads() -> None:
    top = {name[-1]: place[1] for name, place in rectangles(draw([box("a"), box("b", 0), box("c", 0, 1)]))}
    assert top["a"] < top["b"] < top["c"]


def test_what_is_too_long_goes_on_in_the_next_column() -> None:
    chain = [box("n0"), *(box(f"n{i}", i - 1) for i in range(1, 10))]
    assert len({place[0] for _, place in rectangles(draw(chain, rows=5))}) == 2
    assert len({place[0] for _, place in rectangles(draw(chain, rows=10))}) == 1


def test_nothing_is_drawn_of_no_boxes() -> None:
    assert not rectangles(draw([]))


def test_names_are_escaped_and_long_ones_keep_their_end() -> None:
    text = draw([Box("<script>", "a & b", "d", "other", ()), Box("x" * 40 + "conv1", "", "e", "other", ())]).svg
    assert "<script>" not in text
    assert "a &amp; b" in text
    assert "…" + "x" * 24 + "conv1<" in text


def test_the_kinds_that_occur_are_explained() -> None:
    drawing = draw([box("a", kind="weights"), box("b", 0, kind="pooling")])
    assert ">weights</text>" in drawing.svg
    assert ">pooling</text>" in drawing.svg
    assert ">spiking</text>" not in drawing.svg
    assert COLOURS["pooling"] in drawing.svg


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    drawing = draw([box("a")])
    assert drawing.save(tmp_path / "graph.svg").read_text() == drawing.svg == drawing._repr_svg_()
    with pytest.raises(FileError, match="nowhere"):
        drawing.save(tmp_path / "nowhere" / "graph.svg")


def test_graphs_show_their_layers_at_every_stage() -> None:
    *_, last = fxsnn.pipeline(target="hw_v1.0", bits=2, calibration_data=images()).steps(seeded(Small))
    before, after = last.before.draw().svg, last.after.draw().svg
    assert "LowBitConv2d 3→8, 3×3, 2 bit" in before
    assert "ClippedReLU ≤ " in before
    assert "SpikeConv2d 3→8, 3×3, 2 bit" in after
    assert "SpikeAvgPool2d 2<" in after
    assert len(rectangles(last.after.draw())) == len(last.after)


def test_a_residual_network_is_drawn_with_its_shortcuts() -> None:
    graph = fxsnn.capture(torchvision.models.resnet18())
    drawing = graph.draw()
    assert len(rectangles(drawing)) == len(graph)
    assert len(arrows(drawing)) == sum(len(node.all_input_nodes) for node in graph)
    assert "Conv2d 64→128, 3×3 /2" in drawing.svg


def test_in_short_it_has_no_picture_in_it() -> None:
    assert repr(Drawing("<svg/>")) == "Drawing()"


def arrivals(drawing: Drawing) -> list[tuple[float, float]]:
    """Where arrows end, and how far they go straight down before that."""
    found = []
    for path in arrows(drawing):
        numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
        curved = "C" in path
        found.append((numbers[-3] if curved else numbers[0], numbers[-1] - numbers[-2] if curved else 0))
    return found


def test_arrows_that_arrive_at_a_box_have_heads_of_their_own() -> None:
    """A skip connection ends beside what it passes, and from above, so that its head is not turned aside."""
    drawing = draw([box("input"), box("conv", 0), box("sum", 1, 0)])
    places = dict(rectangles(drawing))
    left, top, width, _ = places["details of sum"]
    into_sum = [place for path, place in zip(arrows(drawing), arrivals(drawing), strict=True) if ends(path)[1] == top]
    (straight, _), (aside, down) = sorted(into_sum)
    assert straight == left + width / 2
    assert straight + 12 <= aside <= left + width
    assert down >= 7


def test_what_comes_from_the_left_arrives_on_the_left() -> None:
    drawing = draw([box("a"), box("b", 0), box("c", 0), box("d", 0), box("sum", 1, 2, 3), box("other", 3, 1)])
    left, top, width, _ = dict(rectangles(drawing))["details of other"]
    middle = left + width / 2
    into = [
        place - middle
        for path, (place, _) in zip(arrows(drawing), arrivals(drawing), strict=True)
        if ends(path)[1] == top and abs(place - middle) <= width / 2
    ]
    assert len(into) == len(set(into)) == 2


def test_a_long_label_is_not_cut_where_it_fits() -> None:
    label = "SynapseConv2d 128→128, 3×3 /2, 4 bit"
    assert label in draw([Box("name", label, "", "spiking", ())]).svg
    assert "…" in draw([Box("name", label + " and more", "", "spiking", ())]).svg
