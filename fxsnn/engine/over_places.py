"""Layers of neurons, for all steps: one pass over time, a run of places at a time, see `fxsnn.engine.vector_code`.

Below, C are the channels of a byte, and L the places of a run, which the instruction set says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxsnn.engine.compiling import compiled
from fxsnn.engine.vector_code import (
    TAKEN,
    add_places,
    add_spikes,
    fire_driven_places,
    fire_places,
    take_every_second,
)


@compiled
def fire_convolution(
    how: Any,
    tables: Any,
    sources: Any,
    flushes: Any,
    blocks: Any,
    neurons: Any,
    starts: Any,
    fresh: Any,
    zero_reset: Any,
    mask: Any,
    given: Any,
    membranes: Any,
    runs: Any,
    spikes: Any,
    first: Any,
    observed: Any,
    reached: Any,
    extremes: Any,
) -> None:
    """Neurons behind a convolution of spikes.

    Args:
        how: the instruction set.
        tables: as in `ConvolutionTables`.
        sources: int64 [lookups], where in the planes of one step the first place's index is.
        flushes: as in `ConvolutionTables`.
        blocks: as in `ConvolutionTables`.
        neurons: [groups, C, 3], of the membranes' type: gain, leak (with what the tables' offset needs), threshold.
        starts: [groups, C], of that type: where membranes start.
        fresh: whether they start now.
        zero_reset: whether a spike sets its membrane to 0.
        mask: uint8 [places], 255 where there is a neuron, else 0.
        given: uint8 [steps, groups of inputs, places of the plane].
        membranes: [groups, runs of places, C, L] in the order of a run. If these steps are all there are, one run's
            room is enough.
        runs: runs of places.
        spikes: uint8 [steps, groups, places of the plane], written from `first` on.
        first: place of the first neuron in its plane.
        observed: bool [groups, C, places] in the order of a run, the neurons that there are; or `None`.
        reached: [C, L], of the membranes' type, overwritten; or `None`.
        extremes: see `fxsnn.engine.kernels`; or `None`, and then the two before it too.
    """
    steps, groups, plane = spikes.shape
    given_stride = given.shape[1] * given.shape[2]
    inputs, outputs = given.reshape(-1), spikes.reshape(-1)
    # What a run of places reads in one step stays in the first cache, and serves all channels.
    for run in range(runs):
        place, kept = run * how.lanes, min(run, membranes.shape[1] - 1)
        if fresh:
            _start(membranes, kept, starts)
        for step in range(steps):
            for block in range(groups):
                fire_places(
                    how,
                    tables,
                    sources,
                    flushes,
                    blocks[block],
                    blocks[block + 1],
                    inputs,
                    step * given_stride + place,
                    None,
                    None,
                    0,
                    None,
                    membranes[block, kept],
                    neurons[block],
                    zero_reset,
                    reached,
                    mask,
                    place,
                    outputs,
                    (step * groups + block) * plane + first + place,
                )
                if extremes is not None:
                    _observe(reached, observed[block, :, place : place + how.lanes], extremes)


@compiled
def fire_sum(
    how: Any,
    tables: Any,
    sources: Any,
    flushes: Any,
    blocks: Any,
    neurons: Any,
    memory: Any,
    origins: Any,
    strides: Any,
    plain: Any,
    gains: Any,
    leaks: Any,
    constant: Any,
    places: Any,
    starts: Any,
    fresh: Any,
    zero_reset: Any,
    mask: Any,
    membranes: Any,
    runs: Any,
    spikes: Any,
    first: Any,
    observed: Any,
    reached: Any,
    extremes: Any,
) -> None:
    """Neurons that add up several inputs: convolutions of spikes, one at least, and spikes as they are.

    Args:
        how: the instruction set.
        tables: as in `ConvolutionTables`, those of all convolutions.
        sources: int64 [lookups], where in the planes of one step of its input the first place's index is.
        flushes: as in `ConvolutionTables`, those of all convolutions.
        blocks: int64 [convolutions, groups + 1], where in `flushes` each block of each convolution begins.
        neurons: [convolutions, groups, C, 3], of the membranes' type: gain of the convolution, a number that does not
            count, threshold.
        memory: uint8, one-dimensional, in which all that is read is.
        origins: int64 [convolutions], where in it the planes that they read begin.
        strides: int64 [convolutions], how far these are from one step to the next.
        plain: int64 [inputs, 3], of spikes that are added as they are: where in `memory` the first place is, and how
            far it is from one step and from one group to the next.
        gains: [inputs, groups, C], of the membranes' type, what these add; `None` where there are none.
        leaks: [groups, C], of that type: leak, with what the tables' offsets need.
        constant: what is added at every step beside that, [images, channels, outputs]; or `None`.
        places: as `sources` of `fire_constant`, for `constant`; or `None`.
        starts: as in `fire_convolution`.
        fresh: as in `fire_convolution`.
        zero_reset: as in `fire_convolution`.
        mask: as in `fire_convolution`.
        membranes: as in `fire_convolution`.
        runs: as in `fire_convolution`.
        spikes: as in `fire_convolution`.
        first: as in `fire_convolution`.
        observed: as in `fire_convolution`.
        reached: as in `fire_convolution`.
        extremes: as in `fire_convolution`.
    """
    steps, groups, plane = spikes.shape
    last, others = len(origins) - 1, len(plain) - 1
    outputs = spikes.reshape(-1)
    cast = membranes.dtype.type
    # What is constant, and the drive in the making.
    drives = np.empty((groups + 1, how.per_byte, how.lanes), membranes.dtype)
    for run in range(runs):
        place, kept = run * how.lanes, min(run, membranes.shape[1] - 1)
        if fresh:
            _start(membranes, kept, starts)
        if constant is not None or run == 0:
            for block in range(groups):
                for channel in range(how.per_byte):
                    drives[block, channel, :] = leaks[block, channel]
                    number = block * how.per_byte + channel
                    if constant is not None and number < constant.shape[1]:
                        given, offset = constant.reshape(-1), np.uint64(number * constant.shape[2])
                        for i in range(how.lanes):
                            drives[block, channel, i] += cast(given[places[run, i] + offset])
        for step in range(steps):
            for block in range(groups):
                made = block
                if gains is not None:
                    for one in range(others):
                        add_spikes(
                            how,
                            memory,
                            plain[one, 0] + step * plain[one, 1] + block * plain[one, 2] + place,
                            drives[made],
                            gains[one, block],
                            drives[groups],
                        )
                        made = groups
                for one in range(last):
                    add_places(
                        how,
                        tables,
                        sources,
                        flushes,
                        blocks[one, block],
                        blocks[one, block + 1],
                        memory,
                        origins[one] + step * strides[one] + place,
                        drives[made],
                        neurons[one, block],
                        drives[groups],
                    )
                    made = groups
                if gains is None:
                    fire_places(
                        how,
                        tables,
                        sources,
                        flushes,
                        blocks[last, block],
                        blocks[last, block + 1],
                        memory,
                        origins[last] + step * strides[last] + place,
                        drives[made],
                        None,
                        0,
                        None,
                        membranes[block, kept],
                        neurons[last, block],
                        zero_reset,
                        reached,
                        mask,
                        place,
                        outputs,
                        (step * groups + block) * plane + first + place,
                    )
                else:
                    fire_places(
                        how,
                        tables,
                        sources,
                        flushes,
                        blocks[last, block],
                        blocks[last, block + 1],
                        memory,
                        origins[last] + step * strides[last] + place,
                        drives[made],
                        memory,
                        plain[others, 0] + step * plain[others, 1] + block * plain[others, 2] + place,
                        gains[others, block],
                        membranes[block, kept],
                        neurons[last, block],
                        zero_reset,
                        reached,
                        mask,
                        place,
                        outputs,
                        (step * groups + block) * plane + first + place,
                    )
                if extremes is not None:
                    _observe(reached, observed[block, :, place : place + how.lanes], extremes)


@compiled
def fire_constant(
    how: Any,
    sums: Any,
    sources: Any,
    neurons: Any,
    starts: Any,
    fresh: Any,
    zero_reset: Any,
    mask: Any,
    membranes: Any,
    runs: Any,
    spikes: Any,
    first: Any,
    observed: Any,
    reached: Any,
    extremes: Any,
) -> None:
    """Neurons under a drive that does not change.

    Args:
        how: the instruction set.
        sums: weighted sums, [images, channels, outputs]; whole numbers in a floating type, unless the input is analog.
        sources: uint64 [runs of places, L] in the order of a run, where among the sums that of the first channel is;
            anything where there is no neuron.
        neurons: as in `fire_convolution`; the drive is sum * gain + leak.
        starts: as in `fire_convolution`.
        fresh: as in `fire_convolution`.
        zero_reset: as in `fire_convolution`.
        mask: as in `fire_convolution`.
        membranes: as in `fire_convolution`; integers or float64.
        runs: as in `fire_convolution`.
        spikes: as in `fire_convolution`.
        first: as in `fire_convolution`.
        observed: as in `fire_convolution`.
        reached: as in `fire_convolution`.
        extremes: as in `fire_convolution`.
    """
    steps, groups, plane = spikes.shape
    channels, spread = sums.shape[1], sums.shape[2]
    given, outputs = sums.reshape(-1), spikes.reshape(-1)
    cast = membranes.dtype.type
    drive = np.zeros((how.per_byte, how.lanes), membranes.dtype)
    for run in range(runs):
        place, kept = run * how.lanes, min(run, membranes.shape[1] - 1)
        if fresh:
            _start(membranes, kept, starts)
        for block in range(groups):
            for channel in range(min(how.per_byte, channels - block * how.per_byte)):
                gain, leak = neurons[block, channel, 0], neurons[block, channel, 1]
                offset = np.uint64((block * how.per_byte + channel) * spread)
                for i in range(how.lanes):
                    drive[channel, i] = cast(given[sources[run, i] + offset]) * gain + leak
            for step in range(steps):
                fire_driven_places(
                    how,
                    drive,
                    membranes[block, kept],
                    neurons[block],
                    zero_reset,
                    reached,
                    mask,
                    place,
                    outputs,
                    (step * groups + block) * plane + first + place,
                )
                if extremes is not None:
                    _observe(reached, observed[block, :, place : place + how.lanes], extremes)


@compiled
def _start(membranes: Any, run: Any, starts: Any) -> None:
    """Set the membranes of a run of places to where they start."""
    for block in range(len(starts)):
        for channel in range(starts.shape[1]):
            membranes[block, run, channel, :] = starts[block, channel]


@compiled
def _observe(reached: Any, observed: Any, extremes: Any) -> None:
    """Widen `extremes` by what the observed membranes came to."""
    for channel in range(reached.shape[0]):
        for i in range(reached.shape[1]):
            if observed[channel, i]:
                extremes[0] = min(extremes[0], reached[channel, i])
                extremes[1] = max(extremes[1], reached[channel, i])


@compiled
def copy_rows(given: Any, rows: Any, stride: Any, copies: Any, copied: Any) -> None:
    """Copy every stride-th place of rows of spikes.

    Args:
        given: uint8 [steps, groups, places of the plane].
        rows: int64 [rows, 4]: where a row begins in the plane it is copied from, which copy it belongs to, where it
            begins there, and how many places it has.
        stride: from one place that is copied to the next.
        copies: how many copies are made of each group.
        copied: uint8 [steps, groups * copies, places of the plane], written.
    """
    steps, groups, plane = given.shape
    copied_plane = copied.shape[2]
    source, target, across = given.reshape(-1), copied.reshape(-1), np.uint64(stride)
    for part in range(steps * groups):
        for row in range(len(rows)):
            begin, length = part * plane + rows[row, 0], rows[row, 3]
            written = (part * copies + rows[row, 1]) * copied_plane + rows[row, 2]
            # The eighth pair may end one place behind the row, so there has to be one in the array.
            while stride == 2 and length >= TAKEN and begin + 2 * TAKEN <= len(source):
                take_every_second(source, begin, target, written)
                written, begin, length = written + TAKEN, begin + 2 * TAKEN, length - TAKEN
            # Unsigned indices: numba would ask of signed ones whether they count from the end.
            begin, written = np.uint64(begin), np.uint64(written)
            for place in range(np.uint64(length)):
                target[written + place] = source[begin + across * place]
