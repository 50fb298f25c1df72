"""A page of HTML that needs nothing else: text, tables, and figures inside it; for light and dark screens."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from fxsnn.errors import OptionError, importing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #8886 }
summary { cursor: pointer; margin: .6rem 0 }
img { display: block; max-width: 100%; margin: 1rem 0; padding: .5rem; background: white; border-radius: 6px }
"""


@dataclass(frozen=True)
class Part:
    """A part of a page.

    Attributes:
        heading: in words, "" for none.
        content: HTML.
        draw: draws its figure into axes of matplotlib; `None`: it has none.
    """

    heading: str
    content: str
    draw: Callable[[Axes], object] | None = None


def page_of(title: str, parts: Sequence[Part]) -> str:
    """The whole page. Without matplotlib it has no figures, and says so.

    Args:
        title: in words.
        parts: in order.
    """
    written, missing = [], ""
    for part in parts:
        heading = f"<h2>{escape(part.heading)}</h2>" if part.heading else ""
        figure = ""
        if part.draw is not None:
            try:
                figure = _figure(part.draw, part.heading or title)
            except OptionError as error:
                missing = f"<p>There are no figures: they need matplotlib ({escape(str(error))}).</p>"
        written.append(f"<section>{heading}{figure}{part.content}</section>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *written, missing])
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'


def _figure(draw: Callable[[Axes], object], name: str) -> str:
    """A figure as an image inside the page: as a drawing, which stays sharp, the same at every run.

    Raises:
        OptionError: there is no matplotlib, or it cannot be imported.
    """
    with importing("matplotlib", "a figure", OptionError):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    figure, picture = Figure(figsize=(9, 4), layout="constrained"), io.BytesIO()
    with rc_context({"svg.hashsalt": "fxsnn"}):
        draw(figure.subplots())
        figure.savefig(picture, format="svg", metadata={"Date": None})
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img alt="{escape(name)}, as a figure" src="data:image/svg+xml;base64,{data}">'
