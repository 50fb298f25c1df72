"""The error budget: how far each layer of a spiking network is from its ANN, and which effect is to blame.

    budget = fxsnn.error_budget(model, snn, images)
    print(budget)
    budget.worst.advice

Effects are switched on one after the other, in the order of `EFFECTS`. With all of them on, the network computes the
very spikes of the chip; `stage_networks` gives each stage as a network that runs on images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from fxsnn.errors import DataError, OptionError
from fxsnn.graph import Graph, Weighted, capture
from fxsnn.layers import Encode, QuantizedInput, Spiking, conv_like, linear_like
from fxsnn.network import SpikingNetwork
from fxsnn.neuron import Dynamics, integrate_and_fire, steady_spike_counts
from fxsnn.observe import Watch, labelled_batches
from fxsnn.passes import Canonicalize, CheckConvRelu, FoldBatchNorm
from fxsnn.tables import aligned, html
from fxsnn.target import AUTOMATIC, KernelSize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EFFECTS: Mapping[str, str] = {
    "input": "images rounded to the integer input",
    "clipping": "activations end at the threshold",
    "weights": "n-bit weights (and the biases that were trained or corrected with them)",
    "rounding": "integer thresholds and leaks, one unit for all channels of a layer",
    "timesteps": "rates are multiples of 1/T",
    "timing": "spikes come unevenly",
}
"""What sets a spiking network apart from its ANN, in the order in which it is switched on."""

_LOCAL = tuple(EFFECTS)[1:]
_AT_ONCE = 64
_TIE = 1 + 1e-12
"""Who reaches its threshold exactly spikes; sums of floating numbers may miss it by a rounding error."""


# Networks ------------------------------------------------------------------------------------------------------------


class _Neurons(nn.Module):
    """A ReLU with some of the effects.

    Args:
        top: where it ends, [C] or [1]; `None`: nowhere.
        gain: what a reader takes 1 for, [C] or [1].
        dynamics: round to the rates of T steps; `None`: do not.
    """

    top: Tensor | None
    gain: Tensor

    def __init__(self, top: Tensor | None, gain: Tensor, dynamics: Dynamics | None) -> None:
        super().__init__()
        self.register_buffer("top", top)
        self.register_buffer("gain", gain)
        self.dynamics = dynamics

    def forward(self, z: Tensor) -> Tensor:
        gain = _along_channels(self.gain, z)
        if self.top is None:
            return z.clamp_min(0) * gain
        top = _along_channels(self.top, z)
        if self.dynamics is None:
            return torch.minimum(z.clamp_min(0), top) * gain
        return steady_spike_counts(z / top * _TIE, self.dynamics) / self.dynamics.timesteps * top * gain


class _TimedNeurons(nn.Module):
    """Neurons that run over time, [T * N, C, ...] to the same: spikes, in activation units.

    Args:
        threshold: integers, [C].
        top: what they are in activation units, [C].
        unit: what a reader takes a spike for, [C] or [1].
        dynamics: T, reset and start.
        whole: the drive is whole numbers in units of the threshold.
    """

    threshold: Tensor
    top: Tensor
    unit: Tensor

    def __init__(self, threshold: Tensor, top: Tensor, unit: Tensor, dynamics: Dynamics, *, whole: bool) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)
        self.register_buffer("top", top)
        self.register_buffer("unit", unit)
        self.dynamics, self.whole = dynamics, whole

    def forward(self, z: Tensor) -> Tensor:
        drive = z * _along_channels(self.threshold / self.top, z)
        drive = drive.round().long() if self.whole else drive
        spikes = integrate_and_fire(drive.unflatten(0, (self.dynamics.timesteps, -1)), self.threshold, self.dynamics)
        return spikes.flatten(0, 1).to(z.dtype) * _along_channels(self.unit, z)


class _Repeat(nn.Module):
    """[N, ...] to [T * N, ...]: the same at every step."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(self.timesteps, *[1] * (x.dim() - 1))


class _Mean(nn.Module):
    """[T * N, ...] to [N, ...]: the mean over time."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.timesteps, -1)).mean(0)


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 2))


@dataclass(frozen=True)
class _Layer:
    """A layer in both networks.

    Attributes:
        name: in the user's network.
        node: its node in the ANN.
        out: the node that has its value: its ReLU, or the pooling itself.
        spiking: what it has become.
        unit: what a reader takes a spike of it for, float64 [1], or [C] where the tail reads it.
    """

    name: str
    node: Node
    out: Node
    spiking: Spiking
    unit: Tensor

    @property
    def pools(self) -> bool:
        """It is a pooling."""
        return self.spiking.bits == 0


def _ann(model: nn.Module, snn: SpikingNetwork) -> Graph:
    """The user's network with batch norms folded, in double precision, where the spiking network is."""
    graph = capture(model)
    for one in (Canonicalize(), CheckConvRelu(), FoldBatchNorm()):  # verified when the network was converted
        graph = one(graph).after
    own = graph.detached(torch.float64)
    own.module.to(_device(snn))
    return own


def _layers(ann: Graph, snn: SpikingNetwork) -> list[_Layer]:
    spiking = {snn.graph.name(node): node for node in snn.graph.nodes(Spiking)}
    nodes = ann.body(*Weighted, nn.AvgPool2d)
    if [ann.name(node) for node in nodes] != list(spiking):
        raise OptionError(
            f"snn was not converted from this model: its layers are {', '.join(spiking)}, those of the model "
            f"{', '.join(map(ann.name, nodes)) or 'none'}"
        )
    found = []
    for node in nodes:
        layer, module = snn.graph[spiking[ann.name(node)]], ann[node]
        assert isinstance(layer, Spiking)
        out = node if isinstance(module, nn.AvgPool2d) else next(iter(node.users))
        codes, weight = getattr(layer, "codes", None), getattr(module, "weight", None)
        if codes is not None and weight is not None and codes.shape != weight.shape:
            raise OptionError(
                f"snn was not converted from this model: weights of {ann.name(node)} have shape {list(codes.shape)}, "
                f"in the model {list(weight.shape)}"
            )
        found.append(_Layer(ann.name(node), node, out, layer, _unit(snn.graph, spiking[ann.name(node)])))
    return found


def _unit(graph: Graph, node: Node) -> Tensor:
    """What a spike of `node` is taken for by the next layer with weights, or by the tail."""
    layer: Any = graph[node]
    behind: Any = graph.sole_user(node)
    while behind is not None:
        module: Any = graph[behind] if behind.op == "call_module" else None
        if isinstance(module, Spiking) and module.bits:
            return layer.spike_value.new_tensor([module.input_unit])
        if not isinstance(module, Spiking | nn.Flatten):
            break
        behind = graph.sole_user(behind)
    return layer.spike_value


def stage_networks(model: nn.Module, snn: SpikingNetwork) -> dict[str, Graph]:
    """The networks between an ANN and its spiking form; each runs on images, in double precision.

    Args:
        model: the network that was converted.
        snn: what it was converted to.

    Returns:
        "ann", and then one for each of `EFFECTS` in order, with that effect and all before it. The last one runs over
        time and makes the very spikes of `snn`.

    Raises:
        OptionError: `snn` was not converted from `model`.
    """
    return _stages(_ann(model, snn), snn)


def _stages(ann: Graph, snn: SpikingNetwork) -> dict[str, Graph]:
    names = tuple(EFFECTS)
    return {"ann": ann} | {name: _stage(ann, snn, set(names[: i + 1])) for i, name in enumerate(names)}


def _stage(ann: Graph, snn: SpikingNetwork, effects: set[str]) -> Graph:
    graph = ann.copy()
    layers = _layers(graph, snn)
    dynamics = snn.dynamics
    for layer in layers:
        source: Any = graph[layer.node]
        if layer.pools:
            if "timesteps" in effects:
                _insert_after_pool(graph, layer, dynamics, timed="timing" in effects)
            continue
        spiking: Any = layer.spiking
        value = spiking.spike_value
        if "weights" in effects:
            graph.replace(layer.node, _with_codes(source, spiking, rounded="rounding" in effects))
        if "timing" in effects:
            whole = spiking.input_magnitude is not None
            neurons: nn.Module = _TimedNeurons(spiking.threshold.double(), value, layer.unit, dynamics, whole=whole)
        else:
            top = None if "clipping" not in effects else value if "rounding" in effects else spiking.real_threshold
            gain = layer.unit / value if "rounding" in effects else torch.ones_like(spiking.real_threshold)
            neurons = _Neurons(top, gain, dynamics if "timesteps" in effects else None)
        graph.replace(layer.out, neurons)
    encode = _encode(snn)
    start = graph.input()
    if "input" in effects and encode.bits is not None:
        start = graph.insert_after(start, "quantized_input", QuantizedInput(encode.unit, encode.bits))
    if "timing" in effects:
        graph.insert_after(start, "every_step", _Repeat(dynamics.timesteps))
        last = layers[-1].out if not layers[-1].pools else next(iter(layers[-1].out.users))
        graph.insert_after(last, "mean_over_time", _Mean(dynamics.timesteps))
    graph.tidy()
    return graph


def _insert_after_pool(graph: Graph, layer: _Layer, dynamics: Dynamics, *, timed: bool) -> None:
    pool: Any = layer.spiking
    unit = layer.unit if len(layer.unit) > 1 else layer.unit.expand(len(pool.threshold))
    neurons: nn.Module = _Neurons(unit, torch.ones_like(unit), dynamics)
    if timed:
        neurons = _TimedNeurons(pool.threshold.double(), unit, unit, dynamics, whole=True)
    graph.insert_after(layer.out, f"{layer.name}_neurons", neurons)


def _with_codes(source: Any, spiking: Any, *, rounded: bool) -> nn.Module:
    """The layer with n-bit weights, and with the bias as it was before or after it was rounded to the leak."""
    new: Any = conv_like(nn.Conv2d, source) if isinstance(source, nn.Conv2d) else linear_like(nn.Linear, source)
    step = spiking.step.view(-1, *[1] * (spiking.codes.dim() - 1))
    bias = spiking.leak * (spiking.spike_value / spiking.threshold) if rounded else spiking.real_bias
    new.weight = nn.Parameter(spiking.codes * step, requires_grad=False)
    new.bias = nn.Parameter(bias, requires_grad=False)
    return new


def _encode(snn: SpikingNetwork) -> Encode:
    encode = snn.graph[snn.graph.nodes(Encode)[0]]
    assert isinstance(encode, Encode)
    return encode


def layer_activations(model: nn.Module, snn: SpikingNetwork, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer, the activations of the ANN, and what the firing rates of the spiking network stand for.

    Args:
        model: the network that was converted.
        snn: what it was converted to.
        images: [N, C, H, W].

    Returns:
        Pairs of float64 tensors [N, C, ...]; `fxsnn.plots.activation_scatter` draws one.

    Raises:
        OptionError: `snn` was not converted from `model`.
        DataError: the images are no images for the network.
    """
    ann = _ann(model, snn)
    layers = _layers(ann, snn)
    with torch.no_grad():
        analog = _analog(ann, layers, images.to(_device(snn), torch.float64))
        real = _real(snn, layers, images.to(_device(snn), torch.float32))
    return {layer.name: (analog[layer.name], real[layer.name]) for layer in layers}


def _analog(ann: Graph, layers: Sequence[_Layer], images: Tensor) -> dict[str, Tensor]:
    """Activations of the ANN, by layer."""
    names = {layer.out: layer.name for layer in layers}
    found: dict[str, Tensor] = {}
    try:
        Watch(ann, names, lambda node, value: found.__setitem__(names[node], value)).run(images)
    except RuntimeError as error:
        raise DataError(f"the network does not accept images of shape {list(images.shape)}: {error}") from error
    return found


def _real(snn: SpikingNetwork, layers: Sequence[_Layer], images: Tensor) -> dict[str, Tensor]:
    """What readers take the rates of the spiking network for, by layer."""
    counts = snn.count_spikes(images)
    rates = {name: count.double() / snn.timesteps for name, count in counts.items()}
    return {layer.name: rates[layer.name] * _along_channels(layer.unit, rates[layer.name]) for layer in layers}


# The budget ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerBudget:
    """How far one layer is from the ANN, in root mean square, relative to the ANN's activations.

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
class Stage:
    """The whole network with all effects up to one.

    Attributes:
        name: "ann", or the last effect that is on.
        distance: of its outputs from those of the ANN, relative, in root mean square.
        agreement: percentage of the images on which it says what the ANN says.
        accuracy: percentage of the images that it classifies right; `None` without labels.
    """

    name: str
    distance: float
    agreement: float
    accuracy: float | None


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
        layers: a row for each spiking layer, in order.
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
            rows.append((name, f"{stage.distance:.1%}", f"{stage.agreement:.2f} %", *accuracy))
        return [header, *rows]

    def heading(self) -> str:
        """What the tables are about."""
        return f"Distance to the ANN on {self.images} images, in root mean square of activations"

    def __str__(self) -> str:
        return "\n".join(
            [self.heading(), "", aligned(self.stage_rows()), "", aligned(self.layer_rows()), "", str(self.worst)]
        )

    def _repr_html_(self) -> str:
        colours = ["#f7dfcc" if row.layer == self.worst.layer else "" for row in self.layers]
        return (
            f"<p>{escape(self.heading())}</p>{html(self.stage_rows())}<br>{html(self.layer_rows(), colours)}"
            f"<p><b>{escape(str(self.worst))}</b></p>"
        )

    def plot(self, axes: Axes) -> Axes:
        """Draw the distance of each layer, split by effect, see `fxsnn.plots.error_budget`."""
        from fxsnn import plots

        parts = {"from its input": [row.inherited for row in self.layers]}
        parts |= {effect: [row.shares.get(effect, 0.0) for row in self.layers] for effect in _LOCAL}
        return plots.error_budget(axes, [row.layer for row in self.layers], parts)


def error_budget(model: nn.Module, snn: SpikingNetwork, images: Any) -> ErrorBudget:
    """Split what sets a spiking network apart from its ANN by layer and by effect.

    Each layer is given the input that it really has in the spiking network, and the effects are switched on one after
    the other: what one adds is its size there. After fine-tuning, layers may differ from the ANN without any loss, for
    the weights have moved; then look at the stages, and at accuracies.

    Args:
        model: the network that was converted.
        snn: what it was converted to; T, reset and start are as they are set.
        images: a tensor [N, C, H, W], a pair of images and labels, or an iterable of batches, such as a `DataLoader`.
            With labels, stages have accuracies.

    Raises:
        OptionError: `snn` was not converted from `model`.
        ModelError: `model` cannot be converted.
        DataError: the images are no images for the network.
    """
    ann = _ann(model, snn)
    stages, layers = _stages(ann, snn), _layers(ann, snn)
    sums = [_Sums() for _ in layers]
    outputs = {name: _Outputs() for name in stages}
    count = 0
    with torch.no_grad():
        for batch, labels in _parts(images, ann.input_channels):
            count += len(batch)
            given, doubles = batch.to(_device(snn), torch.float32), batch.to(_device(snn), torch.float64)
            _add_layers(layers, snn, stages, given, doubles, sums)
            reference = stages["ann"](doubles)
            for name, stage in stages.items():
                outputs[name].add(
                    snn(given) if name == "timing" else reference if name == "ann" else stage(doubles),
                    reference,
                    labels,
                )
    rows = tuple(one.row(layer) for one, layer in zip(sums, layers, strict=True))
    return ErrorBudget(count, rows, tuple(one.stage(name) for name, one in outputs.items()), _worst(rows, snn))


def _device(snn: SpikingNetwork) -> torch.device:
    return next(snn.buffers()).device


def _parts(data: Any, channels: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    labelled = None
    for images, labels in labelled_batches(data, channels, what="data"):
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

    def row(self, layer: _Layer) -> LayerBudget:
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


class _Outputs:
    """Sums over all images, of one stage."""

    def __init__(self) -> None:
        self.reference = self.difference = 0.0
        self.same = self.right = self.count = 0
        self.labelled = False

    def add(self, outputs: Tensor, reference: Tensor, labels: Tensor | None) -> None:
        """What one batch adds."""
        self.reference += float(reference.square().sum())
        self.difference += float((outputs.double() - reference).square().sum())
        said = outputs.flatten(1).argmax(1)
        self.same += int((said == reference.flatten(1).argmax(1)).sum())
        self.count += len(outputs)
        if labels is not None:
            self.labelled = True
            self.right += int((said == labels.to(said.device)).sum())

    def stage(self, name: str) -> Stage:
        """The result."""
        distance = (self.difference / self.reference) ** 0.5 if self.reference else 0.0
        accuracy = 100 * self.right / self.count if self.labelled else None
        return Stage(name, distance, 100 * self.same / self.count, accuracy)


def _add_layers(
    layers: Sequence[_Layer],
    snn: SpikingNetwork,
    stages: Mapping[str, Graph],
    images: Tensor,
    doubles: Tensor,
    sums: Sequence[_Sums],
) -> None:
    """Hold each layer against the ANN on one batch."""
    ann = stages["ann"]
    analog, reals = _analog(ann, layers, doubles), _real(snn, layers, images)
    for layer, given, one in zip(layers, _inputs(ann, snn, layers, doubles, reals), sums, strict=True):
        before = _output(ann, layer, given)
        inherited, parts = before - analog[layer.name], {}
        for effect in _effects_on(layer):
            after = reals[layer.name] if effect == "timing" else _output(stages[effect], layer, given)
            parts[effect], before = after - before, after
        one.add(analog[layer.name], inherited, parts)


def _effects_on(layer: _Layer) -> Iterable[str]:
    return ("timesteps", "timing") if layer.pools else _LOCAL


def _output(graph: Graph, layer: _Layer, given: Tensor) -> Tensor:
    """What a layer of a stage makes of an input."""
    names = [str(layer.node.target)]
    if not layer.pools:
        names.append(str(layer.out.target))
    else:
        behind = graph.sole_user(graph.calls(names[0])[0])
        if behind is not None and graph.is_a(behind, _Neurons):
            names.append(str(behind.target))
    value = given
    for name in names:
        value = graph[name](value)
    return value


def _inputs(
    ann: Graph, snn: SpikingNetwork, layers: Sequence[_Layer], images: Tensor, reals: Mapping[str, Tensor]
) -> list[Tensor]:
    """What each layer reads in the spiking network, on average over time, in activation units."""
    encode = _encode(snn)
    if encode.bits is not None:
        images = QuantizedInput(encode.unit, encode.bits)(images)
    found: dict[Node, Tensor] = {}
    values = {layer.out: reals[layer.name] for layer in layers}
    _Spliced(ann, values, {layer.node for layer in layers}, found.__setitem__).run(images)
    return [found[layer.node] for layer in layers]


class _Spliced(fx.Interpreter):
    """Runs a graph with the values of some nodes given, and shows what others read.

    Args:
        graph: the network.
        values: of the nodes that are not to be run.
        readers: nodes whose input is wanted; those without a value are skipped.
        see: called with each of these and its input.
    """

    def __init__(
        self, graph: Graph, values: Mapping[Node, Tensor], readers: set[Node], see: Callable[[Node, Tensor], None]
    ) -> None:
        super().__init__(graph.module)
        self._values, self._readers, self._see = values, readers, see

    def run_node(self, n: Node) -> Any:
        """See `fx.Interpreter`."""
        if n in self._readers:
            (given,) = self.fetch_args_kwargs_from_env(n)[0]
            self._see(n, given)
            return self._values.get(n, given)
        return self._values[n] if n in self._values else super().run_node(n)


# Advice --------------------------------------------------------------------------------------------------------------


def _worst(layers: Sequence[LayerBudget], snn: SpikingNetwork) -> Worst:
    row = max(layers, key=lambda row: row.sizes[row.cause])
    return Worst(row.layer, row.cause, row.sizes[row.cause], _advice(row, snn))


def _reads(layer: Any) -> tuple[KernelSize | None, int]:
    """Kernel size and input channels per group, as a target asks for them."""
    if isinstance(layer, nn.Conv2d):
        return (layer.kernel_size[0], layer.kernel_size[1]), layer.in_channels // layer.groups
    return None, layer.in_features


def _advice(row: LayerBudget, snn: SpikingNetwork) -> str:
    if row.cause == "clipping":
        return "Raise its threshold: a higher percentile, or calibration='max', on more images"
    if row.cause == "weights":
        layer: Any = snn.graph[row.layer]
        widest = snn.target.bits_of(row.layer, AUTOMATIC, *_reads(layer))
        more = f"give it more bits (the target allows {widest}), or " if widest > layer.bits else ""
        return f"Its {layer.bits}-bit weights say too little: {more}fine-tune (finetune=fxsnn.Finetune(data))"
    if row.cause == "rounding":
        return (
            "Its integers are coarse: fine-tune, which has them in the loop (finetune=fxsnn.Finetune(data)), train it "
            "with a smaller bias if the leak fills its register, or use a target with wider registers"
        )
    start = ["start membranes at half a threshold (initial_membrane=0.5)"] if snn.initial_membrane == 0 else []
    reset = ["reset by subtraction"] if snn.reset == "zero" else []
    spiking = ", spiking_epochs=2" if row.cause == "timing" else ""
    remedies = [*start, *reset, f"use a larger T than {snn.timesteps}", "fine-tune for this T"]
    why = "Spikes come too unevenly" if row.cause == "timing" else f"Rates are too coarse at T={snn.timesteps}"
    return f"{why}: {', or '.join(remedies)} (finetune=fxsnn.Finetune(data{spiking}))"
