"""`fxsnn convert`: a trained network to a network file."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fxsnn.checking import check
from fxsnn.cli.answer import Answer
from fxsnn.cli.data_sets import DataSet, data_set_named, first_batches, parted, require_data_for_normalisation, some_of
from fxsnn.cli.inputs import model_named, reading_as
from fxsnn.cli.option_values import bits_from
from fxsnn.compiler import convert
from fxsnn.device import choose_device
from fxsnn.errors import DataError, FileError, FxsnnWarning, OptionError, listing
from fxsnn.insight import accuracy, accuracy_over_time
from fxsnn.network import SpikingNetwork
from fxsnn.passes import Finetune
from fxsnn.processes import is_first, sharing_errors
from fxsnn.storage import require_place
from fxsnn.training import Epoch


def convert_command(options: argparse.Namespace) -> Answer:
    """Convert a trained network for a chip and write it to a file with golden vectors."""
    start = time.perf_counter()
    with sharing_errors():
        for name, path in (("--output", options.output), ("--checkpoint", options.checkpoint)):
            if path is not None:
                require_place(path, name)
    require_data_for_normalisation(options)
    torch.manual_seed(options.seed)
    network = model_named(options).to(choose_device(options.device))
    data = None if options.data is None else data_set_named(options)
    train = None if data is None else data.train
    tuned = bool(options.finetune_epochs or options.finetune_spiking_epochs)
    if train is None and (tuned or options.correction not in ("auto", "none")):
        raise OptionError("fine-tuning and correction need --data")
    if not tuned:
        _refuse_options_of_finetuning(options)
    fit = check(network, target=options.target, bits=bits_from(options.bits), max_pool=options.max_pool)
    if fit.ok and fit.unwritable:
        raise FileError(f"the network cannot be written: {listing(fit.unwritable)}")
    finetune = None
    if train is not None and tuned:
        train, held = parted(train, options.finetune_validation, options.seed)
        finetune = _finetune(train, held, options)
    snn = convert(
        network,
        target=options.target,
        bits=bits_from(options.bits),
        timesteps=options.timesteps,
        reset=options.reset,
        input=options.input,
        initial_membrane=options.initial_membrane,
        calibration_data=None if train is None else DataLoader(
            some_of(train, options.calibration_images, options.seed), options.batch_size
        ),
        calibration=options.calibration,
        percentile=options.percentile,
        input_bits=options.input_bits,
        per_channel=not options.per_layer,
        codebook=options.codebook,
        max_pool=options.max_pool,
        average_pool=options.average_pool,
        correction=None if options.correction == "none" else options.correction,
        finetune=finetune,
        engine=options.engine,
        progress=True,
    )  # fmt: skip
    if data is not None:
        snn.provenance = {**snn.provenance, "data": data.to_dict()}
    replaced = options.output.exists()
    path = snn.save(options.output, golden=options.golden)
    seconds, report = time.perf_counter() - start, snn.report
    size = path.stat().st_size if is_first() else 0  # the first process writes it
    measured = None if data is None else _measured(network, snn, data, options)
    calibrated = "" if data is None else f"\n\nmade with {data}"
    if measured is not None:
        calibrated += (
            f"; on {measured['images']:,} test images: ANN {measured['ann']:.2f} %, "
            f"spiking {measured['spiking']:.2f} % at T = {snn.timesteps}"
        )
    return Answer(
        f"{report}{calibrated}\n\nwritten in {seconds:.0f} s: {path} ({size:,} bytes)"
        f"{', in place of the file that was there' if replaced else ''}",
        {
            "file": str(path),
            "bytes": size,
            "seconds": seconds,
            "data": None if data is None else data.to_dict(),
            "accuracy": measured,
            "report": report.to_dict(),
        },
    )


_OF_FINETUNING = (
    "checkpoint",
    "finetune_distillation",
    "finetune_teacher",
    "finetune_teacher_weights",
    "finetune_validation",
    "finetune_patience",
)


def _refuse_options_of_finetuning(options: argparse.Namespace) -> None:
    given = [f"--{name.replace('_', '-')}" for name in _OF_FINETUNING if getattr(options, name)]
    if given:
        verb = "is" if len(given) == 1 else "are"
        raise OptionError(
            f"{', '.join(given)} {verb} of fine-tuning; give --finetune-epochs or --finetune-spiking-epochs, too"
        )


def _finetune(train: Dataset[Any], held_out: Dataset[Any] | None, options: argparse.Namespace) -> Finetune:
    teacher = None
    if options.finetune_teacher is not None:
        named = {"model": options.finetune_teacher, "weights": options.finetune_teacher_weights}
        teacher = model_named(argparse.Namespace(**named))
    elif options.finetune_teacher_weights is not None:
        raise OptionError("--finetune-teacher-weights needs --finetune-teacher")
    if teacher is not None and not options.finetune_distillation:
        raise OptionError("--finetune-teacher needs --finetune-distillation: the share of the loss that it gives")
    spiking = options.finetune_spiking_epochs
    spiking = Finetune.spiking_epochs if spiking is None else spiking
    return Finetune(
        DataLoader(train, options.batch_size, shuffle=True),
        epochs=options.finetune_epochs,
        spiking_epochs=spiking,
        lr=options.finetune_lr,
        weight_decay=options.finetune_wd,
        momentum=options.finetune_momentum,
        distillation=options.finetune_distillation,
        temperature=options.finetune_temperature,
        teacher=teacher,
        validation=None if held_out is None else DataLoader(held_out, options.batch_size),
        patience=options.finetune_patience,
        checkpoint=options.checkpoint,
        on_epoch=partial(print_epoch, of=options.finetune_epochs + spiking),
        seed=options.seed,
        progress=True,
    )


def _measured(
    network: nn.Module, snn: SpikingNetwork, data: DataSet, options: argparse.Namespace
) -> dict[str, Any] | None:
    """Accuracy on the first test images of the network and of what became of it; `None` where it cannot be measured."""
    if not options.accuracy_images:
        return None
    try:
        test, images = first_batches(data, snn, options, options.accuracy_images)
        ann = accuracy(reading_as(snn, network), test, "ANN")
        spiking = accuracy_over_time(snn, test, snn.timesteps, "spiking")[-1]
    except DataError as error:  # the file is written: what its data are good for is another question
        warnings.warn(f"no accuracy was measured: {error}", FxsnnWarning, stacklevel=2)
        return None
    return {"images": images, "ann": ann, "spiking": spiking}


def print_epoch(epoch: Epoch, of: int) -> None:
    """A line about an epoch on standard error, above the progress bar; `of`: so many there will be."""
    shares = (("accuracy", epoch.accuracy), ("validation", epoch.validation))
    told = [
        f"epoch {epoch.number} of {of}{' (spiking)' if epoch.spiking else ''}: loss {epoch.loss:.4f}",
        *(f"{name} {100 * share:.2f} %" for name, share in shares if share is not None),
        *([] if epoch.validation_loss is None else [f"validation loss {epoch.validation_loss:.4f}"]),
        f"{epoch.seconds:.1f} s",
    ]
    tqdm.write(", ".join(told), file=sys.stderr)
