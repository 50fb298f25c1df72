"""Several processes of `torch.distributed` that do the same work together, each on its share of the data.

All of them make the same calls with the same networks and the same data. Each goes through every so manyth batch, and
they tell each other what came of it: whole numbers are summed, and what is not whole is added up in the order of the
batches, so that the result is that of one process, to the bit.
"""

from __future__ import annotations

import itertools
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_unflatten

from fxsnn.errors import DistributedError, FxsnnError, FxsnnWarning, OptionError

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_SHARED = "every process of the run raises it"
"""A note on errors that all processes raise, so that one of them is enough to print it."""


@dataclass(frozen=True)
class _Form:
    """What a tensor that is sent looks like."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str

    def empty(self) -> Tensor:
        """Room for it."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class _Processes:
    """The processes of a group, seen from one of them.

    Attributes:
        rank: the number of this one.
        size: how many there are.
        group: theirs; `None`: all that there are.
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None

    @property
    def device(self) -> torch.device:
        """Where tensors have to be to be sent."""
        if "cpu:" in dist.get_backend_config(self.group):
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    def gathered(self, value: Any) -> list[Any]:
        """What each of them gives, in the order of their numbers."""
        found: list[Any] = [None] * self.size
        with _alive():
            dist.all_gather_object(found, value, self.group)
        return found

    def received(self, value: Tensor, source: int) -> Tensor:
        """The tensor of one of them; of the others, one of that shape and type is given."""
        sent = value.detach().to(self.device).contiguous()
        with _alive():
            dist.broadcast(sent, src=self._global(source), group=self.group)
        return sent.to(value.device)

    def reduced(self, value: Tensor, operation: Any) -> Tensor:
        """The sum, or something else, of the tensors of all."""
        sent = value.detach().to(self.device).contiguous().clone()
        with _alive():
            dist.all_reduce(sent, operation, self.group)
        return sent.to(value.device)

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


_together: ContextVar[_Processes | None] = ContextVar("fxsnn_processes", default=None)


@contextmanager
def across_processes(group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Share the work of what is called inside among the processes of `torch.distributed`.

    All of them have to make the same calls in the same order, with the same network and the same data; each then has
    the same result. Calibration, correction, fine-tuning, accuracies, sweeps, error budgets and profiles are shared.
    Only the first process writes files (the others wait for it), shows progress, warns and calls `on_epoch`. An error
    of one is raised by all.

    Outside, and without it, every process works for itself, whatever is initialised.

    Args:
        group: of these processes; `None`: all that there are.

    Raises:
        OptionError: `torch.distributed` is not initialised, or this process is not in the group.

    Examples:
        Run by `torchrun --nproc-per-node 2 script.py`:

            torch.distributed.init_process_group()
            with fxsnn.across_processes():
                snn = fxsnn.convert(model, target="hw_v1.0", bits=4, calibration_data=loader)
                snn.save("net.fxsnn")
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise OptionError(
            "torch.distributed is not initialised: run the script by torchrun and call "
            "torch.distributed.init_process_group() first"
        )
    rank = dist.get_rank(group)
    if rank < 0:
        raise OptionError("this process is not in the group; leave the call out where it is not")
    several = _Processes(rank, dist.get_world_size(group), group)
    with _set(several if several.size > 1 else None), _warnings_unsaid() if rank else nullcontext():
        yield


@contextmanager
def by_itself() -> Iterator[None]:
    """Around what one process alone does, whatever that calls."""
    with _set(None):
        yield


@contextmanager
def _set(together: _Processes | None) -> Iterator[None]:
    token = _together.set(together)
    try:
        yield
    finally:
        _together.reset(token)


@contextmanager
def _warnings_unsaid() -> Iterator[None]:
    """Show none of our warnings; those that are to be errors are errors."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_others(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, FxsnnWarning):
                show(message, category, *where, **more)

        warnings.showwarning = show_others
        yield


def share() -> tuple[int, int]:
    """The number of this process among those that work together, and how many these are: 0 of 1 if it is alone."""
    together = _together.get()
    return (0, 1) if together is None else (together.rank, together.size)


def is_first() -> bool:
    """Whether this process is the one that writes and shows."""
    return share()[0] == 0


def own_share(items: Iterable[_Item]) -> Iterator[_Item]:
    """Every so manyth of the items; all of them if this process is alone."""
    rank, size = share()
    return itertools.islice(items, rank, None, size)


def first_and_all(own: Iterable[_Item]) -> tuple[Iterator[_Item], list[_Item]]:
    """The share as it is; and the very first item of all, which the first process has, if there are several.

    What one process would learn from the first item, the others are told by the first: see `of_first`.
    """
    if _together.get() is None:
        return iter(own), []
    items = iter(own)
    with sharing_errors():
        first = list(itertools.islice(items, 1))
    return itertools.chain(first, items), first if is_first() else []


def numbered(own: Iterable[_Item]) -> Iterator[tuple[int, _Item]]:
    """This process's share, each with its number in the whole."""
    rank, size = share()
    return ((rank + size * place, item) for place, item in enumerate(own))


def in_turn(own: Iterable[_Item], make: Callable[[_Item], _Made]) -> Iterator[_Made]:
    """What all processes make of their shares, in the order of the whole; it has to be gone through to its end.

    Args:
        own: this process's share, see `own_share`.
        make: gives tensors and plain data, in tuples, lists and dicts. Called for what is made here.

    Raises:
        FxsnnError: what the first of them raised.
    """
    together = _together.get()
    if together is None:
        yield from map(make, own)
        return
    items, end = iter(own), object()
    while True:
        made: list[_Made] = []
        with sharing_errors():
            item = next(items, end)
            if item is not end:
                made.append(make(item))  # type: ignore[arg-type]  # not the end
        found = False
        for one in _exchanged(together, made):
            found = found or bool(one)
            yield from one
        if not found:
            return


def _exchanged(together: _Processes, own: list[Any]) -> Iterator[list[Any]]:
    """The lists of all processes, one after the other; tensors are sent one at a time, so that memory is bounded."""
    leaves, structure = tree_flatten(own)
    told = [_Form(tuple(one.shape), one.dtype, one.device.type) if isinstance(one, Tensor) else one for one in leaves]
    for rank, (theirs, their_structure) in enumerate(together.gathered((told, structure))):
        mine = rank == together.rank
        received = [
            together.received(leaves[place] if mine else one.empty(), rank) if isinstance(one, _Form) else one
            for place, one in enumerate(theirs)
        ]
        yield tree_unflatten(received, their_structure)


def summed(value: Tensor) -> Tensor:
    """The sum over all processes; exact, and so the same in every order, of whole numbers that the type holds."""
    together = _together.get()
    return value if together is None else together.reduced(value, dist.ReduceOp.SUM)


def largest(value: Tensor) -> Tensor:
    """The largest one of all processes, element by element."""
    together = _together.get()
    return value if together is None else together.reduced(value, dist.ReduceOp.MAX)


def gathered(value: _Made) -> list[_Made]:
    """What each process has, plain data and tensors, the first one's first; a list of one if this one is alone."""
    together = _together.get()
    return [value] if together is None else together.gathered(value)


def of_first(value: _Made) -> _Made:
    """What the first process has: tensors and plain data, where machines may differ in the last digit."""
    together = _together.get()
    if together is None:
        return value
    found: list[Any] = [value]
    with _alive():
        dist.broadcast_object_list(found, src=together._global(0), group=together.group, device=together.device)
    made: _Made = found[0]
    return made


def each_sharing_errors(items: Iterable[_Item]) -> Iterator[_Item]:
    """Items of which every process has as many; what one cannot have, all do without."""
    if _together.get() is None:
        yield from items
        return
    iterator, end = iter(items), object()
    while True:
        with sharing_errors():
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]  # not the end


def of_generators(generators: Sequence[torch.Generator]) -> None:
    """Let generators of random numbers be where those of the first process are."""
    if _together.get() is not None:
        for generator, state in zip(generators, of_first([one.get_state() for one in generators]), strict=True):
            generator.set_state(state)


def trained_together(module: nn.Module) -> nn.Module:
    """A module with gradients that are means over all processes (`DistributedDataParallel`); alone, it itself."""
    together = _together.get()
    if together is None:
        return module
    # What has no part in the outputs has none in any step.
    return DistributedDataParallel(module, process_group=together.group, static_graph=True)


@contextmanager
def sharing_errors() -> Iterator[None]:
    """Around what each process does by itself: if one fails, all raise what the first of those raised."""
    together = _together.get()
    if together is None:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except DistributedError:  # the others are gone
        raise
    except Exception as error:
        own = error
    failures = together.gathered(None if own is None else _sendable(own, together.rank))
    first = next((rank for rank, failure in enumerate(failures) if failure is not None), None)
    if first is None:
        return
    raised = own if own is not None and first == together.rank else failures[first]
    raised.add_note(_SHARED)
    raise raised


def is_raised_by_all(error: BaseException) -> bool:
    """Whether all processes raise an error, so that it is enough if one says it."""
    return _SHARED in getattr(error, "__notes__", ())


def _sendable(error: Exception, rank: int) -> Exception:
    """An error as other processes can have it."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):  # our own, from our own
            return error
    except Exception:  # its class has an initialiser of another form, or holds what cannot be sent
        pass
    kind = type(error).__name__
    return FxsnnError(f"process {rank}: {kind}: {error}")


@contextmanager
def _alive() -> Iterator[None]:
    """Around an exchange: it fails where a process has ended.

    Raises:
        DistributedError: instead of PyTorch's `RuntimeError`.
    """
    try:
        yield
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DistributedError(
            f"another process of this run has ended or cannot be reached ({reason}); torchrun says which one, and what "
            "it said itself stands above"
        ) from error
