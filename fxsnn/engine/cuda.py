"""The CUDA engine: convolutions in the narrowest exact type, and one pass over time in Triton.

Spikes travel as float16 [steps, N, C, H, W], channels last in memory: cuDNN computes such convolutions as matrix
products, in which whole numbers stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsnn.engine.circuit import Circuit, Range, Recording, Unsupported
from fxsnn.engine.over_time import (
    Neurons,
    added_up,
    are_compiled,
    channels_last,
    fire_over_time,
    neurons_of,
    pool_over_time,
)
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

_STEPS_AT_ONCE = 32
"""Steps that a layer runs before the next one does; membranes are kept from one piece of time to the next."""
_BYTES_AT_ONCE = 1 << 30
"""What the spikes and sums of a layer may take."""
_EXACT_HALF = 1 << 11
_EXACT_SINGLE = 1 << 22
"""Whole sums of a smaller magnitude are exact in float32 with a half added."""


def obstacle(device: torch.device) -> str:
    """Why the engine cannot run there; "" if it can."""
    if device.type != "cuda" and are_compiled():
        return f"it runs on CUDA, the network is on {device}"
    return ""


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


def wired(module: nn.Module, given: list[Tensor]) -> Tensor:
    """What a module that computes nothing makes of spikes [steps, N, ...]; channels last in memory."""
    found: Tensor = module(*(x.flatten(0, 1) for x in given))
    return channels_last(found).unflatten(0, given[0].shape[:2])


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
            if call.images or circuit.is_driven(number):
                continue
            if isinstance(module, SpikeAdd):
                if module.input_magnitude is None:
                    raise Unsupported(f"{call.name} adds up spikes and images that are not rounded")
                values = max(values, values_at_once(circuit) + 3)  # integers of twice as many bits
            elif isinstance(module, SpikeConv2d | SpikeLinear | Synapses):
                codes: Any = module.codes
                self._codes[number] = channels_last(codes.to(exact_type(module.largest_sum)))
        self._values = values

    def counts(self, images: Tensor, *, every_step: bool = False, recording: Recording | None = None) -> Tensor:
        """See `Engine`."""
        timesteps = self._circuit.decode.dynamics.timesteps
        constants = self._circuit.of_images(images[:1])
        first = self._drives(constants)
        driven = sum(one.nbytes for one in (*constants.values(), *first.values()))  # by all frames
        shares = timesteps if self._circuit.frames else 1
        widest = 2 * max(drive.numel() for drive in first.values()) // shares  # later layers are seldom wider than that
        taken = min(_STEPS_AT_ONCE, timesteps) * widest * self._values * torch.float16.itemsize
        together = max(1, _BYTES_AT_ONCE // (taken + (driven if self._circuit.frames else 0)))
        parts = [self._part(part, every_step, recording) for part in images.split(together)]
        if recording is not None:
            for name, _ in self._circuit.layers:
                recording.counts[name] = torch.cat([part.totals[name] for part in parts])
                if recording.everything:
                    recording.spikes[name] = torch.cat([part.spikes[name] for part in parts], dim=1)
                    recording.ranges[name] = _range([bound for part in parts for bound in part.ranges[name]])
        return torch.cat([part.counts for part in parts], dim=1 if every_step else 0)

    def _drives(self, constants: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Drives, leak included, of the layers that read nothing but what comes of images alone.

        Args:
            constants: see `Circuit.of_images`.
        """
        found = {}
        for number, call in enumerate(self._circuit.calls):
            if self._circuit.is_driven(number):
                layer: Any = call.module
                found[number] = layer.drive(*(constants[one] for one in call.inputs))
        return found

    def _laid_out(self, values: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Values with their channels last in memory; of frames, [T * N, ...], as [T, N, ...]."""
        found = {number: channels_last(value) for number, value in values.items()}
        if not self._circuit.frames:
            return found
        timesteps = self._circuit.decode.dynamics.timesteps
        return {number: value.unflatten(0, (timesteps, -1)) for number, value in found.items()}

    def _part(self, images: Tensor, every_step: bool, recording: Recording | None) -> _Part:
        """Run all steps on some images."""
        calls, dynamics = self._circuit.calls, self._circuit.decode.dynamics
        of_images = self._circuit.of_images(images)
        constants, drives = self._laid_out(of_images), self._laid_out(self._drives(of_images))
        neurons: dict[int, Neurons] = {}
        names = [name for name, _ in self._circuit.layers]
        pieces: dict[str, list[Tensor]] = {name: [] for name in names}
        ranges: dict[str, list[Tensor]] = {name: [] for name in names}
        totals: dict[str, Tensor] = {}
        everything = recording is not None and recording.everything
        counts: list[Tensor] = []
        for start in range(0, dynamics.timesteps, _STEPS_AT_ONCE):
            steps = min(_STEPS_AT_ONCE, dynamics.timesteps - start)
            now = slice(start, start + steps) if self._circuit.frames else slice(None)
            values = {number: value[now] for number, value in constants.items()}
            driven = {number: drive[now] for number, drive in drives.items()}
            for number, call in enumerate(calls):
                if call.images:
                    continue
                given = [values[one] for one in call.inputs]
                if isinstance(call.module, Spiking):
                    seen = ranges[call.name] if everything else None
                    values[number] = self._fired(number, given, driven.get(number), steps, neurons, seen)
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
            shape = drive.shape[1:] if self._circuit.frames else drive.shape
            return fire_over_time(ready(shape, drive.dtype), drive, steps, zero_reset, ranges, whole=True)
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
            synapses = isinstance(call.module, Synapses) and not call.images
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


def _range(bounds: list[Tensor]) -> Range:
    return float(torch.stack([bound.amin() for bound in bounds]).min()), float(
        torch.stack([bound.amax() for bound in bounds]).max()
    )
