"""Run a function of a script and show what tracejit made of it.

FUNCTION is a compiled function, or one that tj.compile can take: it is called with what the script's
`example_inputs()` returns, a tuple of arguments. A function without parameters is called once; if it returns a
compiled function, that one is shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import tracejit as tj
from tracejit.tools.counting import is_compiled

INPUTS = "example_inputs"


class ScriptError(Exception):
    """The script or its function cannot be used as asked."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tracejit explain`."""
    parser.add_argument("target", metavar="SCRIPT.py:FUNCTION", help="a file and the name of a function in it")
    parser.add_argument("--calls", type=int, default=5, help="how often to call it first (default: 5)")


def load(file: Path) -> ModuleType:
    """The script as a module of its own name; `if __name__ == "__main__"` does not run.

    Raises: ScriptError if there is no such file. What the script itself raises comes through.
    """
    if not file.is_file():
        raise ScriptError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ScriptError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered as an import would, so that the script's classes can be pickled and its source found.
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    return module


def find(module: ModuleType, name: str) -> Any:
    """The object that a dotted name means in a module.

    Raises: ScriptError if there is none, with the names there are.
    """
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            there = sorted(key for key, item in vars(module).items() if callable(item) and not key.startswith("_"))
            raise ScriptError(f"{module.__name__} has no {name!r}; it has {', '.join(there) or 'no functions'}")
        value = getattr(value, part)
    if not callable(value):
        raise ScriptError(f"{name} is {type(value).__name__}, not a function")
    return value


def _takes_nothing(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def prepare(module: ModuleType, name: str, calls: int) -> Any:
    """The compiled function to explain, after `calls` calls of it."""
    function = find(module, name)
    inputs = getattr(module, INPUTS, None)
    if not is_compiled(function):
        if _takes_nothing(function):
            made = function()
            if is_compiled(made):
                return made
            raise ScriptError(f"{name}() returned {type(made).__name__}, not a compiled function")
        if inputs is None:
            raise ScriptError(f"{name} takes arguments: the script must define {INPUTS}(), which returns them")
        function = tj.compile(function)
    if inputs is not None:
        arguments = tuple(inputs())
        for _ in range(calls):
            function(*arguments)
    elif _takes_nothing(function):
        for _ in range(calls):
            function()
    return function


def run(chosen: argparse.Namespace) -> int:
    """Print the explanation; 0.

    Raises: ScriptError when the target cannot be used.
    """
    file, colon, name = chosen.target.rpartition(":")
    if not colon or not file or not name:
        raise ScriptError(f"expected SCRIPT.py:FUNCTION, got {chosen.target!r}")
    print(tj.explain(prepare(load(Path(file)), name, chosen.calls)))
    return 0
