"""What the CPU engine compiles for processors with a matrix unit, see `tile_code`.

Maps of spikes lie in one memory, uint8. The row of a place and a step begins at
`begin + place * between places + step * between steps`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxsnn.engine.compiling import compiled
from fxsnn.engine.tile_code import ROW, ROWS, TILE, configure, multiply_by_one, multiply_by_two, release
from fxsnn.engine.tile_neurons import fire_one, fire_two, scale_row

LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("first_term", "terms", "first_source", "first_bound", "first_gain"),
            *("first_tile", "tiles", "together", "channels", "pairs_together", "first_neuron", "first_membrane"),
            *("first_drive", "between_drives", "to_zero", "first_empty", "last_empty"),
            *("written", "between_places", "between_steps", "copies"),
        )
    ]
)
"""What `fire_layers` is told of a layer."""


@compiled
def fire_layers(
    layers: Any,
    shapes: Any,
    steps: Any,
    memory: Any,
    maps: Any,
    sources: Any,
    offsets: Any,
    codes: Any,
    bounds: Any,
    gains: Any,
    neurons: Any,
    drives: Any,
    drive_step: Any,
    outputs: Any,
    tiles: Any,
    membranes: Any,
    fresh: Any,
    zero_reset: Any,
    empty: Any,
    extremes: Any,
) -> None:
    """The neurons of some layers, all steps of one after those of the other.

    Args:
        layers: `LAYER` [layers], for each: its first term and how many there are; where in `sources`, `bounds` and
            `gains` what belongs to it begins; the same of `tiles`, how many there are, and places of each; tiles of
            channels, and how many pairs of them are computed for a tile of rows before the next one; where in
            `neurons`, in `membranes` (-1: they are not kept) and in `drives` (-1: there is none) its own begin;
            elements of a drive from one step to the next; whether a spike sets its membrane to 0 in any case; first
            and last range, exclusive, in `empty`; where the map begins that is written, between its places and between
            its steps, and how often spikes are written: at each place behind those of the neighbours to its left.
        shapes: uint8 [layers, 64], of the tiles, see `shapes_of_tiles`.
        steps: how many.
        memory: uint8, one-dimensional, read and written.
        maps: int64 [terms, 3], where in it the map begins that each term reads, between places of this map, and between
            rows of a tile.
        sources: int64, of each term and tile of rows the place whose row is the first.
        offsets: int64 [products], from there to the first row of the product's tile, in bytes.
        codes: int8 [products, 2, bytes of a tile].
        bounds: int64, of each term the products of each pair of tiles of channels.
        gains: of the membranes' type, [terms, tiles of channels, 16] of each layer.
        neurons: of that type, [tiles of channels, 3, 16] of each layer: leak, threshold, start.
        drives: of that type, what images add, rows of all tiles of channels.
        drive_step: the step of the drives that is the first one.
        outputs: int64, of each place of each tile of rows the number of its row in the drive.
        tiles: int64, of each place of each tile of rows the place in the map that is written; -1 for none.
        membranes: [tiles of channels, tiles of rows, places of a tile, 16] of each layer whose membranes are kept.
        fresh: whether membranes start here.
        zero_reset: whether all resets are to 0.
        empty: int64 [ranges, 2], bytes of the memory to clear.
        extremes: of a single layer, [tiles of channels, 2, 16], the smallest and the largest membrane before a reset;
            or `None`.
    """
    item = membranes.itemsize
    size = item * ROWS
    widest = np.int64(1)
    for layer in range(len(layers)):
        widest = max(widest, layers[layer].terms)
    room = np.empty(widest * TILE + ROW, np.int32)
    lead = (-room.ctypes.data) % ROW // room.itemsize
    sums = room[lead : lead + widest * TILE]
    for layer in range(len(layers)):
        one = layers[layer]
        for number in range(one.first_empty, one.last_empty):
            memory[empty[number, 0] : empty[number, 1]] = 0
        rows, together, channels = one.tiles, one.together, one.channels
        to_zero = zero_reset or one.to_zero > 0
        kept, driven = one.first_membrane >= 0, one.first_drive >= 0
        first_drive = one.first_drive + drive_step * one.between_drives
        pairs, between_copies = -(-channels // 2), channels * ROWS - one.between_places
        halves = -(-rows // 2)
        configure(shapes[layer])
        for block in range(-(-pairs // one.pairs_together) * halves):
            first_pair, upper = block // halves * one.pairs_together, 2 * (block % halves)
            lower = min(upper + 1, rows - 1)
            for pair in range(first_pair, min(first_pair + one.pairs_together, pairs)):
                tile, wide = 2 * pair, min(2, channels - 2 * pair)
                for term in range(one.terms):
                    begin, between = maps[one.first_term + term, 0], maps[one.first_term + term, 1]
                    source, bound = one.first_source + term * rows, one.first_bound + term * (pairs + 1) + pair
                    given = (
                        memory, begin + sources[source + upper] * between, begin + sources[source + lower] * between,
                        maps[one.first_term + term, 2], offsets, codes, bounds[bound], bounds[bound + 1],
                        sums, term * 4 * TILE,
                    )  # fmt: skip
                    if wide == 2:
                        multiply_by_two(*given)
                    else:
                        multiply_by_one(*given)
                for number in range(upper, lower + 1):
                    for place in range(together):
                        index, other = number * together + place, lower * together + place
                        target = tiles[one.first_tile + index]
                        # With a single tile of channels, neurons of two tiles of rows are computed together.
                        both = wide == 1 and lower > upper and tiles[one.first_tile + upper * together + place] >= 0
                        both = both and tiles[one.first_tile + other] >= 0
                        if target < 0 or (both and number == lower):
                            continue
                        output, further = np.int64(0), np.int64(0)
                        if driven:
                            output = outputs[one.first_tile + index] * channels
                            further = outputs[one.first_tile + other] * channels - output
                        apart = (TILE, size, size, 3 * size, rows * together * size, ROWS, 2 * size)
                        if both:
                            places = tiles[one.first_tile + other] - target
                            apart = (
                                2 * TILE, 0, further * size, 0, (other - index) * size, places * one.between_places, 0,
                            )  # fmt: skip
                        state = (tile * rows * together + index) * size + one.first_membrane * item
                        neurons_of = (
                            steps, sums, (number - upper) * 2 * TILE + place * steps * ROW,
                            one.terms, 4 * TILE,
                            gains, one.first_gain * item + tile * size, channels * size,
                            driven, drives, first_drive * item + (output + tile) * size,
                            one.between_drives * item,
                            neurons, one.first_neuron * item + 3 * tile * size,
                            membranes, state if kept else 0, fresh, kept, to_zero,
                            memory, one.written + target * one.between_places + tile * ROWS,
                            one.between_steps, one.copies, between_copies,
                            extremes, 2 * tile * size, apart,
                        )  # fmt: skip
                        if wide == 2 or both:
                            fire_two(*neurons_of)
                        else:
                            fire_one(*neurons_of)
    if len(layers) > 0:
        release()


@compiled
def sum_over_images(
    shapes: Any,
    memory: Any,
    between: Any,
    apart: Any,
    sources: Any,
    offsets: Any,
    codes: Any,
    bounds: Any,
    rows: Any,
    gain: Any,
    drives: Any,
) -> None:
    """What images add to membranes, by the matrix unit.

    Args:
        shapes: of the tiles, see `shapes_of_tiles`.
        memory: uint8, one-dimensional, in which images are, as signed bytes.
        between: between their places.
        apart: between rows of a tile.
        sources: int64 [tiles of rows], the place whose row is the first of each.
        offsets: int64 [products], from there to the first row of the product's tile, in bytes.
        codes: int8 [products, 2, bytes of a tile].
        bounds: int64 [pairs of tiles of channels + 1], the products of each.
        rows: int64 [tiles of rows, 16], the row of the drive of each place; -1 for none.
        gain: [2, tiles of channels * 16], of the membranes' type: a factor, and what is added then.
        drives: [rows, tiles of channels * 16], of that type, written.
    """
    gains, flat, size = gain.reshape(-1), drives.reshape(-1), drives.itemsize * ROWS
    room = np.empty(TILE + ROW, np.int32)
    lead = (-room.ctypes.data) % ROW // room.itemsize
    sums = room[lead : lead + TILE]
    channels = drives.shape[1] // ROWS
    configure(shapes)
    for pair in range(-(-channels // 2)):
        wide = min(2, channels - 2 * pair)
        for upper in range(0, len(sources), 2):
            lower = min(upper + 1, len(sources) - 1)
            one, other = sources[upper] * between, sources[lower] * between
            if wide == 2:
                multiply_by_two(memory, one, other, apart, offsets, codes, bounds[pair], bounds[pair + 1], sums, 0)
            else:
                multiply_by_one(memory, one, other, apart, offsets, codes, bounds[pair], bounds[pair + 1], sums, 0)
            for number in range(upper, lower + 1):
                for place in range(ROWS):
                    row = rows[number, place]
                    if row < 0:
                        continue
                    for column in range(wide):
                        tile = (2 * pair + column) * size
                        found = ((number - upper) * 2 + column) * TILE + place * ROW
                        scale_row(sums, found, gains, tile, channels * size, flat, row * channels * size + tile)
    release()


@compiled
def lay_out_images(images: Any, places: Any, memory: Any, between: Any, width: Any, copies: Any) -> None:
    """Put images into rows.

    Args:
        images: int8 [images, channels, places of a map].
        places: int64 [maps, places of a map], where each goes; if there are more maps than images, the last image takes
            those that are left.
        memory: uint8, one-dimensional, written; 0 where there is no place.
        between: between places.
        width: bytes of a copy of a place's channels.
        copies: how often they are written, at each place behind those of the neighbours to its left.
    """
    for number in range(len(places)):
        image = images[min(number, len(images) - 1)]
        for channel in range(len(image)):
            for place in range(places.shape[1]):
                begin = places[number, place] * between + channel
                value = np.uint8(image[channel, place])
                for copy in range(copies):
                    memory[begin + copy * (width - between)] = value


@compiled
def wire_places(memory: Any, wires: Any, begins: Any, between: Any, written: Any, images: Any, steps: Any) -> None:
    """Put spikes elsewhere.

    Args:
        memory: uint8, one-dimensional, read and written.
        wires: int64 [wires, 6]: which of the maps, place and channel there, place and channel of what is written, and
            how many channels.
        begins: int64 [maps], where each begins.
        between: int64 [maps, 3], places from one image to the next, bytes between places and between steps.
        written: int64 [4], where the map begins that is written, and the same.
        images: how many.
        steps: how many.
    """
    for number in range(len(wires)):
        which, place, channel, target, first, length = wires[number]
        for image in range(images):
            source = begins[which] + (place + image * between[which, 0]) * between[which, 1] + channel
            into = written[0] + (target + image * written[1]) * written[2] + first
            for step in range(steps):
                begin, end = source + step * between[which, 2], into + step * written[3]
                memory[end : end + length] = memory[begin : begin + length]


@compiled
def repeat_places(
    memory: Any, begin: Any, between: Any, apart: Any, places: Any, steps: Any, width: Any, copies: Any
) -> None:
    """Write the spikes of each place behind those of the places to its left.

    Args:
        memory: uint8, one-dimensional, written.
        begin: where the map begins.
        between: from one place to the next.
        apart: from one step to the next.
        places: how many.
        steps: how many.
        width: bytes of the spikes of a place.
        copies: how many, with those that are there.
    """
    for place in range(places - copies + 1):
        for step in range(steps):
            row = begin + place * between + step * apart
            for copy in range(1, copies):
                source = row + copy * between
                memory[row + copy * width : row + (copy + 1) * width] = memory[source : source + width]


@compiled
def scale(sums: Any, gain: Any, drives: Any) -> None:
    """Sums over images as what they add to membranes.

    Args:
        sums: [images, channels, outputs], whole numbers in a floating type, unless the input is analog.
        gain: [2, channels or more], of the membranes' type: a factor, and what is added then.
        drives: [maps, outputs, channels or more], of that type, written; if there are more maps than images, the last
            image takes those that are left.
    """
    cast = drives.dtype.type
    for number in range(len(drives)):
        given = sums[min(number, len(sums) - 1)]
        for output in range(given.shape[1]):
            for channel in range(given.shape[0]):
                value = cast(given[channel, output])
                drives[number, output, channel] = value * gain[0, channel] + gain[1, channel]


@compiled
def count_spikes(memory: Any, begin: Any, between: Any, apart: Any, steps: Any, places: Any, counts: Any) -> None:
    """Add up spikes over time.

    Args:
        memory: uint8, one-dimensional.
        begin: where the map begins.
        between: from one place to the next.
        apart: from one step to the next.
        steps: how many.
        places: int64 [images, outputs of a channel]; images beyond those of `counts` are left out.
        counts: int32 [images, channels, outputs], added to.
    """
    images, channels, outputs = counts.shape
    totals = np.empty(channels, np.int32)
    for image in range(images):
        for output in range(outputs):
            totals[:] = 0
            for step in range(steps):
                row = begin + places[image, output] * between + step * apart
                spikes = memory[row : row + channels]
                for channel in range(channels):
                    totals[channel] += spikes[channel]
            for channel in range(channels):
                counts[image, channel, output] += totals[channel]


@compiled
def count_of_images(
    images: Any,
    reading: Any,
    program: Any,
    neurons: Any,
    shapes: Any,
    rest: Any,
    timesteps: Any,
    room: Any,
    zero_reset: Any,
    memory: Any,
    membranes: Any,
    drives: Any,
    decoded: Any,
    places: Any,
    counts: Any,
) -> None:
    """Run whole networks that have one layer on images, and nothing but layers with neurons; count what is decoded.

    Args:
        images: int8 [images, channels, places].
        reading: of the layer on images: what `lay_out_images` and `sum_over_images` are given, where its drive
            begins, and how many rows that has.
        program: what `fire_layers` is given of the network.
        neurons: as in `fire_layers`.
        shapes: of the tiles for as many steps as there is room for, as in `fire_layers`.
        rest: of the tiles for the steps that are left.
        timesteps: how many.
        room: for how many steps there is memory.
        zero_reset: whether all resets are to 0.
        memory: uint8, one-dimensional.
        membranes: as in `fire_layers`.
        drives: as in `fire_layers`.
        decoded: int64 [3], where the map of what is decoded begins, between its places and between its steps.
        places: int64 [images taken together, outputs], the places that are decoded.
        counts: int32 [images, channels, outputs], added to.
    """
    spots, pixels, row, width, copies, whole, apart, first, offsets, codes, bounds, rows, gain, drive, driven_rows = (
        reading
    )
    layers, maps, sources, all_offsets, all_codes, all_bounds, gains, outputs, tiles, empty = program
    together = len(places)
    channels = gain.shape[1]
    driven = drives[drive : drive + driven_rows * channels].reshape(-1, channels)
    for start in range(0, len(images), together):
        lay_out_images(images[start : start + together], spots, pixels, row, width, copies)
        sum_over_images(whole, pixels, row, apart, first, offsets, codes, bounds, rows, gain, driven)
        for step in range(0, timesteps, room):
            steps = min(room, timesteps - step)
            fire_layers(
                layers, shapes if steps == room else rest, steps, memory, maps, sources, all_offsets, all_codes,
                all_bounds, gains, neurons, drives, 0, outputs, tiles, membranes, step == 0, zero_reset, empty, None,
            )  # fmt: skip
            count_spikes(
                memory, decoded[0], decoded[1], decoded[2], steps, places, counts[start : start + together]
            )  # fmt: skip
