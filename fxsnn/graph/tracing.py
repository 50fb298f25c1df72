"""Capture: a trained network, traced, as a graph of its own."""

from __future__ import annotations

import copy
import inspect
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeGuard

import torch
from torch import fx, nn

from fxsnn.ambient import neutral
from fxsnn.errors import Finding, ModelError
from fxsnn.graph.copying import ONE_TRACES
from fxsnn.graph.graph import Graph
from fxsnn.graph.kinds import place_of
from fxsnn.graph.names import about_program_name, spare_self
from fxsnn.graph.sources import user_place, without_frames
from fxsnn.layers import LEAVES, Decode

_QUANTISED = ("torch.ao.", "torch.nn.quantized", "torch.nn.qat", "torch.nn.intrinsic", "torchao.")


class Tracer(fx.Tracer):
    """Looks into everything but PyTorch's layers and ours; remembers where in the user's code each call stands.

    Only one traces at a time. Modules that another thread runs meanwhile come by here too, and are let through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = True
        self._thread: int | None = None

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """See `fx.Tracer`."""
        callers = {(frame.f_code.co_filename, str(line)) for frame, line in traceback.walk_stack(None)}
        with ONE_TRACES:
            self._thread = threading.get_ident()
            try:
                program = super().trace(root, concrete_args)
            finally:
                self._thread = None
        for node in program.nodes:
            # Up to PyTorch 2.6 traces have the frames of who asked for the trace, too: not where the call stands.
            node.stack_trace = without_frames(node.stack_trace, callers)
            if isinstance(node.type, str):  # of `from __future__ import annotations`; 2.6 cannot pickle them
                node.type = None
        return program

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See `fx.Tracer`."""
        if self._thread != threading.get_ident():
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """See `fx.Tracer`."""
        if self._thread != threading.get_ident():
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `fx.Tracer`."""
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


@neutral()
def capture(model: nn.Module) -> Graph:
    """The graph of a trained network, as it computes in evaluation mode.

    The model is not changed: the graph holds copies of its weights, without its hooks.

    Args:
        model: any `nn.Module` that `torch.fx` can trace, with one input. A wrapper for data parallelism or
            `torch.compile` around it is taken off.

    Raises:
        ModelError: the model cannot be traced; the finding says where and what to do.
    """
    return _captured(model, share=False)


@neutral()
def capture_sharing(model: nn.Module) -> Graph:
    """As `capture`, but with the model's own parameters: a graph to look at, which takes no memory for weights.

    Buffers are copied all the same: forward may write into them while it is traced.

    Raises:
        ModelError: as `capture`.
    """
    return _captured(model, share=True)


def _captured(model: nn.Module, *, share: bool) -> Graph:
    if not isinstance(model, nn.Module):
        problem = f"it is of type {type(model).__name__}, not a torch.nn.Module"
        remedy = f"Call it: {model.__name__}()" if _makes_models(model) else "Pass the network itself"
        raise ModelError([Finding("model", problem, remedy)])
    model = _unwrapped(model)
    if (finding := _no_ordinary_network(model)) is not None:
        raise ModelError([finding])
    own = _own_copy(model, share=share)
    tracer = Tracer()
    try:
        place = place_of(own)[0]
        with place if place.type not in ("cpu", "meta") else nullcontext():  # what forward makes is to be there, too
            graph = tracer.trace(own, concrete_args=_defaults(own))
        _require_names(graph)
        spare_self(graph)
        module = fx.GraphModule(own, graph, type(model).__name__)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError([_untraceable(model, error)]) from error
    _drop_unused_inputs(module)
    return Graph(module)


def _makes_models(model: object) -> TypeGuard[type[nn.Module]]:
    return isinstance(model, type) and issubclass(model, nn.Module)


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile's wrapper
            model = inner
        else:
            return model


def _no_ordinary_network(model: nn.Module) -> Finding | None:
    """What networks are that have been something else before."""
    name, kinds = type(model).__name__, {type(module) for module in model.modules()}
    if isinstance(model, torch.jit.ScriptModule):
        return Finding(name, "it is a TorchScript module", "Pass the network that it was made of")
    if Decode in kinds:
        return Finding(name, "it is a spiking network already", "Pass the network that it was converted from")
    idle = (torch.ao.quantization.QuantStub, torch.ao.quantization.DeQuantStub)  # do nothing before that
    if found := sorted(kind.__name__ for kind in kinds - set(idle) if kind.__module__.startswith(_QUANTISED)):
        problem = f"it has been quantised or prepared for it by PyTorch ({', '.join(found)})"
        return Finding(name, problem, "Pass the network as it was before: fxsnn quantises it by itself")
    return None


def _own_copy(model: nn.Module, *, share: bool) -> nn.Module:
    memo: dict[int, Any] = {id(one): one for one in model.parameters()} if share else {}
    for module in model.modules():
        # Hooks are the user's business; a copy of them must not fire while we run the network.
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            memo[id(hooks)] = OrderedDict()
    findings = _derived_weights(model)
    if findings:
        raise ModelError(findings)
    try:
        with torch.inference_mode(False):  # tensors made in it do not tell when they are written into
            return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise ModelError(
            [Finding(type(model).__name__, f"it cannot be copied ({error})", "Remove what copy.deepcopy refuses")]
        ) from error


def _derived_weights(model: nn.Module) -> list[Finding]:
    """Layers whose weight is computed anew at every call: the copy would hold a stale one, or none."""
    findings = []
    for name, module in model.named_modules():
        if nn.utils.parametrize.is_parametrized(module):
            findings.append(
                Finding(name, "its weight is parametrized", "Call torch.nn.utils.parametrize.remove_parametrizations")
            )
        elif any(type(hook).__module__.startswith("torch.nn.utils") for hook in module._forward_pre_hooks.values()):
            findings.append(
                Finding(
                    name,
                    "its weight is computed by a hook of torch.nn.utils (pruning, weight or spectral norm)",
                    "Make it permanent first, for instance with torch.nn.utils.prune.remove or remove_weight_norm",
                )
            )
        elif any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in module.parameters(False)):
            findings.append(Finding(name, "it is lazy and has no weights yet", "Run the model once on a batch"))
    return findings


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Values for all inputs but the first that have a default, so that `forward(x, mask=None)` can be traced."""
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


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
    graph.eliminate_dead_code()
    for node in [n for n in graph.nodes if n.op == "placeholder"][1:]:
        if not node.users:
            graph.erase_node(node)
    graph.set_codegen(fx.graph.CodeGen())
    module.recompile()


def _untraceable(model: nn.Module, error: Exception) -> Finding:
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = user_place(code.co_filename, str(trace.tb_lineno)) or place
        trace = trace.tb_next
    reason = next(iter(str(error).splitlines()), "")
    return Finding(
        type(model).__name__,
        f"torch.fx cannot trace its forward ({type(error).__name__}: {reason})",
        "Write forward without branches, loops or conversions that depend on tensor values or shapes, and with one "
        "image input",
        place,
    )
