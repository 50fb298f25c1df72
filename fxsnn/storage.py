"""Files: arrays and JSON in one safetensors file, written atomically, no pickle; and weights read safely."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.errors import FileError


def save_arrays(path: str | Path, arrays: Mapping[str, Tensor], document: Mapping[str, Any]) -> Path:
    """Write arrays, and a JSON document under "fxsnn" in the header's metadata.

    The file appears whole or not at all.

    Raises:
        FileError: the folder does not exist or cannot be written.
    """
    from safetensors.torch import save

    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()}, {"fxsnn": json.dumps(document)}
    )
    return write_whole(path, content)


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file that appears whole or not at all: it is written beside its place and moved there.

    Raises:
        FileError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def load_arrays(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays and document of a file that `save_arrays` wrote.

    Raises:
        FileError: the file is missing, damaged, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            document = json.loads((file.metadata() or {})["fxsnn"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise FileError(f"{path} cannot be read as a file of fxsnn: {error}") from error
    return arrays, document


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into `model`; only tensors are read from the file, nothing in it is executed.

    Args:
        model: the network as it was trained.
        path: a file that `torch.save(model.state_dict(), path)` wrote. A state dict under the key "state_dict", "model"
            or "net" is found too, and a prefix "module." is taken off.

    Raises:
        FileError: the file is missing, damaged, holds something else, or does not match; `model` is then unchanged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}: there is no such file of weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FileError(
            f"{path} cannot be read as a state dict ({type(error).__name__}); it is damaged, or was not written by "
            "torch.save(model.state_dict(), path)"
        ) from error
    weights = _state_dict(content)
    if weights is None:
        raise FileError(f"{path} holds a {type(content).__name__}, no state dict of tensors")
    _require_match(model, weights, path)
    model.load_state_dict(weights)


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    for key in ("state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        return None
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _require_match(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    problems = [f"  {name} is missing" for name in wanted if name not in weights]
    problems += [f"  {name} is not in the network" for name in weights if name not in wanted]
    problems += [
        f"  {name} has shape {list(weights[name].shape)}, the network wants {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise FileError(f"{path} does not match {type(model).__name__}:\n" + "\n".join(problems))
