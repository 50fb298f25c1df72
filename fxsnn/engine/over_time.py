"""Neurons over time in Triton: kernels that take all steps in one pass, and what starts them.

Spikes are float16 [steps, N, C, H, W], channels last in memory. With `TRITON_INTERPRET=1` the kernels run on the CPU,
slowly: for tests without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fxsnn.engine.circuit import relying_on
from fxsnn.layers import SpikePool2d, Spiking
from fxsnn.numerics import Dynamics

_BLOCK = 1024


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
    constant: tl.constexpr, whole: tl.constexpr, zero_reset: tl.constexpr, record: tl.constexpr, block: tl.constexpr,
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
        elif whole:
            membrane += tl.load(drive + step * size + place, mask=inside, other=0)
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


def are_compiled() -> bool:
    """Whether the kernels are compiled, for a GPU; what is interpreted is of another class."""
    return isinstance(_fire_over_time, triton.JITFunction)


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
        membranes = channels_last(membranes)
    return Neurons(layer, membranes.copy_(starts.view(-1, *[1] * (len(shape) - 2))), thresholds, layer.leak.to(kind))


def fire_over_time(
    neurons: Neurons,
    drive: Tensor,
    steps: int,
    zero_reset: bool,
    ranges: list[Tensor] | None,
    *,
    whole: bool = False,
) -> Tensor:
    """Spikes float16 [steps, N, C, ...], channels last in memory.

    Args:
        neurons: their membranes are rewritten.
        drive: what is added at each step, [steps, N, C, ...]; or at every one, [N, C, ...]. In memory as the membranes.
        steps: how many.
        zero_reset: whether a spike sets its membrane to 0.
        ranges: is given the smallest and the largest membranes, or `None`.
        whole: the drive has gain and leak in it, and is of the membranes' type; else it is sums without them.
    """
    membranes = neurons.membranes
    spikes = torch.empty((steps, membranes.numel()), dtype=torch.float16, device=membranes.device)
    lows, highs = _extremes(membranes, ranges)
    with _launching(membranes, drive, neurons.thresholds, neurons.leaks):
        _fire_over_time[(triton.cdiv(membranes.numel(), _BLOCK),)](
            drive, membranes, neurons.thresholds, neurons.leaks, spikes, lows, highs, neurons.layer.gain,
            membranes.numel(), membranes.shape[1], steps,
            constant=drive.dim() == membranes.dim(), whole=whole, zero_reset=zero_reset, record=ranges is not None,
            block=_BLOCK,
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


def channels_last(values: Tensor) -> Tensor:
    """Maps and kernels with their channels last in memory."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values.contiguous()
