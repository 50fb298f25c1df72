"""FoldConstants: what depends on no image is computed once."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.fx.node import Node, map_arg
from torch.utils._python_dispatch import TorchDispatchMode

from fxsnn.graph import Graph
from fxsnn.rewriting import Pass, facts


class FoldConstants(Pass):
    """Calls that read only parameters, buffers and constants of the network become one buffer, or a number.

    Such as `self.mean.view(1, 3, 1, 1)`, `1 / self.std` or `torch.sqrt(self.variance + 1e-5)`. What draws random
    numbers or writes into a tensor is left alone, and so is the tail.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.std = nn.Parameter(torch.tensor([0.5, 0.25]))
        ...         self.conv, self.relu = nn.Conv2d(2, 4, 3), nn.ReLU()
        ...
        ...     def forward(self, x):
        ...         return self.relu(self.conv(x * (1 / self.std)[:, None, None]))
        >>> print(FoldConstants()(fxsnn.capture(Net())).after.text(hashes=False))
        name      calls                                            reads        tensors
        --------  -----------------------------------------------  -----------  -------
        x         placeholder
        constant  get_attr
        mul       ()                                               x, constant
        conv      Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))  mul
        relu      ReLU()                                           conv
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        body = set(graph.body())
        known: dict[Node, Any] = {}
        for node in graph:
            if node not in body or node.op == "placeholder":
                continue
            if node.op == "get_attr":
                known[node] = graph.held(node)
            elif node.all_input_nodes and all(source in known for source in node.all_input_nodes):
                try:
                    known[node] = _computed(graph, node, known)
                except (_NotPureError, RuntimeError, TypeError):  # it fails where it stands, too
                    continue
        for node, value in known.items():
            readers = [user for user in node.users if user in body and user not in known]
            if readers and node.op != "get_attr":
                _put(graph, node, value, readers)


class _NotPureError(Exception):
    pass


class _Pure(TorchDispatchMode):
    """Lets only through what gives the same at every call, and changes nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags:
            raise _NotPureError
        return func(*args, **(kwargs or {}))


def _computed(graph: Graph, node: Node, known: dict[Node, Any]) -> Any:
    args, kwargs = (cast(Any, map_arg)(given, known.__getitem__) for given in (node.args, node.kwargs))
    with torch.no_grad(), _Pure():  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        if node.op == "call_module":
            return graph[node](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # fx types it wider than it is


def _put(graph: Graph, node: Node, value: Any, readers: list[Node]) -> None:
    """Let readers read a buffer, or have the number among their arguments."""
    if isinstance(value, Tensor):
        name = graph.unused_name("constant")
        graph.module.register_buffer(name, value.detach())
        with graph.module.graph.inserting_before(node):
            constant: Any = graph.module.graph.get_attr(name)
        constant.meta = dict(node.meta)
    elif isinstance(value, bool | int | float):
        constant = value
    else:
        return
    for reader in readers:
        reader.args, reader.kwargs = (
            cast(Any, map_arg)(given, lambda one: constant if one is node else one)
            for given in (reader.args, reader.kwargs)
        )
