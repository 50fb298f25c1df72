"""For the reference: passes are dataclasses without a decorator, which griffe reads from the source and cannot see."""

from __future__ import annotations

from typing import Any

import griffe


class DataclassesOfPasses(griffe.Extension):
    """Give each subclass of `Pass` the decorator that its base gives it when it runs."""

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """While the source is read, before signatures of dataclasses are made."""
        if any(str(base) == "Pass" for base in cls.bases):
            dataclass = griffe.ExprName("dataclasses.dataclass")
            cls.decorators.append(griffe.Decorator(dataclass, lineno=None, endlineno=None))
