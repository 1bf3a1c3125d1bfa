"""The CUDA driver's library on the PTX machine: what `runtime/cuda` asks of libcuda, with its order of arguments.

It is asynchronous as a GPU is: what goes to the stream is done when somebody waits for it, and not before. So whoever
reads memory without having waited finds what was there.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.cuda.machine import Device, Module, launch, parse

OUT_OF_MEMORY, INVALID_VALUE, NO_DEVICE, INVALID_PTX, INVALID_CONTEXT, NOT_READY = 2, 1, 100, 218, 201, 600
_NAMES = {
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY", INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
    NO_DEVICE: b"CUDA_ERROR_NO_DEVICE", INVALID_PTX: b"CUDA_ERROR_INVALID_PTX",
    INVALID_CONTEXT: b"CUDA_ERROR_INVALID_CONTEXT", NOT_READY: b"CUDA_ERROR_NOT_READY",
}  # fmt: skip
_NOT_IN_CAPTURES = ("cuMemAllocManaged", "cuMemFree_v2", "cuStreamSynchronize", "cuEventSynchronize")
MARK = b"machine code: "
"""What the linker puts before PTX."""


def _number(value: Any) -> int:
    return int(value.value or 0)


class Library:
    """One GPU of so many bytes. `calls` counts what was asked for, `queue` is what was not done yet.

    Memory is at addresses that the host can read, as managed memory is.
    """

    def __init__(self, memory: int = 1 << 20, devices: int = 1, capability: int = 90, managed: bool = True) -> None:
        self.memory, self.count, self.capability, self.managed = memory, devices, capability, managed
        self.queue: list[Callable[[], None]] = []
        self.machine = Device(4 * memory)
        self.calls: Counter[str] = Counter()
        self.held: dict[int, int] = {}
        self._entered = False
        self._clock = 0.0
        self._pinned: list[Any] = []
        self._events: list[float | None] = []
        self._modules: list[Module] = []
        self._graphs: list[list[Callable[[], None]]] = []
        self._capture: list[Callable[[], None]] | None = None
        self._code: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = getattr(self, "_" + name.removeprefix("cu").removesuffix("_v2"))

        def call(*arguments: Any) -> int:
            self.calls[name] += 1
            if self._capture is not None and name in _NOT_IN_CAPTURES:
                return INVALID_VALUE
            return function(*arguments) or 0

        return call

    def _Init(self, flags: Any) -> int:
        return 0 if self.count else NO_DEVICE

    def _GetErrorName(self, status: int, text: Any) -> int:
        text._obj.value = _NAMES.get(status)
        return 0

    def _DriverGetVersion(self, out: Any) -> None:
        out._obj.value = 13000

    def _DeviceGetCount(self, out: Any) -> None:
        out._obj.value = self.count

    def _DeviceGet(self, out: Any, number: Any) -> None:
        out._obj.value = _number(number)

    def _DeviceGetName(self, text: Any, size: Any, device: Any) -> None:
        text.value = b"PTX machine"

    def _DeviceGetAttribute(self, out: Any, attribute: Any, device: Any) -> None:
        out._obj.value = {75: self.capability // 10, 76: self.capability % 10, 89: int(self.managed), 16: 7}[
            _number(attribute)
        ]

    def _DeviceTotalMem(self, out: Any, device: Any) -> None:
        out._obj.value = self.memory

    def _DevicePrimaryCtxRetain(self, out: Any, device: Any) -> None:
        out._obj.value = 7

    def _CtxSetCurrent(self, context: Any) -> None:
        assert _number(context) == 7
        self._entered = True

    def _MemPrefetchAsync(self, address: Any, size: Any, device: Any, stream: Any) -> int:
        return 0 if self.held.get(_number(address)) == _number(size) else INVALID_VALUE

    def _MemAllocManaged(self, out: Any, size: Any, flags: Any) -> int:
        assert _number(flags) == 1
        if not self._entered:
            return INVALID_CONTEXT
        if sum(self.held.values()) + _number(size) > self.memory:
            return OUT_OF_MEMORY
        # The machine's own buffers begin at odd multiples of a gap.
        address = self.machine.room(_number(size))
        # The host may write there, too, so the machine cannot tell what was never written; it is not what anyone wants.
        self.machine.put(address, b"\xff" * _number(size))
        self.held[address] = _number(size)
        out._obj.value = address
        return 0

    def _MemAllocHost(self, out: Any, size: Any) -> None:
        self._pinned.append(ctypes.create_string_buffer(_number(size)))
        out._obj.value = ctypes.addressof(self._pinned[-1])

    def _MemFree(self, address: Any) -> int:
        return INVALID_VALUE if self.held.pop(_number(address), None) is None else 0

    def _MemGetInfo(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.memory - sum(self.held.values()), self.memory

    def _MemcpyHtoDAsync(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        # As the driver does with memory that is not pinned, it is read now.
        data = ctypes.string_at(source, _number(size))
        self._do(lambda: self.machine.put(_number(target), data))

    def _MemcpyDtoHAsync(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        def work() -> None:
            ctypes.memmove(target, self.machine.get(_number(source), _number(size)), _number(size))

        self._do(work)

    def _MemcpyDtoDAsync(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        self._do(lambda: self.machine.put(_number(target), self.machine.get(_number(source), _number(size))))

    def _MemsetD8Async(self, target: Any, value: Any, size: Any, stream: Any) -> None:
        work = lambda: self.machine.put(_number(target), bytes([_number(value)]) * _number(size))  # noqa: E731
        self._do(work)

    def _do(self, work: Callable[[], None]) -> None:
        (self.queue if self._capture is None else self._capture).append(work)

    def _StreamCreate(self, out: Any, flags: Any) -> None:
        out._obj.value = 5

    def _StreamQuery(self, stream: Any) -> int:
        return NOT_READY if self.queue else 0

    def _EventCreate(self, out: Any, flags: Any) -> None:
        # Of each event: the time on the machine's clock when it was passed, which goes on with each request.
        self._events.append(None)
        out._obj.value = len(self._events)

    def _EventRecord(self, event: Any, stream: Any) -> None:
        place = _number(event) - 1
        self._events[place] = None

        def work() -> None:
            self._clock += 1
            self._events[place] = self._clock

        self._do(work)

    def _EventSynchronize(self, event: Any) -> None:
        self.work_off()

    def _EventQuery(self, event: Any) -> int:
        return NOT_READY if self._events[_number(event) - 1] is None else 0

    def _EventElapsedTime(self, out: Any, first: Any, last: Any) -> int:
        times = [self._events[_number(event) - 1] for event in (first, last)]
        if None in times:
            return NOT_READY
        out._obj.value = times[1] - times[0]
        return 0

    def _EventDestroy(self, event: Any) -> None:
        assert _number(event) <= len(self._events)

    def _StreamSynchronize(self, stream: Any) -> None:
        assert _number(stream) == 5
        self.work_off()

    def work_off(self) -> None:
        """Does what was asked for."""
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def _LinkCreate(self, count: Any, options: Any, values: Any, out: Any) -> None:
        out._obj.value = 3

    def _LinkAddData(self, state: Any, kind: Any, text: Any, size: Any, *rest: Any) -> int:
        assert _number(kind) == 1
        assert _number(size) == len(text.value) + 1
        self._code[_number(state)] = ctypes.create_string_buffer(MARK + text.value)
        return 0 if b".entry" in text.value else INVALID_PTX

    def _LinkComplete(self, state: Any, code: Any, size: Any) -> None:
        made = self._code[_number(state)]
        code._obj.value, size._obj.value = ctypes.addressof(made), len(made.value)

    def _LinkDestroy(self, state: Any) -> None:
        self._code.pop(_number(state), None)

    def _ModuleLoadData(self, out: Any, code: Any) -> int:
        if not code.value.startswith(MARK):
            return INVALID_VALUE
        self._modules.append(parse(code.value.removeprefix(MARK).decode()))
        out._obj.value = len(self._modules)
        return 0

    def _ModuleGetFunction(self, out: Any, module: Any, name: bytes) -> int:
        out._obj.value = _number(module)
        return 0 if self._modules[_number(module) - 1].entry == name.decode() else INVALID_VALUE

    def _LaunchKernel(self, function: Any, *rest: Any) -> None:
        gx, gy, gz, bx, by, bz, shared, stream = (_number(value) for value in rest[:8])
        module = self._modules[_number(function) - 1]
        assert (gy, gz, by, bz, shared, stream) == (1, 1, 1, 1, 0, 5)
        assert bx == module.threads
        sizes = [size for _, size in module.parameters.values()]
        # As the driver does, the parameters are read now, not when the kernel runs.
        block = b"".join(ctypes.string_at(address, size) for address, size in zip(rest[8], sizes, strict=True))
        self._do(lambda: launch(self.machine, module, gx, block))

    def _StreamBeginCapture(self, stream: Any, mode: Any) -> None:
        self._capture = []

    def _StreamEndCapture(self, stream: Any, graph: Any) -> None:
        assert self._capture is not None
        self._graphs.append(self._capture)
        self._capture = None
        graph._obj.value = len(self._graphs)

    def _GraphInstantiateWithFlags(self, out: Any, graph: Any, flags: Any) -> None:
        out._obj.value = _number(graph)

    def _GraphDestroy(self, graph: Any) -> None:
        assert self._graphs[_number(graph) - 1] is not None

    def _GraphExecDestroy(self, graph: Any) -> None:
        self._graphs[_number(graph) - 1] = []

    def _GraphLaunch(self, graph: Any, stream: Any) -> None:
        self.queue += self._graphs[_number(graph) - 1]
