"""What all functions of the CPU engine that are written in LLVM's code share: arguments and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError

BYTE, INDEX = ir.IntType(8), ir.IntType(64)


class Writer:
    """Writes LLVM code; offsets are in bytes.

    Args:
        context: numba's.
        builder: of the function.
        arguments: of the function, by name: numba's type and LLVM's value.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, arguments: dict[str, tuple[Any, Any]]) -> None:
        self.builder = builder
        self._context, self._arguments = context, arguments

    def __getitem__(self, name: str) -> Any:
        """The value of an argument."""
        return self._arguments[name][1]

    def given(self, name: str) -> bool:
        """Whether an argument is anything but `None`."""
        return self._arguments[name][0] is not types.none

    def element(self, name: str) -> ir.Type:
        """What an array argument has."""
        return self._context.get_data_type(self._arguments[name][0].dtype)

    def array(self, name: str) -> Any:
        """Where the data of an array argument begin."""
        kind, value = self._arguments[name]
        array = cgutils.create_struct_proxy(kind)(self._context, self.builder, value)
        return self.builder.bitcast(array.data, BYTE.as_pointer())

    def at(self, array: Any, offset: Any, kind: ir.Type = BYTE) -> Any:
        """A pointer into an array."""
        offset = INDEX(offset) if isinstance(offset, int) else offset
        return self.builder.bitcast(self.builder.gep(array, [offset]), kind.as_pointer())

    def load(self, array: Any, offset: Any, kind: ir.Type) -> Any:
        """A value that need not be aligned."""
        return self.builder.load(self.at(array, offset, kind), align=1)

    def store(self, value: Any, array: Any, offset: Any) -> None:
        """Write a value that need not be aligned."""
        self.builder.store(value, self.at(array, offset, value.type), align=1)

    def times(self, value: Any, factor: Any) -> Any:
        """An index times another one."""
        return self.builder.mul(value, INDEX(factor) if isinstance(factor, int) else factor)


_Writer = TypeVar("_Writer", bound=Writer)


def intrinsic_of(
    parameters: Mapping[str, Any],
    elements: Mapping[str, Any],
    make: Callable[[Any, ir.IRBuilder, dict[str, tuple[Any, Any]]], _Writer],
    write: Callable[[_Writer], None],
) -> tuple[Any, Callable[..., Any]]:
    """What numba wants of an intrinsic: its signature, and what generates its code.

    Arrays are read as they lie in memory, so any other order or type is refused.

    Args:
        parameters: of the intrinsic, numba's types by name, its typing context first.
        elements: what arrays have, by name; `None` for the type of the membranes, or else of the drive.
        make: of numba's context, the builder and the arguments what writes.
        write: writes the code.

    Raises:
        TypingError: an array is not in C order, or its elements are of another type.
    """
    _, *names = parameters
    alike = next((parameters[name].dtype for name in ("membranes", "drive") if name in names), None)
    for name in names:
        kind = parameters[name]
        if not isinstance(kind, types.Array):
            continue
        wanted = alike if elements[name] is None else elements[name]
        if kind.layout != "C" or kind.dtype != wanted:
            raise TypingError(f"{name} is {kind}; expected is an array of {wanted} in C order")

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        write(make(context, builder, dict(zip(names, zip(signature.args, arguments, strict=True), strict=True))))
        return context.get_dummy_value()

    return types.void(*(parameters[name] for name in names)), generate
