"""Why a rewrite leaves something as it is."""

from __future__ import annotations


class NotRewritten(Exception):  # noqa: N818  # never leaves the passes
    """What an analysis raises where a pass has to leave a node; `CheckConvRelu` makes a finding of it.

    Args:
        problem: what was found about the node.
        remedy: what to write instead.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy
