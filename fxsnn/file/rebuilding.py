"""From the network file's document and arrays back to a spiking graph; nothing in them is believed unseen.

First the schema, then sizes along the graph, then each array's type, shape and range, the target's limits and
registers, and at last the tail, which is run on PyTorch's meta device. All that is wrong is told at once.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.chip import HardwareTarget, Registers, fit_layer
from fxsnn.errors import FxsnnError
from fxsnn.file.document import JOINS, METHODS, METHODS_OF_2, target_data
from fxsnn.file.packing import unpack_codes
from fxsnn.file.returned import returned_values
from fxsnn.file.schema_check import Document, Problems, require_schema
from fxsnn.file.structure import Size, image_form_of, reads, require_order, sizes_of, spikes
from fxsnn.file.tail import logits_sizes
from fxsnn.file.tail_layers import FLOAT_TYPES, convolution_arguments, rebuilt_layer
from fxsnn.graph import Graph, Tracer, spare_self
from fxsnn.layers import Affine, Decode, Encode, SpikeAvgPool2d, SpikeConv2d, SpikeLinear, fill
from fxsnn.numerics import Dynamics, IntegerNeuron, all_finite, largest_code

_CAST = 2.0**-7
"""By so much what `decode` multiplies with may differ: a network may have been cast to bfloat16, and back."""

_RELATIVE = 1e-9
"""By so much a spike value may differ from threshold * step * unit / gain."""


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


def rebuilt(document: Document, arrays: Mapping[str, Tensor], target: HardwareTarget | None = None) -> Rebuilt:
    """The spiking graph that a document and its arrays describe.

    Args:
        document: of any content.
        arrays: of any content; golden vectors among them are left alone.
        target: instead of the document's own.

    Raises:
        FileError: all that is wrong.
    """
    return _rebuilt(document, arrays, target, _Builder)


def require_readable(document: Document, arrays: Mapping[str, Tensor]) -> None:
    """Hold the structure of a network, and its tail, against all rules of reading.

    Args:
        document: of a network that is not converted yet.
        arrays: those of the tail; of spiking layers nothing is looked at.

    Raises:
        FileError: all that is wrong.
    """
    _rebuilt(document, arrays, None, _Outline)


def _rebuilt(
    document: Document, arrays: Mapping[str, Tensor], target: HardwareTarget | None, build: type[_Builder]
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
    graph = build(document, arrays, target, problems).graph()
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
    """What two targets of one name do not agree on, descriptions aside."""
    ours, theirs = target_data(known), target_data(file)
    return [key for key in ours if key not in ("name", "description") and ours[key] != theirs[key]]


class _Builder:
    """Makes the modules and the graph; goes on after a problem, so that all are found."""

    def __init__(
        self, document: Document, arrays: Mapping[str, Tensor], target: HardwareTarget, problems: Problems
    ) -> None:
        self._nodes: list[Mapping[str, Any]] = document["nodes"]
        self._dynamics = Dynamics(**document["dynamics"])
        self._arrays = arrays
        self._target = target
        self._problem = problems
        self._used: set[str] = set()
        self._magnitude: int | None = None
        self._constant = True
        self._value = torch.ones(1, dtype=torch.float64)

    def graph(self) -> Graph:
        root, program, values = nn.Module(), fx.Graph(tracer_cls=Tracer), list[Node]()
        for node in self._nodes:
            name, given = str(node["name"]), [values[place] for place in reads(node)]
            if node["op"] == "images":
                values.append(program.placeholder(name))
            elif node["op"] == "output":
                returned = returned_values(node["returns"], values.__getitem__) if "returns" in node else given[0]
                values.append(program.output(returned))
            elif node["op"] == "tensor":
                tensor = self._array(name, None, (torch.uint8, torch.int64, *FLOAT_TYPES.values()))
                root.register_buffer(name, tensor)
                values.append(program.get_attr(name))
            elif node["op"] == "call":
                values.append(self._call(program, node, values))
            else:
                _put(root, name, self._module(node).eval())
                values.append(program.call_module(name, (given[0],)))
        extra = [name for name in self._arrays if name not in self._used and not name.startswith("golden/")]
        for name in sorted(extra):
            self._problem(f"array {name[:80]!r}: nothing needs it")
        self._problem.stop()
        spare_self(program)
        return Graph(fx.GraphModule(root, program))

    def _array(self, name: str, shape: Size | None, dtypes: tuple[torch.dtype, ...]) -> Tensor:
        self._used.add(name)
        found = self._arrays.get(name)
        if found is None:
            self._problem(f"array {name!r} is missing")
        elif found.dtype not in dtypes or (shape is not None and tuple(found.shape) != shape):
            kind = str(dtypes[0]) if len(dtypes) == 1 else "a floating type"
            expected = "a type of the format" if shape is None else f"{kind} {list(shape)}"
            self._problem(f"array {name!r} is {found.dtype} {list(found.shape)}; expected is {expected}")
        elif found.is_floating_point() and not found.is_meta and not all_finite(found):
            self._problem(f"array {name!r} has values that are NaN or infinite")
        else:
            return found
        return torch.zeros(()) if shape is None else torch.zeros((), dtype=dtypes[0]).expand(shape)

    def _module(self, node: Mapping[str, Any]) -> nn.Module:
        op, name = node["op"], node["name"]
        if op == "encode":
            encode = Encode(float(node["unit"]), node["bits"], image_form_of(self._nodes), self._affine(node))
            self._magnitude, self._value = encode.magnitude, torch.full((1,), encode.unit, dtype=torch.float64)
            return encode
        if op in ("spike_conv2d", "spike_linear"):
            return self._layer(node)
        if op == "spike_avg_pool2d":
            return self._pooling(node)
        floats = tuple(FLOAT_TYPES.values())
        if op == "decode":
            value = self._array(f"{name}.spike_value", (len(self._value),), floats)
            if not self._problem.found and not _close(value.double(), self._value, _CAST):
                self._problem(f"{name}: its spike value is not that of the last spiking layer")
            return Decode(value, value.dtype, self._dynamics)
        return rebuilt_layer(node, lambda part, shape: self._array(f"{name}.{part}", shape, floats), self._problem)

    def _affine(self, node: Mapping[str, Any]) -> Affine | None:
        """What is done to images before they are rounded."""
        count = node.get("affine")
        if count is None:
            return None
        if count not in (1, node["channels"]):
            self._problem(f"{node['name']}: it scales {count} channels of {node['channels']}")
        arrays = (self._array(f"{node['name']}.{part}", (count,), (torch.float64,)) for part in ("scale", "shift"))
        return Affine(*arrays)

    def _pooling(self, node: Mapping[str, Any]) -> nn.Module:
        name, channels = node["name"], node["channels"]
        top, bottom, left, right = node["padding"]
        value = self._array(f"{name}.spike_value", (channels,), (torch.float64,))
        if top != bottom or left != right:
            self._problem(f"{name}: its padding {node['padding']} differs between sides, which pooling cannot do")
        if any(2 * side > window for side, window in zip((top, left), node["kernel_size"], strict=True)):
            self._problem(f"{name}: its padding {node['padding']} is more than half of its window")
        if self._value.shape != value.shape or not torch.equal(self._value, value):
            self._problem(f"{name}: its spikes are worth something else than those that it reads")
        pool = nn.AvgPool2d(tuple(node["kernel_size"]), tuple(node["stride"]), (top, left))
        return SpikeAvgPool2d.compiled(pool, value, self._dynamics)

    def _layer(self, node: Mapping[str, Any]) -> nn.Module:
        name, bits, unit = str(node["name"]), node["bits"], float(node["input_unit"])
        layer = self._geometry(node)
        outputs = layer.weight.shape[0]
        codes = self._codes(name, bits, tuple(layer.weight.shape))
        theta, leak = (self._array(f"{name}.{part}", (outputs,), (torch.int32,)) for part in ("threshold", "leak"))
        real = ("step", "spike_value", "real_bias")
        step, value, bias = (self._array(f"{name}.{part}", (outputs,), (torch.float64,)) for part in real)
        threshold = self._array(f"{name}.real_threshold", (1,), (torch.float64,))
        if self._problem.found:  # what stands in for a missing array is no layer
            self._constant, self._value = False, value
            return nn.Identity()
        self._require_registers(name, bits, node["gain"], theta, leak)
        if bits not in self._target.weight_bits:
            self._problem(f"{name}: it has {bits}-bit weights, which {self._target.name} does not know")
        if isinstance(layer, nn.Conv2d):
            kernel = (layer.kernel_size[0], layer.kernel_size[1])
            _, violation = fit_layer(
                self._target,
                bits,
                layer=name,
                kind="Conv2d",
                kernel_size=kernel,
                in_channels=layer.in_channels,
                out_channels=outputs,
                groups=layer.groups,
            )
            if violation is not None:
                self._problem(violation.message)
        if not bool((step > 0).all()) or not _close(value, theta * step * unit / node["gain"]):
            self._problem(f"{name}: its spike value is not threshold * step * unit / gain")
        if not _close(self._value.mean(), torch.tensor(unit, dtype=torch.float64)):
            self._problem(f"{name}: its input unit is {unit}; what it reads is worth {float(self._value.mean())}")
        self._value = value
        fill(
            layer,
            codes,
            bits,
            IntegerNeuron(node["gain"], theta, leak, value),
            step,
            self._dynamics,
            real_threshold=threshold,
            real_bias=bias,
            input_unit=unit,
            input_magnitude=self._magnitude if self._constant else 1,
            constant_input=self._constant,
        )
        self._constant = False
        return layer

    def _geometry(self, node: Mapping[str, Any]) -> SpikeConv2d | SpikeLinear:
        """A layer without tensors."""
        if node["op"] == "spike_linear":
            return SpikeLinear(node["in_features"], node["out_features"], bias=False, device="meta")
        return SpikeConv2d(**convolution_arguments(node, self._problem), bias=False, device="meta")

    def _codes(self, name: str, bits: int, shape: Size) -> Tensor:
        self._used.add(f"{name}.codes")
        packed = self._arrays.get(f"{name}.codes")
        if packed is None:
            self._problem(f"array '{name}.codes' is missing")
        else:
            try:
                return unpack_codes(packed, bits, shape)
            except ValueError as error:
                self._problem(f"array '{name}.codes': {error}")
        return torch.zeros((), dtype=torch.int8).expand(shape)

    def _require_registers(self, name: str, bits: int, gain: int, threshold: Tensor, leak: Tensor) -> None:
        registers = self._target.registers
        entry = gain * largest_code(bits)
        checks = [
            ("codebook entry", entry, entry, registers.range_of(registers.codebook)),
            ("threshold", int(threshold.min()), int(threshold.max()), (1, registers.range_of(registers.threshold)[1])),
            ("leak", int(leak.min()), int(leak.max()), registers.range_of(registers.leak)),
        ]
        for what, low, high, (least, most) in checks:
            if low < least or high > most:
                self._problem(f"{name}: its {what} is {low} to {high}; {self._target.name} holds {least} to {most}")

    def _call(self, program: fx.Graph, node: Mapping[str, Any], values: list[Node]) -> Node:
        def value(given: Any) -> Any:
            if isinstance(given, dict):
                return values[given["node"]]
            return [value(one) for one in given] if isinstance(given, list) else given

        function = node["function"]
        arguments = tuple(value(one) for one in node["arguments"])
        options = {name: value(one) for name, one in node["options"].items()}
        if function in JOINS:
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


class _Outline(_Builder):
    """Makes spiking layers that have sizes and no numbers."""

    def _layer(self, node: Mapping[str, Any]) -> nn.Module:
        layer = self._geometry(node)
        self._used |= {name for name in self._arrays if name.rpartition(".")[0] == node["name"]}
        self._value = torch.ones(layer.weight.shape[0], dtype=torch.float64)
        return layer


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _close(left: Tensor, right: Tensor, relative: float = _RELATIVE) -> bool:
    return bool(((left - right).abs() <= relative * right.abs()).all())


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Make `module` the submodule of that dotted name, with plain modules for what lies between."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
