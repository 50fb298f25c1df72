"""Random images of a size that a program accepts, found from its layers and tried without computing anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxsnn.graph.copying import copied
from fxsnn.graph.image_sizes import likely_lengths, likely_sizes
from fxsnn.graph.kinds import Activation, Norm, Transposed, Weighted, calls_a, place_of
from fxsnn.layers import Affine, FixedSize, ImageForm, Lift, QuantizedInput
from fxsnn.outputs import tensors_in


def random_images(module: fx.GraphModule, form: ImageForm, batch: int, seed: int, *, whole: bool) -> Tensor | None:
    """See `Graph.example_input`; `form`: what images of the program must look like."""
    device, dtype = place_of(module)
    meta = copied(module, lambda tensor: tensor.to("meta"))
    for size in _sizes_to_try(module, form):
        try:
            with torch.no_grad():
                outputs = meta.forward(torch.empty(batch, *size, device="meta", dtype=dtype or torch.float32))
        except Exception:
            continue
        if whole and not any(one.shape[:1] == (batch,) for one in tensors_in(outputs)):
            continue  # `x.view(-1, features)` makes more images of pixels that are too many
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(batch, *size, generator=generator)
        return images.to(device, dtype or torch.float32)
    return None


def _sizes_to_try(module: fx.GraphModule, form: ImageForm) -> Iterator[tuple[int, ...]]:
    """Of images, without the batch; none of a network without weights."""
    if form.size is not None:
        yield form.size
        return
    kinds = (nn.Conv1d, *Transposed, *Weighted)
    calls = (node for node in module.graph.nodes if calls_a(module, node, *kinds))
    first: Any = next((module.get_submodule(str(node.target)) for node in calls), None)
    if first is None:
        return
    if form.rank == 2:
        yield (first.in_features,)
    elif form.rank == 3 or isinstance(first, nn.Conv1d | nn.ConvTranspose1d):
        yield from ((first.in_channels, length) for length in likely_lengths(*_windows(module)))
    else:
        dense = isinstance(first, nn.Linear)
        yield from [(1, 1, first.in_features)] if dense else []
        yield from ((1 if dense else first.in_channels, *size) for size in likely_sizes(*_windows(module)))


def _windows(module: fx.GraphModule) -> tuple[list[nn.Module], int | None, bool]:
    """Convolutions and poolings that all images go through, and what the first fully connected layer reads.

    At last, whether that is all they give, in a row: nothing else stands between that changes sizes.
    """
    found: list[nn.Module] = []
    chain, row = True, False
    for before, node in itertools.pairwise(module.graph.nodes):
        layer: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Linear):
            return found, int(layer.in_features), chain and row
        flatten = layer if isinstance(layer, nn.Flatten) else None
        row = row or (flatten is not None and (flatten.start_dim, flatten.end_dim) == (1, -1))
        plain = isinstance(layer, (*Norm, *Activation, Affine, QuantizedInput, FixedSize, Lift)) or (
            flatten is not None and row
        )
        window = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.AvgPool1d | nn.AvgPool2d)
        chain = chain and node.all_input_nodes == [before] and (plain or window)
        if chain and window:
            found.append(layer)
    return found, None, chain
