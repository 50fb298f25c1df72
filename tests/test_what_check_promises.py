"""What `check` calls convertible is converted, and what it calls writable is saved, loaded and verified."""

from __future__ import annotations

import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import DataError, FileError, TargetError
from tests.nets import seeded
from tests.random_networks import quiet, random_seeds, randomise
from tests.sharing import cases

NAMES = (
    "conv", "_target", "_sample", "_compiled", "_dynamics", "_engine_name", "_provenance", "_image_size", "_held", "T",
    "1a", "a-b", "self", "input", "images", "value", "encode", "decode", "quantized_input", "sha256", "golden", "relu",
    "weight", "timesteps", "reset", "graph", "target", "code", "meta", "recompile", "class", "größe", "a b", 'a"b',
    "x" * 300, "_parts", "_SpikingNetwork__target", "output", "getattr", "torch", "x",
)  # fmt: skip
KEYS = ("code", "graph", "class", "1a", "a-b", "T", "weight", "_target", "bias", "codes", "threshold")
Tail = Callable[[Any, Any, Any], Any]

FEATURES: dict[str, Tail] = {
    "nothing": lambda x, images, net: x,
    "softmax": lambda x, images, net: F.softmax(x, dim=1),
    "softmax without dim": lambda x, images, net: nn.functional.softmax(x, dim=None),
    "softmax from behind": lambda x, images, net: torch.softmax(x, -1),
    "log-softmax": lambda x, images, net: x.log_softmax(dim=-1),
    "softmax in double": lambda x, images, net: F.softmax(x, 1, dtype=torch.float64),
    "sigmoid": lambda x, images, net: torch.sigmoid(x),
    "relu": lambda x, images, net: F.relu(x),
    "batch norm": lambda x, images, net: net.norm(x),
    "plain batch norm": lambda x, images, net: net.plain_norm(x),
    "temperature": lambda x, images, net: x / 2.5,
    "number first": lambda x, images, net: 2 * x,
    "difference": lambda x, images, net: 1 - x,
    "tensor": lambda x, images, net: x * net.scale,
    "tensor first": lambda x, images, net: net.scale * x,
    "tensor with a name": lambda x, images, net: x + net.reset,
    "tensor named as the seal": lambda x, images, net: x + net.sha256,
    "nested tensor": lambda x, images, net: x + net.inner.scale,
    "parameter": lambda x, images, net: torch.add(x, net.shift),
    "whole numbers": lambda x, images, net: x * net.mask,
    "truth values": lambda x, images, net: x * net.truth,
    "infinite number": lambda x, images, net: x * float("inf"),
    "large number": lambda x, images, net: x * 1e35,
    "slices": lambda x, images, net: x[:, 1:],
    "first class": lambda x, images, net: x[:, 0],
    "ellipsis": lambda x, images, net: x[..., 0],
    "new axis": lambda x, images, net: x[None],
    "new axis of a tuple": lambda x, images, net: x[(None, 0)],
    "list": lambda x, images, net: x[[0, 1]],
    "first image": lambda x, images, net: x[0],
    "argmax": lambda x, images, net: x.argmax(1),
    "argmax kept": lambda x, images, net: torch.argmax(x, dim=1, keepdim=True),
    "sum": lambda x, images, net: x.sum(1, keepdim=True),
    "sum of all": lambda x, images, net: x.sum(),
    "mean by name": lambda x, images, net: torch.mean(x, dim=-1),
    "unsqueeze": lambda x, images, net: x.unsqueeze(-1).squeeze(2),
    "squeeze": lambda x, images, net: x.squeeze(),
    "itself": lambda x, images, net: x * x + x.abs().neg().exp(),
    "minus its mean": lambda x, images, net: x - x.mean(1, keepdim=True),
    "alpha": lambda x, images, net: torch.sub(x, net.scale, alpha=2),
    "rounding": lambda x, images, net: torch.div(x, 2.0, rounding_mode="floor"),
    "size": lambda x, images, net: x * x.size(1),
    "size arithmetic": lambda x, images, net: x.view(x.size(0), x.size(1) * 1),
    "shape": lambda x, images, net: x.reshape(x.shape[0], 1, -1),
    "size of the images": lambda x, images, net: x.view(images.size(0), 1, -1),
    "images": lambda x, images, net: x + images.mean((1, 2, 3)).unsqueeze(1),
    "halves of the batch": lambda x, images, net: x.view(2, -1),
    "pairs": lambda x, images, net: x.view(-1, 2),
    "one row": lambda x, images, net: x.view(1, -1),
    "five sizes": lambda x, images, net: x.view(-1, 1, 1, 1, 1),
    "clamp": lambda x, images, net: x.clamp(-1, 1),
    "two": lambda x, images, net: (x, x),
    "dropout": lambda x, images, net: F.dropout(x, 0.5, training=net.training),
    "flatten again": lambda x, images, net: x.flatten(),
    "transposed": lambda x, images, net: x.t(),
    "double": lambda x, images, net: x.double(),
}  # fmt: skip
MAPS: dict[str, Tail] = {
    "flatten": lambda x, images, net: x.flatten(1),
    "view": lambda x, images, net: x.view(x.size(0), -1),
    "view of the images": lambda x, images, net: x.view(images.shape[0], -1),
    "view by features": lambda x, images, net: x.view(-1, net.features),
    "reshape to three": lambda x, images, net: x.reshape(images.size(0), net.channels, -1).flatten(1),
    "adaptive 1": lambda x, images, net: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "adaptive 2": lambda x, images, net: F.adaptive_avg_pool2d(x, (2, 3)).flatten(1),
    "adaptive none": lambda x, images, net: F.adaptive_avg_pool2d(x, (None, 1)).flatten(1),
    "mean": lambda x, images, net: x.mean((2, 3)),
    "mean by name": lambda x, images, net: torch.mean(x, dim=[-2, -1]),
    "mean kept": lambda x, images, net: x.mean(dim=(2, 3), keepdim=True).flatten(1),
    "mean twice": lambda x, images, net: x.mean(3).mean(2),
    "squeeze": lambda x, images, net: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "some channels": lambda x, images, net: x[:, 0].flatten(1),
    "sum": lambda x, images, net: x.sum((2, 3)),
}  # fmt: skip


def weighted(random: Random, usual: Any, *others: Any) -> Any:
    """Mostly the usual."""
    return usual if random.random() < 0.6 else random.choice(others)


def fitting(random: Random, side: int, kernel: int, dilation: int) -> int:
    """A padding with which a window fits."""
    least = max(0, -(-(dilation * (kernel - 1) + 1 - side) // 2))
    return random.randint(least, least + 2)


class Promised(nn.Module):
    """A random network with odd names, windows and tails."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = Random(seed)
        self.said: list[str] = []
        self.calls: list[str] = []
        self.channels = random.randint(1, 3)
        self.image = (self.channels, random.randint(1, 9), random.randint(1, 9))
        self.size = self.image[1:]
        for number in range(random.randint(1, 3)):
            self._convolution(random, number)
        self.maps, self.tail = random.choice(list(MAPS)), weighted(random, "nothing", *FEATURES)
        self.classified = random.random() < 0.7
        x = torch.zeros(2, *self.image)
        with torch.no_grad():
            x = self._body(x)
            self.features = x[0].numel()
            x = MAPS[self.maps](x, torch.zeros(2, *self.image), self)
        classes = random.randint(2, 4)
        if self.classified:
            self.classifier = nn.Linear(x.shape[1], classes)
        else:
            classes = x.shape[1]
        self.norm, self.plain_norm = nn.BatchNorm1d(classes), nn.BatchNorm1d(classes, affine=False)
        self.inner = nn.Module()
        self.inner.register_buffer("scale", torch.linspace(1, 2, classes))
        self.shift = nn.Parameter(torch.linspace(0, 1, classes))
        for name in {"scale", "reset", "sha256"} - self._modules.keys():
            self.register_buffer(name, torch.linspace(1, 3, classes))
        self.register_buffer("mask", torch.arange(classes, dtype=torch.int32))
        self.register_buffer("truth", torch.arange(classes) > 0)
        randomise(self, seed)
        self.eval()

    def _convolution(self, random: Random, number: int) -> None:
        kernel = (random.randint(1, 4), random.randint(1, 4))
        dilation = (random.randint(1, 2), random.randint(1, 2))
        stride = (weighted(random, 1, 2, 3, 5), weighted(random, 1, 2, 4))
        sides = [fitting(random, *axis) for axis in zip(self.size, kernel, dilation, strict=True)]
        padding: Any = random.choice([(sides[0], sides[1]), max(sides), *(["valid"] if sides == [0, 0] else [])])
        if stride == (1, 1):
            padding = random.choice([padding, "same"])
        outputs, groups = random.randint(1, 4), 1
        if self.channels % 2 == 0 and random.random() < 0.5:
            outputs, groups = outputs * 2, 2
        options: dict[str, Any] = {"dilation": dilation, "groups": groups, "bias": random.random() < 0.5}
        layer = nn.Conv2d(self.channels, outputs, kernel, stride, padding, **options)
        self.channels = outputs
        self.size = layer(torch.zeros(1, layer.in_channels, *self.size)).shape[2:]
        name = weighted(random, f"conv{number}", *NAMES)
        if random.random() < 0.2:
            name, key = f"block{number}", random.choice(KEYS)
            self.add_module(name, nn.ModuleDict({key: layer}))
            name = f"{name}.{key}"
        elif hasattr(self, name):
            name = f"conv{number}"
            self.add_module(name, layer)
        else:
            self.add_module(name, layer)
        self.said.append(f"{name[:40]}: {layer}")
        self.calls.append(name)
        if random.random() < 0.3:
            self.add_module(f"norm{number}", nn.BatchNorm2d(outputs, affine=random.random() < 0.5))
            self.calls.append(f"norm{number}")
        self.calls.append("a relu")
        while random.random() < 0.4:
            window = (random.randint(1, min(3, self.size[0])), random.randint(1, min(3, self.size[1])))
            moves = random.choice([None, (random.randint(1, 4), random.randint(1, 4))])
            pool = nn.AvgPool2d(window, moves, (random.randint(0, window[0] // 2), random.randint(0, window[1] // 2)))
            self.size = pool(torch.zeros(1, 1, *self.size)).shape[2:]
            self.add_module(f"pool{len(self.calls)}", pool)
            self.said.append(str(pool))
            self.calls.append(f"pool{len(self.calls)}")

    def _body(self, x: Any) -> Any:
        for call in self.calls:
            x = F.relu(x) if call == "a relu" else self.get_submodule(call)(x)
        return x

    def forward(self, images: Tensor) -> Any:
        x = MAPS[self.maps](self._body(images), images, self)
        return FEATURES[self.tail](self.classifier(x) if self.classified else x, images, self)

    def describe(self) -> str:
        """For messages."""
        return "; ".join([str(self.image), *self.said, self.maps, f"classified {self.classified}", self.tail])


def outcome(seed: int) -> str:
    """What becomes of a random network; raises where a promise is not kept."""
    try:
        model = Promised(seed)
        images = torch.randn(4, *model.image, generator=torch.Generator().manual_seed(seed))
        model(images)
    except (RuntimeError, AttributeError, ValueError, IndexError, TypeError):
        return "PyTorch cannot run it"
    print(model.describe())
    report = fxsnn.check(model, target="generic", bits=4)
    if not report.ok:
        return f"refused: {'; '.join(str(one) for one in report.problems)}"
    try:
        with quiet():
            snn = fxsnn.convert(model, target="generic", bits=4, timesteps=5, calibration_data=images)
    except TargetError:
        return "a value fits no register"
    except DataError as error:
        assert "a view" in str(error)  # noqa: PT017  # no other images can be refused
        return "a view mixes these images"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.fxsnn"
        if report.unwritable:
            try:
                snn.save(path)
            except FileError:
                return f"unwritable: {'; '.join(map(str, report.unwritable))}"
            raise AssertionError(f"it is written after all: {report.unwritable}")
        snn.save(path)
        assert fxsnn.verify(path).ok
        assert torch.equal(fxsnn.load(path)(images), snn(images))
    return "kept"


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@random_seeds(2, slow=228)
def test_what_check_promises_of_random_networks_is_kept(seed: int) -> None:
    outcome(seed)


def chain(*layers: nn.Module, names: dict[int, str] | None = None) -> Any:
    """Layers under their places or other names."""
    return seeded(
        lambda: nn.Sequential(OrderedDict((dict(names or {}).get(n, str(n)), x) for n, x in enumerate(layers)))
    )


def kept(model: nn.Module, folder: Path, **options: Any) -> fxsnn.SpikingNetwork:
    """The converted network, if `check` calls it writable and its file gives the same logits."""
    report = fxsnn.check(model, target="generic", bits=4)
    assert report.ok, report
    assert report.unwritable == ()
    with quiet():
        snn = fxsnn.convert(model, target="generic", bits=4, timesteps=5, **options)
    assert fxsnn.verify(snn.save(folder / "net.fxsnn")).ok
    assert snn.image_size is not None
    images = torch.randn(3, *snn.image_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fxsnn.load(folder / "net.fxsnn")(images), snn(images))
    torch.testing.assert_close(snn.early_readout(images)[-1], snn(images))
    return snn


@cases(
    "conv, pool",
    [
        ({}, {"kernel_size": (2, 1), "padding": (1, 0)}),
        ({"kernel_size": (2, 4), "padding": "same"}, {"kernel_size": (1, 3), "padding": (0, 1), "stride": (5, 1)}),
        ({"kernel_size": (4, 1), "padding": "valid", "dilation": 2}, {"kernel_size": 1, "stride": 3}),
        ({"kernel_size": 1, "stride": 4, "padding": (2, 0)}, {"kernel_size": (3, 2), "padding": (1, 1)}),
    ],
    quick=2,
)
def test_windows_of_every_kind_are_written(conv: dict[str, Any], pool: dict[str, Any], tmp_path: Path) -> None:
    options = {"kernel_size": 3, "padding": 1, **conv}
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    kept(chain(nn.Conv2d(2, 4, **options), nn.ReLU(), nn.AvgPool2d(**pool), *tail), tmp_path)


@cases(
    "name",
    ["_target", "self", "T", "_dynamics", "_engine_name", "_sample", "_image_size", "_provenance", "_compiled"],
    quick=3,
)
def test_layers_may_have_these_names(name: str, tmp_path: Path) -> None:
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    snn = kept(chain(*layers, names={0: name}), tmp_path)
    assert list(snn.simulate(torch.zeros(1, 1, 8, 8)).spikes) == [name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("code", r"code: programs of torch\.fx have an attribute of that name already\. Rename it"),
        ("meta", r"meta: programs of torch\.fx"),
        ("class", r"class: 'class' is a keyword of Python, which torch\.fx cannot call\. Rename it"),
        ('a"b', r"its name has quotation marks"),
        (
            "timesteps",
            r"a layer cannot be named 'timesteps': SpikingNetwork has an attribute of that name\. Rename the",
        ),
    ],
)
def test_layers_of_these_names_are_refused_by_check(name: str, says: str) -> None:
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    report = fxsnn.check(chain(*layers, names={0: name}), target="generic", bits=4)
    assert not report.ok
    assert re.search(says, str(report))


class Tailed(nn.Module):
    """One convolution, a fully connected layer, and something behind it."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.conv, self.fc, self.tail = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3), tail
        for name in ("reset", "sha256"):
            self.register_buffer(name, torch.ones(3))
        self.register_buffer("mask", torch.ones(3, dtype=torch.int32))

    def forward(self, images: Tensor) -> Any:
        return self.tail(self.fc(F.relu(self.conv(images)).mean((2, 3))), images, self)


@cases(
    "tail, layer, says",
    [
        ("tensor named as the seal", "sha256", "files have an array of that name for their checksum"),
        ("whole numbers", "mask", "as an array it is torch.int32"),
        ("infinite number", "mul", "files cannot hold this"),
        ("new axis", "getitem", "getitem needs an index"),
        ("five sizes", "view", "files cannot hold this"),
        ("one row", "network", "does not give logits for each image"),
        ("sum of all", "network", "does not give logits for each image"),
        ("clamp", "clamp", "has no name in the format"),
    ],
    quick=[
        ("tensor named as the seal", "sha256", "files have an array of that name for their checksum"),
        ("one row", "network", "does not give logits for each image"),
        ("clamp", "clamp", "has no name in the format"),
    ],
)
def test_what_no_file_holds_is_named_by_check_and_refused_by_save(
    tail: str, layer: str, says: str, tmp_path: Path
) -> None:
    model = seeded(lambda: Tailed(FEATURES[tail]))
    report = fxsnn.check(model, target="generic", bits=4)
    assert report.ok
    assert [finding.layer for finding in report.unwritable] == [layer]
    assert says in str(report.unwritable[0])
    with quiet():
        snn = fxsnn.convert(model, target="generic", bits=4, calibration_data=torch.randn(4, 2, 5, 5))
    with pytest.raises(FileError, match="cannot be written"):
        snn.save(tmp_path / "net.fxsnn")


def test_a_tensor_with_the_name_of_an_attribute_is_refused() -> None:
    report = fxsnn.check(Tailed(FEATURES["tensor with a name"]), target="generic", bits=4)
    assert "reset: a tensor cannot be named 'reset'" in str(report)


@cases("engine", ["auto", "torch"], quick=1)
def test_a_tail_may_read_the_images_themselves(engine: str, tmp_path: Path) -> None:
    """Not the integers that the first layer reads; after every step, too."""
    model = seeded(lambda: Tailed(lambda x, images, net: x + images.mean((1, 2, 3)).unsqueeze(1)))
    images = 3 + torch.randn(4, 2, 5, 5)
    snn = kept(model, tmp_path, calibration_data=images, engine=engine)
    model.tail = lambda x, images, net: x
    with quiet():
        plain = fxsnn.convert(model, target="generic", bits=4, timesteps=5, calibration_data=images, engine=engine)
    torch.testing.assert_close(snn(images), plain(images) + images.mean((1, 2, 3)).unsqueeze(1))
    torch.testing.assert_close(snn.simulate(images).logits[-1], snn(images))


class Viewed(nn.Module):
    """A view to rows of so many numbers in front of the final layer."""

    def __init__(self, rows: int, reads: int) -> None:
        super().__init__()
        self.conv, self.fc, self.rows = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(reads, 3), rows

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.conv(images).relu().view(-1, self.rows))


def test_images_of_which_a_view_makes_several_rows_are_refused() -> None:
    model = seeded(lambda: Viewed(72, 72))
    with (
        quiet(),
        pytest.raises(
            DataError,
            match=r"of images of shape \[1, 6, 6\] a view \(view, .*py:\d+\) makes 4 rows of 72 numbers of 2 of 144",
        ),
    ):
        fxsnn.convert(model, target="generic", bits=4, calibration_data=torch.randn(8, 1, 6, 6))


@cases(
    "model, says",
    [
        (Viewed(70, 70), r"fc .*: it reads 70 features and is given maps of 4 channels, whose size is a multiple of 4"),
        (Viewed(72, 36), r"fc .*: it reads 36 features and is given 72"),
        (
            chain(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU()),
            "2: it reads 3 channels and is given 4",
        ),
        (
            chain(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)),
            "3: it reads 4 features and is given 5",
        ),
        (
            chain(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d((4, 2), padding=(1, 2)), nn.Flatten()),
            r"2: its padding \(1, 2\) is more than half of its window \(4, 2\)",
        ),
    ],
    quick=1,
)
def test_layers_that_cannot_follow_each_other_are_named_by_check(model: nn.Module, says: str) -> None:
    report = fxsnn.check(model, target="generic", bits=4)
    assert not report.ok
    assert re.search(says, str(report))


class Tailed28(nn.Module):
    """A convolution whose maps of 28x28 are read by a final layer in ways of their own."""

    def __init__(self, features: int, tail: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.conv, self.fc, self.tail = nn.Conv2d(1, 20, 3, padding=1), nn.Linear(features, 10), tail
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, images: Tensor) -> Any:
        return self.tail(self, self.conv(images).relu())


@cases(
    "features, tail",
    [
        (784, lambda net, x: net.fc(x.flatten(2)).mean(1)),
        (28, lambda net, x: net.fc(x).mean((1, 2))),
        (15680, lambda net, x: net.fc(x.view(-1, 8, 1960).flatten(1))),
        (15680, lambda net, x: net.fc(x.view(-1, 15680)) * net.scale.view(1, 1)),
        (15680, lambda net, x: net.fc(x.flatten(1)) > 0),
    ],
    quick=2,
    ids=["by channels", "by columns", "three sizes", "a view of a number", "truth values"],
)
def test_features_that_are_no_whole_maps_are_not_mistaken_for_them(
    features: int, tail: Callable[[Any, Any], Any]
) -> None:
    model = seeded(lambda: Tailed28(features, tail))
    assert fxsnn.check(model, target="generic", bits=4).ok
    with quiet():
        snn = fxsnn.convert(model, target="generic", bits=4, timesteps=8)
    assert snn.image_size == (1, 28, 28)
    assert snn(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_a_size_of_images_that_are_not_square_is_found(tmp_path: Path) -> None:
    layers = (nn.Conv2d(2, 4, (3, 5), (1, 2), (1, 0)), nn.ReLU(), nn.AvgPool2d((2, 3)), nn.Flatten(), nn.Linear(84, 3))
    snn = kept(chain(*layers), tmp_path)  # maps of 3 and 7, in one order or the other
    with torch.no_grad():
        assert layers[3](layers[2](layers[0](torch.zeros(1, *snn.image_size or ())))).shape == (1, 84)
