"""How far something is: where it is shown how, and where not at all."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fxsnn
from fxsnn.display import progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def written(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, show: bool = True, **options: Any) -> str:
    """What going through three items writes."""
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar([1, 2, 3], "counting", show=show, **options)) == [1, 2, 3]
    return stream.getvalue()


def test_a_terminal_has_a_bar_that_overwrites_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = written(monkeypatch, Terminal())
    assert "\rcounting: 100%|" in shown
    assert shown.count("\n") == 1


def test_a_bar_goes_when_it_is_not_to_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\n" not in written(monkeypatch, Terminal(), leave=False)


def test_a_log_has_lines_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = written(monkeypatch, io.StringIO()).splitlines()
    assert first.startswith("counting: 0 of 3 [00:00<")
    assert last.startswith("counting: 3 of 3 [00:00<00:00")


def test_and_one_between_whenever_some_seconds_have_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    lines = written(monkeypatch, io.StringIO()).splitlines()
    assert [line[:16] for line in lines] == [f"counting: {done} of 3" for done in (0, 1, 2, 3)]


def test_a_number_of_items_that_nobody_knows_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar(iter([1, 2]), "counting", show=True)) == [1, 2]
    assert stream.getvalue().splitlines()[-1].startswith("counting: 2 of ?")


def test_a_notebook_has_a_bar_though_it_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_notebook(monkeypatch)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    assert "\rcounting: 100%|" in written(monkeypatch, io.StringIO())


def test_a_notebook_with_ipywidgets_has_a_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_notebook(monkeypatch)
    drawn = []

    def widget(items: Any, **options: Any) -> Any:
        drawn.append(options)
        return items

    stand_in = ModuleType("tqdm.notebook")
    stand_in.tqdm = widget  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm.notebook", stand_in)
    monkeypatch.setattr(progress, "find_spec", lambda name: stand_in)
    assert written(monkeypatch, io.StringIO(), total=3) == ""
    assert drawn == [{"desc": "counting", "total": 3, "leave": True}]


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("notebook", [True, False])
def test_nothing_is_written_where_nothing_is_to_be_shown(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], *, notebook: bool
) -> None:
    if notebook:
        in_a_notebook(monkeypatch)
    assert written(monkeypatch, stream(), show=False) == ""


@pytest.mark.parametrize("show", [True, False])
def test_a_conversion_says_how_far_it_is_when_it_is_asked_to(capsys: pytest.CaptureFixture[str], *, show: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    images, labels = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])
    snn = fxsnn.convert(
        model,
        target="generic",
        bits=4,
        timesteps=2,
        calibration_data=images,
        correction="biases",
        finetune=fxsnn.Finetune((images, labels), epochs=2),
        progress=show,
    )
    fxsnn.sweep(snn, (images, labels), timesteps=2, progress=show)
    lines = capsys.readouterr().err.splitlines()
    titles = [line.partition(":")[0] for line in lines]
    assert sorted(set(titles)) == (["calibrating", "correcting", "fine-tuning", "sweeping T"] if show else [])
    assert len(lines) == 2 * len(set(titles))  # fine-tuning too: not a line a batch
    assert not show or any("loss=" in line and "accuracy=" in line for line in lines)
