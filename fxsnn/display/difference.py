"""What a pass changed: the nodes of two graphs side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape

from fxsnn.display.tables import folded, html

Line = tuple[str, str, str, str]
"""A line of a graph: name, what it calls, what it reads, hash of its tensors."""

# Okabe and Ito's palette, made light: told apart by colour-blind eyes.
_COLOURS = {"added": "#cfe3f1", "removed": "#f7dfcc", "replaced": "#f6efc5", "rewired": ""}


@dataclass(frozen=True)
class Change:
    """A node that is not what it was.

    Attributes:
        before: its line before, `None` where it was not there.
        after: its line after, `None` where it is gone.
    """

    before: Line | None
    after: Line | None

    @property
    def name(self) -> str:
        """The name of the node."""
        line = self.after or self.before
        assert line is not None
        return line[0]

    @property
    def kind(self) -> str:
        """ "added", "removed", "replaced" (another call, or other tensors), or "rewired" (it reads something else)."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        return "rewired" if (self.before[1], self.before[3]) == (self.after[1], self.after[3]) else "replaced"


@dataclass(frozen=True)
class Diff:
    """The difference of two graphs; `print` it, or let a notebook show it.

    Attributes:
        before: lines of the graph before.
        after: lines of the graph after.
        title: what made the difference.
    """

    before: tuple[Line, ...]
    after: tuple[Line, ...]
    title: str

    def changes(self) -> list[Change]:
        """Every node that is not what it was, in the order of the graphs."""
        old_names, new_names = ([line[0] for line in lines] for lines in (self.before, self.after))
        found: list[Change] = []
        for kind, a, b, c, d in SequenceMatcher(a=old_names, b=new_names, autojunk=False).get_opcodes():
            if kind == "equal":
                pairs = zip(self.before[a:b], self.after[c:d], strict=True)
                found += [Change(old, new) for old, new in pairs if old != new]
            else:
                found += [Change(line, None) for line in self.before[a:b]]
                found += [Change(None, line) for line in self.after[c:d]]
        return found

    def lines(self) -> list[str]:
        """Changed lines, each behind `-` or `+`."""
        sides = ((mark, line) for one in self.changes() for mark, line in (("-", one.before), ("+", one.after)))
        return ["  ".join([mark + line[0], *filter(None, line[1:])]) for mark, line in sides if line is not None]

    def summary(self) -> str:
        """One line: which kinds of layers became which."""
        counts = Counter(filter(None, map(_in_words, self.changes())))
        return ", ".join(f"{what} ({count})" if count > 1 else what for what, count in counts.items()) or (
            "other connections only" if self.changes() else "nothing changed"
        )

    def __str__(self) -> str:
        return "\n".join([f"{self.title}: {self.summary()}", *self.lines()])

    def _repr_html_(self) -> str:
        changes = self.changes()
        if not changes:
            return f"<p>{escape(self.title)}: nothing changed</p>"
        rows = [("", "name", "before", "after")]
        rows += [(one.kind, one.name, _cell(one.before), _cell(one.after)) for one in changes]
        table = html(rows, [_COLOURS[one.kind] for one in changes], wrap=True)
        return folded(f"{self.title}: {self.summary()}", table, len(changes))


def _cell(line: Sequence[str] | None) -> str:
    return "" if line is None else f"{line[1]} {line[3]}".strip()


def _in_words(change: Change) -> str:
    old, new = (None if line is None else _class(line) for line in (change.before, change.after))
    if old is None:
        return f"{new} added"
    if new is None:
        return f"{old} removed"
    if change.kind == "rewired":
        return ""
    return f"{old} changed" if old == new else f"{old} → {new}"


def _class(line: Line) -> str:
    return line[1].partition("(")[0] or "function"
