"""What calls do to the dimensions of a tensor, and what images of a program must look like."""

from __future__ import annotations

from dataclasses import replace

from torch import fx, nn
from torch.fx.node import Node

from fxsnn.graph.body import ancestors
from fxsnn.graph.kinds import Activation, Norm, PaddingByValues, Transposed, Weighted, calls_a
from fxsnn.layers import Affine, AverageFrames, Encode, FixedSize, ImageForm, Lift, QuantizedInput, WithinChannels

_KEEP_SHAPES = (
    *Activation, *Norm, Affine, QuantizedInput, FixedSize, nn.Identity, nn.modules.dropout._DropoutNd, nn.ReLU6,
    nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink,
    nn.Threshold,
)  # fmt: skip
_CALLS = frozenset((
    "abs", "add", "clamp", "clamp_max", "clamp_min", "clip", "clone", "contiguous", "detach", "div", "dropout", "elu",
    "exp", "float", "floor", "gelu", "hardtanh", "leaky_relu", "mul", "neg", "relu", "relu6", "round", "sigmoid",
    "silu", "softplus", "sqrt", "sub", "tanh", "truediv",
))  # fmt: skip
"""Functions and methods that change each number by itself."""


_CHANGE_CHANNELS = frozenset((
    "bmm", "cat", "concat", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "einsum", "flatten", "linear",
    "matmul", "movedim", "permute", "pixel_shuffle", "pixel_unshuffle", "reshape", "stack", "swapaxes", "tile",
    "transpose", "unflatten", "unfold", "view",
))  # fmt: skip
"""Functions and methods behind which channels are not those of the images; weights may be computed, too."""


def _changes_channels(node: Node, root: nn.Module) -> bool:
    """Whether a call gives other channels than it reads, or may."""
    if node.op == "call_module":
        return calls_a(root, node, nn.PixelShuffle, nn.PixelUnshuffle, nn.Unflatten, nn.Unfold)
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in _CHANGE_CHANNELS


def keeps_shape(node: Node, root: nn.Module) -> bool:
    """Whether a call gives a tensor of the very shape of those that it reads, whatever that is.

    Args:
        node: of a program.
        root: the module with its layers.
    """
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, _KEEP_SHAPES) and not (isinstance(module, QuantizedInput) and module.frames)
    if node.op not in ("call_function", "call_method"):
        return False
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name.removesuffix("_") in _CALLS and all(source.op != "get_attr" for source in node.all_input_nodes)


def image_form(module: fx.GraphModule, image_size: tuple[int, ...] | None) -> ImageForm:
    """What the images of a program must look like, as its first layer with weights tells, and what was fixed of them.

    Args:
        module: a program at any stage.
        image_size: of the images with which it was captured, without the batch; `None`: of any.
    """
    form = _form_for_layers(module, image_size)
    fixed = next((one.size for one in module.children() if isinstance(one, FixedSize)), None)
    form = form if fixed is None else replace(form, size=fixed)
    return replace(form, frames=0) if form.frames is None and any(map(_averages, module.children())) else form


def _averages(module: nn.Module) -> bool:
    """Whether a layer makes one image of frames."""
    return isinstance(module, AverageFrames) or (isinstance(module, QuantizedInput) and module.frames)


def _form_for_layers(module: fx.GraphModule, image_size: tuple[int, ...] | None) -> ImageForm:
    kinds = (Encode, nn.Conv1d, *Transposed, *Weighted)
    calls = ((node, module.get_submodule(str(node.target))) for node in module.graph.nodes if node.op == "call_module")
    first, layer = next(((node, one) for node, one in calls if isinstance(one, kinds)), (None, None))
    if first is None or layer is None:
        return ImageForm()
    if isinstance(layer, Encode):
        return layer.form
    before = [node for node in ancestors(first) if node.op != "placeholder"]
    if any(
        _changes_channels(node, module) and any(one.op == "placeholder" for one in ancestors(node)) for node in before
    ):
        return ImageForm()  # they are those of what the layer reads, not of images
    lifts = [node for node in before if calls_a(module, node, Lift)]
    windows = (Lift, WithinChannels, nn.AvgPool1d, nn.AvgPool2d, nn.ConstantPad1d, nn.ConstantPad2d)
    known = (*windows, *PaddingByValues, AverageFrames, QuantizedInput)
    keep = all(keeps_shape(node, module) or calls_a(module, node, *known) for node in before)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not lifts:
        return ImageForm(layer.in_channels, 4) if keep or image_size is None else ImageForm(image_size[0], 4)
    if not keep:
        return ImageForm()
    if not isinstance(layer, nn.Linear):
        return ImageForm(layer.in_channels, 3)
    # Along the last axis of images it works, too.
    return ImageForm(layer.in_features, 2) if image_size is None or len(image_size) == 1 else ImageForm()
