"""The CPU engine, one step at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxsnn.engine.circuit import Circuit, Recording, relying_on
from fxsnn.engine.cpu import (
    fill,
    images_together,
    results_for,
    run_plan,
    shaped,
    workspace_for,
)
from fxsnn.engine.instructions import InstructionSet
from fxsnn.engine.layout import layout_of
from fxsnn.engine.lookups import weights_of
from fxsnn.engine.planning import plan_of
from fxsnn.engine.workspaces import OfImages, Workspace


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the images, with the memory that is theirs."""

    rows: slice
    space: Workspace


class NumbaStepper:
    """Runs a circuit of one step on the CPU; see `Stepper`.

    Args:
        circuit: see `one_step_of`.
        how: the instruction set.

    Raises:
        Unsupported: a layer does not fit the engine's integers.
    """

    def __init__(self, circuit: Circuit, how: InstructionSet) -> None:
        self._circuit, self._how = circuit, how
        self._weights = weights_of(circuit, how)
        self._parts: list[_Part] = []
        self._fresh = True

    def step(self, images: Tensor, recording: Recording | None = None) -> Tensor:
        """See `Stepper`."""
        if not self._parts:
            self._parts = self._parts_for(images)
        plan, dynamics = self._parts[0].space.plan, self._circuit.decode.dynamics
        results = results_for(plan, len(images), 1, recording=recording)
        given = images.unsqueeze(1) if self._circuit.frames else images

        def run(part: _Part) -> None:
            of_images = OfImages(self._circuit, self._weights, given[part.rows])
            with relying_on("numba"):
                driven = part.space.drive(of_images)
                run_plan(part.space, driven, part.rows, dynamics, results, fresh=self._fresh)

        if len(self._parts) == 1:
            run(self._parts[0])
        else:
            with ThreadPoolExecutor(min(torch.get_num_threads(), len(self._parts))) as pool:
                list(pool.map(run, self._parts))
        self._fresh = False
        if recording is not None:
            fill(recording, results, plan)
        return shaped(torch.from_numpy(results.counts), plan.operations[-1])[0]

    def _parts_for(self, images: Tensor) -> list[_Part]:
        """Memory for as many images of that size."""
        form = self._circuit.encode.form
        layout = layout_of(self._circuit, self._weights, form.size_of_layers(tuple(images.shape[1:])), self._how)
        together = images_together(layout, 1, len(images), min(torch.get_num_threads(), len(images)))
        parts = []
        plan = plan_of(self._circuit, self._weights, layout, together, steps=1)
        for start in range(0, len(images), together):
            rows = slice(start, min(start + together, len(images)))
            parts.append(_Part(rows, workspace_for(plan, self._circuit, 1, kept=True)))
        return parts

    def start(self, rows: Tensor | None = None) -> None:
        """See `Stepper`."""
        self._fresh = self._fresh or rows is None
        if rows is None or self._fresh:
            return
        for part in self._parts:
            chosen = np.flatnonzero(rows[part.rows].numpy())
            part.space.start(chosen, self._circuit.decode.dynamics)
