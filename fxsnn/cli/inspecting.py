"""`fxsnn report` and `fxsnn verify`: what is in a network file, and whether it still says what it said."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

from torch import nn

from fxsnn.cli.answer import Answer
from fxsnn.cli.data_sets import DataSet, data_set_for, first_batches, require_data_for_normalisation
from fxsnn.cli.inputs import ACCURACY_IMAGES, BUDGET_IMAGES, model_if_named, network_in
from fxsnn.errors import DataError, FxsnnWarning, OptionError
from fxsnn.insight import error_budget, sweep
from fxsnn.loading import verify
from fxsnn.network import SpikingNetwork
from fxsnn.storage import require_place


def report_command(options: argparse.Namespace) -> Answer:
    """What a network file takes of its chip, and what it does on images."""
    if options.html is not None:
        require_place(options.html, "--html")
    require_data_for_normalisation(options)
    if options.model is not None and (options.html is None or options.data is None):
        raise OptionError("--model is for the error budget of the page; give --html and --data, too")
    model = model_if_named(options)
    snn = network_in(options)
    data = None if options.data is None else data_set_for(options, snn)
    batches = None if data is None else first_batches(data, snn, options, options.limit)[0]
    report = snn.report if batches is None else snn.profile(batches)
    measured = "" if data is None else f"\nmeasured on {data}"
    if options.html is not None:
        report.save_page(
            options.html, options.file.name, note=_provenance(snn).strip(), **_parts(snn, model, data, options)
        )
        measured += f"\nwritten: {options.html}"
    answer = {
        "file": str(options.file),
        "data": None if data is None else data.to_dict(),
        "provenance": snn.provenance,
        "report": report.to_dict(),
    }
    return Answer(f"{report}{measured}{_provenance(snn)}", answer)


def _parts(
    snn: SpikingNetwork, model: nn.Module | None, data: DataSet | None, options: argparse.Namespace
) -> dict[str, Any]:
    """What the page has beside the report: accuracy and sweep of the data, the budget where there is a model, too."""
    if data is None:
        return {}
    # Activity is clear from few images, accuracy is not.
    many, count = first_batches(data, snn, options, ACCURACY_IMAGES)
    model = None if model is None else model.to(snn.device)
    try:
        swept = sweep(snn, many, timesteps=snn.graph.image_form.frames or 2 * snn.timesteps, model=model)
    except DataError as error:  # a network that does not classify has a page, too
        warnings.warn(f"the page has no accuracy: {error}", FxsnnWarning, stacklevel=2)
        swept = None
    where = f"on {count:,} images of {data}"
    right = {} if model is None or swept is None else {f"ANN, {where}": swept.reference}
    if swept is not None:
        right[f"spiking, {where}, T={snn.timesteps}"] = swept.points[snn.timesteps - 1].accuracy
    few = first_batches(data, snn, options, BUDGET_IMAGES)[0]
    budget = None if model is None else error_budget(model, snn, few)
    return {"accuracy": right, "sweep": swept, "budget": budget}


def verify_command(options: argparse.Namespace) -> Answer:
    """Load a network file and run its golden vectors: every spike of every layer, and the logits."""
    found = verify(options.file, engine=options.engine, device=options.device)
    return Answer(str(found), found.to_dict(), 0 if found.ok else 1)


def _provenance(snn: SpikingNetwork) -> str:
    versions = snn.provenance.get("versions")
    told = [f"{name} {one}" for name, one in versions.items()] if isinstance(versions, dict) else []
    text = ", ".join(told)
    return f"\nmade with {text}" if text and text.isprintable() else ""
