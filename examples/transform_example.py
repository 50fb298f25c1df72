"""Turn a trained network into a spiking one, measure it, save it.

    python examples/transform_example.py                                        # the embedded digits, 4 bits
    python examples/transform_example.py --weight_bitwidth 4 2 --finetune_epochs 3
    python examples/transform_example.py --dataset CIFAR10 --data_dir data --load_file colour_net.pt --weight_bitwidth 2

    python examples/transform_example.py --network my_net.py:Net --load_file my_net.pt --dataset CIFAR10

A network of your own is `package.module:factory` or `script.py:factory`, called without arguments; for data of your
own, write a function under `@fxsnn.datasets.register("name")` and import it here.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from networks import network_for
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import fxsnn
from fxsnn import datasets, plots
from fxsnn.cli.data_sets import some_of
from fxsnn.cli.option_values import positive, random_seed
from fxsnn.cli.parser import CALIBRATION_IMAGES
from fxsnn.cli.user_code import model_from
from fxsnn.device import choose_device
from fxsnn.insight import Batches, accuracy, accuracy_over_time
from fxsnn.weights import load_weights

LONGEST_PLOTTED = 32


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Transform a trained ANN into a spiking network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--network", help="script.py:factory or package.module:factory; none: that for the data set")
    parser.add_argument(
        "--load_file", "--weights", type=Path, help="trained weights; none: those of the embedded digit network"
    )
    parser.add_argument("--dataset", default=datasets.EMBEDDED, help=f"one of {', '.join(datasets.names())}")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="where the data set lies")
    parser.add_argument("--save_file", type=Path, default=Path("out/snn.fxsnn"), help="where the result goes")
    parser.add_argument("--batch_size", type=positive, default=128, help="for calibration and fine-tuning")
    parser.add_argument("--test_batch_size", type=positive, default=128)
    parser.add_argument("--timesteps", type=int, default=16)
    parser.add_argument("--reset_mode", choices=("zero", "subtraction"), default="subtraction")
    parser.add_argument("--weight_bitwidth", type=int, nargs="+", default=[4], help="1 to 4; several are compared")
    parser.add_argument("--finetune_lr", type=float, default=0.02, help="fine-tuning learning rate")
    parser.add_argument("--finetune_epochs", type=int, default=5, help="fine-tuning epochs; 0 leaves it out")
    parser.add_argument("--finetune_wd", type=float, default=5e-4, help="fine-tuning weight decay")
    parser.add_argument("--finetune_momentum", type=float, default=0.9, help="fine-tuning momentum")
    parser.add_argument("--target", default="hw_v1.0", help="the chip")
    parser.add_argument("--seed", type=random_seed, default=0)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; none: the least-loaded GPU, or the CPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status is 0, or 2 with one message for a user's mistake."""
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("fxsnn.device").setLevel(logging.INFO)
    try:
        transform(options)
    except fxsnn.FxsnnError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def transform(options: argparse.Namespace) -> None:
    """Convert at every bit width asked for, and compare."""
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    device = choose_device(options.device)
    splits = datasets.load(options.dataset, options.data_dir)
    network = trained_network(options).to(device)
    test: Batches = DataLoader(splits.test, options.test_batch_size)
    try:
        options.save_file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fxsnn.FileError(f"--save_file is {options.save_file}: its folder cannot be made ({error})") from error

    float_accuracy = accuracy(network, test, "ANN")
    print(f"ANN on {options.dataset}: {float_accuracy:.2f} %")
    curves, written = {}, []
    for bits in options.weight_bitwidth:
        print(f"\n{bits} bits\n{fxsnn.check(network, target=options.target, bits=bits)}")
        quantised, snn = converted(network, bits, splits.train, options)
        print(snn.profile(next(iter(test))[0]))
        quantised_accuracy = accuracy(quantised, test, f"{bits} bits, quantised")
        spiking = accuracy_over_time(snn, test, max(options.timesteps, LONGEST_PLOTTED), f"{bits} bits, spiking")
        curves[f"{bits} bits"] = spiking
        print(
            f"{bits} bits: ANN {float_accuracy:.2f} %, quantised {quantised_accuracy:.2f} %, "
            f"spiking {spiking[options.timesteps - 1]:.2f} % at T={options.timesteps}"
        )
        written.append(snn.save(save_file(options, bits), golden=next(iter(test))[0][:2]))
    written.append(draw(curves, float_accuracy, options.save_file.with_name("accuracy_against_timesteps.png")))
    print(f"\nwritten in {time.perf_counter() - start:.0f} s:", *written, sep="\n  ")


def trained_network(options: argparse.Namespace) -> nn.Module:
    """The network for the data set, with its weights."""
    network = network_for(options.dataset) if options.network is None else model_from(options.network)
    if options.load_file is not None:
        load_weights(network, options.load_file)
    elif options.network is not None:
        print(f"no --load_file: {options.network} keeps the weights that it is built with", file=sys.stderr)
    elif options.dataset in (datasets.EMBEDDED, "MNIST"):
        network = datasets.digit_net()
    else:
        raise fxsnn.FileError(
            f"--load_file is missing: there are no embedded weights for {options.dataset}. "
            "Train some with examples/train_example.py"
        )
    return network.eval()


def converted(
    network: nn.Module, bits: int, train: Dataset[tuple[Tensor, int]], options: argparse.Namespace
) -> tuple[Callable[[Tensor], Tensor], fxsnn.SpikingNetwork]:
    """The network with n-bit weights, and its spiking form."""
    finetune = fxsnn.Finetune(
        DataLoader(train, options.batch_size, shuffle=True),
        epochs=options.finetune_epochs,
        lr=options.finetune_lr,
        momentum=options.finetune_momentum,
        weight_decay=options.finetune_wd,
        seed=options.seed,
        progress=True,
    ) if options.finetune_epochs else None  # fmt: skip
    passes = fxsnn.pipeline(
        target=options.target,
        bits=bits,
        timesteps=options.timesteps,
        reset=options.reset_mode,
        calibration_data=DataLoader(some_of(train, CALIBRATION_IMAGES, options.seed), options.batch_size),
        finetune=finetune,
        progress=True,
    )
    for step in passes.steps(network):
        print(f"  {step}")
    made = {"versions": {"fxsnn": fxsnn.__version__}, "passes": [one.describe() for one in passes.passes]}
    return step.before, fxsnn.SpikingNetwork(step.after, fxsnn.get_target(options.target), provenance=made)


def save_file(options: argparse.Namespace, bits: int) -> Path:
    """The output file; with several bit widths, each has its own."""
    path: Path = options.save_file
    return path if len(options.weight_bitwidth) == 1 else path.with_name(f"{path.stem}_{bits}bit{path.suffix}")


def draw(curves: dict[str, list[float]], float_accuracy: float, path: Path) -> Path:
    """Accuracy against timesteps as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    plots.accuracy_against_timesteps(figure.subplots(), curves, float_accuracy)
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    sys.exit(main())
