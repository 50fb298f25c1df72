"""The CUDA engine: convolutions in the narrowest exact type, and one pass over time in Triton.

Spikes travel as float16 [steps, N, C, H, W], channels last in memory: cuDNN computes such convolutions as matrix
products, in which whole numbers stay whole. With `TRITON_INTERPRET=1` the kernels run on the CPU, slowly: for tests
without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from fxsnn.engine.circuit import Circuit, Range, Recording, Unsupported, relying_on
from fxsnn.layers import (
    SpikeAdd,
    SpikeConv2d,
    SpikeLinear,
    SpikePool2d,
    Spiking,
    SynapseConv2d,
    SynapseLinear,
    Synapses,
)
from fxsnn.numerics import Dynamics

_STEPS_AT_ONCE = 32
"""Steps that a layer runs before the next one does; membranes are kept from one piece of time to the next."""
_BYTES_AT_ONCE = 1 << 30
"""What the spikes and sums of a layer may take."""
_BLOCK = 1024
_EXACT_HALF = 1 << 11
_EXACT_SINGLE = 1 << 22
"""Whole sums of a smaller magnitude are exact in float32 with a half added."""


def obstacle(device: torch.device) -> str:
    """Why the engine cannot run there; "" if it can."""
    compiles = isinstance(_fire_over_time, triton.JITFunction)  # what is interpreted is of another class
    if device.type != "cuda" and compiles:
        return f"it runs on CUDA, the network is on {device}"
    return ""


@triton.jit
def _rounding(values):  # type: ignore[no-untyped-def]  # as said
    # What an integer is cut off of: a sum is whole, but for what a transform-based convolution may leave behind.
    if values.dtype.is_floating():
        # From 1,024 on, float16 has no halves.
        exact = values.to(tl.float32) if values.dtype == tl.float16 else values
        values = tl.where(exact >= 0, exact + 0.5, exact - 0.5)
    return values


@triton.jit  # type: ignore[untyped-decorator]  # triton leaves it untyped, and reads annotations itself
def _add_over_time(  # type: ignore[no-untyped-def]  # as said
    given, factors, total, size, given_size, channels,
    fresh: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    factor = tl.load(factors + place % channels, mask=inside, other=0)
    added = _rounding(tl.load(given + place % given_size, mask=inside, other=0)).to(factor.dtype) * factor
    if not fresh:
        added += tl.load(total + place, mask=inside, other=0)
    tl.store(total + place, added, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]  # triton leaves it untyped, and reads annotations itself
def _fire_over_time(  # type: ignore[no-untyped-def]  # as said
    drive, membranes, thresholds, leaks, spikes, lows, highs, gain, size, channels, steps,
    constant: tl.constexpr, zero_reset: tl.constexpr, record: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    channel = place % channels
    threshold = tl.load(thresholds + channel, mask=inside, other=1)
    leak = tl.load(leaks + channel, mask=inside, other=0)
    membrane = tl.load(membranes + place, mask=inside, other=0)
    added = tl.load(drive + place, mask=inside, other=0)
    low, high = membrane, membrane
    for step in range(steps):
        if constant:
            membrane += added
        else:
            total = _rounding(tl.load(drive + step * size + place, mask=inside, other=0)).to(membrane.dtype)
            membrane += total * gain + leak
        if record:
            low = tl.where(step == 0, membrane, tl.minimum(low, membrane))
            high = tl.where(step == 0, membrane, tl.maximum(high, membrane))
        spike = membrane >= threshold
        membrane = tl.where(spike, 0 if zero_reset else membrane - threshold, membrane)
        tl.store(spikes + step * size + place, spike.to(tl.float16), mask=inside)
    tl.store(membranes + place, membrane, mask=inside)
    if record:
        tl.store(lows + place, low, mask=inside)
        tl.store(highs + place, high, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]  # triton leaves it untyped, and reads annotations itself
def _pool_over_time(  # type: ignore[no-untyped-def]  # as said
    given, membranes, spikes, lows, highs, size, given_size, channels, height, width, rows, columns,
    down, across, above, left, spread, apart, threshold, steps,
    zero_reset: tl.constexpr, record: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    channel = place % channels
    x = (place // channels) % width * across - left
    y = (place // channels // width) % height * down - above
    image = place // channels // width // height
    membrane = tl.load(membranes + place, mask=inside, other=0)
    low, high = membrane, membrane
    for step in range(steps):
        for i in tl.static_range(tall):
            for j in tl.static_range(wide):
                row, column = y + i * spread, x + j * apart
                there = inside & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
                source = ((image * rows + row) * columns + column) * channels + channel
                membrane += tl.load(given + step * given_size + source, mask=there, other=0).to(membrane.dtype)
        if record:
            low = tl.where(step == 0, membrane, tl.minimum(low, membrane))
            high = tl.where(step == 0, membrane, tl.maximum(high, membrane))
        spike = membrane >= threshold
        membrane = tl.where(spike, 0 if zero_reset else membrane - threshold, membrane)
        tl.store(spikes + step * size + place, spike.to(tl.float16), mask=inside)
    tl.store(membranes + place, membrane, mask=inside)
    if record:
        tl.store(lows + place, low, mask=inside)
        tl.store(highs + place, high, mask=inside)


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of a layer on some images.

    Attributes:
        layer: the layer.
        membranes: [N, C, H, W] or [N, C], channels last in memory; rewritten by every piece of time.
        thresholds: [C], of the membranes' type.
        leaks: [C], of the membranes' type.
    """

    layer: Spiking
    membranes: Tensor
    thresholds: Tensor
    leaks: Tensor


def neurons_of(layer: Spiking, shape: torch.Size, kind: torch.dtype, dynamics: Dynamics) -> Neurons:
    """Neurons before the first step, for an output of that shape."""
    thresholds = layer.threshold.to(kind)
    starts = thresholds.div(2, rounding_mode="floor") if dynamics.initial_membrane else torch.zeros_like(thresholds)
    membranes = torch.empty(shape, dtype=kind, device=thresholds.device)
    if len(shape) == 4:
        membranes = _channels_last(membranes)
    return Neurons(layer, membranes.copy_(starts.view(-1, *[1] * (len(shape) - 2))), thresholds, layer.leak.to(kind))


def fire_over_time(
    neurons: Neurons, drive: Tensor, steps: int, zero_reset: bool, ranges: list[Tensor] | None
) -> Tensor:
    """Spikes float16 [steps, N, C, ...], channels last in memory.

    Args:
        neurons: their membranes are rewritten.
        drive: sums without gain and leak, [steps, N, C, ...]; of the first layer what is added at every step,
            [N, C, ...]. In memory as the membranes.
        steps: how many.
        zero_reset: whether a spike sets its membrane to 0.
        ranges: is given the smallest and the largest membranes, or `None`.
    """
    membranes = neurons.membranes
    spikes = torch.empty((steps, membranes.numel()), dtype=torch.float16, device=membranes.device)
    lows, highs = _extremes(membranes, ranges)
    with _launching(membranes, drive, neurons.thresholds, neurons.leaks):
        _fire_over_time[(triton.cdiv(membranes.numel(), _BLOCK),)](
            drive, membranes, neurons.thresholds, neurons.leaks, spikes, lows, highs, neurons.layer.gain,
            membranes.numel(), membranes.shape[1], steps,
            constant=drive.dim() == membranes.dim(), zero_reset=zero_reset, record=ranges is not None, block=_BLOCK,
        )  # fmt: skip
    return _in_time(spikes, membranes)


def pool_over_time(neurons: Neurons, given: Tensor, zero_reset: bool, ranges: list[Tensor] | None) -> Tensor:
    """Spikes float16 [steps, N, C, H, W] behind a sum over windows of the spikes `given`; see `fire_over_time`."""
    pool, membranes, steps = neurons.layer, neurons.membranes, len(given)
    assert isinstance(pool, SpikePool2d)
    spikes = torch.empty((steps, membranes.numel()), dtype=torch.float16, device=membranes.device)
    lows, highs = _extremes(membranes, ranges)
    rows, columns = pool.windows()
    with _launching(membranes, given):
        _pool_over_time[(triton.cdiv(membranes.numel(), _BLOCK),)](
            given, membranes, spikes, lows, highs, membranes.numel(), given[0].numel(), membranes.shape[1],
            *membranes.shape[2:], *given.shape[3:], rows.stride, columns.stride, rows.padding, columns.padding,
            rows.dilation, columns.dilation, pool.largest_threshold, steps,
            zero_reset=zero_reset, record=ranges is not None, tall=rows.kernel, wide=columns.kernel, block=_BLOCK,
        )  # fmt: skip
    return _in_time(spikes, membranes)


def _extremes(membranes: Tensor, ranges: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Room for the smallest and the largest value of each membrane; where they are not wanted, any tensor will do."""
    if ranges is None:
        return membranes, membranes
    ranges += [torch.empty_like(membranes), torch.empty_like(membranes)]
    return ranges[-2], ranges[-1]


def _in_time(spikes: Tensor, membranes: Tensor) -> Tensor:
    """[steps, places in memory] as [steps, N, C, ...]."""
    if membranes.dim() == 2:
        return spikes.view(-1, *membranes.shape)
    images, channels, height, width = membranes.shape
    return spikes.view(-1, images, height, width, channels).permute(0, 1, 4, 2, 3)


@contextmanager
def _launching(
    membranes: Tensor, over_time: Tensor, *channels: Tensor, kind: torch.dtype | None = None
) -> Iterator[None]:
    """Around a kernel, which Triton compiles at its first call and which reads memory as it lies.

    Args:
        membranes: [N, C, ...]; the kernel runs where they are.
        over_time: what it reads at each step, [steps, N, C, ...], or [N, C, ...] where it is always the same.
        channels: of the membranes' type, [C].
        kind: that type, where `membranes` only say how what they are the membranes of lies in memory.
    """
    with relying_on("triton"):
        step = over_time if over_time.dim() == membranes.dim() else over_time[0]
        dense = len(over_time) == 1 or over_time.stride(0) == over_time[0].numel()
        if not (dense and _in_order(membranes) and _in_order(step)):
            raise TypeError("the kernel would misread memory that is not dense, with channels last")
        if any(one.dtype != (kind or membranes.dtype) or not one.is_contiguous() for one in channels):
            raise TypeError("the kernel would misread thresholds or leaks of another type than the membranes")
        with torch.cuda.device(membranes.device) if membranes.device.type == "cuda" else nullcontext():
            yield


def _in_order(values: Tensor) -> bool:
    """Whether channels come last in memory."""
    return values.is_contiguous(memory_format=torch.channels_last if values.dim() == 4 else torch.contiguous_format)


def exact_type(largest_sum: int) -> torch.dtype:
    """The narrowest type in which all partial sums of spikes times codes are exact."""
    if largest_sum <= _EXACT_HALF:
        return torch.float16
    return torch.float32 if largest_sum < _EXACT_SINGLE else torch.float64


def weighted_sums(
    layer: SpikeConv2d | SpikeLinear | SynapseConv2d | SynapseLinear, codes: Tensor, given: Tensor
) -> Tensor:
    """Sums [steps, N, C, ...] of codes times spikes [steps, N, ...], without gain and leak, channels last in memory."""
    x = given.flatten(0, 1).to(codes.dtype)
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(layer, SpikeLinear | SynapseLinear):
            sums = F.linear(x.flatten(1), codes).contiguous()
        else:
            sums = layer._conv_forward(x, codes, None).contiguous(memory_format=torch.channels_last)
    return sums.unflatten(0, given.shape[:2])


def added_up(given: list[Tensor], factors: list[Tensor], steps: int) -> Tensor:
    """The drive of neurons that read several inputs, without the leak, [steps, N, C, ...], channels last in memory.

    Args:
        given: spikes or sums [steps, N, C, ...], or [N, C, ...] where they are the same at every step.
        factors: of each, of the membranes' type, [C].
        steps: how many.
    """
    one = given[0] if given[0].dim() % 2 == 0 else given[0][0]
    total = torch.empty((steps, one.numel()), dtype=factors[0].dtype, device=one.device)
    for number, (x, factor) in enumerate(zip(given, factors, strict=True)):
        with _launching(one, x, factor, kind=factor.dtype):
            _add_over_time[(triton.cdiv(total.numel(), _BLOCK),)](
                x, factor, total, total.numel(), x.numel(), len(factor), fresh=number == 0, block=_BLOCK
            )
    return _in_time(total, one)


def wired(module: nn.Module, given: list[Tensor]) -> Tensor:
    """What a module that computes nothing makes of spikes [steps, N, ...]; channels last in memory."""
    found: Tensor = module(*(x.flatten(0, 1) for x in given))
    return _channels_last(found).unflatten(0, given[0].shape[:2])


def values_at_once(circuit: Circuit) -> int:
    """How many values there are at most that are read later, or are being made or read."""
    last = circuit.last_readers
    return max(sum(one <= now <= last[one] for one in range(len(last))) for now in range(len(last)))


class TritonEngine:
    """Runs a circuit on a GPU.

    Args:
        circuit: the network.

    Raises:
        Unsupported: a layer adds up spikes and floating point numbers.
    """

    name = "triton"
    images_at_once = 1024

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._codes: dict[int, Tensor] = {}
        values = values_at_once(circuit) + 1  # sums, too
        for number, call in enumerate(circuit.calls):
            module = call.module
            if isinstance(module, SpikeAdd) and not module.constant_input:
                if module.input_magnitude is None:
                    raise Unsupported(f"{call.name} adds up spikes and images that are not rounded")
                values = max(values, values_at_once(circuit) + 3)  # integers of twice as many bits
            elif isinstance(module, SpikeConv2d | SpikeLinear | Synapses) and not module.constant_input:
                codes: Any = module.codes
                self._codes[number] = _channels_last(codes.to(exact_type(module.largest_sum)))
        self._values = values

    def counts(self, images: Tensor, *, every_step: bool = False, recording: Recording | None = None) -> Tensor:
        """See `Engine`."""
        steps = min(_STEPS_AT_ONCE, self._circuit.decode.dynamics.timesteps)
        first = self._drives(images[:1], self._circuit.constants(images[:1]))
        widest = 2 * max(drive.numel() for drive in first.values())  # later layers are seldom wider than that
        together = max(1, _BYTES_AT_ONCE // (steps * widest * self._values * torch.float16.itemsize))
        parts = [self._part(part, every_step, recording) for part in images.split(together)]
        if recording is not None:
            for name, _ in self._circuit.layers:
                recording.counts[name] = torch.cat([part.totals[name] for part in parts])
                if recording.everything:
                    recording.spikes[name] = torch.cat([part.spikes[name] for part in parts], dim=1)
                    recording.ranges[name] = _range([bound for part in parts for bound in part.ranges[name]])
        return torch.cat([part.counts for part in parts], dim=1 if every_step else 0)

    def _drives(self, images: Tensor, constants: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Drives, leak included, of the layers that read nothing but what is the same at every step."""
        return {
            number: _channels_last(call.module.drive(*(constants[one] for one in call.inputs)))
            for number, call in enumerate(self._circuit.calls)
            if isinstance(call.module, Spiking) and call.module.constant_input
        }

    def _part(self, images: Tensor, every_step: bool, recording: Recording | None) -> _Part:
        """Run all steps on some images."""
        calls, dynamics = self._circuit.calls, self._circuit.decode.dynamics
        constants = self._circuit.constants(images)
        drives = self._drives(images, constants)
        constants = {number: _channels_last(value) for number, value in constants.items()}
        neurons: dict[int, Neurons] = {}
        names = [name for name, _ in self._circuit.layers]
        pieces: dict[str, list[Tensor]] = {name: [] for name in names}
        ranges: dict[str, list[Tensor]] = {name: [] for name in names}
        totals: dict[str, Tensor] = {}
        everything = recording is not None and recording.everything
        counts: list[Tensor] = []
        for start in range(0, dynamics.timesteps, _STEPS_AT_ONCE):
            steps = min(_STEPS_AT_ONCE, dynamics.timesteps - start)
            values = dict(constants)
            for number, call in enumerate(calls):
                if call.constant:
                    continue
                given = [values[one] for one in call.inputs]
                if isinstance(call.module, Spiking):
                    seen = ranges[call.name] if everything else None
                    values[number] = self._fired(number, given, drives.get(number), steps, neurons, seen)
                    if recording is not None:
                        total = values[number].sum(0, dtype=torch.int32).contiguous()
                        totals[call.name] = total + totals[call.name] if start else total
                    if everything:
                        pieces[call.name].append(values[number].to(torch.uint8))
                elif isinstance(call.module, SynapseConv2d | SynapseLinear):
                    values[number] = weighted_sums(call.module, self._codes[number], given[0])
                else:
                    values[number] = wired(call.module, given)
                del given
                for one in set(call.inputs):
                    if self._circuit.last_readers[one] == number:
                        del values[one]
            spikes = values[len(calls) - 1]
            here = spikes.cumsum(0, dtype=torch.int32) if every_step else spikes.sum(0, dtype=torch.int32)[None]
            counts.append(here + counts[-1][-1:] if counts else here)
        recorded = {name: torch.cat(piece).contiguous() for name, piece in pieces.items() if piece}
        return _Part((torch.cat(counts) if every_step else counts[-1][0]).contiguous(), totals, recorded, ranges)

    def _fired(
        self,
        number: int,
        given: list[Tensor],
        drive: Tensor | None,
        steps: int,
        neurons: dict[int, Neurons],
        ranges: list[Tensor] | None,
    ) -> Tensor:
        """Spikes of a layer with neurons, which are made at the first of its steps; see `fire_over_time`."""
        layer: Any = self._circuit.calls[number].module
        assert layer.dynamics is not None
        zero_reset = layer.dynamics.reset == "zero"

        def ready(shape: torch.Size, kind: torch.dtype) -> Neurons:
            if number not in neurons:
                neurons[number] = neurons_of(layer, shape, kind, self._circuit.decode.dynamics)
            return neurons[number]

        if drive is not None:
            return fire_over_time(ready(drive.shape, drive.dtype), drive, steps, zero_reset, ranges)
        if isinstance(layer, SpikePool2d):
            pooled = ready(pooled_shape(layer, given[0]), torch.int32)
            return pool_over_time(pooled, given[0], zero_reset, ranges)
        if isinstance(layer, SpikeAdd):
            sums = added_up(given, self._factors(number), steps)
        else:
            sums = weighted_sums(layer, self._codes[number], given[0])
        return fire_over_time(ready(sums.shape[1:], layer.membrane_type()), sums, steps, zero_reset, ranges)

    def _factors(self, number: int) -> list[Tensor]:
        """What the inputs of a sum are multiplied by; sums that are the same at every step have their gain in them."""
        layer: Any = self._circuit.calls[number].module
        found = []
        for call, own in zip(self._circuit.given(number), layer.weights, strict=True):
            synapses = isinstance(call.module, Synapses) and not call.constant
            found.append((own * call.module.gain if synapses else own).to(layer.membrane_type()))
        return found


@dataclass(frozen=True, eq=False)
class _Part:
    """What some images gave.

    Attributes:
        counts: as `Engine.counts`.
        totals: per layer, spike counts of the whole run, where anything is recorded.
        spikes: per layer, uint8 [T, N, C, ...], where they are recorded.
        ranges: per layer, tensors that hold the smallest and the largest membranes, where they are recorded.
    """

    counts: Tensor
    totals: dict[str, Tensor]
    spikes: dict[str, Tensor]
    ranges: dict[str, list[Tensor]]


def pooled_shape(pool: SpikePool2d, given: Tensor) -> torch.Size:
    """Shape [N, C, H, W] behind a pooling of spikes [steps, N, C, H, W]."""
    return pool.weighted_sum(torch.empty(given.shape[1:], device="meta")).shape


def _channels_last(values: Tensor) -> Tensor:
    """Maps and kernels with their channels last in memory."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values.contiguous()


def _range(bounds: list[Tensor]) -> Range:
    return float(torch.stack([bound.amin() for bound in bounds]).min()), float(
        torch.stack([bound.amax() for bound in bounds]).max()
    )
