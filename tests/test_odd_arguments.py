"""What is given by mistake gets an error of ours, whatever the door; nothing of PyTorch's own comes through."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import fxsnn
from fxsnn.errors import DataError, FileError, FxsnnError, ModelError, OptionError
from fxsnn.passes import CalibrateThresholds, Canonicalize, FoldBatchNorm, QuantizeWeights, SubstituteSpikes
from tests.nets import Small, images, pool_neurons, seeded
from tests.sharing import cases

X, Y = images(4), torch.arange(4)
MODEL = seeded(Small)
OPTIONS: dict[str, Any] = {"target": "hw_v1.0", "bits": 4, "timesteps": 2}


def converted(model: nn.Module = MODEL, **options: Any) -> fxsnn.SpikingNetwork:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fxsnn.FxsnnWarning)
        return fxsnn.convert(model, **{**OPTIONS, "calibration_data": X, "correction": None, **options})


SNN, BARE = converted(), converted(engine="torch")
GRAPH = fxsnn.capture(MODEL)
STEP = Canonicalize()(GRAPH)
SPIKING = list(fxsnn.pipeline(calibration_data=X, correction=None, **OPTIONS).steps(MODEL))[-1]


class Marked(Tensor):
    """A subclass, as others make them."""


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch calls them a prototype
        return torch.nested.nested_tensor([X[0], X[1]])


def quietly(make: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return make()


NO_IMAGES: dict[str, Any] = {
    "a number": 3,
    "a text": "x",
    "an object": object(),
    "an array": X.numpy(),
    "a number in a tensor": torch.tensor(2.0),
    "sparse": X.to_sparse(),
    "sparse rows": quietly(X[:, 0].to_sparse_csr),
    "nested": nested(),
    "on the meta device": X.to("meta"),
    "float8": X.to(torch.float8_e4m3fn),
    "complex": X.to(torch.complex64),
    "for MKL-DNN": X.to_mkldnn(),
    "fake": FakeTensorMode().from_tensor(X),
    "masked": quietly(lambda: torch.masked.masked_tensor(X, X > 0)),
    "without pixels": X[:, :, :0],
    "of three dimensions": X[0],
    "not a number": X * torch.nan,
}
DOORS: dict[str, Callable[[Any], Any]] = {
    "a call": SNN,
    "a call in PyTorch": BARE,
    "early_readout": SNN.early_readout,
    "simulate": BARE.simulate,
    "count_spikes": SNN.count_spikes,
    "verify_engine": SNN.verify_engine,
    "profile": SNN.profile,
    "calibration_data": lambda given: converted(calibration_data=given),
    "batches of calibration_data": lambda given: converted(calibration_data=[given]),
    "example": lambda given: converted(example=given),
    "example of a pass": lambda given: FoldBatchNorm()(STEP.after, given),
    "example of a pipeline": lambda given: fxsnn.Pipeline((Canonicalize(),), given).run(MODEL),
    "data of fine-tuning": lambda given: converted(finetune=fxsnn.Finetune((given, Y), epochs=1)),
    "drift": STEP.drift,
    "drift of neurons": SPIKING.drift,
    "sample": lambda given: fxsnn.SpikingNetwork(SPIKING.after, "hw_v1.0", sample=given),
    "layer_activations": lambda given: fxsnn.layer_activations(MODEL, SNN, given),
    "error_budget": lambda given: fxsnn.error_budget(MODEL, SNN, given),
    "sweep": lambda given: fxsnn.sweep(SNN, (given, Y), timesteps=2),
    "nir_input": lambda given: fxsnn.nir_input(SNN, given),
}


CONVERTS = (
    "calibration_data",
    "batches of calibration_data",
    "data of fine-tuning",
    "error_budget",
    "layer_activations",
)
"""Doors behind which much is done before images are looked at."""


@pytest.mark.parametrize(
    "door", [pytest.param(door, marks=pytest.mark.slow) if door in CONVERTS else door for door in DOORS]
)
def test_what_is_no_image_is_refused(door: str) -> None:
    raised = {name: raw(DOORS[door], given) for name, given in NO_IMAGES.items()}
    assert {name: error for name, error in raised.items() if not isinstance(error, DataError)} == {}


def raw(call: Callable[[Any], Any], given: Any) -> Exception | None:
    """What a call raises."""
    try:
        call(given)
    except Exception as error:
        return error
    return None


def test_a_graph_says_what_it_cannot_run_on() -> None:
    for name in NO_IMAGES.keys() - {"not a number", "without pixels", "float8", "of three dimensions"}:
        with pytest.raises(DataError):
            GRAPH(NO_IMAGES[name])


def test_an_example_holds_an_image() -> None:
    with pytest.raises(DataError, match="example holds no images; give at least one, or None"):
        converted(example=X[:0])


def test_a_sample_of_a_size_that_the_network_does_not_accept_is_named_by_its_report() -> None:
    graph = converted(model=seeded(pool_neurons)).graph
    snn = fxsnn.SpikingNetwork(graph, "hw_v1.0", sample=images(2, size=20))
    with pytest.raises(DataError, match=r"does not accept sample images of shape \[2, 3, 20, 20\]"):
        print(snn.report)


@cases("correction", ["biases", None, "both"], quick=1)
def test_images_of_a_subclass_are_images(correction: str | None) -> None:
    plain, marked = (converted(calibration_data=x, correction=correction) for x in (X, X.as_subclass(Marked)))
    assert str(marked.graph) == str(plain.graph)
    assert all(type(buffer) is Tensor for buffer in marked.buffers())


NO_LABELS: dict[str, Any] = {
    "sparse": Y.to_sparse(),
    "on the meta device": Y.to("meta"),
    "a single one": Y[0],
    "a mapping": {},
    "floats": Y.float(),
    "classes that there are not": Y + 50,
    "below the classes": Y - 1,
}


@cases("name", NO_LABELS, quick=("floats",))
def test_labels_are_classes_wherever_they_meet_logits(name: str) -> None:
    pair = (X, NO_LABELS[name])
    for call in (
        lambda: fxsnn.sweep(SNN, pair, timesteps=2),
        lambda: fxsnn.error_budget(MODEL, SNN, pair),
        lambda: converted(finetune=fxsnn.Finetune(pair, epochs=1)),
        lambda: converted(finetune=fxsnn.Finetune((X, Y), epochs=1, validation=pair)),
    ):
        with pytest.raises(DataError, match="label"):
            call()


@pytest.mark.parametrize("given", [None, 7, "graph", MODEL, X])
def test_a_graph_is_a_graph(given: Any) -> None:
    chip = fxsnn.get_target("hw_v1.0")
    for one in (Canonicalize(), CalibrateThresholds(X), QuantizeWeights(2), SubstituteSpikes(chip)):
        with pytest.raises(OptionError, match=r"graph is .*; expected a fxsnn\.Graph, which fxsnn\.capture\(model\)"):
            one(given)
    with pytest.raises(OptionError, match="graph is "):
        fxsnn.SpikingNetwork(given, chip)
    with pytest.raises(OptionError, match=r"expected a torch\.fx\.GraphModule, or use fxsnn\.capture"):
        fxsnn.Graph(given)
    if given is not MODEL:
        with pytest.raises(ModelError, match=r"not a torch\.nn\.Module"):
            fxsnn.pipeline(**OPTIONS).run(given)


def test_a_network_is_made_of_a_graph_that_spikes() -> None:
    with pytest.raises(ModelError, match=r"none of its layers spikes\. Give the graph behind SubstituteSpikes"):
        fxsnn.SpikingNetwork(GRAPH, "hw_v1.0")


@pytest.mark.parametrize("given", [None, 3, "ab", np.array([1, 2]), (3,), (None,), ("fold-batch-norm",)])
def test_a_pipeline_is_made_of_passes(given: Any) -> None:
    with pytest.raises(OptionError, match="expected "):
        fxsnn.Pipeline(given)
    with pytest.raises(FxsnnError):
        fxsnn.pipeline(**OPTIONS).after("fold-batch-norm", given)
    with pytest.raises(FxsnnError):
        fxsnn.pipeline(**OPTIONS).until(given)


@pytest.mark.parametrize("given", [3, "ab", (3, 8), (3, -8, 8), (3, 1.5, 8), np.array([3, 8, 8]), X])
def test_a_size_of_images_is_three_numbers(given: Any) -> None:
    for call in (
        lambda: fxsnn.SpikingNetwork(SPIKING.after, "hw_v1.0", image_size=given),
        lambda: fxsnn.to_nir(SNN, differences="warn", image_size=given),
    ):
        with pytest.raises(OptionError, match=r"image_size is .*; allowed are channels, height and width"):
            call()


@pytest.mark.parametrize("name", ["timesteps", "reset", "initial_membrane", "engine"])
@pytest.mark.parametrize("value", [None, np.array([1, 2]), torch.tensor([]), nn.ReLU(), nn.Parameter(X)], ids=type)
def test_a_setting_is_refused_and_stays(name: str, value: Any) -> None:
    before, parts = getattr(SNN, name), len(SNN.state_dict())
    with pytest.raises(OptionError, match=f"{name} is "):
        setattr(SNN, name, value)
    assert getattr(SNN, name) == before
    assert len(SNN.state_dict()) == parts


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (7, OptionError, "model is a int; allowed are a network, a function of images, or None"),
        ("net", OptionError, "model is a str"),
        (nn.Linear, OptionError, "model is the class Linear; allowed are a network"),
        (lambda x: None, DataError, r"model gives a NoneType; expected a tensor \[4, 'classes'\]"),
        (lambda x: x.sum(), DataError, "model gives torch.float32"),
        (lambda x: x[:1].flatten(1), DataError, r"model gives torch.float32 \[1, 432\]"),
        (nn.Linear(3, 3), DataError, "model does not accept images of shape"),
    ],
)
def test_a_sweep_is_held_against_something_that_classifies(model: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fxsnn.sweep(SNN, (X, Y), timesteps=2, model=model)


@pytest.mark.parametrize("value", [True, "1", -1, 10**400, float("nan"), np.array([1, 2])])
def test_a_tolerance_is_a_number(value: Any) -> None:
    with pytest.raises(OptionError, match=r"tolerance is .*; allowed are numbers from 0"):
        fxsnn.sweep(SNN, (X, Y), timesteps=2, tolerance=value)
    assert fxsnn.sweep(SNN, (X, Y), timesteps=2, tolerance=Fraction(1, 2)).to_dict()["tolerance"] == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [None, 7, b"x", ["x"], X, object()])
def test_a_path_is_a_path(path: Any) -> None:
    for call in (SNN.save, fxsnn.load, fxsnn.verify, lambda path: fxsnn.datasets.load("digits", path)):
        with pytest.raises(OptionError, match=r"is a .*; allowed are a str and a pathlib\.Path"):
            call(path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "loop", "folder", "nowhere/x", "file/x"])
def test_a_place_where_nothing_can_be_written_is_refused_before_the_work(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(fxsnn.SpikingNetwork, "simulate", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(FileError, match="cannot be written: "):
        SNN.save(path)
    monkeypatch.setattr("fxsnn.compiler.capture_untried", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(FileError, match="cannot be written: "):
        converted(finetune=fxsnn.Finetune((X, Y), epochs=1, checkpoint=path))


@pytest.mark.parametrize("wanted", [1.5, True, 1 << 80, "hpu", "privateuseone", X])
def test_a_device_is_one_that_is_there(wanted: Any) -> None:
    from fxsnn.device import choose_device

    with pytest.raises(OptionError, match=r"device .* cannot be used here"):
        choose_device(wanted)


def test_data_sets_are_functions_with_names() -> None:
    for name in (None, 7, ["x"], b"digits"):
        with pytest.raises(OptionError):
            fxsnn.datasets.register(name)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(OptionError, match="unknown data set"):
            fxsnn.datasets.load(name)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(OptionError, match="is a int; expected a function of a folder"):
        fxsnn.datasets.register("seven")(7)  # type: ignore[arg-type]  # on purpose


def test_errors_of_data_say_nothing_about_our_graph(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as raised:
        converted(calibration_data=X.sign() * 3e38)
    assert str(raised.value) == "the network's activations on these images are not finite"
    with pytest.raises(DataError) as raised:
        BARE.early_readout(X[:, :1])
    assert "executing" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
