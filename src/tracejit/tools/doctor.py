"""What a bug report needs to know about a machine, and a self-test of one kernel."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

import numpy as np

from tracejit import cpu
from tracejit.aval import Aval
from tracejit.compiler import compile_graph
from tracejit.config import SETTINGS, describe, thread_budget
from tracejit.cpu import has_tiles, multiplies_bfloat16
from tracejit.dtypes import float32
from tracejit.errors import CudaError, KernelBuildError
from tracejit.gpu_compiler import compile_for_gpu
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply
from tracejit.ir.node import input as node_of_input
from tracejit.ops import ops
from tracejit.runtime import cache, native
from tracejit.runtime.build import build
from tracejit.runtime.cuda.driver import Context, Device, Driver, driver, obstacle, usable
from tracejit.runtime.cuda.memory import Pool
from tracejit.runtime.team import launch

PACKAGES = ("tracejit", "numpy", "numba", "llvmlite")
OPTIONAL = ("torch", "jax")
FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512bf16", "amx-tile", "neon", "sve")

FAILED = "FAILED: "

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
    """The CPU as LLVM sees it, its vector features, whether it has tiles, and the threads that kernels may use."""
    flags = native.cpu_features().split(",")
    yield "cpu", cpu.name()
    yield "features", " ".join(name for name in FEATURES if f"+{name}" in flags) or "none of those that matter"
    none = "none (AMX), or not to be used"
    without = "none (AMX); vectors multiply bfloat16" if multiplies_bfloat16() else none
    yield "tiles", "multiply bfloat16" if has_tiles() else without
    yield "threads", str(thread_budget(SETTINGS, os.environ))


def storage() -> Iterator[tuple[str, str]]:
    """Where kernels and programs are kept and how many there are."""
    yield "cache", SETTINGS.cache_dir if SETTINGS.cache else "switched off"
    yield "cached", f"{cache.summary()} of at most {SETTINGS.cache_limit_mb}"


def gpus() -> Iterator[tuple[str, str]]:
    """The GPUs, whether tensors can be on them, and whether kernels compiled for them give the CPU's bits."""
    found = driver()
    if found is None:
        yield "gpu", "no NVIDIA driver, or no GPU that it can use"
        return
    cuda = f"CUDA {found.version // 1000}.{found.version % 1000 // 10}"
    for device in found.devices():
        capability = f"compute capability {device.capability // 10}.{device.capability % 10}"
        against = obstacle(device)
        if against is not None:
            use = f"not for tensors: {against}"
        elif (found, device) == usable(found):
            use = "tensors can be on it"
        else:
            use = "not for tensors: they are on the first GPU; CUDA_VISIBLE_DEVICES chooses another one"
        yield "gpu", f"{device.name}, {capability}, {device.memory / 2**30:.1f} GiB, {cuda}; {use}"
        fault = gpu_test(found, device)
        yield "gpu test", "kernels built and run: the bits of the CPU" if fault is None else f"{FAILED}{fault}"


def _chain(x: Node, y: Node) -> tuple[Node, Node]:
    """Arithmetic, elementary functions, and a reduction whose order does not matter."""
    inner = apply(ops.mul, apply(ops.tanh, apply(ops.add, apply(ops.mul, x, y), 1.0)), apply(ops.sigmoid, x))
    out = apply(ops.exp, apply(ops.sub, inner, apply(ops.div, y, 3.0)))
    return out, apply(ops.amax, out, dim=1)


def gpu_test(driver: Driver, device: Device) -> str | None:
    """Run a graph on a GPU and on the CPU; what differs, or None."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((8, 301), np.float32) for _ in range(2)]
    nodes = tuple(node_of_input(k, Aval(a.shape, float32)) for k, a in enumerate(arrays))
    graph = Graph(nodes, (), _chain(*nodes))
    results = [[np.empty(o.shape, np.float32) for o in graph.outputs] for _ in range(2)]
    try:
        pointers = np.array([a.ctypes.data for a in (*arrays, *results[0])], np.int64)
        compile_graph(graph).run(pointers, np.zeros(1))
        context = Context(driver, device)
        pool = Pool(context)
        program = compile_for_gpu(graph, context, pool)
        blocks = [pool.allocate(a.nbytes) for a in (*arrays, *results[1])]
        for block, array in zip(blocks, arrays, strict=False):
            context.put(block.address, array)
        addresses = [block.address for block in blocks]
        # The second time from a captured graph.
        for _ in range(2):
            program.run(addresses[:2], addresses[2:], np.zeros(0))
        for block, array in zip(blocks[2:], results[1], strict=True):
            context.take(array, block.address)
    except (CudaError, KernelBuildError) as error:
        return str(error)
    for mine, other in zip(*results, strict=True):
        if mine.tobytes() != other.tobytes():
            where = int(np.flatnonzero(mine.view(np.int32) != other.view(np.int32))[0])
            return f"element {where} is {float(other.flat[where])!r} instead of {float(mine.flat[where])!r}"
    return None


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
    """Print everything; 0 if the self-tests pass."""
    lines = [*versions(), *processor(), *storage(), *gpus(), *settings()]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name.ljust(width)}  {value}")
    fault = self_test()
    print(f"{'self-test'.ljust(width)}  {'one kernel built and run: ok' if fault is None else f'{FAILED}{fault}'}")
    return 1 if fault is not None or any(value.startswith(FAILED) for _, value in lines) else 0
