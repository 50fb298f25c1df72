"""Random networks whose layers read several others: sums, concatenations, wiring, and activations that many read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random

from torch import Tensor

import fxsnn
from fxsnn.chip import CODEBOOKS
from tests.graph_plans import (
    IMAGES,
    Add,
    Branch,
    Enlarge,
    GraphPlan,
    Join,
    Layer,
    MaxPool,
    Pick,
    PlannedGraph,
    Pool,
    Step,
    TransposedPlan,
    behind_layer,
    images_for,
    reads_of,
    shape_behind,
    without_max_pools,
)
from tests.random_networks import (
    RESETS,
    ConvPlan,
    LayerPlan,
    Options,
    PoolPlan,
    converted,
    random_conv,
    random_pool,
    sizes,
)
from tests.reference import even_sides

# Random graphs -------------------------------------------------------------------------------------------------------


@dataclass
class _Growing:
    """A plan while it is drawn."""

    random: Random
    image: tuple[int, int, int]
    steps: list[Step] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def append(self, step: Step) -> None:
        self.steps.append(step)
        self.shapes[step.name] = shape_behind(step, [{IMAGES: self.image, **self.shapes}[n] for n in reads_of(step)])

    def name(self, kind: str) -> str:
        return f"{kind}{len(self.steps)}"

    def like(self, shape: tuple[int, ...], channels: bool) -> list[str]:
        """What has maps of that size, and as many channels if asked for."""
        start = 0 if channels else 1
        return [name for name, own in self.shapes.items() if own[start:] == shape[start:]]

    def is_another(self, name: str) -> bool:
        """Whether it picks all channels in their order: what reads it and that other one reads one thing twice."""
        step = next((step for step in self.steps if step.name == name), None)
        if not isinstance(step, Pick):
            return False
        channels = {IMAGES: self.image, **self.shapes}[step.reads][0]
        return step.of(channels) == list(range(channels))

    def leaves(self) -> list[str]:
        read = Counter(name for step in self.steps for name in reads_of(step))
        return [step.name for step in self.steps if not read[step.name]]


def random_graph_plan(random: Random) -> GraphPlan:
    """A network of up to nine layers, most of which read the last one; what nobody reads is summed up in the end."""
    image = (random.randint(1, 3), random.randint(3, 9), random.randint(3, 9))
    growing = _Growing(random, image)
    if random.random() < 0.25:
        growing.append(_random_sum(growing, IMAGES, image))
    else:
        conv, _ = random_conv(random, "generic", image[0], image[1:])
        growing.append(Layer("conv0", IMAGES, replace(conv, pools=(), norm=_norm(random))))
    for _ in range(random.randint(3, 7)):
        _grow(growing)
    leaves = growing.leaves()
    if len(leaves) > 1 or random.random() < 0.5 or _joins(growing, leaves[0]):
        outputs = random.randint(3, 9)
        branches = tuple(
            Branch(leaf, LayerPlan(outputs, random.random() < 0.5, _norm(random)), _factor(random)) for leaf in leaves
        )
        if len(leaves) == 1:
            growing.append(Layer("hidden", leaves[0], LayerPlan(outputs)))
        else:
            growing.append(Add("features", branches))
    return GraphPlan(image, tuple(growing.steps), random.randint(2, 5), random.randrange(1 << 32))


def _small(pool: PoolPlan) -> PoolPlan:
    """With windows of up to three: each place more takes a neuron that reads all before it."""
    kernel = (min(pool.kernel[0], 3), min(pool.kernel[1], 3))
    return PoolPlan(kernel, pool.stride, (min(pool.padding[0], kernel[0] // 2), min(pool.padding[1], kernel[1] // 2)))


def _joins(growing: _Growing, name: str) -> bool:
    """Whether a classifier would read several layers that spike, or their maxima: that is refused, or its own."""
    step = next(step for step in growing.steps if step.name == name)
    return isinstance(step, Join | MaxPool) or (isinstance(step, Pick | Enlarge) and _joins(growing, step.reads))


def _norm(random: Random) -> str:
    return random.choice(("none", "none", "plain", "affine"))


def _factor(random: Random) -> float:
    return random.choice((1.0, 1.0, 1.0, -1.0, 0.5, -2.0))


def _grow(growing: _Growing) -> None:
    """One more step, which in most cases reads the last one."""
    random = growing.random
    read = growing.steps[-1].name if random.random() < 0.75 else random.choice(list(growing.shapes))
    channels, height, width = growing.shapes[read]
    kinds = ["conv", "conv", "add", "add", "add", "add", "plain", "plain", "join", "join", "pick", "pick"]
    kinds += ["pool", "pool", "pool", "max", "max"] * (height > 1 and width > 1)
    kinds += ["enlarge", "up", "up"] * (height * width <= 40)
    kind = random.choice(kinds)
    name = growing.name(kind)
    if kind == "conv":
        conv, _ = random_conv(random, "generic", channels, (height, width))
        growing.append(Layer(name, read, replace(conv, pools=(), norm=_norm(random))))
    elif kind == "up":
        plan = _random_transposed(random, channels)
        if min(plan.size((height, width))) > 0:
            growing.append(Layer(name, read, replace(plan, norm=_norm(random))))
    elif kind == "add":
        growing.append(_random_sum(growing, read, (channels, height, width)))
    elif kind == "plain":
        others = [other for other in growing.like((channels, height, width), True) if other != read]
        if others:
            factors = random.choice(((1.0, -1.0), (-1.0, 1.0), (1.0, -0.5)))
            pair = zip((read, random.choice(others)), factors, strict=True)
            growing.append(Add(name, tuple(Branch(each, factor=factor) for each, factor in pair)))
    elif kind == "join":
        others = growing.like((channels, height, width), False)
        growing.append(Join(name, (read, *random.choices(others, k=random.choice((1, 1, 2))))))
    elif kind == "pick":
        if (pick := _random_pick(random, name, read, channels)) is not None:
            growing.append(pick)
    elif kind == "enlarge":
        growing.append(Enlarge(name, read, random.choice(((2, 2), (1, 2), (3, 1)))))
    elif (pool := random_pool(random, (height, width))) is not None:
        if kind == "pool":
            growing.append(Pool(name, read, pool))
        elif pool.kernel != (1, 1):
            growing.append(MaxPool(name, read, _small(pool)))


def _random_transposed(random: Random, channels: int) -> TransposedPlan:
    """Kernels that strides divide and others, groups where they divide channels."""
    groups = random.choice([groups for groups in (1, 1, 2, 3) if channels % groups == 0])
    stride = (random.randint(1, 3), random.randint(1, 3))
    dilation = random.choice(((1, 1), (1, 1), (2, 1)))
    more = tuple(random.randint(0, max(stride[axis], dilation[axis]) - 1) for axis in (0, 1))
    return TransposedPlan(
        groups * random.randint(1, 3),
        random.random() < 0.5,
        kernel=(random.randint(1, 4), random.randint(1, 4)),
        stride=stride,
        padding=(random.choice((0, 0, 1, 2)), random.choice((0, 1))),
        more=(more[0], more[1]),
        dilation=dilation,
        groups=groups,
    )


def _random_pick(random: Random, name: str, read: str, channels: int) -> Pick | None:
    first = random.randint(0, channels - 1)
    picks = [Pick(name, read, "slice", (first, random.randint(first + 1, channels), random.choice((1, 1, 2))))]
    if channels > 1:
        picks.append(Pick(name, read, "halves", (random.randint(0, 1),)))
    picks += [
        Pick(name, read, "shuffled", (groups,)) for groups in (2, 3) if channels % groups == 0 < channels - groups
    ]
    return random.choice(picks)


def _random_sum(growing: _Growing, read: str, shape: tuple[int, ...]) -> Add:
    """A sum of two to four: a convolution of `read`, and what there is of its size, as it is or convolved."""
    random = growing.random
    channels, size = shape[0], (shape[1], shape[2])
    if random.random() < 0.6:  # around which something can go as it is
        kernel = (random.choice((1, 3)), random.choice((1, 3, 5)))
        groups = random.choice((1, 1, channels))
        first = ConvPlan(channels, random.random() < 0.5, kernel=kernel, padding="same", groups=groups)
    else:
        first, _ = random_conv(random, "generic", channels, size)
    first = replace(first, pools=(), norm=_norm(random))
    behind = behind_layer(first, shape)
    others = list(_branches(growing, read, shape, behind))
    chosen = [Branch(read, first), *random.sample(others, min(len(others), random.randint(1, 3)))]
    if len(chosen) == 1:  # the same once more, with weights of its own
        chosen.append(Branch(read, replace(first, bias=not first.bias)))
    chosen = [replace(branch, factor=_factor(random)) for branch in chosen]
    if random.random() < 0.3:
        random.shuffle(chosen)
    return Add(
        growing.name("add"), tuple(chosen), "none" if random.random() < 0.8 else random.choice(("plain", "affine"))
    )


def _branches(growing: _Growing, read: str, shape: tuple[int, ...], behind: tuple[int, ...]) -> Iterator[Branch]:
    """What gives maps of the shape `behind`: activations as they are, and convolutions of them and of `read`."""
    random = growing.random
    for name, own in {**growing.shapes, read: shape}.items():
        if own == behind and not growing.is_another(name):
            yield Branch(name)
        for kernel, more in itertools.product((2, 3, 4), (0, 1)):  # of stride 2, the halves of others
            edge, bias = ((kernel - 1) // 2, (kernel - 1) // 2), random.random() < 0.5
            up = TransposedPlan(
                behind[0], bias, _norm(random), kernel=(kernel, kernel), padding=edge, more=(more, more)
            )
            if up.size((own[1], own[2])) == behind[1:]:
                yield Branch(name, up)
        for kernel, stride in itertools.product((1, 3), (1, 2)):
            edge = (kernel // 2, kernel // 2)
            if sizes((own[1], own[2]), (kernel, kernel), (stride, stride), even_sides(edge)) == behind[1:]:
                groups = own[0] if behind[0] % own[0] == 0 and random.random() < 0.5 else 1
                norm, bias = _norm(random), random.random() < 0.5
                yield Branch(
                    name, ConvPlan(behind[0], bias, norm, True, (kernel, kernel), (stride, stride), edge, groups=groups)
                )


# Their conversion ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GraphCase:
    """A random graph with what was made of it."""

    plan: GraphPlan
    options: Options
    model: PlannedGraph
    snn: fxsnn.SpikingNetwork
    max_pool: str = "rectifiers"
    frames: bool = False

    def images(self, count: int, seed: int) -> Tensor:
        """Images for the network, with a frame for each step where it takes such."""
        return some_images(self.plan, self.options, count, seed, frames=self.frames)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done, with sums for max pooling where rectifiers stand for it."""
        return without_max_pools(self.plan.steps) if self.max_pool == "rectifiers" else self.plan.steps


def some_images(plan: GraphPlan, options: Options, count: int, seed: int, *, frames: bool) -> Tensor:
    """See `GraphCase.images`."""
    if not frames:
        return images_for(plan, count, seed)
    return images_for(plan, count * options.timesteps, seed).unflatten(0, (count, options.timesteps))


def random_options(random: Random) -> Options:
    """Options of a conversion for `generic`."""
    return Options(
        target="generic",
        bits=random.randint(1, 4),
        timesteps=1 if random.random() < 0.1 else random.choice((random.randint(2, 16), random.randint(2, 64))),
        reset=random.choice(RESETS),
        initial_membrane=random.choice((0.5, 0.0)),
        per_channel=random.random() < 0.6,
        input_bits=random.choice((8, 8, random.randint(2, 16))),
        codebook=random.choice(CODEBOOKS),
    )


def graph_converted(
    model: PlannedGraph, images: Tensor, options: Options, max_pool: str = "rectifiers", *, frames: bool = False
) -> fxsnn.SpikingNetwork:
    """The library's side."""
    given = {"input": "frames", "example": images[:1].mean(1)} if frames else {}
    return converted(model, images, options, max_pool=max_pool, **given)


def convertible_graph(
    seed: int, max_pool: str = "rectifiers", *, pooled: bool = False, frames: bool = False
) -> GraphCase:
    """The first random graph of a seed whose values fit the registers of the target, with max poolings if asked for."""
    for attempt in itertools.count():
        random = Random(f"graph {seed}.{attempt}{' of frames' if frames else ''}")
        plan, options = random_graph_plan(random), random_options(random)
        if pooled and not any(isinstance(step, MaxPool) for step in plan.steps):
            continue
        print(f"seed {seed}.{attempt}: {plan}\n{options}, max_pool={max_pool}")
        model = PlannedGraph(plan)
        try:
            images = some_images(plan, options, 8, seed=1, frames=frames)
            snn = graph_converted(model, images, options, max_pool, frames=frames)
            return GraphCase(plan, options, model, snn, max_pool, frames)
        except fxsnn.TargetError as error:
            print(error)
    raise AssertionError
