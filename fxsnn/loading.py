"""Network files: read them, and run their golden vectors again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxsnn.ambient import neutral
from fxsnn.chip import HardwareTarget, get_target
from fxsnn.device import choose_device
from fxsnn.errors import FileError, FxsnnError, UnknownName
from fxsnn.file import Golden, Rebuilt, Verification, compared, completed, difference, rebuilt, require_none
from fxsnn.network import SpikingNetwork, name_clashes
from fxsnn.storage import load_arrays


@neutral()
def load(path: str | Path, *, target: str | HardwareTarget | None = None, engine: str = "auto") -> SpikingNetwork:
    """The spiking network that `SpikingNetwork.save` wrote, with the very spikes that it had.

    Nothing in the file is executed. Its checksum, structure, shapes, ranges and the registers and limits of its target
    are verified; `fxsnn.verify` runs its golden vectors too.

    Args:
        path: the file.
        target: hold it against this target instead of the one in the file.
        engine: what runs the network, see `convert`.

    Raises:
        FileError: the file is missing, damaged, from a newer fxsnn, or breaks a limit of its target; everything that
            is wrong with it.
        OptionError: there is no such engine or target.
    """
    network, _ = _loaded(path, target, engine)
    return network


@neutral()
def verify(path: str | Path, *, engine: str = "auto", device: str | torch.device | None = "cpu") -> Verification:
    """Load a file and run its golden vectors: is every spike of every layer what it was where the file was written?

    Args:
        path: the file.
        engine: what runs the network, see `convert`.
        device: where; `None`: the least-loaded GPU, or the CPU.

    Raises:
        FileError: as `load`; or the file has no golden vectors.
        OptionError: there is no such engine or device, or it cannot run the network.
    """
    place = choose_device(None if device is None else str(device))
    network, golden = _loaded(path, None, engine)
    if golden is None:
        raise FileError(f"{path} has no golden vectors: it was saved with golden=0, or before it saw an image")
    network.to(place)
    return compared(str(path), golden, lambda images: network.simulate(images.to(place)))


def _loaded(path: str | Path, target: str | HardwareTarget | None, engine: str) -> tuple[SpikingNetwork, Golden | None]:
    arrays, document = load_arrays(path)
    if target is not None:
        chip = get_target(target)
    try:
        found = rebuilt(document, arrays, None if target is None else chip)
        golden = _golden(document, arrays, found)
        kept = _known_here(found.target)
        if clashes := name_clashes(found.graph):
            raise FileError("; ".join(map(str, clashes)))
    except FileError as error:
        raise FileError(f"{path}: {error}") from error.__cause__
    except FxsnnError as error:
        raise FileError(f"{path} is damaged or was not written by fxsnn: {error}") from error
    sample = None if golden is None else golden.images
    provenance: dict[str, Any] = document["provenance"]
    return SpikingNetwork(found.graph, kept, engine, sample, found.image_size, provenance), golden


def _golden(document: dict[str, Any], arrays: dict[str, Tensor], found: Rebuilt) -> Golden | None:
    if document["golden"] is None:
        require_none(arrays)
        return None
    timesteps = document["dynamics"]["timesteps"]
    count = document["golden"]["images"]
    return Golden.of(arrays, count, timesteps, found.golden_size, found.sizes, found.logits)


def _known_here(target: HardwareTarget) -> HardwareTarget:
    """The target; one that is known here by the file's name must be the same one, and says what the file leaves out."""
    try:
        known = get_target(target.name)
    except UnknownName:
        return target
    if different := difference(target, known):
        raise FileError(
            f"it was made for a target {target.name!r} with other {', '.join(different)} than the one here has; "
            "load it for the one here with target=, or rename one of the two"
        )
    return completed(target)
