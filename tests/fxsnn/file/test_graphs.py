"""Networks that branch, join and are wired in files: the very spikes when they are loaded, and every lie is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import read_network
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import FileError
from fxsnn.file import unwritable
from fxsnn.layers import Channels, Concat, Integers, Places, Repeat, SpikeAdd, SynapseConv2d, Wiring
from fxsnn.storage import load_arrays, save_arrays
from tests.engines import same
from tests.nets import images, seeded
from tests.random_networks import quiet, random_seeds
from tests.spiking_graphs import SpikingGraph, random_graph


class Block(nn.Module):
    """Two convolutions beside their input, or beside a convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = None if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.down is None else self.down(x)
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + beside)


class Residual(nn.Module):
    """3x12x12: a block that adds its input, one that adds a convolution of it, and their average."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), Block(4, 4, 1), Block(4, 6, 2)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(54, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.pool(self.second(self.first(F.relu(self.stem(x))))).flatten(1))


class Dense(nn.Module):
    """Vectors of 20 numbers: a hidden layer beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside, self.fc = nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        return self.fc(F.relu(self.beside(x) - x))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, images(16)),
    "of vectors": (Dense, torch.randn(16, 20, generator=torch.Generator().manual_seed(0))),
}


def converted(name: str = "residual", **options: Any) -> fxsnn.SpikingNetwork:
    build, given = NETWORKS[name]
    chosen = {"target": "generic", "bits": 4, "timesteps": 6, "calibration_data": given, "correction": None, **options}
    with quiet():
        return fxsnn.convert(seeded(build), **chosen)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file."""
    return converted().save(tmp_path_factory.mktemp("files") / "net.fxsnn")


def assert_comes_back(snn: fxsnn.SpikingNetwork, given: Tensor, folder: Path) -> None:
    """The very network is loaded, verified, saved again to the byte, and run by the reader in numpy."""
    path = snn.save(folder / "net.fxsnn")
    other = fxsnn.load(path)
    expected, found = snn.simulate(given), other.simulate(given)
    assert same(found.spikes, expected.spikes)
    assert torch.equal(found.logits, expected.logits)
    assert found.membrane_range == expected.membrane_range
    assert any(bool(one.any()) for one in expected.spikes.values())
    assert fxsnn.verify(path).ok
    assert other.save(folder / "again.fxsnn").read_bytes() == path.read_bytes()
    assert read_network.main(str(path)) == 0


CASES: list[tuple[str, dict[str, Any]]] = [
    ("residual", {}),
    ("residual", {"bits": 1, "input_bits": None, "per_channel": False}),
    ("of vectors", {"reset": "zero", "initial_membrane": 0}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_sums_of_several_inputs_come_back(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    snn = converted(name, **options)
    assert snn.graph.nodes(SpikeAdd)
    assert_comes_back(snn, NETWORKS[name][1], tmp_path)
    assert load_arrays(tmp_path / "net.fxsnn")[1]["version"] == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_check_says_that_sums_can_be_saved(name: str) -> None:
    model, given = seeded(NETWORKS[name][0]), NETWORKS[name][1]
    assert fxsnn.check(model, target="generic", bits=4, example=given).unwritable == ()


@random_seeds(12, slow=60)
def test_random_graphs_come_back(seed: int, tmp_path: Path) -> None:
    assert_comes_back(random_graph(seed), torch.randn(3, 3, 8, 8), tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_of_graphs_without_numbers_it_is_said_too_that_they_can_be_saved(seed: int) -> None:
    graph = random_graph(seed).graph
    for node in graph.nodes(Integers):
        layer: Any = graph[node]
        for name, buffer in layer.named_buffers():
            if name not in ("weights", "spike_value"):  # which tell how many channels there are
                setattr(layer, name, buffer * 0)
    assert unwritable(graph, fxsnn.get_target("generic"), (3, 8, 8)) == []


def wired(*layers: Wiring) -> fxsnn.SpikingNetwork:
    """Each behind a convolution, and read by another one."""
    make = SpikingGraph(seed=3)
    made = make.conv(make.images, 4)
    for layer in layers:
        beside = (made, make.conv(made, 2, 1)) if isinstance(layer, Concat) else (made,)
        made = make.conv(make.wire(layer, *beside), 4, 1)
    return make.network(made)


@pytest.mark.parametrize(
    "layer",
    [Concat(), Channels(torch.tensor([3, 0, 0, 2])), Places((1, 2), (0, 3)), Repeat(2, 3)],
    ids=lambda one: type(one).__name__,
)
def test_wiring_comes_back(layer: Wiring, tmp_path: Path) -> None:
    assert_comes_back(wired(layer), torch.randn(3, 3, 8, 8), tmp_path)


def test_wiring_stands_before_the_first_layer_behind_the_last_one_and_in_the_tail(tmp_path: Path) -> None:
    make = SpikingGraph(seed=5)
    first = make.conv(make.wire(Channels(torch.tensor([2, 1])), make.images), 4)
    snn = make.network(make.wire(Concat(), first, make.conv(first, 3, padding=1)))
    graph = snn.graph
    (mean,) = graph.nodes(nn.AdaptiveAvgPool2d)
    graph.insert_after(mean, "turned", Channels(torch.tensor([6, 5, 4, 3, 2, 1, 0])))
    graph.tidy()
    assert_comes_back(fxsnn.SpikingNetwork(graph, "generic", image_size=(3, 8, 8)), torch.randn(3, 3, 8, 8), tmp_path)


def test_wiring_in_the_tail_that_takes_what_is_not_there_is_refused(tmp_path: Path) -> None:
    make = SpikingGraph(seed=5)
    graph = make.network(make.conv(make.images, 4)).graph
    graph.insert_after(graph.nodes(nn.AdaptiveAvgPool2d)[0], "turned", Channels(torch.tensor([0, 1, 2, 4])))
    graph.tidy()
    snn = fxsnn.SpikingNetwork(graph, "generic", image_size=(3, 8, 8))
    with pytest.raises(FileError, match="its tail does not fit together: turned: it takes the channels 0 to 4 of 4"):
        snn.save(tmp_path / "net.fxsnn", golden=0)


@pytest.mark.parametrize("input_bits", [8, None])
def test_sums_that_add_images_come_back(input_bits: int | None, tmp_path: Path) -> None:
    make = SpikingGraph(seed=2, input_bits=input_bits)
    beside = make.add(make.images, make.synapses(make.images, 3, padding=1), make.images)
    snn = make.network(make.add(beside, make.wire(Channels(torch.tensor([2, 0, 1])), make.images)))
    assert_comes_back(snn, torch.randn(3, 3, 8, 8), tmp_path)


def test_a_network_whose_image_size_is_not_known_comes_back(tmp_path: Path) -> None:
    make = SpikingGraph(seed=7)
    made = make.conv(make.images, 4)
    flat = make.flatten(make.add(make.synapses(made, 4, padding=1), made))
    snn = make.network(make.add(make.synapses(flat, 5), make.linear(flat, 5)), image_size=None)
    given = torch.randn(3, 3, 8, 8)
    found = fxsnn.load(snn.save(tmp_path / "net.fxsnn", golden=0))
    assert found.image_size is None
    assert same(found.simulate(given).spikes, snn.simulate(given).spikes)


def test_a_chain_is_of_version_1_as_before(tmp_path: Path) -> None:
    make = SpikingGraph(seed=0)
    snn = make.network(make.pool(make.conv(make.conv(make.images, 4), 4)))
    assert load_arrays(snn.save(tmp_path / "net.fxsnn"))[1]["version"] == 1


def test_the_document_says_what_each_node_reads(residual: Path) -> None:
    _, document = load_arrays(residual)
    nodes = document["nodes"]
    told = [(one["name"], one["op"], [nodes[place]["name"] for place in one["reads"]])
            for one in nodes if isinstance(one.get("reads"), list)]  # fmt: skip
    assert told == [
        ("first.add", "spike_add", ["first.conv2", "stem"]),
        ("second.add", "spike_add", ["second.conv2", "second.down"]),
    ]


class OddWiring(Repeat):
    """One that no file knows."""


def test_wiring_that_the_format_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"wire\d+: a OddWiring has no name in the format of files"):
        wired(OddWiring(2, 2)).save(tmp_path / "net.fxsnn")


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
    "an index below zero": (array("wire3.index", lambda one: one - 1), r"wire3: it takes the channels -1 to 2 of 4"),
    "another index": (array("wire3.index", lambda one: one * 0), r"layer4: its input unit is"),
    "an index of floats": (array("wire3.index", lambda one: one.double()), r"'wire3.index' is torch.float64"),
    "an index of another length": (field("wire3", "channels", 3), r"wire3.index' is|layer4: it reads 4 channels"),
    "places beyond the maps": (field("wire5", "rows", [6, 1]), "wire5: nothing is left of an input of"),
    "a distance of zero": (field("wire5", "columns", [0, 0]), "0 is less than the minimum of 1"),
    "more places": (field("wire5", "columns", [0, 1, 2]), "columns"),
    "fewer repeats": (field("wire7", "down", 0), "0 is less than the minimum"),
    "more repeats": (field("wire7", "down", 4097), "4097 is greater than the maximum"),
    "a concatenation of more": (
        lambda document, _: of(document, "wire10")["reads"].append(2), "wire10: nothing is left of an input of"
    ),
    "of images and spikes": (
        lambda document, _: of(document, "wire10").update(reads=[1, of(document, "wire10")["reads"][0]]),
        "wire10: it joins spikes and what is the same at every step",
    ),
    "a plain reading": (field("wire10", "reads", 8), "is not of type 'array'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def wired_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With wiring of all kinds."""
    layers = Channels(torch.tensor([3, 0, 0, 2])), Places((1, 2), (0, 2)), Repeat(2, 3), Concat()
    return wired(*layers).save(tmp_path_factory.mktemp("files") / "net.fxsnn", golden=0)


@pytest.mark.parametrize("name", WIRED)
def test_wiring_that_does_not_fit_is_found(name: str, wired_file: Path, tmp_path: Path) -> None:
    assert_refused(wired_file, *WIRED[name], tmp_path)


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


def test_a_layer_derived_from_synapses_is_refused_by_name(tmp_path: Path) -> None:
    class Own(SynapseConv2d):
        """May do something else."""

    make = SpikingGraph(seed=0)
    snn = make.network(make.add(make.synapses(make.images, 4)))
    next(one for one in snn.modules() if isinstance(one, SynapseConv2d)).__class__ = Own
    with pytest.raises(FileError, match=r"synapses\d+: a Own has no name in the format of files"):
        snn.save(tmp_path / "net.fxsnn")
