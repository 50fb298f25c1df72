"""Golden vectors: a few images with the spikes of every layer and the logits that they must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Protocol

import torch
from torch import Tensor

from fxsnn.display import MARKED, Rows, html
from fxsnn.errors import FileError, FxsnnError
from fxsnn.file.packing import pack_spikes, unpack_spikes
from fxsnn.outputs import tensors_in

IMAGES, SPIKES, LOGITS = "golden/images", "golden/spikes/", "golden/logits"

TOLERANCE = 1e-4
"""By so much logits may differ, relative to the largest: the tail is float arithmetic, and sums in any order."""


class Simulated(Protocol):
    """What a simulation gives; see `fxsnn.Run`."""

    @property
    def logits(self) -> Any:
        """[T, N, ...], or such tensors in some structure."""

    @property
    def spikes(self) -> dict[str, Tensor]:
        """Per layer, [T, N, ...]."""


def golden_arrays(simulate: Callable[[Tensor], Simulated], images: Tensor) -> dict[str, Tensor]:
    """Arrays of a file: the images, what each layer spikes on them, [T, N, ...] in bits, and the logits.

    Args:
        simulate: runs the network.
        images: [N, ...], as the network takes them.
    """
    runs = [simulate(image) for image in images.split(1)]  # one at a time: large networks make many spikes
    logits = [[one[-1] for one in tensors_in(run.logits)] for run in runs]
    arrays = {IMAGES: images}
    arrays |= {name: torch.cat(parts) for name, *parts in zip(_names(len(logits[0])), *logits, strict=True)}
    for name in runs[0].spikes:
        arrays[SPIKES + name] = pack_spikes(torch.cat([run.spikes[name].to(torch.uint8) for run in runs], dim=1))
    return arrays


def _names(outputs: int) -> list[str]:
    """What the arrays of so many tensors are called that the network returns."""
    return [LOGITS] if outputs == 1 else [f"{LOGITS}/{number}" for number in range(outputs)]


@dataclass(frozen=True, eq=False)
class Golden:
    """Golden vectors of a file.

    Attributes:
        images: [N, ...], as the network takes them.
        spikes: per layer, uint8 [T, N, ...].
        logits: [N, ...] each, the tensors that the network returns.
    """

    images: Tensor
    spikes: Mapping[str, Tensor]
    logits: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, Tensor],
        count: int,
        timesteps: int,
        image_size: tuple[int, ...] | None,
        sizes: Mapping[str, tuple[int, ...]],
        logits: tuple[tuple[int, ...], ...] | None,
    ) -> Golden:
        """Take them out of the arrays of a file.

        Args:
            arrays: those of the file.
            count: images.
            timesteps: T.
            image_size: of an image, without the batch.
            sizes: per layer, the size of its output without the batch.
            logits: the sizes of the tensors that it returns, without the batch.

        Raises:
            FileError: they are missing, of another shape or type than they should be, or more of them are there.
        """
        if image_size is None or logits is None:
            raise FileError("it has golden vectors, but does not say how large an image is")
        returned = dict(zip(_names(len(logits)), logits, strict=True))
        problems = [f"array {name[:80]!r} is missing" for name in (IMAGES, *returned) if name not in arrays]
        problems += [f"array {SPIKES + name!r} is missing" for name in sizes if SPIKES + name not in arrays]
        known = {IMAGES, *returned, *(SPIKES + name for name in sizes)}
        problems += [
            f"array {name[:80]!r}: nothing needs it" for name in arrays if _is_golden(name) and name not in known
        ]
        _stop(problems)
        spikes = {}
        for name, size in {IMAGES: image_size, **returned}.items():
            found, shape = arrays[name], (count, *size)
            known_type = found.is_floating_point() or (name in returned and found.dtype == torch.int64)
            if not known_type or tuple(found.shape) != shape:
                problems.append(
                    f"array {name!r} is {found.dtype} {list(found.shape)}; expected are floats {list(shape)}"
                )
            elif not bool(found.isfinite().all()):
                problems.append(f"array {name!r} has values that are NaN or infinite")
        for name, size in sizes.items():
            try:
                spikes[name] = unpack_spikes(arrays[SPIKES + name], (timesteps, count, *size))
            except ValueError as error:
                problems.append(f"array {SPIKES + name!r}: {error}")
        _stop(problems)
        return cls(arrays[IMAGES], spikes, tuple(arrays[name] for name in returned))


def require_none(arrays: Mapping[str, Tensor]) -> None:
    """Refuse arrays of golden vectors that a document does not speak of.

    Raises:
        FileError: there are some.
    """
    if any(_is_golden(name) for name in arrays):
        raise FileError("it is damaged: it has golden vectors that its description does not speak of")


def _stop(problems: list[str]) -> None:
    """Raise what was found, if anything was."""
    if problems:
        raise FileError("\n".join(["its golden vectors are damaged:", *(f"  {one}" for one in problems[:20])]))


def _is_golden(name: str) -> bool:
    return name.startswith("golden/")


@dataclass(frozen=True)
class Verification:
    """What running golden vectors again showed; `print` it, or let a notebook show it.

    Attributes:
        file: where they came from.
        images: how many images.
        timesteps: T.
        spikes: per layer, how many spikes there must be.
        wrong: per layer, how many neurons and steps differ.
        logits: largest difference of a logit, relative to the largest logit; of several outputs, that of the worst.
        classes: on how many images the largest logit is another one, in any of several outputs; 0 where there is one
            number an image.
    """

    file: str
    images: int
    timesteps: int
    spikes: Mapping[str, int]
    wrong: Mapping[str, int]
    logits: float
    classes: int

    @property
    def ok(self) -> bool:
        """Every spike is the same, and the logits are up to `TOLERANCE`."""
        return not any(self.wrong.values()) and self.logits <= TOLERANCE and not self.classes

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "ok": self.ok}

    def rows(self) -> Rows:
        """The layers as cells, header first."""
        layers = ((name, f"{spikes:,}", f"{self.wrong[name]:,}") for name, spikes in self.spikes.items())
        return [("layer", "spikes", "missing or too many"), *layers]

    def _heading(self) -> str:
        total = sum(self.spikes.values())
        return (
            f"{self.file}: {self.images} golden images, T={self.timesteps}, {len(self.spikes)} layers, {total:,} spikes"
        )

    def _logits(self) -> str:
        return f"logits differ by {self.logits:.1e} of the largest; {self.classes} images are classified otherwise"

    def _verdict(self) -> str:
        return "every spike matches" if self.ok else "NOT the network that was saved, or not its arithmetic"

    def __str__(self) -> str:
        lines = [self._heading()]
        lines += [
            f"  {name}: {wrong:,} spikes are missing or too many (of {self.spikes[name]:,})"
            for name, wrong in self.wrong.items()
            if wrong
        ]
        return "\n".join([*lines, f"  {self._logits()}", self._verdict()])

    def _repr_html_(self) -> str:
        table = html(self.rows(), [MARKED if wrong else "" for wrong in self.wrong.values()])
        below = f"<p>{escape(self._logits())}</p><p><b>{escape(self._verdict())}</b></p>"
        return f"<p>{escape(self._heading())}</p>{table}{below}"


def compared(file: str, golden: Golden, simulate: Callable[[Tensor], Simulated]) -> Verification:
    """Run golden vectors again.

    Args:
        file: where they came from, for the report.
        golden: the vectors.
        simulate: runs the network.
    """
    wrong = dict.fromkeys(golden.spikes, 0)
    logits = []
    for place, image in enumerate(golden.images.split(1)):
        try:
            run = simulate(image)
        except FxsnnError:
            raise
        except Exception as error:  # of any kind: the file says what is called
            raise FileError(f"{file} cannot be run: {next(iter(str(error).splitlines()), error)}") from error
        logits.append([one[-1] for one in tensors_in(run.logits)])
        for name, expected in golden.spikes.items():
            found = run.spikes[name].to("cpu", torch.uint8)
            wrong[name] += int((found != expected[:, place : place + 1]).sum())
    returned = [torch.cat(parts).cpu().double() for parts in zip(*logits, strict=True)]
    pairs = [(expected.double(), one) for expected, one in zip(golden.logits, returned, strict=True)]
    others = [a.flatten(1).argmax(1) != b.flatten(1).argmax(1) for a, b in pairs if a.dim() > 1]
    return Verification(
        file,
        len(golden.images),
        len(next(iter(golden.spikes.values()))),
        {name: int(spikes.sum()) for name, spikes in golden.spikes.items()},
        wrong,
        max(float((a - b).abs().max()) / (float(a.abs().max()) or 1.0) for a, b in pairs),
        int(torch.stack(others).any(0).sum()) if others else 0,
    )
