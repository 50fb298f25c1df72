"""The command line: check, convert, eval, report, verify, targets.

Exit status: 0, 1 for a "no" (the network does not fit, golden vectors differ), 2 for a user's mistake, which gets one
message and no traceback, 3 for an error that fxsnn did not expect, 130 when it is interrupted. With `--json`, standard
output is one JSON object, errors too (but not what is wrong with the options themselves); progress bars, warnings and
what the user's code prints go to standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from fxsnn.chip import AUTOMATIC, Bits, HardwareTarget, target_sources, whole_number
from fxsnn.cli import user_code
from fxsnn.compiler import check, convert
from fxsnn.data import datasets
from fxsnn.device import choose_device
from fxsnn.display import aligned
from fxsnn.errors import DataError, FileError, FxsnnError, FxsnnWarning, ModelError, OptionError, listing
from fxsnn.file import target_data
from fxsnn.insight import Batches, accuracy, accuracy_over_time
from fxsnn.loading import load, verify
from fxsnn.network import SpikingNetwork
from fxsnn.passes import Finetune
from fxsnn.storage import load_weights, require_place, write_whole
from fxsnn.version import __version__

CALIBRATION_IMAGES = 2000


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        text: for people.
        data: for machines.
        status: the exit status, 0 or 1.
    """

    text: str
    data: dict[str, Any]
    status: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    command: Callable[[argparse.Namespace], Answer] = options.command
    try:
        with redirect_stdout(sys.stderr), _warnings_as_lines():
            for script in options.run or ():
                user_code.run(script)
            answer = command(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except FxsnnError as error:
        return _failed(error, options, 2)
    except Exception as error:  # a user's mistake that nobody thought of, or ours
        return _failed(error, options, 3)
    return _printed(json.dumps(_finite(answer.data), indent=2) if options.json else answer.text, answer.status)


def _failed(error: Exception, options: argparse.Namespace, status: int) -> int:
    """Say what happened, for people and machines."""
    if options.traceback:
        traceback.print_exc()
    kind, message = type(error).__name__, str(error)
    hint = "" if status == 2 or options.traceback else " (--traceback shows where)"
    print(f"{kind}: {message if status == 2 else next(iter(message.splitlines()), '')}{hint}", file=sys.stderr)
    if options.json:
        findings = [asdict(one) for one in error.findings] if isinstance(error, ModelError) else []
        text = json.dumps({"error": {"type": kind, "message": message, "findings": findings}}, indent=2)
        return _printed(text, status)
    return status


def _printed(text: str, status: int) -> int:
    """Print an answer; who reads it may have gone (`fxsnn report FILE | head`), or have no room."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"the answer cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _finite(value: Any) -> Any:
    """Plain data for JSON, which has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Our warnings are for the user who typed the command: one line, without the place in our code."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, FxsnnWarning):
            print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FxsnnWarning)
        warnings.showwarning = show  # catch_warnings puts it back
        yield


# Options -------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
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
    one.add_argument("--timesteps", type=int, default=16, help="T")
    one.add_argument("--reset", choices=("subtraction", "zero"), default="subtraction")
    one.add_argument("--initial-membrane", type=float, choices=(0.0, 0.5), default=0.5, help="share of the threshold")
    _add_data(one, None, "calibrate on its training half; none: thresholds without data")
    one.add_argument("--calibration", choices=("percentile", "max", "mse"), default="percentile")
    one.add_argument("--percentile", type=float, default=99.9)
    one.add_argument(
        "--calibration-images", type=positive, default=CALIBRATION_IMAGES, help="how many, chosen at random"
    )
    one.add_argument("--correction", choices=("biases", "thresholds", "both"), help="without training, from the data")
    one.add_argument("--input-bits", type=int, default=8, help="width of the integer input")
    one.add_argument("--per-layer", action="store_true", help="one weight step a layer instead of one a channel")
    one.add_argument("--finetune-epochs", type=int, default=0, help="train the n-bit weights so long")
    one.add_argument("--finetune-spiking-epochs", type=int, default=0, help="epochs with spikes behind those")
    one.add_argument("--finetune-lr", type=float, default=0.02, help="learning rate")
    one.add_argument("--finetune-wd", type=float, default=5e-4, help="weight decay")
    one.add_argument("--finetune-momentum", type=float, default=0.9)
    one.add_argument("--checkpoint", type=Path, help="keep the state of the training here, and go on from it")
    one.add_argument("--golden", type=int, default=2, help="images with golden vectors in the file")
    one.add_argument("--seed", type=random_seed, default=0)

    one = add("eval", eval_command, "accuracy of a network file")
    _add_file(one)
    _add_data(one, datasets.EMBEDDED, "measure on its test half")
    one.add_argument("--timesteps", type=int, nargs="+", help="T; none: the file's own")
    one.add_argument("--limit", type=positive, help="so many images, the first ones; none: all")
    _add_model(one, required=False)

    one = add("report", report_command, "what a network file takes of the chip")
    _add_file(one)
    _add_data(one, None, "what the network does on its test images; none: on the file's golden ones")
    one.add_argument("--limit", type=positive, default=32, help="so many images, the first ones")
    one.add_argument("--html", type=Path, help="write the report as a page, too")

    one = add("verify", verify_command, "does a network file still give its golden vectors?")
    one.add_argument("file", type=Path, help="a file that fxsnn wrote")
    _add_engine(one)

    add("targets", targets_command, "the chips that are known")
    return parser


def positive(text: str) -> int:
    """A number from 1, as an option; argparse says what is wrong with another one."""
    number = int(text)
    if not 1 <= number <= sys.maxsize:
        raise argparse.ArgumentTypeError(f"it is {number}; allowed are numbers from 1 to {sys.maxsize}")
    return number


def random_seed(text: str) -> int:
    """A seed that PyTorch takes, as an option."""
    number = int(text)
    if not 0 <= number < 1 << 63:
        raise argparse.ArgumentTypeError(f"it is {number}; allowed are numbers from 0 to 2^63 - 1")
    return number


def _add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    text = "package.module:factory or script.py:factory; called without arguments it gives the network"
    if required:
        parser.add_argument("model", help=text)
    else:
        parser.add_argument("--model", help=f"compare with this network: {text}")
    parser.add_argument("--weights", type=Path, help="its trained weights, a state dict; none: those it is built with")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="hw_v1.0", help="the chip; `fxsnn targets` lists them")
    parser.add_argument("--bits", default=AUTOMATIC, help='weight bits: 1 to 4, "auto", or by layer: conv1=4,conv2=2')


def _add_data(parser: argparse.ArgumentParser, default: str | None, use: str) -> None:
    known = ", ".join(datasets.names())
    parser.add_argument(
        "--data",
        default=default,
        help=f"{known}, FILE.npz, or module:function, called with --data-dir, that gives both halves; {use}",
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where data sets lie")
    parser.add_argument("--batch-size", type=positive, default=128)
    _add_engine(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", help="what runs it: auto, numba, triton or torch")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; none: the least-loaded GPU, or the CPU")


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a file that fxsnn wrote")


# Commands ------------------------------------------------------------------------------------------------------------


def check_command(options: argparse.Namespace) -> Answer:
    """Whether a network, trained or not, can be converted for a chip; everything that stands in the way, at once."""
    report = check(_model(options), target=options.target, bits=bits_from(options.bits))
    return Answer(str(report), report.to_dict(), 0 if report.ok else 1)


def convert_command(options: argparse.Namespace) -> Answer:
    """Convert a trained network for a chip and write it to a file with golden vectors."""
    start = time.perf_counter()
    for name, path in (("--output", options.output), ("--checkpoint", options.checkpoint)):
        if path is not None:
            require_place(path, name)
    torch.manual_seed(options.seed)
    network = _model(options).to(choose_device(options.device))
    train = None if options.data is None else _halves(options).train
    tuned = bool(options.finetune_epochs or options.finetune_spiking_epochs)
    if train is None and (tuned or options.correction):
        raise OptionError("fine-tuning and correction need --data")
    if options.checkpoint is not None and not tuned:
        raise OptionError("--checkpoint is of fine-tuning; give --finetune-epochs or --finetune-spiking-epochs, too")
    fit = check(network, target=options.target, bits=bits_from(options.bits))
    if fit.ok and fit.unwritable:
        raise FileError(f"the network cannot be written: {listing(fit.unwritable)}")
    finetune = None if train is None or not tuned else Finetune(
        DataLoader(train, options.batch_size, shuffle=True),
        epochs=options.finetune_epochs,
        spiking_epochs=options.finetune_spiking_epochs,
        lr=options.finetune_lr,
        weight_decay=options.finetune_wd,
        momentum=options.finetune_momentum,
        checkpoint=options.checkpoint,
        seed=options.seed,
        progress=True,
    )  # fmt: skip
    snn = convert(
        network,
        target=options.target,
        bits=bits_from(options.bits),
        timesteps=options.timesteps,
        reset=options.reset,
        initial_membrane=options.initial_membrane,
        calibration_data=None if train is None else DataLoader(
            some_of(train, options.calibration_images, options.seed), options.batch_size
        ),
        calibration=options.calibration,
        percentile=options.percentile,
        input_bits=options.input_bits,
        per_channel=not options.per_layer,
        correction=options.correction,
        finetune=finetune,
        engine=options.engine,
        progress=True,
    )  # fmt: skip
    path = snn.save(options.output, golden=options.golden)
    seconds, report, size = time.perf_counter() - start, snn.report, path.stat().st_size
    return Answer(
        f"{report}\n\nwritten in {seconds:.0f} s: {path} ({size:,} bytes)",
        {"file": str(path), "bytes": size, "seconds": seconds, "report": report.to_dict()},
    )


def eval_command(options: argparse.Namespace) -> Answer:
    """Accuracy of a network file on test images, at any T from one run; beside the ANN's, if there is a model."""
    if options.model is None and options.weights is not None:
        raise OptionError("--weights needs --model")
    model = None if options.model is None else _model(options)  # its code may register data sets
    snn = _network(options)
    timesteps = sorted(replace(snn.dynamics, timesteps=one).timesteps for one in options.timesteps or [snn.timesteps])
    test, images = _batches(_halves(options).test, snn, options)
    found = accuracy_over_time(snn, test, timesteps[-1], "spiking")
    ann = None if model is None else accuracy(model, test, "ANN")
    rows = [("T", "accuracy"), *((str(one), f"{found[one - 1]:.2f} %") for one in timesteps)]
    rows += [] if ann is None else [("ANN", f"{ann:.2f} %")]
    data = {
        "file": str(options.file),
        "data": options.data,
        "images": images,
        "accuracy": {str(one): found[one - 1] for one in timesteps},
        "ann": ann,
    }
    return Answer(f"{options.file} on {images:,} images of {options.data}\n{aligned(rows)}", data)


def report_command(options: argparse.Namespace) -> Answer:
    """What a network file takes of its chip, and what it does on images."""
    if options.html is not None:
        require_place(options.html, "--html")
    snn = _network(options)
    report = snn.report if options.data is None else snn.profile(_batches(_halves(options).test, snn, options)[0])
    if options.html is not None:
        name = escape(options.file.name)
        page = (
            f"<!doctype html><meta charset=utf-8><title>{name}</title><style>body {{ font-family: sans-serif }}</style>"
            f"<h1>{name}</h1>{report._repr_html_()}<p>{escape(_provenance(snn).strip())}</p>"
        )
        write_whole(options.html, page.encode())
    data = {"file": str(options.file), "provenance": snn.provenance, "report": report.to_dict()}
    return Answer(f"{report}{_provenance(snn)}", data)


def verify_command(options: argparse.Namespace) -> Answer:
    """Load a network file and run its golden vectors: every spike of every layer, and the logits."""
    found = verify(options.file, engine=options.engine, device=options.device)
    return Answer(str(found), found.to_dict(), 0 if found.ok else 1)


def targets_command(options: argparse.Namespace) -> Answer:
    """The chips that are known here, and their limits."""
    chips = {name: (source.load(), source.origin) for name, source in sorted(target_sources().items())}
    text = "\n\n".join(_target_text(chip, origin) for chip, origin in chips.values())
    data = {name: {**target_data(chip), "origin": origin} for name, (chip, origin) in chips.items()}
    return Answer(text, {"targets": data})


# Their parts ---------------------------------------------------------------------------------------------------------


def bits_from(text: str) -> Bits:
    """Weight bits as they are typed: "2", "auto", or "conv1=4,conv2=2".

    Raises:
        OptionError: it is none of these.
    """
    try:
        if "=" in text:
            pairs = [(layer.strip(), int(bits)) for layer, bits in (part.split("=") for part in text.split(","))]
        else:
            return text if text == AUTOMATIC else int(text)
    except ValueError:
        raise OptionError(f"--bits is {text!r}; allowed are 1 to 4, {AUTOMATIC!r}, or conv1=4,conv2=2") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise OptionError(f"--bits is {text!r}, which names a layer twice; give each layer one width")
    return found


def some_of(data: Dataset[Any], count: int, seed: int) -> Dataset[Any]:
    """So many of its images, chosen at random under a seed."""
    size = len(data)  # type: ignore[arg-type]  # every data set of the registry is map-style
    return Subset(data, torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].tolist())


def _model(options: argparse.Namespace) -> nn.Module:
    model = user_code.model_from(options.model)
    if options.weights is not None:
        load_weights(model, options.weights)
    return model


def _network(options: argparse.Namespace) -> SpikingNetwork:
    return load(options.file, engine=options.engine).to(choose_device(options.device))


def _halves(options: argparse.Namespace) -> datasets.Splits:
    name = options.data
    if ":" not in name or name.endswith(".npz"):
        halves: Any = datasets.load(name, options.data_dir)
    else:
        halves = user_code.called(name, options.data_dir)
        if not isinstance(halves, tuple) or len(halves) != 2:
            raise DataError(f"{name} gives a {type(halves).__name__}; expected is fxsnn.datasets.Splits(train, test)")
    for half in halves:
        _require_images(name, half)
    return datasets.Splits(*halves)


def _require_images(name: str, half: Any) -> None:
    """The first element of a half is an image with its label, as `fxsnn.datasets` says."""
    with user_code.failures_named(name, "A half is a map-style data set of (image, label)"):
        size = len(half)
        image, label = half[0] if size else (None, None)
    if not size:
        raise DataError(f"data set {name!r}: a half has no images")
    label = int(label) if isinstance(label, Tensor) and label.numel() == 1 and not label.is_floating_point() else label
    if (
        not isinstance(image, Tensor)
        or image.dim() != 3
        or not image.is_floating_point()
        or whole_number(label) is None
    ):
        shape = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"data set {name!r}: an image is {shape}, its label a {type(label).__name__}; expected are a floating "
            "tensor [C, H, W], normalised as the network was trained on it, and a whole number"
        )


def _batches(data: Dataset[Any], snn: SpikingNetwork, options: argparse.Namespace) -> tuple[Batches, int]:
    """The first images of a data set, and how many they are."""
    image = data[0][0]
    try:
        snn(image[None].to(snn.device))
    except DataError as error:
        if tuple(image.shape) == snn.image_size:
            raise  # it is not their size
        made_for = "others" if snn.image_size is None else str(list(snn.image_size))
        raise DataError(
            f"images of {options.data} are {list(image.shape)}; the network was made for {made_for}"
        ) from error
    size: int = len(data)  # type: ignore[arg-type]  # `_halves` saw to it
    if options.limit is not None:
        size = min(size, options.limit)
        data = Subset(data, range(size))
    return DataLoader(data, options.batch_size), size


def _provenance(snn: SpikingNetwork) -> str:
    versions = snn.provenance.get("versions")
    told = [f"{name} {one}" for name, one in versions.items()] if isinstance(versions, dict) else []
    text = ", ".join(told)
    return f"\nmade with {text}" if text and text.isprintable() else ""


def _target_text(chip: HardwareTarget, origin: str) -> str:
    registers = chip.registers
    lines = [
        f"{chip.name}: {chip.description} ({origin})",
        f"  registers, bits: codebook {registers.codebook}, threshold {registers.threshold}, leak {registers.leak}",
    ]
    if chip.input_channels is None:
        return "\n".join([*lines, f"  weights of {chip.weight_bits[0]} to {chip.weight_bits[-1]} bits, any kernel"])
    header = ("  most input channels", *(f"{bits} bit{'s' if bits > 1 else ''}" for bits in chip.weight_bits))
    rows = [
        (f"  {height}x{width}", *(str(row.get(bits, "-")) for bits in chip.weight_bits))
        for (height, width), row in chip.input_channels.items()
    ]
    return "\n".join([*lines, aligned([header, *rows])])
