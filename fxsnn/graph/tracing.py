"""Capture: a trained network, traced, as a graph of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from fxsnn.ambient import neutral
from fxsnn.errors import Finding, ModelError
from fxsnn.graph.agreement import require_agreement
from fxsnn.graph.body import in_front_of_layers
from fxsnn.graph.copying import ONE_TRACES
from fxsnn.graph.graph import Graph
from fxsnn.graph.idle import IdleCalls
from fxsnn.graph.image_sizes import sizes_to_try
from fxsnn.graph.images_only import defaults, require_output, take_images_only
from fxsnn.graph.in_place import drop_unread, read_what_is_written
from fxsnn.graph.kinds import is_torchvision_normalize, place_of, torch_parent
from fxsnn.graph.names import about_program_name, spare_self
from fxsnn.graph.other_images import calls_of, is_of_any_size
from fxsnn.graph.own_copy import own_copy, unwrapped
from fxsnn.graph.program import Program
from fxsnn.graph.sized import BATCHES, Sized, Sizing
from fxsnn.graph.sources import user_frames, user_place
from fxsnn.layers import LEAVES, FixedSize, ImageForm, require_images

_NORMALIZING = ("torchvision.transforms.functional", "torchvision.transforms.v2.functional")
"""Modules with a function `normalize` that refuses traced values; a graph has a call of it."""


class Tracer(fx.Tracer):
    """Looks into everything but PyTorch's layers and ours; remembers where in the user's code each call stands.

    Only one traces at a time. Modules that another thread runs meanwhile come by here too, and are let through.

    Args:
        image: size of an image and type of images, with which forward may compute; `None`: they are not known.
        strict: images of that size must get through all of it.
        batches: numbers of images with which it is traced at once.
    """

    def __init__(
        self,
        image: tuple[tuple[int, ...], torch.dtype] | None = None,
        *,
        strict: bool = False,
        batches: tuple[int, int] = BATCHES,
    ) -> None:
        torchvision = [sys.modules[name] for name in _NORMALIZING if name in sys.modules]
        super().__init__(autowrap_functions=tuple(one.normalize for one in torchvision))
        self._autowrap_search += torchvision
        self.sizing: Sizing | None = None
        self._image, self._strict, self._batches = image, strict, batches
        self._idle = IdleCalls()
        self._thread: int | None = None

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """See `fx.Tracer`."""
        with ONE_TRACES:
            self._thread = threading.get_ident()
            if self._image is not None:
                size, dtype = self._image
                place = place_of(root)[0]
                self.sizing = Sizing(root, size, place, dtype, strict=self._strict, batches=self._batches)
            try:
                program = super().trace(root, concrete_args)
            finally:
                self._thread = None
        _put_batch_sizes(program, self._batches[0])
        for node in program.nodes:
            if isinstance(node.type, str):  # of `from __future__ import annotations`; 2.6 cannot pickle them
                node.type = None
        return program

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `fx.Tracer`."""
        if self._thread != threading.get_ident() or self._computing():
            return forward(*args, **kwargs)
        if self.submodule_paths is not None and m not in self.submodule_paths:
            self._adopt(m)
        return super().call_module(m, forward, args, kwargs)

    def _adopt(self, m: nn.Module) -> None:
        """Register a layer that is made inside of forward, or stands in a plain list."""
        name = _place_in_a_list(self.root, m) or type(m).__name__.lower()
        used, count = name, 0
        while hasattr(self.root, used):
            count += 1
            used = f"{name}_{count}"
        self.root.add_module(used, m.eval())
        for inner, module in m.named_modules(prefix=used):
            assert self.submodule_paths is not None
            self.submodule_paths[module] = inner

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """See `fx.Tracer`."""
        return Sized(node, self)

    def create_arg(self, a: Any) -> Any:
        """See `fx.Tracer`, which would take traced values that say that they are tensors for constants."""
        return a.node if isinstance(a, fx.Proxy) else super().create_arg(a)

    def create_node(self, *call: Any, **options: Any) -> fx.Node:
        """See `fx.Tracer`, which would write down the frames of who asked for the trace, too, and then forget them."""
        node = super().create_node(*call, **options)
        node.stack_trace = user_frames(until=Tracer.trace.__code__)
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> fx.Proxy:
        """See `fx.Tracer`."""
        made = super().create_proxy(kind, target, args, kwargs, *more, **options)
        if kind == "placeholder" and isinstance(made, Sized):
            made.is_images = len(self.graph.find_nodes(op="placeholder")) == 1
            if made.is_images and self.sizing is not None:
                made.known = self.sizing.images
        elif self.sizing is not None and isinstance(made, Sized):
            self.sizing.add(made, kind, target, args, kwargs)
            if kind in ("call_function", "call_method"):
                return self._idle.without(target, args, kwargs, made)
        return made

    def _computing(self) -> bool:
        return self.sizing is not None and self.sizing.at_work

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """See `fx.Tracer`."""
        if self._thread != threading.get_ident() or self._computing():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `fx.Tracer`."""
        if "forward" in vars(m):  # it has one of its own, whatever its class computes
            return False
        known = isinstance(m, LEAVES) or torch_parent(type(m)) is not None or is_torchvision_normalize(type(m))
        return known or super().is_leaf_module(m, module_qualified_name)


@neutral()
def capture(model: nn.Module, example: Tensor | None = None) -> Graph:
    """The graph of a trained network, as it computes in evaluation mode.

    The model is not changed: the graph holds copies of its weights, without its hooks.

    Args:
        model: any `nn.Module` that `torch.fx` can trace, with one input. Wrappers for data parallelism and those of
            `torch.compile` are taken off; weights that are computed at every call are computed once.
        example: images. Forward may then compute with sizes, and a copy of the model and the graph are run on them
            once and held against each other. `None`: neither, unless there is a size with which it can be
            traced.

    Raises:
        ModelError: the model cannot be traced, or the graph does not compute what it computes; the finding says where
            and what to do.
        DataError: the model cannot be run on the images.
    """
    if example is None:
        return capture_untried(model).compiled()
    require_images(example, ImageForm())
    graph = capture_untried(model, tuple(example.shape[1:]))
    require_agreement(model, graph, example)
    return graph.compiled()


@neutral()
def capture_untried(model: nn.Module, size: tuple[int, ...] | None = None) -> Graph:
    """As `capture`, but nothing is run: whether the graph computes what the model does is still to be seen.

    Args:
        model: as of `capture`.
        size: of an image, with which forward may compute.

    Raises:
        ModelError: the model cannot be traced.
    """
    return _captured(model, share=False, size=size)


@neutral()
def capture_sharing(model: nn.Module, size: tuple[int, ...] | None = None) -> Graph:
    """As `capture`, but with the model's own parameters: a graph to look at, which takes no memory for weights.

    Buffers are copied all the same: forward may write into them while it is traced.

    Args:
        model: as of `capture`.
        size: of an image, with which forward may compute.

    Raises:
        ModelError: as `capture`.
    """
    return _captured(model, share=True, size=size)


def _captured(model: nn.Module, *, share: bool, size: tuple[int, ...] | None) -> Graph:
    if not isinstance(model, nn.Module):
        problem = f"it is of type {type(model).__name__}, not a torch.nn.Module"
        remedy = f"Call it: {model.__name__}()" if _makes_models(model) else "Pass the network itself"
        raise ModelError([Finding("model", problem, remedy)])
    model = unwrapped(model)
    try:
        return _traced(model, own_copy(model, share=share), size)
    except ModelError:
        raise
    except Exception as error:
        for guess in () if size is not None else sizes_to_try(model):
            try:
                found = _traced(model, own_copy(model, share=True), guess, strict=True)
            except fx.proxy.TraceError:  # of no size
                break
            except Exception:
                continue
            return found if share else _traced(model, own_copy(model), guess)
        raise ModelError([_untraceable(model, error)]) from error


def _traced(model: nn.Module, own: nn.Module, size: tuple[int, ...] | None, *, strict: bool = False) -> Graph:
    device, dtype = place_of(own)
    form = None if size is None else (size, dtype or torch.float32)
    take_images_only(own)
    tracer = Tracer(form, strict=strict)
    with device if device.type not in ("cpu", "meta") else nullcontext():  # what forward makes is to be there, too
        graph = tracer.trace(own, concrete_args=defaults(own))
        if tracer.sizing is not None and tracer.sizing.told_count:
            other = Tracer(form, strict=strict, batches=BATCHES[::-1]).trace(own, concrete_args=defaults(own))
            if calls_of(graph) != calls_of(other):
                raise fx.proxy.TraceError("it does something else where there are more images")
        fixed = tracer.sizing is not None and tracer.sizing.told_sides and not _is_of_any_size(own, graph, form)
    require_output(model, graph)
    _require_names(graph)
    read_what_is_written(graph, own)
    spare_self(graph)
    module = Program(own, graph, type(model).__name__)
    _drop_unused_inputs(module)
    captured = Graph(module, size)
    if fixed and size is not None:
        inner, reading = in_front_of_layers(module), list(captured.input().users)
        readers = [node for node in reading if node in inner] or reading
        captured.insert_after(captured.input(), "fixed_size", FixedSize(size).eval(), readers)
    return captured


def _is_of_any_size(own: nn.Module, program: fx.Graph, form: tuple[tuple[int, ...], torch.dtype] | None) -> bool:
    """Whether a network that was told sizes computes the same for images of other sizes."""
    if form is None:
        return True
    size, dtype = form
    return is_of_any_size(
        program, size, lambda other, strict: Tracer((other, dtype), strict=strict).trace(own, defaults(own))
    )


def _place_in_a_list(root: nn.Module, layer: nn.Module) -> str:
    """A name for a layer that stands in a plain list, tuple or dictionary of a module; "" where there is none."""
    for path, owner in root.named_modules():
        for attribute, value in vars(owner).items():
            parts: Any = enumerate(value) if isinstance(value, list | tuple) else ()
            for key, one in value.items() if isinstance(value, dict) else parts:
                if one is layer and not attribute.startswith("_"):
                    return "_".join(filter(None, (path.replace(".", "_"), attribute, str(key))))
    return ""


def _put_batch_sizes(program: fx.Graph, batch: int) -> None:
    """The number of images in the place of the first batch size, which `len` of a traced batch gave."""

    def is_the_batch(value: object) -> bool:
        return type(value) is int and value == batch

    def mentions(node: fx.Node) -> bool:
        found: list[Any] = []
        cast(Any, map_aggregate)((node.args, node.kwargs), lambda value: found.append(is_the_batch(value)))
        return any(found)

    (images, *_) = program.find_nodes(op="placeholder") or (None,)
    asked = [node for node in program.nodes if node.op != "placeholder" and mentions(node)]
    if images is None or not asked:
        return
    with program.inserting_after(images):
        count = program.call_method("size", (images, 0))

    for node in asked:
        node.args, node.kwargs = (
            cast(Any, map_aggregate)(given, lambda value: count if is_the_batch(value) else value)
            for given in (node.args, node.kwargs)
        )


def _makes_models(model: object) -> TypeGuard[type[nn.Module]]:
    return isinstance(model, type) and issubclass(model, nn.Module)


def _require_names(graph: fx.Graph) -> None:
    """Refuse layers and tensors that a program cannot find by their names."""
    names = dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr"))
    if findings := [finding for name in names for finding in about_program_name(name)]:
        raise ModelError(findings)


def _drop_unused_inputs(module: fx.GraphModule) -> None:
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "").startswith("_assert"):
            graph.erase_node(node)
    drop_unread(graph, module)
    for node in [n for n in graph.nodes if n.op == "placeholder"][1:]:
        if not node.users:
            graph.erase_node(node)
    graph.set_codegen(fx.graph.CodeGen())
    module.graph = graph  # so torch.fx is told that it has changed


_REMEDY = (
    "Write forward without branches, loops or conversions that depend on the values of tensors or on the number "
    "of images, and with one image input; where it depends on their size, give images of it (example=)"
)
_REMEDIES = {
    "Expected a value of type": "Remove @torch.jit.script from that function: of what TorchScript has compiled nothing "
    "can be traced",
    "AssertionError": "Remove that assertion: what is traced has no values, and a type of its own",
    "argument of type": "Let forward return a tensor, or tuples, lists and dicts of tensors, and give calls no others",
    "cannot be iterated": "Let forward take one tensor of images instead of several in a tuple or list, and have no "
    "loop over the images of a batch",
    "its input by a name": "Let forward take the tensor of images itself",
    "writes into a part": "Use torch.where, masked_fill or torch.clamp; to put parts together, torch.cat: "
    "x = torch.cat([x[:, :1] * 2 - 1, x[:, 1:]], 1) for x[:, 0] = x[:, 0] * 2 - 1",
}
"""By words of the error."""


def _untraceable(model: nn.Module, error: Exception) -> Finding:
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = user_place(code.co_filename, str(trace.tb_lineno)) or place
        trace = trace.tb_next
    reason = ": ".join(filter(None, (type(error).__name__, next(iter(str(error).splitlines()), ""))))
    remedy = next((remedy for words, remedy in _REMEDIES.items() if words in reason), _REMEDY)
    return Finding(type(model).__name__, f"torch.fx cannot trace its forward ({reason})", remedy, place)
