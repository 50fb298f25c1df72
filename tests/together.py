"""What several processes do together, for tests: run by torchrun, or alone; the first process writes what came of it.

python -m torch.distributed.run --nproc-per-node 2 tests/together.py TASK RESULT.json
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import fxsnn
from fxsnn.insight import accuracy, accuracy_over_time

RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
CLASSES = 4


def network() -> nn.Module:
    """1x8x8: two convolutions, whose sums follow each other, and a tail."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, CLASSES),
    ).eval()  # fmt: skip


def pictures(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright quarter, which is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randn(count, 1, 8, 8, generator=generator) / 2
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.5
    return images, labels


class Stream(IterableDataset[Any]):
    """Data that come in an order of their own."""

    def __iter__(self) -> Any:
        yield from zip(*pictures(90), strict=True)


def digest(snn: fxsnn.SpikingNetwork) -> str:
    """Of all tensors of a network."""
    content = sha256()
    for name, tensor in snn.state_dict().items():
        content.update(name.encode() + tensor.numpy().tobytes())
    return content.hexdigest()


def converted(data: Any, **options: Any) -> fxsnn.SpikingNetwork:
    """For the tests."""
    chosen: dict[str, Any] = {"target": "hw_v1.0", "bits": 2, "timesteps": 6, **options}
    return fxsnn.convert(network(), calibration_data=data, **chosen)


def conversions(folder: Path) -> Any:
    """Digests of networks made with all kinds of data, and what is measured on one."""
    images, labels = pictures(150)
    shuffled = DataLoader(TensorDataset(images, labels), 20, shuffle=True)
    own = DataLoader(TensorDataset(images, labels), 33, shuffle=True, generator=torch.Generator())
    snn = converted(images[:130])
    found: dict[str, Any] = {
        "a tensor": digest(snn),
        "a shuffled loader": digest(converted(shuffled)),
        "a loader with a generator": digest(converted(own, correction="all")),
        "fewer batches than processes": digest(converted([images[:7]], correction="both")),
        "batches of unlike sizes": digest(converted([images[:7], images[7:20], images[20:21], images[21:150]])),
        "an iterator": digest(converted(iter(images.split(30)))),
        "a stream": digest(converted(DataLoader(Stream(), 25))),
        "frames": digest(converted(images[:, None] + torch.zeros(1, 6, 1, 1, 1), input="frames")),
    }
    snn.save(folder / f"{SIZE}.fxsnn")
    loader = DataLoader(TensorDataset(*pictures(101, seed=2)), 16)
    return found | {
        "accuracy": accuracy(network(), loader),
        "over time": accuracy_over_time(snn, loader, 6),
        "sweep": fxsnn.sweep(snn, loader, timesteps=5, model=network()).to_dict(),
        "budget": fxsnn.error_budget(network(), snn, loader).to_dict(),
        "profile": snn.profile(loader).to_dict(),
        "no labels": snn.profile(images[:3]).to_dict(),
        **measured_alike(snn),
    }


def measured_alike(snn: fxsnn.SpikingNetwork) -> dict[str, Any]:
    """What is measured with data that draw, are divided already, or mean something only as a whole."""
    images, labels = pictures(60, seed=3)
    torch.manual_seed(5 + RANK)  # processes need not be at the same random numbers
    shuffled = DataLoader(TensorDataset(images, labels), 7, shuffle=True)
    half = fxsnn.sweep(snn, DataLoader(TensorDataset(images, labels), 10, sampler=sampler(60)), timesteps=2)
    values = torch.tensor([0.5, 0.0, 0.3, 1.0] + [0.0, 1.0] * 28)  # the second batch alone: two classes
    torch.manual_seed(0)
    single = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).eval()
    made = fxsnn.convert(single, target="hw_v1.0", bits=2, timesteps=4, calibration_data=images)
    batches = list(zip(images.split(4), values.split(4), strict=True))
    return {
        "drawn": [accuracy(network(), shuffled), fxsnn.sweep(snn, shuffled, timesteps=2).to_dict()],
        "divided": half.to_dict(),
        "values": fxsnn.error_budget(single, made, batches).to_dict(),
    }


def sampler(count: int) -> Any:
    """What gives each process images of its own."""
    return DistributedSampler(range(count), num_replicas=SIZE, rank=RANK)  # type: ignore[arg-type]  # of so many


def trainings(folder: Path) -> Any:
    """Losses of trainings, epoch by epoch."""
    images, labels = pictures(63)
    found: dict[str, list[Any]] = {}

    def tuned(name: str, data: Any, **options: Any) -> None:
        found[name] = []
        chosen: dict[str, Any] = {"epochs": 3, "spiking_epochs": 0, "lr": 0.001, **options}
        finetune = fxsnn.Finetune(data, on_epoch=lambda epoch: found[name].append(asdict(epoch)), **chosen)
        converted(images, finetune=finetune)

    tuned("one batch", [(images, labels)])
    tuned("spikes", [(images, labels)], epochs=1, spiking_epochs=2, distillation=0.5)
    tuned("few images", [(images[:2], labels[:2])], validation=[(images, labels)])
    tuned("shuffled", (images, labels), batch_size=20, epochs=1, validation=0.3)
    tuned("without labels", images, distillation=1.0, batch_size=21, epochs=1)
    dataset = TensorDataset(*pictures(60))
    tuned("divided", DataLoader(dataset, 60 // SIZE, sampler=sampler(60)), epochs=2)
    names = [str(int(label)) for label in labels]
    tuned("names", [(images, names)], loss=lambda outputs, given: (
        nn.functional.cross_entropy(outputs, torch.tensor([int(name) for name in given]))
    ))  # fmt: skip
    tuned(
        "a loss of the user's", [(images, {"which": labels})], loss=lambda outputs, given: (
            nn.functional.cross_entropy(outputs, given["which"])
        ),
    )  # fmt: skip
    return found


def half_a_training(folder: Path) -> Any:
    """A training that ends after its first epoch, or goes on if it has begun; as many epochs as were new."""
    images, labels = pictures(60)
    seen: list[float] = []

    def stop(epoch: Any) -> None:
        seen.append(epoch.loss)
        if SIZE > 1:
            raise InterruptedError("enough")

    finetune = fxsnn.Finetune(
        [(images, labels)], epochs=3, spiking_epochs=0, lr=0.001, checkpoint=folder / "run", on_epoch=stop
    )
    try:
        converted(images, finetune=finetune)
    except InterruptedError as error:
        return [seen, str(error)]
    return [seen, ""]


def errors(folder: Path) -> Any:
    """What is raised where one process alone has a reason."""
    good, labels = pictures(30)
    bad = good.clone()
    bad[0, 0, 0, 0] = torch.inf
    found = {}

    def told(name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

    def broken() -> Any:
        yield good
        if RANK == SIZE - 1:
            raise RuntimeError("no such picture")
        yield good

    told("calibration", lambda: converted([good, bad, good]))
    told("a loader", lambda: converted(list_of(broken)))
    told("labels", lambda: accuracy(network(), [(good, labels), (good, labels + 50)]))
    told("training", lambda: converted(good, finetune=fxsnn.Finetune([(good, labels + 50)], epochs=1)))

    def divided() -> Any:
        yield good, labels
        if RANK == SIZE - 1:
            raise OSError("no such file")
        yield good, labels

    def no_room(*_: Any) -> None:
        raise OSError(28, "no room")

    told("a training loader", lambda: converted(good, finetune=fxsnn.Finetune(list_of(divided), epochs=1)))
    snn, replace = converted(good), os.replace
    os.replace = no_room  # type: ignore[assignment]
    told("saving", lambda: snn.save(folder / "net.fxsnn"))
    os.replace = replace
    found["loaded"] = type(fxsnn.load(snn.save(folder / "net.fxsnn"))).__name__  # it is there for all
    with warnings.catch_warnings():
        warnings.simplefilter("error", fxsnn.FxsnnWarning)
        told("warnings", lambda: fxsnn.convert(network(), target="hw_v1.0", bits=2))
    inside: list[float] = []

    def look(_: Any) -> None:
        inside.append(accuracy(network(), [(good, labels)]))

    converted(good, finetune=fxsnn.Finetune([(good, labels)], epochs=1, spiking_epochs=0, on_epoch=look))
    found["on_epoch"] = str(len(inside))
    told(
        "a network",
        lambda: fxsnn.convert(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2)).eval(),
            target="hw_v1.0",
            bits=2,
            calibration_data=good,
        ),
    )
    return found


class list_of:  # noqa: N801  # reads as what it is
    """Data that can be gone through again."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __iter__(self) -> Any:
        return self._make()


def alone(folder: Path) -> Any:
    """One process converts by itself, while others do not; and files are written by whoever is alone."""
    if RANK == 0:
        converted(pictures(40)[0]).save(folder / "alone.fxsnn")
    if SIZE > 1:
        dist.barrier()
    return (folder / "alone.fxsnn").exists()


def main(task: str, result: str) -> None:
    """Do a task; see above."""
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
    if SIZE > 1:
        dist.init_process_group("gloo")
    folder = Path(result).parent
    with nullcontext() if SIZE == 1 or task == "alone" else fxsnn.across_processes():
        found = globals()[task](folder)
    if RANK == 0:
        Path(result).write_text(json.dumps(found))
    if SIZE > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
