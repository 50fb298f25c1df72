"""Pictures are drawn into the axes they are given."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fxsnn import plots


def test_accuracy_against_timesteps_has_a_line_per_network_and_one_for_the_ann() -> None:
    axes = Figure().subplots()
    curves = {"4 bits": [50.0, 90.0, 95.0], "2 bits": [40.0, 80.0, 90.0]}
    assert plots.accuracy_against_timesteps(axes, curves, 97.5) is axes
    first, second, ann = axes.get_lines()
    assert np.asarray(first.get_xdata()).tolist() == [1, 2, 3]
    assert np.asarray(second.get_ydata()).tolist() == curves["2 bits"]
    assert np.asarray(ann.get_ydata()).tolist() == [97.5, 97.5]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["4 bits", "2 bits", "ANN 97.5 %"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("timesteps T", "accuracy (%)")


def test_the_lines_differ_in_colour_and_marker() -> None:
    axes = Figure().subplots()
    plots.accuracy_against_timesteps(axes, {str(bits): [1.0, 2.0] for bits in (1, 2, 3, 4)})
    assert len({line.get_color() for line in axes.get_lines()}) == 4
    assert len({line.get_marker() for line in axes.get_lines()}) == 4
