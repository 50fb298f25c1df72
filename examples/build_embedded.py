"""Make the digits that ship inside the package: a random subset of MNIST, the same at every run.

python examples/build_embedded.py --data_dir data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from torchvision.datasets import MNIST

SIZES = {"train": 2000, "test": 1000}


def subset(data_dir: Path, seed: int) -> dict[str, np.ndarray]:
    """Images [N, 28, 28] and labels [N] as uint8, drawn without regard to the class, in their original order."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for half, size in SIZES.items():
        full = MNIST(data_dir, train=half == "train")
        chosen = np.sort(generator.choice(len(full), size, replace=False))
        arrays[f"{half}_images"] = full.data.numpy()[chosen]
        arrays[f"{half}_labels"] = full.targets.numpy()[chosen].astype(np.uint8)
    return arrays


def main() -> None:
    """Parse the command line and write the archive."""
    parser = argparse.ArgumentParser(description="Make the embedded subset of MNIST.")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--save_file", type=Path, default=Path("fxsnn/embedded/digits.npz"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    np.savez_compressed(options.save_file, allow_pickle=False, **subset(options.data_dir, options.seed))
    print(f"{options.save_file}: {options.save_file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
