"""Weights of trained networks, read safely from what PyTorch and those who use it write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.errors import FileError
from fxsnn.storage import as_path


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into `model`; only tensors are read from the file, nothing in it is executed.

    Args:
        model: the network as it was trained.
        path: a file that `torch.save(model.state_dict(), path)` wrote. A state dict is found, too, under the keys
            "state_dict", "model_state_dict", "model" or "net", also one in another. Where names are not those of the
            network, "module." (DataParallel) and "_orig_mod." (torch.compile) come off wherever they stand, and a
            prefix of all names such as "model." (Lightning). A `.safetensors` file is read as such.

    Raises:
        FileError: the file is missing, damaged, holds something else, or does not match; `model` is then unchanged.
    """
    path = as_path(path)
    try:
        if not path.is_file():
            raise FileError(f"{path}: there is no such file of weights")
    except OSError as error:  # its name is too long
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        classes = _unsafe_classes(path)
        if kind := _pickled_model(classes):
            raise _whole_model(path, kind) from error
        if classes:
            raise _other_objects(path, classes) from error
        raise FileError(
            f"{path} cannot be read as a state dict ({type(error).__name__}); it is damaged, or was not written by "
            "torch.save(model.state_dict(), path)"
        ) from error
    if isinstance(content, nn.Module):  # its class was allowed by torch.serialization.add_safe_globals
        raise _whole_model(path, type(content).__name__)
    weights = _state_dict(content)
    if weights is None:
        raise FileError(f"{path} holds a {type(content).__name__}, no state dict of tensors")
    model.load_state_dict(_matched(model, weights, path))


def _whole_model(path: Path, kind: str) -> FileError:
    return FileError(
        f"{path} holds a whole pickled model ({kind}); to read it would run code that is in the file. Where you trust "
        "the file and have its code, write the weights only (and take the model out of the dict first, if it is in "
        "one):\n"
        f"  model = torch.load({str(path)!r}, weights_only=False)\n"
        f"  torch.save(model.state_dict(), {_beside(path)!r})"
    )


def _other_objects(path: Path, classes: Sequence[str]) -> FileError:
    return FileError(
        f"{path} cannot be read as a state dict: it holds other objects than tensors ({', '.join(classes[:_SHOWN])}); "
        "to read them would run code that is in the file. Where you trust the file, write the weights only:\n"
        f"  checkpoint = torch.load({str(path)!r}, weights_only=False)\n"
        f"  torch.save(checkpoint['state_dict'], {_beside(path)!r})"
    )


def _beside(path: Path) -> str:
    """A name for the weights that are taken out of a file: nothing of the user's is to be overwritten."""
    return str(path.with_name(f"{path.stem}_weights.pt"))


def _unsafe_classes(path: Path) -> list[str]:
    """What reading the file would import; nothing in it is executed. Empty: nothing, or PyTorch cannot tell."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # PyTorch raises what it likes
        return []


def _pickled_model(classes: Sequence[str]) -> str | None:
    """Which of the classes in a file is that of a model that was pickled as a whole. `None`: it holds none."""
    if not any(name.startswith("torch.nn.modules.") for name in classes):
        return None
    own = [name for name in classes if not name.startswith(("torch.", "builtins.", "collections."))]
    return next(iter(own), "a torch.nn.Module")


_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which checkpoints keep a state dict."""


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    for _ in _WRAPPERS:  # one in another; a file may also have one that holds itself
        inner = [content[key] for key in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        return None
    return {str(name): value for name, value in content.items()}


_WRAPPING_PARTS = ("module", "_orig_mod")
"""Parts of names that DataParallel and torch.compile put before those of what they wrap."""

_SHOWN = 3
"""So many names a message lists of each kind."""


def _matched(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights under the names that the network has for them.

    Raises:
        FileError: names or shapes are others, also without the prefix that most names have.
    """
    wanted = model.state_dict()
    own = {name: name for name in wanted}
    if any(name not in wanted for name in weights):
        plain_own, plain = {_plain(name): name for name in wanted}, {_plain(name): weights[name] for name in weights}
        if len(plain_own) == len(wanted) and len(plain) == len(weights):  # no two names have become one
            own, weights = plain_own, plain
    prefix = _prefix(own, weights)
    rests = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    found = {own.get(name, name): value for name, value in rests.items()}
    problems = [
        *_shortened([f"{name} has no such prefix" for name in weights if not name.startswith(prefix)], "have none"),
        *_shortened([f"{name} is missing" for name in wanted if name not in found], "are missing"),
        *_shortened([f"{name} is not in the network" for name in found if name not in wanted], "are not in it"),
        *_shortened(
            [
                f"{name} has shape {list(found[name].shape)}, the network wants {list(tensor.shape)}"
                for name, tensor in wanted.items()
                if name in found and found[name].shape != tensor.shape
            ],
            "have other shapes",
        ),
    ]
    if problems:
        without = f" once {prefix!r} is taken off its names" if prefix else ""
        raise FileError(f"{path} does not match {type(model).__name__}{without}:\n" + "\n".join(problems))
    return found


def _plain(name: str) -> str:
    """A name without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPING_PARTS)


def _shortened(lines: list[str], what: str) -> list[str]:
    """The first lines, and how many more there are."""
    more = [f"and {len(lines) - _SHOWN} more {what}"] if len(lines) > _SHOWN else []
    return [f"  {line}" for line in [*lines[:_SHOWN], *more]]


def _prefix(wanted: Mapping[str, Any], names: Iterable[str]) -> str:
    """The prefix under which most of the wanted names are found; "" where they are found as they are, or few are."""
    counts = Counter({"": 0})
    for name in names:
        parts = name.split(".")
        rests = (".".join(parts[start:]) for start in range(len(parts)))
        counts.update(name.removesuffix(rest) for rest in rests if rest in wanted)
    best = max(counts, key=counts.__getitem__)  # of several with as many, the first: ""
    return best if 2 * counts[best] >= len(wanted) else ""
