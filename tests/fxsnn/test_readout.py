"""Tails of any kind, run as the user's network would run them, for any number of images and on every engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError
from fxsnn.readout import parts_of
from tests.engines import ENGINES
from tests.nets import images, seeded
from tests.tails import activations, alike, with_tail

COUNTS = (1, 2, 63, 64, 65, 129, 257)
SMALL = {"triton"}  # its interpreter takes long


class Squeezed(nn.Module):
    """A convolution as classifier, and `squeeze()`, which takes the batch from a single image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(6, 5, 4)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x).squeeze()


class Heads(nn.Module):
    """Two linear layers, a segmentation head, and what they give joined, in a nested structure."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.maps = nn.Linear(96, 8), nn.Linear(8, 5), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        hidden = self.fc1(x.flatten(1))
        classes = F.log_softmax(self.fc2(hidden), dim=1)
        joined = torch.cat([hidden, classes], 1)
        return {"classes": classes, "others": (self.maps(x), [joined, torch.einsum("nchw->nc", x)], None)}


class Looking(nn.Module):
    """A tail that reads the images, too."""

    def forward(self, x: Tensor, images: Tensor) -> Any:
        return x.mean((1, 2, 3)) + images.mean((1, 2, 3)), images.flatten(1)[:, :2]


def counts_for(engine: str) -> tuple[int, ...]:
    return (1, 3) if engine in SMALL else COUNTS


@pytest.mark.parametrize("tail", [Squeezed, Heads, Looking])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("timesteps", [1, 6])
def test_outputs_are_what_the_tail_makes_of_the_activations(engine: str, timesteps: int, tail: Any) -> None:
    layers = seeded(tail)
    snn = with_tail(layers, engine=engine, timesteps=timesteps)
    for count in counts_for(engine):
        given = images(count)
        read = (activations(snn, given), given)[: 2 if tail is Looking else 1]
        assert alike(snn(given), layers(*read)), count


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("timesteps", [1, 6])
def test_outputs_after_each_step_have_a_dimension_for_images_whatever_the_tail_drops(
    engine: str, timesteps: int
) -> None:
    snn = with_tail(seeded(Squeezed), engine=engine, timesteps=timesteps)
    for count in (0, *counts_for(engine)):
        readout = snn.early_readout(images(count))
        assert readout.shape == (timesteps, count, 5)
        if count > 1:
            torch.testing.assert_close(readout[-1], snn(images(count)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tail", [Heads, Looking])
def test_outputs_after_each_step_have_the_structure_of_a_call(engine: str, tail: Any) -> None:
    snn, given = with_tail(seeded(tail), engine=engine), images(3)
    readout, run = snn.early_readout(given), snn.simulate(given)
    assert repr(run).startswith("Run of 3 images for T=6; firing rates: ")
    for steps in (1, 4, 6):
        snn.timesteps = steps
        leaves, structure = torch.utils._pytree.tree_flatten(snn(given))
        for found in (readout, run.logits):
            ours, same = torch.utils._pytree.tree_flatten(found)
            assert same == structure
            for one, two in zip(ours, leaves, strict=True):
                if two is not None:
                    torch.testing.assert_close(one[steps - 1], two)


def test_no_images_at_all_give_the_structure_with_no_rows() -> None:
    assert with_tail(seeded(Heads))(images(0))["others"][0].shape == (0, 2, 4, 4)


class Summed(nn.Module):
    """One number for all images."""

    def forward(self, x: Tensor) -> Any:
        return {"rates": x, "all": x.sum()}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_no_row_an_image_is_returned_by_a_call_and_refused_after_each_step(engine: str) -> None:
    snn = with_tail(Summed(), engine=engine)
    given = images(3)
    assert torch.equal(snn(given)["all"], activations(snn, given).sum())
    for run in (snn.early_readout, snn.simulate):
        with pytest.raises(
            DataError, match=r"output\['all'\] of the network is of shape \[\]; expected are tensors of"
        ):
            run(given)
    assert set(snn.count_spikes(given)) == {"0", "2"}
    assert snn.profile(given).images == 3
    assert snn.verify_engine(given)


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_a_tail_is_run_in_parts_where_activations_are_many(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of one image; each of at least so many bytes, 384 an image."""
    layers = seeded(Squeezed)
    snn = with_tail(layers, engine=engine)
    given = images(129)
    expected, seen = snn(given), list[int]()
    monkeypatch.setattr("fxsnn.readout.LARGEST", 40 * 384)
    fc: Any = snn.get_submodule("fc")
    fc.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(snn(given), expected)
    assert len(seen) > 1
    assert 1 not in seen
    summed = with_tail(Summed(), engine=engine)
    with pytest.raises(DataError, match=r"output\['all'\] .*Only a plain call"):
        summed(given)


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(65, 64, [65]), (64, 64, [64]), (129, 64, [64, 65]), (130, 64, [64, 64, 2]), (3, 1, [1, 1, 1]), (0, 4, [0])],
)
def test_no_part_has_a_single_image_unless_all_have(count: int, most: int, sizes: list[int]) -> None:
    parts = parts_of(torch.arange(count), most)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(list(parts)), torch.arange(count))


def test_layers_of_the_tail_are_those_of_the_user() -> None:
    layers = seeded(Heads)
    snn = with_tail(layers)
    for name, tensor in layers.state_dict().items():
        assert torch.equal(snn.state_dict()[name], tensor)
    assert type(snn.maps) is nn.Conv2d
    assert list(dict(snn.named_parameters())) == list(dict(layers.named_parameters()))


def test_a_tail_can_be_trained_behind_the_spikes() -> None:
    snn = with_tail(seeded(Heads))
    snn(images(65))["classes"].sum().backward()
    assert snn.get_parameter("fc1.weight").grad is not None


def test_a_graph_that_decodes_nowhere_is_refused() -> None:
    graph = with_tail(Summed()).graph
    graph.bypass(graph.calls("decode")[0])
    with pytest.raises(fxsnn.ModelError, match="it decodes spikes at 0 places; one is allowed"):
        fxsnn.SpikingNetwork(graph, "generic")
