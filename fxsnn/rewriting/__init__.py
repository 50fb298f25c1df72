"""The machine that runs passes, checks what they claim, and records each step.

Open `stages.py` first (Pass, Step, Pipeline); `substitution.py` puts spiking layers in place, `activations.py` knows an
activation when it sees one. It imports graph and what lies below.
"""

from fxsnn.rewriting.activations import find_activations, unknown_activations
from fxsnn.rewriting.padding import NoPadding, is_padding, padded, padding_of, reader_of
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
    "NoPadding",
    "Pass",
    "Pipeline",
    "Step",
    "encoding",
    "facts",
    "find_activations",
    "is_padding",
    "neurons_of",
    "outline",
    "padded",
    "padding_of",
    "reader_of",
    "require_example",
    "require_not_spiking",
    "spiking_layer",
    "substitute",
    "unknown_activations",
]
