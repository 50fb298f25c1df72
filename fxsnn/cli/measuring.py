"""`fxsnn eval`: accuracy of a network file."""

from __future__ import annotations

import argparse
from dataclasses import replace

from fxsnn.cli.answer import Answer
from fxsnn.cli.inputs import first_batches, halves_named, model_named, network_in
from fxsnn.display import aligned
from fxsnn.errors import OptionError
from fxsnn.insight import accuracy, accuracy_over_time


def eval_command(options: argparse.Namespace) -> Answer:
    """Accuracy of a network file on test images, at any T from one run; beside the ANN's, if there is a model."""
    if options.model is None and options.weights is not None:
        raise OptionError("--weights needs --model")
    model = None if options.model is None else model_named(options)  # its code may register data sets
    snn = network_in(options)
    timesteps = sorted(replace(snn.dynamics, timesteps=one).timesteps for one in options.timesteps or [snn.timesteps])
    test, images = first_batches(halves_named(options).test, snn, options)
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
