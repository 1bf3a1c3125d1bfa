"""The CUDA driver through ctypes: modules, launches with a prepared argument block, captured graphs.

It works in the primary context, which PyTorch and CuPy use too, on whatever stream it is given. Addresses, streams
and handles are plain integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

_COUNT = ctypes.c_uint
_HANDLE = ctypes.c_void_p
SUCCESS = 0
NODE_KINDS = {0: "kernel", 1: "memcpy", 2: "memset", 10: "memory allocation", 11: "memory free"}
CAPTURE_THREAD_LOCAL = 1
PTX_INPUT = 1
_PROGRAMMATIC_SERIALIZATION = 6


class DriverError(RuntimeError):
    """A call of the driver that did not succeed."""


class KernelNode(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS, second version."""

    _fields_ = [
        ("function", _HANDLE),
        *((f"{what}_{axis}", _COUNT) for what in ("grid", "block") for axis in "xyz"),
        ("shared_bytes", _COUNT),
        ("parameters", ctypes.POINTER(_HANDLE)),
        ("extra", ctypes.POINTER(_HANDLE)),
        ("kernel", _HANDLE),
        ("context", _HANDLE),
    ]


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class _Configuration(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        *((f"{what}_{axis}", _COUNT) for what in ("grid", "block") for axis in "xyz"),
        ("shared_bytes", _COUNT),
        ("stream", _HANDLE),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", _COUNT),
    ]


class Driver:
    """libcuda, initialised, with the first device's primary context current in this thread."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", _COUNT(0))
        context = _HANDLE()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(0))
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the driver.

        Raises: DriverError with the function's name and the driver's name for the error.
        """
        status = getattr(self.library, name)(*arguments)
        if status != SUCCESS:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(status, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or b'unknown').decode()}")

    def version(self) -> int:
        """The newest CUDA that the driver knows, as 13000."""
        value = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(value))
        return value.value

    def load(self, code: bytes, name: str) -> tuple[int, int]:
        """Loads PTX or a cubin; gives (module, function)."""
        module, function = _HANDLE(), _HANDLE()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code))
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return module.value or 0, function.value or 0

    def assemble(self, ptx: bytes) -> bytes:
        """The machine code of PTX, by the driver's own linker: bytes that `load` takes, in any process."""
        state, code, size = _HANDLE(), _HANDLE(), ctypes.c_size_t()
        self.call("cuLinkCreate_v2", _COUNT(0), None, None, ctypes.byref(state))
        try:
            text = ctypes.create_string_buffer(ptx)
            self.call(
                "cuLinkAddData_v2", state, ctypes.c_int(PTX_INPUT), text, ctypes.c_size_t(len(ptx) + 1), b"kernel",
                _COUNT(0), None, None,
            )  # fmt: skip
            self.call("cuLinkComplete", state, ctypes.byref(code), ctypes.byref(size))
            return ctypes.string_at(code, size.value)
        finally:
            self.call("cuLinkDestroy", state)

    def synchronize(self) -> None:
        """Waits for all work of the context."""
        self.call("cuCtxSynchronize")

    def stream(self) -> int:
        """A new stream that does not wait for the default stream."""
        handle = _HANDLE()
        self.call("cuStreamCreate", ctypes.byref(handle), _COUNT(1))
        return handle.value or 0


class Launch:
    """A kernel with its grid and arguments: int for addresses and int64, anything else as a ctypes value."""

    def __init__(
        self, driver: Driver, function: int, grid: int | tuple[int, int], threads: int, arguments: Sequence[Any]
    ) -> None:
        self.driver = driver
        self.function = function
        self.grid = grid if isinstance(grid, tuple) else (grid, 1)
        self.threads = threads
        self.values = [ctypes.c_int64(a) if isinstance(a, int) else a for a in arguments]
        addresses = [ctypes.cast(ctypes.byref(value), _HANDLE) for value in self.values]
        self.block = (_HANDLE * len(addresses))(*addresses)
        self._launch = driver.library.cuLaunchKernel
        counts = [_COUNT(n) for n in (*self.grid, 1, threads, 1, 1, 0)]
        self._prepared = (_HANDLE(function), *counts)

    def __call__(self, stream: int = 0) -> None:
        status = self._launch(*self._prepared, _HANDLE(stream), self.block, None)
        if status != SUCCESS:
            raise DriverError(f"cuLaunchKernel: {status}")

    def node(self) -> KernelNode:
        """The launch as the description of a graph's node."""
        return KernelNode(self.function, *self.grid, 1, self.threads, 1, 1, 0, self.block, None, None, None)


class EarlyLaunch(Launch):
    """A launch that may begin before the one ahead of it on the stream is done; its kernel must wait for that."""

    def __call__(self, stream: int = 0) -> None:
        attribute = _Attribute(_PROGRAMMATIC_SERIALIZATION, 0, 1)
        configuration = _Configuration(
            *self.grid, 1, self.threads, 1, 1, 0, _HANDLE(stream), ctypes.pointer(attribute), 1
        )
        self.driver.call("cuLaunchKernelEx", ctypes.byref(configuration), _HANDLE(self.function), self.block, None)


class Graph:
    """What a function does on a stream, captured and made ready for replay."""

    def __init__(self, driver: Driver, stream: int, work: Callable[[int], None]) -> None:
        self.driver = driver
        driver.call("cuStreamBeginCapture_v2", _HANDLE(stream), ctypes.c_int(CAPTURE_THREAD_LOCAL))
        graph = _HANDLE()
        try:
            work(stream)
        finally:
            driver.call("cuStreamEndCapture", _HANDLE(stream), ctypes.byref(graph))
        self.graph = graph
        self.ready = _HANDLE()
        self.instantiate()

    def instantiate(self) -> None:
        """Makes the executable form again."""
        if self.ready:
            self.driver.call("cuGraphExecDestroy", self.ready)
        self.driver.call("cuGraphInstantiateWithFlags", ctypes.byref(self.ready), self.graph, ctypes.c_ulonglong(0))

    def nodes(self) -> list[int]:
        """Handles of the nodes, in the order of capture."""
        count = ctypes.c_size_t()
        self.driver.call("cuGraphGetNodes", self.graph, None, ctypes.byref(count))
        found = (_HANDLE * count.value)()
        self.driver.call("cuGraphGetNodes", self.graph, found, ctypes.byref(count))
        return [node or 0 for node in found]

    def kinds(self) -> dict[str, int]:
        """How many nodes of each kind there are."""
        counts: dict[str, int] = {}
        for node in self.nodes():
            kind = ctypes.c_int()
            self.driver.call("cuGraphNodeGetType", _HANDLE(node), ctypes.byref(kind))
            name = NODE_KINDS.get(kind.value, str(kind.value))
            counts[name] = counts.get(name, 0) + 1
        return counts

    def replay(self, stream: int) -> None:
        """Runs all of it again."""
        self.driver.call("cuGraphLaunch", self.ready, _HANDLE(stream))

    def set_parameters(self, node: int, launch: Launch) -> None:
        """Gives a kernel node of the executable form the arguments of a launch."""
        description = launch.node()
        self.driver.call("cuGraphExecKernelNodeSetParams_v2", self.ready, _HANDLE(node), ctypes.byref(description))
