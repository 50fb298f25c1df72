"""What people see: tables, drawings of graphs, marked differences, plots, how far something is.

Open `tables.py` first; `plots.py` draws into matplotlib's axes. It imports only the ground (storage, errors).
"""

from fxsnn.display.difference import Diff
from fxsnn.display.drawing import Box, Drawing, draw
from fxsnn.display.page import Part, page_of
from fxsnn.display.progress import progress_bar
from fxsnn.display.tables import MARKED, Rows, aligned, folded, html

__all__ = [
    "MARKED",
    "Box",
    "Diff",
    "Drawing",
    "Part",
    "Rows",
    "aligned",
    "draw",
    "folded",
    "html",
    "page_of",
    "progress_bar",
]
