"""The kernel library: what kernel text calls, and whole kernels for operations that no template covers.

In: addresses, sizes and scalars. Out: numbers in memory, and plans of launches.
Must not know: operations, graphs, tensors, or how a kernel is compiled and launched.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

_GPU = f"{__name__}.cuda"
_WORDS = ("fold", "lanes", "looks", "memory", "philox", "scalar", "stream", "threads", "tiles", "vmath")
"""Modules whose names kernel text uses; what others define are whole kernels."""
_FUNCTION = re.compile(rb"^def (\w+)\(", re.MULTILINE)


def words() -> list[ModuleType]:
    """The modules whose names kernel text may use, in alphabetical order.

    Cost: imports them, which is a fraction of the whole library.
    """
    return [importlib.import_module(f"{__name__}.{name}") for name in _WORDS]


def gpu_modules() -> list[ModuleType]:
    """The modules of the library for GPUs alone, in alphabetical order.

    Cost: imports them.
    """
    package = importlib.import_module(_GPU)
    names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{_GPU}.")]
    return [package, *map(importlib.import_module, names)]


@functools.cache
def _files() -> dict[str, str]:
    """The module of each function that a file of the library defines; read, since to import all of them takes long."""
    files = sorted(Path(__path__[0]).glob("*.py"))
    return {name.decode(): file.stem for file in files for name in _FUNCTION.findall(file.read_bytes())}


def defining(function: str) -> ModuleType | None:
    """The module of the library, those for GPUs alone left out, that defines a function of this name, if one does.

    Cost: imports that module.

    >>> defining("plan_matmul").__name__
    'tracejit.kernels.gemm'
    """
    found = _files().get(function)
    return None if found is None else importlib.import_module(f"{__name__}.{found}")
