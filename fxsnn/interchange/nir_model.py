"""Ordinary networks from any NIR graph that is a chain, to be converted: what other tools have trained."""

from __future__ import annotations

import keyword
from math import isclose, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxsnn.ambient import neutral
from fxsnn.errors import FileError, Finding, ModelError, OptionError, importing

_DRIVING = ("Conv2d", "Affine", "Linear", "SumPool2d", "AvgPool2d")
_KNOWN = ("Input", "Output", *_DRIVING, "IF", "Flatten")


def nir_package() -> Any:
    """The package `nir`, which is no requirement of fxsnn.

    Raises:
        OptionError: it is not installed, or broken.
    """
    with importing("nir", "a NIR graph", OptionError, "'fxsnn[nir]'"):
        import nir
    return nir


def nir_graph(source: str | Path | Any) -> Any:
    """A `nir.NIRGraph`, as it is or from a file.

    Raises:
        FileError: there is no such file, or it is no NIR graph.
        OptionError: the package nir is not installed.
    """
    nir = nir_package()
    if not isinstance(source, str | Path):
        if not isinstance(source, nir.NIRGraph):
            raise FileError(f"a {type(source).__name__} is neither a nir.NIRGraph nor a file")
        return source
    try:
        graph = nir.read(source)
    except OSError as error:
        raise FileError(f"{source} cannot be read: {error}") from error
    except Exception as error:  # whatever the package raises on what it does not expect
        raise FileError(f"{source} cannot be read as a NIR graph: {type(error).__name__}: {error}") from error
    if not isinstance(graph, nir.NIRGraph):
        raise FileError(f"{source} holds a {type(graph).__name__}, no NIR graph")
    return graph


@neutral()
def model_from_nir(source: str | Path | Any) -> nn.Module:
    """An ordinary network for `convert`, from any NIR graph that is a chain of convolutions, fully connected layers,
    poolings and integrate-and-fire neurons.

    Over many steps an IF neuron fires at the rate `clamp(r * drive / v_threshold, 0, 1)`; so its weights are divided by
    `v_threshold / r` of their output, and a ReLU takes its place. The activations are firing rates. A last layer
    without neurons stays as it is.

    Args:
        source: a `nir.NIRGraph`, or a file of one.

    Raises:
        FileError: there is no such file, or it is no NIR graph.
        ModelError: the graph is no chain, or has other nodes; all of them.
        OptionError: the package nir is not installed.
    """
    chain = _in_order(nir_graph(source))
    findings = [
        Finding(name, f"it is a {type(node).__name__}", f"Allowed are {', '.join(_KNOWN[2:])}")
        for name, node in chain
        if type(node).__name__ not in _KNOWN
    ]
    kinds = [type(node).__name__ for _, node in chain]
    for before, (name, node) in zip(kinds, chain[1:], strict=False):
        if type(node).__name__ == "IF":
            if before not in _DRIVING:
                findings.append(
                    Finding(name, f"it reads a {before}", "Neurons stand behind what has weights, or a pooling")
                )
            elif not bool((np.asarray(node.v_threshold) > 0).all() and (np.asarray(node.r) > 0).all()):
                findings.append(Finding(name, "a threshold or r is not positive", "Give it positive ones"))
        if type(node).__name__ == "Flatten" and not _flattens_all(node):
            findings.append(Finding(name, "it flattens some dimensions only", "Flatten everything but the batch"))
    if findings:
        raise ModelError(findings)
    model = nn.Sequential()
    scaled: nn.Conv2d | nn.Linear | None = None
    pooled, worth = "", 1.0  # what the pooled activations are worth more than the spikes that the next layer reads
    for name, node in chain:
        kind = type(node).__name__
        if kind in ("Input", "Output"):
            continue
        pooled = name if kind.endswith("Pool2d") else pooled
        if kind == "IF" and scaled is None:
            share = np.asarray(node.r, np.float64) / np.asarray(node.v_threshold, np.float64)
            if not np.allclose(share, share.flat[0]):
                raise ModelError([Finding(name, "thresholds behind a pooling differ", "Give them one threshold")])
            worth *= float(share.flat[0])
            continue
        if kind == "IF" and scaled is not None:
            _divide(scaled, torch.from_numpy(np.asarray(node.r) / np.asarray(node.v_threshold)).float(), name)
            layer: nn.Module = nn.ReLU()
            scaled = None
        elif kind == "Flatten":
            layer = nn.Flatten()
        elif kind in ("SumPool2d", "AvgPool2d"):
            kernel, stride, padding = (_pair(one) for one in (node.kernel_size, node.stride, node.padding))
            layer, scaled = nn.AvgPool2d(kernel, stride, padding), None
            worth *= prod(kernel) if kind == "SumPool2d" else 1
        else:
            layer = scaled = _weighted(node, worth)
            worth = 1.0
        model.add_module(_unused_name(model, name), layer)
    if not isclose(worth, 1, rel_tol=1e-6):  # thresholds are float32
        problem = f"what it gives, with the neurons behind it, is {worth:.4g} times a mean, and no weights follow"
        raise ModelError(
            [
                Finding(
                    pooled,
                    problem,
                    "Use AvgPool2d, or neurons with the window's size as threshold, or put a layer behind it",
                )
            ]
        )
    return model.eval()


def _unused_name(model: nn.Sequential, name: str) -> str:
    """The name of a node, such that PyTorch and torch.fx can call a layer so."""
    safe = name.replace(".", "_")
    while hasattr(model, safe) or hasattr(fx.GraphModule, safe) or keyword.iskeyword(safe) or not safe:
        safe += "_"
    return safe


def _flattens_all(node: Any) -> bool:
    """Whether a flatten joins all dimensions but that of the batch."""
    before, after = (np.atleast_1d(next(iter(one.values()))) for one in (node.input_type, node.output_type))
    return len(after) == 1 or (int(node.start_dim), int(node.end_dim)) == (-len(before), -1)


def _in_order(graph: Any) -> list[tuple[str, Any]]:
    """The nodes of a chain from its input to its output.

    Raises:
        ModelError: it is none.
    """
    behind: dict[str, list[str]] = {}
    for source, reader in graph.edges:
        behind.setdefault(source, []).append(reader)
    inputs = [name for name, node in graph.nodes.items() if type(node).__name__ == "Input"]
    here = inputs[0] if len(inputs) == 1 else ""
    chain: list[tuple[str, Any]] = []
    while here in graph.nodes and len(chain) <= len(graph.nodes):
        chain.append((here, graph.nodes[here]))
        readers = behind.get(here, [])
        if len(readers) > 1:
            raise ModelError([Finding(here, f"{len(readers)} nodes read it", "Only chains can be converted")])
        here = readers[0] if readers else ""
    if len(chain) != len(graph.nodes):
        found = f"{len(chain)} of its {len(graph.nodes)} nodes form a chain from its input (it has {len(inputs)})"
        raise ModelError([Finding("graph", found, "Only chains can be converted")])
    return chain


def _pair(value: Any) -> tuple[int, int]:
    height, width = np.broadcast_to(value, 2)
    return int(height), int(width)


def _weighted(node: Any, worth: float) -> nn.Conv2d | nn.Linear:
    """A convolution or fully connected layer, for an input that is worth `worth`."""
    weight = torch.from_numpy(np.array(node.weight)).float() * worth
    bias = getattr(node, "bias", None)
    layer: nn.Conv2d | nn.Linear
    if type(node).__name__ == "Conv2d":
        padding = node.padding if isinstance(node.padding, str) else _pair(node.padding)
        groups, (outputs, inputs, height, width) = int(node.groups), weight.shape
        layer = nn.Conv2d(
            inputs * groups,
            outputs,
            (height, width),
            _pair(node.stride),
            padding,
            _pair(node.dilation),
            groups,
            bias=bias is not None,
        )
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(torch.from_numpy(np.array(bias)).float())
    return layer


def _divide(layer: nn.Conv2d | nn.Linear, share: Tensor, name: str) -> None:
    """Turn drives into shares of the threshold."""
    outputs = len(layer.weight)
    each = share.expand(outputs, 1) if share.dim() == 0 or share.numel() == 1 else share.reshape(len(share), -1)
    if len(each) != outputs or not torch.allclose(each, each[:, :1].expand_as(each)):
        raise ModelError([Finding(name, "thresholds differ within a channel", "Give each channel one threshold")])
    layer.weight = nn.Parameter(layer.weight.detach() * each[:, 0].view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach() * each[:, 0])
