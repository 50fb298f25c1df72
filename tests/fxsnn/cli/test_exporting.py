"""`fxsnn nir` and `fxsnn onnx`: other programs compute the same from what is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import fxsnn
from tests.command_line import as_json, called
from tests.nets import images


@pytest.mark.usefixtures("folder")
def test_a_nir_graph_comes_back_as_the_same_network(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir")
    options = ["--bits", "4", "--timesteps", "3", "--reset", "zero", "--initial-membrane", "0", "-o", "zero.fxsnn"]
    assert called(capsys, "convert", "net.py", "--data", "data.npz", *options)[0] == 0
    status, found = as_json(capsys, "nir", "zero.fxsnn", "-o", "zero.nir")
    assert (status, found["bytes"]) == (0, Path("zero.nir").stat().st_size)
    assert torch.equal(fxsnn.from_nir("zero.nir")(images(4)), fxsnn.load("zero.fxsnn")(images(4)))


def test_what_nir_cannot_say_is_refused_or_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir")
    status, _, err = called(capsys, "nir", "net.fxsnn")
    assert (status, "reset" in err, file.with_name("net.nir").exists()) == (2, True, False)
    status, out, err = called(capsys, "nir", "net.fxsnn", "--differences", "warn")
    assert (status, "warning: a reader of this NIR graph computes something else" in err) == (0, True)
    assert out.startswith("written: net.nir (")


@pytest.mark.slow
def test_an_onnx_program_computes_the_logits(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    status, out, _ = called(capsys, "onnx", "net.fxsnn", "--timesteps", "2", "--batch-size", "3")
    assert status == 0
    assert out.endswith("it reads 3 x [3, 12, 12] images at a time\n")
    program = onnx.load("net.onnx")
    (found,) = ReferenceEvaluator(program).run(None, {program.graph.input[0].name: images(3).numpy()})
    snn = fxsnn.load(file)
    snn.timesteps = 2
    torch.testing.assert_close(torch.from_numpy(found), snn(images(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(("command", "package"), [("nir", "nir"), ("onnx", "onnxscript")])
def test_a_package_that_is_not_there_is_named(
    command: str, package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    status, _, err = called(capsys, command, "net.fxsnn")
    assert status == 2
    assert package in err
    assert "pip install" in err
