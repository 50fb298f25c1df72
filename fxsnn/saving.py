"""Writes a spiking network to one file: what is written has been read again before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxsnn.chip import whole_number
from fxsnn.errors import FileError, FxsnnWarning, OptionError, warn
from fxsnn.file import DAMAGED, Golden, golden_arrays, rebuilt
from fxsnn.layers import ImageForm, check_images
from fxsnn.options import shown
from fxsnn.simulation import Run
from fxsnn.storage import save_arrays


def golden_images(
    golden: int | Tensor, form: ImageForm, sample: Tensor | None, image_size: tuple[int, ...] | None
) -> Tensor | None:
    """The images on which golden vectors are made; `None`: there are none.

    Args:
        golden: so many, or these; see `SpikingNetwork.save`.
        form: what images of the network look like.
        sample: calibration images, which are taken first.
        image_size: of noise, where there are no calibration images.

    Raises:
        OptionError: `golden` is neither a number nor images.
        DataError: these cannot be images for the network.
    """
    if isinstance(golden, Tensor):
        check_images(golden, form)
        return golden if len(golden) else None
    count = whole_number(golden)
    if count is None or count < 0:
        raise OptionError(f"golden is {shown(golden)}; allowed are a number of images, or images")
    if count == 0:
        return None
    if sample is not None:
        return form.lasting(sample[:count])
    if image_size is None:
        warn(
            "the file has no golden vectors: the network has not seen an image yet; pass golden=images",
            FxsnnWarning,
        )
        return None
    return torch.randn(count, *form.with_time(image_size), generator=torch.Generator().manual_seed(0))


def save_network(
    path: str | Path,
    document: dict[str, Any],
    arrays: dict[str, Tensor],
    images: Tensor | None,
    simulate: Callable[[Tensor], Run],
) -> Path:
    """Write what describes a network, with golden vectors.

    Args:
        path: the file.
        document: of the file, without golden vectors, which are put in.
        arrays: of the file.
        images: on which golden vectors are made; `None`: there are none.
        simulate: runs the network.

    Raises:
        FileError: the file could not be read again, or cannot be written.
    """
    arrays = {name: tensor.detach().cpu() for name, tensor in arrays.items()}
    try:
        found = rebuilt(document, arrays)
        if images is not None:
            document["golden"] = {"images": len(images)}
            arrays |= {name: tensor.detach().cpu() for name, tensor in golden_arrays(simulate, images).items()}
            timesteps = document["dynamics"]["timesteps"]
            Golden.of(arrays, len(images), timesteps, found.golden_size, found.sizes, found.logits)
    except FileError as error:
        raise FileError(f"the network cannot be written: {str(error).removeprefix(DAMAGED).strip()}") from error
    return save_arrays(path, arrays, document)
