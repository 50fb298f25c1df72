"""Models and data sets that users name on a command line: `package.module:factory`, or `script.py:factory`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fxsnn.errors import Finding, FxsnnError, ModelError

_NOT_THEIRS = (
    Path(__file__).parents[1],
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
)
"""Where lines of code lie that are not the user's."""


def model_from(place: str) -> nn.Module:
    """The model that a place in the user's code gives, in evaluation mode.

    Args:
        place: `package.module:factory` or `script.py:factory`. The factory is a function or class that is called
            without arguments, or a model. A script needs no name if it has one subclass of `torch.nn.Module`.

    Raises:
        ModelError: the code cannot be found or fails, or what it gives is no model.
    """
    module, factory = _found(place)
    with failures_named(place, "Name a function or class that is called without arguments"):
        model = factory if isinstance(factory, nn.Module) else _made(place, module, factory)
    if not isinstance(model, nn.Module):
        raise ModelError([Finding(place, f"it gives a {type(model).__name__}", "Return a torch.nn.Module")])
    return model.eval()


def called(place: str, *arguments: Any) -> Any:
    """What the function that `package.module:function` or `script.py:function` names gives.

    Raises:
        ModelError: the code cannot be found or fails, or has no such function.
    """
    module, function = _found(place)
    if not callable(function):
        raise ModelError([Finding(place, f"it is a {type(function).__name__}", "Name a function")])
    with failures_named(place, "Correct that line"), _importable(module):
        return function(*arguments)


@contextmanager
def failures_named(place: str, remedy: str) -> Iterator[None]:
    """What the user's code raises becomes a finding about `place` that names the line.

    Raises:
        ModelError: the code inside raised something that is not ours.
    """
    try:
        yield
    except FxsnnError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(place, error, remedy) from error


def run(place: str) -> None:
    """Import a module or script for what it does when it is imported, for instance registering a data set.

    Raises:
        ModelError: the code cannot be found or fails.
    """
    _imported(place, place)


def _made(place: str, module: ModuleType, factory: Any) -> Any:
    if not callable(factory):
        raise ModelError([Finding(place, f"it is a {type(factory).__name__}", f"Name one of: {_candidates(module)}")])
    with _importable(module):
        return factory()


def _found(place: str) -> tuple[ModuleType, Any]:
    """The module, and what the name behind the colon stands for in it."""
    code, colon, name = place.rpartition(":")
    if not colon:
        code, name = place, ""
    if not code:
        remedy = "Write package.module:factory or script.py:factory"
        raise ModelError([Finding(place or "model", "it names no code", remedy)])
    module = _imported(code, place)
    if name:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            raise ModelError([Finding(place, f"there is no {name!r}", f"Name one of: {_candidates(module)}")])
        return module, found
    own = [one for one in vars(module).values() if _is_model_class(one) and one.__module__ == module.__name__]
    if len(own) != 1:
        found_here = f"it has {len(own)} subclasses of torch.nn.Module"
        raise ModelError([Finding(place, found_here, f"Name one, as in {place}:NAME, of: {_candidates(module)}")])
    return module, own[0]


def _is_model_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _candidates(module: ModuleType) -> str:
    """What could be meant: functions, classes and models of the module's own."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, nn.Module) or getattr(value, "__module__", None) == module.__name__)
        and (callable(value) or isinstance(value, nn.Module))
    ]
    return ", ".join(own) or "(it has none)"


def _imported(code: str, place: str) -> ModuleType:
    try:
        if code.endswith(".py"):
            return _script(Path(code), place)
        with _on_path(Path.cwd()):
            return importlib.import_module(code)
    except FxsnnError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{code}.".startswith(f"{error.name}."):
            remedy = "Install it, call fxsnn from the folder that it is in, or name a script such as net.py"
            raise ModelError([Finding(place, f"there is no module {error.name!r}", remedy)]) from error
        raise _failed(place, error, "Correct that line") from error


def _script(path: Path, place: str) -> ModuleType:
    if not path.is_file():
        raise ModelError([Finding(place, f"there is no file {path}", "Give the path of a script, or package.module")])
    file = path.resolve()
    for known in list(sys.modules.values()):  # a script that is named twice runs once
        if getattr(known, "__file__", None) == str(file):
            return known
    name = path.stem
    while name in sys.modules:
        name = f"{name}_"
    specification = importlib.util.spec_from_file_location(name, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        with _on_path(file.parent):
            specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """What lies in a folder can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def _importable(module: ModuleType) -> Iterator[None]:
    """What lies beside a module can be imported, by functions that import only when they are called."""
    file = getattr(module, "__file__", None)
    with _on_path(Path.cwd() if file is None else Path(file).resolve().parent):
        yield


def _failed(place: str, error: BaseException, remedy: str) -> ModelError:
    """The user's code raised: what, and on which of its lines."""
    where, trace = "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.suffix == ".py" and not any(file.is_relative_to(folder) for folder in _NOT_THEIRS):
            where = f"{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        where = f"{Path(error.filename or place).name}:{error.lineno}"
        return ModelError([Finding(place, f"it is no valid Python ({error.msg})", "Correct that line", where)])
    reason = next(iter(str(error).splitlines()), "")
    if isinstance(error, ModuleNotFoundError):
        remedy = "Install what it imports"
    return ModelError([Finding(place, f"it fails with {type(error).__name__}: {reason}", remedy, where)])
