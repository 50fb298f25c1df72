"""What goes into a network that is traced, and what comes out of it: images and nothing else, and some tensor."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn

from fxsnn.errors import Finding, ModelError
from fxsnn.layers import in_words

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def take_images_only(model: nn.Module) -> None:
    """Let a copy of a network whose forward takes any inputs (`*args`, `**kwargs`) take images and nothing else.

    Others, and those that cannot be called with images alone, stay as they are.

    Args:
        model: it gets a class of its own, with the name of the one that it had.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [one for one in parameters if one.kind not in _ANY_NUMBER and one.default is inspect.Parameter.empty]
    by_place = [one for one in parameters if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]
    if "forward" in vars(model) or not by_place or not set(needed) <= set(by_place[:1]):
        return
    if any(one.kind in _ANY_NUMBER for one in parameters):
        kind: Any = type(model)

        def forward(self: nn.Module, images: Any) -> Any:
            return kind.forward(self, images)

        model.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, "forward": forward})


def defaults(model: nn.Module) -> dict[str, Any]:
    """Values for all inputs but the first that have a default, so that `forward(x, mask=None)` can be traced."""
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


def require_output(model: nn.Module, program: fx.Graph) -> None:
    """Refuse networks that return no tensor.

    Raises:
        ModelError: of such a network.
    """
    (output,) = program.find_nodes(op="output")
    if not output.all_input_nodes:
        given = output.args[0]
        problem = f"its forward returns {'nothing' if given is None else in_words(given)}: there is no tensor in it"
        raise ModelError([Finding(type(model).__name__, problem, "Let forward return what it computes")])
