"""Networks whose layers read several others, as data, and as networks of PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.random_networks import ConvPlan, LayerPlan, PoolPlan, randomise, sizes
from tests.reference import Pair, even_sides

IMAGES = ""
"""The name of what stands in front of all steps."""


# Networks as data ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TransposedPlan(LayerPlan):
    """A transposed convolution and its ReLU; `more` is its output padding."""

    kernel: Pair = (2, 2)
    stride: Pair = (2, 2)
    padding: Pair = (0, 0)
    more: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def size(self, size: Pair) -> Pair:
        """Height and width of what it gives."""
        height, width = (
            (size[axis] - 1) * self.stride[axis] - 2 * self.padding[axis] + self.more[axis] + 1
            + self.dilation[axis] * (self.kernel[axis] - 1)
            for axis in (0, 1)
        )  # fmt: skip
        return height, width


@dataclass(frozen=True)
class Layer:
    """A convolution, transposed or not, or of the flattened map a fully connected layer, with its ReLU."""

    name: str
    reads: str
    plan: LayerPlan


@dataclass(frozen=True)
class Branch:
    """What a sum reads: as it is or, with a plan, through a layer without activation, and how often."""

    reads: str
    plan: LayerPlan | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Add:
    """The ReLU of a sum, behind a batch norm if `norm` says so."""

    name: str
    branches: tuple[Branch, ...]
    norm: str = "none"

    def layer(self, place: int) -> str:
        """The name of the layer of a branch."""
        return f"{self.name}_{place}"


@dataclass(frozen=True)
class Pool:
    """An average pooling."""

    name: str
    reads: str
    plan: PoolPlan


@dataclass(frozen=True)
class Join:
    """A concatenation of channels."""

    name: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Pick:
    """Some channels: a "slice" from, to and with a step, one of two "halves", or "shuffled" in groups."""

    name: str
    reads: str
    how: Literal["slice", "halves", "shuffled"]
    numbers: tuple[int, ...]

    def of(self, channels: int) -> list[int]:
        """Which ones of so many."""
        everything = list(range(channels))
        if self.how == "slice":
            return everything[slice(*self.numbers)]
        if self.how == "halves":
            half = -(-channels // 2)
            return everything[:half] if self.numbers == (0,) else everything[half:]
        (groups,) = self.numbers
        each = channels // groups
        return [group * each + place for place in range(each) for group in range(groups)]


@dataclass(frozen=True)
class Enlarge:
    """Upsampling to the nearest neighbour, rows and columns by themselves."""

    name: str
    reads: str
    factor: Pair


@dataclass(frozen=True)
class MaxPool:
    """A max pooling of activations, for which rectifiers or any neuron of the window stand when it is converted."""

    name: str
    reads: str
    plan: PoolPlan


@dataclass(frozen=True)
class Tap:
    """The same place of every window of a pooling; what `MaxPool` is taken apart into."""

    name: str
    reads: str
    plan: PoolPlan
    place: Pair


Step = Layer | Add | Pool | Join | Pick | Enlarge | MaxPool | Tap


@dataclass(frozen=True)
class GraphPlan:
    """A network: shape of one image, what is done in order, of which a classifier reads the last, and a seed."""

    image: tuple[int, int, int]
    steps: tuple[Step, ...]
    classes: int = 4
    seed: int = 0


def reads_of(step: Step) -> tuple[str, ...]:
    """The names of what a step reads."""
    if isinstance(step, Add):
        return tuple(branch.reads for branch in step.branches)
    return step.reads if isinstance(step, Join) else (step.reads,)


def without_max_pools(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The same with sums for max pooling: max(a, b) = a + ReLU(b - a), first down, then across each window."""
    return tuple(step for given in steps for step in (_rectifiers(given) if isinstance(given, MaxPool) else (given,)))


def _rectifiers(pool: MaxPool) -> list[Step]:
    """Of every row the maximum so far is a sum of `terms`; what the next row has beyond it is one more term."""
    steps, terms = list[Step](), [pool.reads]
    for axis in (0, 1):
        given = pool.plan
        window = PoolPlan(_only(axis, given.kernel, 1), _only(axis, given.stride, 1), _only(axis, given.padding, 0))
        running = list[str]()
        for place in range(window.kernel[axis]):
            taps = [
                Tap(f"{pool.name}_{axis}_{place}_{number}", term, window, _only(axis, (place, place), 0))
                for number, term in enumerate(terms)
            ]
            steps += taps
            if not running:
                running = [tap.name for tap in taps]
                continue
            more = tuple(Branch(tap.name) for tap in taps) + tuple(Branch(name, factor=-1) for name in running)
            steps.append(Add(f"{pool.name}_{axis}_{place}", more))
            running.append(steps[-1].name)
        terms = running
    return [*steps, Add(pool.name, tuple(Branch(term) for term in terms))]


def _only(axis: int, values: Pair, idle: int) -> Pair:
    """Values of one axis only."""
    return (values[0], idle) if axis == 0 else (idle, values[1])


# As networks of PyTorch ----------------------------------------------------------------------------------------------


class PlannedGraph(nn.Module):
    """The PyTorch network of a plan, with random weights and random batch norms."""

    def __init__(self, plan: GraphPlan) -> None:
        super().__init__()
        self.plan = plan
        shapes: dict[str, tuple[int, ...]] = {IMAGES: plan.image}
        for step in plan.steps:
            read = [shapes[name] for name in reads_of(step)]
            if isinstance(step, Layer):
                self._add_layer(step.name, read[0], step.plan)
                if step.plan.relu_module:
                    self.add_module(f"{step.name}_relu", nn.ReLU())
            elif isinstance(step, Add):
                for place, (branch, shape) in enumerate(zip(step.branches, read, strict=True)):
                    if branch.plan is not None:
                        self._add_layer(step.layer(place), shape, branch.plan)
            elif isinstance(step, Pool):
                self.add_module(step.name, nn.AvgPool2d(step.plan.kernel, step.plan.stride, step.plan.padding))
            elif isinstance(step, MaxPool):
                self.add_module(step.name, nn.MaxPool2d(step.plan.kernel, step.plan.stride, step.plan.padding))
            elif isinstance(step, Enlarge):
                self.add_module(step.name, nn.Upsample(scale_factor=tuple(map(float, step.factor)), mode="nearest"))
            shapes[step.name] = shape_behind(step, read)
            if isinstance(step, Add):
                self._add_norm(step.name, step.norm, shapes[step.name])
        self.classifier = nn.Linear(_features(shapes[plan.steps[-1].name]), plan.classes)
        randomise(self, plan.seed)
        self.eval()

    def _add_layer(self, name: str, shape: tuple[int, ...], plan: LayerPlan) -> None:
        layer: nn.Module
        if isinstance(plan, ConvPlan):
            options: dict[str, Any] = {"dilation": plan.dilation, "groups": plan.groups, "bias": plan.bias}
            layer = nn.Conv2d(shape[0], plan.outputs, plan.kernel, plan.stride, plan.padding, **options)
        elif isinstance(plan, TransposedPlan):
            layer = nn.ConvTranspose2d(
                shape[0], plan.outputs, plan.kernel, plan.stride, plan.padding, plan.more, plan.groups, plan.bias,
                plan.dilation,
            )  # fmt: skip
        else:
            layer = nn.Linear(_features(shape), plan.outputs, plan.bias)
        self.add_module(name, layer)
        self._add_norm(name, plan.norm, behind_layer(plan, shape))

    def _add_norm(self, name: str, norm: str, shape: tuple[int, ...]) -> None:
        if norm != "none":
            kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
            self.add_module(f"{name}_norm", kind(shape[0], affine=norm == "affine"))

    def forward(self, x: Tensor) -> Any:
        values = {IMAGES: x}
        for step in self.plan.steps:
            values[step.name] = self._done(step, *(values[name] for name in reads_of(step)))
        return self.classifier(values[self.plan.steps[-1].name].flatten(1))

    def _done(self, step: Step, *read: Tensor) -> Tensor:
        if isinstance(step, Layer):
            x = self._weighted(step.name, read[0], step.plan)
            made: Tensor = self.get_submodule(f"{step.name}_relu")(x) if step.plan.relu_module else F.relu(x)
            return made
        if isinstance(step, Add):
            return F.relu(self._normed(step.name, self._added(step, *read)))
        if isinstance(step, Join):
            return torch.cat(read, 1)
        if isinstance(step, Pick):
            return _picked(step, read[0])
        done: Tensor = self.get_submodule(step.name)(read[0])
        return done

    def _added(self, step: Add, *read: Tensor) -> Tensor:
        total: Tensor | None = None
        for place, (branch, x) in enumerate(zip(step.branches, read, strict=True)):
            value = x if branch.plan is None else self._weighted(step.layer(place), x, branch.plan)
            if total is None:
                total = value if branch.factor == 1 else branch.factor * value
            elif abs(branch.factor) == 1:
                total = total + value if branch.factor > 0 else total - value
            else:
                total = torch.add(total, value, alpha=branch.factor)
        assert total is not None
        return total

    def _weighted(self, name: str, x: Tensor, plan: LayerPlan) -> Tensor:
        if not isinstance(plan, ConvPlan | TransposedPlan):
            x = x.flatten(1)
        return self._normed(name, self.get_submodule(name)(x))

    def _normed(self, name: str, x: Tensor) -> Tensor:
        norm = dict(self.named_children()).get(f"{name}_norm")
        return x if norm is None else norm(x)


def _picked(step: Pick, x: Tensor) -> Tensor:
    if step.how == "slice":
        return x[:, slice(*step.numbers)]
    if step.how == "halves":
        return x.chunk(2, 1)[step.numbers[0]]
    (groups,) = step.numbers
    images, channels, height, width = x.shape
    grouped = x.view(images, groups, channels // groups, height, width).transpose(1, 2)
    return grouped.contiguous().view(images, channels, height, width)


def _features(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def behind_layer(plan: LayerPlan, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a layer gives for one image."""
    if isinstance(plan, TransposedPlan):
        return plan.outputs, *plan.size((shape[1], shape[2]))
    if not isinstance(plan, ConvPlan):
        return (plan.outputs,)
    return plan.outputs, *sizes((shape[1], shape[2]), plan.kernel, plan.stride, plan.sides, plan.dilation)


def shape_behind(step: Step, read: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of what a step gives for one image, from the shapes of what it reads."""
    shape = read[0]
    if isinstance(step, Layer):
        return behind_layer(step.plan, shape)
    if isinstance(step, Add):
        (behind,) = {
            shape if branch.plan is None else behind_layer(branch.plan, shape)
            for branch, shape in zip(step.branches, read, strict=True)
        }
        return behind
    if isinstance(step, Join):
        return sum(each[0] for each in read), *shape[1:]
    if isinstance(step, Pick):
        return len(step.of(shape[0])), *shape[1:]
    if isinstance(step, Enlarge):
        return shape[0], shape[1] * step.factor[0], shape[2] * step.factor[1]
    pool = step.plan
    return shape[0], *sizes((shape[1], shape[2]), pool.kernel, pool.stride, even_sides(pool.padding))


def images_for(plan: GraphPlan, count: int, seed: int) -> Tensor:
    """Images for a plan."""
    return torch.randn(count, *plan.image, generator=torch.Generator().manual_seed(seed))
