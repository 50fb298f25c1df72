"""From the network file's document and arrays back to a spiking graph; nothing in them is believed unseen.

First the schema, then sizes along the graph, then each array's type, shape and range, the target's limits and
registers, and at last the tail, which is run on PyTorch's meta device. All that is wrong is told at once.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.chip import CODEBOOKS, JOINS, HardwareTarget, Registers, get_target
from fxsnn.errors import FxsnnError, UnknownName
from fxsnn.file.arrays import ANY_TYPE, FLOATS, Arrays
from fxsnn.file.body import BodyBuilder, OutlineBuilder
from fxsnn.file.document import LISTED, METHODS, METHODS_OF_2, target_data
from fxsnn.file.returned import returned_values
from fxsnn.file.schema_check import Document, Problems, require_schema
from fxsnn.file.structure import Size, reads, require_order, sizes_of, spikes
from fxsnn.file.tail import logits_sizes
from fxsnn.file.tail_layers import rebuilt_layer
from fxsnn.file.wiring_layers import WORDS
from fxsnn.graph import Graph, Tracer, spare_self


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """What a file describes.

    Attributes:
        graph: the spiking graph.
        target: the chip it was compiled for.
        image_size: of an image, without the batch; `None` where it is not known.
        sizes: per spiking layer, the size of its output without the batch; empty if `image_size` is `None`.
        logits: the sizes of the tensors that it returns, without the batch; `None` if `image_size` is.
    """

    graph: Graph
    target: HardwareTarget
    image_size: Size | None
    sizes: Mapping[str, Size]
    logits: tuple[Size, ...] | None

    @property
    def golden_size(self) -> Size | None:
        """Of a golden image, without the batch."""
        return None if self.image_size is None else self.graph.image_form.with_time(self.image_size)


def rebuilt(document: Document, arrays: Mapping[str, Tensor], target: HardwareTarget | None = None) -> Rebuilt:
    """The spiking graph that a document and its arrays describe.

    Args:
        document: of any content.
        arrays: of any content; golden vectors among them are left alone.
        target: instead of the document's own.

    Raises:
        FileError: all that is wrong.
    """
    return _rebuilt(document, arrays, target, BodyBuilder)


def require_readable(document: Document, arrays: Mapping[str, Tensor]) -> None:
    """Hold the structure of a network, and its tail, against all rules of reading.

    Args:
        document: of a network that is not converted yet.
        arrays: those of the tail; of spiking layers nothing is looked at.

    Raises:
        FileError: all that is wrong.
    """
    _rebuilt(document, arrays, None, OutlineBuilder)


def _rebuilt(
    document: Document, held: Mapping[str, Tensor], target: HardwareTarget | None, build: type[BodyBuilder]
) -> Rebuilt:
    require_schema(document)
    problems = Problems()
    target = target or _target(document["target"], problems)
    problems.stop()
    require_order(document["nodes"], problems)
    problems.stop()
    image_size = None if document["image_size"] is None else tuple(document["image_size"])
    sizes = sizes_of(document["nodes"], image_size, problems)
    problems.stop()
    arrays = Arrays(held, problems)
    graph = _Program(document, arrays, build(document, arrays, target, sizes, problems), problems).graph()
    problems.stop()
    logits = None if image_size is None else logits_sizes(graph, sizes, image_size)
    names = {place: node["name"] for place, node in enumerate(document["nodes"])}
    spiking = {names[place]: size for place, size in sizes.items() if spikes(document["nodes"][place])}
    return Rebuilt(graph, target, image_size, spiking, logits)


def _target(data: Mapping[str, Any], problems: Problems) -> HardwareTarget:
    rows = data["input_channels"]
    table = None if rows is None else {
        (row["kernel_size"][0], row["kernel_size"][1]): {int(bits): most for bits, most in row["limits"].items()}
        for row in rows
    }  # fmt: skip
    for key in ("name", "description"):
        if not data[key].isprintable():
            problems(f"$.target.{key}: it has characters that cannot be printed")
    plain = {**data, "weight_bits": tuple(data["weight_bits"]), "input_channels": table}
    try:
        return HardwareTarget(**{**plain, "registers": Registers(**data["registers"])})
    except FxsnnError as error:
        problems(f"$.target: {error}")
        return HardwareTarget("unknown")


def difference(file: HardwareTarget, known: HardwareTarget) -> list[str]:
    """What two targets of one name do not agree on, descriptions aside.

    Files of earlier versions say nothing of codebooks, where they need none but symmetric ones, and of joins.
    """
    ours, theirs = target_data(known), target_data(file)
    codebooks = ["codebook"] if file.codebook not in (CODEBOOKS[0], known.codebook) else []
    joins = ["joins"] if file.joins not in (JOINS, known.joins) else []
    return codebooks + joins + [key for key in ours if key not in ("name", "description") and ours[key] != theirs[key]]


def completed(target: HardwareTarget) -> HardwareTarget:
    """A file's target with what files leave out, as far as it is the one that is known here by its name."""
    try:
        known = get_target(target.name)
    except UnknownName:
        return target  # a third party's, which need not be installed: the file says what there is to know
    return target if difference(target, known) else replace(target, joins=known.joins, codebook=known.codebook)


class _Program:
    """Makes the program of a file: the layers of its body, those of its tail, and calls."""

    def __init__(self, document: Document, arrays: Arrays, body: BodyBuilder, problem: Problems) -> None:
        self._nodes: list[Mapping[str, Any]] = document["nodes"]
        self._last = [node["op"] for node in self._nodes].index("decode")
        self._arrays = arrays
        self._body = body
        self._problem = problem

    def graph(self) -> Graph:
        root, program, values = nn.Module(), fx.Graph(tracer_cls=Tracer), list[Node]()
        for place, node in enumerate(self._nodes):
            name, given = str(node["name"]), [values[source] for source in reads(node)]
            if node["op"] == "images":
                values.append(program.placeholder(name))
            elif node["op"] == "output":
                returned = returned_values(node["returns"], values.__getitem__) if "returns" in node else given[0]
                values.append(program.output(returned))
            elif node["op"] == "tensor":
                root.register_buffer(name, self._arrays(name, None, ANY_TYPE))
                values.append(program.get_attr(name))
            elif node["op"] == "call":
                values.append(self._call(program, node, values))
            else:
                layer = self._body.layer(place) if place <= self._last else self._layer(node)
                _put(root, name, layer.eval())
                values.append(program.call_module(name, tuple(given)))
        self._arrays.require_all_used()
        self._problem.stop()
        spare_self(program)
        return Graph(fx.GraphModule(root, program))

    def _layer(self, node: Mapping[str, Any]) -> nn.Module:
        """A layer of the tail."""

        def find(part: str, shape: Size) -> Tensor:
            return self._arrays(f"{node['name']}.{part}", shape, (torch.int64,) if node["op"] in WORDS else FLOATS)

        return WORDS[node["op"]].made(node, find) if node["op"] in WORDS else rebuilt_layer(node, find, self._problem)

    def _call(self, program: fx.Graph, node: Mapping[str, Any], values: list[Node]) -> Node:
        def value(given: Any) -> Any:
            if isinstance(given, dict):
                return values[given["node"]]
            return [value(one) for one in given] if isinstance(given, list) else given

        function = node["function"]
        arguments = tuple(value(one) for one in node["arguments"])
        options = {name: value(one) for name, one in node["options"].items()}
        if function in LISTED:
            if not isinstance(arguments[0], list) or not all(isinstance(one, Node) for one in arguments[0]):
                self._problem(f"{node['name']}: the first argument of {function} is no list of nodes")
                return values[0]
            return program.call_function(getattr(torch, function), arguments, options)
        if not isinstance(arguments[0], Node):
            self._problem(f"{node['name']}: the first argument of {function} is no node")
            return values[0]
        if function == "getitem":
            index = arguments[1] if len(arguments) == 2 else None
            if options or not isinstance(index, int | list):
                self._problem(f"{node['name']}: getitem needs an index")
                return values[0]
            return program.call_function(operator.getitem, (arguments[0], _tuple(index)))
        if function == "shape":
            return program.call_function(getattr, (arguments[0], "shape"))
        assert function in METHODS | METHODS_OF_2  # the schema says so
        return program.call_method(function, tuple(map(_tuple, arguments)), options)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Make `module` the submodule of that dotted name, with plain modules for what lies between."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
