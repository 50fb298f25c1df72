"""Finding targets: ours by listing `fxsnn.hwtargets`, third parties' through entry points.

A third party ships a target in its own package and names it in its `pyproject.toml`:

    [project.entry-points."fxsnn.targets"]
    acme_v1 = "acme_chip:TARGET"
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from fxsnn.chip.hardware import HardwareTarget
from fxsnn.errors import PluginError, UnknownName

ENTRY_POINT_GROUP = "fxsnn.targets"
BUILT_IN = "fxsnn.hwtargets"


@dataclass(frozen=True)
class TargetSource:
    """Where a target comes from.

    Attributes:
        name: what users write as `target=`.
        origin: the module or the distribution that gives it.
        entry_point: set for third parties' targets; they are imported only when they are asked for.
        target: set for ours.
    """

    name: str
    origin: str
    entry_point: EntryPoint | None = None
    target: HardwareTarget | None = None

    def load(self) -> HardwareTarget:
        """The target itself.

        Raises:
            PluginError: the plug-in cannot be imported, gives no `HardwareTarget`, or one of another name.
        """
        if self.target is not None:
            return self.target
        assert self.entry_point is not None
        try:
            loaded = self.entry_point.load()
        except Exception as error:
            raise PluginError(f"target {self.name!r} of {self.origin} cannot be loaded: {error!r}") from error
        if not isinstance(loaded, HardwareTarget):
            raise PluginError(f"target {self.name!r} of {self.origin} is a {type(loaded).__name__}, no HardwareTarget")
        if loaded.name != self.name:
            raise PluginError(
                f"target {self.name!r} of {self.origin} calls itself {loaded.name!r}; "
                "the entry point and the target must have one name"
            )
        return loaded


def target_sources() -> Mapping[str, TargetSource]:
    """Every target that can be named, by name; third parties' are not imported.

    Raises:
        PluginError: two sources give the same name; the message names both.
    """
    sources: dict[str, TargetSource] = {}
    for source in [*_built_in(), *_installed()]:
        if source.name in sources:
            raise PluginError(
                f"target {source.name!r} is given twice: by {sources[source.name].origin} and by {source.origin}; "
                "rename one or uninstall one"
            )
        sources[source.name] = source
    return sources


def _built_in() -> list[TargetSource]:
    # Targets are found, not imported: they stand above, and import what a target is from here.
    folder = importlib.import_module(BUILT_IN)
    sources = []
    for module_info in pkgutil.iter_modules(folder.__path__, f"{BUILT_IN}."):
        target: HardwareTarget = importlib.import_module(module_info.name).TARGET
        sources.append(TargetSource(target.name, module_info.name, target=target))
    return sources


def _installed() -> list[TargetSource]:
    return [
        TargetSource(point.name, point.dist.name if point.dist else point.value, entry_point=point)
        for point in _entry_points(tuple((path, _changed(path)) for path in sys.path))
    ]


@lru_cache(maxsize=1)
def _entry_points(places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Those of all packages in these folders, which are read again where one has changed: that takes 10 ms."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _changed(path: str) -> int:
    """When something was last put into a folder, in nanoseconds; 0 where that is not known."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


def get_target(target: str | HardwareTarget) -> HardwareTarget:
    """The target of that name.

    Args:
        target: a name that is known here (`fxsnn targets` lists them), or a `HardwareTarget`, which is given back as it
            is.

    Examples:
        >>> get_target("hw_v1.0").input_channel_limit((3, 3), 2)
        56

    Raises:
        UnknownName: there is no such target; the message lists those that exist.
        PluginError: the plug-in that gives it is broken.
    """
    if isinstance(target, HardwareTarget):
        return target
    sources = target_sources()
    if not isinstance(target, str) or target not in sources:
        known = ", ".join(sorted(sources))
        raise UnknownName(f"unknown target {target!r}; known: {known}. A HardwareTarget object is accepted too")
    return sources[target].load()
