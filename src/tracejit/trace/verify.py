"""Verification: what a program computed beside what eager computes from copies of the same inputs, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit.eager import run_op
from tracejit.errors import VerificationError
from tracejit.ops.record import ops
from tracejit.passes.bisect import differs, first_difference
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.tensor.dispatch import compute_array, wrap
from tracejit.tensor.gpu import gpu_side
from tracejit.tensor.inplace import copy_into
from tracejit.trace.account import Calls
from tracejit.trace.executable import Executable, _translate
from tracejit.trace.memory import Memory
from tracejit.trace.structure import Ends
from tracejit.trace.tree import Event, Static, Step, Stop, path

BROKEN = "verification found that its program computes other bits than eager"
STOPPED = "verification found a wrong program earlier in this call"


class Verified(Executable):
    """A program that is compared with eager when verification is due.

    If a bit differs, the tensors get eager's values, the rest of the call runs eagerly, the program is not used again,
    and the region raises at the end of the call.

    Cost: a run that is compared copies all inputs and computes every step eagerly; nothing of it is kept.
    """

    __slots__ = ("compared", "region", "stop")

    def watch(self, region: Any, stop: Stop) -> None:
        """Say whose program this is."""
        self.region, self.stop = region, stop
        self.compared = False

    def refusal(self) -> str:
        """Why the program changed nothing, when `run` gave None."""
        return super().refusal() if self.region.failure is None else STOPPED

    def run(self, values: list[Any], numbers: list[Any]) -> list[tuple[int, Any]] | None:
        """Run the program, compare if it is due: the arrays of its outputs, or None if it must not be used."""
        region = self.region
        if region.failure is not None:
            return None
        if self.compared if region.verify == "first" else not is_due(region.verify, region.calls, 0):
            return super().run(values, numbers)
        begin = time.perf_counter()
        inputs = {slot: _copied(values[slot]._array) for slot in self.inputs}
        made = super().run(values, numbers)
        if made is None:
            return None
        self.compared = True
        events = path(self.stop.last)
        changed = [self.inputs[place] for place in self.mutated]
        try:
            right = evaluate(events, inputs, numbers)
        except Exception as e:  # noqa: BLE001 - whatever it is, the call must raise it too, and does when it runs again
            for slot in changed:
                copy_into(values[slot]._array, inputs[slot])
            self._fail(Mismatch(self, events, inputs, numbers, {}, -1, None, e))
            return None
        memory = Memory(events)
        found = [*made, *((slot, values[slot]._array) for slot in changed)]
        wrong = [(slot, a) for slot, a in found if differs(_host(right[memory.last(slot)]), _host(a)).any()]
        if not wrong:
            took = time.perf_counter() - begin
            self.region.note("verification", self.stop.line, "the program's values are eager's, bit for bit", took)
            return made
        slot, array = wrong[0]
        shown = {s: _host(value) for s, value in right.items()}
        self._fail(Mismatch(self, events, inputs, numbers, shown, memory.last(slot), _host(array).copy(), None))
        for slot in changed:
            copy_into(values[slot]._array, right[memory.last(slot)])
        return [(slot, compute_array(ops.copy, (right[memory.last(slot)],), ())) for slot, _ in made]

    def _fail(self, mismatch: Mismatch) -> None:
        self.region.failure = mismatch
        self.obstacle = BROKEN
        self.region.note("verification", self.stop.line, BROKEN)


def is_due(every: Any, calls: Calls, ahead: int) -> bool:
    """Whether all programs of this call, or of one some calls ahead, are compared; such a call is not replayed."""
    return type(every) is int and (calls.followed + calls.replayed + ahead) % every == 0


def evaluate(events: list[Event], inputs: dict[int, Any], numbers: list[Any]) -> dict[int, Any]:
    """The value of every slot after the events, by eager's kernels, from the arrays of the tensors from outside.

    Raises: what eager raises.
    """
    values = dict(inputs)
    for event in events:
        assigned = {new for _, new, _ in event.assigned}
        for step in event.steps:
            if step.op is None:
                value = values[step.args[0]]
                # A change in place copies into the memory of its target, which is contiguous.
                values[step.outs[0]] = compute_array(ops.copy, (value,), ()) if step.outs[0] in assigned else value
                continue
            found = compute_array(step.op, tuple(_argument(a, values, numbers) for a in step.args), step.attrs)
            for slot, array in zip(step.outs, found if type(found) is tuple else (found,), strict=True):
                # As in eager, every computed tensor is contiguous; a view is what it is.
                values[slot] = array if step.view or array.flags.c_contiguous else array.copy(order="C")
    return values


def _copied(array: Any) -> Any:
    """A copy of an array that lies in memory as it does, on its device."""
    return gpu_side().laid_out_copy(array) if type(array) is DeviceArray else array.copy(order="K")


def _host(array: Any) -> Any:
    """An array for the host to read."""
    return array.wait() if type(array) is DeviceArray else array


def _argument(a: Any, values: dict[int, Any], numbers: list[Any]) -> Any:
    if type(a) is int:
        return values[a]
    return a.value if isinstance(a, Static) else numbers[a.index]


@dataclass(slots=True)
class Fault:
    """A step whose value differs: the event and step it belongs to, the slot, the value, the program that made it."""

    event: Event
    step: Step | None
    slot: int
    value: Any
    program: Executable
    output: int | None


@dataclass(slots=True)
class Mismatch:
    """A run of a program that differed from eager: all that is needed to find out where."""

    program: Verified
    events: list[Event]
    inputs: dict[int, Any]
    numbers: list[Any]
    right: dict[int, Any]
    slot: int
    value: Any
    raised: Exception | None

    def error(self) -> VerificationError:
        """The exception that says where the program first differs.

        Cost: builds the segment again with the value of every step as an output, and if all are right then, about
        log2(steps) times more with one of them.
        """
        name, line = self.program.region.name, self.program.stop.line
        if self.raised is not None:
            text = f"{type(self.raised).__name__}: {self.raised}"
            return VerificationError(
                f"{name}: eager raises where the program of the segment that ends at {line} does not: {text}",
                op=type(self.raised).__name__,
                line=line,
            )
        unfound = ""
        try:
            found = self._first_of_all() or self._bisected()
            broken = self._broken_pass(found.program)
        except Exception as e:  # noqa: BLE001 - what makes the program wrong may break the search for it too
            found, broken = self._output(self._steps()), None
            unfound = f"the search ended with {type(e).__name__}: {e}; an operation before this one may be the first"
        event, step = found.event, found.step
        op = event.name if step is None or step.op is None else step.op.name
        right, wrong = self.right[found.slot], found.value
        places = np.argwhere(differs(right, wrong))
        index = tuple(int(i) for i in places[0])
        kernel = None if found.output is None else _writer(found.program, found.output)
        inside = "" if op == event.name else f" in {event.name}"
        parts = [
            f"{name}: a compiled program computed other bits than eager",
            f"first operation that differs: {op}{inside} ({event.line})",
            f"element {list(index)} of {right.dtype.name}{list(right.shape)}: eager {_shown(right[index])}, "
            f"compiled {_shown(wrong[index])}; {len(places)} of {right.size} elements differ",
        ]
        if kernel is not None:
            parts.append(f"kernel: {kernel.name} (its text is this error's `text`)")
        if unfound:
            parts.append(unfound)
        elif broken is None:
            parts.append("no pass changed what the graph computes: the fault is in the plan or the kernel")
        else:
            parts.append(f"pass: after {broken} the graph computes something else")
        parts.append("all tensors hold eager's values, and this part of the function runs eagerly from now on")
        return VerificationError(
            "\n  ".join(parts),
            op=op,
            line=event.line,
            index=index,
            eager=right[index].item(),
            compiled=wrong[index].item(),
            count=len(places),
            kernel=None if kernel is None else kernel.name,
            text=None if kernel is None else kernel.text,
            broken_pass=broken,
        )

    def _steps(self) -> dict[int, tuple[Event, Step]]:
        """What computed each slot, in order."""
        return {s: (e, step) for e in self.events for step in e.steps if step.op is not None for s in step.outs}

    def _run(self, memory: Memory, wanted: Iterable[int]) -> tuple[Executable, dict[int, Any]] | None:
        """The values of some slots as a program computes them from the same inputs."""
        probe = Executable(self.program.generation)
        _translate(self.events, memory, dict.fromkeys(wanted), probe, self.program.region.name, Ends([], []))
        values: list[Any] = [None] * (max(self.inputs, default=-1) + 1)
        for slot, array in self.inputs.items():
            values[slot] = wrap(_copied(array))
        made = probe.run(values, self.numbers)
        return None if made is None else (probe, {slot: _host(array) for slot, array in made})

    def _is_wrong(self, slot: int, value: Any) -> bool:
        return bool(differs(self.right[slot], value).any())

    def _first_of_all(self) -> Fault | None:
        """The first step that differs if the program gives the values of all of them."""
        steps = self._steps()
        memory = Memory(self.events)
        # A slot stands for what its step computed, not for what its memory holds in the end.
        memory.final = {root: last for root, last in memory.final.items() if root in memory.external}
        found = self._run(memory, steps)
        if found is None:
            return None
        probe, values = found
        for output, (slot, _, _) in enumerate(probe.outputs):
            if self._is_wrong(slot, values[slot]):
                return Fault(*steps[slot], slot, values[slot], probe, output)
        return None

    def _bisected(self) -> Fault:
        """A step that differs while the one before it does not, if the program gives only one more value than it did.

        It is the step of the output that differed if no such one can be found.
        """
        steps = self._steps()
        memory = Memory(self.events)
        outputs = [slot for slot, _, _ in self.program.outputs]
        last = self._producer(steps)
        best = self._output(steps)
        chain = [s for s in self._ancestors(last, steps) if s not in memory.final and s not in outputs]
        low, high = -1, len(chain)
        while high - low > 1:
            middle = (low + high) // 2
            slot = chain[middle]
            found = self._run(memory, [*outputs, slot])
            if found is not None and self._is_wrong(slot, found[1][slot]):
                high = middle
                best = Fault(*steps[slot], slot, found[1][slot], found[0], len(outputs))
            else:
                low = middle
        return best

    def _producer(self, steps: dict[int, tuple[Event, Step]]) -> int:
        """The slot of the step whose value the output that differed is."""
        slot = self.slot
        copies = {s.outs[0]: s.args[0] for e in self.events for s in e.steps if s.op is None}
        while slot not in steps and slot in copies:
            slot = copies[slot]
        return slot

    def _output(self, steps: dict[int, tuple[Event, Step]]) -> Fault:
        """The output that differed, as the program itself gave it."""
        program = self.program
        memory = Memory(self.events)
        lasts = [memory.last(slot) for slot, _, _ in program.outputs]
        lasts += [memory.last(program.inputs[place]) for place in program.mutated]
        producer = self._producer(steps)
        event, step = steps.get(producer, (self._assigner(), None))
        return Fault(event, step, self.slot, self.value, program, lasts.index(self.slot))

    def _assigner(self) -> Event:
        """The event of the output that differed, where it is a copy of a tensor from outside."""
        return next(e for e in self.events if any(self.slot in s.outs for s in e.steps))

    def _ancestors(self, slot: int, steps: dict[int, tuple[Event, Step]]) -> list[int]:
        """The slots of the steps that a slot is computed from, in order."""
        copies = {s.outs[0]: s.args[0] for e in self.events for s in e.steps if s.op is None}
        seen: set[int] = set()
        stack = [slot]
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            if at in copies:
                stack.append(copies[at])
            elif at in steps:
                stack.extend(a for a in steps[at][1].args if type(a) is int)
        return [s for s in steps if s in seen]

    def _broken_pass(self, program: Executable) -> str | None:
        """The pass after which the program's graph computes something else."""
        if program.gpu or program.graph is None or getattr(program.compiled, "report", None) is None:
            # What a pass changed is looked for with the CPU's kernels, whose sums are others than the GPU's.
            return None
        inputs = [self.inputs[slot] for slot in program.inputs]
        scalars = [self.numbers[index] for index, _ in program.numbers]
        found = first_difference(program.graph, program.compiled.report, inputs, scalars, run_op)
        return None if found is None else found.name


def _writer(program: Executable, output: int) -> Any:
    """The kernel that writes an output of a program."""
    if program.gpu or program.graph is None or not hasattr(program.compiled, "program"):
        return None
    return program.compiled.program.first_user(len(program.graph.inputs) + output)


def _shown(value: Any) -> str:
    """A value with its bits."""
    bits = value.view(f"u{value.dtype.itemsize}")
    return f"{value.item()!r} (0x{int(bits):0{2 * value.dtype.itemsize}x})"
