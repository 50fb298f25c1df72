"""The layers that only put numbers elsewhere, in both directions: described, and made again.

A new kind is an entry of `WORDS`, a node in `embedded/file_v2.schema.json`, and a branch of `examples/read_network.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fxsnn.file.tail_layers import Array, Fields, Find, NoName
from fxsnn.layers import Channels, Concat, PixelShuffle, Places, Repeat, Select, Tap, Taps, Turn, Wiring


@dataclass(frozen=True)
class Word:
    """How the format speaks of a kind of wiring.

    Attributes:
        op: of its nodes.
        kind: the class of layers.
        described: fields and arrays of a layer.
        made: a layer from its node, and from its arrays, whose numbers are int64.
        moves_channels: whether it puts channels elsewhere; if not, only what lies within each.
    """

    op: str
    kind: type[Wiring]
    described: Callable[[Any], tuple[Fields, list[Array]]]
    made: Callable[[Mapping[str, Any], Find], Wiring]
    moves_channels: bool = False


WORDS: Mapping[str, Word] = {
    word.op: word
    for word in (
        Word("concat", Concat, lambda _: ({}, []), lambda _, __: Concat(), moves_channels=True),
        Word(
            "channels",
            Channels,
            lambda layer: ({"channels": len(layer.index)}, [("index", layer.index)]),
            lambda node, find: Channels(find("index", (node["channels"],))),
            moves_channels=True,
        ),
        Word(
            "places",
            Places,
            lambda layer: ({"rows": list(layer.rows), "columns": list(layer.columns)}, []),
            lambda node, _: Places(tuple(node["rows"]), tuple(node["columns"])),
        ),
        Word(
            "select",
            Select,
            lambda layer: ({"rows": list(layer.rows), "columns": list(layer.columns)}, []),
            lambda node, _: Select(node["rows"], node["columns"]),
        ),
        Word(
            "repeat",
            Repeat,
            lambda layer: ({"down": layer.down, "across": layer.across}, []),
            lambda node, _: Repeat(node["down"], node["across"]),
        ),
        Word(
            "pixel_shuffle",
            PixelShuffle,
            lambda layer: ({"factor": layer.factor, "back": layer.back}, []),
            lambda node, _: PixelShuffle(node["factor"], back=node["back"]),
            moves_channels=True,
        ),
        Word(
            "turn",
            Turn,
            lambda layer: ({"rows": layer.rows, "columns": layer.columns, "transposed": layer.transposed}, []),
            lambda node, _: Turn(node["rows"], node["columns"], node["transposed"]),
        ),
        Word(
            "tap",
            Tap,
            lambda layer: (
                {
                    "rows": asdict(layer.rows),
                    "columns": asdict(layer.columns),
                    "row": layer.row,
                    "column": layer.column,
                },
                [],
            ),
            lambda node, _: Tap(Taps(**node["rows"]), Taps(**node["columns"]), node["row"], node["column"]),
        ),
    )
}


def described_wiring(layer: Wiring) -> tuple[Fields, list[Array]]:
    """Fields and arrays of what a layer does.

    Raises:
        NoName: the format does not know it.
    """
    word = next((one for one in WORDS.values() if one.kind is type(layer)), None)
    if word is None:
        raise NoName(f"a {type(layer).__name__}")
    fields, arrays = word.described(layer)
    return {"op": word.op, **fields}, arrays


def size_behind_wiring(node: Mapping[str, Any], sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The size of what a node gives, without the batch; `None` where it cannot read what it is given."""
    try:
        layer = WORDS[node["op"]].made(node, lambda _, shape: torch.empty(shape, dtype=torch.int64, device="meta"))
        found = layer(*(torch.empty(1, *size, device="meta") for size in sizes))
    except (RuntimeError, IndexError, ValueError):
        return None
    return tuple(found.shape[1:])
