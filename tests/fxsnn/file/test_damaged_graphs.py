"""Damaged files of networks that branch, join and are wired: what does not fit is found, and all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
from torch import Tensor

import fxsnn
from fxsnn.errors import FileError
from fxsnn.layers import Channels, Concat, Places, Repeat, Select, Spread
from fxsnn.storage import load_arrays, save_arrays
from tests.converted_graphs import converted, pooled, wired


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file."""
    return converted().save(tmp_path_factory.mktemp("files") / "net.fxsnn")


Edit = Callable[[dict[str, Any], dict[str, Tensor]], None]


def of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The node of a layer."""
    found: dict[str, Any] = next(one for one in document["nodes"] if one["name"] == name)
    return found


def place_of(document: dict[str, Any], name: str) -> int:
    return next(place for place, one in enumerate(document["nodes"]) if one["name"] == name)


def array(name: str, change: Callable[[Tensor], Tensor]) -> Edit:
    return lambda _, arrays: arrays.update({name: change(arrays[name]).contiguous()})


def field(name: str, key: str, value: Any) -> Edit:
    return lambda document, _: of(document, name).update({key: value})


def reads(name: str, *others: str) -> Edit:
    return lambda document, _: of(document, name).update(reads=[place_of(document, one) for one in others])


def reads_one(name: str, other: str) -> Edit:
    return lambda document, _: of(document, name).update(reads=place_of(document, other))


LIES: dict[str, tuple[Edit, str]] = {
    "codes shorter": (array("first.conv2.codes", lambda one: one[:-1]), "array 'first.conv2.codes': it is"),
    "a gain beyond the codebook": (
        array("first.conv2.gain", lambda one: one * 0 + 147),
        r"first\.conv2: its codebook entry is 1029 to 1029; generic holds -1024 to 1023",
    ),
    "a negative gain beyond it": (array("second.down.gain", lambda one: one * 0 - (1 << 31)), "second.down: its code"),
    "another gain": (array("first.conv2.gain", lambda one: one + 1), "first.add: what it adds of first.conv2 is not"),
    "a gain for all": (array("first.conv2.gain", lambda one: one[:1]), r"first.conv2.gain' is .* expected is .* \[4\]"),
    "a step of zero": (array("first.conv2.step", torch.zeros_like), "first.conv2: a step of it is not positive"),
    "a unit of synapses": (field("first.conv2", "input_unit", 3.0), r"first.conv2: its input unit is 3\.0; what"),
    "bits of synapses": (field("first.conv2", "bits", 2), r"array 'first.conv2.codes'"),
    "channels of synapses": (field("second.down", "in_channels", 5), "second.down: it reads 5 channels and is"),
    "weights of synapses": (array("first.add.weights", lambda one: one * 0 + 2), "weights of first.conv2, which has a"),
    "a weight beyond the codebook": (
        array("first.add.weights", lambda one: torch.stack([one[0], one[1] * 0 + 1024])),
        r"first.add: its weight of stem is 1024 to 1024; generic holds -1024 to 1023",
    ),
    "another weight": (
        array("first.add.weights", lambda one: torch.stack([one[0], one[1] + 1])),
        "first.add: what it adds of stem is not its real weight / step, rounded",
    ),
    "another real weight": (array("first.add.real_weights", lambda one: one * 2), "what it adds of first.conv2"),
    "a real weight that is none": (array("first.add.real_weights", lambda one: one * torch.nan), "values that are NaN"),
    "another grain": (array("first.add.step", lambda one: one * 1.5), "first.add: its spike value is not threshold"),
    "a grain of zero": (array("first.add.step", torch.zeros_like), "first.add: its spike value is not threshold"),
    "another threshold": (array("first.add.threshold", lambda one: one + 1), "first.add: its spike value is not"),
    "a threshold of zero": (array("first.add.threshold", torch.zeros_like), r"first.add: its threshold is 0 to 0"),
    "a leak beyond its register": (array("first.add.leak", lambda one: one * 0 + (1 << 30)), "first.add: its leak is"),
    "another spike value": (array("second.add.spike_value", lambda one: one * 2), "second.add: its spike value is not"),
    "weights for three": (
        array("first.add.weights", lambda one: torch.cat([one, one[:1]])),
        r"'first.add.weights' is .*\[3, 4\]; expected is .*\[2, 4\]",
    ),
    "channels of a sum": (field("first.add", "channels", 5), r"first.add.weights' is"),
    "inputs of a sum exchanged": (reads("first.add", "stem", "first.conv2"), "first.add: the weights of first.conv2"),
    "an input too few": (reads("first.add", "first.conv2"), "'first.add.weights' is"),
    "inputs of two sizes": (reads("second.add", "second.conv2", "second.down", "stem"), "it adds what is not of one"),
    "an input that comes later": (reads("first.add", "first.conv2", "second.add"), "which does not stand before it"),
    "no input": (field("first.add", "reads", []), r"\$\.nodes\[\d+\]\.reads: \[\] (should be non-empty|is too short)"),
    "one input without a list": (field("first.add", "reads", 2), "is not of type 'array'"),
    "a node that nothing reads": (reads("second.add", "second.conv2", "second.conv2"), "second.down: nothing in"),
    "synapses that are read twice": (
        reads("second.add", "second.down", "second.down"),
        "second.down: its sums are read by second.add, second.add; allowed is one spike_add",
    ),
    "synapses that a layer reads": (reads_one("second.conv1", "first.conv2"), "its sums are read by .*second.conv1"),
    "images": (reads("first.add", "first.conv2", "x"), "first.add: spike_add that reads .*0. cannot stand at place"),
    "a pooling of images": (reads_one("pool", "encode"), "pool: spike_avg_pool2d reads no spikes"),
    "spikes in the tail": (
        lambda document, _: document["nodes"][-1].update(reads=place_of(document, "stem")),
        "at place .* spikes, or reads what does",
    ),
    "of version 1": (lambda document, _: document.update(version=1), "is not one of"),
    "another key": (field("first.add", "gain", 1), "Additional properties are not allowed"),
}  # fmt: skip


def assert_refused(good: Path, edit: Edit, says: str, folder: Path) -> None:
    arrays, document = load_arrays(good)
    edit(document, arrays)
    with pytest.raises(FileError, match=f"(?s){says}"):
        fxsnn.load(save_arrays(folder / "damaged.fxsnn", arrays, document))


@pytest.mark.parametrize("name", LIES)
def test_numbers_of_sums_that_do_not_fit_together_are_found(name: str, residual: Path, tmp_path: Path) -> None:
    assert_refused(residual, *LIES[name], tmp_path)


def test_all_that_is_wrong_is_told_at_once_and_nothing_that_follows_from_it(residual: Path, tmp_path: Path) -> None:
    arrays, document = load_arrays(residual)
    for name, edit in ("stem.leak", torch.zeros_like), ("second.down.step", torch.zeros_like):
        arrays[name] = edit(arrays[name]).to(torch.float16 if name == "stem.leak" else torch.float64)
    arrays["first.add.threshold"] = arrays["first.add.threshold"] * 0 + (1 << 30)
    with pytest.raises(FileError) as error:
        fxsnn.load(save_arrays(tmp_path / "damaged.fxsnn", arrays, document))
    assert str(error.value).splitlines()[1:] == [
        "  array 'stem.leak' is torch.float16 [4]; expected is torch.int32 [4]",
        "  first.add: its threshold is 1073741824 to 1073741824; generic holds 1 to 8388607",
        "  first.add: its spike value is not threshold * step",
        "  second.down: a step of it is not positive",
    ]


WIRED: dict[str, tuple[Edit, str]] = {
    "an index too large": (array("wire3.index", lambda one: one + 1), r"wire3: it takes the channels 1 to 4 of 4"),
    "an index too small": (array("wire3.index", lambda one: one - 2), r"wire3: it takes the channels -2 to 1 of 4"),
    "another index": (array("wire3.index", lambda one: one * 0), r"layer4: its input unit is"),
    "an index of floats": (array("wire3.index", lambda one: one.double()), r"'wire3.index' is torch.float64"),
    "an index of another length": (field("wire3", "channels", 3), r"wire3.index' is|layer4: it reads 4 channels"),
    "places beyond the maps": (field("wire5", "rows", [6, 1]), "wire5: nothing is left of an input of"),
    "a distance of zero": (field("wire5", "columns", [0, 0]), "0 is less than the minimum of 1"),
    "more places": (field("wire5", "columns", [0, 1, 2]), "columns"),
    "fewer repeats": (field("wire7", "down", 0), "0 is less than the minimum"),
    "more repeats": (field("wire7", "down", 4097), "4097 is greater than the maximum"),
    "more taken than there is": (field("wire9", "sides", [-9, 0, 0, 0]), "wire9: nothing is left of an input of"),
    "three sides": (field("wire9", "sides", [0, 0, 0]), "sides"),
    "a concatenation of more": (
        lambda document, _: of(document, "wire12")["reads"].append(2), "wire12: nothing is left of an input of"
    ),
    "of images and spikes": (
        lambda document, _: of(document, "wire12").update(reads=[1, of(document, "wire12")["reads"][0]]),
        "wire12: it joins spikes and images",
    ),
    "a plain reading": (field("wire12", "reads", 10), "is not of type 'array'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def wired_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With wiring of all kinds."""
    layers = Channels(torch.tensor([3, 0, 0, 2])), Places((1, 2), (0, 2)), Repeat(2, 3), Spread(1, 2), Concat()
    return wired(*layers).save(tmp_path_factory.mktemp("files") / "net.fxsnn", golden=0)


@pytest.mark.parametrize("name", WIRED)
def test_wiring_that_does_not_fit_is_found(name: str, wired_file: Path, tmp_path: Path) -> None:
    assert_refused(wired_file, *WIRED[name], tmp_path)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([0, 99], "wire3: nothing is left of an input of"),
        ([0, -2], "-2 is less than the minimum of -1"),
        ([], r"\[\] (is too short|should be non-empty)"),
    ],
)
def test_rows_that_are_not_there_are_found(rows: list[int], says: str, tmp_path: Path) -> None:
    path = wired(Select((0, -1, 1), (1, 0))).save(tmp_path / "net.fxsnn", golden=0)
    assert_refused(path, field("wire3", "rows", rows), says, tmp_path)


def taps(axis: str, **options: Any) -> Edit:
    return lambda document, _: of(document, "pool")[axis].update(options)


POOLED: dict[str, tuple[Edit, str]] = {
    "another value": (array("pool.spike_value", lambda one: one * 2), "pool: its spikes are worth something else"),
    "other channels": (field("pool", "channels", 5), "pool: it reads 5 channels and is given"),
    "too much padding": (taps("rows", padding=2), "pool: its padding is more than half of its window"),
    "windows of two kinds": (taps("rows", ceil=True), "pool: its last windows count in one direction only"),
    "a window that is too large": (taps("columns", kernel=4000), "pool: nothing is left of an input of"),
    "no stride": (taps("columns", stride=0), "0 is less than the minimum of 1"),
    "images": (reads_one("pool", "encode"), "pool: spike_any_pool2d reads no spikes"),
    "a threshold": (field("pool", "threshold", 1), "Additional properties are not allowed"),
    "no columns": (lambda document, _: of(document, "pool").pop("columns"), "'columns' is a required property"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pooled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a pooling by any neuron of a window."""
    return pooled().save(tmp_path_factory.mktemp("files") / "net.fxsnn", golden=0)


@pytest.mark.parametrize("name", POOLED)
def test_poolings_that_do_not_fit_are_found(name: str, pooled_file: Path, tmp_path: Path) -> None:
    assert_refused(pooled_file, *POOLED[name], tmp_path)


def grown(count: int) -> Edit:
    """So many concatenations, each of 256 times the one before it, in front of the one that is there."""

    def edit(document: dict[str, Any], _: Any) -> None:
        nodes = document["nodes"]
        first = next(place for place, node in enumerate(nodes) if node["op"] == "concat")
        for node in nodes[first:]:
            given = node["reads"] if isinstance(node["reads"], list) else [node["reads"]]
            moved = [place + count if place >= first else place for place in given]
            node["reads"] = moved if isinstance(node["reads"], list) else moved[0]
        nodes[first]["reads"][0] = first + count - 1
        more = ({"op": "concat", "name": f"more{n}", "reads": [first + n - 1] * 256} for n in range(count))
        nodes[first:first] = more
        document["image_size"] = None

    return edit


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (3, r"fxsnn:\n  more2: it puts too many channels elsewhere$"),
        (32, r"they read 8,2\d\d values; allowed are 8,192"),
    ],
)
def test_a_few_bytes_that_ask_for_all_memory_are_refused(
    count: int, says: str, wired_file: Path, tmp_path: Path
) -> None:
    assert_refused(wired_file, grown(count), says, tmp_path)


def test_a_spike_that_is_another_one_is_found_in_its_layer(residual: Path, tmp_path: Path) -> None:
    arrays, document = load_arrays(residual)
    arrays["golden/spikes/first.add"][5] ^= 16
    path = save_arrays(tmp_path / "damaged.fxsnn", arrays, document)
    assert read_network.main(str(path)) == 1
    assert fxsnn.verify(path).wrong["first.add"] == 1
    assert [name for name, count in fxsnn.verify(path).wrong.items() if count] == ["first.add"]


def test_other_codes_of_synapses_are_noticed_by_their_spikes(residual: Path, tmp_path: Path) -> None:
    arrays, document = load_arrays(residual)
    arrays["second.conv2.codes"] = arrays["second.conv2.codes"].flip(0)
    found = fxsnn.verify(save_arrays(tmp_path / "damaged.fxsnn", arrays, document))
    assert found.wrong["second.add"] > 0
    assert found.wrong["first.add"] == 0
