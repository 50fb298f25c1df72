"""Kinds of modules that passes ask for, and what a module or a call says of itself."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.fx.node import Argument, Node

from fxsnn.layers import AnyPool2d, BoundedReLU, ClippedReLU, RateReLU, pair

Activation = (nn.ReLU, BoundedReLU, ClippedReLU, RateReLU)
Leaky = (nn.LeakyReLU, nn.PReLU)
"""Activations that two layers of neurons can stand for, one for each sign."""
Pooling = (nn.AvgPool2d, AnyPool2d)
"""Poolings that neurons do: sums over windows of spikes."""
Norm = (nn.BatchNorm1d, nn.BatchNorm2d)
Transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d)
"""Layers with weights of which the front end makes convolutions."""
Weighted = (nn.Conv2d, nn.Linear)
PaddingByValues = (
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d,
    nn.CircularPad1d, nn.CircularPad2d,
)  # fmt: skip
"""Layers that pad with numbers of the map."""
_HOLDS_OTHERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def pools_evenly(pool: nn.AvgPool2d) -> bool:
    """Whether all windows of an average pooling have the same size and count alike, as those of spikes do."""
    counted = pool.count_include_pad or not any(pair(pool.padding))
    return counted and not pool.ceil_mode


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    """Where a module's tensors are, and the type that it reads images in.

    Returns:
        The device of its first tensor, or the CPU; the type of its first floating one, or `None`. Those of layers with
        weights come first, since what is done to their outputs may have a type of its own; then other parameters.
    """
    layers = [one for one in module.modules() if isinstance(one, Weighted)]
    weights = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    tensors = [*weights, *module.parameters(), *module.buffers()]
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    return device, next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def is_torchvision_normalize(kind: type) -> bool:
    """Whether a class is the `Normalize` of torchvision, which need not be installed."""
    return any(
        one.__name__ == "Normalize" and one.__module__.startswith("torchvision.transforms.") for one in kind.__mro__
    )


_HARMLESS = frozenset(
    (
        "__init__", "__repr__", "_load_from_state_dict", "_save_to_state_dict", "_version", "extra_repr",
        "reset_parameters", "reset_running_stats", "train",
    )
)  # fmt: skip
"""What a subclass may define anew without computing anything else in evaluation mode."""


def torch_parent(kind: type) -> type[nn.Module] | None:
    """The layer of `torch.nn` as which a class computes: itself, or the one whose methods it inherits; else `None`."""
    own: list[type] = []
    for parent in kind.__mro__:
        if parent.__module__.startswith("torch.nn.modules.") and issubclass(parent, nn.Module):
            break
        own.append(parent)
    else:
        return None
    if parent is nn.Module or issubclass(parent, _HOLDS_OTHERS):
        return None
    changed = {name for one in own for name in vars(one) if name not in _HARMLESS and not _is_about_the_class(name)}
    return None if any(hasattr(parent, name) for name in changed) else parent


def _is_about_the_class(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name not in ("__call__", "__getattr__")


def view_sizes(node: Node) -> tuple[Argument, ...]:
    """The sizes that a view or reshape is given, one by one or together."""
    sizes: tuple[Argument, ...] = node.args[1:] or (node.kwargs.get("shape"),)
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes


def calls_a(module: nn.Module, node: Node, *kinds: type[nn.Module]) -> bool:
    """Whether a node of a program calls a module of one of these classes."""
    return node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), kinds)


def what_is_called(module: fx.GraphModule, node: Node) -> str:
    """The class of a layer; the name of a function or method."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def pools_maxima(name: str) -> bool:
    """Whether a layer or function of that name, in lower case, is a max pooling."""
    return "maxpool" in name or "max_pool" in name


def looks_like_activation(name: str) -> bool:
    """Whether a layer or function of that name, in lower case, is an activation, ours or another."""
    parts = ("elu", "sigmoid", "tanh", "swish", "mish", "hard", "softplus", "softsign", "threshold", "shrink", "silu")
    return any(part in name for part in (*parts, "clamp"))
