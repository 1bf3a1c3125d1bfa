"""What a bug report needs to know about a machine, and a self-test of one kernel."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tracejit.config import SETTINGS, describe, thread_budget
from tracejit.errors import KernelBuildError
from tracejit.runtime import cache, native
from tracejit.runtime.build import build
from tracejit.runtime.team import launch

PACKAGES = ("tracejit", "numpy", "numba", "llvmlite")
OPTIONAL = ("numba-cuda", "torch", "jax")
FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512bf16", "amx-tile", "neon", "sve")

KERNEL = """\
def doctor_axpy(p, lo, hi):
    x = load_arg(p, 0)
    y = load_arg(p, 1)
    a = float32(arg_f64(p, 2))
    for i in range(lo, hi):
        store_f32(y, i, a * load_f32(x, i) + load_f32(y, i))
    return 0
"""
"""y = a * x + y, one rounding after each operation: exact on the test's small integers."""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> Iterator[tuple[str, str]]:
    """Python, the system, and the packages that matter."""
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"
    yield "system", platform.platform()
    for package in PACKAGES:
        yield package, _version(package) or "not installed"
    for package in OPTIONAL:
        found = _version(package)
        if found is not None:
            yield package, found


def processor() -> Iterator[tuple[str, str]]:
    """The CPU as LLVM sees it, its vector features, and the threads that kernels may use."""
    flags = native.cpu_features().split(",")
    yield "cpu", native.cpu_name()
    yield "features", " ".join(name for name in FEATURES if f"+{name}" in flags) or "none of those that matter"
    yield "threads", str(thread_budget(SETTINGS, os.environ))


def storage() -> Iterator[tuple[str, str]]:
    """Where kernels and programs are kept and how many there are."""
    yield "cache", SETTINGS.cache_dir if SETTINGS.cache else "switched off"
    yield "cached", f"{cache.summary()} of at most {SETTINGS.cache_limit_mb}"


def gpu() -> str:
    """What there is of an NVIDIA driver. Kernels of this version run on the CPU."""
    facts = Path("/proc/driver/nvidia/version")
    if facts.is_file():
        return f"{facts.read_text().splitlines()[0]}; not used by this version"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver"
    return "an NVIDIA driver is installed; not used by this version"


def settings() -> Iterator[tuple[str, str]]:
    """The settings that are not as they come."""
    defaults = type(SETTINGS)()
    for (name, value, _), field in zip(describe(SETTINGS), type(SETTINGS).__dataclass_fields__, strict=True):
        if value != getattr(defaults, field) and field != "cache_dir":
            yield name, str(value)


def self_test() -> str | None:
    """Build one kernel and call it; what is wrong with its result, or None.

    >>> self_test() is None
    True
    """
    try:
        kernel = build(KERNEL, "doctor_axpy")
    except KernelBuildError as error:
        return f"the kernel cannot be built: {error}"
    x = np.arange(1000, dtype=np.float32)
    y = np.ones(1000, dtype=np.float32)
    code = launch(kernel.address, len(x), 0.0, x, y, 3.0)
    if code != 0:
        return f"the kernel returned {code} instead of 0"
    if not np.array_equal(y, 3 * x + 1):
        wrong = int(np.flatnonzero(y != 3 * x + 1)[0])
        return f"element {wrong} is {y[wrong]} instead of {3 * x[wrong] + 1}"
    return None


def main() -> int:
    """Print everything; 0 if the self-test passes."""
    lines = [*versions(), *processor(), *storage(), ("gpu", gpu()), *settings()]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name.ljust(width)}  {value}")
    fault = self_test()
    print(f"{'self-test'.ljust(width)}  {'one kernel built and run: ok' if fault is None else f'FAILED: {fault}'}")
    return 0 if fault is None else 1
