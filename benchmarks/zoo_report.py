"""What `zoo.py` writes: tables, and plain data."""

from __future__ import annotations

import json
import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from simulators_report import markdown, processor

import fxsnn
from fxsnn.storage import write_whole

CONVERTED, REPLACED, ACTIVATED = "converted", "with max_pool", "with ReLUs"
REFUSED, LIMIT, ERROR = "refused", "not finished", "error"
RESULTS = (CONVERTED, REPLACED, ACTIVATED, REFUSED, LIMIT, ERROR)
"""What can come of a network.

The second: it converts after `max_pool="rectifiers"` has replaced max pooling. The third: `ReplaceActivation` has, too;
that makes another function of it, to be trained.
"""

WHOLE, PARTLY, RAISES = "whole", "analog layers left", "raises"
ANSWERS = (WHOLE, PARTLY, RAISES, LIMIT)
"""What can come of a network in SpikingJelly."""

Size = tuple[int, int, int]
"""Of images, channels first."""

STAGES = {
    "rewritten": "rewritten",
    "clipped": "clipped",
    "weights": "4 bits",
    "rates": "steady rates",
    "spikes": "every spike",
    "late": "spikes, 4 bits",
}
"""Columns of the table: which logits are correlated with those of the stage before."""

_PACKAGES = ("torch", "torchvision", "timm", "numba")


@dataclass(frozen=True)
class Entry:
    """What came of a network.

    Attributes:
        name: library and network.
        size: of its images, channels first; `None`: not known.
        result: one of `RESULTS`.
        reasons: the kinds of reasons for which it did not convert.
        seconds: of the processor.
        layers: layers with weights that spike, 0 where it does not convert.
        agreement: correlations of logits, see `STAGES`; `None`: it was not simulated.
    """

    name: str
    size: Size | None
    result: str
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    layers: int = 0
    agreement: Mapping[str, float] | None = None

    @property
    def library(self) -> str:
        """Whose network it is."""
        return self.name.partition("/")[0]

    @property
    def converts(self) -> bool:
        """Whether it does, whatever was replaced."""
        return self.result in (CONVERTED, REPLACED, ACTIVATED)


@dataclass(frozen=True)
class Answer:
    """What SpikingJelly makes of a network.

    Attributes:
        name: library and network.
        result: one of `ANSWERS`.
        told: what is left analog, or the error.
        agreement: correlation of its logits of 64 timesteps with those of the network, where they were computed.
        version: of SpikingJelly.
    """

    name: str
    result: str
    told: tuple[str, ...] = ()
    agreement: float | None = None
    version: str = ""


def machine(arguments: Sequence[str]) -> dict[str, str]:
    """Where this runs, with what, and how it was called."""
    installed = {dist.name.lower(): dist.version for dist in distributions() if dist.name}
    packages = [f"{name} {installed[name]}" for name in _PACKAGES if name in installed]
    return {
        "device": processor(),
        "versions": ", ".join([f"Python {platform.python_version()}", *packages, f"fxsnn {fxsnn.__version__}"]),
        "command": shlex.join(["python", "benchmarks/zoo.py", *arguments]),
    }


# Tables ---------------------------------------------------------------------------------------------------------------


def counts_table(entries: Sequence[Entry]) -> str:
    """How many networks of each library have each result."""
    libraries = dict.fromkeys(entry.library for entry in entries)
    counts = Counter((entry.library, entry.result) for entry in entries)
    rows = [
        [
            library,
            *(str(counts[library, result]) for result in RESULTS),
            str(sum(e.library == library for e in entries)),
        ]
        for library in libraries
    ]
    total = [str(sum(entry.result == result for entry in entries)) for result in RESULTS]
    return markdown(["library", *RESULTS, "networks"], [*rows, ["all", *total, str(len(entries))]])


def reasons_table(entries: Iterable[Entry]) -> str:
    """What stands in the way, of how many networks, and of how many nothing else."""
    blocked = [entry for entry in entries if entry.reasons]
    networks = Counter(reason for entry in blocked for reason in entry.reasons)
    alone = Counter(entry.reasons[0] for entry in blocked if len(entry.reasons) == 1)
    rows = [[_cell(reason), str(count), str(alone[reason])] for reason, count in networks.most_common()]
    return markdown(["reason", "networks", "nothing else"], rows)


def results_table(entries: Iterable[Entry]) -> str:
    """A line for each network."""
    header = ["network", "images", "result", "spiking layers", *STAGES.values(), "reasons"]
    return markdown(header, [_cells(entry) for entry in entries])


def _cells(entry: Entry) -> list[str]:
    size = "x".join(map(str, entry.size)) if entry.size else ""
    agreement = entry.agreement or {}
    shown = [f"{agreement[one]:.3f}" if one in agreement else "" for one in STAGES]
    return [entry.name, size, entry.result, str(entry.layers or ""), *shown, _cell("; ".join(entry.reasons))]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_")


# Files ----------------------------------------------------------------------------------------------------------------


def document(where: Mapping[str, str], entries: Sequence[Entry], others: Mapping[str, Answer]) -> str:
    """The Markdown page."""
    parts = ["# Networks that people have", "\n".join(f"- {name}: {value}" for name, value in where.items())]
    parts += [
        "What came of a network is kept from one run to the next, so rows may be of several runs, some with\n"
        "`--simulate`: versions and command are those of the last.",
        'Target "generic", 4 bits, random weights. Listed are all classification networks of torchvision,\n'
        "convolutional ones of timm, one or more of each family, and networks of papers about CIFAR-10, MNIST and\n"
        "event cameras (`benchmarks/zoo_papers.py` names them); the page is about those that have been seen so far.\n"
        '"with max_pool": it converts with `max_pool="rectifiers"`, and not without. "with ReLUs": SiLU and the like\n'
        "have to be replaced (`ReplaceActivation`), too, which makes another function of it, to be trained.",
        counts_table(entries),
        "## Every network",
        'Figures are correlations of logits less their means over the images, on random images. "Rewritten": of\n'
        'the network with what the rewrites made of it; that is 1. "Clipped": of the network, on images rounded\n'
        "as the integer input is, with the stage whose activations end at the thresholds. (Images that are not\n"
        "rounded would say nothing: deep networks with random weights make much of a rounding to 8 bits.) Then one\n"
        "stage with the next: 4-bit weights, which are untrained; the rates of 4,096 timesteps if spikes came\n"
        'evenly, which such networks make much of, too. "Every spike" holds those of 8 timesteps against what the\n'
        "stages predict: it is 1. The last is of 4-bit weights with the spikes of 256 timesteps (`--timesteps`), low\n"
        "in deep networks, whose layers wait for the spikes of those before; it is missing where it was left out,\n"
        "for it takes long. Networks without figures were checked, and not converted.",
        results_table(entries),
    ]
    if any(entry.reasons for entry in entries):
        parts += ["## What stands in the way", reasons_table(entries)]
    if others:
        versions = ", ".join(sorted({one.version for one in others.values()}))
        parts += ["## SpikingJelly", f"Version {versions}.\n{_OTHERS}", *_about_others(entries, others)]
    return "\n\n".join(parts) + "\n"


_OTHERS = """
Called is `ann2snn.Converter(RateCodingRecipe(dataloader, mode="Max"))`, as in its examples, on the same networks
and images (`benchmarks/zoo_spikingjelly.py`). Whole: no activation, maximum, normalisation or product of activations
is left that does not spike; sums of branches are floats between scaling factors. Many errors are about functions,
such as `F.relu`, where it knows layers only. The figure is the correlation of the logits of 64 timesteps with the
network's; it was computed for some small networks whose conversion is whole.
""".strip()


def _about_others(entries: Sequence[Entry], others: Mapping[str, Answer]) -> Iterator[str]:
    libraries = dict.fromkeys(entry.library for entry in entries)
    asked = [(entry, others[entry.name]) for entry in entries if entry.name in others]
    counts = Counter((entry.library, other.result) for entry, other in asked)
    lines = [[library, *(counts[library, result] for result in ANSWERS)] for library in libraries]
    lines.append(["all", *(sum(counts[one, result] for one in libraries) for result in ANSWERS)])
    yield markdown(["library", *ANSWERS], [[str(cell) for cell in line] for line in lines])
    header = ["network", "fxsnn", "SpikingJelly", "T = 64", "left analog, or the error"]
    yield markdown(
        header,
        [
            [
                entry.name,
                entry.result,
                other.result,
                "" if other.agreement is None else f"{other.agreement:.3f}",
                _cell("; ".join(other.told)),
            ]
            for entry, other in asked
        ],
    )


def write(folder: Path, where: Mapping[str, str], entries: Sequence[Entry], others: Mapping[str, Answer]) -> None:
    """Both files, each of them whole or not at all."""
    data = {
        "where": dict(where),
        "networks": [asdict(entry) for entry in entries],
        "spikingjelly": [asdict(other) for other in others.values()],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "zoo.md", document(where, entries, others).encode())
    write_whole(folder / "zoo.json", (json.dumps(data, indent=1) + "\n").encode())


def keep(folder: Path, entry: Entry | Answer) -> None:
    """Keep what came of a network in a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{entry.name.replace('/', '-')}.json", (json.dumps(asdict(entry)) + "\n").encode())


def rows(folder: Path) -> dict[str, Entry]:
    """What was kept, by name of the network."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {row["name"]: _entry(row) for row in found}


def answers(folder: Path) -> dict[str, Answer]:
    """What was kept of SpikingJelly's, by name of the network."""
    found = [json.loads(path.read_text()) for path in sorted((folder / "spikingjelly").glob("*.json"))]
    return {row["name"]: Answer(**{**row, "told": tuple(row["told"])}) for row in found}


def _entry(row: Mapping[str, Any]) -> Entry:
    size = row["size"]
    return Entry(**{**row, "size": size and tuple(size), "reasons": tuple(row["reasons"])})
