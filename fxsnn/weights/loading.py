"""Put the weights of a file into a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fxsnn.errors import FileError, FxsnnWarning, warn
from fxsnn.storage import as_path
from fxsnn.weights import advice
from fxsnn.weights.matching import Match, matches_in
from fxsnn.weights.places import Place, tables_in
from fxsnn.weights.reading import Content, content_of


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into `model`; only tensors are read from the file, nothing in it is executed.

    A file may hold a state dict that `torch.save(model.state_dict(), path)` wrote, or a checkpoint with one in it: the
    only dict of tensors with the names and shapes of the network is taken, under whatever key it stands. Of several
    that fit, one under the keys "state_dict", "model_state_dict", "model" or "net" is taken with a warning that names
    the others. Where names are not those of the network, "module." (DataParallel, AveragedModel) and "_orig_mod."
    (torch.compile) come off wherever they stand, and a prefix such as "model." (Lightning); tensors without that prefix
    are left out with a warning. `num_batches_tracked` may be missing. Objects that are not tensors are not read.

    Args:
        model: the network as it was trained.
        path: the file. One that ends in `.safetensors` is read as such.

    Raises:
        FileError: the file is missing, damaged, holds something else, does not match, or holds several state dicts
            that do; `model` is then unchanged.
    """
    path = as_path(path)
    try:
        if not path.is_file():
            raise FileError(f"{path}: there is no such file of weights")
    except OSError as error:  # its name is too long
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    content = content_of(path)
    if isinstance(content.value, nn.Module):  # its class was allowed by torch.serialization.add_safe_globals
        raise advice.whole_model(path, type(content.value).__name__)
    wanted = model.state_dict()
    matches = [match for place, table in tables_in(content.value) for match in matches_in(wanted, table, place)]
    fits = _distinct([match for match in matches if not match.problems])
    if not fits:
        raise _no_fit(path, content, matches, type(model).__name__)
    chosen = _chosen(fits)
    if chosen is None:
        raise advice.several(path, fits, content.unread)
    if len(fits) > 1:
        others = [fit for fit in fits if fit is not chosen]
        warn(advice.taken(path, chosen, others, content.unread), FxsnnWarning)
    if chosen.left_out:
        warn(advice.left_out(path, chosen), FxsnnWarning)
    model.load_state_dict({**wanted, **chosen.weights})


_USUAL = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which checkpoints keep the weights of a training, in the order in which they are looked for."""


def _distinct(fits: Sequence[Match]) -> list[Match]:
    """Those with other weights than all before them; the usual places stand first."""
    found: list[Match] = []
    for fit in sorted(fits, key=lambda fit: (not _is_usual(fit.place), _rank(fit.place))):
        if not any(_are_equal(fit.weights, other.weights) for other in found):
            found.append(fit)
    return found


def _is_usual(place: Place) -> bool:
    return all(key in _USUAL for key in place)


def _rank(place: Place) -> list[int]:
    return [_USUAL.index(str(key)) for key in place] if _is_usual(place) else []


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


def _chosen(fits: Sequence[Match]) -> Match | None:
    """The only one, or that in the first of the usual places. `None`: nothing tells which one is meant."""
    first, *others = fits
    tells = _is_usual(first.place) and all(other.place != first.place for other in others)
    return first if tells or not others else None


def _no_fit(path: Path, content: Content, matches: Sequence[Match], model: str) -> FileError:
    """Why no weights of the network are in the file, by what comes closest."""
    best = max(matches, key=lambda match: (match.share, match.size), default=None)
    close = best is not None and best.share >= 0.5
    if best is not None and close and best.unread and "numpy.ndarray" in content.unread:
        return advice.arrays(path, best, content.unread)
    if content.unread and not close:
        return advice.not_read(path, content.value, content.unread)
    if best is None:
        return advice.no_tensors(path, content.value)
    return advice.mismatch(path, best, model, content.value)
