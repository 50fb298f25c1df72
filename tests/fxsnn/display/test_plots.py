"""Pictures are drawn into the axes they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from fxsnn import plots
from fxsnn.errors import DataError


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
    alone = Figure().subplots()
    plots.accuracy_against_timesteps(alone, {"2": [1.0, 2.0]}, styles=[2])
    assert alone.get_lines()[0].get_color() == axes.get_lines()[2].get_color()


def test_a_raster_has_a_mark_for_every_spike() -> None:
    axes = Figure().subplots()
    spikes = torch.zeros(5, 2, 3)
    spikes[0, 0, 1] = spikes[4, 1, 2] = 1
    assert plots.spike_raster(axes, spikes) is axes
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[1, 1], [5, 5]]
    assert axes.get_ylabel() == "neuron"


def test_a_raster_of_many_neurons_says_that_it_shows_some() -> None:
    axes = Figure().subplots()
    plots.spike_raster(axes, torch.ones(2, 1000), most=50)
    assert len(np.asarray(axes.collections[0].get_offsets())) == 100
    assert axes.get_ylabel() == "neuron (50 of 1,000)"


def test_rates_have_a_bar_each() -> None:
    axes = Figure().subplots()
    plots.firing_rate_histogram(axes, torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0]), 4)
    assert [patch.get_height() for patch in axes.patches] == [2, 1, 1, 0, 1]  # type: ignore[attr-defined]
    assert axes.get_title() == "silent 40.0%, at every step 20.0%"


def test_membranes_are_held_against_the_threshold_of_their_channel() -> None:
    axes = Figure().subplots()
    membranes = torch.tensor([[[5.0, 5.0]], [[10.0, 7.0]]])  # T=2, N=1, C=2
    plots.membrane_histogram(axes, membranes, torch.tensor([10, 5]))
    assert axes.get_title() == "at the threshold 75.0%"
    (line,) = axes.get_lines()
    assert np.asarray(line.get_xdata()).tolist() == [1, 1]
    assert sum(patch.get_height() for patch in axes.patches) == 4  # type: ignore[attr-defined]


def test_the_scatter_tells_the_distance() -> None:
    axes = Figure().subplots()
    plots.activation_scatter(axes, torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    assert axes.get_title() == "distance 20.0%"
    with pytest.raises(DataError, match="there are 2 activations of the ANN and 3 of the spiking network"):
        plots.activation_scatter(axes, np.zeros(2), np.zeros(3))


def test_every_code_that_there_can_be_has_a_bar() -> None:
    for codes in ([-1, 1], [-1, 0, 1], [-7, -2, 2, 7]):
        axes = Figure().subplots()
        plots.weight_code_histogram(axes, torch.tensor([codes[0], codes[-1], codes[-1], codes[-1]]), codes)
        heights = [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]
        assert heights == [25, *[0] * (len(codes) - 2), 75]


def test_a_stack_adds_up_and_what_makes_good_hangs_below() -> None:
    axes = Figure().subplots()
    plots.error_budget(axes, ["a"], {"first": [0.3], "second": [-0.1], "third": [0.2]})
    spans = [(patch.get_y(), patch.get_height()) for patch in axes.patches]  # type: ignore[attr-defined]
    assert [end for span in spans for end in span] == pytest.approx([0, 30, 0, -10, 30, 20])


def test_shares_far_beyond_a_hundred_are_written() -> None:
    axes = Figure().subplots()
    plots.shares_by_layer(axes, ["a", "b"], {"rows": [50.0, 459.0]})
    assert [text.get_text() for text in axes.texts] == ["459 %"]
    assert axes.get_ylim()[1] < 200


def test_nothing_global_is_touched() -> None:
    """No figure of pyplot's is opened: drawing goes into the given axes alone."""
    from matplotlib import pyplot

    plots.weight_code_histogram(Figure().subplots(), [1, -1], [-1, 1])
    assert pyplot.get_fignums() == []


def test_as_many_labels_as_there_are_get_bars() -> None:
    axes = Figure().subplots()
    plots.shares_by_layer(axes, ["a"], {f"share {number}": [1.0] for number in range(12)})
    assert len(axes.containers) == 12
