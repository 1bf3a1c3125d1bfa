"""`tracejit.cuda`, with PyTorch's names: what there is of a GPU, its memory, its time.

In: nothing, or a device. Out: answers about the one GPU that tensors can be on.
Must not know: kernels.

Without a GPU, what asks for the state of no device is answered (0 bytes, 0 devices), seeds are accepted, and what needs
a device raises RuntimeError. There is one stream: all work is done in the order in which it was asked for, whatever
stream a program names. `docs/cuda.md` says what there is of a backend.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from tracejit.devices import CUDA, require
from tracejit.devices import device as _device
from tracejit.errors import CudaOutOfMemoryError as OutOfMemoryError
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.runtime.cuda.driver import available
from tracejit.tensor.generator import default_generator
from tracejit.tensor.gpu import gpu_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracejit.runtime.cuda.gpu import Gpu
    from tracejit.tensor import Tensor

__all__ = [
    "Event", "OutOfMemoryError", "Stream", "current_device", "current_stream", "default_stream", "device",
    "device_count",
    "empty_cache", "get_device_capability", "get_device_name", "get_device_properties", "get_rng_state",
    "is_available", "is_bf16_supported", "is_initialized", "manual_seed", "manual_seed_all", "max_memory_allocated",
    "max_memory_reserved", "mem_get_info", "memory_allocated", "memory_reserved", "reset_peak_memory_stats", "seed",
    "seed_all", "set_device", "set_rng_state", "stream", "synchronize",
]  # fmt: skip


def _gpu(what: str, device: Any = None) -> Gpu:
    """The GPU, for a function that needs one."""
    if not is_available():
        raise RuntimeError(
            f"tracejit.cuda.{what} needs a GPU that tensors can be on, and there is none (`tracejit doctor` says why); "
            "ask tracejit.cuda.is_available() first, or use device='cpu'"
        )
    if isinstance(device, int) and device >= 0:
        device = _device("cuda", device)
    if device is not None and device != -1 and require(device) is not CUDA:
        raise ValueError(f"Expected a cuda device, but got: {device}")
    return gpu_side().gpu()  # type: ignore[no-any-return]


def _used() -> Gpu | None:
    """The GPU, if this process has used it."""
    return gpu_side().gpu() if DeviceArray.used else None


def is_available() -> bool:
    """Whether tensors can be on a GPU.

    >>> device = "cuda" if is_available() else "cpu"
    """
    return available() is not None


def is_initialized() -> bool:
    """Whether this process has used a GPU."""
    return DeviceArray.used


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether tensors of bfloat16 can be on a GPU: wherever others can."""
    return is_available()


def device_count() -> int:
    """How many GPUs tensors can be on: one at most, the first that is fit for it."""
    return int(is_available())


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors and programs take on the GPU, each rounded up to the block that it has."""
    gpu = _used()
    return 0 if gpu is None else gpu.pool.current()[0]


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors and programs took since `reset_peak_memory_stats`."""
    gpu = _used()
    return 0 if gpu is None else gpu.pool.most_allocated


def memory_reserved(device: Any = None) -> int:
    """Bytes that the process has of the GPU, also those kept for later."""
    gpu = _used()
    return 0 if gpu is None else gpu.pool.current()[1]


def max_memory_reserved(device: Any = None) -> int:
    """The most bytes that the process had since `reset_peak_memory_stats`."""
    gpu = _used()
    return 0 if gpu is None else gpu.pool.most_reserved


def reset_peak_memory_stats(device: Any = None) -> None:
    """Count the peaks of the GPU's memory anew."""
    gpu = _used()
    if gpu is not None:
        gpu.pool.forget_peaks()


def empty_cache() -> None:
    """Give memory back that no tensor needs; it waits for the GPU."""
    gpu = _used()
    if gpu is not None:
        gpu.pool.empty()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """The free and all memory of the GPU in bytes."""
    return _gpu("mem_get_info()", device).context.free_memory()


# --- random numbers ---------------------------------------------------------------------------------------------------


def manual_seed(seed: int) -> None:
    """Seed what random tensors on the GPU are drawn from: the generator that those on the CPU are drawn from, too.

    Edge: nothing happens without a GPU. Raises: TypeError for a seed that is no whole number.
    """
    seed = seed.__index__()
    if is_available():
        default_generator.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seed what random tensors on all GPUs are drawn from: as `manual_seed`."""
    manual_seed(seed)


def seed() -> None:
    """Seed what random tensors on the GPU are drawn from by the clock."""
    if is_available():
        default_generator.seed()


def seed_all() -> None:
    """Seed what random tensors on all GPUs are drawn from by the clock: as `seed`."""
    seed()


def get_rng_state(device: Any = None) -> Tensor:
    """The state of the generator that random tensors are drawn from."""
    _gpu("get_rng_state()", device)
    return default_generator.get_state()


def set_rng_state(new_state: Tensor, device: Any = None) -> None:
    """Let the generator that random tensors are drawn from go on from a state."""
    _gpu("set_rng_state()", device)
    default_generator.set_state(new_state)


# --- the device -------------------------------------------------------------------------------------------------------


def current_device() -> int:
    """The number of the GPU in use: 0.

    Raises: RuntimeError without a GPU; so do all functions below.
    """
    _gpu("current_device()")
    return 0


def set_device(device: Any) -> None:
    """Use a GPU from now on. Raises: RuntimeError for another one than the first."""
    _gpu("set_device()", device)


@contextmanager
def device(device: Any) -> Iterator[None]:
    """Use a GPU while the block runs: there is no other than the first. Raises: RuntimeError for another one."""
    _gpu("device()", device)
    yield


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done all that it was asked for."""
    _gpu("synchronize()", device).wait()


def get_device_name(device: Any = None) -> str:
    """The name of the GPU."""
    return _gpu("get_device_name()", device).context.device.name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of the GPU, as (9, 0)."""
    return divmod(_gpu("get_device_capability()", device).context.device.capability, 10)


class DeviceProperties(NamedTuple):
    """What a GPU is."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def get_device_properties(device: Any = None) -> DeviceProperties:
    """The properties of the GPU."""
    found = _gpu("get_device_properties()", device).context.device
    return DeviceProperties(found.name, *divmod(found.capability, 10), found.memory, found.processors)


# --- streams and events -----------------------------------------------------------------------------------------------


class Stream:
    """A queue of the GPU's work: there is one, and every stream is a name of it.

    So work of two streams never runs side by side, and waiting for one is waiting for all: slower at worst, never out
    of order.

    Raises: RuntimeError without a GPU.
    """

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None:
        self._gpu = _gpu("Stream", device)
        self.device = CUDA
        self.priority = priority

    def synchronize(self) -> None:
        """Wait until all that was asked for is done."""
        self._gpu.wait()

    def query(self) -> bool:
        """Whether all that was asked for is done."""
        return self._gpu.context.is_done()

    def wait_stream(self, stream: Stream) -> None:
        """Let what is asked for next come after what another stream was asked for: it does anyway."""

    def wait_event(self, event: Event) -> None:
        """Let what is asked for next come after an event: it does anyway."""

    def record_event(self, event: Event | None = None) -> Event:
        """An event behind all that was asked for."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream)

    def __hash__(self) -> int:
        return hash(Stream)

    def __repr__(self) -> str:
        return f"<tracejit.cuda.Stream device={self.device}>"


def current_stream(device: Any = None) -> Stream:
    """The stream in use."""
    _gpu("current_stream()", device)
    return Stream()


def default_stream(device: Any = None) -> Stream:
    """The stream that is used where no other is asked for."""
    _gpu("default_stream()", device)
    return Stream()


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Ask for work in a stream while the block runs."""
    yield


class Event:
    """A mark in the queue of the GPU's work.

    Raises: RuntimeError without a GPU.
    """

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._context = _gpu("Event").context
        self._timing = enable_timing
        self._recorded = False
        self._event = self._context.event(enable_timing)

    def record(self, stream: Stream | None = None) -> None:
        """Put the mark behind all that was asked for."""
        self._context.record(self._event)
        self._recorded = True

    def synchronize(self) -> None:
        """Wait until all before the mark is done."""
        if self._recorded:
            self._context.wait_for(self._event)

    def wait(self, stream: Stream | None = None) -> None:
        """Let what is asked for next come after the mark: it does anyway."""

    def query(self) -> bool:
        """Whether all before the mark is done."""
        return not self._recorded or self._context.is_done(self._event)

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds that the GPU took from this mark to another.

        Raises: ValueError unless both were made with `enable_timing` and recorded; RuntimeError if one was not passed.
        """
        if not (self._timing and end_event._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self._recorded and end_event._recorded):
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return self._context.milliseconds(self._event, end_event._event)

    def __del__(self) -> None:
        if hasattr(self, "_event") and not self._context.forked:
            self._context.drop_event(self._event)
