"""What a conversion without labels and without training keeps of the accuracy, on whole test sets.

    python benchmarks/untrained.py MNIST FashionMNIST CIFAR10-JPEG --data_dir data

Ordinary networks are trained, or read where they are finished, and converted with the defaults and with less: with
rounded weights, and with corrected biases alone. Thresholds and corrections come of 1,000 training images, other ones
for each seed. The test set is measured once a row. What is finished is kept in a folder: an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import fxsnn
from fxsnn.cli.option_values import positive, random_seed
from fxsnn.insight import accuracy
from fxsnn.storage import write_whole

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from accuracy_report import machine
from accuracy_training import Recipe, batches, load, trained
from networks import DigitNet, PoolingVGG
from simulators_report import markdown

WAYS: Mapping[str, Mapping[str, Any]] = {
    "rounded": {"correction": None},
    "biases": {"correction": "biases"},
    "defaults": {},
    "before": {"calibration": "percentile", "codebook": "symmetric", "correction": "biases"},
}
"""Options of conversions: rounded, with biases corrected, what is done if nothing is said, what once was done then."""


@dataclass(frozen=True)
class Experiment:
    """A data set, and a network for it.

    Attributes:
        name: of the network.
        build: builds it.
        recipe: how it is trained.
        target: of the conversion.
    """

    name: str
    build: Callable[[], nn.Module]
    recipe: Recipe
    target: str = "hw_v1.0"


_COLOURS = Recipe(epochs=10, lr=0.1, batch_size=128, shift=4, flip=True, precision="bfloat16")
EXPERIMENTS: Mapping[str, Experiment] = {
    "MNIST": Experiment("DigitNet", DigitNet, Recipe(epochs=4)),
    "FashionMNIST": Experiment("DigitNet", DigitNet, Recipe(epochs=8, flip=True)),
    "CIFAR10-JPEG": Experiment("PoolingVGG, averages", partial(PoolingVGG, nn.AvgPool2d), _COLOURS, "generic"),
}


@dataclass(frozen=True)
class Row:
    """A converted network.

    Attributes:
        dataset: name of the data.
        network: its name.
        way: one of `WAYS`.
        bits: of weights.
        timesteps: T.
        seed: of the calibration images.
        ann: accuracy of the float network on the test set, in per cent.
        spiking: that of the spiking network.
        seconds: of the conversion, of the processor.
        machine: where that was.
    """

    dataset: str
    network: str
    way: str
    bits: int
    timesteps: int
    seed: int
    ann: float
    spiking: float
    seconds: float
    machine: str


def document(rows: Sequence[Row]) -> str:
    """The Markdown page: a line for each network and number of bits, means over the seeds."""
    found: dict[tuple[str, str, int, str], dict[int, list[Row]]] = {}
    for row in rows:
        line = found.setdefault((row.dataset, row.network, row.bits, row.way), {})
        line.setdefault(row.timesteps, []).append(row)
    steps = sorted({row.timesteps for row in rows})
    header = ["data", "network", "bits", "conversion", "ANN", *(f"T = {t}" for t in steps), "seeds", "seconds"]
    order = list(WAYS)
    lines = []
    for key in sorted(found, key=lambda one: (one[0], one[1], -one[2], order.index(one[3]))):
        of = found[key]
        first = next(iter(of.values()))
        cells = []
        for t in steps:
            values = [row.spiking for row in of.get(t, ())]
            spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}" if values else "")
        seconds = statistics.median(row.seconds for some in of.values() for row in some)
        dataset, network, bits, way = key
        lines.append(
            [dataset, network, str(bits), way, f"{first[0].ann:.2f}", *cells, str(len(first)), f"{seconds:.0f}"]
        )
    ways = [
        f"- {name}: {', '.join(f'{k}={v!r}' for k, v in one.items()) or 'nothing said'}" for name, one in WAYS.items()
    ]
    machines = [f"- machine: {name}" for name in sorted({row.machine for row in rows})]
    about = (
        "Accuracy in per cent on whole test sets, without labels and without training: means over the seeds, and half "
        "of the distance between the best and the worst. 1,000 training images for thresholds and corrections; the "
        "default corrects on 256 of them."
    )
    page = ["# Conversion without training", about, markdown(header, lines), "\n".join([*ways, *machines])]
    return "\n\n".join([*page, "Made by `python benchmarks/untrained.py`."]) + "\n"


def measured(name: str, ann: nn.Module, data: Any, way: str, bits: int, timesteps: int, seed: int, test: Any) -> Row:
    """Convert and measure."""
    experiment = EXPERIMENTS[name]
    options: dict[str, Any] = {"target": experiment.target, "bits": bits, "timesteps": timesteps, **WAYS[way]}
    start = time.process_time()
    snn = fxsnn.convert(ann, calibration_data=data.calibration(seed), **options)
    seconds = time.process_time() - start
    figures = (accuracy(ann, test), accuracy(snn, test))
    return Row(name, experiment.name, way, bits, timesteps, seed, *figures, seconds, machine())


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing, and write the report of all there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("datasets", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; none: only write the report")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2], choices=[1, 2, 3, 4])
    parser.add_argument("--timesteps", type=positive, nargs="+", default=[8, 16])
    parser.add_argument("--seeds", type=random_seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path("out/untrained"), help="what is finished is kept here")
    parser.add_argument("--out", type=Path, default=Path("out/untrained"), help="where the report goes")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.datasets if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"unknown data sets {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
    for name in options.datasets:
        data = load(name, options.data_dir)
        ann, _ = trained(EXPERIMENTS[name].build, data, EXPERIMENTS[name].recipe, 0, options.work / f"{name}.pt")
        test = batches(data.test)
        for seed in options.seeds:
            for bits, timesteps in ((bits, steps) for bits in options.bits for steps in options.timesteps):
                for way in options.ways:
                    path = options.work / f"{name}-{way}-{bits}bits-T{timesteps}-seed{seed}.json"
                    if not path.exists():
                        row = measured(name, ann, data, way, bits, timesteps, seed, test)
                        write_whole(path, json.dumps(asdict(row), indent=1).encode())
                        print(row, flush=True)
    found = [Row(**json.loads(path.read_text())) for path in sorted(options.work.glob("*-seed*.json"))]
    if found:
        options.out.mkdir(parents=True, exist_ok=True)
        write_whole(options.out / "untrained.md", document(found).encode())
        print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
