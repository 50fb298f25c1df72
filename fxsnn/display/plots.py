"""Pictures: each function draws into matplotlib axes and gives them back.

    run = snn.simulate(images, membranes=True)
    plots.spike_raster(axes, run.spikes["conv1"][:, 0])

Values may be tensors or arrays. Nothing is drawn anywhere else, and no global state of matplotlib is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle as _cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fxsnn.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by colour-blind eyes; markers tell the lines apart in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D")
_HIGHEST = 110
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo")


def accuracy_against_timesteps(
    axes: Axes,
    curves: Mapping[str, Sequence[float]],
    ann_accuracy: float | None = None,
    styles: Sequence[int] | None = None,
) -> Axes:
    """Accuracy against T, one line a network.

    Args:
        axes: where to draw.
        curves: label to accuracies in percent; entry t belongs to t + 1 timesteps.
        ann_accuracy: of the float network, in percent; a dashed line.
        styles: number of the colour and marker of each line, so that a network has the same in several pictures.
    """
    for i, (label, accuracies) in zip(styles or range(len(curves)), curves.items(), strict=True):
        axes.plot(
            range(1, len(accuracies) + 1),
            accuracies,
            color=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4,
            label=label,
        )
    if ann_accuracy is not None:
        axes.axhline(ann_accuracy, color="black", linestyle="--", linewidth=1, label=f"ANN {ann_accuracy:.1f} %")
    _accuracy_over_timesteps(axes)
    axes.legend(loc="lower right")
    return axes


def error_budget(axes: Axes, layers: Sequence[str], parts: Mapping[str, Sequence[float]]) -> Axes:
    """Distance of each layer to the ANN as a stacked bar, split by cause; what makes good for others hangs below.

    Args:
        axes: where to draw.
        layers: their names.
        parts: by cause, a share for each layer; shares of a layer add up to its distance.
    """
    highs, lows = [0.0] * len(layers), [0.0] * len(layers)
    for (label, values), colour, hatch in zip(parts.items(), _cycle(_COLOURS), _cycle(_HATCHES), strict=False):
        bottoms = [high if value >= 0 else low for value, high, low in zip(values, highs, lows, strict=True)]
        heights = [100 * value for value in values]
        axes.bar(
            range(len(layers)), heights, 0.7, bottom=bottoms, color=colour, hatch=hatch, edgecolor="white", label=label
        )
        highs = [high + max(height, 0) for high, height in zip(highs, heights, strict=True)]
        lows = [low + min(height, 0) for low, height in zip(lows, heights, strict=True)]
    axes.axhline(0, color="black", linewidth=0.8)
    axes.use_sticky_edges = False  # bars hold on to their ends, and the highest would touch the frame
    axes.margins(y=0.05)
    _name_layers(axes, layers)
    axes.set_ylabel("distance to the ANN (%)")
    return axes


def shares_by_layer(axes: Axes, layers: Sequence[str], shares: Mapping[str, Sequence[float]]) -> Axes:
    """Shares in percent, a group of bars for each layer; those far beyond 100 are cut and their value written on top.

    Args:
        axes: where to draw.
        layers: their names.
        shares: label to a share for each layer.
    """
    width = 0.8 / max(1, len(shares))
    for i, ((label, values), colour, hatch) in enumerate(
        zip(shares.items(), _cycle(_COLOURS), _cycle(_HATCHES), strict=False)
    ):
        places = [place + (i - (len(shares) - 1) / 2) * width for place in range(len(layers))]
        axes.bar(places, values, width, color=colour, hatch=hatch, edgecolor="white", label=label)
        for place, value in zip(places, values, strict=True):
            if value > _HIGHEST:
                axes.text(place, _HIGHEST, f"{value:.0f} %", ha="center", va="bottom", fontsize="small")
    _name_layers(axes, layers)
    axes.set_ylabel("share (%)")
    axes.set_ylim(0, _HIGHEST)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return axes


def timesteps_sweep(
    axes: Axes,
    accuracies: Sequence[float],
    operations: Sequence[float],
    *,
    lowest: float | None = None,
    lowest_is: str = "good enough",
    recommended: int | None = None,
) -> Axes:
    """Accuracy and synaptic operations against T.

    Args:
        axes: where to draw; operations go to a second vertical axis.
        accuracies: in percent; entry t belongs to t + 1 timesteps.
        operations: per image, the same.
        lowest: accuracy that is good enough; a dotted line.
        lowest_is: what the legend calls it, such as "0.5 points below the ANN".
        recommended: a T to mark.
    """
    steps = range(1, len(accuracies) + 1)
    lines = axes.plot(steps, accuracies, color=_COLOURS[0], marker=_MARKERS[0], markersize=4, label="accuracy")
    if lowest is not None:
        lines.append(
            axes.axhline(lowest, color="black", linestyle=":", linewidth=1, label=f"{lowest_is}: {lowest:.1f} %")
        )
    if recommended is not None:
        marked = axes.axvline(
            recommended, color=_COLOURS[2], linestyle="--", linewidth=1, label=f"recommended: T={recommended}"
        )
        lines.append(marked)
    right = axes.twinx()
    millions = [count / 1e6 for count in operations]
    lines += right.plot(steps, millions, color=_COLOURS[1], linestyle="-.", label="synaptic operations")
    right.set_ylabel("synaptic operations per image (millions)")
    right.set_ylim(bottom=0)
    _accuracy_over_timesteps(axes)
    axes.legend(handles=lines, loc="lower right")
    axes.set_zorder(right.get_zorder() + 1)  # the legend above the other lines, and these seen through the axes
    axes.patch.set_visible(False)
    return axes


def spike_raster(axes: Axes, spikes: ArrayLike, most: int = 200) -> Axes:
    """Which neuron spikes when, for one image.

    Args:
        axes: where to draw.
        spikes: 0 and 1, [T, ...]: of one image, such as `run.spikes["conv1"][:, 0]`.
        most: neurons; of more, some are drawn, evenly spread.
    """
    values = _values(spikes)
    flat = values.reshape(len(values), -1)
    neurons = np.linspace(0, flat.shape[1] - 1, min(most, flat.shape[1])).round().astype(int)
    steps, places = np.nonzero(flat[:, neurons])
    axes.scatter(steps + 1, neurons[places], s=16, marker="|", color=_COLOURS[0], linewidths=1)
    axes.set_xlim(0.5, len(flat) + 0.5)
    axes.set_ylim(-1, flat.shape[1])
    axes.set_xlabel("timestep")
    axes.set_ylabel("neuron" if len(neurons) == flat.shape[1] else f"neuron ({len(neurons)} of {flat.shape[1]:,})")
    return axes


def firing_rate_histogram(axes: Axes, rates: ArrayLike, timesteps: int) -> Axes:
    """How many neurons have which firing rate.

    Args:
        axes: where to draw.
        rates: spikes per step of each neuron, any shape, such as `run.spikes["conv1"].mean(0)`.
        timesteps: T; a bar for each rate that there can be, or for several if there are many.
    """
    levels = min(timesteps, 64)
    edges = (np.arange(levels + 2) - 0.5) / levels
    values = _values(rates).ravel()
    axes.hist(values, bins=edges.tolist(), color=_COLOURS[0], edgecolor="white", linewidth=0.5)
    axes.set_yscale("log")
    axes.set_xlabel("firing rate (spikes per step)")
    axes.set_ylabel("neurons")
    silent, full = float((values == 0).mean()), float((values >= 1).mean())
    axes.set_title(f"silent {silent:.1%}, at every step {full:.1%}", fontsize="medium")
    return axes


def membrane_histogram(axes: Axes, membranes: ArrayLike, threshold: ArrayLike) -> Axes:
    """Membranes before the reset, as multiples of the threshold.

    Args:
        axes: where to draw.
        membranes: [T, N, C, ...], such as `run.membranes["conv1"]`.
        threshold: [C], such as `snn.conv1.threshold`.
    """
    values, thresholds = _values(membranes), _values(threshold)
    ratio = (values / thresholds.reshape(1, 1, -1, *[1] * (values.ndim - 3))).ravel()
    low, high = np.quantile(ratio, [0.005, 0.995])
    edges = np.linspace(min(low, -0.5), max(high, 1.5), 80)
    axes.hist(ratio, bins=edges.tolist(), color=_COLOURS[0])
    axes.axvline(1, color=_COLOURS[1], linestyle="--", label="threshold")
    axes.set_yscale("log")
    axes.set_xlabel("membrane / threshold (1 % at the ends cut)")
    axes.set_ylabel("neurons x steps")
    axes.set_title(f"at the threshold {float((ratio >= 1).mean()):.1%}", fontsize="medium")
    axes.legend()
    return axes


def activation_scatter(axes: Axes, activations: ArrayLike, spiking: ArrayLike, most: int = 5000) -> Axes:
    """Activations of the ANN against what the firing rates of the spiking layer stand for.

    Args:
        axes: where to draw.
        activations: of the ANN, any shape.
        spiking: firing rate times spike value, the same shape; `fxsnn.layer_activations` gives both.
        most: points; of more, some are drawn, evenly spread.

    Raises:
        DataError: the shapes differ.
    """
    analog, decoded = _values(activations).ravel(), _values(spiking).ravel()
    if len(analog) != len(decoded):
        raise DataError(f"there are {len(analog)} activations of the ANN and {len(decoded)} of the spiking network")
    chosen = np.linspace(0, len(analog) - 1, min(most, len(analog))).round().astype(int)
    top = float(max(analog[chosen].max(), decoded[chosen].max(), 1e-9))
    axes.plot([0, top], [0, top], color="black", linestyle="--", linewidth=1, label="equal")
    axes.scatter(analog[chosen], decoded[chosen], s=4, alpha=0.4, color=_COLOURS[0], linewidths=0)
    axes.set_xlabel("activation of the ANN")
    axes.set_ylabel("firing rate x spike value")
    squares = float(np.square(analog).mean()) or 1.0
    distance = (float(np.square(decoded - analog).mean()) / squares) ** 0.5
    axes.set_title(f"distance {distance:.1%}", fontsize="medium")
    axes.legend()
    return axes


def weight_code_histogram(axes: Axes, codes: ArrayLike, levels: Sequence[int]) -> Axes:
    """How often each weight code occurs.

    Args:
        axes: where to draw.
        codes: integers, any shape, such as `snn.conv1.codes`.
        levels: those of the codebook, such as `snn.conv1.codebook.levels`.
    """
    values = _values(codes).astype(int).ravel()
    shares = [100 * float((values == level).mean()) for level in levels]
    axes.bar(levels, shares, 0.8, color=_COLOURS[0])
    axes.set_xticks(levels)
    axes.set_xlabel("weight code")
    axes.set_ylabel("share of the weights (%)")
    return axes


def _accuracy_over_timesteps(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("timesteps T")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """A layer at each place, and the legend beside the bars, which are there by now."""
    axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right", rotation_mode="anchor")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _values(values: Any) -> np.ndarray:
    """As a numpy array, wherever a tensor lies."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
