"""How networks may be written: `table.py` has the forms, `tests/test_forms.py` tries them, `docs/forms.md` shows them.

To add one, add an entry to the table and write the page anew: `python -m tests.forms`.
"""
