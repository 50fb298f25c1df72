"""A layer that is called several times becomes as many layers with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.layers import Spiking
from fxsnn.passes import FRONT_END, SeparateCalls
from fxsnn.rewriting import Pipeline
from tests.nets import images, seeded
from tests.sharing import cases


class Again(nn.Module):
    """A convolution, its batch norm and a hidden layer, each called twice; the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool, self.hidden, self.fc = nn.AvgPool2d(2), nn.Linear(100, 100), nn.Linear(100, 5)
        self.norm.running_mean = torch.rand(4)

    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x).relu()
        for _ in range(2):
            x = self.norm(self.conv2(x)).relu()
        x = self.pool(x).flatten(1)
        for _ in range(2):
            x = self.hidden(x).relu()
        return self.fc(x), self.fc(x * 0.5)


def of_the_first(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """A loss."""
    return (outputs[0].mean(1) - labels).square().mean()


MODEL, DATA = seeded(Again).eval(), images(16)


def test_each_call_has_a_layer_of_its_own_with_the_same_tensors() -> None:
    graph = Pipeline(FRONT_END, DATA).run(MODEL)
    assert graph.shared() == {"fc"}  # the tail's own affair
    names = [graph.name(node) for node in graph.body(nn.Conv2d, nn.Linear)]
    assert names == ["conv1", "conv2", "conv2_conv2_1", "hidden", "hidden_hidden_1"]
    assert graph["conv2"].weight is graph["conv2_conv2_1"].weight
    assert graph["conv2"] is not graph["conv2_conv2_1"]


def test_a_graph_without_such_layers_is_left_alone() -> None:
    graph = Pipeline(FRONT_END, DATA).run(MODEL)
    assert SeparateCalls()(graph).diff().summary() == "nothing changed"


@pytest.mark.filterwarnings("ignore:the spiking network cannot be saved")  # its tail calls a layer twice
@cases("options", [{"finetune": None}, {"correction": "both"}, {}], quick=2)
def test_it_is_converted_corrected_and_trained(options: dict[str, Any]) -> None:
    if "finetune" in options:
        options = {"finetune": fxsnn.Finetune((DATA, DATA.mean((1, 2, 3))), 1, spiking_epochs=1, loss=of_the_first)}
    state = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    snn = fxsnn.convert(MODEL, target="generic", bits=4, timesteps=64, calibration_data=DATA, **options)
    assert all(torch.equal(tensor, state[name]) for name, tensor in MODEL.state_dict().items())
    assert len([one for one in snn.modules() if isinstance(one, Spiking)]) == 6
    if "finetune" not in options:
        with torch.no_grad():
            pair = torch.stack([snn(DATA)[0].flatten(), MODEL(DATA)[0].flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.9
