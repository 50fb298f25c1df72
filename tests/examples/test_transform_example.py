"""The seed's command line on the embedded digits, and what it says to mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transform_example
from networks import ColourNet, DigitNet, StridedColourNet

import fxsnn
from fxsnn import datasets
from fxsnn.data.datasets import Splits
from fxsnn.insight import accuracy
from tests.sharing import cases


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with a data set of a few embedded digits, named "few"."""
    monkeypatch.setattr(datasets, "_registered", dict(datasets._registered))
    train, test = datasets.load(datasets.EMBEDDED)
    few = Splits(torch.utils.data.Subset(train, range(64)), torch.utils.data.Subset(test, range(48)))
    monkeypatch.setitem(datasets._registered, datasets.EMBEDDED, lambda _: few)


@pytest.mark.usefixtures("few_digits")
@pytest.mark.filterwarnings("ignore:calibration found:fxsnn.CalibrationWarning")
class TestTransforming:
    @pytest.mark.filterwarnings("ignore:fine-tuning kept the network that it began with:fxsnn.AccuracyWarning")
    @pytest.mark.slow
    def test_every_argument_of_the_seed_is_taken(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        torch.save(DigitNet().state_dict(), tmp_path / "w.pt")
        status = transform_example.main(
            [
                *("--load_file", str(tmp_path / "w.pt"), "--dataset", "digits", "--data_dir", str(tmp_path)),
                *("--save_file", str(tmp_path / "net.fxsnn"), "--batch_size", "16", "--test_batch_size", "24"),
                *("--timesteps", "4", "--reset_mode", "zero", "--weight_bitwidth", "3", "--finetune_lr", "0.001"),
                *("--finetune_epochs", "1", "--finetune_wd", "0", "--finetune_momentum", "0.5"),
                *("--target", "generic", "--seed", "3", "--device", "cpu"),
            ]
        )
        assert status == 0, capsys.readouterr().err
        assert fxsnn.verify(tmp_path / "net.fxsnn").ok
        assert "Finetune(epochs=1, lr=0.001" in str(fxsnn.load(tmp_path / "net.fxsnn").provenance["passes"])
        report = fxsnn.load(tmp_path / "net.fxsnn").report
        assert (report.target, report.timesteps, report.reset) == ("generic", 4, "zero")
        assert {layer.bits for layer in report.layers if layer.bits} == {3}

    def test_it_says_what_was_measured_and_where_the_files_are(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_file = tmp_path / "new" / "net.fxsnn"
        bits = ["--weight_bitwidth", "4", "3", "--finetune_epochs", "0", "--timesteps", "6"]
        assert transform_example.main([*bits, "--save_file", str(save_file), "--device", "cpu"]) == 0
        said = capsys.readouterr().out
        for word in ("ANN on digits: ", "4 bits: ANN ", "quantised ", "spiking ", "at T=6", "SpikeConv2d", "conv2"):
            assert word in said
        for name in ("net_4bit.fxsnn", "net_3bit.fxsnn", "accuracy_against_timesteps.png"):
            assert str(save_file.with_name(name)) in said
            assert save_file.with_name(name).stat().st_size > 1000
        assert save_file.with_name("accuracy_against_timesteps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "SVHN"], "UnknownName: unknown data set 'SVHN'; known: digits, MNIST"),
        (["--load_file", "none.pt"], "FileError: none.pt: there is no such file"),
        (["--target", "hw_v9"], "UnknownName: unknown target 'hw_v9'; known: generic, hw_v1.0"),
        (["--weight_bitwidth", "5"], "OptionError: bits is 5"),
        (["--timesteps", "0"], "OptionError: timesteps is 0"),
        (["--device", "gpu"], "OptionError: device 'gpu' cannot be used here"),
        (["--finetune_lr", "-1"], "OptionError: lr is -1"),
        (["--dataset", "MNIST", "--data_dir", "nowhere"], "DataError: data set 'MNIST' could not be read"),
    ],
)
@pytest.mark.usefixtures("few_digits")
def test_a_mistake_gets_one_message_and_no_traceback(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file = tmp_path / "net.fxsnn"
    assert transform_example.main([*arguments, "--save_file", str(save_file)]) == 2
    assert message in capsys.readouterr().err
    assert not save_file.exists()


@pytest.mark.parametrize("bits", ["two", "2.5"])
def test_bits_that_are_no_number_are_refused_by_the_parser(bits: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        transform_example.main(["--weight_bitwidth", bits])
    assert "invalid int value" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--batch_size", "0"], ["--test_batch_size", "-1"], ["--seed", str(1 << 64)]])
def test_numbers_that_make_no_sense_are_refused_by_the_parser(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        transform_example.main(wrong)
    assert "allowed are numbers from" in capsys.readouterr().err


@pytest.mark.usefixtures("few_digits")
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert transform_example.main(["--save_file", str(tmp_path / "file" / "net.fxsnn")]) == 2
    assert "its folder cannot be made" in capsys.readouterr().err


def test_a_reset_that_does_not_exist_is_refused_by_the_parser() -> None:
    with pytest.raises(SystemExit):
        transform_example.main(["--reset_mode", "soft"])


@cases("bits, channels", [(2, 56), (4, 28), (1, 56), (3, 28)], quick=2)
def test_the_networks_are_legal_where_they_say_so(bits: int, channels: int) -> None:
    for network in (DigitNet(), ColourNet(channels), StridedColourNet(channels)):
        assert fxsnn.check(network, target="hw_v1.0", bits=bits).ok


def test_the_embedded_network_knows_its_digits() -> None:
    options = transform_example.parse([])
    network = transform_example.trained_network(options)
    test = torch.utils.data.DataLoader(datasets.load("digits").test, 500)
    assert accuracy(network, test, "ANN") >= 99.0


def test_a_data_set_without_embedded_weights_needs_a_file() -> None:
    with pytest.raises(fxsnn.FileError, match="--load_file is missing: there are no embedded weights for FashionMNIST"):
        transform_example.trained_network(transform_example.parse(["--dataset", "FashionMNIST"]))


class TestANetworkOfOnesOwn:
    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        """A user's script with a network."""
        (tmp_path / "own_net.py").write_text("from torch import nn\ndef own():\n    return nn.Linear(3, 2)\n")
        return tmp_path / "own_net.py"

    def test_it_has_the_weights_that_are_given(self, script: Path, tmp_path: Path) -> None:
        torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "own.pt")
        options = transform_example.parse(["--network", f"{script}:own", "--weights", str(tmp_path / "own.pt")])
        network = transform_example.trained_network(options)
        assert isinstance(network, torch.nn.Linear)
        assert torch.equal(network.weight, torch.load(tmp_path / "own.pt")["weight"])

    def test_without_weights_it_is_said_which_it_keeps(self, script: Path, capsys: pytest.CaptureFixture[str]) -> None:
        transform_example.trained_network(transform_example.parse(["--network", f"{script}:own"]))
        assert "own_net.py:own keeps the weights that it is built with" in capsys.readouterr().err

    def test_a_script_that_is_not_there_is_a_mistake(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert transform_example.main(["--network", "none.py:own", "--device", "cpu"]) == 2
        assert "there is no file none.py" in capsys.readouterr().err
