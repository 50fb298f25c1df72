"""Traced values that know their sizes: forward may compute with them, as it would with those of tensors.

Each call that is traced is run on PyTorch's fake tensors, which have no values, for two batch sizes. A size that is the
same in both is a number; one that differs depends on the number of images and stays a call of the graph. That takes
longer than the trace itself, and most networks never ask: calls wait until forward asks for something.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate

BATCHES = (1009, 2003)
"""Prime, so that no other size of a network is likely to be one of them."""

_FAKE_LOG = logging.getLogger("torch._subclasses.fake_tensor")
_FIXED = ("device", "dtype", "is_cpu", "is_cuda", "is_meta", "is_mkldnn", "is_nested", "is_sparse", "layout", "ndim")
_PROPERTIES = ("H", "T", "data", "imag", "mH", "mT", "real")
_TOLD = ("dim", "element_size", "is_complex", "is_contiguous", "is_floating_point", "ndimension", "nelement", "numel")
_ASKED = frozenset(("shape", *_FIXED, *_PROPERTIES, *_TOLD))
"""Attributes for which the value has to be known."""


class Sizes(tuple[Any, ...]):
    """The sizes of a tensor, or some of them: numbers, and a traced value for each that depends on the batch.

    Attributes:
        tell: called when forward takes another one of them than the first, which mostly is the number of images.
    """

    tell: Callable[[], None] | None = None

    def __getitem__(self, place: Any) -> Any:
        """One of them, or several."""
        if self.tell is not None and place not in (0, -len(self)):
            self.tell()
        found: Any = super().__getitem__(place)
        return Sizes(found) if isinstance(place, slice) else found

    def __iter__(self) -> Iterator[Any]:
        if self.tell is not None:
            self.tell()
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        return tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def numel(self) -> Any:
        """How many elements a tensor of these sizes has."""
        return prod(self)


class Sized(fx.Proxy):
    """A traced value, and what it is for each of the two batch sizes.

    What a tensor or a tuple of them has by name, such as `values` of what `torch.max` gives, must not be an attribute.
    """

    sizing: Sizing | None = None
    known: tuple[Any, Any] | None = None
    form_of: Sized | None = None  # the same numbers in the same order
    is_images = False
    _is_param = False  # `isinstance` asks tensors for it
    _is_buffer = False

    @property  # type: ignore[misc]  # nothing sets it
    def __class__(self) -> type:  # `isinstance(x, torch.Tensor)` is asked in forward
        """Of images a tensor's, and of what is known to be one; nothing is computed to know that."""
        return Tensor if self.is_images or isinstance((self.known or (None,))[0], Tensor) else Sized

    @property
    def fakes(self) -> tuple[Any, Any] | None:
        """What it is for each of the two batch sizes; `None` where that is not known."""
        if self.sizing is not None:
            self.sizing.work_off()
        return self.known

    def __getattr__(self, k: str) -> Any:
        if k in _ASKED and isinstance((self.fakes or (None,))[0], Tensor):
            if k == "shape":
                return self.size()
            if k in _FIXED:
                assert self.fakes is not None
                return getattr(self.fakes[0], k)
            if k in _TOLD:
                return partial(self._told, k)
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        return super().__getattr__(k)

    def size(self, dim: int | None = None) -> Any:
        """As of a tensor."""
        if self.fakes is None or not isinstance(self.fakes[0], Tensor):
            return self.tracer.create_proxy("call_method", "size", (self,) if dim is None else (self, dim), {})
        if dim is not None:
            return self._side(dim)
        sizes = Sizes(self._side(one, tell=False) for one in range(self.fakes[0].dim()))
        sizes.tell = partial(self._tell, count=False)
        return sizes

    def __len__(self) -> int:
        """As of a tensor or tuple: of a batch the first batch size, in whose place the tracer puts the true one."""
        if self.fakes is None:
            return super().__len__()
        first, second = (len(fake) for fake in self.fakes)
        self._tell(count=first != second)
        return first

    def __iter__(self) -> Iterator[Any]:
        parts = (self.fakes or (None,))[0]
        if isinstance(parts, tuple | list):
            self._tell(count=len(parts) != len((self.fakes or (None, ()))[1]))
            return (self[place] for place in range(len(parts)))
        return super().__iter__()

    def _side(self, dim: int, *, tell: bool = True) -> Any:
        assert self.fakes is not None
        first, second = (value.shape[dim] for value in self.fakes)
        if first == second:
            if tell:
                self._tell(count=False)
            return first
        return self.tracer.create_proxy("call_method", "size", (self, dim % self.fakes[0].dim()), {})

    def _told(self, name: str, *args: Any, **kwargs: Any) -> Any:
        assert self.fakes is not None
        first, second = (getattr(value, name)(*args, **kwargs) for value in self.fakes)
        if name in ("nelement", "numel") and first == second:
            self._tell(count=False)
        return first if first == second else self.tracer.create_proxy("call_method", name, (self, *args), kwargs)

    def _tell(self, *, count: bool) -> None:
        """Remember that forward is told how many images there are, or else a size that does not depend on that."""
        tracer: Any = self.tracer  # images have no `sizing`
        if count:
            tracer.sizing.told_count = True
        else:
            tracer.sizing.told_sides = True

    # Of tensors, these write into what other names stand for, too.

    def __iadd__(self, other: Any) -> Any:
        made = self._written("add_", other)
        return self + other if made is None else made

    def __isub__(self, other: Any) -> Any:
        made = self._written("sub_", other)
        return self - other if made is None else made

    def __imul__(self, other: Any) -> Any:
        made = self._written("mul_", other)
        return self * other if made is None else made

    def __itruediv__(self, other: Any) -> Any:
        made = self._written("div_", other)
        return self / other if made is None else made

    def __getitem__(self, index: Any) -> Any:
        if self.is_images and isinstance(index, str):
            raise TypeError(f"it reads its input by a name ([{index!r}]), as of a dict")
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        mask = index.fakes[0] if isinstance(index, Sized) and index.fakes is not None else None
        fills = isinstance(mask, Tensor) and mask.dtype == torch.bool and isinstance(value, int | float)
        if not fills or self.fakes is None or not isinstance(self.fakes[0], Tensor):
            raise TypeError("it writes into a part of a tensor (x[...] = ...)")
        self.tracer.create_proxy("call_method", "masked_fill_", (self, index, value), {})

    def _written(self, method: str, other: Any) -> fx.Proxy | None:
        if self.fakes is None or not isinstance(self.fakes[0], Tensor):
            return None
        return self.tracer.create_proxy("call_method", method, (self, other), {})


class Sizing:
    """Runs each traced call on fake tensors.

    Args:
        root: the network that is traced.
        shape: of an image, without the batch.
        device: of images.
        dtype: of images.
        strict: a call that fails raises its error at once, instead of giving a value that is not known.
        batches: the two batch sizes; `len` of a batch is the first.

    Attributes:
        told_count: forward was told how many images there are, as a number.
        told_sides: forward was told a size that does not depend on that.
    """

    def __init__(
        self,
        root: nn.Module,
        shape: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        *,
        strict: bool,
        batches: tuple[int, int] = BATCHES,
    ) -> None:
        self._root, self._strict, self._batches = root, strict, batches
        self.told_count = self.told_sides = False
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:
            first, second = (torch.empty(batch, *shape, device=device, dtype=dtype) for batch in batches)
            self.images = (first, second)
        self.at_work = False
        self._waiting: list[tuple[Sized, str, Any, Any, Any]] = []

    def add(self, made: Sized, kind: str, target: Any, args: Any, kwargs: Any) -> None:
        """A call that was traced: it is run as soon as any value that was traced is asked for its sizes."""
        made.sizing = self
        # Forward may go on to write into its own lists.
        args, kwargs = (cast(Any, map_aggregate)(given, lambda one: one) for given in (args, kwargs))
        self._waiting.append((made, kind, target, args, kwargs))
        if self._strict:
            self.work_off()

    def work_off(self) -> None:
        """Run all calls that wait, in their order: some write into what others read."""
        waiting, self._waiting = self._waiting, []
        for made, *call in waiting:
            made.known = self._values(*call)

    def _values(self, kind: str, target: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """What a call gives for each batch size; `None` where something that it reads is not known, or it fails."""
        self.at_work = True
        silent, _FAKE_LOG.disabled = _FAKE_LOG.disabled, True  # it prints what is raised
        try:
            with self._mode, torch.no_grad():
                first, second = (self._value(kind, target, args, kwargs, place) for place in range(2))
        except _UnknownError:
            return None
        except Exception:  # forward says it better, when it is run
            if self._strict:
                raise
            return None
        finally:
            self.at_work, _FAKE_LOG.disabled = False, silent
        return first, second

    def _value(self, kind: str, target: Any, args: Any, kwargs: Any, place: int) -> Any:
        def known(one: Any) -> Any:
            if not isinstance(one, fx.Proxy):
                return self._batches[place] if type(one) is int and one == self._batches[0] else one  # `len` gave it
            if not isinstance(one, Sized) or one.known is None:  # any other has every attribute that it is asked for
                raise _UnknownError
            return one.known[place]

        args, kwargs = (cast(Any, map_aggregate)(given, known) for given in (args, kwargs))
        if kind == "get_attr":
            path, _, name = str(target).rpartition(".")
            return getattr(self._root.get_submodule(path), name)
        if kind == "call_module":
            return self._root.get_submodule(str(target)).forward(*args, **kwargs)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


class _UnknownError(Exception):
    pass
