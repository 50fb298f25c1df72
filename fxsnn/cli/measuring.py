"""`fxsnn eval`: accuracy of a network file."""

from __future__ import annotations

import argparse
from dataclasses import replace

from fxsnn.cli.answer import Answer
from fxsnn.cli.data_sets import data_set_for, first_batches
from fxsnn.cli.inputs import model_if_named, network_in, reading_as
from fxsnn.display import aligned
from fxsnn.insight import accuracy, accuracy_over_time


def eval_command(options: argparse.Namespace) -> Answer:
    """Accuracy of a network file on test images, at any T from one run; beside the ANN's, if there is a model.

    Without --data, on the test half of the data set that the file was converted with.
    """
    model = model_if_named(options)  # its code may register data sets
    snn = network_in(options)
    timesteps = sorted(replace(snn.dynamics, timesteps=one).timesteps for one in options.timesteps or [snn.timesteps])
    data = data_set_for(options, snn)
    test, images = first_batches(data, snn, options, options.limit)
    found = accuracy_over_time(snn, test, timesteps[-1], "spiking")
    ann = None if model is None else accuracy(reading_as(snn, model), test, "ANN")
    rows = [("T", "accuracy"), *((str(one), f"{found[one - 1]:.2f} %") for one in timesteps)]
    rows += [] if ann is None else [("ANN", f"{ann:.2f} %")]
    answer = {
        "file": str(options.file),
        "data": data.name,
        "normalisation": None if data.normalisation is None else data.normalisation._asdict(),
        "images": images,
        "accuracy": {str(one): found[one - 1] for one in timesteps},
        "ann": ann,
    }
    return Answer(f"{options.file} on {images:,} images of {data}\n{aligned(rows)}", answer)
