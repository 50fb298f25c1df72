"""A network's own copy, in front of a trace: wrappers opened, computed weights made permanent, hooks left behind."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from fxsnn.errors import Finding, ModelError
from fxsnn.layers import Decode

_QUANTISED = ("torch.ao.", "torch.nn.quantized", "torch.nn.qat", "torch.nn.intrinsic", "torchao.")

_log = logging.getLogger(__name__)


_DERIVED = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
"""Hooks that compute a weight in front of every call."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The network in wrappers for data parallelism or means of weights, and in those of `torch.compile`."""
    return _layers_of_wrapping(model)[-1]


def _layers_of_wrapping(model: nn.Module) -> list[nn.Module]:
    """A network's wrappers, the outermost first, and the network."""
    found = [model]
    while (inner := _wrapped(found[-1])) is not None:
        found.append(inner)
    return found


def _wrapped(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return module.module
    inner = getattr(module, "_orig_mod", None)  # torch.compile's wrapper
    return inner if isinstance(inner, nn.Module) else None


def _no_ordinary_network(model: nn.Module) -> Finding | None:
    """What networks are that have been something else before."""
    name, kinds = type(model).__name__, {type(module) for module in model.modules()}
    if isinstance(model, torch.jit.ScriptModule):
        return Finding(name, "it is a TorchScript module", "Pass the network that it was made of")
    if isinstance(model, fx.GraphModule) and any(isinstance(node.target, OpOverload) for node in model.graph.nodes):
        return Finding(name, "it is a program of torch.export", "Pass the network that it was made of")
    if Decode in kinds:
        return Finding(name, "it is a spiking network already", "Pass the network that it was converted from")
    idle = (torch.ao.quantization.QuantStub, torch.ao.quantization.DeQuantStub)  # do nothing before that
    if found := sorted(kind.__name__ for kind in kinds - set(idle) if kind.__module__.startswith(_QUANTISED)):
        problem = f"it has been quantised or prepared for it by PyTorch ({', '.join(found)})"
        return Finding(name, problem, "Pass the network as it was before: fxsnn quantises it by itself")
    return None


def own_copy(model: nn.Module, *, share: bool = False, hooks: bool = False) -> nn.Module:
    """A copy in evaluation mode to trace or to run; inner wrappers are opened, and the model stays as it is.

    Weights that are computed at every call (parametrizations, weight and spectral norm, pruning) are computed once.

    Args:
        model: an ordinary network.
        share: take the model's own parameters, which needs no memory. Buffers are copied all the same: forward may
            write into them.
        hooks: keep the user's hooks, which then run with the copy.

    Raises:
        ModelError: it is no ordinary network, has no weights yet, or cannot be copied.
    """
    if (finding := _no_ordinary_network(model)) is not None:
        raise ModelError([finding])
    if findings := _without_weights(model):
        raise ModelError(findings)
    derived = {id(one) for module in model.modules() if _has_derived(module) for one in module.parameters()}
    memo: dict[int, Any] = {id(one): one for one in model.parameters() if id(one) not in derived} if share else {}
    for module in model.modules():
        # Hooks are the user's business; a copy of them must not fire while we run the network.
        for fire in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            kept = {key: hook for key, hook in fire.items() if hooks or isinstance(hook, _DERIVED)}
            memo[id(fire)] = OrderedDict(kept)
        # Of tensors with a history, such as an activation that forward keeps, PyTorch makes no copy.
        kept_values = (one for one in vars(module).values() if isinstance(one, Tensor) and one.grad_fn is not None)
        memo.update((id(one), one.detach().clone()) for one in kept_values)
    try:
        with torch.inference_mode(False):  # tensors made in it do not tell when they are written into
            for wrapper in reversed(list(model.modules())):  # inner ones first
                if wrapper is not model and _wrapped(wrapper) is not None:
                    memo[id(wrapper)] = _opened(wrapper, memo, hooks=hooks)
            own = _opened(model, memo, hooks=hooks).eval()
            if isinstance(own, fx.GraphModule):
                own.recompile()  # the tracer looks for `forward` in the class
    except Exception as error:
        raise ModelError(
            [Finding(type(model).__name__, f"it cannot be copied ({error})", "Remove what copy.deepcopy refuses")]
        ) from error
    with torch.no_grad():
        for name, module in own.named_modules():
            told = _make_permanent(module)
            if told and not share:  # what is only looked at says nothing
                _log.info("%s: %s was made permanent on the copy", name or type(module).__name__, ", ".join(told))
    return own


def _opened(module: nn.Module, memo: dict[int, Any], *, hooks: bool) -> nn.Module:
    """A copy of what is in a wrapper, or of a module that is none; with its wrappers' hooks, if it is to have any."""
    *wrappers, inner = _layers_of_wrapping(module)
    copied: nn.Module = copy.deepcopy(inner, memo)
    for wrapper in reversed(wrappers) if hooks else ():
        copied._forward_pre_hooks = OrderedDict(
            [*wrapper._forward_pre_hooks.items(), *copied._forward_pre_hooks.items()]
        )
        copied._forward_hooks = OrderedDict([*copied._forward_hooks.items(), *wrapper._forward_hooks.items()])
        for told in ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
            setattr(copied, told, OrderedDict([*getattr(copied, told).items(), *getattr(wrapper, told).items()]))
    return copied


def hooks_of(model: nn.Module) -> list[tuple[str, Any]]:
    """The user's forward hooks by the names of their modules, in order."""
    return [
        (name, hook)
        for name, module in model.named_modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if not isinstance(hook, _DERIVED)
    ]


def _has_derived(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(isinstance(hook, _DERIVED) for hook in hooks)


def _make_permanent(module: nn.Module) -> list[str]:
    """Compute weights that are computed at every call, once; by what they were computed."""
    told = []
    if parametrize.is_parametrized(module):
        weights: Any = module.parametrizations
        values = {one: getattr(module, one).detach().clone() for one in weights}
        told += [type(part).__name__ for one in weights for part in weights[one]]
        # Not by PyTorch's own function: it changes the class, which the model's layer shares.
        del module._modules["parametrizations"]
        module.__class__ = type(module).__bases__[0]
        for one, value in values.items():
            module.register_parameter(one, nn.Parameter(value))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
        else:
            continue
        told.append(type(hook).__name__)
    return told


def _without_weights(model: nn.Module) -> list[Finding]:
    return [
        Finding(name, "it is lazy and has no weights yet", "Run the model once on a batch")
        for name, module in model.named_modules()
        if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in module.parameters(False))
    ]
