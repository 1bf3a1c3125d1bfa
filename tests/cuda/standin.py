"""Tensors on the stand-in for a GPU: the PTX machine behind the driver's functions, asynchronous as a GPU is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cuda.libcuda import Library
from tracejit.runtime.cuda import driver, gpu
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.runtime.cuda.driver import Driver


@contextmanager
def stand_in(library: Library) -> Iterator[Library]:
    """While this runs, the stand-in is the GPU of this process, whatever there is."""
    found, used = driver.driver, DeviceArray.used
    _forget()
    driver.driver = lambda: Driver(library) if library.count else None  # type: ignore[assignment]
    DeviceArray.used = False
    try:
        yield library
    finally:
        driver.driver, DeviceArray.used = found, used
        _forget()


@contextmanager
def without_gpu() -> Iterator[None]:
    """While this runs, this process has no GPU."""
    with stand_in(Library(devices=0)):
        yield


def machines() -> list[str]:
    """What tensors can be on here: the stand-in, and this machine's GPU if there is one."""
    return ["stand-in", "gpu"] if driver.available() else ["stand-in"]


@contextmanager
def on(machine: str, memory: int) -> Iterator[None]:
    """While this runs, tensors are on one of `machines`; the stand-in has so many bytes."""
    if machine == "gpu":
        yield
    else:
        with stand_in(Library(memory)):
            yield


def _forget() -> None:
    driver.available.cache_clear()
    gpu.gpu.cache_clear()
