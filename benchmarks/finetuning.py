"""What fine-tuning is worth: where it starts, and what spiking epochs add, on held-out training images.

    python benchmarks/finetuning.py FashionMNIST --data_dir data

Trains DigitNet as an ordinary network for each seed, on some of the training images, and converts it in several ways.
All figures are of 5,000 training images that are held out from everything else; the test set is not looked at. Without
`--ways` all are measured, one line each: bits, seed, way, accuracy in per cent, processor seconds.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import fxsnn
from fxsnn.insight import accuracy

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from accuracy_training import Data, Recipe, batches, load, trained
from networks import DigitNet

TIMESTEPS = 8
_TRAINED_ON, _TUNED_ON = 10_000, 5_000
_ANN = Recipe(epochs=8)

# Options of `convert`, and those of `Finetune` or None.
_RATED, _BOTH = {"epochs": 3, "spiking_epochs": 0}, {"epochs": 2, "spiking_epochs": 1}
WAYS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]] = {
    "rounded": ({"correction": None}, None),
    "corrected": ({"correction": "biases"}, None),
    "rounded, 3 epochs": ({"correction": None}, _RATED),
    "corrected, 3 epochs": ({"correction": "biases"}, _RATED),
    "rounded, 2 epochs, 1 spiking": ({"correction": None}, _BOTH),
    "corrected, 2 epochs, 1 spiking": ({"correction": "biases"}, _BOTH),
    "usual start, 2 epochs, usual spiking": ({}, {"epochs": 2}),
}


def measured(data: Data, network: torch.nn.Module, bits: int, seed: int, way: str) -> float:
    """Accuracy of the spiking network on the held-out images, in per cent."""
    options, tuning = WAYS[way]
    images, labels = data.train
    tuned = (images[:_TUNED_ON], labels[:_TUNED_ON])
    finetune = None if tuning is None else fxsnn.Finetune(tuned, **tuning, seed=seed)
    snn = fxsnn.convert(
        network,
        target="hw_v1.0",
        bits=bits,
        timesteps=TIMESTEPS,
        calibration_data=data.calibration(seed),
        finetune=finetune,
        **options,
    )
    return accuracy(snn, batches(data.held_out))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What fine-tuning is worth, on held-out training images.")
    parser.add_argument("dataset", choices=["MNIST", "FashionMNIST"])
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("out/finetuning"), help="trained networks are kept here")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
    data = load(options.dataset, options.data_dir)
    data = Data((data.train[0][:_TRAINED_ON], data.train[1][:_TRAINED_ON]), data.held_out, data.test)
    for seed in options.seeds:
        network, _ = trained(DigitNet, data, _ANN, seed, options.work / f"{options.dataset}-seed{seed}.pt")
        print(f"-\t{seed}\tANN\t{accuracy(network, batches(data.held_out)):.2f}", flush=True)
        for bits in options.bits:
            for way in options.ways:
                start = time.process_time()
                found = measured(data, network, bits, seed, way)
                print(f"{bits}\t{seed}\t{way}\t{found:.2f}\t{time.process_time() - start:.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
