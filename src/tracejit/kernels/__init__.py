"""The kernel library: what kernel text calls, and whole kernels for operations that no template covers.

In: addresses, sizes and scalars. Out: numbers in memory, and plans of launches.
Must not know: operations, graphs, tensors, or how a kernel is compiled and launched.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from collections.abc import Iterator
from types import ModuleType

_GPU = f"{__name__}.cuda"
_WORDS = (
    *("fold", "lanes", "looks", "memory", "philox", "running", "scalar", "short", "stream", "threads", "tiles"),
    "vmath",
)
"""Modules whose names kernel text uses; what others define are whole kernels."""


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


def sources(*, below: bool = True) -> Iterator[tuple[str, bytes]]:
    """The files of the library, those for GPUs alone left out, and what each holds; with `below` those of its packages.

    Cost: 10 us a file.
    """
    folders = list(__path__)
    for folder in folders:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.endswith(".py"):
                # Without a buffer: this is done before the first kernel.
                with open(entry.path, "rb", buffering=0) as file:
                    yield entry.path, file.read()
            elif below and entry.name != _GPU.rpartition(".")[2] and entry.is_dir():
                folders.append(entry.path)


@functools.cache
def _files() -> dict[str, str]:
    """The module of each function that a file of the library defines; read, since to import all of them takes long."""
    found: dict[str, str] = {}
    for path, text in sources(below=False):
        module = os.path.basename(path).removesuffix(".py")
        names = [part[: part.find(b"(")].decode() for part in text.split(b"\ndef ")[1:]]
        found.update(dict.fromkeys(names, module))
    return found


def defining(function: str) -> ModuleType | None:
    """The module of the library, those for GPUs alone left out, that defines a function of this name, if one does.

    Cost: imports that module.

    >>> defining("plan_matmul").__name__
    'tracejit.kernels.gemm'
    """
    found = _files().get(function)
    return None if found is None else importlib.import_module(f"{__name__}.{found}")
