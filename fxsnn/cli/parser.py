"""The options of all commands, and which function runs each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from fxsnn.chip import AUTOMATIC, CODEBOOKS
from fxsnn.choices import AVERAGE_POOLS, CORRECTIONS, INPUTS
from fxsnn.cli.answer import Answer
from fxsnn.cli.checking import check_command, targets_command
from fxsnn.cli.converting import convert_command
from fxsnn.cli.exporting import nir_command, onnx_command
from fxsnn.cli.inputs import ACCURACY_IMAGES, BUDGET_IMAGES
from fxsnn.cli.insight import budget_command, sweep_command
from fxsnn.cli.inspecting import report_command, verify_command
from fxsnn.cli.measuring import eval_command
from fxsnn.cli.option_values import not_negative, positive, random_seed
from fxsnn.cli.warming import warm_up_command
from fxsnn.data import datasets
from fxsnn.engine import ENGINES
from fxsnn.passes import MAX_POOL_WAYS
from fxsnn.passes.calibrate_thresholds import METHODS
from fxsnn.version import __version__

CALIBRATION_IMAGES = 2000


def command_line() -> argparse.ArgumentParser:
    """The parser; what it gives has the function that runs the command as `command`."""
    parser = argparse.ArgumentParser(
        prog="fxsnn", description="Trained PyTorch CNNs to low-bit spiking networks for chips."
    )
    parser.add_argument("--version", action="version", version=f"fxsnn {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    shared.add_argument("--traceback", action="store_true", help="show where an error was raised, too")
    shared.add_argument(
        "--import",
        dest="run",
        action="append",
        metavar="CODE",
        help="first run this script or module, for its data sets",
    )

    def add(name: str, command: Callable[[argparse.Namespace], Answer], help_text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name,
            help=help_text,
            description=command.__doc__,
            parents=[shared],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        one.set_defaults(command=command)
        return one

    one = add("check", check_command, "does a network fit a chip?")
    _add_model(one, required=True)
    _add_target(one)

    one = add("convert", convert_command, "make a spiking network of a trained one")
    _add_model(one, required=True)
    _add_target(one)
    one.add_argument("-o", "--output", type=Path, default=Path("net.fxsnn"), help="the file to write")
    one.add_argument("--timesteps", type=int, help="T; none: 16, or as many as images have frames")
    one.add_argument(
        "--input", choices=INPUTS, default=INPUTS[0], help="frames: images change over time, a frame for each step"
    )
    one.add_argument("--reset", choices=("subtraction", "zero"), default="subtraction")
    one.add_argument("--initial-membrane", type=float, choices=(0.0, 0.5), default=0.5, help="share of the threshold")
    _add_data(one, "calibrate on its training half; none: thresholds without data")
    one.add_argument("--calibration", choices=METHODS, default=AUTOMATIC, help="auto: the smaller of mse, percentile")
    one.add_argument("--percentile", type=float, default=99.9)
    one.add_argument(
        "--calibration-images", type=positive, default=CALIBRATION_IMAGES, help="how many, chosen at random"
    )
    one.add_argument(
        "--correction",
        choices=(AUTOMATIC, *CORRECTIONS, "none"),
        default=AUTOMATIC,
        help="without training, from the data; auto: of weights and biases, also in front of fine-tuning",
    )
    one.add_argument("--input-bits", type=int, default=8, help="width of the integer input")
    one.add_argument(
        "--codebook", default=AUTOMATIC, choices=(*CODEBOOKS, AUTOMATIC), help="what the levels of weights may be"
    )
    one.add_argument(
        "--average-pool",
        default=AUTOMATIC,
        choices=AVERAGE_POOLS,
        help="auto: pooling between layers is calibrated as layers with weights are, where the chip has such",
    )
    one.add_argument("--per-layer", action="store_true", help="one weight step a layer instead of one a channel")
    one.add_argument("--finetune-epochs", type=int, default=0, help="train the n-bit weights so long")
    one.add_argument(
        "--finetune-spiking-epochs", type=int, help="epochs with spikes behind those; none: 1 if there are those"
    )
    one.add_argument("--finetune-lr", type=float, default=0.02, help="learning rate")
    one.add_argument("--finetune-wd", type=float, default=5e-4, help="weight decay")
    one.add_argument("--finetune-momentum", type=float, default=0.9)
    one.add_argument(
        "--finetune-distillation", type=float, default=0.0, help="share of the loss that a teacher gives, 0 to 1"
    )
    one.add_argument("--finetune-temperature", type=float, default=1.0, help="of distillation")
    one.add_argument("--finetune-teacher", help="a network to learn from, named as the model; none: the model itself")
    one.add_argument("--finetune-teacher-weights", type=Path, help="the teacher's trained weights")
    one.add_argument(
        "--finetune-validation",
        type=float,
        help="share of the training half to hold out; the epoch that is best on it remains; none: the last one",
    )
    one.add_argument("--finetune-patience", type=int, help="stop after so many epochs without anything better on those")
    one.add_argument("--checkpoint", type=Path, help="keep the state of the training here, and go on from it")
    one.add_argument("--golden", type=int, default=2, help="images with golden vectors in the file")
    one.add_argument(
        "--accuracy-images",
        type=not_negative,
        default=ACCURACY_IMAGES,
        help="measure the network, before and after, on so many test images of --data, the first ones; 0: do not",
    )
    one.add_argument("--seed", type=random_seed, default=0)

    one = add("eval", eval_command, "accuracy of a network file")
    _add_file(one)
    _add_data(one, "measure on its test half; none: the data set that the file was converted with")
    one.add_argument("--timesteps", type=int, nargs="+", help="T; none: the file's own")
    one.add_argument("--limit", type=positive, help="so many images, the first ones; none: all")
    _add_model(one, required=False)

    one = add("budget", budget_command, "where a network file loses accuracy, by layer and by effect")
    _add_file(one)
    _add_model(one, required=True)
    _add_data(one, "measure on its test half; none: the data set that the file was converted with")
    one.add_argument("--limit", type=positive, default=BUDGET_IMAGES, help="so many images, the first ones")
    one.add_argument("--plot", type=Path, help="draw it, too: a .png, .svg or .pdf")

    one = add("sweep", sweep_command, "how many timesteps a network file needs")
    _add_file(one)
    _add_data(one, "measure on its test half; none: the data set that the file was converted with")
    one.add_argument("--timesteps", type=int, help="the largest T; none: 64, or as many as images have frames")
    one.add_argument("--tolerance", type=float, default=0.5, help="so many points below the reference are good enough")
    one.add_argument("--limit", type=positive, help="so many images, the first ones; none: all")
    one.add_argument("--plot", type=Path, help="draw it, too: a .png, .svg or .pdf")
    _add_model(one, required=False)

    one = add("report", report_command, "what a network file takes of the chip")
    _add_file(one)
    _add_data(one, "what the network does on its test images; none: on the file's golden ones")
    one.add_argument("--limit", type=positive, default=32, help="so many images, the first ones")
    one.add_argument(
        "--html",
        type=Path,
        help="write it as a page, too; with --data it has the accuracy at every T",
    )
    _add_model(one, required=False, use="of the page: its accuracy, and the error budget")

    one = add("verify", verify_command, "does a network file still give its golden vectors?")
    one.add_argument("file", type=Path, help="a file that fxsnn wrote")
    _add_engine(one)

    one = add("nir", nir_command, "write a network file as a NIR graph")
    _add_file(one)
    one.add_argument("-o", "--output", type=Path, default=Path("net.nir"), help="the file to write")
    one.add_argument(
        "--differences",
        choices=("refuse", "warn"),
        default="refuse",
        help="what to do where a reader of NIR would compute something else",
    )
    _add_engine(one)

    one = add("onnx", onnx_command, "write a network file as an ONNX program")
    _add_file(one)
    one.add_argument("-o", "--output", type=Path, default=Path("net.onnx"), help="the file to write")
    one.add_argument("--timesteps", type=int, help="T; none: the file's own")
    one.add_argument("--batch-size", type=positive, default=1, help="so many images the program reads at a time")
    _add_engine(one)

    add("targets", targets_command, "the chips that are known")

    one = add("warm-up", warm_up_command, "compile the CPU engine, so that nobody waits for it later")
    one.add_argument("--engine", default="numba", choices=[name for name in ENGINES if name.startswith("numba")])
    return parser


def _add_model(parser: argparse.ArgumentParser, *, required: bool, use: str = "compare with this network") -> None:
    text = "package.module:factory or script.py:factory; called without arguments it gives the network"
    if required:
        parser.add_argument("model", help=text)
    else:
        parser.add_argument("--model", help=f"{use}: {text}")
    parser.add_argument("--weights", type=Path, help="its trained weights, a state dict; none: those it is built with")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="hw_v1.0", help="the chip; `fxsnn targets` lists them")
    parser.add_argument("--bits", default=AUTOMATIC, help='weight bits: 1 to 4, "auto", or by layer: conv1=4,conv2=2')
    parser.add_argument(
        "--max-pool",
        choices=MAX_POOL_WAYS,
        help="what takes its place between layers; none: it is refused there",
    )


def _add_data(parser: argparse.ArgumentParser, use: str) -> None:
    known = ", ".join(datasets.names())
    parser.add_argument(
        "--data",
        help=f"{known}, FILE.npz, or module:function, called with --data-dir, that gives both halves; {use}",
    )
    for option, what in (("mean", "taken from pixels in 0..1"), ("std", "what the difference is divided by")):
        usual = "; ".join(
            f"{name} {' '.join(f'{one:g}' for one in getattr(normalisation, option))}"
            for name, normalisation in datasets.NORMALISATIONS.items()
        )
        text = f"{what}, one number a channel; none: {usual}; other data sets come normalised"
        parser.add_argument(f"--{option}", type=float, nargs="+", help=text)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where data sets lie")
    parser.add_argument("--batch-size", type=positive, default=128)
    _add_engine(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", help=f"what runs it: {', '.join(ENGINES)}")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; none: the least-loaded GPU, or the CPU")


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a file that fxsnn wrote")
