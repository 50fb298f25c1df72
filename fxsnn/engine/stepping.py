"""One step at a time, with membranes that stay: what streams are run with."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fxsnn.engine.circuit import Call, Circuit, Recording
from fxsnn.layers import Decode, Encode, Integers, Spiking
from fxsnn.numerics import fire_once, start_of


class Stepper(Protocol):
    """Runs a circuit step by step; whatever runs it, the spikes are the same."""

    def step(self, images: Tensor, recording: Recording | None = None) -> Tensor:
        """Spikes of what is decoded at the next step, 0 and 1, [N, C, ...].

        Args:
            images: of this step, [N, ...]; N is the same at every step.
            recording: is given the spikes of all layers, [1, N, C, ...].
        """

    def start(self, rows: Tensor | None = None) -> None:
        """Let membranes start again.

        Args:
            rows: bool [N], of which images; `None`: of all.
        """


def one_step_of(circuit: Circuit) -> Circuit:
    """The same circuit for a single step, with modules of its own and membranes that hold any number of steps.

    The tensors are those of the circuit.
    """

    def single(module: Any) -> Any:
        own = copy.copy(module)
        if isinstance(own, Integers | Decode | Encode):
            dynamics = replace(circuit.decode.dynamics, timesteps=1)
            own.run_with(dynamics)
        if isinstance(own, Spiking):
            own.unbounded = True
        return own

    calls = tuple(Call(call.name, single(call.module), call.inputs, call.images) for call in circuit.calls)
    return Circuit(calls, single(circuit.decode))


class PlainStepper:
    """Runs a circuit of one step in PyTorch: what every engine has to give.

    Args:
        circuit: see `one_step_of`.
    """

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._membranes: dict[int, Tensor] = {}

    def step(self, images: Tensor, recording: Recording | None = None) -> Tensor:
        """See `Stepper`."""
        given = images.unsqueeze(1) if self._circuit.frames else images
        values = self._circuit.of_images(given)
        for number, call in enumerate(self._circuit.calls):
            if call.images:
                continue
            inputs = [values[one] for one in call.inputs]
            fires = isinstance(call.module, Spiking)
            values[number] = self._fired(number, call.module, inputs) if fires else call.module(*inputs)
            if fires and recording is not None:
                recording.spikes[call.name] = values[number].to(torch.uint8).unsqueeze(0)
        return values[len(self._circuit.calls) - 1]

    def _fired(self, number: int, layer: Any, inputs: list[Tensor]) -> Tensor:
        drive = layer.drive(*inputs)
        theta = _thresholds(layer, drive)
        membrane = self._membranes.get(number, start_of(theta, layer.dynamics).expand_as(drive))
        fired, self._membranes[number] = fire_once(membrane + drive, theta, layer.dynamics)
        return fired.float()

    def start(self, rows: Tensor | None = None) -> None:
        """See `Stepper`."""
        if rows is None:
            self._membranes.clear()
        for number, membrane in self._membranes.items():
            layer: Any = self._circuit.calls[number].module
            assert rows is not None
            which = rows.view(-1, *[1] * (membrane.dim() - 1)).to(membrane.device)
            start = start_of(_thresholds(layer, membrane), layer.dynamics)
            self._membranes[number] = torch.where(which, start, membrane)


def _thresholds(layer: Any, like: Tensor) -> Tensor:
    """Of each channel, beside membranes [N, C, ...]."""
    found: Tensor = layer.threshold.view(-1, *[1] * (like.dim() - 2)).to(like.dtype)
    return found
