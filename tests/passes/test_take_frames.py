"""From here on the network reads frames, and computes with their mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import ModelError
from fxsnn.graph import Graph
from fxsnn.layers import AverageFrames, Encode, ImageForm, QuantizedInput
from fxsnn.passes import FRONT_END, CalibrateThresholds, FoldBatchNorm, TakeFrames
from fxsnn.rewriting import Pipeline
from tests.frames import STEPS, BesideItsImages, converted, frames
from tests.nets import Small, images, seeded


def still() -> Graph:
    return Pipeline((*FRONT_END, FoldBatchNorm())).run(seeded(Small))


def test_the_network_of_frames_is_that_of_their_mean() -> None:
    graph = still()
    moving = TakeFrames()(graph).after
    given = frames(4)
    assert torch.equal(moving(given), graph(given.mean(1)))
    assert graph.image_form == ImageForm(3, 4)
    assert moving.image_form == ImageForm(3, 4, frames=0)
    assert str(moving.image_form) == "[N, T, 3, H, W]"


def test_the_rounded_input_is_the_mean_of_rounded_frames() -> None:
    given = frames(4)
    graph = CalibrateThresholds(given)(TakeFrames()(still()).after).after
    (node,) = graph.nodes(QuantizedInput)
    quantized = graph[node]
    assert isinstance(quantized, QuantizedInput)
    assert not graph.nodes(AverageFrames)
    each = QuantizedInput(quantized.unit, quantized.bits)
    expected = torch.stack([each(given[:, step]) for step in range(given.shape[1])], 1).mean(1)
    torch.testing.assert_close(quantized(given), expected)
    assert quantized.unit * 127 >= given.abs().max() * 0.5  # the step is that of frames, not of their mean


def test_a_calibration_takes_the_place_of_an_earlier_one() -> None:
    once = CalibrateThresholds(frames())(TakeFrames()(still()).after).after
    again = CalibrateThresholds(frames(seed=2))(once).after
    assert again.text() == CalibrateThresholds(frames(seed=2))(TakeFrames()(still()).after).after.text()


class Normalised(nn.Module):
    """3x12x12, which scales and shifts its images, beside which padding is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(576, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.5) / torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
        found: Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
        return found


def test_what_a_network_does_to_images_it_does_to_each_frame() -> None:
    snn = converted(seeded(Normalised))
    (node,) = snn.graph.nodes(Encode)
    encode, given = snn.graph[node], frames(2)
    assert isinstance(encode, Encode)
    assert encode.affine is not None
    prepared = (given - 0.5) / torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    expected = (prepared.double() / encode.unit).round().clamp(-128, 127).transpose(0, 1).flatten(0, 1)
    assert torch.equal(encode(given).double(), expected)


def test_a_tail_that_reads_the_images_reads_the_mean_of_frames() -> None:
    snn, given = converted(seeded(BesideItsImages)), frames(2)
    still_tail = given.mean(1).mean((1, 2, 3)).unsqueeze(1)
    alone = snn(given) - still_tail
    moved = given + 0.0
    moved[:, 0] += 1e-5  # no spike notices
    torch.testing.assert_close(snn(moved) - moved.mean(1).mean((1, 2, 3)).unsqueeze(1), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("count", [1, 3])
def test_after_each_step_such_a_tail_reads_the_mean_of_the_frames_so_far(engine: str, count: int) -> None:
    snn, given = converted(seeded(BesideItsImages), engine=engine), frames(count)
    over_time, run = snn.early_readout(given), snn.simulate(given)
    with snn.stream(count) as stream:
        streamed = torch.stack([stream(frame) for frame in given.transpose(0, 1)])
    for steps in (1, 4, STEPS):
        snn.timesteps = steps
        expected = snn(given[:, :steps])
        for found in (over_time, run.logits, streamed):  # rounded as batches are
            torch.testing.assert_close(found[steps - 1], expected, rtol=0, atol=1e-6)


def test_such_a_network_can_be_saved(tmp_path: Path) -> None:
    snn, given = converted(seeded(BesideItsImages)), frames(2)
    read = fxsnn.load(snn.save(tmp_path / "net.fxsnn"))
    assert torch.equal(read(given), snn(given))


def test_it_is_run_once_and_before_spikes() -> None:
    moving = TakeFrames()(still()).after
    with pytest.raises(ModelError, match="it takes frames already"):
        TakeFrames()(moving)
    with pytest.raises(ModelError, match="it spikes already"):
        TakeFrames()(converted().graph)


def test_a_pipeline_verifies_still_rewrites_on_the_mean() -> None:
    passes = fxsnn.pipeline(target="generic", bits=4, input="frames", calibration_data=frames())
    assert passes.example is not None
    assert torch.equal(passes.example, frames()[:2].mean(1))
    first, rest = passes.split("take-frames")
    graph = rest.run(first.run(seeded(Small)))
    assert graph.image_form.frames == frames().shape[1]
    with pytest.raises(fxsnn.DataError, match=r"expected \[N, 10, 3, H, W\]"):
        graph(images())
