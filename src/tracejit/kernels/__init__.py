"""The kernel library: what kernel text calls, and whole kernels for operations that no template covers.

In: addresses, sizes and scalars. Out: numbers in memory, and plans of launches.
Must not know: operations, graphs, tensors, or how a kernel is compiled and launched.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

_GPU = f"{__name__}.cuda"


def modules(gpu: bool = False) -> list[ModuleType]:
    """The modules of the library, in alphabetical order: those for CPUs, or those for GPUs alone.

    Cost: imports them.
    """
    names = [info.name for info in pkgutil.iter_modules(__path__, f"{__name__}.")]
    packages = [_GPU] if gpu else [name for name in names if name != _GPU]
    found = []
    for package in map(importlib.import_module, packages):
        path = getattr(package, "__path__", ())
        inner = [info.name for info in pkgutil.walk_packages(path, f"{package.__name__}.")]
        found += [package, *map(importlib.import_module, inner)]
    return found
