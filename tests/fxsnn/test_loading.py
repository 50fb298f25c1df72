"""Network files: what is saved comes back to the bit, and whatever is wrong with a file is said, not done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import read_network
import torch
from safetensors import safe_open
from torch import Tensor, nn

import fxsnn
from fxsnn.errors import FileError, OptionError
from fxsnn.file.schema_check import schema
from fxsnn.storage import load_arrays, save_arrays
from tests.damage import Edit, damaged
from tests.engines import same
from tests.nets import CONVERTIBLE, Small, images, seeded
from tests.random_networks import convertible_case, noise, quiet, random_seeds
from tests.sharing import cases, converted_once

REPOSITORY = Path(__file__).parents[2]


@converted_once
def network(build: Callable[[], nn.Module] = Small, **options: Any) -> fxsnn.SpikingNetwork:
    """A small converted network, which version 1 has words for."""
    given: dict[str, Any] = {"target": "hw_v1.0", "bits": 2, "timesteps": 5, "calibration_data": images(32)}
    given |= {"codebook": "symmetric", "correction": None, **options}
    with quiet():
        return fxsnn.convert(seeded(build), **given)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file."""
    return network().save(tmp_path_factory.mktemp("files") / "net.fxsnn")


def assert_same(one: fxsnn.SpikingNetwork, other: fxsnn.SpikingNetwork, x: Tensor) -> None:
    """The same spikes in every layer, and the same logits."""
    expected, found = one.simulate(x), other.simulate(x)
    assert same(found.spikes, expected.spikes)
    assert torch.equal(found.logits, expected.logits)
    assert found.membrane_range == expected.membrane_range
    with torch.no_grad():
        assert torch.equal(other(x), one(x))


class TestWhatIsSavedComesBack:
    @cases("name", CONVERTIBLE, quick=("modules", "one relu", "dense", "hand-written"))
    @cases("bits", [4, 1], quick=1)
    def test_spikes_logits_and_everything_said_about_it(self, name: str, bits: int, tmp_path: Path) -> None:
        snn = network(CONVERTIBLE[name], bits=bits)
        loaded = fxsnn.load(snn.save(tmp_path / "net.fxsnn"))
        assert_same(snn, loaded, images(6, seed=3))
        assert loaded.target == snn.target
        assert loaded.dynamics == snn.dynamics
        assert loaded.provenance == snn.provenance
        assert loaded.profile(images()).to_dict() == snn.profile(images()).to_dict()
        assert fxsnn.verify(tmp_path / "net.fxsnn").ok

    @random_seeds(2, slow=28)
    def test_of_every_random_network(self, seed: int, tmp_path: Path) -> None:
        case = convertible_case(seed)
        path = case.snn.save(tmp_path / "net.fxsnn")
        assert_same(case.snn, fxsnn.load(path), noise(case.plan, 3, seed))
        assert fxsnn.verify(path).ok
        assert read_network.main(str(path)) == 0

    @pytest.mark.parametrize("reset", ["subtraction", "zero"])
    @pytest.mark.parametrize("start", [0, 0.5])
    def test_the_dynamics_are_those_that_were_set_last(self, reset: str, start: float, tmp_path: Path) -> None:
        snn = network()
        snn.timesteps, snn.reset, snn.initial_membrane = 9, reset, start
        loaded = fxsnn.load(snn.save(tmp_path / "net.fxsnn"))
        assert_same(snn, loaded, images())
        assert (loaded.timesteps, loaded.reset, loaded.initial_membrane) == (9, reset, start)

    def test_an_analog_input_padding_in_words_and_a_target_of_ones_own(self, tmp_path: Path) -> None:
        def build() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(3, 4, 4, padding="same"), nn.ReLU(), nn.Conv2d(4, 4, 3, padding="valid"), nn.ReLU(),
                nn.Flatten(), nn.Linear(400, 5),
            )  # fmt: skip

        mine = fxsnn.HardwareTarget("mine", input_channels={(4, 4): {2: 8}, (3, 3): {2: 8}}, core_inputs=256)
        snn = network(build, target=mine, input_bits=None)
        loaded = fxsnn.load(snn.save(tmp_path / "net.fxsnn"))
        assert_same(snn, loaded, images())
        assert loaded.target == mine

    def test_a_tail_of_calls_and_tensors(self, tmp_path: Path) -> None:
        class Scaled(Small):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.full((5,), 0.5))

            def forward(self, x: Tensor) -> Any:
                logits = super().forward(x) * self.scale / 2 + 1
                return torch.tanh(logits.view(logits.size(0), -1)).sum(dim=1, keepdim=True) - logits[:, 1:3].mean(
                    1, True
                )

        with pytest.raises(FileError, match=r"this call of getitem has no name"):
            network(Scaled).save(tmp_path / "net.fxsnn")

        class Plain(Scaled):
            def forward(self, x: Tensor) -> Any:
                logits = Small.forward(self, x) * self.scale / 2 + 1
                return torch.tanh(logits.view(logits.size(0), -1)).sum(dim=1, keepdim=True) - logits.mean(1, True)

        snn = network(Plain)
        assert_same(snn, fxsnn.load(snn.save(tmp_path / "net.fxsnn")), images())

    def test_a_buffer_that_pytorch_does_not_keep(self, tmp_path: Path) -> None:
        class Shifted(Small):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("shift", torch.arange(5.0), persistent=False)

            def forward(self, x: Tensor) -> Any:
                return super().forward(x) - self.shift

        snn = network(Shifted)
        assert_same(snn, fxsnn.load(snn.save(tmp_path / "net.fxsnn")), images())

    @cases("cast", ["half", "double", "bfloat16"], quick=1)
    def test_a_network_that_was_cast_and_back(self, cast: str, tmp_path: Path) -> None:
        for snn in (getattr(network(), cast)(), getattr(network(), cast)().float()):
            loaded = fxsnn.load(snn.save(tmp_path / "net.fxsnn"))
            assert_same(snn, loaded, images().to(snn.get_submodule("fc").weight.dtype))
            assert fxsnn.verify(tmp_path / "net.fxsnn").ok

    @cases("tail", [lambda x: x.argmax(1), lambda x: x.sum(1), lambda x: 2 * x + 1], quick=1)
    def test_a_tail_that_gives_one_number_a_class_or_scaled_logits(self, tail: Any, tmp_path: Path) -> None:
        class Ended(Small):
            def forward(self, x: Tensor) -> Any:
                return tail(super().forward(x))

        snn = network(Ended)
        assert_same(snn, fxsnn.load(snn.save(tmp_path / "net.fxsnn")), images())
        assert fxsnn.verify(tmp_path / "net.fxsnn").ok

    def test_numbers_of_numpy_among_the_options(self, tmp_path: Path) -> None:
        snn = network(bits={"conv1": np.int64(2)}, per_channel=np.True_, input_bits=np.int64(8))
        assert fxsnn.load(snn.save(tmp_path / "net.fxsnn")).provenance["options"]["bits"] == {"conv1": 2}

    def test_saving_what_was_loaded_gives_the_same_file_to_the_byte(self, file: Path, tmp_path: Path) -> None:
        again = fxsnn.load(file).save(tmp_path / "again.fxsnn")
        assert again.read_bytes() == file.read_bytes()

    def test_engines_can_be_chosen(self, file: Path) -> None:
        assert fxsnn.load(file, engine="torch").engine == "torch"
        with pytest.raises(OptionError, match="engine"):
            fxsnn.load(file, engine="gpu")


class TestTheFile:
    def test_is_what_the_schema_says_and_is_read_without_fxsnn(self, file: Path) -> None:
        with safe_open(file, framework="np") as arrays:
            document = json.loads(arrays.metadata()["fxsnn"])
            names = set(arrays.keys())
        from jsonschema import Draft202012Validator

        Draft202012Validator.check_schema(schema(1))
        Draft202012Validator(schema(1)).validate(document)
        assert {
            "conv1.codes",
            "conv1.threshold",
            "fc.weight",
            "golden/images",
            "golden/spikes/conv1",
            "sha256",
        } <= names
        assert [node["op"] for node in document["nodes"]] == [
            "images", "encode", "spike_conv2d", "spike_avg_pool2d", "spike_conv2d", "flatten", "spike_linear", "decode",
            "linear", "output",
        ]  # fmt: skip

    def test_takes_a_tenth_of_the_float_weights_at_two_bits(self, tmp_path: Path) -> None:
        from networks import DigitNet

        model = seeded(DigitNet)
        snn = network(DigitNet, calibration_data=images(8, 1, 28))
        with_vectors = snn.save(tmp_path / "a.fxsnn").stat().st_size
        size = snn.save(tmp_path / "b.fxsnn", golden=0).stat().st_size
        weights = sum(4 * one.weight.numel() for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear))
        assert size < weights / 10
        assert with_vectors > size

    def test_says_where_the_network_comes_from(self, file: Path) -> None:
        provenance = fxsnn.load(file).provenance
        assert provenance["versions"]["fxsnn"] == fxsnn.__version__
        assert provenance["options"]["calibration"] == "auto"
        assert "QuantizeWeights(bits=2, per_channel=True, codebook='symmetric')" in provenance["passes"]

    def test_the_reader_in_numpy_gives_the_golden_spikes_and_notices_others(
        self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert read_network.main(str(file)) == 0
        assert "conv2: " in capsys.readouterr().out
        assert read_network.main(str(changed(file, tmp_path, flip_a_spike))) == 1
        assert " 1 wrong" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("tail", "status", "says"),
        [
            ((nn.AdaptiveAvgPool2d((2, 5)), nn.Flatten(), nn.Linear(80, 5)), 0, "logits differ by"),
            (
                (nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)),
                2,
                "does not know adaptive_avg_pool2d; the logits",
            ),
        ],
    )
    def test_the_reader_says_what_it_cannot_check(
        self, tail: tuple[nn.Module, ...], status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = network(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *tail)).save(tmp_path / "net.fxsnn")
        assert read_network.main(str(path)) == status
        assert says in capsys.readouterr().out

    def test_the_reader_says_that_there_is_nothing_to_check(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert read_network.main(str(network().save(tmp_path / "net.fxsnn", golden=0))) == 2
        assert "no golden vectors" in capsys.readouterr().out

    def test_the_reader_needs_numpy_alone(self, file: Path) -> None:
        program = "import sys, runpy; sys.argv[0:] = [sys.argv[1], sys.argv[2]]; "
        program += "sys.modules.update(dict.fromkeys(('torch', 'fxsnn', 'safetensors')))\n"
        program += "runpy.run_path(sys.argv[0], run_name='__main__')"
        reader = REPOSITORY / "examples" / "read_network.py"
        done = subprocess.run(
            [sys.executable, "-c", program, reader, file], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def changed(file: Path, folder: Path, edit: Edit) -> Path:
    """The file with other content under a new seal."""
    arrays, document = load_arrays(file)
    edit(document, arrays)
    return save_arrays(folder / "changed.fxsnn", arrays, document)


def flip_a_spike(_: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    arrays["golden/spikes/conv2"][3] ^= 4


class TestGoldenVectors:
    def test_are_of_calibration_images_or_of_those_that_are_given(self, tmp_path: Path) -> None:
        snn = network()
        arrays, _ = load_arrays(snn.save(tmp_path / "a.fxsnn"))
        assert torch.equal(arrays["golden/images"], images(32)[:2])
        arrays, _ = load_arrays(snn.save(tmp_path / "b.fxsnn", golden=images(3, seed=7)))
        assert torch.equal(arrays["golden/images"], images(3, seed=7))
        spikes = np.unpackbits(arrays["golden/spikes/hidden"].numpy(), bitorder="little")
        expected = snn.simulate(images(3, seed=7)).spikes["hidden"].flatten()
        assert torch.equal(torch.from_numpy(spikes)[: len(expected)].float(), expected)

    def test_are_of_noise_where_the_network_saw_no_images(self, tmp_path: Path) -> None:
        arrays, _ = load_arrays(network(calibration_data=None).save(tmp_path / "a.fxsnn", golden=1))
        assert arrays["golden/images"].shape[0] == 1
        assert fxsnn.verify(tmp_path / "a.fxsnn").ok

    def test_are_missing_with_a_warning_where_no_image_is_known(self, tmp_path: Path) -> None:
        snn = network()
        bare = fxsnn.SpikingNetwork(snn.graph, snn.target)
        with pytest.warns(fxsnn.FxsnnWarning, match="pass golden=images"):
            path = bare.save(tmp_path / "a.fxsnn")
        assert_same(snn, fxsnn.load(path), images())
        with pytest.raises(FileError, match="no golden vectors"):
            fxsnn.verify(path)

    @pytest.mark.parametrize("golden", [-1, 1.5, "two", None])
    def test_their_number_must_be_one(self, golden: Any, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="golden is"):
            network().save(tmp_path / "a.fxsnn", golden=golden)

    def test_verify_names_the_layer_whose_spikes_differ(self, file: Path, tmp_path: Path) -> None:
        found = fxsnn.verify(changed(file, tmp_path, flip_a_spike))
        assert not found.ok
        assert found.wrong == {"conv1": 0, "pool": 0, "conv2": 1, "hidden": 0}
        assert "conv2: 1 spikes are missing or too many" in str(found)
        assert json.loads(json.dumps(found.to_dict()))["ok"] is False

    def test_verify_notices_other_weights(self, file: Path, tmp_path: Path) -> None:
        def edit(_: dict[str, Any], arrays: dict[str, Tensor]) -> None:
            arrays["fc.weight"] = -arrays["fc.weight"]
            arrays["hidden.leak"] = arrays["hidden.leak"] + 5000

        found = fxsnn.verify(changed(file, tmp_path, edit))
        assert found.wrong["hidden"] > 0
        assert found.logits > 0.1


class TestVersions:
    def test_a_file_of_version_1_still_loads(self) -> None:
        path = REPOSITORY / "tests" / "files" / "version_1.fxsnn"
        assert fxsnn.verify(path).ok
        assert fxsnn.load(path).timesteps == 5

    def test_a_file_of_version_2_still_loads(self) -> None:
        path = REPOSITORY / "tests" / "files" / "version_2.fxsnn"
        assert fxsnn.verify(path).ok
        assert {str(row.levels) for row in fxsnn.load(path).report.layers if row.levels} == {"(-1, 0, 1)"}

    def test_a_file_of_version_3_still_loads(self) -> None:
        path = REPOSITORY / "tests" / "files" / "version_3.fxsnn"
        assert fxsnn.verify(path).ok
        assert (-3, -1, 1, 3) in {row.levels for row in fxsnn.load(path).report.layers}

    def test_a_newer_version_is_refused_with_what_to_do(self, file: Path, tmp_path: Path) -> None:
        def edit(document: dict[str, Any], _: Any) -> None:
            document["version"] = 5
            document["something new"] = 1

        with pytest.raises(FileError, match=r"it has version 5; .* up to 4\. Install a newer fxsnn"):
            fxsnn.load(changed(file, tmp_path, edit))

    def test_a_target_of_that_name_with_other_limits_is_refused_unless_one_is_chosen(
        self, file: Path, tmp_path: Path
    ) -> None:
        def edit(document: dict[str, Any], _: Any) -> None:
            document["target"]["registers"]["threshold"] = 20

        path = changed(file, tmp_path, edit)
        with pytest.raises(FileError, match=r"target 'hw_v1\.0' with other registers"):
            fxsnn.load(path)
        assert_same(fxsnn.load(path, target="hw_v1.0"), fxsnn.load(file), images())

    def test_another_target_is_held_against_its_limits(self, file: Path) -> None:
        narrow = fxsnn.HardwareTarget("narrow", registers=fxsnn.Registers(threshold=4), input_channels={(3, 3): {2: 2}})
        with pytest.raises(FileError, match=r"(?s)conv1: its threshold .*narrow.*conv1: its 3x3 kernel reads 3"):
            fxsnn.load(file, target=narrow)


class TestSaving:
    def test_what_has_no_name_in_the_format_is_listed_and_nothing_is_written(self, tmp_path: Path) -> None:
        class Strange(Small):
            def forward(self, x: Tensor) -> Any:
                return torch.sort(torch.erf(super().forward(x)))[0]

        with pytest.raises(FileError, match=r"(?s)erf.*test_loading.py:\d+.*has no name.*sort"):
            network(Strange).save(tmp_path / "net.fxsnn")
        assert list(tmp_path.iterdir()) == []

    def test_a_name_that_files_do_not_allow_is_told(self, tmp_path: Path) -> None:
        model = seeded(Small)
        for name in ("conv 1", "größe"):
            inner = nn.Sequential()
            inner.add_module(name, nn.Conv2d(3, 4, 3))
            inner.add_module("relu", nn.ReLU())
            odd = partial(nn.Sequential, inner, nn.Flatten(), nn.Linear(400, 5))
            with pytest.raises(
                FileError, match=rf"0\.{name}.*: files allow letters of ASCII, digits, _ and - in its name.*Rename"
            ):
                network(odd).save(tmp_path / "net.fxsnn")
        assert model.training is False

    def test_golden_images_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="golden/images' has values that are NaN or infinite"):
            network().save(tmp_path / "net.fxsnn", golden=torch.full((1, 3, 12, 12), torch.inf))

    def test_a_link_stays_one_and_what_is_no_file_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "link.fxsnn").symlink_to(tmp_path / "real.fxsnn")
        network().save(tmp_path / "link.fxsnn")
        assert (tmp_path / "link.fxsnn").is_symlink()
        assert fxsnn.verify(tmp_path / "real.fxsnn").ok
        with pytest.raises(FileError, match="it exists and is not a file"):
            network().save(tmp_path)

    def test_a_failure_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = network().save(tmp_path / "net.fxsnn")
        old = path.read_bytes()

        def fail(*_: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(FileError, match="cannot be written: disk full"):
            network(bits=4).save(path)
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]

    def test_a_provenance_that_is_set_is_kept(self, tmp_path: Path) -> None:
        snn = network()
        snn.provenance = {**snn.provenance, "data": "letters"}
        assert fxsnn.load(snn.save(tmp_path / "net.fxsnn")).provenance == snn.provenance
        with pytest.raises(OptionError, match="provenance is"):
            snn.provenance = "letters"  # type: ignore[assignment]

    def test_a_provenance_that_is_no_plain_data_is_told(self, tmp_path: Path) -> None:
        snn = network()
        odd = fxsnn.SpikingNetwork(snn.graph, snn.target, provenance={"made by": {"us"}})
        with pytest.raises(FileError, match=r"net\.fxsnn cannot be written: what describes it is no plain data"):
            odd.save(tmp_path / "net.fxsnn", golden=0)

    def test_a_folder_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileError, match="nowhere"):
            network().save(tmp_path / "nowhere" / "net.fxsnn")


@pytest.mark.parametrize("every", [120, pytest.param(1, marks=pytest.mark.slow)])
def test_every_damaged_file_is_refused_and_none_does_anything(every: int, file: Path, tmp_path: Path) -> None:
    (tmp_path / "good.fxsnn").write_bytes(file.read_bytes())
    trap = tmp_path / "ran"
    files = damaged(tmp_path, tmp_path / "good.fxsnn", trap, every)
    assert len(files) > 300 // every
    names = json.loads((tmp_path / "names.json").read_text())
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "tests.damage", tmp_path], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes = {f"{name} {names[name]}": outcome for name, outcome in json.loads(done.stdout).items()}
    assert len(outcomes) == len(files)
    assert {name: outcome for name, (outcome, _) in outcomes.items() if not outcome.startswith("FileError: ")} == {}
    # Below a second each on an idle core; a file that is expensive by its making would take minutes.
    assert {name: seconds for name, (_, seconds) in outcomes.items() if seconds > 10} == {}
    assert sorted(tmp_path.iterdir()) == before
    assert not trap.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.fxsnn cannot be read: No such file"):
        fxsnn.load(tmp_path / "none.fxsnn")
