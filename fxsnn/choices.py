"""What the options of a conversion stand for: inputs, poolings and corrections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from torch import Tensor

from fxsnn.chip import AUTOMATIC
from fxsnn.data import FirstImages, can_be_looked_into, example_of
from fxsnn.errors import OptionError
from fxsnn.layers import ImageForm
from fxsnn.options import is_one_of, shown
from fxsnn.passes import CorrectLayers, Finetune
from fxsnn.training import PARTS

_CORRECTED_ON = 256
"""So many images correct the layers of a network that is not trained: means of channels need no more."""

_STARTED_ON = 1_000
"""So many images correct the layers from which fine-tuning starts."""

CORRECTIONS: Mapping[str, tuple[str, ...]] = {
    **{"+".join(parts): parts for count in (1, 2) for parts in combinations(PARTS, count)},
    "both": ("biases", "thresholds"),
    "all": PARTS,
}
"""Names of corrections, and what each corrects."""
_BEST = "weights+biases"
"""The correction that is made where none is asked for."""

INPUTS = ("constant", "frames")
"""What a network gets at each timestep: the same image, or a frame."""

AVERAGE_POOLS = (AUTOMATIC, "plain")
"""What average poolings between layers become: layers with weights where that helps and can be, or none."""


def form_of(given: object) -> ImageForm:
    """What is known of images before there is a network."""
    if not is_one_of(given, INPUTS):
        raise OptionError(f"input is {shown(given)}; allowed are {', '.join(map(repr, INPUTS))}")
    return ImageForm(frames=None if given == INPUTS[0] else 0)


def keeps_poolings(given: object) -> bool:
    """Whether average poolings are not to become layers with weights."""
    if not is_one_of(given, AVERAGE_POOLS):
        raise OptionError(f"average_pool is {shown(given)}; allowed are {', '.join(map(repr, AVERAGE_POOLS))}")
    return given == "plain"


def frames_in(
    timesteps: int | None, seen: Tensor | None, calibration_data: Any, finetune: Any, form: ImageForm
) -> int | None:
    """T of a network that reads frames: what was asked for, or as many as there are; `None`: nothing says it.

    Raises:
        OptionError: it was asked for, and there are more or fewer frames; or it was not, and data are not looked into.
    """
    tuned_on = finetune.data if isinstance(finetune, Finetune) else None
    seen = example_of(tuned_on, form) if seen is None and calibration_data is None else seen
    data = tuned_on if calibration_data is None else calibration_data
    if timesteps is None and data is not None and not can_be_looked_into(data):
        raise OptionError(
            "timesteps is None, and data that may be read only once are not looked into before they are used; set "
            "timesteps to the number of frames that images have"
        )
    if seen is None or timesteps in (None, seen.shape[1]):
        return timesteps if seen is None else seen.shape[1]
    what = "fine-tuning" if calibration_data is None else "calibration"
    raise OptionError(
        f"timesteps is {shown(timesteps)}, but images of the {what} data have {seen.shape[1]} frames; a frame is one "
        "step: leave timesteps out, or give as many frames"
    )


def corrected_parts(
    correction: Any, calibration_data: Any, finetune: Finetune | None, form: ImageForm
) -> tuple[tuple[str, ...], Any]:
    """What is corrected without training, of `fxsnn.training.PARTS`, and on which images; nothing, and none.

    Raises:
        OptionError: there is no such correction, or the data do not serve it.
    """
    if is_one_of(correction, (AUTOMATIC,)):
        images = _to_correct_on(calibration_data, finetune, form)
        return (() if images is None else CORRECTIONS[_BEST]), images
    if correction is None:
        return (), None
    _require_correction(correction, calibration_data)
    return CORRECTIONS[correction], calibration_data


def _require_correction(correction: object, data: Any) -> None:
    """Refuse a correction that there is not, or data that do not serve it."""
    if not is_one_of(correction, CORRECTIONS):
        allowed = ", ".join(map(repr, CORRECTIONS))
        raise OptionError(f"correction is {shown(correction)}; allowed are {allowed}, 'auto', or None")
    if data is None:
        raise OptionError(f"correction={correction!r} needs images: pass calibration_data")
    if isinstance(data, Iterator):
        raise OptionError(
            f"correction={correction!r} goes through the calibration data several times, but a "
            f"{type(data).__name__} can be read once only: pass a list of its batches, or a DataLoader"
        )


def _to_correct_on(calibration_data: Any, finetune: Finetune | None, form: ImageForm) -> FirstImages | None:
    """Images on which layers are corrected, of data that can be gone through again; `None`: none."""
    trained_on = None if finetune is None else finetune.data
    for data, what in ((calibration_data, "calibration data"), (trained_on, "fine-tuning data")):
        if data is not None and not isinstance(data, Iterator):
            return FirstImages(data, what, _CORRECTED_ON if finetune is None else _STARTED_ON, form)
    return None


def named(correction: CorrectLayers) -> str:
    """What the option says for it."""
    return [name for name, parts in CORRECTIONS.items() if parts == correction.parts()][-1]
