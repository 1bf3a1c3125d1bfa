"""What starting a kernel costs the host, by every way there is."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from benchmarks.gpu import numba_kernels
from benchmarks.gpu.driver import Launch
from benchmarks.gpu.session import Session, here, host_us


def _numba(session: Session) -> None:
    from numba import cuda

    arrays = [cuda.device_array(32, dtype="float32") for _ in range(8)]
    for count, kernel in ((1, numba_kernels.one), (3, numba_kernels.three), (8, numba_kernels.eight)):
        jitted = cuda.jit(kernel)
        session.note(f"numba-cuda, {count} device arrays", host_us(lambda j=jitted, c=count: j[1, 32](*arrays[:c])))  # type: ignore[misc]
    jitted = cuda.jit(numba_kernels.words)
    ready = jitted[1, 32]
    session.note("numba-cuda, 3 int64", host_us(lambda: jitted[1, 32](1, 2, 3)))
    session.note("numba-cuda, 3 int64, grid bound before", host_us(lambda: ready(1, 2, 3)))
    tensors = [torch.zeros(32, device="cuda") for _ in range(3)]
    jitted = cuda.jit(numba_kernels.three)
    session.note("numba-cuda, 3 torch tensors", host_us(lambda: jitted[1, 32](*tensors), 50, 9))


def _core(session: Session, code: bytes, arguments: list[int]) -> None:
    from cuda.core import Device, LaunchConfig, ObjectCode, launch

    device = Device()
    device.set_current()
    stream = device.create_stream()
    kernel = ObjectCode.from_cubin(code).get_kernel("small")
    config = LaunchConfig(grid=1, block=32)
    session.note("cuda.core launch", host_us(lambda: launch(stream, config, kernel, *arguments)))


def _bindings(session: Session, function: int, arguments: list[int]) -> None:
    from cuda.bindings import driver as bindings

    handle = bindings.CUfunction(function)
    kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    given = (tuple(arguments), kinds)
    stream = bindings.CUstream(here())
    start = bindings.cuLaunchKernel
    session.note(
        "cuda.bindings cuLaunchKernel, values", host_us(lambda: start(handle, 1, 1, 1, 32, 1, 1, 0, stream, given, 0))
    )
    values = [ctypes.c_int64(a) for a in arguments]
    block = (ctypes.c_void_p * 4)(*(ctypes.addressof(v) for v in values))
    address = ctypes.addressof(block)
    session.note(
        "cuda.bindings cuLaunchKernel, prepared block",
        host_us(lambda: start(handle, 1, 1, 1, 32, 1, 1, 0, stream, address, 0)),
    )


def _native(session: Session, launch: Launch) -> None:
    """The driver's own part: the loop of launches is compiled."""
    from numba import njit

    pointer = ctypes.cast(session.driver.library.cuLaunchKernel, ctypes.c_void_p).value or 0
    kinds = [ctypes.c_int64, *[ctypes.c_uint] * 7, *[ctypes.c_int64] * 3]
    start = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(pointer)
    function, block, threads = launch.function, ctypes.addressof(launch.block), launch.threads

    @njit
    def many(count: int) -> int:
        status = 0
        for _ in range(count):
            status += start(function, 1, 1, 1, threads, 1, 1, 0, 0, block, 0)
        return status

    if many(1) != 0:
        raise RuntimeError("a launch failed")
    session.note("cuLaunchKernel from compiled code", host_us(lambda: many(200), 1) / 200)


def _cupy(session: Session, code: bytes, arguments: list[int]) -> None:
    import cupy

    path = session.folder / "small.cubin"
    path.write_bytes(code)
    kernel = cupy.RawModule(path=str(path)).get_function("small")
    path.unlink()
    words = tuple(arguments)
    session.note("cupy RawModule from a cubin, 4 int", host_us(lambda: kernel((1,), (32,), words)))
    arrays = (*(cupy.zeros(32, dtype="float32") for _ in range(3)), 32)
    session.note("cupy RawModule from a cubin, 3 arrays", host_us(lambda: kernel((1,), (32,), arrays)))
    a, b = arrays[0], arrays[1]
    session.note("cupy eager, a + b", host_us(lambda: a + b))


def run(session: Session) -> None:
    """Measures them."""
    x, y, out = (torch.zeros(32, device="cuda") for _ in range(3))
    session.note("torch eager, a + b", host_us(lambda: x + y))
    session.note("torch eager, torch.add(a, b, out=o)", host_us(lambda: torch.add(x, y, out=out)))
    arguments: list[Any] = [x.data_ptr(), y.data_ptr(), out.data_ptr(), 32]
    launch = session.launch("small", 1, arguments)
    with session.part("ctypes"):
        session.note("ctypes cuLaunchKernel, prepared block", host_us(launch))
        library, prepared = session.driver.library, launch._prepared
        stream, block = ctypes.c_void_p(0), launch.block
        start = library.cuLaunchKernel
        session.note("ctypes cuLaunchKernel, nothing converted", host_us(lambda: start(*prepared, stream, block, None)))
    code = session.driver.assemble(session.ptx("small").encode())
    with session.part("native"):
        _native(session, launch)
    with session.part("cuda.bindings"):
        _bindings(session, launch.function, arguments)
    with session.part("cuda.core"):
        _core(session, code, arguments)
    with session.part("cupy"):
        _cupy(session, code, arguments)
    with session.part("numba-cuda"):
        _numba(session)
