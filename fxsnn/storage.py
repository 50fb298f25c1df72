"""Files: arrays and JSON in one safetensors file, written atomically, sealed, no pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxsnn.errors import FileError, OptionError
from fxsnn.processes import is_first, sharing_errors

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
    whole = _apart({name: tensor.detach().cpu().resolve_neg().contiguous() for name, tensor in arrays.items()})
    seal = torch.frombuffer(bytearray(_digest(text, whole)), dtype=torch.uint8)
    return write_whole(path, save({**whole, SEAL: seal}, {DOCUMENT: text}))


def _apart(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each in memory of its own: safetensors refuses two names for one."""
    seen = set[int]()
    found = dict[str, Tensor]()
    for name, tensor in arrays.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


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

    Only the first of several processes is asked, which writes it.

    Raises:
        OptionError: it is no path.
        FileError: its folder does not exist or cannot be written, it is no name for a file, or it is something else.
    """
    given = as_path(path, what)
    if not is_first():
        return given
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

    A file that is replaced keeps its mode. Of several processes that work together the first one writes, and
    the others wait for it.

    Raises:
        OptionError: it is no path.
        FileError: the folder does not exist or cannot be written.
    """
    with sharing_errors():  # and nobody reads it before it is there
        if is_first():
            _write_whole(path, content)
    return as_path(path)


def _write_whole(path: str | Path, content: bytes) -> None:
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
        flat = tensor.as_strided((tensor.numel(),), (1,))  # a single number counts as contiguous with any stride
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()
