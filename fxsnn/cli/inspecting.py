"""`fxsnn report` and `fxsnn verify`: what is in a network file, and whether it still says what it said."""

from __future__ import annotations

import argparse

from fxsnn.cli.answer import Answer
from fxsnn.cli.data_sets import data_set_for, first_batches, require_data_for_normalisation
from fxsnn.cli.inputs import ACCURACY_IMAGES, network_in
from fxsnn.insight import accuracy
from fxsnn.loading import verify
from fxsnn.network import SpikingNetwork
from fxsnn.storage import require_place


def report_command(options: argparse.Namespace) -> Answer:
    """What a network file takes of its chip, and what it does on images."""
    if options.html is not None:
        require_place(options.html, "--html")
    require_data_for_normalisation(options)
    snn = network_in(options)
    data = None if options.data is None else data_set_for(options, snn)
    batches = None if data is None else first_batches(data, snn, options, options.limit)[0]
    report = snn.report if batches is None else snn.profile(batches)
    measured = "" if data is None else f"\nmeasured on {data}"
    if options.html is not None:
        right = {}
        if data is not None:
            # Activity is clear from few images, accuracy is not.
            many, count = first_batches(data, snn, options, ACCURACY_IMAGES)
            right[f"on {count:,} images of {data}, T={snn.timesteps}"] = accuracy(snn, many)
        report.save_page(options.html, options.file.name, accuracy=right, note=_provenance(snn).strip())
        measured += f"\nwritten: {options.html}"
    answer = {
        "file": str(options.file),
        "data": None if data is None else data.to_dict(),
        "provenance": snn.provenance,
        "report": report.to_dict(),
    }
    return Answer(f"{report}{measured}{_provenance(snn)}", answer)


def verify_command(options: argparse.Namespace) -> Answer:
    """Load a network file and run its golden vectors: every spike of every layer, and the logits."""
    found = verify(options.file, engine=options.engine, device=options.device)
    return Answer(str(found), found.to_dict(), 0 if found.ok else 1)


def _provenance(snn: SpikingNetwork) -> str:
    versions = snn.provenance.get("versions")
    told = [f"{name} {one}" for name, one in versions.items()] if isinstance(versions, dict) else []
    text = ", ".join(told)
    return f"\nmade with {text}" if text and text.isprintable() else ""
