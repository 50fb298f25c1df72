"""What `accuracy.py` trains on, and the ordinary networks that it starts from."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from train_example import as_tensors

from fxsnn import datasets
from fxsnn.insight import Batches, accuracy
from fxsnn.storage import write_whole

HELD_OUT = 5000
"""Training images on which choices are made; the test set is looked at once."""
_CALIBRATION_IMAGES = 1000
_RISING = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How an ordinary network is trained.

    Attributes:
        epochs: how often to go through the data.
        lr: the largest learning rate of the one-cycle schedule (Smith and Topin 2019), SGD with Nesterov's momentum.
        weight_decay: of all parameters.
        label_smoothing: of the cross entropy.
        batch_size: images in a batch.
        shift: each image is moved by up to so many pixels.
        flip: each image is mirrored half of the time.
        precision: "float32", or "bfloat16" for mixed precision.
    """

    epochs: int = 20
    lr: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    batch_size: int = 128
    shift: int = 2
    flip: bool = False
    precision: str = "float32"


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in memory: images [N, C, H, W] and labels [N]."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def to(self, device: torch.device) -> Data:
        """The same there."""

        def there(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return part[0].to(device), part[1].to(device)

        return Data(there(self.train), there(self.held_out), there(self.test))

    def calibration(self, seed: int) -> Tensor:
        """Some of the training images."""
        order = torch.randperm(len(self.train[0]), generator=torch.Generator().manual_seed(seed))
        return self.train[0][order[:_CALIBRATION_IMAGES].to(self.train[0].device)]


@datasets.register("CIFAR10-JPEG")
def cifar10_jpeg(data_dir: Path) -> datasets.Splits:
    """CIFAR-10 as JPEG files, `train/<class>/*.jpg` and `test/<class>/*.jpg`, normalised."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    prepare = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(datasets.CIFAR10_MEAN, datasets.CIFAR10_STD)]
    )
    return datasets.Splits(ImageFolder(data_dir / "train", prepare), ImageFolder(data_dir / "test", prepare))


def load(name: str, data_dir: Path) -> Data:
    """A data set of the registry, with some of its training images held out, always the same ones."""
    splits = datasets.load(name, data_dir)
    images, labels = as_tensors(splits.train)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    kept, out = order[HELD_OUT:], order[:HELD_OUT]
    return Data((images[kept], labels[kept]), (images[out], labels[out]), as_tensors(splits.test))


class Augmented:
    """Shuffled batches with every image moved and mirrored by itself; draws from PyTorch's generator.

    Args:
        data: images and labels.
        recipe: gives the size of a batch, shift and flip.
    """

    def __init__(self, data: tuple[Tensor, Tensor], recipe: Recipe) -> None:
        self._images, self._labels = data
        self._recipe = recipe

    def __len__(self) -> int:
        return -(-len(self._images) // self._recipe.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._images)).to(self._images.device)
        for chosen in order.split(self._recipe.batch_size):
            yield moved(self._images[chosen], self._recipe.shift, flip=self._recipe.flip), self._labels[chosen]


def moved(images: Tensor, pixels: int, *, flip: bool) -> Tensor:
    """Each image [N, C, H, W] moved by up to `pixels`, borders repeated; mirrored half of the time.

    The same ones on every device: PyTorch's generator of the CPU says how.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, [pixels] * 4, mode="replicate")
    rows = torch.randint(2 * pixels + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(2 * pixels + 1, (count, 1)) + torch.arange(width)
    if flip:
        columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    places = (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    image, row, column = (place.to(images.device, non_blocking=True) for place in places)
    return padded[image, :, row, column].permute(0, 3, 1, 2)


def batches(data: tuple[Tensor, Tensor]) -> Batches:
    """Images and labels, 500 at a time."""
    return list(zip(*(part.split(500) for part in data), strict=True))


def cycle(done: float) -> float:
    """Share of the largest learning rate when a share `done` of all iterations is over: a fifth up, the rest down."""
    if done < _RISING:
        return 0.04 + 0.96 * done / _RISING
    return (1 + math.cos(math.pi * (done - _RISING) / (1 - _RISING))) / 2


def trained(
    build: Callable[[], nn.Module], data: Data, recipe: Recipe, seed: int, path: Path
) -> tuple[nn.Module, float]:
    """An ordinary network, trained where the data are, or read from `path` if it is finished there; an interrupted
    training goes on.

    Returns:
        The network in evaluation mode, and how many seconds its training took.

    Raises:
        SystemExit: what is at `path` was trained by another recipe, or is another network.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    device = data.train[0].device
    network = build().to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True
    )
    done, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True, map_location=device)
        if state.get("recipe") != asdict(recipe):
            raise SystemExit(f"{path} is of another recipe ({state.get('recipe')}); delete it or give another --work")
        try:
            network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise SystemExit(f"{path} is of another network; delete it or give another --work. {error}") from error
        optimiser.load_state_dict(state["optimiser"])
        done, seconds = state["done"], state["seconds"]
    shuffled = Augmented(data.train, recipe)
    for epoch in range(done, recipe.epochs):
        start = time.perf_counter()
        torch.manual_seed(1000 * seed + epoch)  # an interrupted training goes on as it would have
        network.train()
        for iteration, (images, labels) in enumerate(
            tqdm(shuffled, f"epoch {epoch + 1}/{recipe.epochs}", disable=None)
        ):
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * cycle((epoch + iteration / len(shuffled)) / recipe.epochs)
            optimiser.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = network(images)
            F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing).backward()
            optimiser.step()
        seconds += time.perf_counter() - start
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        _save({**state, "recipe": asdict(recipe), "done": epoch + 1, "seconds": seconds}, path)
        held_out = accuracy(network.eval(), batches(data.held_out))
        _log.info("ANN, epoch %d: held-out accuracy %.2f %%, %.0f s", epoch + 1, held_out, seconds)
    return network.eval(), seconds


def _save(state: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(path, content.getvalue())
