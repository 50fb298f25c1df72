"""What users give as data: tensors, loaders, data sets; each judged and cut into batches in one place.

Open `batches.py` first. It imports layers (what images are) and the ground.
"""

from fxsnn.data.batches import (
    accepted,
    batches_of,
    check_labels,
    chosen_apart,
    drawn_alike,
    gone_through,
    held_out,
    image_batches,
    images_and_labels,
    labelled_batches,
    length_of,
    reproducible,
    require_classes,
    require_labels,
    require_share,
)
from fxsnn.data.digits import DigitNet

__all__ = [
    "DigitNet",
    "accepted",
    "batches_of",
    "check_labels",
    "chosen_apart",
    "drawn_alike",
    "gone_through",
    "held_out",
    "image_batches",
    "images_and_labels",
    "labelled_batches",
    "length_of",
    "reproducible",
    "require_classes",
    "require_labels",
    "require_share",
]
