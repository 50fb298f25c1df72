"""Accuracy, sweep and budget of one logit are those of its sign; of values they have no figure that is called so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError
from fxsnn.insight import accuracy, accuracy_over_time
from fxsnn.insight.outputs import Outputs, outputs_reading
from tests.nets import Ending, images, seeded
from tests.sharing import cases

Convert = Callable[..., fxsnn.SpikingNetwork]
X = images(50)


LOGIT = seeded(lambda: Ending(1))
with torch.no_grad():
    LOGIT.fc.bias -= LOGIT(X).sort(0)[0][24:26].mean()  # as many of one class as of the other
    LABELS = LOGIT(X).squeeze(1) > 0
    LABELS[:9] = ~LABELS[:9]


def ending(*last: nn.Module) -> nn.Module:
    """The same logits in another shape, or as probabilities."""
    model = Ending(1, *last)
    model.load_state_dict(LOGIT.state_dict())
    return model.eval()


BINARY = {"[N, 1]": LOGIT, "[N]": ending(nn.Flatten(0)), "sigmoid": ending(nn.Sigmoid())}


@pytest.fixture(params=["[N, 1]", *(pytest.param(name, marks=pytest.mark.slow) for name in ("[N]", "sigmoid"))])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return BINARY[request.param]


class TestOneLogit:
    @cases("labels", [LABELS[:, None].float(), LABELS, LABELS.long()], quick=1, ids=lambda one: str(one.dtype))
    def test_every_figure_is_that_of_the_sign(self, model: nn.Module, labels: Tensor, convert: Convert) -> None:
        snn = convert(model, bits=4, timesteps=6, calibration_data=X)
        border = 0.5 if model is BINARY["sigmoid"] else 0.0
        with torch.no_grad():
            said = [(network(X).flatten() > border) == LABELS for network in (model, snn)]
        ann, spiking = (100 * float(one.double().mean()) for one in said)
        assert ann == 82
        assert (
            accuracy(model, [(X, labels)]) == accuracy(model.double(), [(X[:7], labels[:7]), (X[7:], labels[7:])]) == 82
        )
        model.float()
        assert accuracy(snn, [(X, labels)]) == pytest.approx(spiking)
        assert accuracy_over_time(snn, [(X, labels)], 6)[-1] == pytest.approx(spiking)
        swept = fxsnn.sweep(snn, (X, labels), timesteps=6, model=model)
        assert [swept.points[-1].accuracy, swept.reference] == pytest.approx([spiking, 82])
        stages = fxsnn.error_budget(model, snn, (X, labels)).stages
        assert [stages[0].accuracy, stages[0].agreement, stages[-1].accuracy] == pytest.approx([82, 100, spiking])
        assert stages[-1].agreement == pytest.approx(100 * float((said[0] == said[1]).double().mean()))

    def test_labels_of_another_kind_are_refused_by_all(self, convert: Convert) -> None:
        snn, wrong = convert(LOGIT, bits=4, calibration_data=X), LABELS.long() * 2 - 1
        for call in (
            lambda: accuracy(snn, [(X, wrong)]),
            lambda: accuracy_over_time(snn, [(X, wrong)], 2),
            lambda: fxsnn.sweep(snn, (X, wrong), timesteps=2),
            lambda: fxsnn.error_budget(LOGIT, snn, (X, wrong)),
        ):
            with pytest.raises(DataError, match=r"from -1 to 1, .* give \(labels > 0\) instead of -1 and 1"):
                call()


class TestValues:
    VALUES = torch.linspace(-3, 3, 50)

    def test_no_figure_is_called_an_accuracy(self, convert: Convert) -> None:
        snn = convert(LOGIT, bits=4, calibration_data=X)
        for call in (
            lambda: accuracy(snn, [(X, self.VALUES)]),
            lambda: accuracy_over_time(snn, [(X, self.VALUES)], 2),
            lambda: fxsnn.sweep(snn, (X, self.VALUES), timesteps=2),
        ):
            with pytest.raises(DataError, match=r"labels are torch.float32 \[50\], from -3 to 3: .*have no accuracy\."):
                call()

    @pytest.mark.parametrize("data", [X, (X, VALUES)], ids=["images", "labels"])
    def test_the_budget_has_distances_alone(self, data: Any, convert: Convert) -> None:
        snn = convert(LOGIT, bits=4, calibration_data=X)
        budget = fxsnn.error_budget(LOGIT, snn, data)
        assert {(stage.agreement, stage.accuracy) for stage in budget.stages} == {(None, None)}
        with torch.no_grad():
            distance = float((snn(X) - LOGIT(X)).norm() / LOGIT(X).norm())
        assert budget.stages[-1].distance == pytest.approx(distance, rel=1e-4)
        assert [row[2] for row in budget.stage_rows()[1:]] == ["-"] * len(budget.stages)
        assert "accuracy" not in str(budget).partition("worst")[0]

    def test_the_advice_can_be_followed(self, convert: Convert) -> None:
        snn = convert(LOGIT, bits=4, timesteps=4, calibration_data=X)
        errors = (snn.early_readout(X).squeeze(2) - self.VALUES).square().mean(1)
        assert errors.shape == (4,)


class TestSeveralOutputs:
    PAIR = (torch.ones(4, 2), {"b": torch.full((4,), 2.0)})

    def test_distances_are_over_all_of_them(self) -> None:
        sums = Outputs()
        sums.add((torch.ones(4, 2), {"b": torch.full((4,), 3.0)}), self.PAIR, None, None)
        stage = sums.stage("timing")
        assert stage.distance == pytest.approx((4 / 24) ** 0.5)
        assert (stage.agreement, stage.accuracy) == (None, None)

    def test_labels_for_them_are_refused(self) -> None:
        ann: Any = None
        assert outputs_reading(ann, X, self.PAIR, None, None) is None
        with pytest.raises(DataError, match="gives a tuple, several outputs, which have no accuracy: give the images"):
            outputs_reading(ann, X, self.PAIR, torch.zeros(4), None)
