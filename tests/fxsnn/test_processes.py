"""Several processes give what one gives: networks, files and figures to the bit, trainings within rounding."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import fxsnn
from fxsnn.errors import Finding, ModelError, OptionError, TargetError
from fxsnn.processes import gathered, in_turn, is_first, largest, numbered, of_first, own_share, share, summed
from tests.sharing import cases

SCRIPT = Path(__file__).parents[1] / "together.py"
ROOT = SCRIPT.parents[1]


def environment() -> dict[str, str]:
    """One thread each: sums in several threads may be rounded otherwise."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))}
    here = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}  # whatever the machine's name leads to
    return {**plain, **here, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def launcher(count: int) -> list[str]:
    """What starts so many processes."""
    if count == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]


def done(task: str, count: int, folder: Path) -> Any:
    """What so many processes found."""
    result = folder / f"{task}-{count}.json"
    run = subprocess.run(
        [*launcher(count), str(SCRIPT), task, str(result)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(result.read_text())


@cases("count", [2, 3], quick=1)
def test_networks_files_and_figures_are_those_of_one_process(count: int, tmp_path: Path) -> None:
    expected, found = (done("conversions", one, tmp_path) for one in (1, count))
    assert found == expected
    assert (tmp_path / f"{count}.fxsnn").read_bytes() == (tmp_path / "1.fxsnn").read_bytes()
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".fxsnn")]


@cases("count", [2, 3], quick=0)
def test_trainings_are_those_of_one_process_within_rounding(count: int, tmp_path: Path) -> None:
    expected, found = (done("trainings", one, tmp_path) for one in (1, count))
    assert found.keys() == expected.keys()
    for name, epochs in expected.items():
        assert len(found[name]) == len(epochs) > 0
        for one, other in zip(found[name], epochs, strict=True):
            for figure in ("loss", "accuracy", "validation"):
                wanted = other[figure] if other[figure] is None else pytest.approx(other[figure], rel=1e-4)
                assert one[figure] == wanted, (name, figure)
            assert (one["number"], one["spiking"], one["lr"]) == (other["number"], other["spiking"], other["lr"])


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    losses, _ = done("half_a_training", 1, whole)
    first, told = done("half_a_training", 2, parts)
    second, _ = done("half_a_training", 3, parts)
    rest, end = done("half_a_training", 1, parts)
    assert (told, end) == ("enough", "")  # what `on_epoch` of the first process raises, all raise
    assert [len(one) for one in (losses, first, second, rest)] == [3, 1, 1, 1]
    assert first + second + rest == pytest.approx(losses, rel=1e-4)


def test_what_one_process_raises_all_raise(tmp_path: Path) -> None:
    found = done("errors", 2, tmp_path)
    assert found["calibration"] == "DataError: calibration images contain infinite values"
    assert found["a loader"] == "RuntimeError: no such picture"
    assert found["labels"].startswith("DataError: labels go from 50 to 53; the network has 4 classes")
    assert found["training"].startswith("DataError: labels go from 50 to 53; the network has 4 classes")
    assert found["a network"].startswith("ModelError: ")
    assert found["a training loader"] == "OSError: no such file"
    assert found["saving"].endswith("net.fxsnn cannot be written: no room")
    assert found["warnings"].startswith(("AccuracyWarning: ", "CalibrationWarning: "))
    assert (found["loaded"], found["on_epoch"]) == ("SpikingNetwork", "1")


def test_outside_each_process_works_for_itself(tmp_path: Path) -> None:
    assert done("alone", 2, tmp_path)


MODEL = """
import os, signal, time, fxsnn

def net():
    return fxsnn.datasets.digit_net()

def killed():
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return fxsnn.datasets.digit_net()

def wrong():
    if os.environ["RANK"] == "1":
        raise RuntimeError("only here")
    time.sleep(60)
"""


def command(count: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the command line, run by so many processes."""
    (folder / "net.py").write_text(MODEL)
    start = launcher(count) if count > 1 else [sys.executable]
    return subprocess.run(
        [*start, "-m", "fxsnn", *arguments],
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


MADE = (
    "--bits",
    "2",
    "--data",
    "digits",
    "--timesteps",
    "4",
    "--calibration-images",
    "200",
    "--accuracy-images",
    "100",
)


@pytest.mark.slow
def test_commands_print_and_write_once(tmp_path: Path) -> None:
    files = {}
    for count in (1, 2):
        run = command(count, tmp_path, "convert", "net.py:net", *MADE, "-o", f"{count}.fxsnn")
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("written in") == 1
        assert run.stderr.count("warning: without --weights") == 1
        files[count] = (tmp_path / f"{count}.fxsnn").read_bytes()
    assert files[1] == files[2]
    answers = [json.loads(command(count, tmp_path, "eval", "2.fxsnn", "--json").stdout) for count in (1, 2)]
    assert answers[0] == answers[1]
    refused = command(2, tmp_path, "convert", "net.py:net", "--bits", "9")
    assert refused.stderr.count("OptionError: ") == 1


@cases("how, told", [("killed", "Signal 9 (SIGKILL)"), ("wrong", "only here")], quick=0)
def test_a_process_that_ends_ends_the_run_and_is_named(how: str, told: str, tmp_path: Path) -> None:
    start = time.monotonic()
    run = command(2, tmp_path, "convert", f"net.py:{how}", *MADE, "-o", "net.fxsnn")
    assert time.monotonic() - start < 50
    assert run.returncode != 0
    assert told in run.stderr
    assert "rank      : 1" in run.stderr
    assert not (tmp_path / "net.fxsnn").exists()


@pytest.mark.slow
def test_an_interrupted_run_ends(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    arguments = [*launcher(2), "-m", "fxsnn", "convert", "net.py:net", *MADE, "--finetune-epochs", "500"]
    with subprocess.Popen(
        arguments, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "fine-tuning" in line:
                break
        run.send_signal(signal.SIGINT)
        rest = run.communicate(timeout=60)[1]
    assert run.returncode != 0
    assert rest.count("\ninterrupted\n") + rest.startswith("interrupted\n") == 1
    assert not (tmp_path / "net.fxsnn").exists()


def test_alone_all_is_its_own() -> None:
    assert share() == (0, 1)
    assert is_first()
    assert list(own_share(range(3))) == list(in_turn(range(3), int)) == [0, 1, 2]
    assert list(numbered("ab")) == [(0, "a"), (1, "b")]
    assert gathered(7) == [7]
    assert of_first(7) == int(summed(torch.tensor(7))) == int(largest(torch.tensor(7))) == 7


def test_without_a_process_group_it_says_what_to_do() -> None:
    with pytest.raises(OptionError, match=r"not initialised: run the script by torchrun and call .*init_process_group"):
        fxsnn.across_processes().__enter__()


def test_a_group_of_one_is_alone(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with fxsnn.across_processes():
            assert share() == (0, 1)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("error", [ModelError([Finding("conv", "it is odd", "Leave it out")]), TargetError([], "fit")])
def test_errors_can_be_sent(error: ModelError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), other.findings) == (type(error), str(error), error.findings)
    assert getattr(other, "report", None) == getattr(error, "report", None)
