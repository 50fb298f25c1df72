"""Packages that a conversion can do without may be missing or broken: it runs, and what needs one says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("numba", "triton", "GPUtil", "matplotlib", "torchvision", "jsonschema")
WAYS = ("raise ImportError('numpy is too new')", "raise RuntimeError('torn')", "from os import nothing", "None.torn")

PROGRAM = """
import sys, warnings
from pathlib import Path

import torch

import fxsnn
from fxsnn.device import choose_device
from tests.nets import Small, images, seeded

broken = sys.argv[1:]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("default")
    for bits in (3, 4):
        snn = fxsnn.convert(seeded(Small), target="generic", bits=bits, calibration_data=images(16))
        logits = snn(images())
engines = [str(one.message) for one in told if issubclass(one.category, fxsnn.EngineWarning)]
assert len(engines) == ("numba" in broken), engines
assert all(text.startswith("numba fails here (") and "PyTorch runs the network" in text for text in engines)


def refused(call, package):
    try:
        call()
    except fxsnn.FxsnnError as error:
        assert f"needs the package {package}, which fails here (" in str(error), error
        assert f": pip install --upgrade {package}" in str(error), error
    else:
        raise AssertionError(package)


if "jsonschema" in broken:
    refused(lambda: snn.save("net.fxsnn"), "jsonschema")
    assert not Path("net.fxsnn").exists()
else:
    snn.save("net.fxsnn")
    again = fxsnn.load("net.fxsnn")
    again.engine = "torch"
    assert torch.equal(again(images()), logits)
if "torchvision" in broken:
    refused(lambda: fxsnn.datasets.load("MNIST", "."), "torchvision")
if "GPUtil" in broken:
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 2
    torch.cuda.mem_get_info = lambda index: ([10, 30][index], 40)
    assert choose_device() == torch.device("cuda", 1)
for engine in {"numba", "triton"}.intersection(broken):
    snn.engine = engine
    try:
        snn(images())
    except fxsnn.OptionError as error:
        assert f"{engine} fails here (" in str(error), error
    else:
        raise AssertionError(engine)
print("whole")
"""


def run(folder: Path, broken: dict[str, str]) -> None:
    """Convert, save and load in a fresh interpreter that finds stand-ins for some packages first."""
    for package, line in broken.items():
        (folder / "stand-ins" / package).mkdir(parents=True)
        (folder / "stand-ins" / package / "__init__.py").write_text(f"{line}\n")
    path = os.pathsep.join(map(str, (folder / "stand-ins", REPOSITORY)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *broken],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip() == "whole", done.stderr[-4000:]


@pytest.mark.slow
def test_with_all_of_them_broken_a_network_is_converted(tmp_path: Path) -> None:
    ways = {package: WAYS[place % len(WAYS)] for place, package in enumerate(PACKAGES)}
    run(tmp_path, {**ways, "triton": WAYS[0]})  # PyTorch's own tracing stops at a Triton that raises anything else


@pytest.mark.slow
def test_with_all_but_the_schemas_broken_a_network_is_saved_and_loaded(tmp_path: Path) -> None:
    run(tmp_path, {package: WAYS[0] for package in PACKAGES if package != "jsonschema"})
