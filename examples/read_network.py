"""Read a network file of fxsnn with numpy alone, run it, and hold it against its golden vectors.

    python examples/read_network.py net.fxsnn

The file says all that a chip's tool chain needs; docs/FILE.md describes it. Sums are float64, exact up to 2^53.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"U8": "u1", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


def read(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The document and the arrays of a safetensors file."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    document = json.loads(header.pop("__metadata__")["fxsnn"])
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        flat = np.frombuffer(content[start + first : start + last], TYPES[entry["dtype"]])  # numpy has no bfloat16
        arrays[name] = flat.reshape(entry["shape"])
    return document, arrays


def unpacked(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Unsigned values of so many bits, the first one in the lowest bits of the first byte."""
    planes = np.unpackbits(packed, bitorder="little")[: bits * int(np.prod(shape))].reshape(-1, bits)
    return (planes.astype(int) << np.arange(bits)).sum(1).reshape(shape)


def codes(node: dict[str, Any], arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Weight codes: places among the layer's levels, if any; else two's complement, at 1 bit 1 for +1 and 0 for -1."""
    name, bits = node["name"], node["bits"]
    values = unpacked(arrays[name + ".codes"], bits, shape)
    if name + ".levels" in arrays:
        return arrays[name + ".levels"][values] * 1.0
    return 2.0 * values - 1 if bits == 1 else values - (values >> (bits - 1) << bits) * 1.0


def windows(x: np.ndarray, node: dict[str, Any]) -> np.ndarray:
    """What each neuron of a convolution or pooling reads, [N, C, height, width, kernel height, kernel width]."""
    top, bottom, left, right = node["padding"]
    (down, across), (rows, columns) = node.get("dilation", (1, 1)), node["kernel_size"]
    size = (down * (rows - 1) + 1, across * (columns - 1) + 1)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))
    return seen[:, :, :: node["stride"][0], :: node["stride"][1], ::down, ::across]


def sums(x: np.ndarray, node: dict[str, Any], arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Sum over the inputs of code times input."""
    if node["op"].endswith("_linear"):
        return x.reshape(len(x), -1) @ codes(node, arrays, (node["out_features"], node["in_features"])).T
    groups, outputs = node["groups"], node["out_channels"]
    weight = codes(node, arrays, (outputs, node["in_channels"] // groups, *node["kernel_size"]))
    parts = zip(np.split(windows(x, node), groups, 1), np.split(weight, groups), strict=True)
    return np.concatenate([np.tensordot(part, w, ((1, 4, 5), (1, 2, 3))) for part, w in parts], 3).transpose(0, 3, 1, 2)


def drive(read: list[np.ndarray], node: dict[str, Any], arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What a layer adds to membranes, without leak: [T, N, ...], or [1, N, ...] where it is the same at every step."""
    if node["op"] == "spike_add":  # of spikes, each times an integer, and of what synapses give
        weights = arrays[node["name"] + ".weights"]
        return sum(x * by_channel(row, x) for x, row in zip(read, weights, strict=True))
    if node["op"] == "spike_any_pool2d":
        places = np.ndindex(node["rows"]["kernel"], node["columns"]["kernel"])
        return np.sum([tapped(tapped(read[0], -2, node["rows"], i), -1, node["columns"], j) for i, j in places], 0)
    frames = read[0].reshape(-1, *read[0].shape[2:])
    pools = node["op"] == "spike_avg_pool2d"
    total = windows(frames, node).sum((4, 5)) if pools else sums(frames, node, arrays)
    total = total.reshape(*read[0].shape[:2], *total.shape[1:])
    gain = 1 if pools else node["gain"] if "gain" in node else arrays[node["name"] + ".gain"]
    return total * by_channel(gain, total)


def by_channel(values: Any, x: np.ndarray) -> np.ndarray:
    """One number for each channel, or for all, as [1, 1, C, ...] beside x [T, N, C, ...]."""
    return np.reshape(values, (1, 1, -1, *[1] * (x.ndim - 3)))


def spikes(x: np.ndarray, node: dict[str, Any], arrays: dict[str, np.ndarray], dynamics: dict[str, Any]) -> np.ndarray:
    """Spikes [T, N, ...] of neurons for what is added to their membranes."""
    if node["op"] == "spike_avg_pool2d":
        theta = np.prod(node["kernel_size"])
    elif node["op"] == "spike_any_pool2d":  # whatever the network's reset is
        theta, dynamics = 1, {**dynamics, "reset": "zero"}
    else:
        theta, leak = (by_channel(arrays[f"{node['name']}.{part}"], x) for part in ("threshold", "leak"))
        x, theta = x + leak, theta[0]
    fired, membrane = [], np.zeros(x.shape[1:]) + (theta // 2 if dynamics["initial_membrane"] else 0)
    for step in range(dynamics["timesteps"]):
        membrane = membrane + x[step % len(x)]
        fired.append(membrane >= theta)
        membrane = membrane - theta * fired[-1] if dynamics["reset"] == "subtraction" else membrane * ~fired[-1]
    return np.stack(fired).astype(float)


def tapped(x: np.ndarray, axis: int, windows: dict[str, Any], place: int) -> np.ndarray:
    """The same place of every window along an axis; padding is zero."""
    size, padding, stride = x.shape[axis], windows["padding"], windows["stride"]
    room = size + 2 * padding - windows["dilation"] * (windows["kernel"] - 1) - 1
    count = room // stride + 1
    if windows["ceil"] and room % stride and count * stride < size + padding:
        count += 1
    first = place * windows["dilation"]
    end = first + (count - 1) * stride + 1
    around = [(0, 0)] * x.ndim
    around[axis] = (padding, max(0, end - size - padding))
    return np.take(np.pad(x, around), range(first, end, stride), axis)


def spread(x: np.ndarray, axis: int, distance: int, before: int, behind: int) -> np.ndarray:
    """Places along an axis so far apart, zeros between, before and behind; where negative, so many places less."""
    x = np.moveaxis(x, axis, -1)
    places = before + distance * np.arange(x.shape[-1])
    size = places[-1] + 1 + behind
    kept = np.flatnonzero((places >= 0) & (places < size))
    made = np.zeros((*x.shape[:-1], size))
    made[..., places[kept]] = x[..., kept]
    return np.moveaxis(made, -1, axis)


def wired(read: list[np.ndarray], node: dict[str, Any], arrays: dict[str, np.ndarray], leading: int) -> np.ndarray:
    """Numbers put elsewhere; so many dimensions stand before that of the channels."""
    if node["op"] == "concat":
        return np.concatenate(read, leading)
    if node["op"] == "channels":
        index = arrays[node["name"] + ".index"]
        zero = (index < 0).reshape(-1, *[1] * (read[0].ndim - leading - 1))
        return np.where(zero, 0, np.take(read[0], np.maximum(index, 0), leading))
    if node["op"] == "places":
        (top, down), (left, across) = node["rows"], node["columns"]
        return read[0][..., top::down, left::across]
    if node["op"] == "select":
        for axis, places in ((-2, np.array(node["rows"])), (-1, np.array(node["columns"]))):
            mask = (places >= 0).reshape([-1] + [1] * (-1 - axis))
            read = [np.where(mask, read[0].take(np.maximum(places, 0), axis), 0)]
        return read[0]
    if node["op"] == "repeat":
        return read[0].repeat(node["down"], -2).repeat(node["across"], -1)
    if node["op"] == "spread":
        top, bottom, left, right = node["sides"]
        return spread(spread(read[0], -2, node["down"], top, bottom), -1, node["across"], left, right)
    if node["op"] == "turn":
        turned = read[0][..., :: -1 if node["rows"] else 1, :: -1 if node["columns"] else 1]
        return turned.swapaxes(-1, -2) if node["transposed"] else turned
    if node["op"] == "tap":
        return tapped(tapped(read[0], -2, node["rows"], node["row"]), -1, node["columns"], node["column"])
    *before, channels, height, width = read[0].shape  # "pixel_shuffle"
    n = node["factor"]
    if node["back"]:
        x = read[0].reshape(*before, channels, height // n, n, width // n, n)
        return np.moveaxis(x, (-3, -1), (-4, -3)).reshape(*before, -1, height // n, width // n)
    x = read[0].reshape(*before, channels // n**2, n, n, height, width)
    return np.moveaxis(x, (-4, -3), (-3, -1)).reshape(*before, channels // n**2, height * n, width * n)


def main(path: str) -> int:
    """Run the golden images; 0 if every spike and the logits match, 1 if not, 2 if that cannot be checked."""
    document, arrays = read(path)
    if "golden/images" not in arrays:
        print("the file has no golden vectors")
        return 2
    values, wrong, leading = [arrays["golden/images"][None].astype(float)], 0, 2
    for node in document["nodes"][1:]:
        places, op, name = node.get("reads", 0), node["op"], node["name"]
        given = [values[place] for place in (places if isinstance(places, list) else [places])]
        x = given[0]
        if op == "encode":
            x = x[0].swapaxes(0, 1) if "frames" in node else x  # one of each image for each step
            if "affine" in node:  # the image's own preparation, channel by channel
                sides = [1] * (x.ndim - 3)
                x = x * arrays[name + ".scale"].reshape(-1, *sides) + arrays[name + ".shift"].reshape(-1, *sides)
            if node["bits"]:
                x = np.clip(np.round(x / node["unit"]), -(1 << (node["bits"] - 1)), (1 << (node["bits"] - 1)) - 1)
            x = np.expand_dims(x, -2) if node.get("rank") == 3 else x  # signals are maps of one row
        elif op.startswith("synapse_"):
            x = drive(given, node, arrays)
        elif op.startswith("spike_"):
            x = spikes(drive(given, node, arrays), node, arrays, document["dynamics"])
            errors = int((x != unpacked(arrays["golden/spikes/" + name], 1, x.shape)).sum())
            print(f"{name}: {int(x.sum()):,} spikes, {errors} wrong")
            wrong += errors
        elif op == "decode":  # from here on there is no time any more
            x, leading = x.mean(0) * arrays[name + ".spike_value"].reshape(-1, *[1] * (x.ndim - 3)), 1
        elif op in ("concat", "channels", "places", "select", "repeat", "spread", "pixel_shuffle", "turn", "tap"):
            x = wired(given, node, arrays, leading)
        elif op == "flatten":
            x = x.reshape(*x.shape[:leading], -1)
        elif op == "linear":
            x = x @ arrays[name + ".weight"].T + (arrays[name + ".bias"] if node["bias"] else 0)
        elif op in ("softmax", "log_softmax"):
            x = x - np.log(np.exp(x).sum(1 if node["dim"] is None else node["dim"], keepdims=True))
            x = np.exp(x) if op == "softmax" else x
        elif op == "adaptive_avg_pool2d" and not any(np.remainder(x.shape[2:], node["output_size"])):
            rows, columns = node["output_size"]
            x = x.reshape(*x.shape[:2], rows, x.shape[2] // rows, columns, x.shape[3] // columns).mean((3, 5))
        elif op != "output" or "returns" in node:  # several outputs, in some structure
            print(f"{name}: this reader does not know {op}; the logits were not checked")
            return 2 if wrong == 0 else 1
        values.append(x)
    error = np.abs(values[-1] - arrays["golden/logits"]).max() / (np.abs(arrays["golden/logits"]).max() or 1)
    print(f"logits differ by {error:.1e} of the largest")
    return int(wrong > 0 or not error < 1e-4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if len(sys.argv) == 2 else __doc__)
