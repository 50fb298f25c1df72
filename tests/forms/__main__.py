"""Writes the page anew: `make forms`, or `python -m tests.forms`."""

from __future__ import annotations

from pathlib import Path

from tests.forms.page import page

PAGE = Path(__file__).parents[2] / "docs" / "forms.md"

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
