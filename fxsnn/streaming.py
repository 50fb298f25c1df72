"""A spiking network fed frame by frame, from sources that need not end."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fxsnn.ambient import neutral
from fxsnn.chip import whole_number
from fxsnn.data import accepted
from fxsnn.engine import stepper_for, without_engine
from fxsnn.engine.circuit import Broken, Recording, circuit_of, watched
from fxsnn.engine.stepping import Stepper
from fxsnn.errors import DataError, OptionError
from fxsnn.graph import Graph
from fxsnn.layers import check_images
from fxsnn.numerics import LARGEST_TIMESTEPS
from fxsnn.options import real_number, require_flag, shown
from fxsnn.outputs import require_rows, with_each


class Stream:
    """Membranes that stay between frames: `SpikingNetwork.stream` opens one.

        with snn.stream() as stream:
            for frame in source:
                logits = stream(frame)

    The membranes are the stream's; the network has none, and any number of streams may be open. A stream runs the
    network with the reset and start of membranes that it had when the stream was opened; open another one after its
    weights were changed, which both share. Its spikes are those of one run over all frames, however many there are; so
    are the logits, unless there is a `window` or a `decay`.

    Args:
        graph: of the spiking network.
        engine: that of the network.
        sources: how many frames come together, one of each source; `None`: a single one.
        window: logits are those of the spikes of so many last frames; `None`: of all.
        decay: a frame counts so many times as much as the one behind it, above 0 and below 1; `None`: as much.
        record: keep the spikes of all layers, for a look at them.

    Attributes:
        steps: frames since the stream was opened, or since all of it was reset.
        spikes: per layer, 0 and 1, [sources or 1, C, ...] at the last step; empty unless `record`.

    Raises:
        OptionError: an option has a value that is not allowed, or the engine that was asked for cannot run here step by
            step.
        Unsupported: the layers are put together in a way that cannot be run step by step.
    """

    def __init__(
        self,
        graph: Graph,
        engine: str,
        sources: int | None = None,
        window: int | None = None,
        decay: float | None = None,
        *,
        record: bool = False,
    ) -> None:
        self._sources = _number_of("sources", sources)
        self._rates, self._pictures = (_Mean(*_readout(window, decay)) for _ in range(2))
        self._record = require_flag("record", record)
        self._circuit, self._engine = circuit_of(graph), engine
        if watched(self._circuit):
            raise OptionError("a stream calls no hooks, and there are some on its layers; take them off (record=True)")
        self._stepper: Stepper | None = stepper_for(engine, self._circuit)
        self._tail = graph.behind(graph.nodes(type(self._circuit.decode))[0])
        self._tail_reads_images = any(
            node.users for node in self._tail.graph.find_nodes(op="placeholder", target="images")
        )
        self._form = replace(graph.image_form, frames=None)
        self._size: tuple[int, ...] | None = None
        self.spikes: dict[str, Tensor] = {}
        self.steps = 0

    @neutral(gradients=False)
    def __call__(self, frame: Tensor) -> Any:
        """Feed one frame.

        Args:
            frame: [C, H, W], or what else the network takes, without the batch; with `sources`, [sources, C, H, W].
                Prepared as for the network. All frames have one size.

        Returns:
            Logits [classes], or [sources, classes]; or such tensors in the structure in which the network returns them.

        Raises:
            DataError: this cannot be a frame for the network, or what it returns cannot be told apart by image.
            OptionError: the stream is closed, or its engine cannot run here.
        """
        images = self._batch(frame)
        recording = Recording() if self._record else None
        value = self._circuit.decode.spike_value
        try:
            with accepted(images, what="frames", size=self._size):
                rates = self._rates.with_another(self._step(images, recording))
                activations = (rates * value.double().view(-1, *[1] * (rates.dim() - 2))).to(value.dtype)
                logits = self._logits(activations, images)
        except Exception:
            if self.steps == 0:  # nothing of a first frame that is refused may stay
                self._stepper, self._size = stepper_for(self._engine, self._circuit), None
                self._forget(None)
            raise
        self._size, self.steps = tuple(images.shape[1:]), self.steps + 1
        if recording is not None:
            self.spikes = {name: one[0].float() for name, one in recording.spikes.items()}
        return logits

    def reset(self, which: Tensor | None = None) -> None:
        """Let membranes and logits start again.

        Args:
            which: bool [sources], those of which they do; `None`: all.

        Raises:
            OptionError: the stream is closed, or `which` is no such mask.
        """
        stepper = self._opened()
        if which is None:
            self.steps = 0
        else:
            count = self._sources or 1
            if not isinstance(which, Tensor) or which.dtype != torch.bool or which.shape != (count,):
                raise OptionError(f"which is {shown(which)}; expected a tensor of bool [{count}], one for each source")
        stepper.start(which)
        self._forget(which)

    def close(self) -> None:
        """Give the membranes back; no frame can follow."""
        self._stepper = None
        self.spikes = {}
        self._forget(None)

    def _forget(self, which: Tensor | None) -> None:
        """Let logits start again, of some sources or of all."""
        for mean in (self._rates, self._pictures):
            mean.forget(which)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        sources = "one source" if self._sources is None else f"{self._sources} sources"
        return f"Stream of {sources}, {'closed' if self._stepper is None else f'{self.steps} frames'}"

    def _opened(self) -> Stepper:
        if self._stepper is None:
            raise OptionError("the stream is closed; open another one with snn.stream()")
        return self._stepper

    def _batch(self, frame: object) -> Tensor:
        """The frame, or frames, as images for the network, if they can be such."""
        self._opened()
        if isinstance(frame, Tensor):
            given = list(frame.shape)
            frame = frame.unsqueeze(0) if self._sources is None else frame
            if not self._form.takes(frame.dim()):
                wanted = str(self._form).replace("[N, ", "[" if self._sources is None else f"[{self._sources}, ")
                raise DataError(f"a frame has shape {given}; expected {wanted} of a floating type")
        check_images(frame, self._form)
        assert isinstance(frame, Tensor)
        if len(frame) != (self._sources or 1):
            raise DataError(f"there are {len(frame)} frames; the stream was opened for {self._sources} sources")
        if self._size not in (None, tuple(frame.shape[1:])):
            raise DataError(
                f"frames have size {list(frame.shape[1:])}, those before them {list(self._size or ())}, which their "
                "membranes are for; open another stream"
            )
        return frame

    def _step(self, images: Tensor, recording: Recording | None) -> Tensor:
        """Spikes of what is decoded; where the engine breaks at the first frame, PyTorch takes its place."""
        try:
            return self._opened().step(images, recording)
        except Broken as reason:
            without_engine(self._engine, reason)
            if self.steps:
                raise OptionError(
                    f"the stream cannot go on: {reason}. Set snn.engine = 'torch' and open another one"
                ) from reason
            self._stepper = stepper_for("torch", self._circuit)
            return self._stepper.step(images, recording)

    def _logits(self, activations: Tensor, images: Tensor) -> Any:
        """What the tail makes of them: as in a run, of more than one row, which it may take the batch from."""
        rows = len(activations)
        if self._tail_reads_images:
            images = self._pictures.with_another(images).to(images.dtype)
            images = images.unsqueeze(1) if self._circuit.frames else images
        if rows == 1:
            activations, images = (one.repeat_interleave(2, 0) for one in (activations, images))
        outputs = require_rows(self._tail.forward(activations, images), len(activations))
        return with_each(lambda tensor: tensor[0] if self._sources is None else tensor[:rows], outputs)


class _Mean:
    """The mean over time of what comes in, row by row.

    Args:
        window: of so many last ones; `None`: of all.
        decay: one counts so many times as much as the one behind it.
    """

    def __init__(self, window: int | None, decay: float) -> None:
        self._window, self._decay = window, decay
        self._sum: Tensor | None = None
        self._weight = torch.zeros(0)
        self._last: deque[tuple[Tensor, Tensor]] = deque()

    def with_another(self, values: Tensor) -> Tensor:
        """The mean with one more, float64 [N, ...]."""
        values = values.double()
        if self._sum is None:
            self._sum, self._weight = torch.zeros_like(values), values.new_zeros(len(values))
        one = torch.ones_like(self._weight)
        self._sum, self._weight = self._sum * self._decay + values, self._weight * self._decay + one
        if self._window is not None:
            self._last.append((values, one))
            if len(self._last) > self._window:
                oldest, count = self._last.popleft()
                self._sum, self._weight = self._sum - oldest, self._weight - count
        return self._sum / self._weight.view(-1, *[1] * (values.dim() - 1))

    def forget(self, rows: Tensor | None) -> None:
        """Start again, for some rows or for all."""
        if rows is None or self._sum is None:
            self._sum = None
            self._last.clear()
            return
        kept = ~rows.to(self._sum.device)
        self._sum, self._weight = _masked(self._sum, kept), _masked(self._weight, kept)
        self._last = deque((_masked(values, kept), _masked(count, kept)) for values, count in self._last)


def _masked(values: Tensor, kept: Tensor) -> Tensor:
    return values * kept.view(-1, *[1] * (values.dim() - 1))


def _readout(window: object, decay: object) -> tuple[int | None, float]:
    """What logits are made of, checked."""
    if window is not None and decay is not None:
        raise OptionError("window and decay are two ways to forget; give one of them")
    share = 1.0 if decay is None else real_number(decay)
    if share is None or (decay is not None and not 0 < share < 1):
        raise OptionError(f"decay is {shown(decay)}; allowed are numbers above 0 and below 1, or None")
    return _number_of("window", window), share


def _number_of(name: str, value: object) -> int | None:
    count = None if value is None else whole_number(value)
    if value is not None and (count is None or not 1 <= count <= LARGEST_TIMESTEPS):
        raise OptionError(f"{name} is {shown(value)}; allowed are whole numbers from 1 to {LARGEST_TIMESTEPS}, or None")
    return count
