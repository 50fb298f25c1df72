"""Damaged and hostile files, and a program that tries to load them all.

    python tests/damage.py FOLDER

prints, as JSON, what loading each file of the folder came to, and in how much time; 200 MB are all that it may take.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fxsnn
from fxsnn.storage import load_arrays, save_arrays

MEMORY = 200 << 20
Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with such a header, well-formed or not."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def cut(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Truncated at every kind of place."""
    header = 8 + int.from_bytes(content[:8], "little")
    places = {0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) - 1, len(content) - 33}
    places |= {len(content) * share // 20 for share in range(1, 20)}
    for place in sorted(places):
        yield f"cut at {place}", content[:place]
    yield "longer", content + b"\0"
    yield "much longer", content + content


def flipped(content: bytes) -> Iterator[tuple[str, bytes]]:
    """One bit is another one: in the length, in the header, in the arrays."""
    header = 8 + int.from_bytes(content[:8], "little")
    chosen = random.Random(0)
    places = [chosen.randrange(64) for _ in range(6)]
    places += [chosen.randrange(64, 8 * header) for _ in range(40)]
    places += [chosen.randrange(8 * header, 8 * len(content)) for _ in range(30)]
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield f"bit {place} flipped", bytes(changed)


def strange(trap: Path) -> Iterator[tuple[str, bytes]]:
    """No network files at all, or headers made to exhaust who reads them."""
    huge = {"a": {"dtype": "U8", "shape": [1 << 60], "data_offsets": [0, 1 << 60]}}
    nested = b'{"__metadata__":{"fxsnn":"{}"},"a":' + b"[" * 1_000_000
    deep_document = json.dumps({"__metadata__": {"fxsnn": "[" * 500_000}}).encode()
    many = json.dumps({str(i): {} for i in range(80_000)}).encode()
    lists = b'{"a":[' + b"[]," * 690_000 + b"[]]}"
    overlapping = {
        "__metadata__": {"fxsnn": "{}"},
        "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
    }
    yield "a pickle", pickle.dumps(Attack(trap))
    yield "a pickle of PyTorch", b"PK\3\4" + pickle.dumps(Attack(trap))
    yield "text", b"this is no network"
    yield "zeros", bytes(4096)
    yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "huge length", raw(b"{}", length=1 << 63)
    yield "length of 4 GiB", raw(b"{}", length=1 << 32)
    yield "large header", raw(b" " * (5 << 20))
    yield "header nested deeply", raw(nested)
    yield "document nested deeply", raw(deep_document)
    yield "many entries", raw(many)
    yield "many lists", raw(lists)
    yield "a header that is a list", raw(b"[1, 2]")
    yield "a header that is no UTF-8", raw(b'{"\xff": 1}')
    yield "a header without metadata", raw(b"{}")
    yield "metadata that is a list", raw(b'{"__metadata__": [1]}')
    yield "metadata of another program", raw(b'{"__metadata__": {"format": "pt"}}')
    surrogate = {"__metadata__": {"fxsnn": json.dumps({"a": "\ud800"})}}
    yield "half a surrogate pair", raw(json.dumps(surrogate).encode())
    empty = {"a": {"dtype": "F64", "shape": [0, (1 << 64) - 1], "data_offsets": [0, 0]}}
    seal = {"sha256": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}
    yield "an empty array of huge shape", raw(json.dumps({"__metadata__": {"fxsnn": "{}"}, **empty}).encode())
    yield "a seal of floats", raw(json.dumps({"__metadata__": {"fxsnn": "{}"}, **seal}).encode(), bytes(32))
    yield "a key twice", raw(b'{"__metadata__": {"fxsnn": "{}"}, "__metadata__": {"fxsnn": "{}"}}')
    yield "a huge number", raw(b'{"__metadata__": {"fxsnn": "{}"}, "a": ' + b"9" * 10_000 + b"}")
    yield "NaN", raw(b'{"__metadata__": {"fxsnn": "{}"}, "a": NaN}')
    yield "infinity", raw(b'{"__metadata__": {"fxsnn": "{}"}, "a": 1e999}')
    yield "huge declared array", raw(json.dumps({"__metadata__": {"fxsnn": "{}"}, **huge}).encode(), bytes(8))
    yield "overlapping arrays", raw(json.dumps(overlapping).encode(), bytes(6))
    yield "no seal", raw(json.dumps({"__metadata__": {"fxsnn": "{}"}}).encode())


def node(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The node of that name."""
    found: dict[str, Any] = next(one for one in document["nodes"] if one["name"] == name)
    return found


def nested(depth: int) -> dict[str, Any]:
    """An object in an object in an object."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def edits() -> Iterator[tuple[str, Edit]]:
    """Lies under a correct seal; the network is `tests.nets.Small` at 2 bits."""

    def put(path: str, value: Any) -> Edit:
        def edit(document: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
            *places, last = path.split("/")
            here: Any = document
            for place in places:
                here = node(document, place[1:]) if place.startswith("@") else here[place]
            here[last] = value

        return edit

    def array(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Edit:
        def edit(document: dict[str, Any], arrays: dict[str, torch.Tensor]) -> None:
            new = change(arrays[name])
            del arrays[name]
            if new is not None:
                arrays[name] = new

        return edit

    for name in (
        "conv1.codes", "conv2.threshold", "hidden.leak", "conv1.step", "pool.spike_value", "fc.weight", "fc.bias",
        "golden/images", "golden/logits", "golden/spikes/conv2",
    ):  # fmt: skip
        yield f"{name} missing", array(name, lambda _: None)
        yield f"{name} shorter", array(name, lambda one: one[:-1].clone())
        yield f"{name} of another type", array(name, lambda one: one.to(torch.int16))
        yield f"{name} with another dimension", array(name, lambda one: one[None])
    for name in ("conv1.step", "hidden.spike_value", "fc.weight", "golden/images", "conv2.real_bias"):
        yield f"{name} with NaN", array(name, lambda one: torch.full_like(one, torch.nan))
    yield "threshold 0", array("conv1.threshold", torch.zeros_like)
    yield "threshold below 0", array("conv1.threshold", lambda one: -one)
    yield "threshold beyond its register", array("conv1.threshold", lambda one: one * 0 + (1 << 17))
    yield "leak beyond its register", array("conv2.leak", lambda one: one * 0 - (1 << 18) - 1)
    yield "step of zero", array("conv2.step", torch.zeros_like)
    yield "another step", array("conv2.step", lambda one: one * 1.5)
    yield "another spike value", array("hidden.spike_value", lambda one: one * 2)
    yield "another spike value of the pooling", array("pool.spike_value", lambda one: one * 2)
    yield "a code of -2", array("conv1.codes", lambda one: one * 0 + 0b10101010)
    lies: dict[str, list[Any]] = {
        "format": ["other", None],
        "version": [1.0, 0, 2.0, 3, 99, "1", 1.5, True, None, -1],
        "golden": [{"images": 2.0}, {"images": 0}, {"images": 1}, {"images": 3}, None, {"images": 1 << 40}, {}],
        "nodes": [[], [1], {}, None, [{"op": "images"}] * 5000],
        "image_size": [None, [3, 12], [3, 13, 12], [4, 12, 12], [3, 1, 1], [0, 12, 12], [3, 1 << 24, 1 << 24]],
        "dynamics/timesteps": [0, -1, 3, 1.5, 1 << 20, "5", None],
        "dynamics/reset": ["none", 0],
        "dynamics/initial_membrane": [0.25, "0"],
        "target/name": ["", 1, "\x1b[31mred"],
        "provenance": [1, [], nested(900)],
        "target/registers": [{"codebook": 3, "threshold": 18, "leak": 19}, {}, {"codebook": 99}],
        "target/weight_bits": [[], [5], [1, 3, 4]],
        "target/input_channels": [
            [{"kernel_size": [3, 3], "limits": {}}], [{"kernel_size": [3, 3], "limits": {"2": 2}}], [], None,
            [{"kernel_size": [3, 3]}],
        ],
        "nodes/@conv1/bits": [1, 3, 4, 0, 9, 2.0],
        "nodes/@conv1/gain": [0, 1, 1 << 20, "7"],
        "nodes/@conv1/input_unit": [0, -1, 5.0, 10**300],
        "nodes/@conv1/in_channels": [1, 1 << 24],
        "nodes/@conv2/out_channels": [4, 1 << 24],
        "nodes/@conv1/kernel_size": [[3.0, 3], [0, 3], [5, 5], [3], [4096, 4096]],
        "nodes/@conv1/stride": [[0, 1], [2, 2], [1, 1, 1]],
        "nodes/@conv1/padding": [[1, 1], [1, 2, 1, 1], [0, 0, 0, 0], [-1, 1, 1, 1], [4096] * 4],
        "nodes/@conv1/dilation": [[0, 0], [9, 9]],
        "nodes/@conv1/groups": [1.0, 0, 2, 3, 1 << 20],
        "nodes/@conv1/name": ["conv2", "../conv1", 'a"];import os;["', "__class__", "if", "a.b", "ö", "", "a\n"],
        "nodes/@conv1/op": ["spike_linear", "exec", "call"],
        "nodes/@conv1/reads": [1.0, 0, 2, 5, 99, -1, "encode", None],
        "nodes/@hidden/in_features": [127, 1 << 24],
        "nodes/@hidden/out_features": [1 << 24],
        "nodes/@fc/in_features": [15, 1 << 24],
        "nodes/@fc/bias": [False, 1],
        "nodes/@fc/reads": [3],
        "nodes/@pool/padding": [[0, 1, 0, 0], [2, 2, 2, 2]],
        "nodes/@pool/channels": [4],
        "nodes/@encode/unit": [0, -1, 10**400, 1e300],
        "nodes/@encode/bits": [0, 64],
        "nodes/@encode/channels": [4],
        "nodes/@x/name": ["class", "self", "1", "a-b"],
    }  # fmt: skip
    for path, values in lies.items():
        for value in values:
            yield f"{path} is {str(value)[:30]}", put(path, value)
    call = {"op": "call", "name": "evil", "options": {}}
    calls: dict[str, list[Any]] = {
        "__class__": [{"node": 8}], "system": ["ls"], "eval": ["1"], "mul": [2, {"node": 8}], "getitem": [{"node": 8}],
        "size": [{"node": 8}], "reshape": [{"node": 8}, [1 << 40]], "view": [{"node": 8}, -1, 7],
        "shape": [{"node": 2}], "add": [{"node": 99}, 1],
    }  # fmt: skip
    for function, arguments in calls.items():

        def edit(document: dict[str, Any], _: Any, function: str = function, arguments: Any = arguments) -> None:
            document["nodes"].insert(-1, {**call, "function": function, "arguments": arguments})
            document["nodes"][-1]["reads"] = len(document["nodes"]) - 2

        yield f"a call of {function}", edit

    def tail(*nodes: dict[str, Any]) -> Edit:
        """More nodes in front of the output, one behind the other; `before` stands for the one before."""

        def edit(document: dict[str, Any], _: Any) -> None:
            for place, one in enumerate(nodes):
                before = len(document["nodes"]) - 2
                text = json.dumps({"name": f"more{place}", **one}).replace('"before"', str(before))
                document["nodes"].insert(-1, json.loads(text))
            document["nodes"][-1]["reads"] = len(document["nodes"]) - 2

        return edit

    def invoke(function: str, *arguments: Any) -> dict[str, Any]:
        return {**call, "function": function, "arguments": [{"node": "before"}, *arguments]}

    grow = [invoke("unsqueeze", -1), invoke("unsqueeze", -1)]
    pool = {"op": "adaptive_avg_pool2d", "reads": "before", "output_size": [4096, 4096]}
    deep = ".".join(["a"] * 16)
    yield "softmax along a dimension that is not there", tail({"op": "softmax", "reads": "before", "dim": 7})
    yield "a tail for one number of images", tail(invoke("reshape", [2, 5]))
    yield "a tail that gives nothing", tail(invoke("getitem", [0]), invoke("unsqueeze", 0))
    yield "a tail that grows", tail(*grow, pool, invoke("mean", [2, 3]))
    yield "many calls", tail(*[invoke("add", [[1] * 8] * 7)] * 300)
    yield "many calls with many arguments", tail(*[invoke("add", [1] * 8, [1] * 8, [1] * 8)] * 60)
    activations = [{"op": "activation", "reads": "before", "function": "relu"}] * 900
    yield "names in many containers", tail(*({**one, "name": f"b{n}.{deep}.c"} for n, one in enumerate(activations)))
    yield "names too long", tail({**activations[0], "name": f"{deep}.{deep}"})

    def add(name: str) -> Edit:
        return lambda _, arrays: arrays.update({name: torch.zeros(2)})

    yield "an array too many", add("evil")
    yield "golden vectors too many", add("golden/spikes/evil")
    yield "another key", put("evil", 1)
    yield "another key of a node", put("nodes/@conv1/evil", 1)

    def twice(document: dict[str, Any], _: Any) -> None:
        document["nodes"].append(copy.deepcopy(document["nodes"][-1]))

    yield "two outputs", twice

    def backwards(document: dict[str, Any], _: Any) -> None:
        document["nodes"].reverse()

    yield "nodes in another order", backwards


def damaged(folder: Path, good: Path, trap: Path, every: int = 1) -> list[Path]:
    """Write damaged forms of a good file into a folder: all of them, or the first of so many."""
    content = good.read_bytes()

    def edited(path: Path, edit: Edit) -> None:
        arrays, document = load_arrays(good)
        edit(document, arrays)
        save_arrays(path, {key: one.contiguous() for key, one in arrays.items()}, document)

    def unsealed(path: Path) -> None:
        edited(path, lambda document, _: document.update(provenance={"a": list(range(10))}))
        path.write_bytes(path.read_bytes().replace(b"[0,1,2", b"[1,0,2"))

    forms: list[tuple[str, Callable[[Path], object]]] = [
        (name, partial(Path.write_bytes, data=bad)) for name, bad in [*cut(content), *flipped(content), *strange(trap)]
    ]
    forms += [(name, partial(edited, edit=edit)) for name, edit in edits()]
    forms.append(("another document under the seal of the first", unsealed))
    files, names = [], {}
    for number, (name, write) in list(enumerate(forms))[::every]:
        files.append(folder / f"{number:03}.fxsnn")
        write(files[-1])
        names[files[-1].name] = name
    (folder / "names.json").write_text(json.dumps(names))
    return files


def main(folder: Path) -> None:
    """Load everything in a folder."""
    fxsnn.load(folder / "good.fxsnn")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = {}
    for path in sorted(folder.glob("[0-9]*.fxsnn")):
        before = time.process_time()
        try:
            fxsnn.load(path)
            outcome = "loaded"
        except fxsnn.FileError as error:
            outcome = f"FileError: {error}"
        except BaseException as error:  # what must not happen is reported, whatever it is
            outcome = f"{type(error).__name__}: {error}"
        found[path.name] = (outcome, time.process_time() - before)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
