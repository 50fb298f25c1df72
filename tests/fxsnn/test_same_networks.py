"""Networks that compute the same become the same spiking network, however they are written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from tests.nets import Ending, Small, images, seeded
from tests.random_networks import quiet
from tests.sharing import cases, converted_once

Convert = Callable[..., fxsnn.SpikingNetwork]
CALIBRATION = images(32)
EPS = 1e-3


class Conv(nn.Conv2d):
    """Other defaults, and nothing else."""

    def __init__(self, here: int, there: int, size: int = 3) -> None:
        super().__init__(here, there, size, bias=False)


class Norm(nn.BatchNorm2d):
    """Other defaults, and nothing else."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS, momentum=0.01)


def of_own_classes(model: Any) -> nn.Module:
    for name, layer in {"conv2": Conv(8, 8), "norm1": Norm(8), "norm2": Norm(8)}.items():
        layer.load_state_dict(getattr(model, name).state_dict())
        setattr(model, name, layer)
    return model


def inside(wrap: Callable[[nn.Module], Any], *names: str) -> Callable[[Any], nn.Module]:
    def wrapped(model: Any) -> nn.Module:
        for name in names:
            setattr(model, name, wrap(getattr(model, name)))
        return model

    return wrapped


WAYS: dict[str, Callable[[Any], Any]] = {
    "data parallelism inside": inside(nn.DataParallel, "conv1", "hidden"),
    "data parallelism inside of itself": inside(lambda layer: nn.DataParallel(nn.DataParallel(layer)), "conv2", "pool"),
    "compiled inside": inside(torch.compile, "conv2", "relu2"),
    "compiled data parallelism": lambda model: torch.compile(nn.DataParallel(model)),
    "layers of own classes": of_own_classes,
}


def plain() -> nn.Module:
    model = seeded(Small)
    model.norm1.eps = model.norm2.eps = EPS
    return model


@converted_once
def ordinary() -> fxsnn.SpikingNetwork:
    with quiet():
        return fxsnn.convert(plain(), target="hw_v1.0", bits=4, correction=None, calibration_data=CALIBRATION)


@cases("way", WAYS, quick=("data parallelism inside", "compiled inside", "layers of own classes"))
def test_the_same_layers_in_other_clothes(way: str, convert: Convert) -> None:
    written = convert(WAYS[way](plain()).eval(), bits=4, calibration_data=CALIBRATION)
    assert written.graph.text() == ordinary().graph.text()
    assert torch.equal(written(images()), ordinary()(images()))


class Pooled(nn.Module):
    """A convolution, and global pooling whose two last dimensions are dropped in some way."""

    def __init__(self, drop: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.drop = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), drop

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.drop(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1)))


@cases("drop", [torch.squeeze, lambda x: x.squeeze(-1).squeeze(-1), lambda x: x.squeeze()], quick=2)
def test_a_squeeze_in_front_of_the_classifier_is_a_flatten_for_so_many_images_as_you_like(
    drop: Callable[[Tensor], Tensor], convert: Convert
) -> None:
    ways = (drop, lambda x: x.flatten(1))
    squeezed, flattened = (convert(seeded(partial(Pooled, way)), bits=4, calibration_data=CALIBRATION) for way in ways)
    for count in (2, 64, 65, 129):
        assert torch.equal(squeezed(images(count)), flattened(images(count)))


def test_one_logit_follows_that_of_the_network(convert: Convert) -> None:
    model = seeded(lambda: Ending(1))
    snn = convert(model, bits=4, timesteps=256, calibration_data=CALIBRATION)
    with torch.no_grad():
        wanted, found = model(CALIBRATION), snn(CALIBRATION)
    assert found.shape == (32, 1)
    assert torch.corrcoef(torch.stack([wanted.flatten(), found.flatten()]))[0, 1] > 0.95
