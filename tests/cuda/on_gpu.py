"""Graphs run by the device's runtime: on this machine's GPU, if there is one."""

from __future__ import annotations

import ctypes
import functools

import numpy as np

from tracejit.gpu_compiler import compile_for_gpu
from tracejit.ir.graph import Graph
from tracejit.runtime.cuda.driver import Context, driver
from tracejit.runtime.cuda.memory import Block, Pool


@functools.cache
def gpu() -> tuple[Context, Pool] | None:
    """The first GPU of this machine."""
    found = driver()
    if found is None:
        return None
    context = Context(found, found.devices()[0])
    return context, Pool(context)


def _moved(context: Context, pool: Pool, array: np.ndarray, misaligned: int) -> tuple[Block, int]:
    """Memory with all bytes between an array's first and last, and the address of its first element."""
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
    block = pool.allocate(high - low + misaligned)
    context.put(block.address + misaligned, np.frombuffer(ctypes.string_at(low, high - low), np.uint8))
    return block, block.address + misaligned + array.ctypes.data - low if array.size else block.address


def run_on(
    context: Context,
    pool: Pool,
    graph: Graph,
    arrays: list[np.ndarray],
    scalars: tuple[float, ...] = (),
    vectors: bool = True,
) -> list[np.ndarray]:
    """The outputs of a graph's GPU kernels, run twice: one by one, and as one captured graph.

    Without `vectors` operands begin where no vector does. Raises: NotImplementedError for library operations.
    """
    program = compile_for_gpu(graph, context, pool)
    results: list[list[np.ndarray]] = []
    words = np.zeros(len(scalars), np.int64)
    for k, (kind, number) in enumerate(zip(graph.scalars, scalars, strict=True)):
        words[k : k + 1].view(np.float64 if kind == "f" else np.int64)[0] = number
    moved = [_moved(context, pool, array, 0 if vectors else array.itemsize) for array in arrays]
    made = {o: pool.allocate(n.tensor.numel * n.dtype.itemsize) for o, n in enumerate(graph.outputs)}
    outputs = [moved[graph.homes[o]][1] if o in graph.homes else block.address for o, block in made.items()]
    inputs = [address for _, address in moved]
    for _ in range(2 if not graph.homes else 1):
        program.run(inputs, outputs, words)
        results.append([np.empty(node.shape, node.dtype.np) for node in graph.outputs])
        for array, address in zip(results[-1], outputs, strict=True):
            context.take(array, address)
    if program.error():
        raise IndexError(program.error())
    for first, last in zip(results[0], results[-1], strict=True):
        assert first.tobytes() == last.tobytes()
    return results[-1]
