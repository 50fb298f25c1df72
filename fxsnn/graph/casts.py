"""What forward does in a type that it names, or PyTorch in one of its own: where a network is run in another type."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

_NAMED = {"double": torch.float64, "float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}


def cast_alike(program: fx.Graph, own: torch.dtype, dtype: torch.dtype) -> None:
    """Let a program cast to `dtype` where it casts to its own type, such as `(x > 0).float()` of a float32 network.

    What PyTorch computes in single precision, whatever it is given, is computed in double where that is asked for.
    """
    if own == dtype:
        return
    for node in program.nodes:
        if node.target is torch.fake_quantize_per_tensor_affine and dtype == torch.float64:
            node.target = fake_quantized
        if node.op == "call_method" and _NAMED.get(str(node.target)) == own and len(node.args) == 1:
            node.target, node.args = "to", (node.args[0], dtype)
        if node.op in ("call_method", "call_function"):
            node.args, node.kwargs = (
                tree_map(lambda one: dtype if one is own else one, given) for given in (node.args, node.kwargs)
            )


def fake_quantized(input: Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int) -> Tensor:
    """`torch.fake_quantize_per_tensor_affine` in the type of its input; PyTorch has it in single precision only."""
    step, zero = float(torch.as_tensor(scale, dtype=torch.float32)), int(zero_point)
    return ((input / step).round() + zero).clamp(quant_min, quant_max).sub(zero) * step
