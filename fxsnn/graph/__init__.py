"""The program that passes rewrite: the graph, how a model is traced into it, names and sizes that it can have.

Open `graph.py` first. It imports data, layers, chip, display and the ground.
"""

from fxsnn.graph.agreement import require_agreement
from fxsnn.graph.body import in_front_of_layers, made_of_activations, meant_to_spike
from fxsnn.graph.casts import fake_quantized
from fxsnn.graph.copying import copied
from fxsnn.graph.fitting import fit
from fxsnn.graph.graph import Graph, largest_difference, require_graph
from fxsnn.graph.in_place import write_nothing, writes, writes_through_forms
from fxsnn.graph.interpreter import Interpreter
from fxsnn.graph.kinds import (
    Activation,
    Leaky,
    Norm,
    Pooling,
    Transposed,
    Weighted,
    is_torchvision_normalize,
    looks_like_activation,
    place_of,
    pools_maxima,
    view_sizes,
    what_is_called,
)
from fxsnn.graph.map_sizes import value_sizes
from fxsnn.graph.names import about_file_name, spare_self
from fxsnn.graph.overview import layer_rows
from fxsnn.graph.preparation import normalised_images
from fxsnn.graph.shapes import keeps_shape
from fxsnn.graph.tracing import Tracer, capture, capture_sharing, capture_untried

__all__ = [
    "Activation",
    "Graph",
    "Interpreter",
    "Leaky",
    "Norm",
    "Pooling",
    "Tracer",
    "Transposed",
    "Weighted",
    "about_file_name",
    "capture",
    "capture_sharing",
    "capture_untried",
    "copied",
    "fake_quantized",
    "fit",
    "in_front_of_layers",
    "is_torchvision_normalize",
    "keeps_shape",
    "largest_difference",
    "layer_rows",
    "looks_like_activation",
    "made_of_activations",
    "meant_to_spike",
    "normalised_images",
    "place_of",
    "pools_maxima",
    "require_agreement",
    "require_graph",
    "spare_self",
    "value_sizes",
    "view_sizes",
    "what_is_called",
    "write_nothing",
    "writes",
    "writes_through_forms",
]
