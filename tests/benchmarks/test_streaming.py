"""The benchmark of streams runs, on few frames."""

from __future__ import annotations

import pytest
import streaming


def test_a_table_says_what_a_frame_takes(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--networks", "DigitNet", "--sources", "1", "2", "--frames", "2", "--rounds", "1"]
    assert streaming.main(few) == 0
    told = capsys.readouterr().out
    assert "| network | sources | stream | stream, PyTorch | one run |" in told
    assert [line.split(" | ")[1] for line in told.splitlines() if "DigitNet" in line] == ["1", "2"]
