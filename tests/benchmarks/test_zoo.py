"""The benchmark of other people's networks says of each whether it converts, and why not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
import zoo
import zoo_report
from torch import Tensor, nn
from zoo_papers import PAPERS
from zoo_report import ACTIVATED, CONVERTED, ERROR, PARTLY, REFUSED, REPLACED, WHOLE, Answer, Entry

OPTIONS = argparse.Namespace(check=False, simulate=True, timesteps=64, engine="torch", most=1.0)


class Residual(nn.Module):
    """A block whose sum a ReLU follows, with max pooling in front."""

    def __init__(self, *, pooled: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
        self.conv, self.norm, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        return self.fc(torch.relu(self.norm(self.conv(x)) + x).mean((2, 3)))


class Multiplying(Residual):
    """Activations times activations."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(torch.relu(self.conv(x * x)).mean((2, 3)))


def pooled() -> nn.Module:
    return Residual(pooled=True)


def broken() -> nn.Module:
    raise OSError("no such weights")


@pytest.mark.slow
def test_what_converts_is_simulated_and_agrees_with_the_network_that_does_not_spike() -> None:
    entry = zoo.examined("tiny/residual", zoo.Network(Residual), OPTIONS)
    assert (entry.result, entry.reasons, entry.layers) == (CONVERTED, (), 2)
    assert entry.agreement is not None
    exact = {stage: value for stage, value in entry.agreement.items() if stage not in ("weights", "late")}
    assert exact.keys() == {"rewritten", "clipped", "rates", "spikes"}
    assert min(exact.values()) > 0.98


def test_what_converts_only_with_another_pooling_is_told_apart() -> None:
    assert zoo.examined("tiny/pooled", zoo.Network(pooled), argparse.Namespace(check=True)).result == REPLACED


@pytest.mark.slow
def test_what_is_too_large_does_not_run_for_many_timesteps() -> None:
    entry = zoo.examined("tiny/residual", zoo.Network(Residual), argparse.Namespace(**{**vars(OPTIONS), "most": 1e-6}))
    assert entry.agreement is not None
    assert (entry.layers, "late" in entry.agreement) == (2, False)


def smooth() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(4)
    )


def test_what_converts_with_other_activations_is_told_apart() -> None:
    entry = zoo.examined("tiny/smooth", zoo.Network(smooth), argparse.Namespace(check=True))
    assert (entry.result, entry.layers) == (ACTIVATED, 2)


@pytest.mark.parametrize("name", PAPERS)
def test_networks_of_papers_take_their_images(name: str) -> None:
    paper = PAPERS[name]
    with torch.device("meta"):
        model = paper.build().eval()
        assert model(torch.empty(2, *paper.size)).shape[0] == 2


def test_a_refusal_has_its_reasons_and_an_error_its_place() -> None:
    refused = zoo.examined("tiny/multiplying", zoo.Network(Multiplying), OPTIONS)
    assert refused.result == REFUSED
    assert any(reason.startswith("mul is not supported") for reason in refused.reasons)
    error = zoo.examined("tiny/broken", zoo.Network(broken), OPTIONS)
    assert (error.result, error.reasons) == (ERROR, ("OSError in test_zoo.py, broken: no such weights",))


def test_problems_are_of_one_kind_whatever_layers_and_numbers_they_name() -> None:
    assert zoo.kind("this sum has no ReLU; it is read by layer1.0.conv1, add_3") == "this sum has no ReLU"
    assert zoo.kind("it reads relu_83, which spikes, in 7 of 12 rows") == "it reads …, which spikes, in n of n rows"


def test_agreement_is_about_what_tells_images_apart() -> None:
    common, own = 100 * torch.randn(10), torch.randn(4, 10)
    assert zoo.correlation(common + own, common + own) == pytest.approx(1)
    assert zoo.correlation(common + own, common - own) == pytest.approx(-1)


def test_the_page_counts_results_and_what_stands_in_the_way(tmp_path: Path) -> None:
    entries = [
        Entry("one/a", (3, 64, 64), CONVERTED, layers=3, agreement={"weights": 0.5, "spikes": 0.99}),
        Entry("one/b", (3, 64, 64), REFUSED, ("a product",)),
        Entry("two/c", (2, 32, 32), REFUSED, ("a product", "a maximum")),
    ]
    others = {"one/a": Answer("one/a", PARTLY, ("MaxPool2d",)), "two/c": Answer("two/c", WHOLE, agreement=0.75)}
    zoo_report.write(tmp_path, {"device": "a processor"}, entries, others)
    page = (tmp_path / "zoo.md").read_text()
    for row in (
        "| one | 1 | 0 | 0 | 1 | 0 | 0 | 2 |",
        "| all | 1 | 0 | 0 | 2 | 0 | 0 | 3 |",
        "| a product | 2 | 1 |",
        "| a maximum | 1 | 0 |",
        "| all | 1 | 1 | 0 | 0 |",
        "| one/a | converted | analog layers left |  | MaxPool2d |",
        "| two/c | refused | whole | 0.750 |  |",
        "| one/a | 3x64x64 | converted | 3 |  |  | 0.500 |  | 0.990 |  |  |",
    ):
        assert row in page
    data = json.loads((tmp_path / "zoo.json").read_text())
    assert [one["name"] for one in data["networks"]] == ["one/a", "one/b", "two/c"]


def test_the_page_is_about_all_that_was_kept_and_says_that_it_is_of_several_runs(tmp_path: Path) -> None:
    for name in ("torchvision/mnasnet0_5", "a library that is not there/net"):
        zoo_report.keep(tmp_path / "rows", Entry(name, (3, 64, 64), CONVERTED, layers=3))
    asked = ["--only", "torchvision/mnasnet0_5", "--check", "--out", str(tmp_path), "--work", str(tmp_path / "rows")]
    assert zoo.main(asked) == 0
    page = (tmp_path / "zoo.md").read_text()
    assert "| torchvision/mnasnet0_5 | 3x64x64 | converted | 3 |" in page
    assert "| a library that is not there/net | 3x64x64 | converted | 3 |" in page
    assert "- networks: 2 of " in page
    assert "rows may be of several runs" in page


def test_a_network_that_there_is_not_is_an_error_that_lists_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        zoo.main(["--only", "torchvision/no_such_net"])
    assert "torchvision/resnet18" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_examines_each_network_in_a_process_that_ends_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "--only",
        "torchvision/mnasnet0_5",
        "--check",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
        "--work",
        str(tmp_path / "rows"),
    ]
    assert zoo.main(asked) == 0
    assert "| torchvision/mnasnet0_5 | 3x64x64 | converted |" in capsys.readouterr().out
    assert zoo.main([*asked, "--seconds", "1"]) == 0  # what is kept is not done again
    assert capsys.readouterr().out == ""
    assert "| not finished |" not in (tmp_path / "zoo.md").read_text().split("Every network")[1]
    assert zoo.main([*asked, "--seconds", "1", "--again"]) == 0
    assert "| not finished |" in (tmp_path / "zoo.md").read_text().split("Every network")[1]
