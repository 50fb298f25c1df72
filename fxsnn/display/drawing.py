"""Boxes and arrows as SVG: a layered drawing, top to bottom, in as many columns as it takes to stay legible.

Longest-path layering with placeholders for arrows that pass several layers (Sugiyama, Tagawa and Toda 1981); lanes are
given out first come, first served, which suits networks: they are chains with a few arms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path

from fxsnn.storage import write_whole

_BOX, _LINE, _HEIGHT, _GAP = 208, 22, 40, 22
_MARGIN, _GUTTER, _LEGEND = 16, 56, 26
_TOP = _MARGIN + _LEGEND + _GAP
_LETTERS, _SMALL_LETTERS = 30, 36
_HEAD, _APART = 7, 24
"""Length of an arrow's head, and how far apart arrows arrive at a box."""

# Okabe and Ito's palette, made light enough for black letters.
COLOURS: Mapping[str, str] = {
    "weights": "#bcdcf0",
    "low-bit weights": "#fbe3a6",
    "spiking": "#f6c3a3",
    "batch norm": "#dddddd",
    "activation": "#bfe5d6",
    "pooling": "#ecd3e2",
    "sum, wiring": "#d6d4ee",
    "encode, decode": "#f3efb0",
    "other": "#ffffff",
}


@dataclass(frozen=True)
class Box:
    """A node.

    Attributes:
        name: first line.
        label: second line.
        details: shown when the pointer rests on it.
        kind: one of `COLOURS`.
        reads: places of the boxes that it reads, all before its own.
    """

    name: str
    label: str
    details: str
    kind: str
    reads: tuple[int, ...]


@dataclass(frozen=True)
class Drawing:
    """A picture; a notebook shows it.

    Attributes:
        svg: the picture, as text.
    """

    svg: str = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write it to a file, whole or not at all."""
        return write_whole(path, self.svg.encode())

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass
class _Layout:
    """Where boxes and the arrows that pass them stand.

    Attributes:
        rank: row of each box.
        lane: column of each box.
        passing: for each arrow (source, target) the lane in which it passes the rows between.
        taken: places (row, lane) that are in use.
        boxed: places (row, lane) of boxes.
    """

    rank: list[int] = field(default_factory=list)
    lane: list[int] = field(default_factory=list)
    passing: dict[tuple[int, int], int] = field(default_factory=dict)
    taken: set[tuple[int, int]] = field(default_factory=set)
    boxed: set[tuple[int, int]] = field(default_factory=set)

    def free(self, rows: Iterable[int], wanted: Sequence[int]) -> int:
        """A lane that is free in all these rows: one of the wanted, or the first."""
        rows = list(rows)
        lanes = [*wanted, *range(len(self.taken) + 1)]
        return next(lane for lane in lanes if all((row, lane) not in self.taken for row in rows))

    def comes_from(self, source: int, target: int) -> int:
        """The lane from which an arrow arrives."""
        return self.passing.get((source, target), self.lane[source])

    def places(self, boxes: Sequence[Box]) -> Iterable[tuple[Box, int, int]]:
        """Each box with its row and its column."""
        return zip(boxes, self.rank, self.lane, strict=True)


def _laid_out(boxes: Sequence[Box]) -> _Layout:
    layout = _Layout()
    for box in boxes:
        layout.rank.append(1 + max((layout.rank[source] for source in box.reads), default=-1))
    for place, box in enumerate(boxes):
        row = layout.rank[place]
        sources = sorted(dict.fromkeys(box.reads), key=lambda source: (-layout.rank[source], layout.lane[source]))
        wanted = sorted(layout.lane[source] for source in sources if layout.rank[source] == row - 1)
        wanted += [layout.lane[source] for source in sources]
        lane = layout.free([row], wanted)
        layout.lane.append(lane)
        layout.taken.add((row, lane))
        layout.boxed.add((row, lane))
        for source in sources:
            between = range(layout.rank[source] + 1, row)
            if between:
                passing = layout.free(between, [lane, layout.lane[source]])
                layout.passing[source, place] = passing
                layout.taken |= {(passed, passing) for passed in between}
    return layout


@dataclass(frozen=True)
class _Sheet:
    """Where rows and lanes lie on the paper.

    Attributes:
        rows: rows of a column.
        lefts: left end of each column.
        widths: width of each lane of each column.
    """

    rows: int
    lefts: Sequence[float]
    widths: Sequence[Sequence[float]]

    def x(self, row: int, lane: int) -> float:
        """The middle of a place."""
        column = row // self.rows
        return self.lefts[column] + sum(self.widths[column][:lane]) + self.widths[column][lane] / 2

    def y(self, row: int) -> float:
        """The upper end of a box."""
        return _TOP + (row % self.rows) * (_HEIGHT + _GAP)

    def path(self, stops: Sequence[tuple[int, int]], turns: Counter[int], aside: float) -> str:
        """An arrow through places (row, lane); `turns` counts those that leave each column, to keep them apart.

        It arrives `aside` of the middle of its box, from above, so that its head is seen.
        """
        path = f"M{self.x(*stops[0]):.0f} {self.y(stops[0][0]) + _HEIGHT:.0f}"
        for here, there in pairwise(stops):
            row, next_row, last = here[0], there[0], there == stops[-1]
            x, next_x = self.x(*here), self.x(*there) + (aside if last else 0)
            bottom, top = self.y(row) + _HEIGHT, self.y(next_row)
            end = top if last else top + _HEIGHT
            column = row // self.rows
            if next_row // self.rows != column:
                turn = turns[column]
                turns[column] += 1
                side = self.lefts[column + 1] - _GUTTER / 2 + 6 * (turn % 5 - 2)
                apart = 3 * (turn % 4)
                path += f"V{bottom + 10 + apart:.0f}H{side:.0f}V{top - 12 - apart:.0f}H{next_x:.0f}V{end:.0f}"
            elif x == next_x:
                path += f"V{end:.0f}"
            else:
                down = top - _HEAD
                path += f"V{bottom:.0f}C{x:.0f} {down:.0f} {next_x:.0f} {bottom:.0f} {next_x:.0f} {down:.0f}V{end:.0f}"
        return f'<path d="{path}" fill="none" stroke="#555" stroke-width="1.3" marker-end="url(#arrow)"/>'


def draw(boxes: Sequence[Box], rows: int = 24) -> Drawing:
    """Boxes from top to bottom, arrows from what is read to what reads it.

    Args:
        boxes: in order: each reads only boxes before it.
        rows: rows of a column, at least 2; what is longer goes on in the next column.
    """
    layout = _laid_out(boxes)
    count = 1 + max(layout.rank, default=0)
    columns = -(-count // max(2, rows))
    rows = max(2, -(-count // columns))  # columns of about the same length
    sheet = _Sheet(rows, *_columns(layout, rows))
    turns: Counter[int] = Counter()
    parts = []
    for place, box in enumerate(boxes):
        lane = layout.lane[place]
        asides = _asides({source: layout.comes_from(source, place) - lane for source in dict.fromkeys(box.reads)})
        for source, aside in asides.items():
            first, last = layout.rank[source], layout.rank[place]
            between = [(row, layout.passing[source, place]) for row in range(first + 1, last)]
            parts.append(sheet.path([(first, layout.lane[source]), *between, (last, lane)], turns, aside))
    parts += [_box(box, sheet.x(row, lane), sheet.y(row)) for box, row, lane in layout.places(boxes)]
    kinds = [kind for kind in COLOURS if any(box.kind == kind for box in boxes) and kind != "other"]
    parts += [_swatch(kind, _MARGIN + 130 * i) for i, kind in enumerate(kinds)]
    width = max(sheet.lefts[-1] + sum(sheet.widths[-1]), 130 * len(kinds)) + _MARGIN
    height = _TOP + min(count, rows) * (_HEIGHT + _GAP) + _MARGIN
    return Drawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _asides(lanes: Mapping[int, int]) -> dict[int, float]:
    """Where arrows arrive at a box, aside of its middle: from the left on the left, from the right on the right.

    Args:
        lanes: by source, from how many lanes to the right an arrow comes; 0: from above.
    """
    found: dict[int, float] = dict.fromkeys(lanes, 0.0)
    for side in (-1, 1):
        ordered = sorted((source for source in lanes if lanes[source] * side > 0), key=lambda one: abs(lanes[one]))
        found |= {source: side * _APART * count for count, source in enumerate(ordered, 1)}
    return found if len(lanes) > 1 else dict.fromkeys(lanes, 0.0)


def _columns(layout: _Layout, rows: int) -> tuple[list[float], list[list[float]]]:
    """Left ends of the columns, and the widths of their lanes: narrow where only arrows pass."""
    lefts: list[float] = []
    widths: list[list[float]] = []
    left = float(_MARGIN)
    for column in range(max(layout.rank, default=0) // rows + 1):
        lanes = 1 + max((lane for row, lane in layout.taken if row // rows == column), default=0)
        boxed = {lane for row, lane in layout.boxed if row // rows == column}
        widths.append([_BOX + 12.0 if lane in boxed else float(_LINE) for lane in range(lanes)])
        lefts.append(left)
        left += sum(widths[-1]) + _GUTTER
    return lefts, widths


def _box(box: Box, x: float, y: float) -> str:
    left, label = x - _BOX / 2, escape(_cut(box.label, _SMALL_LETTERS))
    return (
        f"<g><title>{escape(box.details)}</title>"
        f'<rect x="{left:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="5" fill="{COLOURS[box.kind]}" '
        'stroke="#555"/>'
        f'<text x="{x:.0f}" y="{y + 17:.0f}" text-anchor="middle" font-weight="bold">{escape(_cut(box.name))}</text>'
        f'<text x="{x:.0f}" y="{y + 32:.0f}" text-anchor="middle" font-size="11">{label}</text></g>'
    )


def _swatch(kind: str, x: float) -> str:
    return (
        f'<rect x="{x:.0f}" y="{_MARGIN}" width="14" height="14" fill="{COLOURS[kind]}" stroke="#555"/>'
        f'<text x="{x + 20:.0f}" y="{_MARGIN + 11}">{escape(kind)}</text>'
    )


def _cut(text: str, letters: int = _LETTERS) -> str:
    """The end of a name says more than its beginning."""
    return text if len(text) <= letters else f"…{text[-letters + 1 :]}"
