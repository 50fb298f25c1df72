"""The command line, as a person and as a machine calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.cli import main
from fxsnn.cli.option_values import bits_from
from fxsnn.errors import OptionError
from tests.command_line import as_json, called
from tests.nets import Small, images, seeded


class TestCheck:
    def test_a_network_that_fits(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, err = called(capsys, "check", "net.py:Net", "--bits", "2")
        assert (status, err) == (0, "a script that talks\n")
        assert "The network fits hw_v1.0 at 2 bits." in out

    def test_one_that_does_not_is_a_no_with_everything_at_once(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, found = as_json(capsys, "check", "net.py:wide", "--bits", "2")
        assert (status, found["ok"]) == (1, False)
        assert [one["layer"] for one in found["findings"] + found["violations"]] == ["2", "0"]

    def test_a_module_is_found_as_python_would(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert called(capsys, "check", "net:trained", "--bits", "auto")[0] == 0

    def test_bits_by_layer(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, found = as_json(capsys, "check", "net.py", "--bits", "conv1=3")
        assert found["layers"][0]["bits"] == 3


class TestConvert:
    def test_writes_a_file_that_loads_and_verifies(
        self, file: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        snn = fxsnn.load(file)
        assert (snn.timesteps, snn.provenance["options"]["bits"]) == (6, 4)
        status, out, _ = called(capsys, "verify", "net.fxsnn")
        assert status == 0
        assert "every spike matches" in out

    def test_takes_weights_and_is_what_python_gives(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from safetensors.torch import save_file

        model = seeded(Small)
        (folder / "small.py").write_text("from tests.nets import Small\ndef small(): return Small()\n")
        torch.save(model.state_dict(), folder / "w.pt")
        save_file({name: one.contiguous() for name, one in model.state_dict().items()}, folder / "w.safetensors")
        with pytest.warns(fxsnn.CalibrationWarning):
            expected = fxsnn.convert(model, target="hw_v1.0", bits=4, timesteps=16)(images())
        for weights in ("w.pt", "w.safetensors"):
            status, _, err = called(capsys, "convert", "small.py:small", "--weights", weights, "--bits", "4", "-o", "s")
            assert status == 0, err
            assert "warning: thresholds" in err
            assert torch.equal(fxsnn.load(folder / "s")(images()), expected)

    def test_fine_tunes_and_says_so_in_the_file(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--data", "net.py:halves", "--finetune-epochs", "1", "--bits", "2", "--reset", "zero", "--per-layer"]
        options += ["--codebook", "full", "--correction", "biases"]
        status, found = as_json(capsys, "convert", "net.py", *options, "-o", "out.fxsnn")
        assert status == 0
        assert found["report"]["reset"] == "zero"
        made = fxsnn.load(found["file"]).provenance
        assert "epochs=1" in made["options"]["finetune"]
        assert (made["options"]["per_channel"], made["options"]["correction"]) == (False, "biases")
        assert made["options"]["codebook"] == "full"

    def test_says_before_a_long_training_that_the_network_cannot_be_written(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fxsnn.cli.converting.Finetune", None)
        options = ["--data", "data.npz", "--finetune-epochs", "9", "-o", "out.fxsnn"]
        status, _, err = called(capsys, "convert", "net.py:ranked", *options)
        assert status == 2
        assert "sort has no name in the format of files" in err

    def test_fine_tunes_what_fits_only_with_the_calibration_data(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Pixels from 0 to 255: without data, thresholds are guessed for images of mean 0 and deviation 1."""
        (folder / "bright.py").write_text(BRIGHT)
        options = ["--data", "bright.py:halves", "--bits", "4", "-o", "out.fxsnn", "--timesteps", "4"]
        assert called(capsys, "convert", "bright.py:network", "--bits", "4", "-o", "out.fxsnn")[0] == 2
        status, _, err = called(
            capsys, "convert", "bright.py:network", *options, "--finetune-epochs", "1", "--finetune-lr", "0.002"
        )
        assert status == 0, err


BRIGHT = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    for _ in range(60):
        model(255 * torch.rand(64, 3, 8, 8))
    return model.eval()

def halves(data_dir):
    half = [(255 * torch.rand(3, 8, 8), i % 5) for i in range(32)]
    return half, half
"""


class TestEval:
    def test_gives_the_accuracy_at_every_t_beside_the_anns(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, found = as_json(
            capsys, "eval", "net.fxsnn", "--data", "data.npz", "--timesteps", "1", "6", "--limit", "50",
            "--model", "net.py:Net", "--batch-size", "16",
        )  # fmt: skip
        assert status == 0
        assert found["images"] == 50
        snn = fxsnn.load(file)
        labels = torch.arange(50) % 5
        for timesteps in (1, 6):
            snn.timesteps = timesteps
            expected = 100 * float((snn(images(60)[:50]).argmax(1) == labels).double().mean())
            assert found["accuracy"][str(timesteps)] == pytest.approx(expected)
        assert 0 <= found["ann"] <= 100

    def test_labels_that_are_no_classes_are_not_wrong_answers(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        np.savez(file.with_name("others.npz"), images=images(6).numpy(), labels=np.arange(6) + 50)
        status, out, err = called(capsys, "eval", "net.fxsnn", "--data", "others.npz")
        assert (status, out) == (2, "")
        assert "labels go from 50 to 55; the network has 5 classes, 0 to 4" in err

    def test_t_is_the_files_own_if_nothing_is_said(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, out, _ = called(capsys, "eval", "net.fxsnn", "--data", "data.npz")
        assert out.splitlines()[0] == "net.fxsnn on 60 images of data.npz"
        assert out.splitlines()[-1].startswith("6 ")


class TestReport:
    def test_is_text_json_and_a_page(self, file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, _ = called(capsys, "report", "net.fxsnn", "--html", "page.html")
        assert status == 0
        assert f"made with fxsnn {fxsnn.__version__}, torch" in out
        assert "<td>conv1</td>" in (folder / "page.html").read_text() or ">conv1<" in (folder / "page.html").read_text()
        assert "<img" in (folder / "page.html").read_text()
        assert "Accuracy" not in (folder / "page.html").read_text()
        assert "written: page.html" in out
        data = ("--data", "data.npz", "--limit", "7", "--html", "page.html")
        _, found = as_json(capsys, "report", "net.fxsnn", *data)
        assert (
            ">spiking, on 60 images of data.npz, T=" in (folder / "page.html").read_text()
        )  # 7 are enough for activity alone
        assert found["report"]["images"] == 7

    def test_the_page_has_the_sweep_of_the_data_and_the_budget_of_a_model(
        self, file: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = ("--data", "data.npz", "--html", "page.html")
        assert called(capsys, "report", "net.fxsnn", *data)[0] == 0
        page = (folder / "page.html").read_text()
        assert "Timesteps" in page
        assert "Error budget" not in page
        assert called(capsys, "report", "net.fxsnn", *data, "--model", "net.py:trained")[0] == 0
        page = (folder / "page.html").read_text()
        assert "Error budget" in page
        assert "ANN, on 60 images of data.npz" in page

    def test_a_model_without_data_or_a_page_is_refused(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, _, message = called(capsys, "report", "net.fxsnn", "--model", "net.py")
        assert status == 2
        assert "give --html and --data, too" in message


def test_targets_are_listed_with_their_limits(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = called(capsys, "targets")
    assert status == 0
    assert "3x3                  113    56      37      28" in out
    assert "codebooks: symmetric, full, free" in out
    _, found = as_json(capsys, "targets")
    assert found["targets"]["hw_v1.0"]["codebook"] == "free"
    assert found["targets"]["hw_v1.0"]["registers"] == {"codebook": 11, "threshold": 18, "leak": 19}


def test_verify_says_no_where_spikes_differ(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fxsnn.storage import load_arrays, save_arrays

    arrays, document = load_arrays(file)
    arrays["golden/spikes/conv1"][0] ^= 1
    save_arrays(file, arrays, document)
    status, out, _ = called(capsys, "verify", "net.fxsnn")
    assert status == 1
    assert "conv1: 1 spikes are missing or too many" in out


TUNED = "convert net.py --data data.npz --finetune-epochs 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("check none.py", "there is no file none.py"),
        ("check none.of:this", "there is no module 'none'"),
        ("check wrong.py", "wrong.py (wrong.py:2): it is no valid Python"),
        ("check lacking.py", "lacking.py (lacking.py:1): it fails with ModuleNotFoundError"),
        ("check net.py:nix", "there is no 'nix'. Name one of: Net, wide, broken"),
        ("check net.py:broken", "net.py:broken (net.py:21): it fails with ZeroDivisionError"),
        ("check net.py:demanding", "it fails with TypeError: demanding() missing 1 required"),
        ("check net.py:number", "it gives a int. Return a torch.nn.Module"),
        ("check net.py --bits two", "--bits is 'two'; allowed are 1 to 4"),
        ("check net.py --bits 7", "bits is 7"),
        ("check net.py --target hw_v9", "unknown target 'hw_v9'; known: generic, hw_v1.0"),
        ("convert net.py:wide --bits 2 -o x", "60 input channels; hw_v1.0 allows at most 56"),
        ("convert net.py --weights none.pt", "none.pt: there is no such file of weights"),
        ("convert net.py --finetune-epochs 2", "fine-tuning and correction need --data"),
        ("convert net.py --checkpoint c", "--checkpoint is of fine-tuning; give --finetune-epochs or"),
        (
            "convert net.py --finetune-distillation 0.5 --finetune-patience 2",
            "--finetune-distillation, --finetune-patience are of fine-tuning; give --finetune-epochs or",
        ),
        (f"{TUNED} --finetune-teacher net.py:Net", "--finetune-teacher needs --finetune-distillation"),
        (f"{TUNED} --finetune-teacher-weights w.pt", "--finetune-teacher-weights needs --finetune-teacher"),
        (f"{TUNED} --finetune-distillation 1.5", "distillation is 1.5; allowed are numbers from 0 to 1"),
        (f"{TUNED} --finetune-validation 1", "validation is 1.0; allowed are shares between 0 and 1"),
        (f"{TUNED} --finetune-patience 2", "patience needs validation"),
        ("budget net.fxsnn net.py:wide", "or train it with average pooling (nn.AvgPool2d)"),
        ("budget net.fxsnn net.py:Net --plot x.txt", "--plot is x.txt; its name must end in one of: "),
        ("sweep net.fxsnn --plot nowhere/x.png", "there is no folder nowhere; make it first"),
        ("sweep net.fxsnn --weights w.pt", "--weights needs --model"),
        ("sweep net.fxsnn --timesteps 0", "timesteps is 0"),
        ("sweep net.fxsnn --tolerance -1", "tolerance is -1.0; allowed are numbers from 0"),
        ("nir net.fxsnn", "NIR"),
        ("nir none.fxsnn", "none.fxsnn cannot be read: No such file"),
        ("nir net.fxsnn -o nowhere/x", "there is no folder nowhere; make it first"),
        ("onnx net.fxsnn -o nowhere/x", "there is no folder nowhere; make it first"),
        ("onnx net.fxsnn --timesteps 0", "timesteps is 0"),
        ("convert net.py -o nowhere/x", "there is no folder nowhere; make it first"),
        ("convert net.py --mean 0.5", "--mean and --std normalise the images of --data; give it, too"),
        ("report net.fxsnn --std 0.5", "--mean and --std normalise the images of --data; give it, too"),
        ("eval net.fxsnn --std 0.5", "mean and std are of digits, MNIST, FashionMNIST, CIFAR10; images of data.npz"),
        ("convert net.py --data digits --mean 1 2 3", "mean is 1.0, 2.0, 3.0; digits takes 1 number"),
        ("convert net.py --data none.npz", "none.npz cannot be read as arrays"),
        ("convert net.py --data SVHN", "unknown data set 'SVHN'; known: digits"),
        ("convert net.py --data net.py:one_half", "net.py:one_half gives a list"),
        ("convert net.py --data digits -o x", "images have shape [2, 1, 28, 28], that is 1 channels"),
        ("convert net.py --device gpu", "device 'gpu' cannot be used here"),
        ("eval net.py", "net.py cannot be read as a file of fxsnn"),
        ("eval none.fxsnn", "none.fxsnn cannot be read: No such file"),
        ("eval net.fxsnn --timesteps 0", "timesteps is 0"),
        ("eval net.fxsnn --data data.npz --weights w.pt", "--weights needs --model"),
        ("eval net.fxsnn --data digits", "images of digits are [1, 28, 28]; the network was made for [3, 12, 12]"),
        ("eval net.fxsnn --data small.npz", "images of small.npz are [3, 6, 6]; the network was made for [3, 12, 12]"),
        ("eval net.fxsnn --data empty.npz", "data set 'empty.npz': a half has no images"),
        ("eval net.fxsnn --data single.npz", "it is a single array; np.savez writes several"),
        ("eval net.fxsnn --data net.py:failing", "net.py:failing (net.py:46): it fails with OSError: no disk"),
        ("eval net.fxsnn --data net.py:nothing", "it fails with TypeError: object of type 'NoneType'"),
        ("eval net.fxsnn --data net.py:words", "an image is torch.float32 [3, 12, 12], its label a str"),
        ("check net.py --bits conv1=2,conv1=3", "--bits is 'conv1=2,conv1=3', which names a layer twice"),
        ("verify net.fxsnn --device gpu", "device 'gpu' cannot be used here"),
        ("check :", "it names no code"),
        ("convert net.py --device meta", "device 'meta' cannot be used here"),
        ("convert net.py --data data.npz --finetune-epochs -1 --finetune-spiking-epochs 1", "epochs is -1"),
        ("report net.fxsnn --engine gpu", "engine is 'gpu'"),
        ("verify none.fxsnn", "none.fxsnn cannot be read: No such file"),
    ],
)
@pytest.mark.usefixtures("file")
def test_a_mistake_gets_one_message_and_no_traceback(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = called(capsys, *arguments.split())
    assert (status, out) == (2, ""), err
    assert message in err
    assert "Traceback" not in err
    status, found = as_json(capsys, *arguments.split())
    assert (status, message in found["error"]["message"]) == (2, True)


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("place", ["a\0b", "x" * 300, "folder"])
@pytest.mark.parametrize(
    "command",
    ["convert net.py -o", "convert net.py --data data.npz --finetune-epochs 1 --checkpoint", "report net.fxsnn --html"],
)
def test_a_place_where_nothing_can_be_written_is_told_before_the_work(
    command: str, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder").mkdir()
    for work in ("converting.model_named", "inspecting.network_in"):
        monkeypatch.setattr(f"fxsnn.cli.{work}", lambda *_: pytest.fail("it has begun"))
    status, _, err = called(capsys, *command.split(), place)
    assert status == 2, err
    assert "cannot be written: " in err


@pytest.mark.usefixtures("folder")
def test_what_the_chip_does_not_allow_comes_before_what_no_file_can_hold(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = called(capsys, "convert", "net.py:wide_and_clamped", "--bits", "2")
    assert status != 0
    assert "its 3x3 kernel reads 60 input channels; hw_v1.0 allows at most 56 at 2 bits" in err
    assert "cannot be written" not in err


def test_data_sets_that_the_users_code_registers_are_known(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in (["--import", "net.py"], ["--model", "net.py:Net"]):
        status, found = as_json(capsys, "eval", "net.fxsnn", "--data", "mine", *where)
        assert (status, found["images"]) == (0, 40)


def test_an_error_that_nobody_expected_has_a_status_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("fxsnn.cli.checking.check", fail)
    status, out, err = called(capsys, "check", "net.py:Net")
    assert (status, out) == (3, "")
    assert err.endswith("RuntimeError: first line (--traceback shows where)\n")


def test_numbers_that_json_does_not_have_are_null(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fxsnn.cli.entry import _finite

    assert _finite({"a": [float("nan"), 1.5, (float("inf"),)]}) == {"a": [None, 1.5, [None]]}


def test_the_traceback_is_there_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = called(capsys, "check", "net.py:broken", "--traceback")
    assert "Traceback" in err
    assert "return 1 / 0" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["fly"], ["check"], ["eval"], ["convert", "net.py", "--reset", "soft"], ["eval", "x", "--limit", "0"],
        ["eval", "x", "--batch-size", "-3"], ["convert", "net.py", "--seed", "-1"],
    ],
)  # fmt: skip
def test_what_the_parser_refuses_is_a_mistake_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: fxsnn" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "bits"), [("2", 2), ("auto", "auto"), ("conv1=4, fc.0=1", {"conv1": 4, "fc.0": 1})])
def test_bits_are_read_as_they_are_typed(text: str, bits: Any) -> None:
    assert bits_from(text) == bits


@pytest.mark.parametrize("text", ["", "2.5", "conv1=", "conv1=2=3", "automatic"])
def test_other_bits_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--bits is"):
        bits_from(text)


@pytest.mark.slow
def test_python_m_fxsnn_is_the_command(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fxsnn", "check", "net.py:wide", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(fxsnn.__file__).parents[1])},
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["ok"] is False


def test_models_are_given_in_evaluation_mode_and_nothing_stays_on_the_path(folder: Path) -> None:
    from fxsnn.cli.user_code import model_from

    before = list(sys.path)
    model = model_from("net.py:Net")
    assert isinstance(model, nn.Module)
    assert not model.training
    assert sys.path == before
