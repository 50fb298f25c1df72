"""The arrays of a network file as its reader takes them: by name, of a type and shape, each problem told."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fxsnn.errors import OptionError
from fxsnn.file.packing import unpack_codes
from fxsnn.file.schema_check import Problems
from fxsnn.file.structure import Size
from fxsnn.file.tail_layers import FLOAT_TYPES
from fxsnn.numerics import Codebook, all_finite

FLOATS = tuple(FLOAT_TYPES.values())
ANY_TYPE = (torch.uint8, torch.int64, *FLOATS)


class Arrays:
    """Arrays of any content; what is asked for and is not there, or is something else, is a problem.

    Args:
        held: those of the file.
        problem: is told what is wrong.
    """

    def __init__(self, held: Mapping[str, Tensor], problem: Problems) -> None:
        self._held = held
        self._problem = problem
        self._used: set[str] = set()

    def __call__(self, name: str, shape: Size | None, dtypes: tuple[torch.dtype, ...]) -> Tensor:
        """An array; zeros of that shape, which take no memory, in the place of one that is wrong.

        Args:
            name: of the array.
            shape: that it must have, `None`: any.
            dtypes: one of which it must be of.
        """
        self._used.add(name)
        found = self._held.get(name)
        if found is None:
            self._problem(f"array {name!r} is missing")
        elif found.dtype not in dtypes or (shape is not None and tuple(found.shape) != shape):
            kind = str(dtypes[0]) if len(dtypes) == 1 else "a floating type"
            expected = "a type of the format" if shape is None else f"{kind} {list(shape)}"
            self._problem(f"array {name!r} is {found.dtype} {list(found.shape)}; expected is {expected}")
        elif found.is_floating_point() and not found.is_meta and not all_finite(found):
            self._problem(f"array {name!r} has values that are NaN or infinite")
        else:
            return found
        return torch.zeros(()) if shape is None else torch.zeros((), dtype=dtypes[0]).expand(shape)

    def codebook(self, name: str, bits: int) -> Codebook:
        """The codebook with the levels of an array; the symmetric one without that, and in the place of a wrong one."""
        symmetric = Codebook.symmetric(bits)
        if name not in self._held:
            return symmetric
        told = self(name, None, (torch.int32,))
        try:
            found = Codebook(tuple(told.tolist())) if told.dim() == 1 and len(told) <= 1 << bits else None
        except OptionError as error:
            self._problem(f"array {name!r}: {error}")
            return symmetric
        if found is None or found.bits != bits or found.is_symmetric:
            self._problem(f"array {name!r}: its {told.numel()} levels are not those of a codebook of {bits} bits that "
                          "needs to be told")  # fmt: skip
            return symmetric
        return found

    def codes(self, name: str, codebook: Codebook, shape: Size) -> Tensor:
        """Weight codes, int8; zeros in the place of wrong ones."""
        self._used.add(name)
        packed = self._held.get(name)
        if packed is None:
            self._problem(f"array {name!r} is missing")
        else:
            try:
                return unpack_codes(packed, codebook, shape)
            except ValueError as error:
                self._problem(f"array {name!r}: {error}")
        return torch.zeros((), dtype=torch.int8).expand(shape)

    def pass_over(self, layer: str) -> None:
        """Let those of a layer be, whatever they are."""
        self._used |= {name for name in self._held if name.rpartition(".")[0] == layer}

    def require_all_used(self) -> None:
        """Tell of those that nothing asked for, golden vectors aside."""
        extra = [name for name in self._held if name not in self._used and not name.startswith("golden/")]
        for name in sorted(extra):
            self._problem(f"array {name[:80]!r}: nothing needs it")
