"""Whether a captured graph computes what the network computes: both are run once on the same images."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxsnn.data import accepted
from fxsnn.errors import Finding, FxsnnWarning, ModelError, warn
from fxsnn.graph.graph import Graph
from fxsnn.graph.kinds import place_of
from fxsnn.graph.own_copy import hooks_of, own_copy, unwrapped
from fxsnn.graph.sources import user_place
from fxsnn.layers import check_images, in_words
from fxsnn.outputs import distances, largest_in

_IMAGES = 3
_WITH_HOOKS = 64
_NUMBERS = 1 << 20
"""Hooks may look at how many images there are: so many are given then, if they have no more numbers than this."""
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference, relative to the largest output; of narrower types 2 %."""


def require_agreement(model: nn.Module, graph: Graph, images: Tensor) -> None:
    """Run a copy of a network, with its hooks, and the graph that was captured of it, and compare.

    Args:
        model: it stays as it is; its hooks run once, on a few images or some tens of small ones, and a warning says so
            before.
        graph: captured of it.
        images: examples, prepared as for the model; they are not written into.

    Raises:
        ModelError: the outputs differ by more than rounding; the findings say what can be the cause.
        DataError: the network cannot be run on the images.
    """
    hooks, whole = hooks_of(model), model
    model = unwrapped(model)
    _require_no_hooks_of_all()
    _require_one_input(model, graph)
    check_images(images, graph.image_form)
    device, dtype = place_of(model)
    if device.type == "meta" or len(images) == 0:
        return
    given = _several(images, hooks).to(device, dtype or images.dtype)
    if hooks:
        warn(
            f"the network has hooks ({_places(hooks)}): they run once now, on {len(given)} example images, to see "
            "whether the network computes the same without them; what is converted has none",
            FxsnnWarning,
        )
    with accepted(images, what="example or calibration images"):
        copied = own_copy(whole, share=True, hooks=True)
        expected = _expected(copied, given, hooks)
    _require_tensors(model, expected)
    trouble = _trouble(graph, expected, given)
    if trouble is not None:
        raise ModelError(_causes(model, trouble, expected, given, hooks))
    if not hooks:  # which would run once more
        _require_no_memory(copied, expected, given)
        _require_agreement_on_one(model, graph, given[:1])


def _several(images: Tensor, hooks: list[tuple[str, Any]]) -> Tensor:
    """The first images, over and over again if there are too few."""
    count = max(_IMAGES, min(_WITH_HOOKS, _NUMBERS // max(1, images[0].numel()))) if hooks else _IMAGES
    return torch.cat([images[:count]] * -(-count // len(images)))[:count]


def _require_one_input(model: nn.Module, graph: Graph) -> None:
    """Refuse a network that reads other things than one tensor of images, or none.

    Raises:
        ModelError: it does.
    """
    names = [str(node.target) for node in graph if node.op == "placeholder"]
    if len(names) != 1:
        read = f"{len(names)} inputs ({', '.join(names)})" if names else "no input"
        remedy = "Give it one input, a tensor of images; what else it needs, let it hold or compute"
        raise ModelError([Finding(type(model).__name__, f"its forward reads {read}", remedy)])


def _expected(copied: nn.Module, images: Tensor, hooks: list[tuple[str, Any]]) -> Any:
    """What the network gives.

    Raises:
        ModelError: its hooks fail, or it cannot be called with images alone.
        Exception: whatever else its forward raises.
    """
    try:
        return _run(copied, images)
    except Exception as error:
        plain = type(copied).__name__
        told = f"{type(error).__name__}: {error}"
        if hooks and _runs_without_hooks(copied, images):
            failed = _failed(error, hooks)
            does = "fails" if len(failed) == 1 else "may be the one that fails"
            raise ModelError(
                [
                    Finding(
                        _inside(plain, layer),
                        f"its hook ({_place(hook)}) {does} on the example images ({told})",
                        "Remove the hook",
                    )
                    for layer, hook in failed
                ]
            ) from error
        if isinstance(error, TypeError) and "argument" in str(error):
            problem = f"it cannot be called with one tensor of images ({told})"
            raise ModelError([Finding(plain, problem, "Let forward take the images as its first argument")]) from error
        raise


def _failed(error: Exception, hooks: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The hooks in which an error came up; all of them, where that is not to be seen."""
    codes = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    return [(name, hook) for name, hook in hooks if getattr(hook, "__code__", None) in codes] or hooks


def _runs_without_hooks(copied: nn.Module, images: Tensor) -> bool:
    try:
        _run(own_copy(copied, share=True), images)
    except Exception:  # the network's own code
        return False
    return True


def _require_tensors(model: nn.Module, outputs: Any) -> None:
    """Refuse outputs of which a graph cannot tell the parts.

    Raises:
        ModelError: there are such.
    """
    simple = Tensor | int | float | complex | str | bytes | torch.dtype | torch.device | None
    other = [type(one).__name__ for one in pytree.tree_leaves(_plain(outputs)) if not isinstance(one, simple)]
    if other:
        problem = f"it returns {', '.join(dict.fromkeys(other))}, whose tensors cannot be told"
        remedy = "Return a tensor, or tuples, lists and dicts of tensors"
        raise ModelError([Finding(type(model).__name__, problem, remedy)])


def _plain(outputs: Any) -> Any:
    """Outputs with the kinds of dicts and tuples that a traced program gives in place of others."""
    if isinstance(outputs, torch.Size):
        return tuple(outputs)
    if type(outputs) in (dict, OrderedDict):
        return {key: _plain(value) for key, value in outputs.items()}
    if is_dataclass(outputs) and not isinstance(outputs, type | dict):
        return type(outputs).__name__, {one.name: _plain(getattr(outputs, one.name)) for one in fields(outputs)}
    return type(outputs)(map(_plain, outputs)) if type(outputs) in (list, tuple) else outputs


def _require_no_hooks_of_all() -> None:
    """Refuse hooks that run with every module of the process, those of the converted network among them.

    Raises:
        ModelError: there are such hooks.
    """
    every: Any = torch.nn.modules.module
    hooks = [*every._global_forward_pre_hooks.values(), *every._global_forward_hooks.values()]
    if hooks:
        raise ModelError(
            [
                Finding(
                    "every module",
                    f"it has a hook ({_place(hook)}) by torch.nn.modules.module.register_module_forward_hook or "
                    "register_module_forward_pre_hook, which would run with the converted network as well",
                    "Remove it (call remove() of the handle) while the network is converted",
                )
                for hook in hooks
            ]
        )


def _require_no_memory(copied: nn.Module, expected: Any, images: Tensor) -> None:
    """Refuse a network that gives something else for the same images the second time, and nothing random the first.

    Raises:
        ModelError: it does.
    """
    try:
        again = _run(copied, images)
    except Exception:  # the network's own code
        return
    if (trouble := _difference(expected, again)) is not None:
        raise ModelError(
            [
                Finding(
                    type(copied).__name__,
                    f"for the same images it gives something else when it is called again: {trouble}",
                    "Remove what is random in evaluation mode, and what forward remembers from call to call (counters, "
                    "caches, running means)",
                )
            ]
        )


def _require_agreement_on_one(model: nn.Module, graph: Graph, image: Tensor) -> None:
    """The same with a single image, of which forward may do something else."""
    try:
        expected = _run(own_copy(model, share=True), image)
    except Exception:  # the network's own code, for several images only: it may raise anything
        return
    trouble = _trouble(graph, expected, image)
    if trouble is not None:
        raise ModelError(
            [
                Finding(
                    type(model).__name__,
                    f"the graph that torch.fx captured is not the network where there is one image: {trouble}",
                    "Remove branches on the number of images (len(x), x.shape[0]) from forward",
                )
            ]
        )


def _trouble(graph: Graph, expected: Any, images: Tensor) -> str | None:
    try:
        return _difference(expected, _run(graph.module, images))
    except (RuntimeError, IndexError) as error:  # what forward made for another number of images, for instance
        return f"it fails ({next(iter(str(error).splitlines()), type(error).__name__)})"


def _run(module: nn.Module, images: Tensor) -> Any:
    with torch.no_grad():
        return module.forward(images.clone()) if hasattr(module, "graph") else module(images.clone())


def _difference(expected: Any, found: Any) -> str | None:
    """How two outputs differ, by more than rounding; `None`: they do not."""
    (wanted, structure), (given, other) = (pytree.tree_flatten(_plain(one)) for one in (expected, found))
    if structure != other:
        return f"it gives {in_words(found)} instead of {in_words(expected)}"
    for one, two in zip(wanted, given, strict=True):
        if not isinstance(one, Tensor) or not isinstance(two, Tensor):
            if isinstance(one, Tensor) or isinstance(two, Tensor) or one != two:
                return f"it gives {in_words(two)} instead of {in_words(one)}"
        elif one.shape != two.shape:
            return f"it gives a tensor of {list(two.shape)} instead of {list(one.shape)}"
        else:
            (moved,), largest = distances(one, two), largest_in(one)
            if not moved <= _ROUNDING.get(one.dtype, 2e-2) * largest:
                return f"its outputs are up to {moved:.3g} off, where the largest is {largest:.3g}"
    return None


def _causes(
    model: nn.Module, trouble: str, expected: Any, images: Tensor, hooks: list[tuple[str, Any]]
) -> list[Finding]:
    """What of the network a graph cannot have, as far as running it again tells."""
    name = type(model).__name__
    problem = f"the graph that torch.fx captured is not the network: on {len(images)} example images {trouble}"
    if hooks:
        plain = _run(own_copy(model, share=True), images)
        if _difference(expected, plain) is not None:
            return [
                Finding(
                    _inside(name, layer),
                    f"it has a hook that may change values ({_place(hook)}), and a graph has no hooks; {trouble}",
                    "Put into forward what the hook does, or remove the hook",
                )
                for layer, hook in hooks
            ]
    again = _run(own_copy(model, share=True), images)
    if _difference(again, _run(own_copy(model, share=True), images)) is not None:
        return [
            Finding(
                name, f"{problem}; it gives other outputs at every call", "Remove what is random in evaluation mode"
            )
        ]
    stray = [one for one in model.modules() for value in vars(one).values() if _holds_training(value)]
    if stray:
        return [
            Finding(
                name,
                f"{problem}; layers in a plain list stay in training mode",
                "Keep them in a torch.nn.ModuleList, which model.eval() reaches",
            )
        ]
    return [
        Finding(
            name,
            f"{problem}; forward does something else with a tensor than with a traced value",
            "Remove branches on types, on values or on state from forward, and what leaves PyTorch "
            "(.numpy(), .tolist(), .data of other tensors)",
        )
    ]


def _holds_training(value: object) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(isinstance(one, nn.Module) and one.training for one in parts) and not isinstance(value, nn.Module)


def _inside(name: str, layer: str) -> str:
    return f"{name}.{layer}" if layer else name


def _places(hooks: list[tuple[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(name or "the network itself" for name, _ in hooks))


def _place(hook: Any) -> str:
    """Name of a hook, and where it is written."""
    code = getattr(hook, "__code__", None)
    where = "" if code is None else user_place(code.co_filename, str(code.co_firstlineno))
    return ", ".join(filter(None, (getattr(hook, "__name__", type(hook).__name__), where)))
