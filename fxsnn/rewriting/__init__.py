"""The machine that runs passes, checks what they claim, and records each step.

Open `stages.py` first (Pass, Step, Pipeline); `substitution.py` puts spiking layers in place, `activations.py` knows an
activation when it sees one. It imports graph and what lies below.
"""

from fxsnn.rewriting.activations import find_activations, unknown_activations
from fxsnn.rewriting.stages import Pass, Pipeline, Step, facts, require_example, require_not_spiking
from fxsnn.rewriting.substitution import (
    NOTHING_TO_CONVERT,
    Neurons,
    encoding,
    neurons_of,
    outline,
    spiking_layer,
    substitute,
)

__all__ = [
    "NOTHING_TO_CONVERT",
    "Neurons",
    "Pass",
    "Pipeline",
    "Step",
    "encoding",
    "facts",
    "find_activations",
    "neurons_of",
    "outline",
    "require_example",
    "require_not_spiking",
    "spiking_layer",
    "substitute",
    "unknown_activations",
]
