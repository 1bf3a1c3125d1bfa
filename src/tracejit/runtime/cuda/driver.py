"""The CUDA driver through ctypes: devices, memory, kernels, streams, events, captured graphs.

In: numbers and bytes. Out: handles and addresses, which are plain integers.
Must not know: what the memory or the kernels are for.

Nothing but the driver's own library is needed: no toolkit, no other package. It is loaded when it is first asked for.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit.errors import CudaError, CudaNotReadyError, CudaOutOfMemoryError

_LIBRARY = "libcuda.so.1"
_INT, _COUNT, _SIZE, _HANDLE, _ADDRESS = (
    ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint64
)  # fmt: skip
_SUCCESS, _OUT_OF_MEMORY, _NOT_READY = 0, 2, 600
_MAJOR, _MINOR, _MANAGED, _PROCESSORS = 75, 76, 89, 16
"""Attributes of a device: its compute capability, whether the host may use its memory while it works, and how many
multiprocessors it has."""
_OLDEST = 75
"""The compute capability that kernels need."""
_GLOBAL = 1
"""Managed memory that all streams see."""
_NOT_BLOCKING = 1
"""A stream that does not wait for the default one."""
_THREAD_LOCAL = 1
"""A capture that minds only what its own thread does."""
_WORDS = 512
"""Words of pinned memory that are obtained at a time."""
_NO_TIMING = 2
"""An event that takes no time down."""
_PTX = 1
"""What the linker is given."""
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: number, name, compute capability as 90 for 9.0, bytes of memory, multiprocessors, and whether the host may
    use its memory while it works."""

    number: int
    name: str
    capability: int
    memory: int
    managed: bool
    processors: int


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
            kind = {_OUT_OF_MEMORY: CudaOutOfMemoryError, _NOT_READY: CudaNotReadyError}.get(status, CudaError)
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
            major, minor, managed, processors = (
                self.get(_INT, "cuDeviceGetAttribute", _INT(a), device)
                for a in (_MAJOR, _MINOR, _MANAGED, _PROCESSORS)
            )
            memory = int(self.get(_SIZE, "cuDeviceTotalMem_v2", device))
            text = name.value.decode()
            found.append(Device(number, text, 10 * major + minor, memory, bool(managed), processors))
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


def obstacle(device: Device) -> str | None:
    """Why tensors cannot be on a device, if so."""
    if device.capability < _OLDEST:
        return f"compute capability {device.capability / 10}, {_OLDEST / 10} is needed"
    if not device.managed:
        return "the host cannot use its memory while it works (no concurrent managed access)"
    return None


def usable(found: Driver | None) -> tuple[Driver, Device] | None:
    """The first device of a driver that tensors can be on."""
    if found is None:
        return None
    return next(((found, device) for device in found.devices() if obstacle(device) is None), None)


@functools.cache
def available() -> tuple[Driver, Device] | None:
    """The GPU that tensors of this process can be on. Cost: loads the driver, makes no context."""
    return usable(driver())


class Context:
    """A device's primary context, which other libraries of the process use too, and one stream of ours in it.

    All work goes to the stream and is done in the order in which it was asked for. Any thread may ask; who asks for
    several things that belong together, such as numbers and the kernels that read them, holds `lock` meanwhile.
    Raises: RuntimeError in a process that was forked off one with a context: what the driver holds is not copied.
    """

    def __init__(self, driver: Driver, device: Device) -> None:
        self.driver, self.device = driver, device
        self._handle = driver.get(_HANDLE, "cuDevicePrimaryCtxRetain", _INT(device.number))
        self._entered = threading.local()
        self._functions: dict[tuple[bytes, str], int] = {}
        self.lock = threading.RLock()
        self.forked = False
        # Set behind each request: whoever asked knows that it is done only by waiting.
        self._busy = False
        self._words = np.zeros(0, np.int64)
        os.register_at_fork(after_in_child=self._forget)
        self.products: Any = None
        """The handle of the library of products, once there is one."""
        self.stream = self.get(_HANDLE, "cuStreamCreate", _COUNT(_NOT_BLOCKING))

    def _forget(self) -> None:
        # Nobody in this process holds it.
        self.lock = threading.RLock()
        self.forked = True

    def enter(self) -> None:
        """Makes the context that of the thread."""
        if self.forked:
            raise RuntimeError(
                "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the "
                "'spawn' start method"
            )
        if not getattr(self._entered, "here", False):
            self.driver.call("cuCtxSetCurrent", _HANDLE(self._handle))
            self._entered.here = True

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the driver in this context."""
        self.enter()
        # While a thread captures the stream, nobody else may use it.
        with self.lock:
            self.driver.call(name, *arguments)

    def get(self, kind: Any, name: str, *arguments: Any) -> Any:
        """What a function of the driver gives in this context."""
        self.enter()
        with self.lock:
            return self.driver.get(kind, name, *arguments)

    # --- memory -------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        """The address of new memory, which the host may read and write too where nothing is under way.

        Raises: CudaOutOfMemoryError.
        """
        address = int(self.get(_ADDRESS, "cuMemAllocManaged", _SIZE(nbytes), _COUNT(_GLOBAL)))
        try:
            number = _INT(self.device.number)
            self.call("cuMemPrefetchAsync", _ADDRESS(address), _SIZE(nbytes), number, _HANDLE(self.stream))
        except (CudaError, AttributeError):
            # It is advice: without it the pages move when they are first used.
            return address
        return address

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
            self._busy = True

    def take(self, array: np.ndarray, address: int) -> None:
        """Fills a contiguous array from the device, when what was asked for before is done."""
        if array.nbytes:
            target = _HANDLE(array.ctypes.data)
            self.call("cuMemcpyDtoHAsync_v2", target, _ADDRESS(address), _SIZE(array.nbytes), _HANDLE(self.stream))
            self._busy = True
        self.synchronize()

    def ask(self, word: np.ndarray, address: int) -> None:
        """Asks for a word of the device, to be in one that `word` gave when all before is done."""
        target = _HANDLE(word.ctypes.data)
        self.call("cuMemcpyDtoHAsync_v2", target, _ADDRESS(address), _SIZE(word.nbytes), _HANDLE(self.stream))
        self._busy = True

    def word(self) -> np.ndarray:
        """A zero word of the host's memory that is kept in place, for what the device tells; it is never given back."""
        with self.lock:
            if not self._words.size:
                address = self.get(_HANDLE, "cuMemAllocHost_v2", _SIZE(8 * _WORDS))
                self._words = np.ctypeslib.as_array((ctypes.c_int64 * _WORDS).from_address(address))
                self._words[:] = 0
            word, self._words = self._words[:1], self._words[1:]
            return word

    @functools.cached_property
    def mark(self) -> int:
        """An event for who holds `lock`."""
        return self.event(False)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copies memory of the device."""
        if nbytes:
            stream = _HANDLE(self.stream)
            self.call("cuMemcpyDtoDAsync_v2", _ADDRESS(target), _ADDRESS(source), _SIZE(nbytes), stream)
            self._busy = True

    def clear(self, address: int, nbytes: int) -> None:
        """Sets memory of the device to 0."""
        self.call("cuMemsetD8Async", _ADDRESS(address), ctypes.c_ubyte(0), _SIZE(nbytes), _HANDLE(self.stream))
        self._busy = True

    # --- work ---------------------------------------------------------------------------------------------------------

    def function(self, code: bytes, name: str) -> int:
        """A kernel of machine code or of PTX, loaded once."""
        with self.lock:
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

    def prepared(self, function: int, blocks: int, threads: int, parameters: tuple[Any, ...]) -> Callable[[], None]:
        """What starts a kernel; the parameters are ctypes values, which are copied each time."""
        addresses = (_HANDLE * len(parameters))(*(ctypes.addressof(value) for value in parameters))
        grid = [_COUNT(n) for n in (blocks, 1, 1, threads, 1, 1, 0)]
        arguments = (_HANDLE(function), *grid, _HANDLE(self.stream), addresses, None)

        def launch(parameters: Any = parameters) -> None:
            self.call("cuLaunchKernel", *arguments)
            self._busy = True

        return launch

    # --- events -------------------------------------------------------------------------------------------------------

    def event(self, timing: bool) -> int:
        """A new mark, which stands nowhere yet."""
        return int(self.get(_HANDLE, "cuEventCreate", _COUNT(0 if timing else _NO_TIMING)))

    def record(self, event: int) -> None:
        """Puts a mark behind all that was asked for."""
        self.call("cuEventRecord", _HANDLE(event), _HANDLE(self.stream))
        self._busy = True

    def wait_for(self, event: int) -> None:
        """Waits until all before a mark is done."""
        self.call("cuEventSynchronize", _HANDLE(event))

    def is_done(self, event: int | None = None) -> bool:
        """Whether all before a mark, or all that was asked for, is done."""
        self.enter()
        try:
            if event is None:
                self.driver.call("cuStreamQuery", _HANDLE(self.stream))
            else:
                self.driver.call("cuEventQuery", _HANDLE(event))
        except CudaNotReadyError:
            return False
        return True

    def milliseconds(self, first: int, last: int) -> float:
        """The time that the device took from one mark to another."""
        return float(self.get(ctypes.c_float, "cuEventElapsedTime", _HANDLE(first), _HANDLE(last)))

    def drop_event(self, event: int) -> None:
        """Forgets a mark."""
        self.call("cuEventDestroy_v2", _HANDLE(event))

    # --- waiting ------------------------------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Waits until all that was asked for is done. Cost: 0.1 us if nothing was since the last time."""
        if self._busy:
            self._busy = False
            self.call("cuStreamSynchronize", _HANDLE(self.stream))

    def capture(self, work: Callable[[], None]) -> int:
        """A graph of all that `work` asks for, none of which is done now; `replay` does it."""
        with self.lock:
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
        self._busy = True

    def drop(self, graph: int) -> None:
        """Forgets a captured graph."""
        self.call("cuGraphExecDestroy", _HANDLE(graph))
