"""CorrectLayers: codes, biases and thresholds that suit n-bit weights and the spikes that layers really read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from fxsnn.chip import HardwareTarget, require_target
from fxsnn.data import drawn_alike, image_batches, own_parts
from fxsnn.display import progress_bar
from fxsnn.errors import OptionError, PipelineError
from fxsnn.graph import Graph
from fxsnn.network_arguments import CODES_CHOSEN
from fxsnn.numerics import Dynamics
from fxsnn.options import require_flag
from fxsnn.processes import sharing_errors
from fxsnn.rewriting import Pass, facts
from fxsnn.training import PARTS, Correction, Student, float_form

_CHUNK = 64

_log = logging.getLogger(__name__)


class CorrectLayers(Pass):
    """Correct one layer after the other, in order, without training.

    Each layer is seen with its n-bit weights and with the rates of spikes that the corrected layers before it really
    have on the data. A sum of several inputs is one layer: what its bias lacks is added once, to all of them together.

    * Its codes are chosen so that its sums, on the rates that it really reads, come near those of the float network on
      what that reads, see `fxsnn.numerics.reconstructed`. They are kept if that helps: if what the layer gives, as
      rates of T steps under a steady drive, comes nearer to the float network's activations than with each weight
      rounded by itself, on a quarter of the images, on which no codes were chosen.
    * Its bias is moved so that each channel has the mean activation it has in the float network, both clipped at the
      threshold (bias correction: Nagel et al. 2019, section 4.2, there of the mean in front of the activation; of what
      comes behind it: Li et al. 2021, section 4.2). Equal means in front are not enough: low bits make drives narrower,
      so that fewer and fewer of them get above zero, and deep networks fall silent. When all else of a layer is done,
      its spikes are made, and the bias moves once more by what their mean is off: spikes that come in bursts, resets
      that throw away and membranes that start elsewhere make others than a steady drive. A channel that this brings no
      nearer stays.
    * Then its threshold becomes that of least squared error, for the rates of T steps under a steady drive. Where the
      network's own activation ends, the threshold is no higher; where that has levels, it stays.

    Args:
        data: images, an iterable of batches, or a `DataLoader` of (images, labels). Time grows with the number of
            layers as long as the spikes of one layer on all of them take no more than 1 GiB, a bit each (1,000 images,
            16 steps: maps of 500,000 neurons), and, to choose codes, the float network's values no more than another
            one (32 bits each); images beyond that are run from the first layer on for every layer.
        target: gives the widths of the registers.
        weights: choose codes, but for layers with more than 8,192 inputs. Meanwhile the images are held in memory.
        biases: correct biases; a layer without one gets one.
        thresholds: correct thresholds.
        timesteps: T.
        reset: "subtraction" or "zero".
        initial_membrane: where membranes start, as a share of the threshold.
        progress: show a progress bar.
    """

    data: Any
    target: HardwareTarget
    weights: bool = True
    biases: bool = True
    thresholds: bool = True
    timesteps: int = 16
    reset: str = "subtraction"
    initial_membrane: float = 0.5
    progress: bool = False

    needs = facts("thresholds", "low-bit-weights")
    gives = facts("corrected")

    def __post_init__(self) -> None:
        self._dynamics()
        require_target(self.target)
        for name in (*PARTS, "progress"):
            object.__setattr__(self, name, require_flag(name, getattr(self, name)))
        if not self.parts():
            raise OptionError("weights, biases and thresholds are all False; leave the correction out instead")

    def _dynamics(self) -> Dynamics:
        return Dynamics(self.timesteps, self.reset, self.initial_membrane)

    def parts(self) -> tuple[str, ...]:
        """What it corrects, of "weights", "biases" and "thresholds"."""
        return tuple(part for part in PARTS if getattr(self, part))

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        if self.data is None:
            raise PipelineError("correct-layers needs data: images on which layers are seen")
        teacher = float_form(graph)  # before the graph becomes a student's
        student = Student(graph, self.target, self._dynamics())
        images: Callable[[], Iterator[Tensor]] = partial(self._images, graph)
        if self.weights:  # two networks are compared on them, step by step: data that draw would give each its own
            with sharing_errors():
                kept = list(images())
            images = partial(iter, kept)
        correction = Correction(student, teacher, images, self.parts())
        for node in progress_bar(student.layers(), "correcting", show=self.progress):
            correction.correct(node)
        student.finish()
        if self.weights:
            graph.module.meta[CODES_CHOSEN] = correction.chosen
            _log.info("codes were chosen on the data in: %s", ", ".join(correction.chosen) or "no layer")

    def _images(self, graph: Graph) -> Iterator[Tensor]:
        """This process's share of the data in small batches; every layer, and the float network, sees the same ones."""
        return own_parts(self._chunks(graph), self.data)

    def _chunks(self, graph: Graph) -> Iterator[Tensor]:
        for batch in drawn_alike(image_batches(self.data, graph.image_form), self.data):
            yield from batch.to(graph.device, graph.dtype).split(_CHUNK)
