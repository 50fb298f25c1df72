"""The modules that stand in graphs between the user's network and the spiking one.

stage                   modules
of two dimensions       Lift, Lower
activations known       BoundedReLU
windows fixed           FixedSize
frames taken            AverageFrames
padding taken in        PaddedConv2d
scales and shifts       Affine
sums of several inputs  Add
batch norm folded       FoldedConv2d, FoldedLinear
thresholds calibrated   QuantizedInput, ClippedReLU
weights quantised       LowBitConv2d, LowBitLinear
in training             RateReLU
only put elsewhere      Concat, Channels, FlattenMaps, Places, Select, Repeat, Spread, PixelShuffle, Turn, Tap
max pooling of spikes   AnyPool2d
spiking                 Encode, SpikeConv2d, SpikeLinear, SpikeAvgPool2d, SpikeAnyPool2d, SpikeAdd, Decode
whose sums it adds up   SynapseConv2d, SynapseLinear
"""

from fxsnn.layers.adding import Add, SpikeAdd
from fxsnn.layers.affine import (
    Affine,
    affine_of_norm,
    along_inputs,
    input_shift,
    norm_with_affine_behind,
    remember_input_shift,
    through,
    with_affine_behind,
    with_affine_in_front,
)
from fxsnn.layers.any_pooling import AnyPool2d, SpikeAnyPool2d
from fxsnn.layers.clipping import ActivationSummary, Bound, BoundedReLU, ClippedReLU, RateReLU
from fxsnn.layers.decode import Decode
from fxsnn.layers.dimensions import RANKS, AverageFrames, FixedSize, ImageForm, Lift, Lower
from fxsnn.layers.folded import Folded, FoldedConv2d, FoldedLinear
from fxsnn.layers.geometry import conv_like, geometry_of, layer_like, linear_like, norm_like, pair
from fxsnn.layers.images import (
    CLIPPED_SHARE,
    FAR_BEYOND,
    Encode,
    QuantizedInput,
    check_images,
    in_words,
    is_readable,
    quantize_input,
    require_images,
    unlike_calibration,
)
from fxsnn.layers.low_bit import LowBit, LowBitConv2d, LowBitLinear
from fxsnn.layers.padded import PaddedConv2d, Sides, convolution, said, sides_of
from fxsnn.layers.spiking import (
    SpikeAvgPool2d,
    SpikeConv2d,
    SpikeLinear,
    SpikePool2d,
    SpikeReLU,
    Spiking,
    fill,
    spike_avg_pooling,
    spiking_form,
)
from fxsnn.layers.synapses import Integers, SynapseConv2d, SynapseLinear, Synapses
from fxsnn.layers.wiring import (
    Channels,
    Concat,
    FlattenMaps,
    PixelShuffle,
    Places,
    Repeat,
    Select,
    Spread,
    Tap,
    Taps,
    Turn,
    Wiring,
    WithinChannels,
)

HAND_WRITTEN = (SpikeConv2d, SpikeLinear, SpikeAvgPool2d, SpikeReLU)
"""Layers that a user may write into a network."""

LEAVES = (
    BoundedReLU,
    ClippedReLU,
    RateReLU,
    QuantizedInput,
    LowBit,
    Integers,
    SpikeReLU,
    Add,
    AnyPool2d,
    Wiring,
    Encode,
    Decode,
    Folded,
    FixedSize,
    Lift,
    Lower,
    PaddedConv2d,
)
"""Layers that tracing does not look into."""

__all__ = [
    "CLIPPED_SHARE",
    "FAR_BEYOND",
    "HAND_WRITTEN",
    "LEAVES",
    "RANKS",
    "ActivationSummary",
    "Add",
    "Affine",
    "AnyPool2d",
    "AverageFrames",
    "Bound",
    "BoundedReLU",
    "Channels",
    "ClippedReLU",
    "Concat",
    "Decode",
    "Encode",
    "FixedSize",
    "FlattenMaps",
    "Folded",
    "FoldedConv2d",
    "FoldedLinear",
    "ImageForm",
    "Integers",
    "Lift",
    "LowBit",
    "LowBitConv2d",
    "LowBitLinear",
    "Lower",
    "PaddedConv2d",
    "PixelShuffle",
    "Places",
    "QuantizedInput",
    "RateReLU",
    "Repeat",
    "Select",
    "Sides",
    "SpikeAdd",
    "SpikeAnyPool2d",
    "SpikeAvgPool2d",
    "SpikeConv2d",
    "SpikeLinear",
    "SpikePool2d",
    "SpikeReLU",
    "Spiking",
    "Spread",
    "SynapseConv2d",
    "SynapseLinear",
    "Synapses",
    "Tap",
    "Taps",
    "Turn",
    "Wiring",
    "WithinChannels",
    "affine_of_norm",
    "along_inputs",
    "check_images",
    "conv_like",
    "convolution",
    "fill",
    "geometry_of",
    "in_words",
    "input_shift",
    "is_readable",
    "layer_like",
    "linear_like",
    "norm_like",
    "norm_with_affine_behind",
    "pair",
    "quantize_input",
    "remember_input_shift",
    "require_images",
    "said",
    "sides_of",
    "spike_avg_pooling",
    "spiking_form",
    "through",
    "unlike_calibration",
    "with_affine_behind",
    "with_affine_in_front",
]
