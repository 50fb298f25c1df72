"""Which tensors of a dict are those of a network, whatever was put in front of their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from torch import Tensor

from fxsnn.weights.places import Place, Table
from fxsnn.weights.stand_ins import Unread


@dataclass(frozen=True)
class Match:
    """What a dict has for a network.

    Attributes:
        place: where the dict is in the file.
        prefix: what comes off the names in it, once the parts that wrappers put into names are off.
        start: what the names in the file begin with, as they are there.
        weights: the tensors under the names that the network has for them.
        share: of the names that the network needs, those that are there, 0 to 1.
        left_out: names of tensors that do not have the prefix.
        problems: why these are not the weights of the network, one a line; empty: they are.
        unread: whether objects that are not read stand in place of tensors.
        size: of how many tensors the dict is.
    """

    place: Place
    prefix: str
    start: str
    weights: dict[str, Tensor]
    share: float
    left_out: tuple[str, ...]
    problems: tuple[str, ...]
    unread: bool
    size: int


_WRAPPING_PARTS = ("module", "_orig_mod")
"""Parts of names that DataParallel, AveragedModel and torch.compile put before those of what they wrap."""

_OPTIONAL = "num_batches_tracked"
"""The last part of a name that old files do not have; PyTorch takes these, too. No network computes with it."""

_COUNTER = "n_averaged"
"""The last part of the name under which `AveragedModel` counts what it averaged; it is no weight."""

SHOWN = 3
"""So many names a message lists of each kind."""


def matches_in(wanted: Mapping[str, Tensor], table: Table, place: Place = ()) -> list[Match]:
    """Every way in which a dict has all names of a network, or else the one that comes closest.

    Args:
        wanted: the state dict of the network.
        table: the dict.
        place: where in the file it is.

    Returns:
        One for each prefix under which all names are; none where the dict has no tensors.
    """
    values = {name: value for name, value in table.items() if isinstance(value, Tensor | Unread)}
    if not any(_last(name) == _COUNTER for name in wanted):
        values = {name: value for name, value in values.items() if _last(name) != _COUNTER}
    if not values:
        return []
    own, theirs = {name: name for name in wanted}, {name: name for name in values}
    if any(name not in wanted for name in values):
        plain_own, plain_theirs = ({_plain(name): name for name in names} for names in (wanted, values))
        if len(plain_own) == len(wanted) and len(plain_theirs) == len(values):  # no two names have become one
            own, theirs = plain_own, plain_theirs
    needed = {name for name in own if _last(name) != _OPTIONAL}
    counts = _prefixes(needed, theirs)
    best = max(counts, key=counts.__getitem__)  # of several with as many, the first: ""
    whole = [prefix for prefix, count in counts.items() if count == len(needed)]
    shown = whole or [best if 2 * counts[best] >= len(needed) else ""]
    return [_match(wanted, values, own, theirs, prefix, place) for prefix in shown]


def _match(
    wanted: Mapping[str, Tensor],
    values: Mapping[str, Any],
    own: Mapping[str, str],
    theirs: Mapping[str, str],
    prefix: str,
    place: Place,
) -> Match:
    """What is under a prefix.

    Args:
        wanted: the state dict of the network.
        values: what the dict has, by its name there.
        own: the names of the network, by names that can be compared.
        theirs: the names in the dict, by names that can be compared.
        prefix: what comes off these.
        place: where the dict is.
    """
    under = {name.removeprefix(prefix): raw for name, raw in theirs.items() if name.startswith(prefix)}
    found = {own.get(name, name): values[raw] for name, raw in under.items()}
    rest = [raw for name, raw in theirs.items() if not name.startswith(prefix)]
    needed = [name for name in wanted if _last(name) != _OPTIONAL]
    there = {name: value for name, value in found.items() if name in wanted}
    tensors = {name: value for name, value in there.items() if isinstance(value, Tensor)}
    problems = [
        *shortened([f"{name} has no such prefix" for name in rest if name in wanted], "have none"),
        *shortened([f"{name} is missing" for name in needed if name not in found], "are missing"),
        *shortened([f"{name} is not in the network" for name in found if name not in wanted], "are not in it"),
        *shortened([f"{name} is no tensor" for name in there if name not in tensors], "are none"),
        *shortened(
            [
                f"{name} has shape {list(tensors[name].shape)}, the network wants {list(tensor.shape)}"
                for name, tensor in wanted.items()
                if name in tensors and tensors[name].shape != tensor.shape
            ],
            "have other shapes",
        ),
    ]
    return Match(
        place=place,
        prefix=prefix,
        start=commonprefix(list(under.values())),  # noqa: RUF071  # names, no paths
        weights=tensors,
        share=sum(name in there for name in needed) / max(1, len(needed)),
        left_out=tuple(name for name in rest if isinstance(values[name], Tensor)),
        problems=tuple(problems),
        unread=len(tensors) < len(there),
        size=len(values),
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _plain(name: str) -> str:
    """A name without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPING_PARTS)


def shortened(names: Sequence[str], what: str) -> list[str]:
    """The first lines, and how many more there are."""
    more = [f"and {len(names) - SHOWN} more {what}".rstrip()] if len(names) > SHOWN else []
    return [f"  {line}" for line in [*names[:SHOWN], *more]]


def _prefixes(wanted: Iterable[str], names: Iterable[str]) -> dict[str, int]:
    """Under which prefix how many of the wanted names are found."""
    wanted = frozenset(wanted)
    counts = Counter({"": 0})
    for name in names:
        parts = name.split(".")
        rests = (".".join(parts[start:]) for start in range(len(parts)))
        counts.update(name.removesuffix(rest) for rest in rests if rest in wanted)
    return counts
