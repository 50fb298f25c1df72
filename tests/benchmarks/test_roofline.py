"""The engine beside bare loops: a page with a column for each instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines import needs_numba


@needs_numba
@pytest.mark.slow
def test_each_instruction_set_has_a_column_and_each_convolution_a_row(tmp_path: Path) -> None:
    import roofline

    from fxsnn.engine.instructions import usable

    arguments = ["--networks", "DigitNet, 4 bits", "--timesteps", "4", "--rounds", "1", "--out", str(tmp_path)]
    assert roofline.main(arguments) == 0
    page = (tmp_path / "roofline.md").read_text()
    sets = list(usable())
    assert f"| layer | {' | '.join(sets)} |" in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| bare", "| features", "| DigitNet"))]
    assert [len(row) for row in rows] == [1 + len(sets)] * 6 + [4 + len(sets)]
    assert all(float(cell.strip("| ").split(" ")[0].replace(",", "")) > 0 for row in rows for cell in row[1:])
