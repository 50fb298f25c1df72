"""Tails of many kinds in files: the same to the bit when they are loaded, or refused by `save` with a reason."""

from __future__ import annotations

import copy
import json
from collections import namedtuple
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
from fxsnn.file.schema_check import schema
from fxsnn.storage import load_arrays, save_arrays
from tests.nets import images, seeded
from tests.random_networks import quiet
from tests.sharing import cases
from tests.tails import alike, with_tail

Pair = namedtuple("Pair", ["first", "second"])


class Tail(nn.Module):
    """Layers of many kinds, and a function that calls some of them."""

    def __init__(self, calls: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.calls = calls
        self.fc1, self.fc2 = nn.Linear(96, 8), nn.Linear(8, 5, bias=False)
        self.maps, self.same = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 4, (2, 3), padding="same", groups=2, bias=False)
        self.wide = nn.Conv2d(6, 3, 3, 2, (1, 0), 1)
        self.flat, self.up = nn.Flatten(), nn.Upsample(12, mode="nearest-exact")
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.deconv = nn.ConvTranspose2d(6, 2, 2)
        self.odd_deconv = nn.ConvTranspose2d(6, 4, (3, 2), (2, 3), (1, 0), (1, 2), 2, False, (1, 2))
        self.register_buffer("weights", torch.linspace(0, 1, 30).view(6, 5))

    def forward(self, x: Tensor) -> Any:
        return self.calls(self, x)


NEW: dict[str, Callable[[Any, Any], Any]] = {
    "a convolution": lambda net, x: net.maps(x),
    "of odd windows": lambda net, x: (net.same(x), net.wide(x)),
    "transposed convolutions": lambda net, x: (net.deconv(x, None), net.odd_deconv(input=x, output_size=None)),
    "a convolution squeezed": lambda net, x: net.maps(x).mean((2, 3)).squeeze(),
    "a pooling behind a convolution": lambda net, x: net.pool(net.maps(x)),
    "interpolated": lambda net, x: (
        F.interpolate(net.maps(x), scale_factor=2, mode="bilinear", align_corners=False),
        F.interpolate(x, (9, 7)),
        net.up(x),
        F.interpolate(x, None, (1.5, 2.0), "bicubic", True),
    ),
    "two heads": lambda net, x: (net.fc1(net.flat(x)), net.maps(x)),
    "one in a tuple": lambda net, x: (net.fc1(net.flat(x)),),
    "a list": lambda net, x: [x, net.maps(x)],
    "a dict": lambda net, x: {"out": net.maps(x), "aux": None, "größe": x},
    "nested": lambda net, x: {"a": (x, [net.maps(x), {"b": x.mean(1)}]), "c": None},
    "joined heads": lambda net, x: torch.cat([net.fc1(net.flat(x)), x.mean((2, 3))], dim=1),
    "joined, by place": lambda net, x: torch.cat((x, net.same(x)), 1),
    "stacked": lambda net, x: torch.stack([x.mean(2), x.mean(3)], 1),
    "moved": lambda net, x: (x.permute(0, 2, 3, 1), torch.transpose(x, 1, 2).contiguous(), x.transpose(-1, 1)),
    "a product": lambda net, x: (x.mean((2, 3)) @ net.weights, torch.matmul(x.mean((2, 3)), net.weights)),
    "roots": lambda net, x: (x + 1).log() + x.sqrt(),
}
OLD: dict[str, Callable[[Any, Any], Any]] = {
    "two linear layers": lambda net, x: net.fc2(net.fc1(net.flat(x))),
    "linear layers that are given their input by its name": lambda net, x: net.fc2(input=net.fc1(input=net.flat(x))),
    "log-softmax": lambda net, x: net.fc1(net.flat(x)).log_softmax(dim=1),
}
NOT: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "no batch": (lambda net, x: {"all": x.sum(), "maps": x}, "its tail does not give logits for each image"),
    "a named tuple": (lambda net, x: Pair(x, x), "Pair has no name in the format of files"),
    "a number": (lambda net, x: (x, 3), "output: a int that the network returns has no name"),
    "keys that are no text": (lambda net, x: {0: x}, "output: a immutable_dict that the network returns has no name"),
    "einsum": (lambda net, x: torch.einsum("nchw->nc", x), "einsum: einsum has no name in the format of files"),
    "joined with a number": (lambda net, x: torch.cat([x, x], out=None), "cat: this call of cat has no name"),
    "a size that is read": (lambda net, x: F.interpolate(x, x.shape[2]), "interpolate: this kind of interpolation has"),
    "smoothed": (lambda net, x: F.interpolate(x, 2, mode="bilinear", antialias=True), "this kind of interpolation has"),
    "of other dimensions": (lambda net, x: F.interpolate(x.flatten(2), 3, mode="linear"), "this kind of interpolation"),
    "a size that is asked for": (
        lambda net, x: net.odd_deconv(x, output_size=(8, 13)),
        "odd_deconv: a layer that is told more than what it reads",
    ),
}


@cases("name", [*NEW, *OLD], quick=("of odd windows", "a pooling behind a convolution", "interpolated", "two heads"))
def test_a_tail_is_the_same_when_it_is_loaded(name: str, tmp_path: Path) -> None:
    snn = with_tail(seeded(lambda: Tail((NEW | OLD)[name])))
    path = snn.save(tmp_path / "net.fxsnn")
    assert load_arrays(path)[1]["version"] == (2 if name in NEW else 1)
    assert fxsnn.verify(path).ok
    other = fxsnn.load(path)
    for count in (1, 3, 65):
        given = images(count)
        assert alike(other(given), snn(given))
    assert alike(other.early_readout(images(3)), snn.early_readout(images(3)))
    assert other.save(tmp_path / "again.fxsnn").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("name", "known"), [("two linear layers", 0), ("two heads", 2), ("one in a tuple", 2)])
def test_the_reader_in_numpy_says_what_it_does_not_know(
    name: str, known: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_tail(seeded(lambda: Tail((NEW | OLD)[name]))).save(tmp_path / "net.fxsnn")
    assert read_network.main(str(path)) == known
    assert ("this reader does not know" in capsys.readouterr().out) == (known == 2)


def test_a_tensor_that_is_read_twice_is_written_once(tmp_path: Path) -> None:
    arrays, document = load_arrays(with_tail(seeded(lambda: Tail(NEW["a product"]))).save(tmp_path / "net.fxsnn"))
    assert [node["name"] for node in document["nodes"] if node["op"] == "tensor"] == ["weights"]
    assert [name for name in arrays if name.startswith("weights")] == ["weights"]


class _BeginsWithItsImages(nn.Module):
    """3x6x6, whose tail is begun before any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        colours = x.mean((2, 3))
        found: Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
        return found + colours


def test_what_a_tail_makes_of_the_images_is_written_behind_the_body(tmp_path: Path) -> None:
    given = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    with quiet():
        snn = fxsnn.convert(seeded(_BeginsWithItsImages), target="generic", bits=4, calibration_data=given)
    path = snn.save(tmp_path / "net.fxsnn")
    assert [node["op"] for node in load_arrays(path)[1]["nodes"]][:4] == ["images", "encode", "spike_conv2d", "decode"]
    assert alike(fxsnn.load(path)(given), snn(given))


def test_layers_that_share_their_weights_are_written_each(tmp_path: Path) -> None:
    tail = seeded(lambda: Tail(lambda net, x: (net.fc1(net.flat(x)), net.other(x.flatten(1)))))
    tail.other = nn.Linear(96, 8)
    tail.other.weight = tail.fc1.weight
    snn = with_tail(tail)
    path = snn.save(tmp_path / "net.fxsnn")
    assert alike(fxsnn.load(path)(images()), snn(images()))


@pytest.mark.parametrize(("calls", "says"), NOT.values(), ids=NOT)
def test_what_a_file_has_no_words_for_is_refused_by_save(
    calls: Callable[[Any, Any], Any], says: str, tmp_path: Path
) -> None:
    snn = with_tail(seeded(lambda: Tail(calls)))
    assert snn(images(3)) is not None
    with pytest.raises(FileError) as caught:
        snn.save(tmp_path / "net.fxsnn")
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class TestGoldenVectors:
    def test_of_several_outputs_have_a_number(self, tmp_path: Path) -> None:
        arrays, document = load_arrays(with_tail(seeded(lambda: Tail(NEW["nested"]))).save(tmp_path / "net.fxsnn"))
        assert document["nodes"][-1]["returns"] == {
            "dict": {
                "a": {"tuple": [{"node": 4}, {"list": [{"node": 5}, {"dict": {"b": {"node": 6}}}]}]},
                "c": None,
            }
        }
        logits = {name: tuple(one.shape) for name, one in arrays.items() if name.startswith("golden/logits")}
        assert logits == {
            "golden/logits/0": (2, 6, 4, 4),
            "golden/logits/1": (2, 2, 4, 4),
            "golden/logits/2": (2, 4, 4),
        }

    def test_of_one_output_have_none_wherever_it_stands(self, tmp_path: Path) -> None:
        arrays, _ = load_arrays(with_tail(seeded(lambda: Tail(NEW["one in a tuple"]))).save(tmp_path / "net.fxsnn"))
        assert arrays["golden/logits"].shape == (2, 8)

    @pytest.mark.parametrize("number", [0, 1])
    def test_find_what_is_wrong_in_each_of_them(self, number: int, tmp_path: Path) -> None:
        path = with_tail(seeded(lambda: Tail(NEW["two heads"]))).save(tmp_path / "net.fxsnn")
        arrays, document = load_arrays(path)
        name = f"golden/logits/{number}"
        arrays[name] = arrays[name].clone()
        arrays[name].view(-1)[0] += 1
        found = fxsnn.verify(save_arrays(tmp_path / "other.fxsnn", arrays, document))
        assert not found.ok
        assert found.logits > 1e-3
        assert not any(found.wrong.values())

    def test_are_refused_where_one_is_missing_or_too_many(self, tmp_path: Path) -> None:
        path = with_tail(seeded(lambda: Tail(NEW["two heads"]))).save(tmp_path / "net.fxsnn")
        arrays, document = load_arrays(path)
        arrays["golden/logits/2"] = arrays.pop("golden/logits/1")
        with pytest.raises(FileError, match=r"(?s)golden/logits/1' is missing.*golden/logits/2': nothing needs it"):
            fxsnn.load(save_arrays(tmp_path / "other.fxsnn", arrays, document))


def test_the_schema_of_version_2_refers_to_that_of_version_1(tmp_path: Path) -> None:
    """Whoever has both files can hold a document against them."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    Draft202012Validator.check_schema(schema(2))
    known = Registry().with_resource("file_v1.schema.json", Resource.from_contents(schema(1)))
    _, document = load_arrays(with_tail(seeded(lambda: Tail(NEW["nested"]))).save(tmp_path / "net.fxsnn"))
    Draft202012Validator(schema(2), registry=known).validate(json.loads(json.dumps(document)))


def deep(levels: int) -> Any:
    value: Any = {"node": 5}
    for _ in range(levels):
        value = {"list": [value]}
    return value


HOSTILE: dict[str, tuple[str, str, Any, str]] = {
    "returned from nowhere": ("output", "returns", {"list": [{"node": 900}]}, "which does not stand before it"),
    "returned from itself": ("output", "returns", {"tuple": [{"node": 10}]}, "it reads node 10"),
    "spikes returned": ("output", "returns", {"tuple": [{"node": 2}]}, "spikes, or reads what does"),
    "nothing returned": ("output", "returns", {"list": [None]}, "does not give logits for each image"),
    "returned deep": ("output", "returns", deep(40), "what it returns is nested more than 16 deep"),
    "returned very deep": ("output", "returns", deep(400), "nested more than 16 deep"),
    "returned in two ways": ("output", "returns", {"list": [], "tuple": []}, "returns"),
    "text returned": ("output", "returns", "x", "returns"),
    "many returned": ("output", "returns", {"list": [{"node": 5}] * 100}, "returns"),
    "read twice": ("output", "reads", 5, "'reads' was unexpected"),
    "groups": ("same", "groups", 5, "5 groups do not divide 6 and 4 channels"),
    "channels": ("same", "in_channels", 8, "array 'same.weight' is"),
    "padding": ("same", "padding", [0, -3, 1, 1], "-3"),
    "huge padding": ("same", "padding", [4096, 4096, 4096, 4096], "is too large"),
    "huge maps": ("up", "size", [4096, 4096], "is too large"),
    "a mode of other dimensions": ("up", "mode", "linear", "'linear' is not one of"),
    "a size and a factor": ("up", "scale_factor", [2, 2], "its tail does not fit together"),
    "neither": ("up", "size", None, "its tail does not fit together"),
    "a window that does not fit": ("pool", "kernel_size", [9, 9], "its tail does not fit together"),
    "groups of a transposed one": ("odd_deconv", "groups", 5, "5 groups do not divide 6 and 4 channels"),
    "more rows behind than a stride": ("odd_deconv", "output_padding", [9, 2], "output_padding is 9; allowed"),
    "more rows taken away than there are": ("odd_deconv", "padding", [4096, 0], "its tail does not fit together"),
    "output padding of one side": ("odd_deconv", "output_padding", [1], "output_padding"),
    "no stride": ("pool", "stride", [0, 1], "stride"),
    "a bias that is not there": ("same", "bias", True, "array 'same.bias' is missing"),
    "a number joined": ("cat", "arguments", [[3, 4], 1], "the first argument of cat is no list of nodes"),
    "nothing joined": ("cat", "arguments", [[], 1], "its tail does not fit together"),
    "one node joined": ("cat", "arguments", [{"node": 5}, 1], "the first argument of cat is no list of nodes"),
    "another version": ("version", "", 1, "is not one of"),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays and document of a good file."""
    snn = with_tail(
        seeded(
            lambda: Tail(
                lambda net, x: (torch.cat([net.same(x), x], 1), net.pool(x), net.up(x), net.odd_deconv(x)),
            )
        )
    )
    return load_arrays(snn.save(tmp_path_factory.mktemp("files") / "net.fxsnn", golden=0))


@pytest.mark.parametrize(("name", "field", "value", "says"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_wrong_in_the_new_words_is_told(
    name: str, field: str, value: Any, says: str, parts: tuple[Any, Any], tmp_path: Path
) -> None:
    arrays, document = copy.deepcopy(parts)
    if name == "version":
        document["version"] = value
    else:
        next(node for node in document["nodes"] if node["name"] == name)[field] = value
    with pytest.raises(FileError) as caught:
        fxsnn.load(save_arrays(tmp_path / "net.fxsnn", arrays, document))
    assert says in str(caught.value)
