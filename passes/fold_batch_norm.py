"""FoldBatchNorm: the same function without batch norms."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fxsnn.graph import Graph, Norm
from fxsnn.layers import FoldedConv2d, FoldedLinear, conv_like, input_shift, linear_like, remember_input_shift
from fxsnn.rewriting import Pass, facts


class FoldBatchNorm(Pass):
    """Fold each batch norm into the convolution or fully connected layer that feeds it alone.

    Weight `W * g / sqrt(v + eps)` and bias `(b - m) * g / sqrt(v + eps) + s`, with running mean `m` and variance `v`,
    scale `g` and shift `s` (Jacob et al. 2018, section 3.2). The new layer remembers `s` and `|g|`: each of its output
    channels is about N(s, g^2), from which thresholds can be had without data. The tail is left alone.
    """

    gives = facts("no-batch-norm")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        for node in graph.body(*Norm):
            source, norm = node.all_input_nodes[0], graph[node]
            if graph.sole_user(source) is not node or not isinstance(norm, Norm) or norm.running_mean is None:
                continue
            layer: Any = graph[source] if source.op == "call_module" else None
            folded: FoldedConv2d | FoldedLinear
            if isinstance(layer, nn.Conv2d):
                folded = conv_like(FoldedConv2d, fuse_conv_bn_eval(layer, norm))
            elif isinstance(layer, nn.Linear):
                folded = linear_like(FoldedLinear, fuse_linear_bn_eval(layer, _with_scale_and_shift(norm)))
            else:
                continue
            folded.remember(norm)
            remember_input_shift(folded, input_shift(layer))
            graph.replace(source, folded)
            graph.bypass(node)


def _with_scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """The same norm with scale 1 and shift 0 where it has none: PyTorch's fusion of linear layers needs them."""
    if norm.affine:
        return norm
    assert norm.running_mean is not None
    full = type(norm)(norm.num_features, norm.eps, device=norm.running_mean.device, dtype=norm.running_mean.dtype)
    full.running_mean, full.running_var = norm.running_mean, norm.running_var
    return full.eval()
