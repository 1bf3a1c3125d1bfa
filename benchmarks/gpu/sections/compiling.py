"""How long code takes from a kernel's text to the device, by every way there is."""

from __future__ import annotations

import importlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.session import Session, seconds

CASES = (("chain", "exact_f32_vector_1_256"), ("softmax", "softmax_1000_block"))
_LOAD = """
import ctypes, sys, time
sys.path.insert(0, {root!r})
start = time.perf_counter()
from benchmarks.gpu.driver import Driver, Launch
imported = time.perf_counter()
driver = Driver()
ready = time.perf_counter()
function = driver.load(open({path!r}, "rb").read(), "small")[1]
loaded = time.perf_counter()
address = ctypes.c_void_p()
driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(512))
values = (ctypes.c_float * 64)(*range(64))
driver.call("cuMemcpyHtoD_v2", address, values, ctypes.c_size_t(256))
x = address.value
Launch(driver, function, 1, 32, [x, x + 128, x + 256, 32])()
result = (ctypes.c_float * 32)()
driver.call("cuMemcpyDtoH_v2", result, ctypes.c_void_p(x + 256), ctypes.c_size_t(128))
done = time.perf_counter()
assert list(result) == [k + 3.0 * (k + 32) for k in range(32)], list(result)
print([1e3 * (b - a) for a, b in ((start, imported), (imported, ready), (ready, loaded), (loaded, done))])
"""


def median_ms(work: Callable[[], Any], rounds: int = 7) -> float:
    """Median milliseconds of a call."""
    return statistics.median(seconds(work)[0] for _ in range(rounds)) * 1e3


def _numba(session: Session) -> None:
    took, numba_kernels = seconds(lambda: importlib.import_module("benchmarks.gpu.numba_kernels"))
    session.note("numba-cuda: import ms (after torch)", took * 1e3)
    from numba import cuda, float32, int64, void

    arrays = {"chain": void(float32[::1], float32[::1], float32[::1]), "softmax": void(float32[::1], float32[::1])}
    session.note(
        "numba-cuda: first kernel, PTX ms",
        seconds(lambda: _numba_ptx(numba_kernels.words, (int64, int64, int64)))[0] * 1e3,
    )
    for name, signature in arrays.items():
        function = getattr(numba_kernels, name)
        session.note(f"numba-cuda: {name}, PTX ms", median_ms(lambda f=function, s=signature: _numba_ptx(f, s), 5))  # type: ignore[misc]
        session.note(
            f"numba-cuda: {name}, ready kernel ms",
            median_ms(lambda f=function, s=signature: cuda.jit(s)(f), 3),  # type: ignore[misc]
        )


def _numba_ptx(function: Any, signature: Any) -> str:
    from numba import cuda

    return str(cuda.compile_ptx(function, signature, cc=torch.cuda.get_device_capability())[0])


def _intrinsics(session: Session) -> None:
    """Whether tracejit's intrinsics compile in numba-cuda as they are."""
    # It needs tracejit, which a GPU's machine may not be able to import.
    for name, outcome in importlib.import_module("benchmarks.gpu.intrinsics").trial().items():
        session.note(f"intrinsics in numba-cuda: {name}", outcome)


def _llvm(session: Session) -> None:
    took, library = seconds(lambda: importlib.import_module("benchmarks.gpu.library"))
    session.note("llvmlite: import of kernels and formulas ms", took * 1e3)
    session.note("llvmlite: first kernel, PTX ms", seconds(lambda: library.ptx("small", session.capability))[0] * 1e3)
    for label, name in CASES:
        session.note(f"llvmlite: {label}, PTX ms", median_ms(lambda n=name: library.ptx(n, session.capability)))  # type: ignore[misc]
        session.note(
            f"llvmlite: {label}, the carried PTX is the same",
            library.ptx(name, session.capability) == session.ptx(name),
        )


def _loading(session: Session) -> None:
    driver = session.driver
    for label, name in (*CASES, ("small", "small")):
        text = session.ptx(name).encode()
        session.note(f"driver: {label}, load PTX ms", median_ms(lambda t=text, n=name: driver.load(t, n)))  # type: ignore[misc]
        session.note(f"driver: {label}, assemble to a cubin ms", median_ms(lambda t=text: driver.assemble(t)))  # type: ignore[misc]
        code = driver.assemble(text)
        session.note(f"driver: {label}, load the cubin ms", median_ms(lambda c=code, n=name: driver.load(c, n)))  # type: ignore[misc]
        session.note(f"driver: {label}, bytes", {"PTX": len(text), "cubin": len(code)})


def _nvjitlink(session: Session) -> None:
    from cuda.bindings import nvjitlink

    for label, name in CASES:
        text = session.ptx(name).encode()

        def link(text: bytes = text, name: str = name) -> bytes:
            handle = nvjitlink.create(1, [f"-arch=sm_{session.capability}"])
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), name)
            nvjitlink.complete(handle)
            code = bytearray(nvjitlink.get_linked_cubin_size(handle))
            nvjitlink.get_linked_cubin(handle, code)
            nvjitlink.destroy(handle)
            return bytes(code)

        code = link()
        session.driver.load(code, name)
        session.note(f"nvJitLink: {label}, PTX to a cubin ms", median_ms(link))


def _ptxas(session: Session) -> None:
    assembler = shutil.which("ptxas") or "/usr/local/cuda/bin/ptxas"
    for label, name in CASES:
        source, target = session.folder / "case.ptx", session.folder / "case.cubin"
        source.write_text(session.ptx(name), encoding="ascii")
        command = [assembler, f"-arch=sm_{session.capability}", str(source), "-o", str(target)]
        took = median_ms(lambda c=command: subprocess.run(c, check=True, timeout=20), 3)  # type: ignore[misc]
        session.note(f"ptxas: {label}, a process ms", took)
        session.driver.load(target.read_bytes(), name)
        source.unlink()
        target.unlink()


def _new_process(session: Session) -> None:
    path = session.folder / "small.cubin"
    path.write_bytes(session.driver.assemble(session.ptx("small").encode()))
    root = str(Path(__file__).parents[3])
    program = _LOAD.format(root=root, path=str(path))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
        whole = (time.perf_counter() - start) * 1e3
        times.append(
            {"whole process ms": whole, "import, context, load, run ms": (done.stdout or done.stderr)[-400:].strip()}
        )
    path.unlink()
    session.note("a cubin kept as bytes, in new processes", times)


def run(session: Session) -> None:
    """Measures them."""
    session.note("driver's disk cache of PTX", os.environ.get("CUDA_CACHE_DISABLE", "on"))
    for part in (_loading, _new_process, _nvjitlink, _ptxas, _llvm, _intrinsics, _numba):
        with session.part(part.__name__):
            part(session)
