"""Programs of a device: kernels over its memory, one after another, as one captured graph where they are run again.

In: kernels in stages, with arguments that are buffers of the call, places in the program's memory, or fixed.
Out: `DeviceProgram.run`. Must not know: what a kernel computes, or why the kernels stand in these stages.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tracejit.codegen.cuda.text import SCALARS, CudaBatch, CudaCall, CudaText, batched
from tracejit.codegen.text import Place, Slot
from tracejit.config import PRODUCTS
from tracejit.errors import CudaError
from tracejit.runtime import ptx
from tracejit.runtime.cache import CUBIN, STORE
from tracejit.runtime.cuda.cublas import handle_of
from tracejit.runtime.cuda.driver import Context
from tracejit.runtime.cuda.memory import Block, Pool

_STATUS_BYTES = 8
_LAST_IF_FAILING = 2
"""Of the parts of a run that may fail, the one that waits for what was found."""
BINDINGS = 8
"""Sets of addresses whose launches a program keeps: the latest ones."""
MOST_COPIED = 64 << 20
"""Bytes of an input up to which copying it (some 40 us for as many) costs less than starting kernels one by one."""


@dataclass(frozen=True, slots=True)
class Work:
    """A kernel, and the one to take where its promises about arguments do not hold: the same without vectors.

    It may be one that `fails`, or one that writes to the `home` of an output. Or it is a product of the GPU's library,
    which promises nothing.
    """

    kernel: CudaText | CudaCall
    plain: CudaText | CudaCall
    fails: bool = False
    home: bool = False


@dataclass(slots=True)
class _Binding:
    """What a run on some addresses asks for: launches in parts, with the tables of those that are many in one.

    `graphs` are the parts captured, once they have been asked for a second time.
    """

    parts: list[list[Callable[[], None]]]
    tables: list[Block]
    graphs: list[int] | None = None


def machine_code(context: Context, kernel: CudaText, together: bool = False) -> bytes:
    """A kernel's code for a device: compiled for the latest capability that the device has all of.

    Raises: KernelBuildError, CudaError: faults in tracejit.
    Cost: 0.2 ms from the disk cache, 20 to 250 ms compiled.
    """
    known = [c for c in ptx.CAPABILITIES if c <= context.device.capability]
    if not known:
        raise CudaError(f"{context.device.name} has compute capability {context.device.capability / 10}, 7.5 is needed")
    text = ptx.translate(kernel, known[-1], together)
    key = f"{context.driver.version} {context.device.capability}\n{text}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    code = STORE.get(digest, CUBIN)
    if code is None:
        code = context.assemble(text.encode())
        STORE.put(digest, kernel.name, "", code, CUBIN)
    return code


class DeviceProgram:
    """Kernels in stages that `run` starts, with the memory of their intermediate values.

    Kernels of one stage do not depend on each other; those that are the same are one launch. Where some may fail, such
    as for an index out of range, a run has three parts: up to the last of these, on to what writes to homes of outputs,
    and the rest, which is only asked for when the first part has told that all is right. So what has a home is not
    changed otherwise, and the GPU goes on meanwhile.
    """

    def __init__(
        self,
        context: Context,
        pool: Pool,
        stages: Sequence[Sequence[Work]],
        arena_bytes: int,
        scalars: int,
        readable: Sequence[int] = (),
    ) -> None:
        """`readable` are the bytes of each input that may be read elsewhere, 0 for one that is not contiguous memory or
        is written."""
        self._context, self._pool = context, pool
        # By input: bytes, and where it was so far.
        self._met: dict[int, tuple[int, set[int]]] = {
            k: (nbytes, set()) for k, nbytes in enumerate(readable) if 0 < nbytes <= MOST_COPIED
        }
        self._own: dict[int, Block] = {}
        self._stages = tuple(map(tuple, stages))
        self._arena = pool.allocate(arena_bytes)
        self._scalars = pool.allocate(8 * scalars)
        self._count = scalars
        self._status = pool.allocate(_STATUS_BYTES)
        works = self.kernels
        self._looks = any(isinstance(kernel, CudaText) and kernel.has_status for kernel in works)
        # Made now: while a stream is captured no memory can be had.
        calls = any(isinstance(kernel, CudaCall) for kernel in works)
        self._products = handle_of(context) if calls else None
        failing = [k for k, stage in enumerate(self._stages) if any(one.fails for one in stage)]
        self._fails = bool(failing)
        self._ends = [len(self._stages)]
        if failing:
            told = failing[-1] + 1
            if any(one.home and not one.fails for stage in self._stages[:told] for one in stage):
                raise ValueError("a kernel changes memory in place before all is known to be right")
            homes = (k for k, stage in enumerate(self._stages) if k >= told and any(one.home for one in stage))
            self._ends = [told, next(homes, len(self._stages)), len(self._stages)]
        self._told = context.word()
        self._code = 0
        self._functions: dict[tuple[str, bool], int] = {}
        self._bindings: OrderedDict[tuple[int, ...], _Binding] = OrderedDict()

    @property
    def kernels(self) -> list[CudaText | CudaCall]:
        """The kernels of all launches, in order."""
        return [one.kernel for stage in self._stages for one in stage]

    @property
    def fails(self) -> bool:
        """Whether a kernel may find something wrong, such as an index out of range."""
        return self._fails

    def run(
        self, inputs: Sequence[int], outputs: Sequence[int], scalars: np.ndarray, *, capture: bool = True
    ) -> int:
        """Asks for all kernels, on buffers at the given addresses; scalars are eight bytes each.

        Gives the error code of a kernel, with what has a home not changed; 0 if there is none. Waits for the kernels
        that may give one. Addresses that come again are those of most calls of a loop: their launches are captured then
        if `capture` is set, and are one request from there on, or three.
        Raises: ValueError for another number of scalars; CudaError from the driver.
        """
        if scalars.nbytes != 8 * self._count:
            raise ValueError(f"the program has {self._count} scalars, got {scalars.nbytes} bytes")
        with self._context.lock:
            if capture:
                inputs = self._gathered(inputs)
            addresses = (*inputs, *outputs)
            if self._products is not None:
                # A captured product is of the kind that was allowed then.
                addresses = (*addresses, PRODUCTS.tf32)
            # Ahead of the graph, not in it: numbers change from call to call.
            if self._count:
                self._context.put(self._scalars.address, scalars)
            return self._run(self._binding(addresses, inputs, outputs, capture))

    def _gathered(self, inputs: Sequence[int]) -> list[int]:
        """The inputs, of which those that were in more places than there are bindings are copied to memory of the
        program: batches of a loop then need no capture each.
        """
        found = list(inputs)
        for k, (nbytes, met) in self._met.items():
            own = self._own.get(k)
            if own is None:
                met.add(found[k])
                if len(met) <= BINDINGS:
                    continue
                met.clear()
                own = self._own[k] = self._pool.allocate(nbytes)
            self._context.copy(own.address, found[k], nbytes)
            found[k] = own.address
        return found

    def _binding(
        self, addresses: tuple[int, ...], inputs: Sequence[int], outputs: Sequence[int], capture: bool
    ) -> _Binding:
        binding = self._bindings.get(addresses)
        if binding is None:
            binding = self._bindings[addresses] = self._bind(inputs, outputs)
            self._forget_oldest()
            return binding
        self._bindings.move_to_end(addresses)
        if capture and binding.graphs is None:
            parts = binding.parts
            binding.graphs = [self._context.capture(partial(self._launch, part)) if part else 0 for part in parts]
        return binding

    def _run(self, binding: _Binding) -> int:
        self._code = 0
        for number, part in enumerate(binding.parts):
            if number == _LAST_IF_FAILING:
                # The part before goes on meanwhile.
                self._context.wait_for(self._context.mark)
                self._code = int(self._told[0])
                if self._code:
                    break
            if binding.graphs is None:
                self._launch(part)
            elif part:
                self._context.replay(binding.graphs[number])
            if not number and self._fails:
                self._context.record(self._context.mark)
        return self._code

    def error(self) -> int:
        """The error code of a kernel of the last run, such as of an index out of range; 0 if there was none."""
        return self._code

    @staticmethod
    def _launch(part: list[Callable[[], None]]) -> None:
        for launch in part:
            launch()

    def _forget_oldest(self) -> None:
        while len(self._bindings) > BINDINGS:
            _, oldest = self._bindings.popitem(last=False)
            for graph in filter(None, oldest.graphs or ()):
                self._context.drop(graph)

    # --- arguments ----------------------------------------------------------------------------------------------------

    def _bind(self, inputs: Sequence[int], outputs: Sequence[int]) -> _Binding:
        binding = _Binding([], [])
        begin = 0
        for end in self._ends:
            launches: list[Callable[[], None]] = []
            for stage in self._stages[begin:end]:
                chosen = [self._chosen(one, inputs, outputs) for one in stage]
                launches += [self._product(k, inputs, outputs) for k in chosen if isinstance(k, CudaCall)]
                for kernel in batched([k for k in chosen if isinstance(k, CudaText) and k.blocks]):
                    if isinstance(kernel, CudaBatch):
                        launches.append(self._many(binding, kernel, inputs, outputs))
                    else:
                        launches.append(self._single(kernel, inputs, outputs))
            binding.parts.append(launches)
            begin = end
        context, status, first = self._context, self._status.address, binding.parts[0]
        if self._looks:
            first.insert(0, partial(context.clear, status, _STATUS_BYTES))
        if self._fails:
            first.append(partial(context.ask, self._told, status))
        return binding

    def _product(self, call: CudaCall, inputs: Sequence[int], outputs: Sequence[int]) -> partial[None]:
        assert self._products is not None
        a, b, c = (self._word(slot, inputs, outputs) for slot in call.slots)
        return partial(self._products.product, call.gemm, a, b, c)

    def _chosen(self, one: Work, inputs: Sequence[int], outputs: Sequence[int]) -> CudaText | CudaCall:
        if isinstance(one.kernel, CudaCall):
            return one.kernel
        slots = one.kernel.slots
        kept = all(self._word(slots[slot], inputs, outputs) % of == 0 for slot, of in one.kernel.promises)
        return one.kernel if kept else one.plain

    def _single(self, kernel: CudaText, inputs: Sequence[int], outputs: Sequence[int]) -> Callable[[], None]:
        words = [self._word(slot, inputs, outputs) for slot in kernel.slots] or [0]
        parameters: list[Any] = [(ctypes.c_int64 * len(words))(*words), ctypes.c_int64(kernel.units)]
        if kernel.has_status:
            parameters.append(ctypes.c_int64(self._status.address))
        function = self._function(kernel, False)
        return self._context.prepared(function, kernel.blocks, kernel.threads, tuple(parameters))

    def _many(
        self, binding: _Binding, batch: CudaBatch, inputs: Sequence[int], outputs: Sequence[int]
    ) -> Callable[[], None]:
        table = np.array([self._word(slot, inputs, outputs) for row in batch.rows for slot in row], np.int64)
        block = self._pool.allocate(table.nbytes)
        self._context.put(block.address, table)
        binding.tables.append(block)
        parameters = (ctypes.c_int64(block.address), ctypes.c_int64(len(batch.rows)))
        function = self._function(batch.kernel, True)
        return self._context.prepared(function, batch.blocks, batch.kernel.threads, parameters)

    def _function(self, kernel: CudaText, together: bool) -> int:
        key = kernel.name, together
        found = self._functions.get(key)
        if found is None:
            code = machine_code(self._context, kernel, together)
            name = ptx.together_name(kernel) if together else kernel.name
            found = self._functions[key] = self._context.function(code, name)
        return found

    def _word(self, slot: Slot, inputs: Sequence[int], outputs: Sequence[int]) -> int:
        if slot is SCALARS:
            return self._scalars.address
        if isinstance(slot, Place):
            buffer = slot.buffer
            if buffer.kind == "arena":
                return self._arena.address + buffer.offset + slot.offset
            return (inputs if buffer.kind == "input" else outputs)[buffer.index] + slot.offset
        if isinstance(slot, float):
            return int(struct.unpack("<q", struct.pack("<d", slot))[0])
        if isinstance(slot, int):
            return slot
        raise TypeError(f"a GPU kernel has no argument {slot!r}")
