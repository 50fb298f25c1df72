"""Max pooling as neurons."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxsnn
from fxsnn.layers import Add, Tap, Taps
from fxsnn.passes import CheckConvRelu, PairSignedValues, ReplaceMaxPool
from tests.joining import correlation, joined
from tests.nets import images, in_front
from tests.sharing import cases

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def network(pool: Any) -> Any:
    return joined(lambda m, x, y: pool(x))


def replaced(model: Any, by: str = "rectifiers") -> Any:
    return ReplaceMaxPool(by)(in_front(model, images(size=13)), images(size=13))


@pytest.mark.parametrize("examples", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_rectifiers_keep_the_function(examples: int) -> None:
    windows = given(PAIRS, PAIRS, st.tuples(st.integers(0, 1), st.integers(0, 1)), PAIRS, st.booleans())
    settings(max_examples=examples)(windows(rectifiers_keep_the_function))()


def rectifiers_keep_the_function(kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> None:
    padding = tuple(min(pad, side // 2) for pad, side in zip(padding, kernel, strict=True))
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    graph = replaced(network(pool)).after  # verified in double precision
    assert not graph.nodes(nn.MaxPool2d)
    assert not CheckConvRelu().findings(graph)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3), st.integers(11, 14), st.booleans())
def test_windows_are_those_of_pytorch(
    kernel: int, stride: int, padding: int, dilation: int, size: int, ceil: bool
) -> None:
    padding = min(padding, kernel // 2)
    taps = Taps(kernel, stride, padding, dilation, ceil)
    x = torch.rand(1, 1, size, 1)
    expected = F.max_pool2d(x, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), ceil)
    tapped = [Tap(taps, Taps(1), row, 0)(x) for row in range(kernel)]
    assert taps.windows(size) == expected.shape[2]
    assert torch.equal(torch.stack(tapped).amax(0), expected)


def test_a_window_of_two_by_two_takes_three_rectifiers_and_a_sum() -> None:
    graph = replaced(network(nn.MaxPool2d(2))).after
    behind = [graph.sole_user(node) for node in graph.nodes(Add)]
    assert [graph.is_a(node, nn.ReLU) for node in behind] == [True] * 3  # the first serves two columns


def test_a_relu_behind_it_moves_in_front() -> None:
    model = joined(lambda m, x, y: F.relu(F.max_pool2d(m.norm(y), 2)))
    assert not CheckConvRelu().findings(replaced(model).after)


def test_in_the_limit_of_time_it_is_the_maximum(convert: Any) -> None:
    model, x = network(nn.MaxPool2d(3, 2, 1)), images(8, size=13)
    snn = convert(model, target="generic", bits=4, timesteps=512, calibration_data=x, max_pool="rectifiers")
    assert correlation(model(x).detach(), snn(x).detach()) > 0.99


@pytest.mark.parametrize(("by", "words"), [("average", "AvgPool2d"), ("stride", r"Tap\(\(0, 0\) of 2x2")])
def test_other_ways_do_not_keep_it(by: str, words: str) -> None:
    step = replaced(network(nn.MaxPool2d(2)), by)
    assert step.moved is None or step.moved > 0.01
    assert not ReplaceMaxPool(by).preserves
    assert ReplaceMaxPool().preserves


def test_the_error_about_max_pooling_names_the_pass_and_its_option() -> None:
    report = str(fxsnn.check(network(nn.MaxPool2d(2)), target="generic", bits=4, example=images()))
    assert "Pass max_pool='rectifiers' (fxsnn.passes.ReplaceMaxPool), which keeps the function" in report
    assert fxsnn.check(network(nn.MaxPool2d(2)), target="generic", bits=4, example=images(), max_pool="rectifiers").ok


@settings(deadline=None, max_examples=15)
@given(PAIRS, PAIRS, st.tuples(st.integers(0, 1), st.integers(0, 1)), PAIRS, st.booleans())
def test_rectifiers_keep_the_function_of_values_with_a_sign(
    kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> None:
    """Padding is no zero there: all of a window may be negative."""
    padding = tuple(min(pad, side // 2) for pad, side in zip(padding, kernel, strict=True))
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    model = joined(lambda m, x, y: pool(m.norm(y) - 2))
    graph = replaced(model).after  # verified in double precision
    assert not graph.nodes(nn.MaxPool2d)
    assert not CheckConvRelu().findings(PairSignedValues()(graph, images(size=13)).after)


@cases(
    "function",
    [
        lambda m, x, y: F.max_pool2d(m.norm(y), 3, 2, 1),
        lambda m, x, y: F.max_pool2d(F.leaky_relu(y, 0.2), 2),
        lambda m, x, y: F.max_pool2d(x - y, 3, 2, ceil_mode=True) + F.avg_pool2d(y, 2),
    ],
    quick=1,
)
def test_in_the_limit_of_time_it_is_the_maximum_of_values_with_a_sign(convert: Any, function: Any) -> None:
    model, x = joined(function), images(8)
    snn = convert(model, target="generic", bits=4, timesteps=512, calibration_data=x, max_pool="rectifiers")
    assert correlation(model(x).detach(), snn(x).detach()) > 0.98


def test_the_error_about_maxima_of_values_with_a_sign_says_what_they_take() -> None:
    model = joined(lambda m, x, y: F.max_pool2d(m.norm(y), 3, 2, 1))
    report = str(fxsnn.check(model, target="generic", bits=4, example=images()))
    assert "which keeps the function where the chip has sums and pairs, for it pools what may be negative" in report
    report = str(fxsnn.check(model, target="generic", bits=4, max_pool="rectifiers"))
    assert "sums and pairs, for it pools what may be negative, and give example=" in report
    assert fxsnn.check(model, target="generic", bits=4, max_pool="rectifiers", example=images()).ok


def test_a_maximum_of_the_images_is_left() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    report = fxsnn.check(model, target="generic", bits=4, example=images(), max_pool="rectifiers")
    assert "Let it pool activations" in str(report)


def test_a_way_that_there_is_not_is_refused() -> None:
    with pytest.raises(fxsnn.OptionError, match="max_pool is 'maximum'; allowed are 'rectifiers', 'average', 'stride'"):
        ReplaceMaxPool("maximum")
    with pytest.raises(fxsnn.OptionError, match="max_pool is 3"):
        fxsnn.convert(network(nn.MaxPool2d(2)), target="generic", bits=4, max_pool=3)  # type: ignore[arg-type]
