"""Files: arrays and JSON in one safetensors file, written atomically, sealed, no pickle; and weights read safely."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxsnn.errors import FileError, OptionError

DOCUMENT = "fxsnn"
"""Key of the JSON document in the metadata of the header."""

SEAL = "sha256"
"""Name of the array with the digest of the document and of all other arrays, 32 bytes."""

LARGEST_HEADER = 2 << 20
"""Bytes; what Python makes of so much JSON fits into 200 MB, and takes less than a second."""

_TYPES = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bool: "BOOL",
}
"""Types of arrays and their names in the file."""


def save_arrays(path: str | Path, arrays: Mapping[str, Tensor], document: Mapping[str, Any]) -> Path:
    """Write arrays, a JSON document under "fxsnn" in the header's metadata, and a digest of both.

    The file appears whole or not at all, and is the same to the byte for the same content.

    Raises:
        FileError: the folder does not exist or cannot be written, or the document is too large or no plain data.
    """
    from safetensors.torch import save

    try:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be written: what describes it is no plain data ({error})") from error
    if SEAL in arrays:
        raise FileError(f"{path} cannot be written: an array is named {SEAL!r}, which is the name of the checksum")
    if len(text) > LARGEST_HEADER // 2:
        raise FileError(f"{path} cannot be written: its description takes {len(text):,} bytes, too many to be read")
    whole = {name: tensor.detach().cpu().resolve_neg().contiguous() for name, tensor in arrays.items()}
    seal = torch.frombuffer(bytearray(_digest(text, whole)), dtype=torch.uint8)
    return write_whole(path, save({**whole, SEAL: seal}, {DOCUMENT: text}))


def as_path(path: object, what: str = "path") -> Path:
    """A path as users give them.

    Raises:
        OptionError: it is none.
    """
    if isinstance(path, str | os.PathLike) and isinstance(os.fspath(path), str):
        return Path(path)
    raise OptionError(f"{what} is a {type(path).__name__}; allowed are a str and a pathlib.Path")


def require_place(path: object, what: str = "path") -> Path:
    """Where a file is to be written, links followed, if one can be written there; asked before the work is done.

    Raises:
        OptionError: it is no path.
        FileError: its folder does not exist or cannot be written, it is no name for a file, or it is something else.
    """
    given = as_path(path, what)
    named = f"{path}" if what == "path" else f"{what} {path}"
    try:
        place = given.resolve()  # through links: what they lead to is written, not they
        found = os.stat(place)
    except FileNotFoundError:
        found = None
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL; links in a circle
        raise FileError(f"{named} cannot be written: {_reason(error)}") from error
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise FileError(f"{named} cannot be written: it exists and is not a file")
    folder = place.parent if given.parent.is_dir() else given.parent
    if not folder.is_dir():
        raise FileError(f"{named} cannot be written: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"{named} cannot be written: the folder {folder} is not writable")
    return place


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file that appears whole or not at all: it is written beside its place and moved there.

    A file that is replaced keeps its mode.

    Raises:
        OptionError: it is no path.
        FileError: the folder does not exist or cannot be written.
    """
    place = require_place(path)
    temporary = place.with_name(f".fxsnn-{secrets.token_hex(8)}")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before it takes its place: a crash must not leave an empty file there
            if place.exists():
                temporary.chmod(stat.S_IMODE(place.stat().st_mode))
            os.replace(temporary, place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(f"{path} cannot be written: {_reason(error)}") from error
    return Path(path)


def load_arrays(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays and document of a file that `save_arrays` wrote.

    Nothing in the file is executed; memory is used for twice its length at most.

    Raises:
        OptionError: it is no path.
        FileError: the file is missing, damaged, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    as_path(path)
    try:
        text = _document_of(Path(path))
        with safe_open(path, "pt") as file:
            # Copies: what safetensors gives may be a view of the file, which can change.
            arrays = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # it is no mapping
        seal = arrays.pop(SEAL)
        if seal.dtype != torch.uint8 or bytes(seal.flatten().tolist()) != _digest(text, arrays):
            raise ValueError("its content does not have the digest that was written with it")
        document = strict_json(text)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {_reason(error)}") from error
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else error  # PyTorch raises what it likes
        raise FileError(f"{path} cannot be read as a file of fxsnn, or is damaged: {reason}") from error
    return arrays, document


def _document_of(path: Path) -> str:
    """The JSON text in the metadata of a safetensors file; its sizes are checked before anything is read.

    Raises:
        OSError, KeyError, ValueError: the file is missing or is no such file.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError("it does not begin with the length of a header")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header takes {length:,} bytes; allowed are {LARGEST_HEADER:,}")
        header = strict_json(file.read(length).decode())
    metadata = header["__metadata__"]
    text = metadata[DOCUMENT] if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ValueError("its header has no description")
    return text


def strict_json(text: str) -> dict[str, Any]:
    """A JSON object, without repeated keys and without numbers that are not finite.

    Raises:
        ValueError: the text is something else, or nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("its description is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"its description is a {type(value).__name__}, no object")
    json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its description has a key twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"its description has the number {text}")
    return value


def _digest(text: str, arrays: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of the document and then, in the order of their names, of name, type, shape and bytes of each array."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(arrays.items()):
        if tensor.dtype not in _TYPES:
            raise ValueError(f"array {name!r} is {tensor.dtype}")
        digest.update(f"\n{name} {_TYPES[tensor.dtype]} {','.join(map(str, tensor.shape))}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


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
        raise FileError(f"{path} cannot be read: {_reason(error)}") from error
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
