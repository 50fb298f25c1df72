"""No chip in particular: any kernel size, any number of channels, registers as wide as 32-bit arithmetic likes them."""

from fxsnn.chip import HardwareTarget, Registers

TARGET = HardwareTarget(
    name="generic",
    description="no limits on kernels and channels; for simulation and for comparing chips",
    input_channels=None,
    registers=Registers(codebook=11, threshold=24, leak=24),
    codebook="free",
)
