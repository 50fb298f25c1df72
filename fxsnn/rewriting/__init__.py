"""The machine that runs passes, checks what they claim, and records each step.

Open `stages.py` first (Pass, Step), and `pipeline.py`; `neurons.py` says what is to spike, `substitution.py` puts it
in place, and `activations.py` knows an activation when it sees one. It imports graph and what lies below.
"""

from fxsnn.rewriting.activations import (
    find_activations,
    find_nearly_rectifiers,
    is_nowhere_negative,
    put_activations,
)
from fxsnn.rewriting.affine_calls import affine_of, source_of_affine
from fxsnn.rewriting.affine_ways import (
    about_affine,
    about_constant,
    can_give,
    is_on_images,
    pools_alike,
    pools_maxima_alike,
    swap_calls,
    way_forward,
)
from fxsnn.rewriting.composition import composed, is_in_front_of_activation, layer_in_front, why_apart
from fxsnn.rewriting.maxima import is_padded, pools_activations, pools_signed
from fxsnn.rewriting.movement import channels_of, concatenated, movement_of
from fxsnn.rewriting.neurons import (
    NOTHING_TO_CONVERT,
    Neurons,
    bias_of,
    branches_of,
    channel_units,
    decoded_values,
    encoding,
    has_neurons_elsewhere,
    input_scales,
    neurons_of,
    step_ratio,
)
from fxsnn.rewriting.padding import OF_A_SIZE, is_padding, padded, padding_of, reader_of
from fxsnn.rewriting.pipeline import Pipeline
from fxsnn.rewriting.poolings import weigh_pooling
from fxsnn.rewriting.reasons import NotRewritten
from fxsnn.rewriting.remedies import about_nothing_to_convert, about_unsupported
from fxsnn.rewriting.stages import Pass, Step, facts, require_example, require_not_spiking
from fxsnn.rewriting.substitution import outline, spiking_layers, substitute
from fxsnn.rewriting.sums import adds_up_activations, name_inside, put_sum, reads_activations, sum_of, terms_of
from fxsnn.rewriting.windows import (
    FixedWindow,
    counts_unevenly,
    fix_size,
    fixed_window,
    has_open_window,
    is_squeeze,
    join_means,
    maps_of,
    spread_places,
    squeezed_map,
)
from fxsnn.rewriting.wiring import put_concatenations, put_layer, put_movements

__all__ = [
    "NOTHING_TO_CONVERT",
    "OF_A_SIZE",
    "FixedWindow",
    "Neurons",
    "NotRewritten",
    "Pass",
    "Pipeline",
    "Step",
    "about_affine",
    "about_constant",
    "about_nothing_to_convert",
    "about_unsupported",
    "adds_up_activations",
    "affine_of",
    "bias_of",
    "branches_of",
    "can_give",
    "channel_units",
    "channels_of",
    "composed",
    "concatenated",
    "counts_unevenly",
    "decoded_values",
    "encoding",
    "facts",
    "find_activations",
    "find_nearly_rectifiers",
    "fix_size",
    "fixed_window",
    "has_neurons_elsewhere",
    "has_open_window",
    "input_scales",
    "is_in_front_of_activation",
    "is_nowhere_negative",
    "is_on_images",
    "is_padded",
    "is_padding",
    "is_squeeze",
    "join_means",
    "layer_in_front",
    "maps_of",
    "movement_of",
    "name_inside",
    "neurons_of",
    "outline",
    "padded",
    "padding_of",
    "pools_activations",
    "pools_alike",
    "pools_maxima_alike",
    "pools_signed",
    "put_activations",
    "put_concatenations",
    "put_layer",
    "put_movements",
    "put_sum",
    "reader_of",
    "reads_activations",
    "require_example",
    "require_not_spiking",
    "source_of_affine",
    "spiking_layers",
    "spread_places",
    "squeezed_map",
    "step_ratio",
    "substitute",
    "sum_of",
    "swap_calls",
    "terms_of",
    "way_forward",
    "weigh_pooling",
    "why_apart",
]
