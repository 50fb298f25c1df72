"""The CUDA engine: convolutions in the narrowest exact type, and one pass over time in Triton.

Spikes travel as float16 [steps, N, C, H, W], channels last in memory: cuDNN computes such convolutions as matrix
products, in which whole numbers stay whole. With `TRITON_INTERPRET=1` the kernels run on the CPU, slowly: for tests
without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from fxsnn.engine.chain import Chain, Range, Recording, relying_on
from fxsnn.layers import SpikeAvgPool2d, SpikeConv2d, SpikeLinear, Spiking, pair
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
            # A sum is whole, but for what a transform-based convolution may leave behind.
            loaded = tl.load(drive + step * size + place, mask=inside, other=0)
            # From 1,024 on, float16 has no halves.
            total = loaded.to(tl.float32) if loaded.dtype == tl.float16 else loaded
            total = tl.where(total >= 0, total + 0.5, total - 0.5).to(membrane.dtype)
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
    down, across, above, left, steps,
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
                there = inside & (y + i >= 0) & (y + i < rows) & (x + j >= 0) & (x + j < columns)
                source = ((image * rows + y + i) * columns + x + j) * channels + channel
                membrane += tl.load(given + step * given_size + source, mask=there, other=0).to(membrane.dtype)
        if record:
            low = tl.where(step == 0, membrane, tl.minimum(low, membrane))
            high = tl.where(step == 0, membrane, tl.maximum(high, membrane))
        spike = membrane >= tall * wide
        membrane = tl.where(spike, 0 if zero_reset else membrane - tall * wide, membrane)
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
    assert isinstance(pool, SpikeAvgPool2d)
    spikes = torch.empty((steps, membranes.numel()), dtype=torch.float16, device=membranes.device)
    lows, highs = _extremes(membranes, ranges)
    (down, across), (above, left) = pair(pool.stride), pair(pool.padding)
    tall, wide = pool.window()
    with _launching(membranes, given):
        _pool_over_time[(triton.cdiv(membranes.numel(), _BLOCK),)](
            given, membranes, spikes, lows, highs, membranes.numel(), given[0].numel(), membranes.shape[1],
            *membranes.shape[2:], *given.shape[3:], down, across, above, left, steps,
            zero_reset=zero_reset, record=ranges is not None, tall=tall, wide=wide, block=_BLOCK,
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
def _launching(membranes: Tensor, over_time: Tensor, *channels: Tensor) -> Iterator[None]:
    """Around a kernel, which Triton compiles at its first call and which reads memory as it lies.

    Args:
        membranes: [N, C, ...]; the kernel runs where they are.
        over_time: what it reads at each step, [steps, N, C, ...], or [N, C, ...] where it is always the same.
        channels: of the membranes' type, [C].
    """
    with relying_on("triton"):
        step = over_time if over_time.dim() == membranes.dim() else over_time[0]
        dense = len(over_time) == 1 or over_time.stride(0) == over_time[0].numel()
        if not (dense and _in_order(membranes) and _in_order(step)):
            raise TypeError("the kernel would misread memory that is not dense, with channels last")
        if any(one.dtype != membranes.dtype or not one.is_contiguous() for one in channels):
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


def weighted_sums(layer: SpikeConv2d | SpikeLinear, codes: Tensor, given: Tensor) -> Tensor:
    """Sums [steps, N, C, ...] of codes times spikes [steps, N, ...], without gain and leak, channels last in memory."""
    x = given.flatten(0, 1).to(codes.dtype)
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(layer, SpikeLinear):
            sums = F.linear(x.flatten(1), codes).contiguous()
        else:
            sums = layer._conv_forward(x, codes, None).contiguous(memory_format=torch.channels_last)
    return sums.unflatten(0, given.shape[:2])


class TritonEngine:
    """Runs a chain on a GPU.

    Args:
        chain: the network.
    """

    name = "triton"
    images_at_once = 1024

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._codes: dict[str, Tensor] = {}
        for name, layer in chain.layers[1:]:
            if isinstance(layer, SpikeConv2d | SpikeLinear):
                codes = layer.codes.to(exact_type(layer.largest_sum))
                self._codes[name] = _channels_last(codes)

    def counts(self, images: Tensor, *, every_step: bool = False, recording: Recording | None = None) -> Tensor:
        """See `Engine`."""
        steps = min(_STEPS_AT_ONCE, self._chain.decode.dynamics.timesteps)
        widest = 2 * self._drive(images[:1]).numel()  # later layers are seldom wider than twice the first
        together = max(1, _BYTES_AT_ONCE // (steps * widest * 3 * torch.float16.itemsize))
        parts = [self._part(part, every_step, recording) for part in images.split(together)]
        if recording is not None:
            for name, _ in self._chain.layers:
                recording.counts[name] = torch.cat([part.totals[name] for part in parts])
                if recording.everything:
                    recording.spikes[name] = torch.cat([part.spikes[name] for part in parts], dim=1)
                    recording.ranges[name] = _range([bound for part in parts for bound in part.ranges[name]])
        return torch.cat([part.counts for part in parts], dim=1 if every_step else 0)

    def _drive(self, images: Tensor) -> Tensor:
        return _channels_last(self._chain.layers[0][1].drive(self._chain.prepared(images)))

    def _part(self, images: Tensor, every_step: bool, recording: Recording | None) -> _Part:
        """Run all steps on some images."""
        dynamics = self._chain.decode.dynamics
        zero_reset = dynamics.reset == "zero"
        drive = self._drive(images)
        neurons: dict[str, Neurons] = {}
        pieces: dict[str, list[Tensor]] = {name: [] for name, _ in self._chain.layers}
        ranges: dict[str, list[Tensor]] = {name: [] for name, _ in self._chain.layers}
        totals: dict[str, Tensor] = {}
        everything = recording is not None and recording.everything
        counts: list[Tensor] = []
        for start in range(0, dynamics.timesteps, _STEPS_AT_ONCE):
            steps = min(_STEPS_AT_ONCE, dynamics.timesteps - start)
            spikes = drive
            for name, layer in self._chain.layers:
                seen = ranges[name] if everything else None
                if isinstance(layer, SpikeAvgPool2d):
                    if name not in neurons:
                        neurons[name] = neurons_of(layer, pooled_shape(layer, spikes), torch.int32, dynamics)
                    spikes = pool_over_time(neurons[name], spikes, zero_reset, seen)
                else:
                    assert isinstance(layer, SpikeConv2d | SpikeLinear)
                    sums = spikes if layer.constant_input else weighted_sums(layer, self._codes[name], spikes)
                    if name not in neurons:
                        shape = sums.shape if layer.constant_input else sums.shape[1:]
                        kind = sums.dtype if layer.constant_input else layer.membrane_type()
                        neurons[name] = neurons_of(layer, shape, kind, dynamics)
                    spikes = fire_over_time(neurons[name], sums, steps, zero_reset, seen)
                if recording is not None:
                    total = spikes.sum(0, dtype=torch.int32).contiguous()
                    totals[name] = total + totals[name] if start else total
                if everything:
                    pieces[name].append(spikes.to(torch.uint8))
            here = spikes.cumsum(0, dtype=torch.int32) if every_step else spikes.sum(0, dtype=torch.int32)[None]
            counts.append(here + counts[-1][-1:] if counts else here)
        recorded = {name: torch.cat(piece).contiguous() for name, piece in pieces.items() if piece}
        return _Part((torch.cat(counts) if every_step else counts[-1][0]).contiguous(), totals, recorded, ranges)


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


def pooled_shape(pool: SpikeAvgPool2d, given: Tensor) -> torch.Size:
    """Shape [N, C, H, W] behind a pooling of spikes [steps, N, C, H, W]."""
    return pool.weighted_sum(torch.empty(given.shape[1:], device="meta")).shape


def _channels_last(values: Tensor) -> Tensor:
    """Maps and kernels with their channels last in memory."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values.contiguous()


def _range(bounds: list[Tensor]) -> Range:
    return float(torch.stack([bound.amin() for bound in bounds]).min()), float(
        torch.stack([bound.amax() for bound in bounds]).max()
    )
