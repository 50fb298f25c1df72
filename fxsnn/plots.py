"""Pictures: each function draws into matplotlib axes and gives them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by colour-blind eyes; markers tell the lines apart in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D")


def accuracy_against_timesteps(
    axes: Axes, curves: Mapping[str, Sequence[float]], ann_accuracy: float | None = None
) -> Axes:
    """Accuracy against T, one line a network.

    Args:
        axes: where to draw.
        curves: label to accuracies in percent; entry t belongs to t + 1 timesteps.
        ann_accuracy: of the float network, in percent; a dashed line.
    """
    for i, (label, accuracies) in enumerate(curves.items()):
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
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("timesteps T")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return axes
