"""What the CPU engine compiles beside layers of neurons at many places, which are in `over_places`.

Spikes travel in planes, uint8 [steps, groups of channels, places]: bit c of a byte is the spike of channel c of its
group. How many channels a group has, `per_byte`, the instruction set says: 4 or 6. Membranes are kept from call to
call, so that time can be cut into pieces. The functions do not hold Python's lock.

The last argument of a layer's function is `extremes`, an array [2] that is given the smallest and the largest membrane
before a reset, or `None`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxsnn.engine.compiling import compiled


@compiled
def fire_dense(
    given: Any,
    first: Any,
    image_places: Any,
    codes: Any,
    neurons: Any,
    zero_reset: Any,
    sums: Any,
    membranes: Any,
    spikes: Any,
    written: Any,
    channels: Any,
    extremes: Any,
) -> None:
    """Neurons behind a fully connected layer of spikes.

    For each place the sums of all subsets of its channels' codes are made once, those of up to four channels together,
    and serve all steps.

    Args:
        given: uint8 [steps, groups of inputs, places of the plane].
        first: place of the first image in the plane of the input.
        image_places: places from one image to the next in the plane of the input.
        codes: int8 [groups of inputs, places of an image, per_byte, outputs], zero where a place holds no input.
        neurons: [outputs, 3], of the membranes' type: gain, leak, threshold.
        zero_reset: whether a spike sets its membrane to 0.
        sums: [steps or more, some number of outputs], of a type that holds the weighted sums; overwritten. As many
            outputs are computed together.
        membranes: [images, outputs].
        spikes: uint8 [steps, groups, places of the plane], written.
        written: place of the first image's neurons in their plane.
        channels: how many of the outputs are real.
        extremes: see the module.
    """
    cast = membranes.dtype.type
    steps = len(given)
    images, outputs = membranes.shape
    together, per_byte = sums.shape[1], codes.shape[2]
    parts = 1 if per_byte <= 4 else 2
    bits = per_byte // parts
    table = np.zeros((1 << bits, together), np.int8)
    for image in range(images):
        for start in range(0, outputs, together):
            width = min(together, outputs - start)
            sums[:] = 0
            for group in range(given.shape[1]):
                for place in range(image_places):
                    seen = np.uint8(0)
                    for step in range(steps):
                        seen |= given[step, group, first + image * image_places + place]
                    if seen == 0:
                        continue
                    for part in range(parts):
                        for channel in range(bits):
                            row = codes[group, place, part * bits + channel, start : start + width]
                            for entry in range(1 << channel):
                                smaller, larger = table[entry], table[entry + (1 << channel)]
                                for output in range(width):
                                    larger[output] = smaller[output] + row[output]
                        for step in range(steps):
                            byte = np.int64(given[step, group, first + image * image_places + place])
                            chosen = table[(byte >> (part * bits)) & ((1 << bits) - 1)]
                            total = sums[step]
                            for output in range(width):
                                total[output] += chosen[output]
            for step in range(steps):
                for output in range(start, start + width):
                    drive = cast(cast(sums[step, output - start]) * neurons[output, 0] + neurons[output, 1])
                    value = cast(membranes[image, output] + drive)
                    if extremes is not None and output < channels:
                        extremes[0] = min(extremes[0], value)
                        extremes[1] = max(extremes[1], value)
                    spike = value >= neurons[output, 2]
                    taken = value if zero_reset else neurons[output, 2]
                    membranes[image, output] = cast(value - taken) if spike else value
                    sums[step, output - start] = spike
                for output in range(start, start + width, per_byte):
                    fired = np.uint8(0)
                    for channel in range(per_byte):
                        fired |= np.uint8(np.uint8(sums[step, output - start + channel]) << np.uint8(channel))
                    spikes[step, output // per_byte, written + image] = fired


@compiled
def wire(
    memory: Any, wires: Any, origins: Any, strides: Any, between: Any, wired: Any, images: Any, apart: Any
) -> None:
    """Put spikes elsewhere.

    Args:
        memory: uint8, one-dimensional, in which the planes of all inputs are.
        wires: int64 [wires, 8], see `Wires`.
        origins: int64 [inputs], where in the memory the planes of an input begin.
        strides: int64 [inputs], how far they are from one step to the next.
        between: int64 [inputs], places from one image to the next.
        wired: uint8 [steps, groups, places of the plane], all zero; added to.
        images: how many images.
        apart: places from one image to the next in what is written.
    """
    steps, groups, plane = wired.shape
    target = wired.reshape(-1)
    for step in range(steps):
        for wire in range(len(wires)):
            number, source, across, begin, advance, length, shift, chosen = wires[wire]
            left, right, mask = np.uint8(max(shift, 0)), np.uint8(max(-shift, 0)), np.uint8(chosen)
            for image in range(images):
                read = origins[number] + step * strides[number] + source + image * between[number]
                written = step * groups * plane + begin + image * apart
                if across == 1 and advance == 1:
                    taken, put = memory[read : read + length], target[written : written + length]
                    for place in range(length):
                        put[place] |= np.uint8(np.uint8(taken[place] << left) >> right) & mask
                else:
                    for _ in range(length):
                        target[written] |= np.uint8(np.uint8(memory[read] << left) >> right) & mask
                        read, written = read + across, written + advance


@compiled
def unpack(per_byte: Any, given: Any, places: Any, spikes: Any) -> None:
    """Write spikes out as 0 and 1.

    Args:
        per_byte: channels of a byte.
        given: uint8 [steps, groups, places of the plane].
        places: int64 [images, outputs of a channel]; images beyond those of `spikes` are left out.
        spikes: uint8 [steps, images, channels, outputs], written.
    """
    steps, images, channels, outputs = spikes.shape
    for step in range(steps):
        for image in range(images):
            for channel in range(channels):
                plane, shift = given[step, channel // per_byte], np.uint8(channel % per_byte)
                for output in range(outputs):
                    spikes[step, image, channel, output] = plane[places[image, output]] >> shift & 1


@compiled
def add_counts(per_byte: Any, given: Any, places: Any, counts: Any) -> None:
    """Add up spikes over time.

    Args:
        per_byte: channels of a byte.
        given: uint8 [steps, groups, places of the plane]; at most 255 steps.
        places: int64 [images, outputs of a channel]; images beyond those of `counts` are left out.
        counts: int32 [images, channels, outputs], added to.
    """
    steps, groups, plane = given.shape
    images, channels, outputs = counts.shape
    sums = np.empty(plane, np.uint64)
    for group in range(groups):
        sums[:] = 0
        for step in range(steps):
            spikes = given[step, group]
            for place in range(plane):  # bit c of a byte goes to byte c of a word
                sums[place] += (np.uint64(spikes[place]) * np.uint64(0x40810204081)) & np.uint64(0x01010101010101)
        for image in range(images):
            for channel in range(group * per_byte, min(channels, (group + 1) * per_byte)):
                shift = np.uint64(8 * (channel % per_byte))
                for output in range(outputs):
                    counts[image, channel, output] += np.int32((sums[places[image, output]] >> shift) & np.uint64(0xFF))
