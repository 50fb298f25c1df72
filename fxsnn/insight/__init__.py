"""Where accuracy went: the error budget, effects one by one, sweeps over bits and timesteps, evaluation.

Open `budget.py` first. It imports passes, the spiking network and what lies below.
"""

from fxsnn.insight.budget import ErrorBudget, error_budget
from fxsnn.insight.effects import layer_activations, stage_networks
from fxsnn.insight.evaluation import Batches, accuracy, accuracy_over_time
from fxsnn.insight.sweeps import Sweep, sweep

__all__ = [
    "Batches",
    "ErrorBudget",
    "Sweep",
    "accuracy",
    "accuracy_over_time",
    "error_budget",
    "layer_activations",
    "stage_networks",
    "sweep",
]
