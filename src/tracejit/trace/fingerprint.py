"""What a function is in another process: its code, and the shapes of what it can reach.

In: a function and the arguments of its first call. Out: a digest that is equal in processes which run the same program
on tensors of the same shapes. Must not know: what is kept under it.

Equal digests promise nothing: whoever uses one must find out for himself whether the function still does the same.
Numbers count by their kind alone, as they change from step to step; texts, flags and the lengths of containers count.
"""

from __future__ import annotations

import functools
import hashlib
import os
from itertools import islice
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from tracejit.compiler import version
from tracejit.config import PRODUCTS
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, on_gpu

MOST = 20_000
"""Values that are looked at; what lies behind them is not part of the digest."""
_ROOT = str(Path(__file__).parent.parent)
_INSIDE = __name__.partition(".")[0] + "."
_TRACES = __name__.rpartition(".")[0] + "."


def fingerprint(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The digest of a function that is about to be called.

    Cost: some microseconds for each object that is reached.

    >>> import tracejit as tj
    >>> def double(x):
    ...     return x + x
    >>> a, b, c = (fingerprint(double, (tj.ones(n),), {}) for n in (2, 2, 3))
    >>> a == b, a == c
    (True, False)
    """
    walk = Walk()
    walk.see((function, args, kwargs, state.grad_enabled, state.autocast is None, PRODUCTS.tf32, PRODUCTS.bfloat16))
    return hashlib.sha256("\n".join([_package(), *walk.words]).encode()).hexdigest()


@functools.cache
def _package() -> str:
    """What this package, what it stands on, and the processor are."""
    words = [version()]
    folders = [_ROOT]
    for folder in folders:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir():
                folders.append(entry.path)
            elif entry.name.endswith(".py"):
                found = entry.stat()
                words.append(f"{entry.path} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def is_of_library(x: Any) -> bool:
    """Whether a function or a class is this package's."""
    return isinstance(x.__module__, str) and x.__module__.startswith(_INSIDE)


def _first_of(container: type, x: Any) -> list[Any]:
    """The first elements of a container, of a dict keys and values; a set has no order."""
    if container is dict:
        return [part for item in islice(dict.items(x), MOST) for part in item]
    return list(islice(container.__iter__(x), MOST)) if container in (tuple, list) else []  # type: ignore[attr-defined]


class Walk:
    """Goes through all that a value leads to, each object once, and puts down what it is."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._met: dict[int, int] = {}
        # What was met is held: its id is its own as long as this walk goes on.
        self._held: list[Any] = []

    def see(self, root: Any) -> None:
        """Put a value down."""
        todo = [root]
        words, met = self.words, self._met
        while todo and len(words) < MOST:
            x = todo.pop()
            kind = type(x)
            if kind is float or kind is int:
                words.append(kind.__name__)
                continue
            if x is None or kind is bool or kind is str:
                words.append(repr(x))
                continue
            number = met.setdefault(id(x), len(met))
            if number != len(met) - 1:
                words.append(f"#{number}")
                continue
            self._held.append(x)
            # Taken from the end: what comes first is looked at first.
            todo += reversed(self._parts(x, kind))

    def _parts(self, x: Any, kind: type) -> list[Any]:
        """Put down what an object is; what it leads to. Nothing of the program's own runs for that."""
        words = self.words
        if issubclass(kind, Tensor):
            words.append(f"tensor {x._dtype} {x._shape} {x._requires_grad} {on_gpu(x)}")
            return [x._grad]
        if issubclass(kind, np.ndarray):
            words.append(f"array {x.dtype.str} {x.shape}")
            return []
        for container in (tuple, list, dict, set, frozenset):
            if issubclass(kind, container):
                words.append(f"{kind.__qualname__} {container.__len__(x)}")
                return _first_of(container, x)
        if kind is MethodType:
            return [x.__func__, x.__self__]
        if kind is functools.partial:
            return [x.func, x.args, x.keywords]
        if kind is FunctionType:
            return self._function(x)
        if kind is CodeType:
            words.append(f"{x.co_filename}:{x.co_firstlineno} {x.co_names} {hashlib.sha256(x.co_code).hexdigest()}")
            return [c for c in x.co_consts if isinstance(c, CodeType | str)]
        if issubclass(kind, type | ModuleType) or kind is BuiltinFunctionType:
            words.append(str(getattr(x, "__qualname__", kind.__qualname__)))
            return []
        words.append(f"{kind.__module__} {kind.__qualname__}")
        try:
            found = object.__getattribute__(x, "__dict__")
        except AttributeError:
            return []
        # Of a compiled function, what it compiles: its trace changes from call to call.
        return [found["function"]] if kind.__module__.startswith(_TRACES) and "function" in found else [found]

    def _function(self, x: FunctionType) -> list[Any]:
        """A function: its code, what it closes over, and the globals of its text."""
        if is_of_library(x):
            # The package is what it is; this one may still close over something of the user's.
            self.words.append(f"{x.__module__} {x.__qualname__}")
            code: list[Any] = []
        else:
            names = x.__code__.co_names
            code = [x.__code__, [x.__globals__[name] for name in names if name in x.__globals__]]
        cells = []
        for cell in x.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:
                # Not bound yet.
                cells.append(None)
        return [*code, cells, x.__defaults__]
