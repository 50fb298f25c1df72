"""Accuracy of converted networks on whole test sets: bits against timesteps, with the recipe and the time of every row.

    python benchmarks/accuracy.py MNIST --data_dir data

Trains an ordinary network, converts it at each bit width with fine-tuning for T steps, and measures the network, its
n-bit form and its spiking form at every number of steps up to 64; beside it what a conversion without training gives.
Choices were made on 5,000 training images that are held out from everything else; the test set is measured once at the
end of a row. What is finished is kept in a folder: an interrupted call goes on. The report has all rows that are there
and those that it had before; `--again` measures them anew, and so does another recipe. Mixed precision is slow on
processors without AVX-512: `--float32`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

import fxsnn
from fxsnn.cli.option_values import positive, random_seed
from fxsnn.insight import accuracy, accuracy_over_time
from fxsnn.storage import load_arrays, write_whole

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from accuracy_report import Row, machine, read_rows, write
from accuracy_training import Augmented, Data, Recipe, batches, load, trained
from networks import DigitNet, StridedColourNet

LONGEST = 64
TARGET = "hw_v1.0"


@dataclass(frozen=True)
class Experiment:
    """What is done on a data set.

    Attributes:
        network: its name.
        builds: by weight bits, what builds the network.
        ann: how it is trained.
        finetune: by weight bits, options of `fxsnn.Finetune`.
        convert: options of the conversion; none: its defaults.
    """

    network: Mapping[int, str]
    builds: Mapping[int, Callable[[], nn.Module]]
    ann: Recipe
    finetune: Mapping[int, Mapping[str, Any]]
    convert: Mapping[str, Any] = field(default_factory=dict)

    def in_float32(self) -> Experiment:
        """The same without mixed precision."""
        plain = {
            bits: {name: "float32" if name == "precision" else value for name, value in options.items()}
            for bits, options in self.finetune.items()
        }
        return replace(self, ann=replace(self.ann, precision="float32"), finetune=plain)

    def recipe(self, bits: int) -> dict[str, Any]:
        """How a network is converted and fine-tuned."""
        return {**self.convert, **self.finetune[bits]}

    def gave(self, row: Row) -> bool:
        """Whether a row is of this network and these recipes; precision may differ, which suits the machine."""
        wanted = asdict(self.ann), self.recipe(row.bits)
        recipes = [{**one, "precision": None} for one in (*wanted, row.ann_recipe, row.recipe)]
        return row.network == self.network[row.bits] and recipes[:2] == recipes[2:]


_ALL_BITS = (1, 2, 3, 4)
_FINETUNE = {"lr": 0.05, "spiking_epochs": 1, "spiking_lr": 0.005}


def _digits(ann: Recipe) -> Experiment:
    return Experiment(
        dict.fromkeys(_ALL_BITS, "DigitNet"),
        dict.fromkeys(_ALL_BITS, DigitNet),
        ann,
        {bits: {**_FINETUNE, "epochs": 6 if bits == 1 else 4} for bits in _ALL_BITS},
    )


def _colours(ann: Recipe) -> Experiment:
    # As wide as Hardware v1.0 allows at 2 bits, and at 4.
    width = {1: 56, 2: 56, 3: 28, 4: 28}
    options = {
        "epochs": 6,
        "spiking_epochs": 6,
        "lr": 0.02,
        "spiking_lr": 0.01,
        "distillation": 0.5,
        "precision": "bfloat16",
    }
    fewer = {"epochs": 4, "spiking_epochs": 2}
    return Experiment(
        {bits: f"StridedColourNet, {channels} channels" for bits, channels in width.items()},
        {bits: partial(StridedColourNet, channels) for bits, channels in width.items()},
        ann,
        {bits: {**options, **({} if bits in (2, 4) else fewer)} for bits in _ALL_BITS},
    )


_COLOUR_ANN = Recipe(epochs=40, lr=0.05, batch_size=64, shift=4, flip=True, precision="bfloat16")

EXPERIMENTS: Mapping[str, Experiment] = {
    "MNIST": _digits(Recipe(epochs=12, precision="bfloat16")),
    "FashionMNIST": _digits(Recipe(epochs=20, flip=True, precision="bfloat16")),
    "CIFAR10": _colours(_COLOUR_ANN),
    "CIFAR10-JPEG": _colours(_COLOUR_ANN),
}


def measured(
    name: str, experiment: Experiment, data: Data, bits: int, timesteps: int, seed: int, work: Path, *, again: bool
) -> Row:
    """One row: train, convert, fine-tune (`again`, even if that is finished), measure."""
    network, build = experiment.network[bits], experiment.builds[bits]
    stem = f"{name}-{network.replace(', ', '-').replace(' ', '')}-seed{seed}-{_digest(asdict(experiment.ann))}"
    ann, ann_seconds = trained(build, data, experiment.ann, seed, work / f"{stem}.pt")
    options = dict(experiment.finetune[bits])
    checkpoint = work / f"{stem}-{bits}bits-T{timesteps}-{_digest(experiment.recipe(bits))}.safetensors"
    if again:
        checkpoint.unlink(missing_ok=True)
    images = data.calibration(seed)
    given: dict[str, Any] = {"target": TARGET, "bits": bits, "calibration_data": images, **experiment.convert}
    passes = fxsnn.pipeline(
        **given,
        timesteps=timesteps,
        finetune=fxsnn.Finetune(
            Augmented(data.train, experiment.ann),
            **options,
            teacher=ann,
            validation=[data.held_out],
            checkpoint=checkpoint,
            seed=seed,
            progress=True,
        ),
    )
    *_, last = passes.steps(ann)
    _, state = load_arrays(checkpoint)
    snn = fxsnn.SpikingNetwork(last.after, fxsnn.get_target(TARGET))
    untrained = fxsnn.convert(ann, **given, timesteps=timesteps)
    test = batches(data.test)
    return Row(
        dataset=name,
        network=network,
        bits=bits,
        timesteps=timesteps,
        seed=seed,
        ann=accuracy(ann, test),
        quantised=accuracy(last.before, test),
        spiking=tuple(accuracy_over_time(snn, test, max(LONGEST, timesteps))),
        held_out=accuracy(snn, batches(data.held_out)),
        ann_recipe=asdict(experiment.ann),
        ann_seconds=ann_seconds,
        recipe=experiment.recipe(bits),
        seconds=sum(epoch["seconds"] for epoch in state["history"]),
        machine=machine(),
        untrained=tuple(accuracy_over_time(untrained, test, timesteps)),
    )


def _digest(recipe: Mapping[str, Any]) -> str:
    """Tells files of different recipes apart."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing, and write the report of all there is."""
    parser = argparse.ArgumentParser(description="Accuracy of converted networks: bits against timesteps.")
    parser.add_argument("datasets", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; none: only write the report")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2, 1], choices=_ALL_BITS)
    parser.add_argument("--timesteps", type=positive, nargs="+", default=[8], help="T that networks are fine-tuned for")
    parser.add_argument("--seeds", type=random_seed, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("out/accuracy"), help="what is finished is kept here")
    parser.add_argument("--out", type=Path, default=Path("out/accuracy"), help="where the report goes, and may be")
    parser.add_argument("--float32", action="store_true", help="no mixed precision, which is slow without AVX-512")
    parser.add_argument("--again", action="store_true", help="fine-tune and measure rows that are there, too")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.datasets if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"unknown data sets {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
    reported = {row.key: row for row in read_rows(options.work, options.out)}
    for name in options.datasets:
        data = load(name, options.data_dir)
        experiment = EXPERIMENTS[name].in_float32() if options.float32 else EXPERIMENTS[name]
        for seed in options.seeds:
            for bits in options.bits:
                for timesteps in options.timesteps:
                    earlier = reported.get((name, bits, timesteps, seed))
                    if options.again or earlier is None or not experiment.gave(earlier):
                        path = options.work / f"{name}-{bits}bits-T{timesteps}-seed{seed}.json"
                        row = measured(name, experiment, data, bits, timesteps, seed, options.work, again=options.again)
                        write_whole(path, json.dumps(asdict(row), indent=1).encode())
                        print(row.line(), flush=True)
    rows = read_rows(options.work, options.out)
    if rows:
        write(options.out, rows)
        print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
