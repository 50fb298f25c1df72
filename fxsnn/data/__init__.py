"""What users give as data: tensors, loaders, data sets; each judged and cut into batches in one place.

Open `batches.py` first; `reading.py` says what outputs and labels mean together. It imports layers (what images are)
and the ground.
"""

from fxsnn.data.batches import (
    accepted,
    batches_of,
    chosen_apart,
    drawn_alike,
    gone_through,
    held_out,
    image_batches,
    images_and_labels,
    in_order,
    labelled_batches,
    length_of,
    may_be_images,
    reproducible,
    require_labels,
    require_share,
)
from fxsnn.data.digits import DigitNet
from fxsnn.data.first_images import FirstImages, Remembered, can_be_looked_into, example_of, sample_of
from fxsnn.data.reading import (
    Reading,
    gives_probabilities,
    reading_of,
    reading_without_labels,
    require_accuracy,
    require_outputs,
)
from fxsnn.data.shares import divider_of, draw_alike, own_batches, own_image_batches, own_part_of, own_parts

__all__ = [
    "DigitNet",
    "FirstImages",
    "Reading",
    "Remembered",
    "accepted",
    "batches_of",
    "can_be_looked_into",
    "chosen_apart",
    "divider_of",
    "draw_alike",
    "drawn_alike",
    "example_of",
    "gives_probabilities",
    "gone_through",
    "held_out",
    "image_batches",
    "images_and_labels",
    "in_order",
    "labelled_batches",
    "length_of",
    "may_be_images",
    "own_batches",
    "own_image_batches",
    "own_part_of",
    "own_parts",
    "reading_of",
    "reading_without_labels",
    "reproducible",
    "require_accuracy",
    "require_labels",
    "require_outputs",
    "require_share",
    "sample_of",
]
