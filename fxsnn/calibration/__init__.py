"""Statistics of activations: seen on images, or derived from batch norm where there are none.

Open `observation.py` first. It imports graph and what lies below.
"""

from fxsnn.calibration.forgetting import QUANTIZED_INPUT, forget_calibration
from fxsnn.calibration.input_moments import MomentMeter
from fxsnn.calibration.magnitudes import Magnitudes
from fxsnn.calibration.moments import INPUT_DEVIATIONS, gaussian_moments, gaussian_samples
from fxsnn.calibration.observation import Histogram, Watch, observe
from fxsnn.calibration.samples import Sample, shift_for_mean, some_of, some_of_batch

__all__ = [
    "INPUT_DEVIATIONS",
    "QUANTIZED_INPUT",
    "Histogram",
    "Magnitudes",
    "MomentMeter",
    "Sample",
    "Watch",
    "forget_calibration",
    "gaussian_moments",
    "gaussian_samples",
    "observe",
    "shift_for_mean",
    "some_of",
    "some_of_batch",
]
