"""What a spiking network is made of, and what cannot be that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fxsnn.chip import whole_number
from fxsnn.errors import Finding, ModelError, OptionError
from fxsnn.graph import Graph
from fxsnn.layers import Decode, ImageForm, Spiking, in_words
from fxsnn.options import shown

CODES_CHOSEN = "codes_chosen"
"""Under this name the provenance of a network, and before it the program of a graph, has the layers of which the codes
were chosen on data."""


def require_spikes(graph: Graph) -> None:
    """Refuse a graph that has no neurons yet, or whose spikes are not decoded at one place.

    Raises:
        ModelError: it has none, or they are not.
    """
    remedy = "Give the graph behind SubstituteSpikes: what the last pass of fxsnn.pipeline(...) makes"
    if not any(graph.spikes(node) for node in graph.nodes(Spiking)):
        raise ModelError([Finding("graph", "none of its layers spikes", remedy)])
    if (count := len(graph.nodes(Decode))) != 1:
        raise ModelError([Finding("graph", f"it decodes spikes at {count} places; one is allowed", remedy)])


def require_image_size(size: object, form: ImageForm) -> tuple[int, ...] | None:
    """The size of an image, or `None` where it is not known.

    Args:
        size: channels, height and width, or what else there is.
        form: what images of the network look like.

    Raises:
        OptionError: it is neither.
    """
    if size is None:
        return None
    sides = [whole_number(one) or 0 for one in size] if isinstance(size, tuple | list | torch.Size) else []
    if not form.takes(len(sides) + form.in_front) or min(sides) < 1:
        raise OptionError(f"image_size is {shown(size)}; allowed are {form.sizes}, or None")
    return tuple(sides)


def as_provenance(provenance: object) -> dict[str, Any]:
    """A copy of it, empty if there is none."""
    if not isinstance(provenance, Mapping | None):
        raise OptionError(f"provenance is {in_words(provenance)}; expected a mapping of plain data, or None")
    return {} if provenance is None else dict(provenance)
