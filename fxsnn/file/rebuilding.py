"""From the network file's document and arrays back to a spiking graph; nothing in them is believed unseen.

First the schema, then sizes along the graph, then each array's type, shape and range, the target's limits and
registers, and at last the tail, which is run on PyTorch's meta device. All that is wrong is told at once.
"""

from __future__ import annotations

import itertools
import json
import keyword
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.chip import HardwareTarget, Registers, fit_layer
from fxsnn.errors import FileError, FxsnnError
from fxsnn.file.document import ACTIVATIONS, FLOAT_TYPES, FORMAT, METHODS, VERSION, target_data
from fxsnn.file.packing import unpack_codes
from fxsnn.graph import Graph, Interpreter, Tracer, about_file_name, copied, spare_self
from fxsnn.layers import Decode, Encode, SpikeAvgPool2d, SpikeConv2d, SpikeLinear, fill
from fxsnn.numerics import Dynamics, IntegerNeuron, all_finite, largest_code

DAMAGED = "it is damaged or was not written by fxsnn:"
"""How messages about files begin."""

_MOST_TOLD = 20
_CAST = 2.0**-7
"""By so much what `decode` multiplies with may differ: a network may have been cast to bfloat16, and back."""

_MOST_CALLS = 64
_MOST_CONTAINERS = 1024
_DEEPEST = 16
_LARGEST_VALUE = 1 << 24
"""So many numbers may a step of the tail have for one image."""
_RELATIVE = 1e-9
"""By so much a spike value may differ from threshold * step * unit / gain."""

Document = Mapping[str, Any]
Size = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """What a file describes.

    Attributes:
        graph: the spiking graph.
        target: the chip it was compiled for.
        image_size: channels, height and width of an image, `None` where they are not known.
        sizes: per spiking layer, the size of its output without the batch; empty if `image_size` is `None`.
        logits: the size of the output without the batch; `None` if `image_size` is.
    """

    graph: Graph
    target: HardwareTarget
    image_size: Size | None
    sizes: Mapping[str, Size]
    logits: Size | None


class _Problems:
    """Collects what is wrong, to tell it all at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, problem: str) -> None:
        self.found.append(problem)

    def stop(self) -> None:
        """Raise what was found so far, if anything was."""
        if self.found:
            more = len(self.found) - _MOST_TOLD
            told = self.found[:_MOST_TOLD] + ([f"... and {more} more"] if more > 0 else [])
            raise FileError("\n".join([DAMAGED, *(f"  {one}" for one in told)]))


def schema() -> dict[str, Any]:
    """The JSON schema of the document."""
    text = resources.files("fxsnn").joinpath("embedded/file_v1.schema.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def require_schema(document: Document) -> None:
    """Hold a document against its version and schema.

    Raises:
        FileError: it is of another version, or not what the schema says.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    if document.get("format") != FORMAT or "version" not in document:
        raise FileError("it holds no spiking network of fxsnn, or one from before files could be loaded")
    version = document["version"]
    if type(version) is int and version > VERSION:
        raise FileError(f"it has version {version}; this fxsnn reads versions up to {VERSION}. Install a newer fxsnn")
    nodes = document.get("nodes")
    rules = schema()
    most = rules["properties"]["nodes"]["maxItems"]
    nodes = nodes if isinstance(nodes, list) else []
    if len(nodes) > most:
        raise FileError(f"it has {len(nodes):,} nodes; allowed are {most:,}")
    calls = [node for node in nodes if isinstance(node, dict) and node.get("op") == "call"]
    if len(calls) > _MOST_CALLS:
        raise FileError(f"it has {len(calls):,} calls in its tail; allowed are {_MOST_CALLS}")
    # To JSON Schema 3.0 is an integer too; to PyTorch it is none.
    kinds = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = extend(Draft202012Validator, type_checker=kinds)
    problems = _Problems()
    for error in itertools.islice(strict(rules).iter_errors(document), _MOST_TOLD):
        problems(f"{error.json_path}: {_short(error.message)}")
    if type(version) is not int:
        problems(f"$.version: {_short(repr(version))} is no integer")
    if _depth(document["provenance"] if not problems.found else {}) > _DEEPEST:
        problems(f"$.provenance: it is nested more than {_DEEPEST} deep")
    problems.stop()


def _depth(value: Any) -> int:
    """How deep lists and objects are nested; what JSON's parser lets through is less deep than Python's stack."""
    depth, level = 0, [value]
    while level:
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
            if isinstance(inner, dict | list)
        ]
        depth += 1
    return depth


def _short(message: str) -> str:
    return message if len(message) <= 160 else f"{message[:80]} ... {message[-70:]}"


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
    problems = _Problems()
    target = target or _target(document["target"], problems)
    problems.stop()
    _require_order(document["nodes"], problems)
    problems.stop()
    image_size = None if document["image_size"] is None else tuple(document["image_size"])
    sizes = _sizes(document["nodes"], image_size, problems)
    problems.stop()
    graph = build(document, arrays, target, problems).graph()
    problems.stop()
    logits = None if image_size is None else _logits(graph, sizes, image_size)
    names = {place: node["name"] for place, node in enumerate(document["nodes"])}
    spiking = {names[place]: size for place, size in sizes.items() if _spikes(document["nodes"][place])}
    return Rebuilt(graph, target, image_size, spiking, logits)


def _spikes(node: Mapping[str, Any]) -> bool:
    return str(node["op"]).startswith("spike_")


def _target(data: Mapping[str, Any], problems: _Problems) -> HardwareTarget:
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


# Order -----------------------------------------------------------------------------------------------------------


def _reads(node: Mapping[str, Any]) -> list[int]:
    if node["op"] != "call":
        return [node["reads"]] if "reads" in node else []
    given = [*node["arguments"], *node["options"].values()]
    given += [one for value in given if isinstance(value, list) for one in value]
    return [one["node"] for one in given if isinstance(one, dict)]


def _require_order(nodes: list[Mapping[str, Any]], problems: _Problems) -> None:
    """One chain from the images to `decode`, everything else behind it, names that can be used, once each."""
    ops = [node["op"] for node in nodes]
    for place, node in enumerate(nodes):
        for source in _reads(node):
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
    for place, node in enumerate(body):
        if place and (
            not (_spikes(node) or node["op"] in ("encode", "flatten", "decode")) or _reads(node) != [place - 1]
        ):
            problems(
                f"{node['name']}: {node['op']} that reads {_reads(node)} cannot stand at place {place} of the body"
            )
    for place, node in enumerate(nodes[len(body) :], len(body)):
        if _spikes(node) or any(0 < source < len(body) - 1 for source in _reads(node)):
            problems(f"{node['name']}: {node['op']} at place {place} spikes, or reads what does")
    if not any(_spikes(node) for node in body):
        problems("$.nodes: no layer spikes")
    elif ops[[_spikes(node) for node in nodes].index(True)] == "spike_avg_pool2d":
        problems("$.nodes: the first spiking layer is a pooling")
    _require_names(nodes, problems)


def _require_names(nodes: list[Mapping[str, Any]], problems: _Problems) -> None:
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


# Sizes -----------------------------------------------------------------------------------------------------------


def _sizes(nodes: list[Mapping[str, Any]], image_size: Size | None, problems: _Problems) -> dict[int, Size]:
    """The size of what each node of the body gives, without the batch; empty where that of images is not known."""
    if image_size is None:
        return {}
    sizes: dict[int, Size] = {0: image_size}
    for place, node in enumerate(nodes[1:], 1):
        size = _size_behind(node, sizes[place - 1], problems)
        if size is None or prod(size) > 1 << 31:
            problems(f"{node['name']}: nothing is left of an input of {list(sizes[place - 1])}, or too much comes out")
            break
        sizes[place] = size
        if node["op"] == "decode":
            break
    return sizes


def _size_behind(node: Mapping[str, Any], size: Size, problems: _Problems) -> Size | None:
    op, name = node["op"], node["name"]
    wanted = {"encode": "channels", "spike_conv2d": "in_channels", "spike_avg_pool2d": "channels"}.get(op)
    if wanted and node[wanted] not in (None, size[0]):
        problems(f"{name}: it reads {node[wanted]} channels and is given {list(size)}")
    if op in ("encode", "decode"):
        return size
    if op == "flatten":
        return (prod(size),)
    if op == "spike_linear":
        if node["in_features"] != prod(size):
            problems(f"{name}: it reads {node['in_features']} features and is given {list(size)}")
        return (int(node["out_features"]),)
    if len(size) != 3:
        return None
    top, bottom, left, right = node["padding"]
    dilation = node.get("dilation", (1, 1))
    maps = [
        (side + padding - spacing * (kernel - 1) - 1) // stride + 1
        for side, padding, kernel, stride, spacing in zip(
            size[1:], (top + bottom, left + right), node["kernel_size"], node["stride"], dilation, strict=True
        )
    ]
    channels = int(node["out_channels"] if op == "spike_conv2d" else node["channels"])
    return (channels, *maps) if min(maps) > 0 else None


# Building --------------------------------------------------------------------------------------------------------


class _Builder:
    """Makes the modules and the graph; goes on after a problem, so that all are found."""

    def __init__(
        self, document: Document, arrays: Mapping[str, Tensor], target: HardwareTarget, problems: _Problems
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
            name, given = str(node["name"]), [values[place] for place in _reads(node)]
            if node["op"] == "images":
                values.append(program.placeholder(name))
            elif node["op"] == "output":
                values.append(program.output(given[0]))
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
            encode = Encode(float(node["unit"]), node["bits"], node["channels"])
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
        if op == "linear":
            rows, columns = node["out_features"], node["in_features"]
            linear = nn.Linear(columns, rows, node["bias"], device="meta")
            linear.weight = _frozen(self._array(f"{name}.weight", (rows, columns), floats))
            if node["bias"]:
                linear.bias = _frozen(self._array(f"{name}.bias", (rows,), floats))
            return linear
        if op == "batch_norm":
            kind = nn.BatchNorm1d if node["dimensions"] == 1 else nn.BatchNorm2d
            norm = kind(1, node["epsilon"], affine=node["affine"])
            norm.num_features = node["channels"]
            for part in ("running_mean", "running_var") + (("weight", "bias") if node["affine"] else ()):
                array = self._array(f"{name}.{part}", (node["channels"],), floats)
                setattr(norm, part, array if part.startswith("running") else _frozen(array))
            return norm
        if op == "adaptive_avg_pool2d":
            return nn.AdaptiveAvgPool2d(tuple(node["output_size"]))
        if op == "activation":
            return ACTIVATIONS[node["function"]]()
        plain: dict[str, Callable[[], nn.Module]] = {
            "flatten": nn.Flatten,
            "softmax": lambda: nn.Softmax(node["dim"]),
            "log_softmax": lambda: nn.LogSoftmax(node["dim"]),
        }
        return plain[op]()

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
        groups, kernel, dilation = node["groups"], node["kernel_size"], node["dilation"]
        inputs, outputs = node["in_channels"], node["out_channels"]
        top, bottom, left, right = node["padding"]
        padding: str | tuple[int, int] = (top, left)
        if top != bottom or left != right:  # only padding="same" of PyTorch gives sides that differ
            padding = "same"
            same = [space * (side - 1) for space, side in zip(dilation, kernel, strict=True)]
            sides = [part for whole in same for part in (whole // 2, whole - whole // 2)]
            if [top, bottom, left, right] != sides or list(node["stride"]) != [1, 1]:
                self._problem(f"{node['name']}: its padding {node['padding']} cannot be had in PyTorch")
                padding = (0, 0)
        if inputs % groups or outputs % groups:
            self._problem(f"{node['name']}: {groups} groups do not divide {inputs} and {outputs} channels")
            groups = 1
        stride = tuple(node["stride"])
        return SpikeConv2d(
            inputs, outputs, tuple(kernel), stride, padding, tuple(dilation), groups, bias=False, device="meta"
        )

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
        assert function in METHODS  # the schema says so
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


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


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


class _Sizes(Interpreter):
    """Runs a tail on the meta device, where nothing is computed, and holds every step's size and dimension."""

    def run_node(self, n: Node) -> Any:
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, nn.Softmax | nn.LogSoftmax) and module.dim is not None:
            given = self.fetch_args_kwargs_from_env(n)[0][0]
            if not -given.dim() <= module.dim < given.dim():
                raise ValueError(f"{n.target}: softmax along dimension {module.dim} of {given.dim()}")
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.numel() > max(1, len(value) if value.dim() else 1) * _LARGEST_VALUE:
            raise ValueError(f"{n.name}: a value of {list(value.shape)} is too large")
        return value


def _logits(graph: Graph, sizes: Mapping[int, Size], image_size: Size) -> Size:
    """The size of the output without the batch, whatever the batch is."""
    decode = next(iter(graph.nodes(Decode)))
    tail = copied(graph.behind(decode), lambda tensor: tensor.to("meta"))
    module = graph[decode]
    assert isinstance(module, Decode)
    found = []
    for batch in (2, 3):
        value = torch.empty(batch, *sizes[max(sizes)], dtype=module.spike_value.dtype, device="meta")
        try:
            with torch.no_grad():
                logits = _Sizes(tail).run(value, torch.empty(batch, *image_size, device="meta"))
        except Exception as error:  # of any kind: the file says what is called
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise FileError(f"{DAMAGED} its tail does not fit together: {_short(reason)}") from error
        if not isinstance(logits, Tensor) or logits.dim() < 1 or len(logits) != batch or not logits.numel():
            raise FileError(f"{DAMAGED} its tail does not give logits for each image")
        found.append(tuple(logits.shape[1:]))
    if found[0] != found[1]:
        raise FileError(f"{DAMAGED} what its tail gives depends on the number of images")
    return found[0]
