"""What a file of `torch.save` is made of, told from the instructions of its pickle; none of them is followed."""

from __future__ import annotations

import pickletools
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch

_Instruction: TypeAlias = tuple[pickletools.OpcodeInfo, Any]

OLD = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How a file begins that PyTorch wrote before version 1.6: a pickle of its magic number."""

_ALLOWED = ("torch._utils.", "torch.storage.", "torch.serialization.")
"""Modules of what old files name to make tensors."""


def classes_in(path: Path) -> list[str]:
    """What reading the file would import beside what makes tensors. Empty: nothing, or it cannot be told."""
    try:
        if _is_old(path):
            return sorted({name for name in _named_in(_instructions(path)) if not _makes_tensors(name)})
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged file; PyTorch and Python raise what they like
        return []


def largest_entry(path: Path) -> str | None:
    """The key, in the outermost dict of the file, of the dict with the most tensors. `None`: it cannot be told."""
    try:
        counts = _tensors_by_entry(_instructions(path))
    except Exception:  # as above
        return None
    return max(counts, key=counts.__getitem__) if counts.total() else None


def _is_old(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(OLD)) == OLD


def _instructions(path: Path) -> list[_Instruction]:
    """Those of the pickle that describes the content, not those of what stands around it."""
    if _is_old(path):
        with path.open("rb") as file:
            programs = [[(code, given) for code, given, _ in pickletools.genops(file)] for _ in range(4)]
        return programs[-1]  # behind the magic number, the version and the sizes of numbers
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        return [(code, given) for code, given, _ in pickletools.genops(archive.read(name))]


def _named_in(program: list[_Instruction]) -> set[str]:
    return {str(given).replace(" ", ".") for code, given in program if code.name == "GLOBAL"}


def _makes_tensors(name: str) -> bool:
    storage = name.startswith("torch.") and name.endswith("Storage")
    return storage or name == "collections.OrderedDict" or name.startswith(_ALLOWED)


def _tensors_by_entry(program: list[_Instruction]) -> Counter[str]:
    """How many tensors each entry of the outermost dict has, if that entry is a dict."""
    counts = Counter[str]()
    ordered = _noted(program, "collections OrderedDict")
    depth, text, entry = 0, None, None
    for code, given in program:
        if code.name == "MARK":
            depth += 1
        elif pickletools.markobject in code.stack_before:
            depth -= 1
        if code.name == "BINPERSID" and entry is not None:
            counts[entry] += 1
        elif depth <= 1 and text is not None and _begins_dict(code, given, ordered):
            entry = text
        if code.name not in ("BINPUT", "LONG_BINPUT"):  # these only note what was there before
            text = str(given) if depth <= 1 and code.name == "BINUNICODE" else None
    return counts


def _noted(program: list[_Instruction], name: str) -> int | None:
    """The number under which a class is noted where it is first named, to be got again by it."""
    for (code, given), (_, number) in pairwise(program):
        if code.name == "GLOBAL" and given == name:
            return int(number)
    return None


def _begins_dict(code: pickletools.OpcodeInfo, given: Any, ordered: int | None) -> bool:
    if code.name in ("BINGET", "LONG_BINGET"):
        return ordered is not None and given == ordered
    return code.name == "EMPTY_DICT" or (code.name == "GLOBAL" and given == "collections OrderedDict")
