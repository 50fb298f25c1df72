"""What is wrong with a file of weights, and lines that make one of it that can be read."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxsnn.errors import FileError
from fxsnn.weights.matching import SHOWN, Match, shortened
from fxsnn.weights.pickled import largest_entry
from fxsnn.weights.places import as_code
from fxsnn.weights.stand_ins import Unread

_WRITTEN = "torch.save(model.state_dict(), path)"
"""How a file of weights is made."""

_KEYS_SHOWN = 8
"""So many keys of a file a message names."""


def unreadable(path: Path, error: Exception) -> FileError:
    """For a file that PyTorch's reader of tensors does not take, and of which no class can be blamed."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
        names = zipfile.ZipFile(path).namelist() if start.startswith(b"PK") else []
    except (OSError, zipfile.BadZipFile):
        start, names = b"", []
    if start.startswith(b"version https://git-lfs"):
        return FileError(
            f"{path} cannot be read as a state dict: it is a pointer of git-lfs, which stands for a file that was not "
            "fetched. Fetch it: git lfs pull, in the repository that the file is in"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return FileError(
            f"{path} cannot be read as a state dict: it is a web page, as a server sends it instead of a file. "
            "Download the file itself"
        )
    if any("/code/" in name for name in names):
        return FileError(
            f"{path} cannot be read as a state dict: it is a program of TorchScript. Where you trust it, write its "
            "weights only:\n"
            f"  model = torch.jit.load({str(path)!r}, map_location='cpu')\n"
            f"  torch.save(model.state_dict(), {_beside(path)!r})"
        )
    if names and all(name.endswith(".npy") for name in names):
        return FileError(
            f"{path} cannot be read as a state dict: it is an archive of numpy. Write its arrays as tensors:\n"
            f"  arrays = numpy.load({str(path)!r})\n"
            "  torch.save({name: torch.as_tensor(arrays[name]) for name in arrays.files}, " + f"{_beside(path)!r})"
        )
    return FileError(
        f"{path} cannot be read as a state dict ({type(error).__name__}); it is damaged, or was not written by "
        f"{_WRITTEN}"
    )


def whole_model(path: Path, kind: str, key: str | int | None = None) -> FileError:
    """For a model that was pickled with its class.

    Args:
        path: the file.
        kind: that class.
        key: under which the model is. `None`: under none, or it cannot be told.
    """
    hint = "" if key is not None else " (and take the model out of the dict first, if it is in one)"
    entry = "" if key is None else f"[{key!r}]"
    return FileError(
        f"{path} holds a whole pickled model ({kind}); to read it would run code that is in the file. Where you trust "
        f"the file and have its code, write the weights only{hint}:\n"
        f"  model = torch.load({str(path)!r}, map_location='cpu', weights_only=False){entry}\n"
        f"  torch.save(model.state_dict(), {_beside(path)!r})"
    )


def not_read(path: Path, value: Any, classes: Sequence[str]) -> FileError:
    """For a file in which objects of other classes stand in the way.

    Args:
        path: the file.
        value: what it holds, with stand-ins for these objects; `None` where it cannot be read.
        classes: theirs.
    """
    if kind := _pickled_model(classes):
        objects = [key for key, inner in value.items() if isinstance(inner, Unread)] if isinstance(value, dict) else []
        return whole_model(path, kind, objects[0] if len(objects) == 1 else None)
    key = largest_entry(path)
    guessed = "" if key else ", with the key in place of 'state_dict' under which they are"
    return FileError(
        f"{path} cannot be read as a state dict: it holds other objects than tensors ({', '.join(classes[:SHOWN])}); "
        f"to read them would run code that is in the file. Where you trust the file, write the weights only{guessed}:\n"
        f"  {_loading(path, classes)}\n"
        f"  torch.save(checkpoint[{(key or 'state_dict')!r}], {_beside(path)!r})"
    )


def arrays(path: Path, match: Match, classes: Sequence[str]) -> FileError:
    """For a state dict whose tensors are arrays of numpy."""
    return FileError(
        f"{path} cannot be read as a state dict: it holds arrays of numpy, and to read these would run code that is in "
        "the file. Where you trust the file, write them as tensors:\n"
        f"  {_loading(path, classes)}\n"
        "  torch.save({name: torch.as_tensor(value) for name, value in "
        f"{as_code(match.place)}.items()}}, {_beside(path)!r})"
    )


def no_tensors(path: Path, value: Any) -> FileError:
    """For a file that can be read, and has no dict with tensors in it."""
    keys = _named_keys(value)
    return FileError(
        f"{path} holds a {type(value).__name__}, no state dict of tensors"
        f"{f'; its keys are {keys}' if keys else ''}. Write one with {_WRITTEN}"
    )


def mismatch(path: Path, best: Match, model: str, value: Any) -> FileError:
    """For a file whose tensors are those of another network, or not all of them."""
    without = f" once {best.prefix!r} is taken off its names" if best.prefix else ""
    place = f"\n  these are the names in {as_code(best.place)}; the file has the keys {_named_keys(value)}"
    lines = "\n".join(best.problems)
    return FileError(f"{path} does not match {model}{without}:\n{lines}{place if best.place else ''}")


def several(path: Path, fits: Sequence[Match], classes: Sequence[str]) -> FileError:
    """For a file with weights of the network in several places, of which none is the usual one."""
    return FileError(
        f"{path} has weights of the network in {len(fits)} places: {', '.join(map(_where, fits))}. Write those that "
        f"you want, here the first{_trust(classes)}:\n{_choosing(path, fits[0], classes)}"
    )


def taken(path: Path, chosen: Match, others: Sequence[Match], classes: Sequence[str]) -> str:
    """A warning that a file has other weights of the network, too."""
    return (
        f"{path} has weights of the network in {len(others) + 1} places; those in {_where(chosen)} are taken, not "
        f"those in {', '.join(map(_where, others))}. For these write a file of their own{_trust(classes)}:\n"
        f"{_choosing(path, others[0], classes)}"
    )


def left_out(path: Path, chosen: Match) -> str:
    """A warning that not all tensors beside the network's have a place in it."""
    names = ", ".join(line.strip() for line in shortened(chosen.left_out, ""))
    return f"{path}: left out is what does not begin with {chosen.prefix!r}: {names}"


def _choosing(path: Path, match: Match, classes: Sequence[str]) -> str:
    """Lines that write the weights of one match to a file."""
    table = as_code(match.place)
    if match.left_out:
        table = f"{{name: value for name, value in {table}.items() if name.startswith({match.start!r})}}"
    return f"  {_loading(path, classes)}\n  torch.save({table}, {_beside(path)!r})"


def _loading(path: Path, classes: Sequence[str]) -> str:
    if path.suffix == ".safetensors":
        return f"checkpoint = safetensors.torch.load_file({str(path)!r})"
    return f"checkpoint = torch.load({str(path)!r}, map_location='cpu', weights_only={not classes})"


def _trust(classes: Sequence[str]) -> str:
    return ", where you trust the file" if classes else ""


def _where(match: Match) -> str:
    under = f" under {match.prefix!r}" if match.prefix else ""
    return f"{as_code(match.place)}{under}"


def _named_keys(value: Any) -> str:
    keys = [repr(key) for key in value] if isinstance(value, dict) else []
    return ", ".join([*keys[:_KEYS_SHOWN], *(["..."] if len(keys) > _KEYS_SHOWN else [])])


def _beside(path: Path) -> str:
    """A name for the weights that are taken out of a file: nothing of the user's is to be overwritten."""
    return str(path.with_name(f"{path.stem}_weights.pt"))


def _pickled_model(classes: Sequence[str]) -> str | None:
    """Which of the classes in a file is that of a model that was pickled as a whole. `None`: it holds none."""
    if not any(name.startswith("torch.nn.modules.") for name in classes):
        return None
    own = [name for name in classes if not name.startswith(("torch.", "builtins.", "__builtin__.", "collections."))]
    return next(iter(own), "a torch.nn.Module")
