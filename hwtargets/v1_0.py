"""Hardware v1.0.

The channel table is the documented rule. Each entry equals floor(1024 / (height * width * bits)): the fan-in of one
neuron on a core of 1,024 input rows. Other kernel sizes have no entry and are not supported.

A transposed convolution is a convolution of its kernel that reads zeros as well; other kernels are refused for it, too.

Its document names convolutions, fully connected layers and average poolings: no sum of several layers. A concatenation
is wiring, whose reader has the channels of all its inputs to fit into the table.

It says nothing of which weights there can be. Later public versions of the same tool describe an index of the weight's
bits into a codebook of entries of 11 bits: so any 2^bits whole numbers can be weights. That a layer may choose them
freely is our reading, and what conversions do; `codebook="symmetric"` in `fxsnn.convert` keeps to whole numbers from -Q
to Q.

It does not say whether layers may differ in what a spike does to a membrane. Poolings that spike with any neuron of
their window are reset to zero, also where all others are reset by subtraction: that is assumed.
"""

from fxsnn.chip import HardwareTarget, Registers

TARGET = HardwareTarget(
    name="hw_v1.0",
    description="Hardware v1.0: 3x3 and 5x5 kernels, 1 to 4 bit weights through an 11-bit codebook",
    weight_bits=(1, 2, 3, 4),
    input_channels={
        (3, 3): {1: 113, 2: 56, 3: 37, 4: 28},
        (5, 5): {1: 40, 2: 20, 3: 13, 4: 10},
    },
    registers=Registers(codebook=11, threshold=18, leak=19),
    relu_behind_convolution=True,
    binary_traffic=True,
    core_inputs=1024,
    core_outputs=1024,
    joins=("concatenate",),
    codebook="free",
)
