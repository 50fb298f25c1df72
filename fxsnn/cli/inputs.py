"""What commands read that their options name: a model, a network file."""

from __future__ import annotations

import argparse
import warnings

from torch import nn

from fxsnn.cli import user_code
from fxsnn.device import choose_device
from fxsnn.errors import FxsnnWarning, OptionError
from fxsnn.layers import AverageFrames
from fxsnn.loading import load
from fxsnn.network import SpikingNetwork
from fxsnn.weights import load_weights

ACCURACY_IMAGES = 1000
"""So many images are enough to say how accurate a network is, to about a point."""

BUDGET_IMAGES = 256
"""So many images are enough to say where activations differ."""


def model_named(options: argparse.Namespace, *, trained: bool = True) -> nn.Module:
    """The model that the options name, with its weights if there are some.

    Args:
        options: of the command.
        trained: whether random weights would be a mistake, so that one is told where they may be.

    Raises:
        ModelError: the code cannot be found or fails, or gives no model.
        FileError: the weights cannot be read or do not match.
    """
    model = user_code.model_from(options.model)
    if options.weights is not None:
        load_weights(model, options.weights)
    elif trained:
        warnings.warn(
            f"without --weights {options.model} has the weights that it is built with: random ones, unless its code "
            "loads others",
            FxsnnWarning,
            stacklevel=2,
        )
    return model


def model_if_named(options: argparse.Namespace) -> nn.Module | None:
    """The model that `--model` names; `None`: it names none.

    Raises:
        OptionError: there are weights for no model.
        ModelError, FileError: see `model_named`.
    """
    if options.model is None and options.weights is not None:
        raise OptionError("--weights needs --model")
    return None if options.model is None else model_named(options)


def network_in(options: argparse.Namespace) -> SpikingNetwork:
    """The network in the file that the options name, on their device.

    Raises:
        FileError, OptionError: the file cannot be read, or the engine or device cannot be used.
    """
    return load(options.file, engine=options.engine).to(choose_device(options.device))


def reading_as(snn: SpikingNetwork, model: nn.Module) -> nn.Module:
    """A network of still images that can be given what a spiking network of frames reads: it sees their mean."""
    return model if snn.graph.image_form.frames is None else nn.Sequential(AverageFrames(), model)
