"""What only a machine with a GPU can tell: do the engines give the reference's spikes there, and how fast are they?

    python benchmarks/gpu.py engines speed --out docs/benchmarks
    python benchmarks/gpu.py accuracy --data_dir data --out docs/benchmarks

engines: random spiking graphs and the networks of the examples run on the GPU with each engine, and every spike and
membrane range is held against PyTorch on the CPU, and logits, which are floating point numbers, to their rounding.
speed: `simulators.py` measures, for each number of images and of timesteps, fxsnn, SpikingJelly with each of its own
kernels, sinabs, and the network before it was converted in float32 and float16. What the card does at best is measured
beside it, by a large copy and a large matrix product. accuracy: a strong network for CIFAR-10 is trained, as wide as
Hardware v1.0 allows, and converted. Each part leaves its figures in a file; the page is of all that are there.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.engine.circuit import circuit_of
from fxsnn.errors import FxsnnError
from fxsnn.graph import Graph
from fxsnn.insight import accuracy
from fxsnn.simulation import Run, compiled, simulated
from fxsnn.storage import save_arrays, write_whole

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from accuracy_training import Augmented, batches, load
from simulators import NETWORKS, Bench, Setting, bench_for, measure, seconds
from simulators_report import HALF, OURS, Row, in_setting, machine, markdown, results_table
from strong import FINETUNE, RECIPE, WIDTHS, strong

from tests.random_circuits import RandomCircuit

_ENGINES = ("torch", "triton")
_ROUNDING = 1e-5
_SEEN = 4
"""Images that networks of the examples see."""
_ROWS, _COPIED = 8192, 1 << 32
"""Rows of the matrices that are multiplied, and bytes that are copied."""


@dataclass(frozen=True)
class Verdict:
    """Whether an engine gave what PyTorch gives on the CPU.

    Attributes:
        network: what ran.
        engine: that ran it.
        wrong: what differs, layers first; empty where nothing does.
        error: why it did not run, "" if it did.
    """

    network: str
    engine: str
    wrong: tuple[str, ...]
    error: str = ""

    @property
    def right(self) -> bool:
        """Nothing differs."""
        return not (self.wrong or self.error)


@dataclass(frozen=True)
class Limits:
    """What a device does at best.

    Attributes:
        multiplications: of float16 matrices, in 10^12 a second.
        bytes: copied from and to its memory, in 10^9 a second, reading and writing counted.
    """

    multiplications: float
    bytes: float


# Engines --------------------------------------------------------------------------------------------------------------


def verdicts(device: str, count: int, networks: Sequence[str]) -> list[Verdict]:
    """Each engine on random graphs and on networks of the examples.

    Args:
        device: where the engines run.
        count: of random graphs.
        networks: names of those of the examples.
    """
    found = []
    for seed in range(count):
        circuit = RandomCircuit(seed, analog=seed % 10 == 9, frames=seed % 3 == 2)
        given, name = circuit.given(3), f"random graph {seed}{' of frames' if circuit.frames else ''}"
        found += _verdicts(name, circuit.graph, given, circuit.dynamics.timesteps, device)
    for name in networks:
        bench = bench_for(name, 0, _SEEN, "cpu")
        found += _verdicts(name, bench.snn.graph, bench.images, bench.snn.timesteps, device)
    return found


def _verdicts(name: str, graph: Graph, images: Tensor, timesteps: int, device: str) -> list[Verdict]:
    expected = simulated(graph, images, timesteps)
    there, given = copy.deepcopy(graph), images.to(device)
    there.module.to(device)
    found = []
    for engine in _ENGINES:
        try:
            if engine == "torch":
                run = simulated(there, given, timesteps)
                wrong = differences(expected, run)
            else:
                fast = compiled(there, circuit_of(there), engine)
                wrong = differences(expected, fast.simulated(given))
                if not rounded(fast.logits(given), expected.logits[-1]):
                    wrong = (*wrong, "logits of a run that records nothing")
        except (FxsnnError, RuntimeError, TypeError) as error:
            found.append(Verdict(name, engine, (), f"{type(error).__name__}: {error}"))
        else:
            found.append(Verdict(name, engine, wrong))
    return found


def differences(expected: Run, run: Run) -> tuple[str, ...]:
    """Layers whose spikes or membranes differ, and "logits" if these do."""
    layers = [
        name
        for name, spikes in expected.spikes.items()
        if not torch.equal(run.spikes[name].cpu(), spikes) or run.membrane_range[name] != expected.membrane_range[name]
    ]
    return *layers, *(() if rounded(run.logits, expected.logits) else ("logits",))


def rounded(logits: Tensor, expected: Tensor) -> bool:
    """Whether logits are those of another device, which adds up in another order."""
    return bool((logits.cpu() - expected).abs().max() <= _ROUNDING * expected.abs().max())


# Speed ----------------------------------------------------------------------------------------------------------------


def limits(device: str, rows: int = _ROWS, copied: int = _COPIED) -> Limits:
    """A large copy and a large matrix product, each several times; the medians."""
    kind = torch.float16 if device == "cuda" else torch.float32
    one, other = (torch.randn(rows, rows, device=device).to(kind) for _ in range(2))
    source = torch.randint(255, (copied // 4,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)

    def median(run: Callable[[], object]) -> float:
        run()
        return statistics.median(seconds(run, one.device) for _ in range(7))

    return Limits(rows**3 / median(lambda: one @ other) / 1e12, 2 * copied / median(lambda: target.copy_(source)) / 1e9)


def multiplications(bench: Bench) -> float:
    """Of a step on an image, in all layers with neurons."""
    layers = bench.snn.profile(bench.images[:2]).layers
    return float(sum((layer.neurons or 0) * layer.fan_in for layer in layers))


def share_table(rows: Sequence[Row], operations: float, most: Limits) -> str:
    """How much of what the card can do our engine does: multiplications of all steps, as if spikes were dense."""
    lines = []
    for row in (row for row in rows if row.contender == OURS):
        half = in_setting(rows, row.batch, row.timesteps)[HALF] if any(one.contender == HALF for one in rows) else None
        rate = row.rate * operations / 1e12
        forward = "" if half is None else f"{half.rate * operations / 1e12 / most.multiplications:.1%}"
        lines.append([str(row.batch), str(row.timesteps), f"{rate:.1f}", f"{rate / most.multiplications:.1%}", forward])
    header = ["images", "T", "10^12 multiplications/s", "share of the card's", "share of the float16 ANN's forward"]
    return markdown(header, lines)


# Accuracy -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strong:
    """A strong network, converted.

    Attributes:
        width: the most channels that a neuron reads.
        epochs: of its training.
        bits: of weights.
        timesteps: T.
        ann: accuracy of the float network on the test set, in per cent.
        untrained: that of the spiking network without training.
        tuned: that of the spiking network, fine-tuned; `None` where there was no time.
        seconds: of conversion and fine-tuning.
    """

    width: int
    epochs: int
    bits: int
    timesteps: int
    ann: float
    untrained: float
    tuned: float | None
    seconds: float


def strong_networks(options: argparse.Namespace) -> list[Strong]:
    """Train, convert, and fine-tune while there is time; weights are kept beside the figures."""
    begun = time.monotonic()
    data = load(options.dataset, options.data_dir).to(torch.device(options.device))
    networks, epochs = dict[int, nn.Module](), dict[int, int]()
    for width in WIDTHS:
        networks[width], epochs[width] = strong(width, data, 0, options.out / f"strong-{width}.pt", options.training)
        arrays = {name: tensor.cpu() for name, tensor in networks[width].state_dict().items()}
        save_arrays(options.out / f"strong-{width}.safetensors", arrays, {"width": width, "epochs": epochs[width]})
    rows = []
    test, tuned_on = batches(data.test), Augmented(data.train, RECIPE)
    for width, all_bits in WIDTHS.items():
        ann = networks[width]
        for bits in all_bits:
            start = time.perf_counter()
            given: dict[str, Any] = {
                "bits": bits,
                "timesteps": 8,
                "calibration_data": data.calibration(0),
                "target": "hw_v1.0",
            }
            untrained = accuracy(fxsnn.convert(ann, **given), test)
            tuned = None
            if time.monotonic() - begun < options.seconds:
                finetune = fxsnn.Finetune(tuned_on, seed=0, **FINETUNE)
                tuned = accuracy(fxsnn.convert(ann, finetune=finetune, **given), test)
            passed = time.perf_counter() - start
            rows.append(Strong(width, epochs[width], bits, 8, accuracy(ann, test), untrained, tuned, passed))
            print(rows[-1], flush=True)
    return rows


# All of it ------------------------------------------------------------------------------------------------------------


def document(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown page of the parts that are there."""
    page = ["# On a GPU"]
    for name, part in parts.items():
        page += [f"## {_TITLES[name]}", "\n".join(f"- {key}: {value}" for key, value in part["where"].items())]
        page += _SECTIONS[name](part)
    return "\n\n".join(page) + "\n"


def _engines_section(part: Mapping[str, Any]) -> list[str]:
    lines, found = [], [Verdict(**one) for one in part["verdicts"]]
    for engine in _ENGINES:
        ran = [one for one in found if one.engine == engine]
        wrong = "; ".join(f"{one.network}: {one.error or ', '.join(one.wrong)}" for one in ran if not one.right)
        lines.append([engine, str(len(ran)), str(sum(one.right for one in ran)), wrong])
    return [markdown(["engine", "networks", "identical", "different"], lines)]


def _speed_section(part: Mapping[str, Any]) -> list[str]:
    most = Limits(**part["limits"])
    page = [
        f"At best, the card multiplies {most.multiplications:,.0f}·10^12 pairs of float16 numbers a second and moves "
        f"{most.bytes:,.0f} GB/s."
    ]
    for name, found in part["rows"].items():
        rows = [Row(**one) for one in found]
        page += [f"### {name}", results_table(rows), share_table(rows, part["operations"][name], most)]
    return page


def _accuracy_section(part: Mapping[str, Any]) -> list[str]:
    lines = []
    for one in (Strong(**row) for row in part["rows"]):
        tuned = "" if one.tuned is None else f"{one.tuned:.2f}"
        figures = (one.width, one.epochs, one.bits, one.timesteps)
        lines.append([*map(str, figures), f"{one.ann:.2f}", f"{one.untrained:.2f}", tuned])
    header = ["channels that a neuron reads", "epochs", "bits", "T", "ANN", "converted", "fine-tuned"]
    return [markdown(header, lines)]


_TITLES = {
    "engines": "Spikes and membranes against PyTorch on the CPU",
    "speed": "Speed",
    "accuracy": "Accuracy of a strong network on CIFAR-10 (JPEG)",
}
_SECTIONS = {"engines": _engines_section, "speed": _speed_section, "accuracy": _accuracy_section}


def _engines(options: argparse.Namespace) -> dict[str, Any]:
    with torch.inference_mode():
        found = verdicts(options.device, options.graphs, options.networks)
    for one in found:
        if not one.right:
            print(one, flush=True)
    print(f"{sum(one.right for one in found)} of {len(found)} identical", flush=True)
    return {"verdicts": [asdict(one) for one in found]}


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    begun, rows, operations = time.monotonic(), dict[str, list[Row]](), dict[str, float]()
    most = limits(options.device, *((256, 1 << 20) if options.small else ()))
    print(most, flush=True)
    for name in options.networks:
        if time.monotonic() - begun > options.seconds:
            print(f"{name}: no time is left", file=sys.stderr)
            continue
        bench, options.network, rows[name] = bench_for(name, 0, max(64, *options.batch), options.device), name, []
        operations[name] = multiplications(bench)
        for setting in (Setting(batch, timesteps) for batch in options.batch for timesteps in options.timesteps):
            if time.monotonic() - begun > options.seconds:
                print(f"{name}, {setting}: no time is left", file=sys.stderr)
                continue
            with torch.inference_mode():
                rows[name] += (measured := measure(bench, setting, options))
            print(f"{results_table(measured)}\n", flush=True)
    kept = {name: [asdict(one) for one in found] for name, found in rows.items()}
    return {"limits": asdict(most), "rows": kept, "operations": operations}


def _accuracy(options: argparse.Namespace) -> dict[str, Any]:
    return {"rows": [asdict(one) for one in strong_networks(options)]}


_PARTS: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "engines": _engines,
    "speed": _speed,
    "accuracy": _accuracy,
}


def main(arguments: list[str] | None = None) -> int:
    """Do the parts, and write the page of all that there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="+", choices=_PARTS)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: only to try the script")
    parser.add_argument("--graphs", type=int, default=60, help="random graphs that engines are tried on")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS, help="of the examples")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--timesteps", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300, help="of a part: nothing more is begun after that")
    parser.add_argument("--small", action="store_true", help="small copies and products, to try the script")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--dataset", default="CIFAR10-JPEG", help="CIFAR10, or CIFAR10-JPEG: a folder a class")
    parser.add_argument("--training", type=float, default=150, help="seconds for the training of a strong network")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    options.compile, options.seed, options.threads = False, 0, torch.get_num_threads()
    warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        where = machine(", ".join(options.networks), options.device, given)
        where["command"] = shlex.join(["python", "benchmarks/gpu.py", *given])
        if name != "speed":
            del where["network"]
        part = {"where": where, **_PARTS[name](options)}
        write_whole(options.out / f"gpu-{name}.json", json.dumps(part, indent=1).encode())
    there = {name: options.out / f"gpu-{name}.json" for name in _PARTS}
    parts = {name: json.loads(path.read_text()) for name, path in there.items() if path.exists()}
    write_whole(options.out / "gpu.md", document(parts).encode())
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
