"""Statistics of activations: seen on images, or derived from batch norm where there are none.

Open `observation.py` first. It imports graph and what lies below.
"""

from fxsnn.calibration.moments import INPUT_DEVIATIONS, gaussian_moments, gaussian_samples
from fxsnn.calibration.observation import Histogram, Watch, observe

__all__ = [
    "INPUT_DEVIATIONS",
    "Histogram",
    "Watch",
    "gaussian_moments",
    "gaussian_samples",
    "observe",
]
