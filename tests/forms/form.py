"""A way to write a network: the code that the page shows is the code that is tried."""

from __future__ import annotations

import functools
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.checking import rewrite_in_front
from fxsnn.errors import FxsnnError, ModelError
from fxsnn.graph import Graph
from fxsnn.outputs import distances, largest_in, tensors_in
from fxsnn.passes import FRONT_END
from fxsnn.rewriting.stages import TOLERANCE
from tests.nets import seeded

HOW: dict[str, Any] = {"bits": 4, "timesteps": 4, "engine": "torch", "average_pool": "plain"}
"""Poolings are shown as what the front end makes of them."""

STEPS = {
    "images": "",
    "convolution": "x = self.conv(x)",
    "activation": "x = F.relu(x)",
    "pooling": "x = F.avg_pool2d(x, 2)",
    "flatten": "x = x.flatten(1)",
    "classifier": "x = self.fc(x)",
    "return": "return x",
}
"""What forward does; a form says one of these lines otherwise."""

MADE = "self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.LazyLinear(5)"
"""What the constructor makes."""

_COUNTS = (1, 2, 65)
"""Numbers of images with which a network and its graph are compared."""


@dataclass(frozen=True, eq=False)
class Form:
    """A way to write a network.

    Attributes:
        code: as the page shows it. It is one of the `STEPS` of a network, or stands in its constructor ("made"), or
            makes something of the network ("model"), or is one ("network"), or what `convert` is given ("data").
        becomes: what becomes of it. A layer in backticks is one of the rewritten or of the spiking graph.
        at: where the code stands.
        made: what the constructor has more, shown in front of the code.
        refused: words of the error; "" where it is converted.
        build: the network, where the code cannot run as it stands.
        image: size of an image.
    """

    code: str
    becomes: str = ""
    at: str = "activation"
    made: str = ""
    refused: str = ""
    build: Callable[[], nn.Module] | None = None
    image: tuple[int, ...] = (3, 8, 8)

    def images(self, count: int = 16) -> Tensor:
        """Noise of the form's size."""
        return torch.randn(count, *self.image, generator=torch.Generator().manual_seed(1))

    def model(self) -> nn.Module:
        """The network, in evaluation mode unless the form says otherwise."""
        model: nn.Module = seeded(self.build or self._built)
        names = _names(model=model, images=self.images())
        if self.at == "model":
            exec(self.code, names)
        return names["model"]

    def calibration_data(self) -> Any:
        """Images, as the form gives them."""
        images = self.images()
        names = _names(images=images, labels=torch.arange(len(images)) % 5)
        return eval(self.code.removeprefix("calibration_data="), names) if self.at == "data" else images

    def _built(self) -> nn.Module:
        names = _names()
        if self.at == "network":
            return eval(self.code, names)
        steps = {**STEPS, **({self.at: self.code} if self.at in STEPS else {})}
        made = [MADE, self.made, self.code if self.at == "made" else ""]
        lines = ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
        lines += [textwrap.indent(code, 8 * " ") for code in made]
        lines += ["    def forward(self, x):"]
        lines += [textwrap.indent(code, 8 * " ") for code in steps.values()]
        exec("\n".join(lines), names)
        model: nn.Module = names["Net"]()
        with torch.no_grad():  # lazy layers learn their sizes
            model.eval()(self.images(2))
        return model


@dataclass(frozen=True)
class Outcome:
    """What became of a form.

    Attributes:
        error: why it was refused, `None` where it was converted.
        moved: how far the outputs of the rewritten graph are from the network's, relative to the largest, in double
            precision.
        layers: classes of the layers in the rewritten graph and in the spiking one.
        shapes: of the network's outputs and of the spiking network's.
    """

    error: FxsnnError | None = None
    moved: float = float("nan")
    layers: frozenset[str] = frozenset()
    shapes: tuple[Any, Any] = field(default=((), ()))

    @property
    def exact(self) -> bool:
        """Whether rewriting it kept what the network computes."""
        return self.moved <= TOLERANCE

    @property
    def advice(self) -> tuple[str, ...]:
        """What the error says can be done."""
        if isinstance(self.error, ModelError):
            return tuple(dict.fromkeys(finding.remedy for finding in self.error.findings))
        return () if self.error is None else (str(self.error),)


@functools.cache
def outcome(form: Form) -> Outcome:
    """Convert a form, and hold its rewritten graph against the network."""
    images = form.images()
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        model = form.model()
        images = images.to(next(model.parameters()).dtype)
        try:
            data = form.calibration_data()
            snn = fxsnn.convert(model, target="generic", calibration_data=data, **HOW)
        except FxsnnError as error:
            return Outcome(error)
        exact = form.model().double().eval()
        graph = rewrite_in_front(fxsnn.capture(exact, images.double()), FRONT_END)
        moved = max(_moved(exact, graph, form.images(count).double()) for count in _COUNTS)
        with torch.no_grad():
            given, returned = ([one.shape for one in tensors_in(net(images))] for net in (model.eval(), snn))
    return Outcome(None, moved, _kinds(graph) | _kinds(snn.graph), (given, returned))


def _names(**more: Any) -> dict[str, Any]:
    """What stands at hand for the code of a form."""
    known = (torch, nn, F, np, fxsnn, Tensor, parametrizations, parametrize, prune, DataLoader, TensorDataset)
    names = {getattr(one, "__name__", "").rpartition(".")[2]: one for one in known}
    return {"F": F, "np": np, "__name__": "forms", **names, **more}


def _moved(model: nn.Module, graph: Graph, images: Tensor) -> float:
    with torch.no_grad():
        wanted, found = model(images), graph(images)
    scale = max(1.0, *(largest_in(one) for one in tensors_in(wanted)))
    return max(distances(wanted, found)) / scale


def _kinds(graph: Graph) -> frozenset[str]:
    return frozenset(type(graph[node]).__name__ for node in graph.nodes(nn.Module))
