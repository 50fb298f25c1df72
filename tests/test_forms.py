"""Networks become what the page "How your network may be written" says, whichever way they are written."""

from __future__ import annotations

import re
from pathlib import Path

from tests.forms.form import Form, outcome
from tests.forms.page import page, row_of, shown
from tests.forms.table import GROUPS
from tests.sharing import cases

PAGE = (Path(__file__).parents[1] / "docs" / "forms.md").read_text(encoding="utf-8")
FORMS = [form for forms in GROUPS.values() for form in forms]


def _kind(form: Form) -> str:
    """The layer that it becomes, or how it is said what becomes of it; of those that are refused, where they stand."""
    return next(iter(re.findall("`(.+?)`", form.becomes)), form.becomes or form.at)


KINDS = list({_kind(form): form for form in reversed(FORMS)}.values())
"""One of all that become the same."""
ANEW = "write the page anew: make forms"


@cases(
    "form",
    FORMS,
    quick=KINDS,
    ids=lambda form: form.code.splitlines()[0],
)
def test_a_form_becomes_what_the_page_says(form: Form) -> None:
    found = outcome(form)
    if form.refused:
        assert form.refused in str(found.error)
    else:
        assert found.error is None
        assert found.layers.issuperset(re.findall("`(.+?)`", form.becomes))
        assert found.shapes[0] == found.shapes[1]
    assert row_of(form, found) in PAGE.splitlines(), ANEW


def test_the_page_has_these_forms_and_no_others() -> None:
    def beginning(text: str) -> list[str]:
        return [line.split(" | ")[0] if line.startswith("| ") else line for line in text.splitlines()]

    assert beginning(PAGE) == beginning(page(lambda form: f"| {shown(form)} | ")), ANEW
