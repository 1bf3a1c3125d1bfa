"""Graphs run on the PTX machine: planned as for the CPU, each group by its GPU kernels."""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np

from tests.cuda.machine import GAP, Device, Module, launch, parse
from tests.cuda.on_gpu import gpu, run_on
from tests.cuda.orders import run_in_order
from tests.programs import same_bits
from tracejit.codegen.cuda.generate import generate
from tracejit.codegen.cuda.text import SCALARS, CudaBatch, CudaText, batched
from tracejit.codegen.text import Place
from tracejit.gpu_compiler import plan_for_gpu
from tracejit.ir.graph import Graph
from tracejit.runtime import ptx
from tracejit.schedule.memory import Buffer
from tracejit.schedule.plan import Plan
from tracejit.schedule.spaces import CALL, Group

CAPABILITY = 90


@functools.cache
def module_of(kernel: CudaText, together: bool = False) -> Module:
    """A kernel's PTX, parsed."""
    return parse(ptx.translate(kernel, CAPABILITY, together))


def _packed(words: list[int]) -> bytes:
    return np.array([word & (1 << 64) - 1 for word in words], np.uint64).tobytes()


def plan_of(graph: Graph) -> Plan:
    """The plan of a graph for a GPU."""
    return plan_for_gpu(graph)[0]


def kernels_of(graph: Graph, vectors: bool = True, library: bool = False) -> list[CudaText]:
    """The GPU kernels of a graph, in order; those of library operations if they are asked for."""
    plan = plan_of(graph)
    groups = [g for g in plan.groups if library or g.kind != CALL]
    return [k for g in groups for stage in generate(g, plan, vectors) for k in stage]


def steps(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """How far each element lies from the first, in row-major order."""
    found = np.zeros(shape, np.int64)
    for d, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        found += (np.arange(size) * stride).reshape([-1 if k == d else 1 for k in range(len(shape))])
    return [int(step) for step in found.ravel()]


class Execution:
    """A run of a plan on a device's memory."""

    def __init__(
        self,
        graph: Graph,
        arrays: list[np.ndarray],
        scalars: tuple[float, ...],
        vectors: bool,
        together: bool = False,
    ) -> None:
        self.graph, self.vectors, self.together = graph, vectors, together
        self.plan = plan_of(graph)
        self.device = Device(self._room(arrays))
        self.kernels: list[CudaText] = []
        # Without vectors nothing may be counted on but what an element needs.
        self._misaligned = {k: 0 if vectors else a.itemsize for k, a in enumerate(arrays)}
        self._spans = [self._place(k, array) for k, array in enumerate(arrays)]
        self._outputs: dict[int, tuple[int, int]] = {}
        for o, node in enumerate(graph.outputs):
            if o in graph.homes:
                self._outputs[o] = (self._spans[graph.homes[o]][0], node.tensor.numel * node.dtype.itemsize)
            else:
                nbytes = node.tensor.numel * node.dtype.itemsize
                misaligned = 0 if vectors else node.dtype.itemsize
                self._outputs[o] = (self.device.room(nbytes, misaligned), nbytes)
        self._buffers: dict[Buffer, int] = {}
        self.status = self.device.room(8)
        self.device.put(self.status, bytes(8))
        self._scalars = self.device.room(8 * len(scalars))
        for k, (kind, number) in enumerate(zip(graph.scalars, scalars, strict=True)):
            self.device.put(self._scalars + 8 * k, struct.pack("<d" if kind == "f" else "<q", number))

    def _room(self, arrays: list[np.ndarray]) -> int:
        """Enough memory, with the gaps."""
        buffers = {*self.plan.storage.values(), *self.plan.partials.values(), *self.plan.scratch.values()}
        sizes = [b.nbytes for b in buffers]
        sizes += [a.size and sum((n - 1) * abs(s) for n, s in zip(a.shape, a.strides)) + a.itemsize for a in arrays]
        sizes += [node.tensor.numel * node.dtype.itemsize for node in self.graph.outputs]
        return sum(size + 4 * GAP for size in sizes) + (1 << 16)

    def _place(self, index: int, array: np.ndarray) -> tuple[int, int]:
        """Copies the memory that an array lies in; gives the address of its first element, and the first byte's."""
        if not array.size:
            return self.device.room(0), 0
        low = sum(min(0, (n - 1) * s) for n, s in zip(array.shape, array.strides, strict=True))
        high = sum(max(0, (n - 1) * s) for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize
        address = self.device.room(high - low, self._misaligned[index]) - low
        # One by one, so that what lies between them stays unknown.
        for offset, element in zip(steps(array.shape, array.strides), array.ravel(), strict=True):
            self.device.put(address + offset, element.tobytes())
        return address, low

    def address(self, buffer: Buffer) -> int:
        """Where a buffer lies."""
        if buffer.kind == "input":
            return self._spans[buffer.index][0]
        if buffer.kind == "output":
            return self._outputs[buffer.index][0]
        if buffer not in self._buffers:
            self._buffers[buffer] = self.device.room(buffer.nbytes)
        return self._buffers[buffer]

    def run(self) -> list[np.ndarray]:
        """Runs all groups; gives the outputs."""
        stages: dict[int, list[CudaText]] = {}
        for group in self.plan.groups:
            stage = self.plan.stage[group]
            for step, kernels in enumerate(self._texts(group)):
                stages.setdefault(stage + step, []).extend(kernels)
        for stage in range(self.plan.stages):
            kernels = stages.get(stage, [])
            for kernel in batched(kernels) if self.together else kernels:
                self._launch(kernel)
        code = int.from_bytes(self.device.get(self.status, 8), "little")
        if code:
            raise IndexError(code)
        results = []
        for o, node in enumerate(self.graph.outputs):
            data = self.device.get(*self._outputs[o])
            results.append(np.frombuffer(data, node.dtype.np).reshape(node.shape).copy())
        return results

    def _texts(self, group: Group) -> list[list[CudaText]]:
        """A group's kernels: those with vectors if what they count on is so."""
        stages = generate(group, self.plan, self.vectors)
        for kernel in (k for stage in stages for k in stage):
            if any(self._word(kernel.slots[slot]) % of for slot, of in kernel.promises):
                return generate(group, self.plan, vectors=False)
        return stages

    def _launch(self, kernel: CudaText | CudaBatch) -> None:
        if isinstance(kernel, CudaBatch):
            self.kernels.append(kernel.kernel)
            words = [self._word(slot) for row in kernel.rows for slot in row]
            data = _packed(words)
            table = self.device.room(len(data))
            self.device.put(table, data)
            launch(self.device, module_of(kernel.kernel, True), kernel.blocks, _packed([table, len(kernel.rows)]))
            return
        self.kernels.append(kernel)
        words = [self._word(slot) for slot in kernel.slots] or [0]
        words += [kernel.units, self.status] if kernel.has_status else [kernel.units]
        launch(self.device, module_of(kernel), kernel.blocks, _packed(words))

    def _word(self, slot: Any) -> int:
        if slot is SCALARS:
            return self._scalars
        if isinstance(slot, Place):
            return self.address(slot.buffer) + slot.offset
        if isinstance(slot, float):
            return int(struct.unpack("<q", struct.pack("<d", slot))[0])
        return int(slot)


def check(
    graph: Graph,
    arrays: list[np.ndarray],
    scalars: tuple[float, ...] = (),
    vectors: bool = True,
    together: bool = False,
) -> Execution:
    """Asserts that a graph's GPU kernels give the bits of the operations one by one, in their own orders of folds: on
    the PTX machine, and on a GPU where there is one.
    """
    expected = run_in_order(graph, [np.array(a, copy=True, order="K") for a in arrays], scalars)
    execution = Execution(graph, arrays, scalars, vectors, together)
    for result, wanted in zip(execution.run(), expected, strict=True):
        assert_same(result, wanted, execution.kernels)
    device = gpu()
    if device is not None:
        copies = [np.array(a, copy=True, order="K") for a in arrays]
        for result, wanted in zip(run_on(*device, graph, copies, scalars, vectors), expected, strict=True):
            assert_same(result, wanted, execution.kernels)
    return execution


def assert_same(result: np.ndarray, expected: np.ndarray, kernels: list[CudaText]) -> None:
    """Asserts equal types, shapes and bits."""
    if not same_bits(result, expected):
        where = np.argwhere(result != expected)[:3].tolist()
        texts = "\n".join(k.text for k in kernels)
        raise AssertionError(f"differs at {where}:\n{result}\n{expected}\n{texts}")
