"""`fxsnn budget` and `fxsnn sweep`: where accuracy goes, and how many timesteps it takes."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxsnn.cli.answer import Answer
from fxsnn.cli.data_sets import data_set_for, first_batches
from fxsnn.cli.inputs import model_if_named, model_named, network_in
from fxsnn.errors import OptionError, importing
from fxsnn.insight import error_budget, sweep
from fxsnn.storage import require_place, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def budget_command(options: argparse.Namespace) -> Answer:
    """Where a network file differs from the network that it was converted from, by layer and by effect."""
    require_plot(options.plot)
    model = model_named(options)  # its code may register data sets
    snn = network_in(options)
    data = data_set_for(options, snn)
    found = error_budget(model.to(snn.device), snn, first_batches(data, snn, options, options.limit)[0])
    write_plot(options.plot, found.plot)
    return Answer(f"{options.file} on {data}\n{found}", {**_about(options, data.name), "budget": found.to_dict()})


def sweep_command(options: argparse.Namespace) -> Answer:
    """Accuracy, synaptic operations and latency of a network file at every T, and the smallest T that is enough."""
    require_plot(options.plot)
    model = model_if_named(options)
    snn = network_in(options)
    data = data_set_for(options, snn)
    found = sweep(
        snn,
        first_batches(data, snn, options, options.limit)[0],
        timesteps=options.timesteps,
        tolerance=options.tolerance,
        model=None if model is None else model.to(snn.device),
        progress=True,
    )
    write_plot(options.plot, found.plot)
    return Answer(f"{options.file} on {data}\n{found}", {**_about(options, data.name), "sweep": found.to_dict()})


def _about(options: argparse.Namespace, data: str) -> dict[str, Any]:
    plot = None if options.plot is None else str(options.plot)
    return {"file": str(options.file), "data": data, "plot": plot}


def require_plot(path: Path | None) -> None:
    """Refuse a place where no picture can be written, before the work.

    Raises:
        OptionError: matplotlib knows no such kind of picture, or is not there.
        FileError: nothing can be written there.
    """
    if path is None:
        return
    require_place(path, "--plot")
    with importing("matplotlib", "--plot", OptionError):
        from matplotlib.figure import Figure
    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise OptionError(f"--plot is {path}; its name must end in one of: {', '.join(sorted(kinds))}")


def write_plot(path: Path | None, draw: Callable[[Axes], object]) -> None:
    """What `draw` draws, as a picture of the kind that the name says; nothing where there is no path."""
    if path is None:
        return
    from matplotlib.figure import Figure

    figure, picture = Figure(figsize=(8, 4), layout="constrained"), io.BytesIO()
    draw(figure.subplots())
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=150)
    write_whole(path, picture.getvalue())
