"""Accuracy of residual and pooling networks on CIFAR-10, converted without training and fine-tuned.

    python benchmarks/branches.py --data_dir data

Trains ResNet-20 and a VGG with max pooling and one with average pooling as ordinary networks, and converts each for T
steps, without training and with fine-tuning. Max pooling is replaced in each of the ways of
`fxsnn.passes.ReplaceMaxPool`. 5,000 training images are held out from everything else; the test set is measured once a
row. What is finished is kept in a folder: an interrupted call goes on. The report has all rows that are there.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxsnn
from fxsnn.cli.option_values import positive
from fxsnn.insight import accuracy
from fxsnn.passes import MAX_POOL_WAYS
from fxsnn.storage import write_whole

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from accuracy_report import machine
from accuracy_training import Augmented, Data, Recipe, batches, load, trained
from networks import PoolingVGG, ResNet20
from simulators_report import markdown

_BITS, _SEED = 4, 0
_TIMESTEPS = (8, 16, 64)
_TUNED_ON = 15_000
"""Training images of an epoch of fine-tuning: a part of them, to bound its time."""
_FINETUNE: Mapping[str, Any] = {"epochs": 2, "spiking_epochs": 1, "lr": 0.01, "distillation": 0.5}


@dataclass(frozen=True)
class Experiment:
    """A network, and what takes the place of its max pooling.

    Attributes:
        build: builds it.
        recipe: how the ordinary network is trained.
        ways: `None` where there is no max pooling.
    """

    build: Callable[[], nn.Module]
    recipe: Recipe
    ways: Sequence[str | None] = (None,)


_RECIPE = Recipe(epochs=10, lr=0.1, batch_size=128, shift=4, flip=True, precision="bfloat16")
EXPERIMENTS: Mapping[str, Experiment] = {
    "PoolingVGG-max": Experiment(partial(PoolingVGG, nn.MaxPool2d), _RECIPE, MAX_POOL_WAYS),
    "PoolingVGG-average": Experiment(partial(PoolingVGG, nn.AvgPool2d), _RECIPE),
    "ResNet20": Experiment(ResNet20, replace(_RECIPE, epochs=30, lr=0.2, batch_size=256)),
}


@dataclass(frozen=True)
class Row:
    """A converted network.

    Attributes:
        dataset: name of the data.
        network: its name.
        max_pool: what took the place of its max pooling.
        timesteps: T.
        tuned: whether it was fine-tuned; otherwise it was not trained after conversion.
        ann: accuracy of the float network on the test set, in per cent.
        spiking: that of the spiking network.
        neurons: of the spiking network.
        seconds: of conversion and fine-tuning.
        recipe: of the ordinary network.
        finetune: options of the fine-tuning, if it was one.
        machine: where that was.
    """

    dataset: str
    network: str
    max_pool: str | None
    timesteps: int
    tuned: bool
    ann: float
    spiking: float
    neurons: int
    seconds: float
    recipe: Mapping[str, Any]
    finetune: Mapping[str, Any] | None
    machine: str

    @property
    def key(self) -> tuple[str, str, bool, int]:
        """What was measured, T last."""
        return self.network, self.max_pool or "-", self.tuned, self.timesteps


def measured(
    dataset: str,
    name: str,
    ann: nn.Module,
    data: Data,
    max_pool: str | None,
    timesteps: int,
    work: Path,
    *,
    tuned: bool,
) -> Row:
    """Convert, fine-tune if that is asked for, and measure on the test set."""
    some = tuple(part[:_TUNED_ON] for part in data.train)
    recipe = EXPERIMENTS[name].recipe
    stem = f"{name}-{max_pool}-T{timesteps}"
    finetune = fxsnn.Finetune(
        Augmented((some[0], some[1]), recipe), **_FINETUNE, seed=_SEED, checkpoint=work / f"{stem}.safetensors"
    )
    start = time.process_time()
    snn = fxsnn.convert(
        ann,
        target="generic",
        bits=_BITS,
        timesteps=timesteps,
        calibration_data=data.calibration(_SEED),
        max_pool=max_pool,
        finetune=finetune if tuned else None,
    )
    seconds = time.process_time() - start
    test = batches(data.test)
    return Row(
        dataset=dataset,
        network=name,
        max_pool=max_pool,
        timesteps=timesteps,
        tuned=tuned,
        ann=accuracy(ann, test),
        spiking=accuracy(snn, test),
        neurons=sum(layer.neurons or 0 for layer in snn.profile(data.test[0][:2]).layers),
        seconds=seconds,
        recipe=asdict(recipe),
        finetune=dict(_FINETUNE) if tuned else None,
        machine=machine(data.test[0].device.type),
    )


def document(rows: Sequence[Row]) -> str:
    """The Markdown page: a line for each network, way and kind of conversion."""
    header = ["network", "max pooling by", "fine-tuned", "neurons", "ANN", *(f"T = {t}" for t in _TIMESTEPS)]
    lines: dict[tuple[str, str, bool], dict[int, Row]] = {}
    names = list(EXPERIMENTS)
    ways = {name: list(one.ways) for name, one in EXPERIMENTS.items()}
    for row in sorted(
        rows, key=lambda row: (names.index(row.network), row.tuned, ways[row.network].index(row.max_pool))
    ):
        lines.setdefault(row.key[:3], {})[row.timesteps] = row
    cells = []
    for (network, way, tuned), of in lines.items():
        first = next(iter(of.values()))
        spiking = [f"{of[t].spiking:.2f}" if t in of else "" for t in _TIMESTEPS]
        cells.append([network, way, "yes" if tuned else "no", f"{first.neurons:,}", f"{first.ann:.2f}", *spiking])
    data = ", ".join(sorted({row.dataset for row in rows}))
    where = f"Accuracy in per cent on the whole test set of {data}."
    if "JPEG" in data:
        where += " The images of CIFAR-10 are JPEG files (quality 75): pixels differ a little."
    where += f' Target "generic", {_BITS} bits, 1,000 images for thresholds, one seed.'
    recipes = "\n".join(f"- {line}" for line in sorted({line for row in rows for line in _provenance(row)}))
    by = "Made by `python benchmarks/branches.py`."
    return "\n\n".join(["# Residual and pooling networks", where, markdown(header, cells), recipes, by]) + "\n"


def _provenance(row: Row) -> tuple[str, ...]:
    given = [(f"{row.network}, ANN", row.recipe)]
    given += [] if row.finetune is None else [(f"fine-tuning on {_TUNED_ON:,} of the training images", row.finetune)]
    recipes = (f"{name}: {', '.join(f'{key}={value}' for key, value in one.items())}" for name, one in given)
    return *recipes, f"machine: {row.machine}"


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing, and write the report of all there is."""
    parser = argparse.ArgumentParser(description="Accuracy of residual and pooling networks on CIFAR-10.")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--networks", nargs="*", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--dataset", default="CIFAR10-JPEG", help="CIFAR10, or CIFAR10-JPEG: a folder a class")
    parser.add_argument("--timesteps", type=positive, nargs="+", default=list(_TIMESTEPS), choices=_TIMESTEPS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--train_only", action="store_true", help="the ordinary networks")
    parser.add_argument("--untrained_only", action="store_true", help="no fine-tuning")
    parser.add_argument("--work", type=Path, default=Path("out/branches"), help="what is finished is kept here")
    parser.add_argument("--out", type=Path, default=Path("out/branches"), help="where the report goes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
    data = load(options.dataset, options.data_dir).to(torch.device(options.device))
    for name in options.networks:
        experiment = EXPERIMENTS[name]
        ann, _ = trained(experiment.build, data, experiment.recipe, _SEED, options.work / f"{name}.pt")
        if not options.train_only:
            _measure(name, ann, data, options)
    found = [json.loads(path.read_text()) for path in sorted(options.work.glob("*.json"))]
    if found:
        rows = [Row(**one) for one in found]
        options.out.mkdir(parents=True, exist_ok=True)
        write_whole(options.out / "branches.md", document(rows).encode())
        print(f"written to {options.out}")
    return 0


def _measure(name: str, ann: nn.Module, data: Data, options: argparse.Namespace) -> None:
    for tuned in (False,) if options.untrained_only else (False, True):
        for way in EXPERIMENTS[name].ways:
            for timesteps in options.timesteps:
                path = options.work / f"{name}-{way}-{'tuned' if tuned else 'untrained'}-T{timesteps}.json"
                if not path.exists():
                    row = measured(options.dataset, name, ann, data, way, timesteps, options.work, tuned=tuned)
                    write_whole(path, json.dumps(asdict(row), indent=1).encode())
                    print(row.key, f"ANN {row.ann:.2f}, spiking {row.spiking:.2f}; {row.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
