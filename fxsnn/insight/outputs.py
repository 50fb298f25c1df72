"""The outputs of whole networks, held against those of the ANN: a row of the error budget each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxsnn.data import Reading, gives_probabilities, reading_of, reading_without_labels
from fxsnn.errors import DataError
from fxsnn.graph import Graph
from fxsnn.layers import in_words


@dataclass(frozen=True)
class Stage:
    """The whole network with all effects up to one.

    Attributes:
        name: "ann", or the last effect that is on.
        distance: of its outputs from those of the ANN, relative, in root mean square.
        agreement: percentage of the images on which it says the class that the ANN says; `None` where outputs say none.
        accuracy: percentage of the images that it classifies right; `None` without labels, and of values.
    """

    name: str
    distance: float
    agreement: float | None
    accuracy: float | None


def outputs_reading(
    ann: Graph, images: Tensor, outputs: object, labels: Tensor | None, known: Reading | None
) -> Reading | None:
    """How outputs are read; `None`: there are several, and only distances say something about them."""
    probabilities = partial(gives_probabilities, ann, images)
    if not isinstance(outputs, Tensor):
        if labels is None:
            return None
        found = in_words(outputs)
        raise DataError(f"the network gives {found}, several outputs, which have no accuracy: give the images alone")
    if labels is not None:
        return reading_of(outputs, labels, probabilities, known)
    return known or reading_without_labels(outputs, probabilities)


class Outputs:
    """Sums over all images, of one stage."""

    def __init__(self) -> None:
        self.reference = self.difference = 0.0
        self.same = self.right = self.count = 0
        self.labelled = self.classified = False

    def add(self, outputs: Any, reference: Any, labels: Tensor | None, reading: Reading | None) -> None:
        """What one batch adds."""
        for said, of_ann in zip(tree_leaves(outputs), tree_leaves(reference), strict=True):
            self.reference += float(of_ann.square().sum())
            self.difference += float((said.double() - of_ann).square().sum())
        if reading is None or not reading.has_classes:
            return
        self.classified = True
        self.same += int((reading.said(outputs) == reading.said(reference)).sum())
        self.count += len(outputs)
        if labels is not None:
            self.labelled = True
            self.right += reading.right(outputs, labels)

    def join(self, other: Outputs) -> None:
        """Add what another one has of other images."""
        for name in ("reference", "difference", "same", "right", "count"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.labelled, self.classified = self.labelled or other.labelled, self.classified or other.classified

    def stage(self, name: str) -> Stage:
        """The result."""
        distance = (self.difference / self.reference) ** 0.5 if self.reference else 0.0
        accuracy = 100 * self.right / self.count if self.labelled else None
        return Stage(name, distance, 100 * self.same / self.count if self.classified else None, accuracy)
