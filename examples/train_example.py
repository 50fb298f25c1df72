"""Train the network that `transform_example.py` converts, from scratch, as an ordinary ANN.

    python examples/train_example.py --dataset MNIST --data_dir data --save_file digit_net.pt

The weights inside the package (`fxsnn/embedded/digit_net.pt`) were made by this script with its default options. The
last 5,000 training images are held out; the accuracy printed after each epoch is measured on them, and no choice is
made on the test set.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from networks import network_for
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fxsnn import datasets
from fxsnn.insight import accuracy

HELD_OUT = 5000


def as_tensors(dataset: Dataset[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """All images and labels of a data set that fits into memory."""
    batches = list(DataLoader(dataset, batch_size=1000))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image moved by a random number of pixels, the same for all of a batch; the border repeats the edge."""
    rows, columns = (int(n) for n in torch.randint(2 * pixels + 1, (2,), generator=generator))
    height, width = images.shape[-2:]
    padded = F.pad(images, [pixels] * 4, mode="replicate")
    return padded[..., rows : rows + height, columns : columns + width]


def train(network: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace) -> None:
    """SGD with a one-cycle learning rate, random shifts, and flips where the images are coloured."""
    generator = torch.Generator().manual_seed(options.seed)
    held_out = list(zip(images[-HELD_OUT:].split(500), labels[-HELD_OUT:].split(500), strict=True))
    images, labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    optimiser = torch.optim.SGD(
        network.parameters(), lr=options.lr, momentum=0.9, weight_decay=options.wd, nesterov=True
    )
    steps = -(-len(images) // options.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.lr, epochs=options.epochs, steps_per_epoch=steps, pct_start=0.2
    )
    for epoch in range(options.epochs):
        network.train()
        start = time.perf_counter()
        for chosen in tqdm(
            torch.randperm(len(images), generator=generator).split(options.batch_size),
            desc=f"epoch {epoch + 1}/{options.epochs}",
            disable=None,
        ):
            batch = shifted(images[chosen], options.shift, generator)
            if images.shape[1] == 3 and torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(-1)
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
                loss = F.cross_entropy(network(batch), labels[chosen], label_smoothing=0.05)
            loss.backward()
            optimiser.step()
            schedule.step()
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch + 1:3d}  held-out accuracy {accuracy(network.eval(), held_out):.2f} %  {seconds:.0f} s",
            flush=True,
        )


def main() -> None:
    """Parse the command line, train, measure once on the test set, save."""
    parser = argparse.ArgumentParser(description="Train the example network as an ordinary ANN.")
    parser.add_argument("--dataset", default="MNIST", help=f"one of {', '.join(datasets.names())}")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--save_file", type=Path, default=Path("digit_net.pt"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--wd", type=float, default=5e-4)
    parser.add_argument("--shift", type=int, default=2, help="largest random shift in pixels")
    parser.add_argument("--bfloat16", action="store_true", help="mixed precision")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    splits = datasets.load(options.dataset, options.data_dir)
    network = network_for(options.dataset).to(memory_format=torch.channels_last)
    train(network, *as_tensors(splits.train), options)
    test_accuracy = accuracy(network.eval(), DataLoader(splits.test, 500))
    torch.save({name: value.contiguous() for name, value in network.state_dict().items()}, options.save_file)
    print(f"test accuracy {test_accuracy:.2f} %; weights in {options.save_file}")


if __name__ == "__main__":
    main()
