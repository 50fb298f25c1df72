"""The machine: passes, and the steps they make.

A pass is a value whose fields are its options and whose one method edits a graph:

    class ScaleBias(Pass):
        factor: float = 1.0

        def rewrite(self, graph):
            ...

    step = ScaleBias(factor=0.5)(graph)      # `graph` is untouched
    print(step.diff())

The machine copies the graph, lets the pass edit the copy, checks it and records both. No decorator is needed: every
subclass of `Pass` becomes a frozen dataclass.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from html import escape
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx.node import Node
from typing_extensions import dataclass_transform

from fxsnn.ambient import neutral
from fxsnn.data import accepted
from fxsnn.display import Diff, aligned, folded, html
from fxsnn.errors import DataError, GraphError, ModelError
from fxsnn.graph import Graph, Interpreter, largest_difference, layer_rows, require_graph
from fxsnn.layers import Spiking, check_images
from fxsnn.outputs import distances, largest_in, tensors_in

TOLERANCE = 1e-9
"""Largest difference, relative to the largest output (to 1, where that is smaller), at which a pass counts as keeping
the function.

It is measured in double precision, where folding a batch norm moves outputs by about 1e-14.
"""
_ROUNDINGS = 1_000
"""The same in another type, in units of its precision."""
_OF_ANOTHER_TYPE = ("dtype", "scalar type", "Input type")
"""Words by which PyTorch says that numbers of two types meet."""


_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers by their size in bytes: as these, tensors are compared to the bit."""

_LINES = 30
"""So many changed lines a step prints; `diff()` prints all."""


def _same(left: Tensor, right: Tensor) -> bool:
    """To the bit, so that what is not a number equals itself; on the meta device there is nothing to compare."""
    if left.is_meta:
        return True
    whole = _WHOLE.get(left.element_size(), torch.uint8)
    left, right = (tensor.detach().contiguous().view(-1).view(whole) for tensor in (left, right))
    return torch.equal(left, right)


def _copies(tensors: Mapping[str, Tensor], kept: dict[int, tuple[Tensor, Tensor]] | None) -> dict[str, Tensor]:
    """Copies of tensors by name; those that are in `kept` are taken from there, where all of them are afterwards."""
    known = {} if kept is None else kept
    found = {id(one): known.get(id(one)) or (one, one.detach().clone()) for one in tensors.values()}
    if kept is not None:
        kept.clear()
        kept.update(found)
    return {name: found[id(tensor)][1] for name, tensor in tensors.items()}


def _is_the_same(graph: Graph, other: Graph) -> bool:
    """Whether a copy of a graph is as it was made: the same calls, of modules with the same values and very tensors.

    What begins with an underscore is not looked at, nor are names that torch.fx has given and taken back.
    """
    if [node.format_node() for node in graph] != [node.format_node() for node in other]:
        return False
    modules, copies = (dict(one.module.named_modules()) for one in (graph, other))
    if modules.keys() != copies.keys() or not _same_values(graph.module.meta, other.module.meta):
        return False
    if not all(_holds_the_same(module, copies[name]) for name, module in modules.items() if name):
        return False
    left, right = (dict([*one.module.named_parameters(), *one.module.named_buffers()]) for one in (graph, other))
    return left.keys() == right.keys() and all(tensor is right[name] for name, tensor in left.items())


def _holds_the_same(module: nn.Module, other: nn.Module) -> bool:
    values, others = (
        {name: value for name, value in vars(one).items() if not name.startswith("_")} for one in (module, other)
    )
    return type(module) is type(other) and _same_values(values, others)


def _same_values(values: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    try:
        return bool(values == others)
    except (RuntimeError, ValueError):  # a tensor that is no buffer, or an array
        return False


def require_not_spiking(graph: Graph) -> None:
    """Refuse a graph whose layers have neurons already: its weights are integers, and it has no thresholds to choose.

    Raises:
        ModelError: it spikes; all its layers.
    """
    remedy = "Use the graph from before SubstituteSpikes"
    findings = [graph.finding(node, "it spikes already", remedy) for node in graph.nodes(Spiking) if graph.spikes(node)]
    if findings:
        raise ModelError(findings)


def require_example(example: object, graph: Graph) -> None:
    """Refuse what is no image on which a rewrite can be verified.

    Raises:
        DataError: it is none.
    """
    check_images(example, graph.image_form)
    if not len(example):  # type: ignore[arg-type]  # a tensor by now
        raise DataError("example holds no images; give at least one, or None")


@dataclass_transform(frozen_default=True)
class Pass:
    """One rewrite of a graph.

    Class attributes:
        needs: facts about the graph that an earlier pass of a pipeline must have given.
        gives: facts that hold afterwards.
        preserves: the pass promises to keep the function that the graph computes.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A data loader or a tensor in a field has no useful equality; passes are compared by identity.
        dataclass(frozen=True, eq=False, repr=False)(cls)

    @property
    def name(self) -> str:
        """The name in pipelines: `FoldBatchNorm` is "fold-batch-norm"."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place. It is a copy, but shares its tensors: replace modules, never write into a tensor."""
        raise NotImplementedError(f"{type(self).__name__} defines no rewrite(graph)")

    def __call__(self, graph: Graph, example: Tensor | None = None) -> Step:
        """Run the pass on a copy of `graph`.

        Args:
            graph: left as it is.
            example: images on which a promise to keep the function is verified; without them it is not.

        Raises:
            OptionError: `graph` is no graph.
            DataError: `example` are no images for the network.
            GraphError: the pass left a broken graph, wrote into a tensor, or did not keep the function.
            ModelError: a check found something; it carries all findings.
        """
        step = self._step(graph, example, None)
        step.after.compiled()
        return step

    @neutral()
    def _step(
        self,
        graph: Graph,
        example: Tensor | None,
        kept: dict[int, tuple[Tensor, Tensor]] | None,
        copy: Graph | None = None,
    ) -> Step:
        """See `__call__`.

        Args:
            graph: left as it is.
            example: images, or `None`.
            kept: copies of tensors that nobody can have written into since.
            copy: one of `graph` that may be edited.
        """
        start = time.perf_counter()
        require_graph(graph)
        if example is not None:
            require_example(example, graph)
        tensors = dict([*graph.module.named_parameters(), *graph.module.named_buffers()])
        state = _copies(tensors, kept)
        after = graph.copy() if copy is None else copy
        self.rewrite(after)
        after.tidy()
        after.check(before=graph)
        written = [name for name, tensor in tensors.items() if not _same(tensor, state[name])]
        if written:
            raise GraphError(
                f"pass {self.name} wrote into {', '.join(written)} of the graph that it was given; replace the "
                "module instead"
            )
        idle = _is_the_same(graph, after)
        moved = None
        if self.preserves and example is not None:
            moved = 0.0 if idle else self._verify(graph, example)
        return Step(graph, after, self, time.perf_counter() - start, moved, idle)

    def _verify(self, graph: Graph, example: Tensor) -> float:
        """Run the pass in double precision and compare; the largest difference relative to the largest output.

        Of several outputs each by itself. A network that makes numbers of its own type itself, as a state to begin
        with, is run in that.
        """
        before, images, outputs = _run_in(torch.float64, graph, example)
        precision, allowed = "double", TOLERANCE
        if outputs is None:
            precision, allowed = "its own", _ROUNDINGS * torch.finfo(graph.dtype).eps
            before, images, outputs = _run_in(graph.dtype, graph, example)
        after = before.copy()
        self.rewrite(after)
        after.tidy()
        try:
            scales = [max(1.0, largest_in(one)) for one in tensors_in(outputs)]
            with torch.no_grad():
                found = distances(outputs, after(images))
            moved = max((one / scale for one, scale in zip(found, scales, strict=True)), default=0.0)
        except (RuntimeError, IndexError, DataError):
            with torch.no_grad():
                _require_whole_images(before, images)
            raise
        if not moved <= allowed:
            raise GraphError(
                f"pass {self.name} promises to keep the function, but its outputs moved by {moved:.3g} "
                f"(relative, in {precision} precision; allowed is {allowed:g})"
            )
        return moved

    def describe(self) -> str:
        """The pass as it would be written, options with short values only."""
        own: Any = self  # every subclass is made a dataclass
        values = ((field.name, getattr(self, field.name)) for field in fields(own))
        # A tensor of images is no short value, and takes long to write.
        options = ((name, repr(value)) for name, value in values if not isinstance(value, Tensor) or value.numel() < 40)
        # An address in memory says nothing, and would make two files of one network differ.
        short = (f"{name}={value}" for name, value in options if len(value) < 40 and " at 0x" not in value)
        return f"{type(self).__name__}({', '.join(short)})"

    def __repr__(self) -> str:
        return self.describe()


def _run_in(dtype: torch.dtype, graph: Graph, example: Tensor) -> tuple[Graph, Tensor, Any]:
    """A copy of a graph in a type, images for it, and its outputs; `None` where it makes numbers of another type."""
    copied = graph.detached(dtype)
    images = example.to(copied.device, dtype)
    try:
        with torch.no_grad(), accepted(images, what="example or calibration images"):
            return copied, images, copied.run(images)
    except DataError as error:
        if dtype is graph.dtype or not any(word in str(error) for word in _OF_ANOTHER_TYPE):
            raise
        return copied, images, None


def _require_whole_images(graph: Graph, images: Tensor) -> None:
    """Refuse images of which a view makes more or fewer rows than there are images.

    Raises:
        DataError: the first such view.
    """

    found: list[str] = []

    class Rows(Interpreter):
        def run_node(self, n: Node) -> Any:
            value, given = super().run_node(n), self.fetch_args_kwargs_from_env(n)[0][:1]
            read = given[0] if given else None
            view = n.target in ("view", "reshape", torch.reshape) and graph.input() in graph.ancestors(n)
            if view and isinstance(read, Tensor) and read.dim() and len(read) != len(value):
                places = ", ".join(filter(None, (graph.name(n), graph.source(n))))
                found.append(
                    f"of images of shape {list(images.shape[1:])} a view ({places}) makes {len(value)} rows of "
                    f"{value[0].numel()} numbers of {len(read)} of {read[0].numel()}: give images of the size that it "
                    "is for, or write flatten(1) instead"
                )
            return value

    Rows(graph.module).run(images)
    if found:
        raise DataError(found[0])


@dataclass(frozen=True, eq=False)
class Step:
    """What one pass did: the graph before and the graph after. Keeping `before` is the undo.

    Attributes:
        before: the graph that the pass was given.
        after: the graph that it made.
        rewrite: the pass.
        seconds: how long it took, checks included.
        moved: by how much a pass that promises to keep the function moved the outputs (relative, in double precision);
            `None` where that was not measured.
        idle: whether it changed nothing: `after` is a copy of `before`.
    """

    before: Graph
    after: Graph
    rewrite: Pass
    seconds: float
    moved: float | None = None
    idle: bool = False

    @property
    def name(self) -> str:
        """The name of the pass."""
        return self.rewrite.name

    def diff(self) -> Diff:
        """What changed, node by node; a notebook shows it side by side."""
        return Diff(tuple(self.before.rows()), tuple(self.after.rows()), self.name)

    def layers(self) -> list[tuple[str, ...]]:
        """The layers as they are now: bits, weight steps, thresholds; rows of cells, header first."""
        return layer_rows(self.after)

    def drift(self, images: Tensor) -> float:
        """The largest absolute difference between the outputs of the two graphs."""
        return largest_difference(self.before, self.after, images)

    def _known_layers(self) -> list[tuple[str, ...]]:
        """`layers`, or nothing as long as there is nothing to say about any of them."""
        rows = self.layers()
        return rows if any(cell != "-" for row in rows[1:] for cell in row[2:]) else []

    def summary(self) -> str:
        """One line: the pass with its options, what it changed, and how long it took."""
        kept = "" if self.moved is None else f", outputs moved by {self.moved:.1e}"
        return f"{self.rewrite.describe()}: {self.diff().summary()} in {self.seconds:.2f} s{kept}"

    def __repr__(self) -> str:
        return f"Step of {self.name}: {len(self.before)} nodes before, {len(self.after)} after"

    def __str__(self) -> str:
        lines, rows = self.diff().lines(), self._known_layers()
        rest = [f"... {len(lines) - _LINES} more: step.diff()"] if len(lines) > _LINES else []
        shown = [self.summary(), *lines[:_LINES], *rest]
        return "\n".join([*shown, "", aligned(rows), ""] if rows and lines else shown)

    def _repr_html_(self) -> str:
        rows = self._known_layers()
        layers = folded("layers", html(rows), len(rows)) if rows else ""
        return f"<p><b>{escape(self.summary())}</b></p>{self.diff()._repr_html_()}{layers}"


def facts(*names: str) -> frozenset[str]:
    """Facts for `needs` and `gives`."""
    return frozenset(names)
