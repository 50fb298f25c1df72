"""The error budget: how far each layer of a spiking network is from its ANN, and which effect is to blame.

    budget = fxsnn.error_budget(model, snn, images)
    print(budget)
    budget.worst.advice

The networks that it compares are those of `effects.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.ambient import neutral
from fxsnn.data import Reading, draw_alike, labelled_batches, own_parts
from fxsnn.display import MARKED, aligned, html
from fxsnn.errors import DataError
from fxsnn.graph import Graph, Interpreter, normalised_images
from fxsnn.insight.advice import advice_on
from fxsnn.insight.effects import (
    EFFECTS,
    RateNeurons,
    encoder_of,
    float_activations,
    real_activations,
    stage_networks,
)
from fxsnn.insight.matching import MatchedLayer, matched_layers
from fxsnn.insight.outputs import Outputs, Stage, outputs_reading
from fxsnn.layers import ImageForm, QuantizedInput
from fxsnn.network import SpikingNetwork
from fxsnn.processes import first_and_all, in_turn, of_first, sharing_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOCAL = tuple(EFFECTS)[1:]
_AT_ONCE = 64


@dataclass(frozen=True)
class LayerBudget:
    """How far one layer is from the ANN, in root mean square, relative to the ANN's activations.

    A weighted input of a sum has no activations: it is what it gives to the sum, without the bias, which is in the sum.

    Attributes:
        layer: name in the user's network.
        kind: class of the spiking layer.
        distance: of its activations (rate times spike value) from those of the ANN.
        inherited: the share of the distance that comes from its input, which is not that of the ANN either (in the
            first layer: from rounding the images).
        shares: the rest of the distance, by effect; `inherited` and these add up to `distance`. One is negative where
            an effect makes good for others.
        sizes: what each effect by itself changes: what it adds to the layer's output on the input that the layer really
            has, on top of the effects before it. Errors of earlier layers are not in it.
    """

    layer: str
    kind: str
    distance: float
    inherited: float
    shares: Mapping[str, float]
    sizes: Mapping[str, float]

    @property
    def cause(self) -> str:
        """The effect of the largest size."""
        return max(self.sizes, key=self.sizes.__getitem__)


@dataclass(frozen=True)
class Worst:
    """The largest entry of a budget.

    Attributes:
        layer: where.
        effect: one of `EFFECTS`.
        size: see `LayerBudget.sizes`.
        advice: what would help.
    """

    layer: str
    effect: str
    size: float
    advice: str

    def __str__(self) -> str:
        return f"worst: {self.layer}, {self.effect} ({EFFECTS[self.effect]}): {self.size:.1%}. {self.advice}"


@dataclass(frozen=True)
class ErrorBudget:
    """Where the accuracy goes; `print` it, or let a notebook show it.

    Attributes:
        images: how many it was measured on.
        layers: a row for each spiking layer, in order, and for each weighted input of a sum.
        stages: the whole network, effect after effect.
        worst: the layer and the effect that change most.
    """

    images: int
    layers: tuple[LayerBudget, ...]
    stages: tuple[Stage, ...]
    worst: Worst

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    def layer_rows(self) -> list[tuple[str, ...]]:
        """The layers as cells, header first; sizes of the effects."""
        header = ("layer", "distance", "from its input", *_LOCAL, "largest")
        rows = [
            (
                row.layer,
                f"{row.distance:.1%}",
                f"{row.inherited:.1%}",
                *(f"{row.sizes[effect]:.1%}" if effect in row.sizes else "-" for effect in _LOCAL),
                row.cause,
            )
            for row in self.layers
        ]
        return [header, *rows]

    def stage_rows(self) -> list[tuple[str, ...]]:
        """The stages as cells, header first."""
        labelled = self.stages[0].accuracy is not None
        header = ("with", "distance of outputs", "says what the ANN says", *(("accuracy",) if labelled else ()))
        rows = []
        for stage in self.stages:
            accuracy = () if stage.accuracy is None else (f"{stage.accuracy:.2f} %",)
            name = "ANN" if stage.name == "ann" else f"+ {stage.name}"
            agreement = "-" if stage.agreement is None else f"{stage.agreement:.2f} %"
            rows.append((name, f"{stage.distance:.1%}", agreement, *accuracy))
        return [header, *rows]

    def heading(self) -> str:
        """What the tables are about."""
        return f"Distance to the ANN on {self.images} images, in root mean square of activations"

    def __str__(self) -> str:
        return "\n".join(
            [self.heading(), "", aligned(self.stage_rows()), "", aligned(self.layer_rows()), "", str(self.worst)]
        )

    def _repr_html_(self) -> str:
        colours = [MARKED if row.layer == self.worst.layer else "" for row in self.layers]
        return (
            f"<p>{escape(self.heading())}</p>{html(self.stage_rows())}<br>{html(self.layer_rows(), colours)}"
            f"<p><b>{escape(str(self.worst))}</b></p>"
        )

    def plot(self, axes: Axes) -> Axes:
        """Draw the distance of each layer, split by effect, see `fxsnn.plots.error_budget`."""
        from fxsnn.display import plots

        parts = {"from its input": [row.inherited for row in self.layers]}
        parts |= {effect: [row.shares.get(effect, 0.0) for row in self.layers] for effect in _LOCAL}
        return plots.error_budget(axes, [row.layer for row in self.layers], parts)


@neutral()
def error_budget(model: nn.Module, snn: SpikingNetwork, images: Any) -> ErrorBudget:
    """Split what sets a spiking network apart from its ANN by layer and by effect.

    Each layer is given the input that it really has in the spiking network, and the effects are switched on one after
    the other: what one adds is its size there. After fine-tuning, layers may differ from the ANN without any loss, for
    the weights have moved; then look at the stages, and at accuracies.

    Args:
        model: the network that was converted.
        snn: what it was converted to; T, reset and start are as they are set.
        images: a tensor [N, C, H, W], a pair of images and labels, or an iterable of batches, such as a `DataLoader`.
            With labels, stages have accuracies. Networks that give values have none, and no agreement; nor have those
            with several outputs. Of one output the labels tell: 0 and 1 are classes.

    Raises:
        OptionError: `snn` was not converted from `model`.
        ModelError: `model` cannot be converted.
        DataError: the images are no images for the network, or the labels none for its outputs.
    """
    stages = stage_networks(model, snn)
    ann = stages["ann"]
    layers = matched_layers(ann, snn)
    sums = [_Sums() for _ in layers]
    outputs = {name: Outputs() for name in stages}
    count = 0
    reading: Reading | None = None

    def look_at(part: tuple[Tensor, Tensor | None]) -> tuple[int, list[_Sums], list[Outputs]]:
        nonlocal reading
        batch, labels = part
        given = batch.to(snn.device, torch.float32)
        doubles = given.double()  # the same pixels for all stages
        of_layers, of_stages = [_Sums() for _ in layers], [Outputs() for _ in stages]
        _add_layers(layers, snn, stages, given, doubles, of_layers)
        reference = ann(doubles)
        reading = outputs_reading(ann, doubles, reference, labels, reading)
        for (name, stage), one in zip(stages.items(), of_stages, strict=True):
            said = snn(given) if name == "timing" else reference if name == "ann" else stage(doubles)
            one.add(said, reference, labels, reading)
        return len(batch), of_layers, of_stages

    draw_alike(images)
    parts, first = first_and_all(own_parts(_parts(images, ann.image_form), images))
    with torch.no_grad():
        with sharing_errors():
            for batch, labels in first:
                doubles = batch.to(snn.device, torch.float64)
                reading = outputs_reading(ann, doubles, ann(doubles), labels, None)
        reading = of_first(reading)
        for size, of_layers, of_stages in in_turn(parts, look_at):
            count += size
            for total, one in zip(sums, of_layers, strict=True):
                total.join(one)
            for whole, other in zip(outputs.values(), of_stages, strict=True):
                whole.join(other)
    rows = tuple(one.row(layer) for one, layer in zip(sums, layers, strict=True))
    return ErrorBudget(count, rows, tuple(one.stage(name) for name, one in outputs.items()), _worst(rows, snn))


def _parts(data: Any, form: ImageForm) -> Iterator[tuple[Tensor, Tensor | None]]:
    labelled = None
    for images, labels in labelled_batches(data, form, what="data"):
        if labelled not in (None, labels is not None):
            raise DataError("some batches have labels and some have none; give all of them, or none")
        labelled = labels is not None
        parts = images.split(_AT_ONCE)
        yield from zip(parts, [None] * len(parts) if labels is None else labels.split(_AT_ONCE), strict=True)


class _Sums:
    """Sums of squares over all images, of one layer."""

    def __init__(self) -> None:
        self.reference = self.total = self.inherited = 0.0
        self.squares: dict[str, float] = {}
        self.products: dict[str, float] = {}

    def add(self, analog: Tensor, inherited: Tensor, parts: Mapping[str, Tensor]) -> None:
        """What one batch adds: the ANN's activations, the distance that comes with the input, and the parts."""
        total = inherited + sum(parts.values())
        self.reference += float(analog.square().sum())
        self.total += float(total.square().sum())
        self.inherited += float((inherited * total).sum())
        for name, part in parts.items():
            self.squares[name] = self.squares.get(name, 0.0) + float(part.square().sum())
            self.products[name] = self.products.get(name, 0.0) + float((part * total).sum())

    def join(self, other: _Sums) -> None:
        """Add what another one has of other images."""
        self.reference += other.reference
        self.total += other.total
        self.inherited += other.inherited
        for own, theirs in ((self.squares, other.squares), (self.products, other.products)):
            for name, one in theirs.items():
                own[name] = own.get(name, 0.0) + one

    def row(self, layer: MatchedLayer) -> LayerBudget:
        """Relative to the ANN; a layer that is silent there is held against itself."""
        scale = (self.reference or self.total or 1.0) ** 0.5
        total = self.total**0.5
        return LayerBudget(
            layer.name,
            type(layer.spiking).__name__,
            total / scale,
            self.inherited / (total * scale) if total else 0.0,
            {name: product / (total * scale) if total else 0.0 for name, product in self.products.items()},
            {name: square**0.5 / scale for name, square in self.squares.items()},
        )


def _add_layers(
    layers: Sequence[MatchedLayer],
    snn: SpikingNetwork,
    stages: Mapping[str, Graph],
    images: Tensor,
    doubles: Tensor,
    sums: Sequence[_Sums],
) -> None:
    """Hold each layer against the ANN on one batch."""
    ann = stages["ann"]
    analog, reals = float_activations(ann, layers, doubles), real_activations(snn, layers, images)
    for layer, given, one in zip(layers, _inputs(stages, snn, layers, doubles, reals), sums, strict=True):
        before = _output(ann, layer, given)
        inherited, parts = before - analog[layer.name], {}
        for effect in _effects_on(layer):
            after = reals[layer.name] if effect == "timing" else _output(stages[effect], layer, given)
            parts[effect], before = after - before, after
        one.add(analog[layer.name], inherited, parts)


def _effects_on(layer: MatchedLayer) -> Iterable[str]:
    if not layer.fires:
        return ("weights",)
    return ("timesteps", "timing") if layer.pools else _LOCAL


def _output(graph: Graph, layer: MatchedLayer, given: Sequence[Tensor]) -> Tensor:
    """What a layer of a stage makes of its inputs."""
    value: Tensor = graph[str(layer.node.target)](*given)
    if layer.pools:
        behind = graph.sole_user(graph.calls(str(layer.node.target))[0])
        return graph[behind](value) if behind is not None and graph.is_a(behind, RateNeurons) else value
    return graph[str(layer.out.target)](value) if layer.fires else value


def _inputs(
    stages: Mapping[str, Graph],
    snn: SpikingNetwork,
    layers: Sequence[MatchedLayer],
    images: Tensor,
    reals: Mapping[str, Tensor],
) -> list[Sequence[Tensor]]:
    """What each layer reads in the spiking network, on average over time, in activation units."""
    ann, encode = stages["ann"], encoder_of(snn)
    found: dict[Node, Sequence[Tensor]] = {}
    values = {layer.out: reals[layer.name] for layer in layers if layer.fires}
    if encode.bits is not None:
        start, _ = normalised_images(ann)
        frames = encode.form.frames is not None
        values[start] = QuantizedInput(encode.unit, encode.bits, encode.affine, frames=frames)(images)
    # What weighted inputs of sums give, they give at every step: it depends on rates alone.
    linear = {layer.node: stages["weights"][layer.name] for layer in layers if not layer.fires}
    _Spliced(ann, values, linear, {layer.node for layer in layers}, found.__setitem__).run(images)
    return [found[layer.node] for layer in layers]


class _Spliced(Interpreter):
    """Runs a graph with the values of some nodes given, and shows what others read.

    Args:
        graph: the network.
        values: of the nodes that are not to be run.
        others: modules that run in the place of those of some nodes.
        readers: nodes whose inputs are wanted; those without a value or another module are skipped.
        see: called with each of these and its inputs.
    """

    def __init__(
        self,
        graph: Graph,
        values: Mapping[Node, Tensor],
        others: Mapping[Node, nn.Module],
        readers: set[Node],
        see: Callable[[Node, Sequence[Tensor]], None],
    ) -> None:
        super().__init__(graph.module)
        self._values, self._others, self._readers, self._see = values, others, readers, see

    def run_node(self, n: Node) -> Any:
        """See `fx.Interpreter`."""
        if n in self._readers:
            given: Any = self.fetch_args_kwargs_from_env(n)[0]
            self._see(n, given)
            return self._others[n](*given) if n in self._others else self._values.get(n, given[0])
        return self._values[n] if n in self._values else super().run_node(n)


def _worst(layers: Sequence[LayerBudget], snn: SpikingNetwork) -> Worst:
    row = max(layers, key=lambda row: row.sizes[row.cause])
    return Worst(row.layer, row.cause, row.sizes[row.cause], advice_on(row.layer, row.cause, snn))
