"""Random tails behind a converted body: what runs them, and what files keep of them, is the user's own to the bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import FileError
from tests.engines import ENGINES
from tests.nets import images
from tests.tails import activations, alike, with_tail

ROWS = ("flatten", "mean", "convolution squeezed", "pooled")
STEPS = (
    "linear", "log-softmax", "softmax", "squeeze", "add in place", "relu in place", "cat", "einsum", "sum", "nothing"
)  # fmt: skip
FORMS = ("one", "tuple", "list", "dict", "nested", "joined", "none beside it")


class Drawn(nn.Module):
    """Some heads that read the activations, each a few steps long, returned in some form."""

    def __init__(self, heads: list[tuple[str, tuple[str, ...]]], form: str, seed: int) -> None:
        super().__init__()
        self.heads, self.form = heads, form
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.linears = nn.ModuleDict()
            convolutions = [str(place) for place, (rows, _) in enumerate(heads) if rows == "convolution squeezed"]
            self.convs = nn.ModuleDict({name: nn.Conv2d(6, 5, 4) for name in convolutions})
            with torch.no_grad():
                self(torch.rand(2, 6, 4, 4))  # makes the linear layers
        self.eval()

    def _linear(self, name: str, width: int | None) -> nn.Module:
        if name not in self.linears:
            assert width is not None
            self.linears[name] = nn.Linear(width, 4)
        return self.linears[name]

    def _rows(self, rows: str, place: int, x: Any) -> Any:
        if rows == "flatten":
            return x.flatten(1)
        if rows == "mean":
            return x.mean((2, 3))
        if rows == "pooled":
            return F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
        return self.convs[str(place)](x).squeeze()

    def _step(self, step: str, name: str, x: Any) -> Any:
        if step == "linear":
            return self._linear(name, x.shape[-1] if type(x) is Tensor else None)(x)
        if step in ("log-softmax", "softmax"):
            return x.log_softmax(-1) if step == "log-softmax" else F.softmax(x, dim=-1)
        if step == "squeeze":
            return x.unsqueeze(1).squeeze()
        if step == "add in place":
            return x.add_(1)
        if step == "relu in place":
            return F.relu(x, inplace=True)
        if step == "cat":
            return torch.cat([x, x * 2], -1)
        if step == "einsum":
            return torch.einsum("...c->...c", x)
        return x.sum(-1, keepdim=True) if step == "sum" else x

    def forward(self, x: Any) -> Any:
        outputs = []
        for place, (rows, steps) in enumerate(self.heads):
            y = self._rows(rows, place, x)
            for number, step in enumerate(steps):
                y = self._step(step, f"head{place}_{number}", y)
            outputs.append(y)
        if self.form == "joined":
            return torch.cat([y.flatten() for y in outputs])
        forms: dict[str, Any] = {
            "one": outputs[0],
            "tuple": tuple(outputs),
            "list": outputs,
            "dict": {f"head{place}": y for place, y in enumerate(outputs)},
            "nested": {"heads": (outputs, {"first": outputs[0]})},
            "none beside it": (outputs[0], None),
        }
        return forms[self.form]


HEAD = st.tuples(st.sampled_from(ROWS), st.lists(st.sampled_from(STEPS), max_size=4).map(tuple))
HEADS = st.lists(HEAD, min_size=1, max_size=3)
REASONS = ("has no name in the format", "its tail", "cannot hold")
COUNTS = st.sampled_from((1, 2, 3, 17, 64, 65, 66))


def kept(snn: fxsnn.SpikingNetwork, x: Tensor) -> str:
    """`kept` where a file holds the network to the bit, or why `save` refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.fxsnn"
        try:
            snn.save(path)
        except FileError as error:
            return next(reason for reason in REASONS if reason in str(error))
        assert fxsnn.verify(path).ok
        other = fxsnn.load(path)
    assert alike(other(x), snn(x))
    assert alike(other.early_readout(x[:3]), snn.early_readout(x[:3]))
    return "kept"


def outcome(tail: Drawn, timesteps: int, count: int) -> str:
    """What becomes of a tail; raises where it is not the user's own."""
    x = images(count, seed=count)
    found = []
    for engine in ENGINES:
        snn = with_tail(tail, engine=engine, timesteps=timesteps)
        read = activations(snn, x)
        expected = tail(read.clone())
        assert alike(snn(x), expected)
        assert torch.equal(activations(snn, x), read)
        found.append(snn)
    return kept(found[0], x)


@pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_random_tails_are_the_users_own_to_the_bit(examples: int) -> None:
    seen = set()

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(HEADS, st.sampled_from(FORMS), st.integers(0, 9), st.sampled_from((1, 4)), COUNTS)
    def run(heads: Any, form: str, seed: int, timesteps: int, count: int) -> None:
        seen.add(outcome(Drawn(heads, form, seed), timesteps, count))

    run()
    assert seen >= {"kept", "has no name in the format", "its tail"}
