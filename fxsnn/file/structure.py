"""Whether the nodes of a network file stand in an order, under names and with sizes that a network can have."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from math import prod
from typing import Any

from fxsnn.file.returned import returned_places
from fxsnn.file.schema_check import Problems
from fxsnn.file.wiring_layers import WORDS, size_behind_wiring
from fxsnn.graph import about_file_name
from fxsnn.layers import ImageForm, Taps

_MOST_CONTAINERS = 1024
_MOST_READS = 8192

Size = tuple[int, ...]


def spikes(node: Mapping[str, Any]) -> bool:
    """Whether a node is a layer with neurons."""
    return str(node["op"]).startswith("spike_")


def gives_sums(node: Mapping[str, Any]) -> bool:
    """Whether a node is a layer whose sums neurons of several inputs add up."""
    return str(node["op"]).startswith("synapse_")


def reads(node: Mapping[str, Any]) -> list[int]:
    """The places of the nodes that a node reads."""
    if node["op"] == "output" and "returns" in node:
        return list(returned_places(node["returns"]))
    if node["op"] != "call":
        given = node.get("reads", [])
        return given if isinstance(given, list) else [given]
    told = [*node["arguments"], *node["options"].values()]
    told += [one for value in told if isinstance(value, list) for one in value]
    return [one["node"] for one in told if isinstance(one, dict)]


def require_order(nodes: list[Mapping[str, Any]], problems: Problems) -> None:
    """From the images to `decode` a body of which all leads there, everything else behind it, usable names."""
    ops = [node["op"] for node in nodes]
    if (count := sum(len(reads(node)) for node in nodes)) > _MOST_READS:
        problems(f"$.nodes: they read {count:,} values; allowed are {_MOST_READS:,}")
        return
    for place, node in enumerate(nodes):
        for source in reads(node):
            if source >= place or ops[source] == "output":
                problems(f"{node['name']}: it reads node {source}, which does not stand before it")
    for only in ("images", "encode", "decode", "output"):
        if ops.count(only) != 1:
            problems(f"$.nodes: there are {ops.count(only)} of {only}; there must be one")
    if problems.found:
        return
    body = nodes[: ops.index("decode") + 1]
    if ops[0] != "images" or ops[1] != "encode" or ops[-1] != "output":
        problems("$.nodes: the first must be images and encode, the last must be output")
    _require_body(body, problems)
    for place, node in enumerate(nodes[len(body) :], len(body)):
        if spikes(node) or gives_sums(node) or any(0 < source < len(body) - 1 for source in reads(node)):
            problems(f"{node['name']}: {node['op']} at place {place} spikes, or reads what does")
    if not any(spikes(node) for node in body):
        problems("$.nodes: no layer spikes")
    _require_names(nodes, problems)


def _require_body(body: list[Mapping[str, Any]], problems: Problems) -> None:
    """Each node may read what it does, and is read: of sums by one that adds them up, of all else by any."""
    readers: dict[int, list[Mapping[str, Any]]] = {}
    images = {0}
    for place, node in enumerate(body):
        op, given = node["op"], reads(node)
        for source in given:
            readers.setdefault(source, []).append(node)
        in_body = spikes(node) or gives_sums(node) or op in ("encode", "flatten", "decode", *WORDS)
        if place and (not in_body or (given != [0] if op == "encode" else 0 in given)):
            problems(f"{node['name']}: {op} that reads {given} cannot stand at place {place} of the body")
        of_images = [source in images for source in given]
        if op == "encode" or (place and not (spikes(node) or gives_sums(node)) and any(of_images)):
            images.add(place)
        if op in WORDS and any(of_images) and not all(of_images):
            problems(f"{node['name']}: it joins spikes and images")
        if op in ("spike_avg_pool2d", "spike_any_pool2d", "decode") and any(of_images):
            problems(f"{node['name']}: {op} reads no spikes")
    for place, node in enumerate(body[:-1]):
        found = readers.get(place, [])
        if not found:
            problems(f"{node['name']}: nothing in the body reads it")
        if gives_sums(node) and [one["op"] for one in found] not in ([], ["spike_add"]):
            problems(
                f"{node['name']}: its sums are read by {', '.join(str(one['name']) for one in found)}; "
                "allowed is one spike_add"
            )


def _require_names(nodes: list[Mapping[str, Any]], problems: Problems) -> None:
    held = [str(node["name"]) for node in nodes if node["op"] not in ("images", "call", "output")]
    for name in sorted({name for name in held if held.count(name) > 1}):
        problems(f"{name}: {held.count(name)} nodes have this name")
    inner = {name.rpartition(".")[0] for name in held}
    for name in sorted(set(held)):
        if any(one == name or one.startswith(f"{name}.") for one in inner):
            problems(f"{name}: it is a layer and holds another one")
        for finding in about_file_name(name):
            problems(f"{name}: a layer cannot be named so in a file ({finding.problem})")
    containers = {
        ".".join(parts[:depth]) for parts in (name.split(".") for name in held) for depth in range(1, len(parts))
    }
    if len(containers) > _MOST_CONTAINERS:
        problems(f"$.nodes: their names have {len(containers):,} containers; allowed are {_MOST_CONTAINERS:,}")
    images = str(nodes[0]["name"])
    if not images.isidentifier() or keyword.iskeyword(images) or images == "self":
        problems(f"{images}: images cannot be named so")
    for node in nodes:
        if node["op"] == "tensor" and "." in node["name"]:
            problems(f"{node['name']}: a tensor cannot be named so")


def image_form_of(nodes: list[Mapping[str, Any]]) -> ImageForm:
    """What images of the network look like; they may be anything in front of a flatten."""
    encode = nodes[1]
    flat = any(node["op"] == "flatten" and reads(node) == [1] for node in nodes)
    size = tuple(encode["size"]) if "size" in encode else None
    frames = 0 if encode.get("frames") else None
    return ImageForm(encode["channels"], encode.get("rank", None if flat else 4), size, frames)


def sizes_of(nodes: list[Mapping[str, Any]], image_size: Size | None, problems: Problems) -> dict[int, Size]:
    """The size of what each node of the body gives, without the batch; empty where that of images is not known."""
    form = image_form_of(nodes)
    if form.size is not None and form.size != image_size:
        problems(f"$.image_size: it is {image_size and list(image_size)}; images of this network are {form}")
        return {}
    if image_size is None:
        return {}
    if not form.takes(len(image_size) + form.in_front):
        problems(f"$.image_size: it is {list(image_size)}; images of this network are {form}")
        return {}
    sizes: dict[int, Size] = {0: image_size}
    for place, node in enumerate(nodes[1:], 1):
        given = [sizes[source] for source in reads(node)]
        size = _size_behind(node, given, problems)
        size = form.size_of_layers(size) if size is not None and node["op"] == "encode" else size
        if size is None or not 0 < prod(size) <= 1 << 31:
            told = ", ".join(str(list(one)) for one in given)
            problems(f"{node['name']}: nothing is left of an input of {told}, or too much comes out")
            break
        sizes[place] = size
        if node["op"] == "decode":
            break
    return sizes


def _size_behind(node: Mapping[str, Any], given: list[Size], problems: Problems) -> Size | None:
    op, name, size = node["op"], node["name"], given[0]
    kind = str(op).removeprefix("spike_").removeprefix("synapse_")
    wanted = {"conv2d": "in_channels", **dict.fromkeys(("encode", "avg_pool2d", "any_pool2d"), "channels")}.get(kind)
    if wanted and node[wanted] not in (None, size[0]):
        problems(f"{name}: it reads {node[wanted]} channels and is given {list(size)}")
    if op in ("encode", "decode"):
        return size
    if op == "flatten":
        return (prod(size),)
    if op in WORDS:
        return size_behind_wiring(node, given)
    if kind == "add":
        if any(one != size for one in given):
            problems(f"{name}: it adds what is not of one size: {', '.join(str(list(one)) for one in given)}")
        return size
    if kind == "linear":
        if node["in_features"] != prod(size):
            problems(f"{name}: it reads {node['in_features']} features and is given {list(size)}")
        return (int(node["out_features"]),)
    if len(size) != 3:
        return None
    if kind == "any_pool2d":
        axes = zip(("rows", "columns"), size[1:], strict=True)
        pooled = [Taps(**node[axis]).windows(side) for axis, side in axes]
        return (size[0], *pooled) if min(pooled) > 0 else None
    top, bottom, left, right = node["padding"]
    dilation = node.get("dilation", (1, 1))
    maps = [
        (side + padding - spacing * (kernel - 1) - 1) // stride + 1
        for side, padding, kernel, stride, spacing in zip(
            size[1:], (top + bottom, left + right), node["kernel_size"], node["stride"], dilation, strict=True
        )
    ]
    channels = int(node["out_channels"] if kind == "conv2d" else node["channels"])
    return (channels, *maps) if min(maps) > 0 else None
