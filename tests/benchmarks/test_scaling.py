"""The benchmark of several processes runs, on few images, and its arithmetic is that of its page."""

from __future__ import annotations

import pytest
import scaling


@pytest.mark.slow
def test_a_table_says_what_more_processes_are_good_for(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--networks", "DigitNet", "--processes", "2", "--threads", "1", "--images", "64", "--rounds", "1"]
    assert scaling.main(few) == 0
    told = capsys.readouterr().out
    assert "| network | seconds of | 1 process, 1 thread each | 2 processes, 1 thread each |" in told
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| DigitNet |")]
    assert [row[1] for row in rows] == list(scaling.WORKS)
    assert all(float(cell.strip(" |")) > 0 for row in rows for cell in row[2:])


def test_a_ring_sends_what_every_process_has_to_know() -> None:
    here, sent = scaling.step_seconds(1.0, 1e6, 4, bandwidth=1e9, latency=0.0)
    assert here == 0.25
    assert sent == pytest.approx(2 * 3 / 4 * 4e6 / 1e9)
    assert scaling.step_seconds(1.0, 1e6, 1, 1e9, 1e-3) == (1.0, 0.0)
    assert scaling.step_seconds(1.0, 0.0, 3, 1e9, 1e-3)[1] == pytest.approx(4e-3)


def test_on_paper_large_networks_want_fast_networks() -> None:
    rows = [line.split(" | ") for line in scaling.on_paper(1.0).splitlines()[2:]]
    efficiency = {(row[0].strip("| "), row[1]): float(row[-1].strip("% |")) for row in rows}
    assert efficiency["ResNet-50", "8 GPUs, 100 GB/s"] > efficiency["ResNet-50", "64 machines, 10 Gbit/s"]
    assert efficiency["ResNet-20", "64 machines, 10 Gbit/s"] > efficiency["ResNet-50", "64 machines, 10 Gbit/s"]
