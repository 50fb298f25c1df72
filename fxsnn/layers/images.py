"""The input: what images must be, and how they are rounded to what the chip reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fxsnn.ambient import is_recorded, is_traced
from fxsnn.errors import DataError
from fxsnn.layers.affine import Affine
from fxsnn.layers.dimensions import ImageForm
from fxsnn.layers.plain_numbers import PlainNumbers
from fxsnn.numerics import Dynamics

_WIDE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of images; PyTorch can do next to nothing with narrower ones."""


def in_words(value: object) -> str:
    """What a value is, for messages; of a tensor type and shape, or what keeps it from being read."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a tensor of layout {str(value.layout).removeprefix('torch.')}"
    if value.is_meta:
        return "a tensor on the meta device, which holds no values"
    if not _is_dispatched_plainly(value):
        return f"a {type(value).__name__}"
    return f"{value.dtype} {list(value.shape)}"


def is_readable(value: object) -> bool:
    """Whether it is a tensor of one dense block of values."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_meta:
        return False
    return value.layout == torch.strided and _is_dispatched_plainly(value)


def _is_dispatched_plainly(value: Tensor) -> bool:
    """Whether operators see its values; those of fake, masked and distributed tensors are their class's business."""
    return type(value).__torch_dispatch__ is Tensor.__torch_dispatch__


def require_images(images: object, form: ImageForm) -> None:
    """Refuse what cannot be images for the network, without a look at their values.

    Args:
        images: what the user gave.
        form: what they must look like.

    Raises:
        DataError: no dense tensor, wrong rank, wrong number of channels, no pixels, or no floating type of 16 bits or
            more.
    """
    expected = f"{form} of a floating type"
    if not isinstance(images, Tensor) or not (is_recorded() or is_readable(images)):
        raise DataError(f"images are {in_words(images)}; expected a dense tensor {expected}")
    shape = [int(side) for side in images.shape] if is_traced() else list(images.shape)
    if not form.takes(images.dim()):
        moving = form.frames is None and form.takes(images.dim() - 1)
        hint = "; of images that change over time, fxsnn.convert(..., input='frames')" if moving else ""
        raise DataError(f"images have shape {shape}; expected {expected}{hint}")
    if form.frames and shape[1] != form.frames:
        raise DataError(
            f"images have shape {shape}, that is {shape[1]} frames; expected {expected}, a frame for each timestep. "
            f"Give so many, or set timesteps to {shape[1]}"
        )
    size = shape[form.in_front :]
    if form.channels is not None and size[0] != form.channels:
        raise DataError(f"images have shape {shape}, that is {size[0]} {form.unit}; expected {expected}")
    if form.size is not None and tuple(size) != form.size:
        raise DataError(f"images have shape {shape}; expected {expected}: what the network does follows from that size")
    if 0 in shape[1:]:
        raise DataError(f"images have shape {shape}, which is no pixels at all; expected {expected}")
    if images.dtype not in _WIDE:
        wider = " of 16 bits or more" if images.is_floating_point() else ""
        raise DataError(
            f"images are {images.dtype}; expected {expected}{wider}, normalised as the network was trained on them"
        )


def check_images(images: object, form: ImageForm) -> None:
    """Refuse what cannot be images for the network.

    Args:
        images: what the user gave.
        form: what they must look like.

    Raises:
        DataError: as `require_images`; or not-a-number in it.
    """
    if is_traced():
        with warnings.catch_warnings():
            # It speaks of sizes that are looked at. PyTorch does not list the class.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            require_images(images, form)
    else:
        require_images(images, form)
    assert isinstance(images, Tensor)
    if not is_recorded() and bool(images.isnan().any()):
        raise DataError("images contain NaN")


def quantize_input(images: Tensor, unit: float, bits: int, affine: Affine | None = None) -> Tensor:
    """`round(images / unit)` clipped to signed `bits`, computed in double precision, as float64.

    With `affine`, of `images * scale + shift` instead of the images.
    """
    top = 1 << (bits - 1)
    return (_normalised(images, affine) / unit).round().clamp(-top, top - 1)


def _normalised(images: Tensor, affine: Affine | None) -> Tensor:
    """What is rounded, in float64."""
    return images.double() if affine is None else affine.exact(images)


FAR_BEYOND = 2.0
"""Numbers count as clipped, for warnings, where they are more than so many times the range."""

CLIPPED_SHARE = 0.01
"""Outliers and noise of augmentation are clipped, too; more than this share of images must not be."""

_TINY_PART = 1 / 64


def unlike_calibration(images: Tensor, unit: float, bits: int, affine: Affine | None = None) -> str | None:
    """What says that images have another range than those of calibration, such as 0..255 instead of 0..1.

    Ordinary data clip a little: outliers, noise of augmentation. So images count as too large where more than 1 % of
    their numbers, and more than one an image, are beyond twice the range, and as too small where all of them lie in
    1/64 of it. Images of zeros only tell nothing.

    Args:
        images: [N, C, H, W], of any values.
        unit: the input step.
        bits: width of the signed input.
        affine: what the network does to them before they are rounded.

    Returns:
        A sentence with both ranges; `None` where there is nothing to say.
    """
    if images.numel() == 0:
        return None
    largest = unit * ((1 << (bits - 1)) - 1)
    low, high = (float(end) for end in images.detach().aminmax())
    rounded = images.detach() if affine is None else affine.exact(images.detach())
    magnitude = float(rounded.abs().max())
    if 0 < magnitude < largest * _TINY_PART:
        trouble = f"next to nothing is left of them on an input of {bits} bits"
    elif magnitude > FAR_BEYOND * largest:
        share = float((rounded.abs() > FAR_BEYOND * largest).double().mean())
        if share <= max(CLIPPED_SHARE, len(images) / images.numel()):
            return None
        trouble = f"{share:.0%} of their numbers are more than {FAR_BEYOND:g} times as large and are clipped"
    else:
        return None
    least, most = _images_within(largest, affine)
    return (
        f"images range from {low:.4g} to {high:.4g}, but the network was calibrated for {least:.4g} to "
        f"{most:.4g}: {trouble}. Prepare images as those of calibration_data were, or convert with "
        "calibration_data that are like these"
    )


def _images_within(largest: float, affine: Affine | None) -> tuple[float, float]:
    """The lowest and the highest number of images that stays within -largest..largest, in any channel."""
    if affine is None:
        return -largest, largest
    scale, shift = (part[affine.scale != 0] for part in (affine.scale, affine.shift))
    ends = torch.stack([(end - shift) / scale for end in (-largest, largest)])
    return (float(ends.min()), float(ends.max())) if ends.numel() else (0.0, 0.0)


class QuantizedInput(nn.Module):
    """Images rounded to the chip's input grid; still in activation units.

    Args:
        unit: the input step.
        bits: width of the signed input.
        affine: what is done to them before they are rounded.
        frames: images change over time; it gives the mean of their rounded frames.
    """

    def __init__(self, unit: float, bits: int, affine: Affine | None = None, *, frames: bool = False) -> None:
        super().__init__()
        self.unit = unit
        self.bits = bits
        self.affine = affine
        self.frames = frames

    def forward(self, images: Tensor) -> Tensor:
        """Same shape and type as `images`, [N, ...]; of frames [N, T, ...] the mean, [N, ...]."""
        stills = images.flatten(0, 1) if self.frames else images
        rounded = quantize_input(stills, self.unit, self.bits, self.affine) * self.unit
        if self.frames:
            rounded = rounded.unflatten(0, tuple(images.shape[:2])).mean(1)
        return rounded.to(images.dtype)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        mean = ", the mean of frames" if self.frames else ""
        return f"unit={self.unit:.6g}, bits={self.bits}{_told(self.affine)}{mean}"


def _told(affine: Affine | None) -> str:
    return "" if affine is None else f", of images * scale + shift ({affine.extra_repr()})"


class Encode(PlainNumbers):
    """Images to the integer input of the first layer: a constant current at every step, or that of a frame at each.

    Args:
        unit: the input step; 1 for the analog input.
        bits: width of the signed input, or `None` for the analog input.
        form: what images must look like.
        affine: what is done to them before they are rounded, or instead of that for the analog input.
    """

    def __init__(self, unit: float, bits: int | None, form: ImageForm, affine: Affine | None = None) -> None:
        super().__init__()
        self.unit = unit
        self.bits = bits
        self.form = form
        self.affine = affine

    def numbers(self) -> Mapping[str, type[int] | type[float]]:
        """The grid of the input."""
        return {"unit": float, "bits": int}

    @property
    def magnitude(self) -> int | None:
        """The largest magnitude of the integer input; `None` for the analog one."""
        return None if self.bits is None else 1 << (self.bits - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Integers in float32, of signals as maps of one row; for the analog input the images' own numbers, or what
        `affine` makes of them, in float64. Of images [N, ...] the same, of frames [N, T, ...] all of a step together,
        [T * N, ...].

        Raises:
            DataError: these cannot be images for the network.
        """
        check_images(images, self.form)
        return self.form.of_layers(self._numbers(self.form.stills(images)))

    def run_with(self, dynamics: Dynamics) -> None:
        """Expect as many frames as there are steps."""
        if self.form.frames is not None:
            self.form = replace(self.form, frames=dynamics.timesteps)

    def _numbers(self, images: Tensor) -> Tensor:
        if self.bits is not None:
            return quantize_input(images, self.unit, self.bits, self.affine).float()
        return images if self.affine is None else self.affine.exact(images)

    def extra_repr(self) -> str:
        """Shown in dumps."""
        grid = "analog" if self.bits is None else f"unit={self.unit:.6g}, bits={self.bits}"
        grid += _told(self.affine)
        return f"{grid}, {self.form}" if self.form.rank in (2, 3) or self.form.frames is not None else grid
