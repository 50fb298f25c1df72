"""The spiking network is a PyTorch module like any other: torch.export, torch.compile, torch.jit and ONNX take it."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsnn
from fxsnn.outputs import tensors_in
from tests.nets import CONVERTIBLE, Functional, Small, images, seeded
from tests.random_networks import quiet
from tests.sharing import cases, converted_once
from tests.tails import with_tail


@converted_once
def network(name: str = "modules", **options: Any) -> fxsnn.SpikingNetwork:
    """A small converted network."""
    given: dict[str, Any] = {"target": "hw_v1.0", "bits": 2, "timesteps": 3, "calibration_data": images(32)}
    given |= {"correction": None, **options}
    with quiet():
        return fxsnn.convert(seeded(CONVERTIBLE[name]), **given)


@functools.cache
def exported(name: str = "modules") -> torch.export.ExportedProgram:
    return torch.export.export(network(name), (images(),))


@pytest.mark.filterwarnings("ignore::FutureWarning:torch")
class TestExport:
    @pytest.mark.parametrize(
        "name", [name if name == "modules" else pytest.param(name, marks=pytest.mark.slow) for name in CONVERTIBLE]
    )
    def test_gives_a_program_with_the_same_logits(self, name: str) -> None:
        snn = network(name)
        with torch.no_grad():
            found, expected = exported(name).module()(images(seed=3)), snn(images(seed=3))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

    def test_takes_any_number_of_images_if_it_is_told_so(self) -> None:
        snn = network(reset="zero")
        batch = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
        program = torch.export.export(snn, (images(),), dynamic_shapes=batch)
        for count in (1, 9):
            with torch.no_grad():
                torch.testing.assert_close(program.module()(images(count)), snn(images(count)), rtol=1e-6, atol=1e-6)

    def test_can_be_saved_and_loaded_without_fxsnn_in_it(self, tmp_path: Path) -> None:
        snn = network()
        torch.export.save(exported(), tmp_path / "net.pt2")
        loaded = torch.export.load(tmp_path / "net.pt2")
        targets = {str(node.target) for node in loaded.graph.nodes if node.op == "call_function"}
        assert all("fxsnn" not in target for target in targets)
        with torch.no_grad():
            torch.testing.assert_close(loaded.module()(images(seed=3)), snn(images(seed=3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"reset": "zero", "initial_membrane": 0}, marks=pytest.mark.slow)]
)
def test_compile_takes_the_whole_network_without_a_break(options: dict[str, Any]) -> None:
    snn = network(**options)
    compiled = torch.compile(snn, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(seed=3)), snn(images(seed=3)), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile_to_machine_code_gives_the_same_logits() -> None:
    snn = network("without classifier", timesteps=2)
    compiled = torch.compile(snn, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()), snn(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning", "ignore:.*deprecated:FutureWarning")
class TestTracing:
    """`torch.jit.trace`, and what calls it: tensorboard's `add_graph` (strict or not), the old exporter of ONNX."""

    @pytest.mark.parametrize("strict", [True, False])
    @pytest.mark.parametrize(
        "name", [name if name == "modules" else pytest.param(name, marks=pytest.mark.slow) for name in CONVERTIBLE]
    )
    def test_gives_the_very_logits_for_other_images_and_any_number_of_them(self, name: str, strict: bool) -> None:
        snn = network(name)
        program: Any = torch.jit.trace(snn, images(4), strict=strict)
        with torch.no_grad():
            for count in (1, 4, 9):
                given = images(count, seed=3)
                assert torch.equal(program(given), snn(given))

    @cases("options", [{"engine": "numba"}, {"reset": "zero", "initial_membrane": 0}, {"input_bits": None}], quick=1)
    def test_does_so_whatever_runs_the_network(self, options: dict[str, Any]) -> None:
        snn = network(**options)
        program: Any = torch.jit.trace(snn, images(1))
        with torch.no_grad():
            torch.testing.assert_close(program(images(5, seed=3)), snn(images(5, seed=3)), rtol=1e-6, atol=1e-6)

    def test_a_program_is_saved_and_loaded_without_fxsnn_in_it(self) -> None:
        snn, file = network(), io.BytesIO()
        torch.jit.save(torch.jit.trace(snn, images(2)), file)
        file.seek(0)
        loaded: Any = torch.jit.load(file)
        with torch.no_grad():
            assert torch.equal(loaded(images(3)), snn(images(3)))

    def test_what_cannot_be_images_is_refused(self) -> None:
        with pytest.raises(fxsnn.DataError, match=r"images have shape \[2, 1, 12, 12\], that is 1 channels"):
            torch.jit.trace(network(), images(2, channels=1))

    @pytest.mark.parametrize("within", [False, True], ids=["alone", "within another module"])
    def test_scripting_is_refused_and_the_trace_that_the_message_names_can_be_scripted(self, within: bool) -> None:
        snn = network()
        with pytest.raises(fxsnn.OptionError, match=r"torch\.jit\.trace\(snn, images\) makes a program"):
            torch.jit.script(nn.Sequential(snn) if within else snn)
        traced: Any = torch.jit.trace(snn, images(2))
        scripted: Any = torch.jit.script(nn.Sequential(traced) if within else traced)
        with torch.no_grad():
            assert torch.equal(scripted(images(5, seed=3)), snn(images(5, seed=3)))

    @pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript", "ignore:The feature will be removed")
    @pytest.mark.parametrize("name", ["modules", pytest.param("functional", marks=pytest.mark.slow)])
    def test_the_old_exporter_of_onnx_takes_any_number_of_images(self, name: str) -> None:
        onnx = pytest.importorskip("onnx")
        from onnx.reference import ReferenceEvaluator

        snn, file = network(name, timesteps=2), io.BytesIO()
        axes = {"images": {0: "N"}, "logits": {0: "N"}}
        names: Any = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": axes}
        torch.onnx.export(snn, (images(2),), file, dynamo=False, **names)  # type: ignore[arg-type]  # it takes files
        program = ReferenceEvaluator(onnx.load_from_string(file.getvalue()))
        for count in (2, 3):
            (found,) = program.run(None, {"images": images(count, seed=3).numpy()})
            with torch.no_grad():
                torch.testing.assert_close(torch.from_numpy(found), snn(images(count, seed=3)), rtol=1e-4, atol=1e-5)


def assert_same_in_onnx(module: nn.Module, x: Tensor) -> None:
    """What a module computes is what ONNX's own reference computes of its export."""
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
        expected = module(x)
    assert program is not None
    found = ReferenceEvaluator(program.model_proto).run(None, {program.model_proto.graph.input[0].name: x.numpy()})
    for one, tensor in zip(found, tensors_in(expected), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_spiking_network_goes_to_onnx() -> None:
    assert_same_in_onnx(network(timesteps=2), images(2))


class Heads(nn.Module):
    """Classes and a map of classes, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.maps = nn.Linear(96, 5), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return {"classes": self.fc(x.flatten(1)), "others": (self.maps(x), [x.mean((2, 3))])}


@pytest.mark.slow
def test_several_outputs_are_exported_and_compiled_in_their_structure() -> None:
    snn, given = with_tail(seeded(Heads), timesteps=2), images(2)
    assert_same_in_onnx(snn, given)
    with torch.no_grad():
        for made in (
            torch.export.export(snn, (given,)).module(),
            torch.compile(snn, fullgraph=True, backend="aot_eager"),
        ):
            torch.testing.assert_close(made(given), snn(given), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("build", [Small, Functional])
def test_so_does_every_stage(build: type[nn.Module]) -> None:
    with quiet():
        pipeline = fxsnn.pipeline(target="hw_v1.0", bits=3, timesteps=3, calibration_data=images(32))
        steps = list(pipeline.steps(seeded(build)))
    assert steps[-1].name == "substitute-spikes"
    for step in steps:
        assert_same_in_onnx(step.after.module, images(2))
