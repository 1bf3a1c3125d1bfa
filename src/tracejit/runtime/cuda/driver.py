"""The CUDA driver through ctypes: devices, memory, kernels, streams, events, captured graphs.

In: numbers and bytes. Out: handles and addresses, which are plain integers.
Must not know: what the memory or the kernels are for.

Nothing but the driver's own library is needed: no toolkit, no other package. It is loaded when it is first asked for.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit.errors import CudaError, CudaOutOfMemoryError

_LIBRARY = "libcuda.so.1"
_INT, _COUNT, _SIZE, _HANDLE, _ADDRESS = (
    ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint64
)  # fmt: skip
_SUCCESS, _OUT_OF_MEMORY = 0, 2
_MAJOR, _MINOR = 75, 76
"""Attributes of a device: its compute capability."""
_NOT_BLOCKING = 1
"""A stream that does not wait for the default one."""
_THREAD_LOCAL = 1
"""A capture that minds only what its own thread does."""
_PTX = 1
"""What the linker is given."""
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: its number, name, compute capability as 90 for 9.0, and bytes of memory."""

    number: int
    name: str
    capability: int
    memory: int


class Driver:
    """The driver's library, initialised."""

    def __init__(self, library: Any) -> None:
        """Raises: CudaError if the driver finds no device that it can use."""
        self.library = library
        self.call("cuInit", _COUNT(0))

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function.

        Raises: CudaError with the function's name and the driver's name for the error; CudaOutOfMemoryError.
        """
        status = getattr(self.library, name)(*arguments)
        if status != _SUCCESS:
            kind = CudaOutOfMemoryError if status == _OUT_OF_MEMORY else CudaError
            raise kind(f"{name}: {self._name_of(status)}")

    def _name_of(self, status: int) -> str:
        text = ctypes.c_char_p()
        self.library.cuGetErrorName(status, ctypes.byref(text))
        return f"error {status}" if text.value is None else text.value.decode()

    def get(self, kind: Any, name: str, *arguments: Any) -> Any:
        """What a function puts where its first argument points to."""
        value = kind()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value or 0

    @property
    def version(self) -> int:
        """The newest CUDA that the driver knows, as 13000."""
        return int(self.get(_INT, "cuDriverGetVersion"))

    def devices(self) -> list[Device]:
        """The GPUs that this process may use."""
        found = []
        for number in range(self.get(_INT, "cuDeviceGetCount")):
            device = _INT(self.get(_INT, "cuDeviceGet", _INT(number)))
            name = ctypes.create_string_buffer(_NAME_BYTES)
            self.call("cuDeviceGetName", name, _INT(_NAME_BYTES), device)
            major, minor = (self.get(_INT, "cuDeviceGetAttribute", _INT(a), device) for a in (_MAJOR, _MINOR))
            memory = int(self.get(_SIZE, "cuDeviceTotalMem_v2", device))
            found.append(Device(number, name.value.decode(), 10 * major + minor, memory))
        return found


@functools.cache
def driver() -> Driver | None:
    """The driver of this machine; None if there is none, or no GPU that it can use."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    try:
        found = Driver(library)
        return found if found.devices() else None
    except CudaError:
        return None


class Context:
    """A device's primary context, which other libraries of the process use too, and one stream of ours in it.

    All work goes to the stream and is done in the order in which it was asked for. Any thread may ask.
    """

    def __init__(self, driver: Driver, device: Device) -> None:
        self.driver, self.device = driver, device
        self._handle = driver.get(_HANDLE, "cuDevicePrimaryCtxRetain", _INT(device.number))
        self._entered = threading.local()
        self._functions: dict[tuple[bytes, str], int] = {}
        self._lock = threading.Lock()
        self.products: Any = None
        """The handle of the library of products, once there is one."""
        self.stream = self.get(_HANDLE, "cuStreamCreate", _COUNT(_NOT_BLOCKING))

    def enter(self) -> None:
        """Makes the context that of the thread."""
        if not getattr(self._entered, "here", False):
            self.driver.call("cuCtxSetCurrent", _HANDLE(self._handle))
            self._entered.here = True

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the driver in this context."""
        self.enter()
        self.driver.call(name, *arguments)

    def get(self, kind: Any, name: str, *arguments: Any) -> Any:
        """What a function of the driver gives in this context."""
        self.enter()
        return self.driver.get(kind, name, *arguments)

    # --- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        """The address of new memory.

        Raises: CudaOutOfMemoryError.
        """
        return int(self.get(_ADDRESS, "cuMemAlloc_v2", _SIZE(nbytes)))

    def free(self, address: int) -> None:
        """Gives memory back, when what was asked for before is done."""
        self.synchronize()
        self.call("cuMemFree_v2", _ADDRESS(address))

    def free_memory(self) -> tuple[int, int]:
        """Bytes that nobody has, and all there are."""
        free, total = _SIZE(), _SIZE()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def put(self, address: int, array: np.ndarray) -> None:
        """Copies a contiguous array to the device; it may be changed as soon as this returns."""
        if array.nbytes:
            source = _HANDLE(array.ctypes.data)
            self.call("cuMemcpyHtoDAsync_v2", _ADDRESS(address), source, _SIZE(array.nbytes), _HANDLE(self.stream))

    def take(self, array: np.ndarray, address: int) -> None:
        """Fills a contiguous array from the device, when what was asked for before is done."""
        if array.nbytes:
            target = _HANDLE(array.ctypes.data)
            self.call("cuMemcpyDtoHAsync_v2", target, _ADDRESS(address), _SIZE(array.nbytes), _HANDLE(self.stream))
        self.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copies memory of the device."""
        if nbytes:
            stream = _HANDLE(self.stream)
            self.call("cuMemcpyDtoDAsync_v2", _ADDRESS(target), _ADDRESS(source), _SIZE(nbytes), stream)

    def clear(self, address: int, nbytes: int) -> None:
        """Sets memory of the device to 0."""
        self.call("cuMemsetD8Async", _ADDRESS(address), ctypes.c_ubyte(0), _SIZE(nbytes), _HANDLE(self.stream))

    # --- work ---------------------------------------------------------------------------------------------------------

    def function(self, code: bytes, name: str) -> int:
        """A kernel of machine code or of PTX, loaded once."""
        with self._lock:
            key = code, name
            if key not in self._functions:
                module = self.get(_HANDLE, "cuModuleLoadData", ctypes.c_char_p(code))
                self._functions[key] = self.get(_HANDLE, "cuModuleGetFunction", _HANDLE(module), name.encode())
            return self._functions[key]

    def assemble(self, ptx: bytes) -> bytes:
        """The machine code of PTX for this device.

        Raises: CudaError if the driver does not accept it.
        """
        state, code, size = _HANDLE(), _HANDLE(), _SIZE()
        self.call("cuLinkCreate_v2", _COUNT(0), None, None, ctypes.byref(state))
        try:
            text = ctypes.create_string_buffer(ptx)
            given = state, _INT(_PTX), text, _SIZE(len(ptx) + 1), b"kernel", _COUNT(0), None, None
            self.call("cuLinkAddData_v2", *given)
            self.call("cuLinkComplete", state, ctypes.byref(code), ctypes.byref(size))
            return ctypes.string_at(code, size.value)
        finally:
            self.call("cuLinkDestroy", state)

    def launch(self, function: int, blocks: int, threads: int, parameters: tuple[Any, ...]) -> None:
        """Starts a kernel; the parameters are ctypes values, which are copied."""
        addresses = (_HANDLE * len(parameters))(*(ctypes.addressof(value) for value in parameters))
        grid = [_COUNT(n) for n in (blocks, 1, 1, threads, 1, 1, 0)]
        self.call("cuLaunchKernel", _HANDLE(function), *grid, _HANDLE(self.stream), addresses, None)

    def synchronize(self) -> None:
        """Waits until all that was asked for is done."""
        self.call("cuStreamSynchronize", _HANDLE(self.stream))

    def capture(self, work: Callable[[], None]) -> int:
        """A graph of all that `work` asks for, none of which is done now; `replay` does it."""
        self.call("cuStreamBeginCapture_v2", _HANDLE(self.stream), _INT(_THREAD_LOCAL))
        graph = _HANDLE()
        try:
            work()
        finally:
            self.call("cuStreamEndCapture", _HANDLE(self.stream), ctypes.byref(graph))
        try:
            return int(self.get(_HANDLE, "cuGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0)))
        finally:
            self.call("cuGraphDestroy", graph)

    def replay(self, graph: int) -> None:
        """Asks for all of a captured graph again."""
        self.call("cuGraphLaunch", _HANDLE(graph), _HANDLE(self.stream))

    def drop(self, graph: int) -> None:
        """Forgets a captured graph."""
        self.call("cuGraphExecDestroy", _HANDLE(graph))
