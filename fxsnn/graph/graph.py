"""The program: a network as a graph that can be read, edited, checked, printed and run.

    graph = fxsnn.capture(model)
    print(graph)
    graph["conv1"]                  # the module of that name
    logits = graph(images)

A graph owns its tensors: capturing copies them, so nothing that happens to a graph reaches the user's model.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument, Node

from fxsnn.ambient import neutral
from fxsnn.data import accepted
from fxsnn.display import Drawing, aligned, html
from fxsnn.errors import DataError, Finding, GraphError, OptionError
from fxsnn.graph.body import ancestors, last_of_body
from fxsnn.graph.casts import cast_alike
from fxsnn.graph.copying import ONE_TRACES, copied
from fxsnn.graph.example_images import random_images
from fxsnn.graph.in_place import drop_unread
from fxsnn.graph.kinds import Activation, Norm, Pooling, Weighted, place_of
from fxsnn.graph.parts import part_behind, part_up_to
from fxsnn.graph.shapes import image_form
from fxsnn.graph.showing import HEADER, drawing_of, name_of, rows_of
from fxsnn.graph.sources import source_of
from fxsnn.layers import (
    Add,
    ImageForm,
    Integers,
    SpikeAdd,
    check_images,
    in_words,
    is_readable,
)
from fxsnn.outputs import distances


class Graph:
    """A network as a graph of calls; see `capture`.

    Attributes:
        module: the `torch.fx.GraphModule` that runs.
        image_form: what its images must look like, as its first layer with weights tells.
        input_channels: channels of the images, or features of vectors, `None` where they are not known.
        image_size: of the images with which it was captured, without the batch; `None`: of any.
    """

    def __init__(self, module: fx.GraphModule, image_size: tuple[int, ...] | None = None) -> None:
        if not isinstance(module, fx.GraphModule):
            raise OptionError(f"module is {in_words(module)}; expected a torch.fx.GraphModule, or use fxsnn.capture")
        self.module = module
        self.image_size = image_size

    # Reading ---------------------------------------------------------------------------------------------------------

    def nodes(self, *kinds: type[nn.Module]) -> list[Node]:
        """All nodes in order of execution; with `kinds`, those that call a module of one of these classes."""
        return [node for node in self.module.graph.nodes if not kinds or self.is_a(node, *kinds)]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes())

    def __len__(self) -> int:
        return len(self.nodes())

    def __contains__(self, name: object) -> bool:
        return any(node.op == "call_module" and node.target == name for node in self)

    def __getitem__(self, key: Node | str) -> nn.Module:
        """The module that a node calls, or the module of that name in the user's network.

        Raises:
            KeyError: no call of such a module.
        """
        target = key if isinstance(key, str) else str(key.target)
        if isinstance(key, Node) and key.op != "call_module":
            raise KeyError(f"{key.name} calls no module")
        try:
            return self.module.get_submodule(target)
        except AttributeError:
            names = ", ".join(str(node.target) for node in self if node.op == "call_module")
            raise KeyError(f"no module {target!r} in this graph; there are: {names}") from None

    def is_a(self, node: Argument, *kinds: type[nn.Module]) -> bool:
        """Whether `node` is a call of a module of one of these classes."""
        return isinstance(node, Node) and node.op == "call_module" and isinstance(self[node], kinds)

    def held(self, node: Node) -> Any:
        """What a node reads from the network itself: a parameter, a buffer, a value of its own."""
        return operator.attrgetter(str(node.target))(self.module)

    def name(self, node: Node) -> str:
        """The name users know: that of the module, or of the function or method with its node's name."""
        return name_of(node)

    def source(self, node: Node) -> str:
        """`file:line` of the call in the user's code, or "" where it is not known."""
        return source_of(node.stack_trace)

    def finding(self, node: Node, problem: str, remedy: str) -> Finding:
        """A finding about the layer that `node` calls."""
        return Finding(self.name(node), problem, remedy, self.source(node))

    def input(self) -> Node:
        """The node of the images.

        Raises:
            GraphError: there is not exactly one.
        """
        placeholders = [node for node in self if node.op == "placeholder"]
        if len(placeholders) != 1:
            raise GraphError(f"the graph has {len(placeholders)} inputs; one is needed")
        return placeholders[0]

    def output(self) -> Node:
        """The node that returns."""
        return next(node for node in self if node.op == "output")

    def calls(self, target: str) -> list[Node]:
        """All nodes that call the module of that name."""
        return [node for node in self if node.op == "call_module" and node.target == target]

    def sole_user(self, node: Node) -> Node | None:
        """The node that alone reads `node`, or `None` if there are none or several."""
        return next(iter(node.users)) if len(node.users) == 1 else None

    def inputs(self, node: Node) -> list[Node]:
        """What a node reads, in order; a concatenation may read the same several times."""
        return [one for one in node.args if isinstance(one, Node)] if node.op == "call_module" else node.all_input_nodes

    def ancestors(self, node: Node) -> set[Node]:
        """All nodes on whose values that of `node` depends."""
        return ancestors(node)

    def reads_features(self, node: Node) -> bool:
        """Whether a flatten or a fully connected layer comes before `node` on its way from the images, or these are
        vectors.
        """
        flat = any(self.is_a(before, nn.Flatten, nn.Linear) for before in self.ancestors(node))
        return flat or self.image_form.rank == 2

    def spikes(self, node: Argument) -> bool:
        """Whether `node` calls a layer that has been converted."""
        return self.is_a(node, Integers) and isinstance(node, Node) and self[node].dynamics is not None

    def body(self, *kinds: type[nn.Module]) -> list[Node]:
        """The nodes that are to spike, or do: what the last of them depends on; see `last_of_body`.

        With `kinds`, those of them that call a module of one of these classes.
        """
        last = last_of_body(self.module)
        before = set[Node]() if last is None else {last, *ancestors(last)}
        return [node for node in self if node in before and (not kinds or self.is_a(node, *kinds))]

    def end(self) -> Node | None:
        """The last node of the body, whose value the tail reads; `None` where nothing is to spike."""
        return last_of_body(self.module)

    def tail(self) -> list[Node]:
        """The nodes behind the body that call or compute something: they are left untouched."""
        body = set(self.body())
        return [node for node in self if node not in body and node.op not in ("placeholder", "output")]

    @property
    def image_form(self) -> ImageForm:
        """What its images must look like: how many dimensions, and how many channels or features."""
        return image_form(self.module, self.image_size)

    @property
    def input_channels(self) -> int | None:
        """Channels of the images, or features of vectors, where they are known."""
        return self.image_form.channels

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return place_of(self.module)[0]

    @property
    def dtype(self) -> torch.dtype:
        """The type in which it reads images; see `place_of`."""
        return place_of(self.module)[1] or torch.float32

    # Running ---------------------------------------------------------------------------------------------------------

    def __call__(self, images: Tensor) -> Any:
        """Run the network; images and output as in the user's model.

        Raises:
            DataError: the network cannot be run on them.
        """
        if not is_readable(images):
            raise DataError(f"images are {in_words(images)}; expected a dense tensor")
        with neutral(gradients=False), accepted(images):
            return self.run(images)

    def run(self, images: Tensor) -> Any:
        """A call as it stands, for those who have seen to images and to PyTorch's state: errors are PyTorch's own."""
        # Not as `self.module(images)`: where that fails, torch.fx prints a traceback before it raises.
        return self.module.forward(images)

    @neutral()
    def example_input(self, batch: int = 2, seed: int = 0, *, whole: bool = True) -> Tensor | None:
        """Random images that the network accepts, or `None` if none was found with sides up to 256.

        Square ones are tried first; of a canonical chain of layers others, too. Signals have usual lengths,
        up to 16,000, or the one that the first fully connected layer asks for. They are tried on PyTorch's meta device,
        without computing anything.

        Args:
            batch: how many.
            seed: of the noise.
            whole: only a size of which the network makes one row an image.
        """
        return random_images(self.module, self.image_form, batch, seed, whole=whole)

    def behind(self, node: Node) -> fx.GraphModule:
        """The part of the network that reads `node`, as a module of its own.

        It is called with the node's value and the images, and shares all modules and tensors with this graph.
        """
        return part_behind(self.module, node, self.input())

    def up_to(self, node: Node) -> fx.GraphModule:
        """The part of the network that `node` depends on, as a module that is called with the images and gives its
        value; it shares all modules and tensors with this graph.
        """
        return part_up_to(self.module, node, self.input())

    # Editing ---------------------------------------------------------------------------------------------------------

    def replace(self, node: Node, module: nn.Module) -> None:
        """Let a node call `module` instead; the name stays, unless another node calls the old module too."""
        if node.op != "call_module":
            node.target = self.unused_name(node.name)
            node.op = "call_module"
        elif len(self.calls(str(node.target))) > 1:
            node.target = self.unused_name(f"{node.target}_{node.name}".replace(".", "_"))
        several = isinstance(module, Add | SpikeAdd)
        node.args, node.kwargs = tuple(node.all_input_nodes[: None if several else 1]), {}
        self._add(str(node.target), module)

    def bypass(self, node: Node) -> None:
        """Take a node out; its users read its first input instead."""
        source = node.all_input_nodes[0]
        node.replace_all_uses_with(source)
        self.module.graph.erase_node(node)

    def bypass_for(self, readers: Collection[Node], nodes: Collection[Node]) -> None:
        """Let those who read some nodes read their first inputs instead, if they are among `readers`."""
        for node in nodes:
            node.replace_all_uses_with(node.all_input_nodes[0], delete_user_cb=lambda user: user in readers)

    def _add(self, target: str, module: nn.Module) -> None:
        """Put a module where the others are; values of a graph without any are left to look at."""
        device = self.device
        self.module.add_submodule(target, module if device.type == "meta" else module.to(device))

    def insert_after(self, node: Node, name: str, module: nn.Module, readers: Collection[Node] | None = None) -> Node:
        """A new call of `module` behind `node`; all users of `node` read the new one, or only some.

        Behind the images, only the body reads it: a tail goes on reading the images.
        """
        if readers is None:
            readers = self.body() if node.op == "placeholder" else list(node.users)
        new = self.call_after(node, name, module, [node])
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user in readers)
        return new

    def call_after(self, node: Node, name: str, module: nn.Module, reads: Collection[Node]) -> Node:
        """A new call of `module` behind `node`, which reads some values and is read by nothing yet."""
        with self.module.graph.inserting_after(node):
            return self._call(node, name, module, reads)

    def call_before(self, node: Node, name: str, module: nn.Module, reads: Collection[Node]) -> Node:
        """The same in front of `node`."""
        with self.module.graph.inserting_before(node):
            return self._call(node, name, module, reads)

    def _call(self, node: Node, name: str, module: nn.Module, reads: Collection[Node]) -> Node:
        """A call that stands where `node` does in the user's code."""
        target = self.unused_name(name.replace(".", "_"))
        self._add(target, module)
        new = self.module.graph.call_module(target, tuple(reads))
        if node.stack_trace:
            new.meta["stack_trace"] = node.stack_trace
        return new

    def unused_name(self, name: str) -> str:
        """The name, with a number behind it where the program has it already."""
        candidate, count = name, 0
        while _has(self.module, candidate):
            count += 1
            candidate = f"{name}_{count}"
        return candidate

    def tidy(self) -> None:
        """Drop what nothing reads; the program is compiled anew when it is next run.

        Raises:
            GraphError: the graph is not well-formed.
        """
        try:
            drop_unread(self.module.graph, self.module)
        except RuntimeError as error:
            raise GraphError(f"the graph is not well-formed: {error}") from error
        self.module.delete_all_unused_submodules()
        self.module.graph = self.module.graph  # so torch.fx is told that it has changed

    def compiled(self) -> Graph:
        """This graph, whose module can be traced or compiled by others: its `forward` is a function."""
        self.module.recompile()
        return self

    def copy(self) -> Graph:
        """Another graph with other modules but the same tensors; passes replace modules, never write into tensors."""
        return Graph(copied(self.module, lambda tensor: tensor), self.image_size)

    @neutral()
    def detached(self, dtype: torch.dtype | None = None) -> Graph:
        """Another graph with tensors of its own, those of a floating type cast to `dtype`, in forward, too."""
        other = Graph(copied(self.module, lambda tensor: tensor.detach().clone()), self.image_size)
        if dtype is not None:
            cast_alike(other.module.graph, self.dtype, dtype)
            other.module.to(dtype)
            other.module.graph = other.module.graph  # so torch.fx is told that it has changed
        return other

    # Checking --------------------------------------------------------------------------------------------------------

    def check(self, before: Graph | None = None) -> None:
        """Verify the invariants of a graph.

        Args:
            before: the graph that a pass was given; modules it already shared may stay shared.

        Raises:
            GraphError: what is broken.
        """
        try:
            self.module.graph.lint()
        except RuntimeError as error:
            raise GraphError(f"the graph is not well-formed: {error}") from error
        for node in self.nodes():
            if node.op == "call_module" and not _has(self.module, str(node.target)):
                raise GraphError(f"{node.name} calls {node.target!r}, which does not exist")
        allowed = before.shared() if before is not None else self.shared()
        if new := self.shared() - allowed:
            raise GraphError(f"modules are called by several nodes: {', '.join(sorted(new))}; one node, one module")
        self._check_floors()

    def shared(self) -> set[str]:
        """Names of the modules that several nodes call."""
        seen: dict[int, list[str]] = {}
        for node in self:
            if node.op == "call_module":
                seen.setdefault(id(self[node]), []).append(str(node.target))
        return {name for names in seen.values() if len(names) > 1 for name in names}

    def _check_floors(self) -> None:
        """Once one layer spikes, everything in the body does."""
        if not any(self.spikes(node) for node in self):
            return
        analog = [
            self.name(node)
            for node in self.body()
            if self.is_a(node, *Weighted, *Activation, *Norm, *Pooling) and not self.spikes(node)
        ]
        if analog:
            raise GraphError(f"analog layers are left beside spiking ones: {', '.join(analog)}")

    # Copying ---------------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: torch.fx traces when it unpickles."""
        return _unpickled, (*self.module.__reduce__()[:2], self.image_size)

    def __copy__(self) -> Graph:
        """The same program."""
        return Graph(self.module, self.image_size)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        """A program of its own, which needs no tracing."""
        return Graph(copy.deepcopy(self.module, memo), self.image_size).compiled()

    # Printing --------------------------------------------------------------------------------------------------------

    def text(self, *, hashes: bool = True) -> str:
        """A line a call: name, module and its options, what it reads, and a hash of its tensors.

        Two graphs with the same text compute the same function; the text is meant for eyes, diffs and tests alike.
        """
        return aligned([HEADER, *self.rows(hashes=hashes)])

    def rows(self, *, hashes: bool = True) -> list[tuple[str, str, str, str]]:
        """The lines of `text` as cells."""
        return rows_of(self, self.__getitem__, hashes=hashes)

    def draw(self, rows: int = 24) -> Drawing:
        """A picture: boxes for calls, arrows from what is read to what reads it; a notebook shows it.

        Args:
            rows: of a column; what is longer goes on in the next one.

        Raises:
            OptionError: `rows` is no number from 1 on.
        """
        return drawing_of(self, self.__getitem__, rows)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Graph of {len(self)} nodes\n{self.text()}"

    def _repr_html_(self) -> str:
        return html([HEADER, *self.rows()], wrap=True)


def _unpickled(
    constructor: Callable[..., fx.GraphModule], arguments: tuple[Any, ...], image_size: tuple[int, ...] | None
) -> Graph:
    """See `Graph.__reduce__`."""
    with ONE_TRACES:
        return Graph(constructor(*arguments), image_size)


def require_graph(graph: object) -> Graph:
    """Refuse what is no graph.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(graph, Graph):
        raise OptionError(f"graph is {in_words(graph)}; expected a fxsnn.Graph, which fxsnn.capture(model) gives")
    return graph


def _has(module: nn.Module, target: str) -> bool:
    """Whether there is something of that name, with dots between those of modules."""
    try:
        operator.attrgetter(target)(module)
    except AttributeError:
        return False
    return True


def largest_difference(left: Graph, right: Graph, images: Tensor) -> float:
    """The largest absolute difference of the outputs of two graphs on the same images, each in its own type.

    Raises:
        DataError: these are no images for the graphs, or the outputs differ in structure or shape.
    """
    check_images(images, left.image_form)
    with torch.no_grad():
        return max(distances(*(graph(images.to(*place_of(graph.module))) for graph in (left, right))), default=0.0)
