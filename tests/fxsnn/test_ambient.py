"""PyTorch's state around a call changes no result: not a byte of a file, not a spike, not a logit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import fxsnn
from fxsnn.ambient import neutral
from fxsnn.insight import accuracy, accuracy_over_time
from fxsnn.passes import CalibrateThresholds, Canonicalize, FoldBatchNorm, QuantizeWeights
from tests.nets import Small, images, seeded

X, Y = images(16), torch.arange(16) % 5
MODEL = seeded(Small)
OPTIONS: dict[str, Any] = {"target": "hw_v1.0", "bits": 2, "timesteps": 3}


@contextmanager
def setting(change: Callable[[Any], None], value: Any, usual: Any) -> Iterator[None]:
    """Something set for the whole process."""
    change(value)
    try:
        yield
    finally:
        change(usual)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a default device": lambda: setting(torch.set_default_device, "meta", None),
    "a device around it": lambda: torch.device("meta"),
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: setting(torch.set_default_dtype, torch.float16, torch.float32),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic algorithms": lambda: setting(torch.use_deterministic_algorithms, True, False),
}


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), 8, shuffle=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def converted(**options: Any) -> fxsnn.SpikingNetwork:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        return fxsnn.convert(MODEL, **{**OPTIONS, **options})


def results(folder: Path, made: dict[str, fxsnn.SpikingNetwork]) -> dict[str, Callable[[], Any]]:
    """Everything that fxsnn does, giving values that can be compared."""

    def saved(snn: fxsnn.SpikingNetwork) -> bytes:
        return snn.save(folder / "saved.fxsnn").read_bytes()

    snn, bare = made["fast"], made["PyTorch"]
    tuned: dict[str, Any] = {"epochs": 1, "spiking_epochs": 1, "batch_size": 8}

    def rewritten() -> fxsnn.Graph:
        graph = fxsnn.capture(MODEL)
        for one in (Canonicalize(), FoldBatchNorm(), CalibrateThresholds(X), QuantizeWeights(2)):
            graph = one(graph, X).after
        return graph

    def spikes() -> list[Any]:
        run = snn.simulate(X, membranes=True)
        return [value.tolist() for kept in (run.spikes, run.membranes) for value in kept.values()]

    return {
        "check": lambda: str(fxsnn.check(MODEL, target="hw_v1.0", bits=2)),
        "without data": lambda: saved(converted()),
        "correction": lambda: saved(converted(calibration_data=loader(), calibration="mse", correction="both")),
        "fine-tuning": lambda: saved(
            converted(calibration_data=X, finetune=fxsnn.Finetune(loader(), validation=[(X, Y)], **tuned))
        ),
        "distillation": lambda: saved(
            converted(
                calibration_data=X,
                finetune=fxsnn.Finetune(X, distillation=1, teacher=MODEL, precision="bfloat16", **tuned),
            )
        ),
        "passes": lambda: str(rewritten()),
        "graph": lambda: rewritten()(X).tolist(),
        "example": lambda: rewritten().example_input(),
        "steps": lambda: [step.drift(X) for step in fxsnn.pipeline(calibration_data=X, **OPTIONS).steps(MODEL)],
        "logits": lambda: [snn(X).tolist(), bare(X).tolist(), made["half"](X).tolist()],
        "readouts": lambda: [snn.early_readout(X).tolist(), bare.early_readout(X).tolist()],
        "spikes": spikes,
        "counts": lambda: [value.tolist() for value in snn.count_spikes(X).values()],
        "report": lambda: str(snn.report),
        "profile": lambda: str(bare.profile(loader())),
        "golden": lambda: saved(snn),
        "noise": lambda: saved(fxsnn.SpikingNetwork(snn.graph, "hw_v1.0", image_size=(3, 12, 12))),
        "file": lambda: saved(fxsnn.load(folder / "kept.fxsnn")),
        "verified": lambda: str(fxsnn.verify(folder / "kept.fxsnn")),
        "sweep": lambda: fxsnn.sweep(snn, loader(), timesteps=4, model=MODEL).to_dict(),
        "budget": lambda: fxsnn.error_budget(MODEL, snn, (X, Y)).to_dict(),
        "activations": lambda: [
            value.tolist() for pair in fxsnn.layer_activations(MODEL, snn, X).values() for value in pair
        ],
        "accuracy": lambda: [accuracy(MODEL, loader()), *accuracy_over_time(snn, loader(), 3)],
        "NIR": lambda: saved(fxsnn.from_nir(fxsnn.to_nir(made["zero"]))),
    }


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, fxsnn.SpikingNetwork]:
    found = {
        "fast": converted(calibration_data=X),
        "PyTorch": converted(calibration_data=X, engine="torch"),
        "half": converted(calibration_data=X).half(),
        "zero": converted(calibration_data=X, reset="zero", initial_membrane=0),
    }
    found["fast"].save(folder / "kept.fxsnn")
    return found


TAKES_LONG = ("correction", "distillation", "steps", "noise")


@pytest.mark.parametrize(
    ("names", "without"),
    [
        (("a default device", "float64", "autocast", "no gradients", "deterministic algorithms"), TAKES_LONG),
        *(
            pytest.param(names, (), marks=pytest.mark.slow)
            for names in (
                ("a default device", "float64", "autocast", "no gradients", "deterministic algorithms"),
                ("a device around it", "float16", "inference mode"),
            )
        ),
    ],
)
def test_nothing_depends_on_it(
    names: tuple[str, ...], without: tuple[str, ...], folder: Path, made: dict[str, fxsnn.SpikingNetwork]
) -> None:
    def found() -> dict[str, Any]:
        torch.manual_seed(0)
        return {what: call() for what, call in results(folder, made).items() if what not in without}

    usual = found()
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(STATES[name]())
        others = found()
    assert [what for what, value in others.items() if not same(value, usual[what])] == []


def same(left: Any, right: Any) -> bool:
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


@pytest.mark.parametrize("name", STATES)
def test_it_is_neutral_inside_and_as_it_was_behind(name: str) -> None:
    def state() -> list[Any]:
        return [
            torch.empty(0).device.type, torch.get_default_dtype(), torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ]  # fmt: skip

    usual = state()
    with STATES[name]():
        around = state()
        with neutral():
            inside = state()
        assert state() == around
    assert state() == usual
    assert inside[:5] == usual[:5]
    assert inside[5] == inside[6]  # deterministic where PyTorch can, and a warning where it cannot


def test_networks_leave_gradients_to_their_caller(made: dict[str, fxsnn.SpikingNetwork]) -> None:
    for around, wanted in ((nullcontext(), True), (torch.no_grad(), False)):
        with around:
            assert made["PyTorch"](X).requires_grad is wanted


def test_what_all_threads_share_is_put_back_by_the_last_one_to_leave() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with neutral():
            first = neutral()
            with neutral():
                first.__enter__()
            assert torch.get_default_dtype() == torch.float32  # the one that is still inside needs it
            first.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_all_threads_share_is_not_touched_by_a_run(made: dict[str, fxsnn.SpikingNetwork]) -> None:
    seen: list[torch.dtype] = []
    made["PyTorch"].get_submodule("fc").register_forward_hook(lambda *_: seen.append(torch.get_default_dtype()))
    torch.set_default_dtype(torch.float64)
    try:
        made["PyTorch"](X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == [torch.float64]
