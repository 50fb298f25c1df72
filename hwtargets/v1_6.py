"""The chip that later versions of the same tool describe, up to its version 1.6 of January 2021.

Documented: weights through an index of at most 4 bits into a codebook of 11 bits, thresholds of 18, the bias as a leak
of 19, cores of 1,024 inputs and outputs; convolutions, transposed ones, fully connected layers, average pooling with
neurons, residual sums (a spiking layer of its own with weights 1 and 1 and a threshold) and concatenation, whose
channels keep what their spikes are worth.

A transposed convolution is to us a convolution of its kernel that reads zeros as well (`RewriteTransposed`): a
threshold, a leak and codebook entries for each output channel, as a layer of its own would have them.

So there are at most 2^bits different weights, any of 11 bits: a codebook may have any levels, for each layer its own.

Not documented, and left open: which kernels and how many input channels such a core takes. The rule of version 1.0
counts weight bits, the estimate of cores of version 1.6 does not, and the two disagree; so there is no table here. Sums
with several weighted inputs in one membrane are our reading of its residual sums. A convolution without a ReLU is not
described, so it has none. Poolings that spike with any neuron of their window are reset to zero, also where all others
are reset by subtraction: that a layer may have a reset of its own is assumed.
"""

from fxsnn.chip import HardwareTarget, Registers

TARGET = HardwareTarget(
    name="hw_v1.6",
    description="as Hardware v1.0, with residual sums and concatenation; its limits of channels are not known",
    weight_bits=(1, 2, 3, 4),
    input_channels=None,
    registers=Registers(codebook=11, threshold=18, leak=19),
    core_inputs=1024,
    core_outputs=1024,
    joins=("add", "concatenate"),
    codebook="free",
)
