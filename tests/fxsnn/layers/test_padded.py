"""Convolutions that pad their four sides each by itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import fxsnn
from fxsnn.layers import FoldedConv2d, LowBitConv2d, PaddedConv2d, SpikeConv2d, conv_like, said, sides_of

SIDES = (0, 1, 3, 2)


def padded() -> PaddedConv2d:
    kind: Any = PaddedConv2d  # PyTorch types its arguments narrower
    return kind(4, 6, 3, 2, SIDES, (1, 2), 2)


def test_it_computes_what_padding_and_a_convolution_do() -> None:
    conv, x = padded(), torch.randn(2, 4, 9, 9)
    top, bottom, left, right = SIDES
    expected = F.conv2d(F.pad(x, (left, right, top, bottom)), conv.weight, conv.bias, 2, 0, (1, 2), 2)
    assert torch.equal(conv(x), expected)
    assert "padding=(0, 1, 3, 2)" in repr(conv)


def test_two_numbers_and_words_are_those_of_pytorch() -> None:
    for padding in (1, (2, 0), "same", "valid"):
        conv: Any = PaddedConv2d(2, 3, 4, padding=padding)
        plain = conv_like(nn.Conv2d, conv)
        assert type(plain) is nn.Conv2d
        x = torch.randn(1, 2, 8, 8)
        assert torch.equal(conv(x), plain(x))
        top, bottom, left, right = sides_of(conv)
        assert torch.equal(plain(x), F.conv2d(F.pad(x, (left, right, top, bottom)), conv.weight, conv.bias))


@pytest.mark.parametrize("kind", [nn.Conv2d, FoldedConv2d, LowBitConv2d, SpikeConv2d])
def test_layers_of_every_stage_keep_the_sides(kind: type[nn.Conv2d]) -> None:
    conv = padded()
    other = conv_like(kind, conv)
    assert sides_of(other) == SIDES
    assert isinstance(other, PaddedConv2d)
    assert other.weight is conv.weight


def test_copies_pickles_and_fusing_keep_the_sides() -> None:
    conv, norm, x = padded().eval(), nn.BatchNorm2d(6).eval(), torch.randn(2, 4, 9, 9)
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(other(x), conv(x))
    torch.testing.assert_close(fuse_conv_bn_eval(conv, norm)(x), norm(conv(x)))


def test_it_is_one_call_of_a_program() -> None:
    assert [node.op for node in fxsnn.capture(nn.Sequential(padded(), nn.ReLU()))].count("call_module") == 2


def test_two_numbers_are_said_where_they_are_enough() -> None:
    assert said((1, 1, 2, 2)) == (1, 2)
    assert said((1, 1, 2, 3)) == (1, 1, 2, 3)
    assert said((1, 2, 3, 3)) == (1, 2, 3, 3)
