"""Whether a network can be converted for a chip, before anything is converted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

from torch import Tensor, nn

from fxsnn.ambient import neutral
from fxsnn.chip import Bits, FitReport, HardwareTarget, get_target
from fxsnn.errors import DataError, ModelError
from fxsnn.file import unwritable
from fxsnn.graph import Graph, capture_sharing, require_agreement
from fxsnn.layers import ImageForm, require_images
from fxsnn.network import name_clashes
from fxsnn.passes import CheckConvRelu, CheckLimits, front_end
from fxsnn.rewriting import Pass, outline


@neutral()
def check(
    model: nn.Module,
    *,
    target: str | HardwareTarget,
    bits: Bits,
    example: Tensor | None = None,
    max_pool: str | None = None,
) -> FitReport:
    """Whether a network, trained or not, can be converted for a chip; the model is not changed.

    A copy of it is run once, on three images, to see whether the graph that was captured computes the same.

    Args:
        model: an ordinary network.
        target: name of a target, or a `HardwareTarget`.
        bits: weight bits, see `convert`.
        example: images, where the size matters for what the network does. `None`: usual sizes are tried.
        max_pool: see `convert`.

    Returns:
        A report with `.ok`, `.layers`, `.violations` (limits of the chip) and `.findings` (all else), everything at
        once, and `.unwritable`, what would keep the converted network from being saved. Print it.

    Raises:
        OptionError: unknown target, or bits that it does not know.
        DataError: `example` are no images for the network.
    """
    chip = get_target(target)
    bits = chip.require_choice(bits)
    if example is not None:
        require_images(example, ImageForm())
    first = front_end(chip, max_pool)
    try:
        graph = capture_sharing(model, None if example is None else tuple(example.shape[1:]))
        return fit_of(graph, chip, bits, example, first, model)
    except ModelError as error:
        return FitReport(chip.name, bits, (), (), error.findings)


def fit_of(
    graph: Graph,
    chip: HardwareTarget,
    bits: Bits,
    given: Tensor | None,
    first: Sequence[Pass],
    model: nn.Module | None = None,
) -> FitReport:
    """The report on a captured graph, which is rewritten; see `check`.

    Args:
        graph: of the network.
        chip: the target.
        bits: of weights.
        given: images whose size matters.
        first: the front end.
        model: the network that the graph is held against.

    Raises:
        ModelError: the graph cannot be rewritten, or does not compute what the network computes.
        DataError: the network cannot be run on the images that are given.
    """
    captured = graph.copy()  # what stands for max pooling need not compute the same
    rewrite_in_front(graph, first)
    graph.check()
    found = (graph.example_input(whole=whole) for whole in (True, False))
    example = given if given is not None else next((images for images in found if images is not None), None)
    if model is not None and example is not None:
        with nullcontext() if example is given else suppress(DataError):  # the size was tried on the graph alone
            require_agreement(model, captured, example)
    report = CheckLimits(chip, bits).report(graph)
    if findings := CheckConvRelu().findings(graph):
        return replace(report, findings=(*findings, *name_clashes(graph)))
    if given is not None:
        require_images(given, graph.image_form)
    spiking = outline(graph)
    size = None if example is None else tuple(example.shape[1:])
    return replace(report, findings=tuple(name_clashes(spiking)), unwritable=tuple(unwritable(spiking, chip, size)))


def rewrite_in_front(graph: Graph, first: Sequence[Pass]) -> Graph:
    """Run the front end on a graph, in place: steps would keep copies of all weights."""
    for one in first:
        one.rewrite(graph)
        graph.tidy()
    return graph
