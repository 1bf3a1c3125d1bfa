"""The recorder: runs everything eagerly and writes down what it was.

It cannot be wrong about values, effects or exceptions, because it is the eager run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tracejit.ops.dynamic import DYNAMIC
from tracejit.ops.record import Op
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.tensor.dispatch import compute, detached
from tracejit.tensor.host import name_of
from tracejit.tensor.inplace import check_no_leaf, with_part, write
from tracejit.tensor.scalar import Scalar, returned, settled
from tracejit.tensor.state import state
from tracejit.tensor.tape import current, next_position
from tracejit.tensor.tensor import GpuAval, Tensor, aval_of, on_gpu, set_requires_grad
from tracejit.trace import obstacles
from tracejit.trace.backward import record_backward
from tracejit.trace.moving import STARTS, come_to_rest, in_motion, known_to_move
from tracejit.trace.names import Names
from tracejit.trace.ranges import bound_numbers, index_ranges
from tracejit.trace.renewal import is_renewable, renew
from tracejit.trace.source import user_line, user_literal
from tracejit.trace.tape import TapeReader, is_behind
from tracejit.trace.tree import (
    Event,
    External,
    Number,
    Opaque,
    Place,
    Result,
    Segment,
    Static,
    Step,
    Stop,
    flatten,
    is_detached,
    rebuild,
    same_number,
)
from tracejit.trace.unit import Unit


class Recorder(Names):
    """The session of a call that extends the tree."""

    def __init__(self, region: Any, place: Place) -> None:
        self.region = region
        self.replaying = False
        self.abandoned = False
        self.begin(place)

    def begin(self, place: Place) -> None:
        """Start on a fresh segment."""
        self.forget()
        self.place = place
        self.last: Event | None = None
        self.numbers = 0
        self.first = next_position()
        self.unit: Unit | None = None
        self.sources: dict[int, int] = {}
        self.parts: set[int] = set()
        """Slots of views, and of what was detached from them: their memory is another slot's."""
        self.owner: dict[int, int] = {}
        """Of slots of detached tensors and changed ones: the first slot of their memory."""
        self.newest: dict[int, tuple[int, int]] = {}
        """By first slots of changed memory: the slot of what is there now, and its version."""
        self.outer: dict[int, int] = {}
        self.border: dict[tuple[int, int], int] = {}
        self.stands: dict[Any, int] = {}
        self.top_draws: dict[int, Number] = {}
        # Where the segment computes, once that is known: all of a program is done by one device.
        self.gpu: bool | None = None

    # --- naming -------------------------------------------------------------------------------------------------------

    def bind(self, t: Tensor, binds: dict[int, External]) -> int:
        """Give a tensor from outside a slot."""
        slot = self.slots
        self.slots += 1
        array = t._array
        contiguous = bool(array.flags.c_contiguous)
        node = current(t)
        self.bound.add(slot)
        binds[slot] = External(
            array.shape,
            t._dtype,
            t._requires_grad,
            node is None,
            None if contiguous else array.strides,
            array.flags.writeable,
            type(array) is DeviceArray,
        )
        self._meet(t, node, slot)
        return slot

    def _meet(self, t: Tensor, node: Any, slot: int) -> None:
        """Let a slot stand for a tensor from outside, and for the step that made it."""
        if node is not None:
            self.outer[id(node)] = slot
            self.border[id(node), t._index] = slot
            self.kept.append(node)
        self.name(t, slot)

    def note_view(self, source: int, view: int) -> None:
        """Note a view, and which tensor from outside it shows, if one."""
        self.parts.add(view)
        self._note_source(source, view)

    def _note_source(self, source: int, view: int) -> None:
        """Note which tensor from outside a view, or a tensor that was changed, shows, if one."""
        root = self.sources.get(source, source)
        if root in self.bound:
            self.sources[view] = root

    def take(self, tensors: list[Tensor]) -> tuple[tuple[int, ...], dict[int, External]]:
        """The slots of an event's operands."""
        if tensors:
            self.settle(DeviceArray.used and any(map(on_gpu, tensors)))
        if any(self.stale(t) and not is_renewable(self, t) for t in tensors):
            self.cut("memory was changed in place through another tensor that shares it", silent=True)
        binds: dict[int, External] = {}
        slots = []
        for t in tensors:
            slot = self.exact(t)
            if slot is None:
                slot = self.known(t)
            slots.append(self.bind(t, binds) if slot is None else slot)
        return tuple(slots), binds

    def slot_in(self, unit: Unit, t: Tensor) -> int | None:
        """The slot of what a unit uses, None if it has none: another tensor on changed memory is taken again."""
        slot = self.known(t)
        return renew(self, unit, t) if slot is None and is_renewable(self, t) else slot

    def settle(self, gpu: bool) -> bool:
        """Go on where an event computes: on another device than what came before it, in a segment of its own.

        Whether a segment was begun for it.
        """
        parts = self.gpu is not None and self.gpu is not gpu
        if parts:
            self.cut("what follows computes on another device", silent=True)
        self.gpu = gpu
        return parts

    def stand(self, t: Tensor) -> int | None:
        """The slot of what a backward pass takes from steps outside of the segment."""
        slot = self.stands.get(id(t))
        if slot is None and t._node is not None:
            slot = self.stands.get((id(t._array), id(t._node)))
            if slot is not None:
                # Made anew by the gradient rule: nobody else has it.
                self.named[id(t)] = (slot, t._version)
                self.kept.append(t)
        return slot

    def number(self, value: float | int, varies: bool = False) -> Number:
        """Enter a number of this segment."""
        self.numbers += 1
        return Number(self.region, self.numbers - 1, value, varies)

    # --- replaying ----------------------------------------------------------------------------------------------------

    def open(self, event: Event, tensors: list[Tensor]) -> Unit:
        """Begin to run an event of the tree again, with the slots and numbers it has there."""
        for slot, t in zip(event.operands, tensors, strict=True):
            if slot in event.binds:
                self.bound.add(slot)
                self._meet(t, current(t), slot)
                self.slots = max(self.slots, slot + 1)
        self.replayed_draws = iter(event.draws)
        self.unit = Unit(event.name)
        return self.unit

    def close(self, event: Event) -> None:
        """The event has run."""
        self.leave()
        self.last = event
        self.slots, self.numbers = event.slots, event.count

    # --- events -------------------------------------------------------------------------------------------------------

    def emit(
        self,
        kind: str,
        function: Any,
        key: Any,
        operands: tuple[int, ...],
        binds: dict[int, External],
        numbers: tuple[Number, ...],
        layout: Any,
        unit: Unit,
        results: tuple[Result, ...],
        output: Any,
        leaves: tuple[tuple[int, int | None, int | None], ...] = (),
    ) -> None:
        """Add an event to the tree and go on behind it."""
        event = Event(
            kind,
            function,
            key,
            operands,
            binds,
            numbers,
            layout,
            state.grad_enabled,
            self.last,
            self.place,
            user_line(),
            unit.name,
            unit.steps,
            results,
            output,
            tuple(unit.draws),
            leaves,
            tuple(unit.assigned),
            index_ranges(unit.steps, self.last, binds, self.shape_of),
            self.slots,
            self.numbers,
            shown=tuple(unit.shown),
            renewed=tuple(unit.renewed),
        )
        event.next = Place(self.place.segment)
        for n in numbers:
            n.event = event
        self.put_down(event)
        self.last = event
        self.place = event.next

    def put_down(self, event: Event) -> None:
        """Let the tree have an event at this place."""
        self.region.enter(self.place, event)
        self.place.events.append(event)
        self.region.recorded_events += 1

    @contextmanager
    def inside(self, unit: Unit) -> Iterator[None]:
        """While this runs, operations are steps of the unit."""
        self.unit = unit
        try:
            yield
        finally:
            self.leave()

    def compute(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Run a record."""
        return compute(op, args, attrs)

    def step(self, unit: Unit, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Run a record and write it down as a step of the unit."""
        if unit.broken is None:
            unit.broken = obstacles.of_operation(op, args)
        if unit.broken is None and DeviceArray.used:
            unit.broken = self._stray(unit, op, args)
        if unit.broken is not None:
            return self.compute(op, args, attrs)
        attrs = settled(attrs)
        specs: list[Any] = []
        named = self.named
        for a in args:
            if isinstance(a, Tensor):
                found = named.get(id(a))
                if found is not None and found[1] == a._version:
                    # The most of them: what `known` and `stale` say of a tensor with a name.
                    specs.append(found[0])
                    continue
                slot = self.slot_in(unit, a)
                if slot is None and self.stands:
                    slot = self.stand(a)
                if slot is None or self.stale(a):
                    unit.broken = f"{unit.name} uses a tensor that is not among its arguments, or whose memory changed"
                    return self.compute(op, args, attrs)
                specs.append(slot)
            elif type(a) is Scalar:
                specs.append(a.source)
            else:
                specs.append(Static(a))
        out = self.compute(op, args, attrs)
        outs = out if type(out) is tuple else (out,)
        bound_numbers(op, args, attrs, outs)
        slots = tuple(self.new_slots(len(outs)))
        unit.steps.append(Step(op, tuple(specs), attrs, slots, outs[0]._base is not None))
        if outs[0]._base is not None:
            self.note_view(specs[0], slots[0])
        for t, slot in zip(outs, slots, strict=True):
            self.name(t, slot)
        return out

    # --- the session --------------------------------------------------------------------------------------------------

    def apply(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], rest: bool = False) -> Any:
        """Run and record an operation, which may be on the `rest` of a part that moves."""
        if self.unit is not None:
            return self.step(self.unit, op, args, attrs)
        if op in STARTS:
            dims = known_to_move(self.region, self.place, op, args, attrs, rest)
            if dims:
                return in_motion(dims, op, args, attrs)
        obstacle = obstacles.of_operation(op, args)
        if obstacle is not None:
            self.cut(obstacle, eager=op)
            return compute(op, args, attrs)
        tensors = [a for a in args if isinstance(a, Tensor)]
        if not tensors and self.settle(op.origin is not None):
            # What was drawn for it before is of this segment, too.
            args = tuple([Scalar(a.value, self.number(a.value, True)) if type(a) is Scalar else a for a in args])
        operands, binds = self.take(tensors)
        numbers: list[Number] = []
        wrapped: list[Any] = []
        shape: list[Any] = []
        for a in args:
            if isinstance(a, Tensor):
                wrapped.append(a)
                shape.append(Tensor)
            elif type(a) is bool:
                wrapped.append(a)
                shape.append(a)
            else:
                drawn = type(a) is Scalar
                # A run-time number from the start, unless it is written in the text: one that changes later costs no
                # other program.
                varies = op in DYNAMIC or not same_number(a, user_literal())
                number = a.source if drawn else self.number(a, varies)
                numbers.append(number)
                wrapped.append(a if drawn else Scalar(a, number))
                shape.append(number.kind)
        unit = Unit(op.name)
        with self.inside(unit):
            out = self.step(unit, op, tuple(wrapped), attrs)
        outs = out if type(out) is tuple else (out,)
        results = tuple(self.result(s, t) for s, t in zip(unit.steps[-1].outs, outs, strict=True))
        self.emit("op", op, (attrs, tuple(shape)), operands, binds, tuple(numbers), None, unit, results, None)
        return out

    def detach(self, t: Tensor) -> Tensor:
        """Detach and record it: another tensor on the same memory."""
        out = detached(t)
        unit = self.unit
        if unit is not None:
            slot = self.slot_in(unit, t)
            if slot is None or unit.broken is not None:
                unit.broken = unit.broken or f"{unit.name} detaches a tensor that is not among its arguments"
                return out
            self._alias(unit, slot, out)
            return out
        operands, binds = self.take([t])
        unit = Unit("detach")
        slot = self.slot_in(unit, t)
        assert slot is not None
        self._alias(unit, slot, out)
        results = (self.result(unit.steps[-1].outs[0], out),)
        self.emit("detach", None, (), operands, binds, (), None, unit, results, None)
        return out

    def stands_on(self, t: Tensor, value: Tensor) -> bool:
        """Whether this segment detached `value` from the tensor."""
        return self.unit is None and is_detached(self.last, self.by_slot, value, t)

    def require(self, t: Tensor, value: bool) -> None:
        """Let a leaf require gradients and record it, if this segment made it; others are changed between segments."""
        found = self.named.get(id(t))
        made = found is not None and found[0] not in self.bound and not self.stale(t)
        if self.unit is not None or not value or not made or t._base is not None:
            self.host(set_requires_grad, (t, value), {})
            return
        operands, binds = self.take([t])
        t._requires_grad = True
        self.emit("require", None, (), operands, binds, (), None, Unit("requires_grad"), (), None)

    def _alias(self, unit: Unit, slot: int, out: Tensor) -> None:
        new = self.new_slots(1)[0]
        unit.steps.append(Step(None, (slot,), (), (new,), True))
        self.owner[new] = self.owner.get(slot, slot)
        if slot in self.parts:
            self.parts.add(new)
        self.named[id(out)] = (new, out._version)
        self.by_slot[new] = out
        self.kept.append(out)

    def assign(self, target: Tensor, value: Tensor) -> None:
        """Change a tensor in place and record its new value."""
        check_no_leaf(target)
        if self.unit is not None:
            if self.unit.broken is None:
                self.unit.broken = self._obstacle(target, value)
            if self.unit.broken is None:
                self._change(self.unit, target, value)
            if self.unit.broken is not None:
                self._write(target, value)
            return
        unit = Unit("assign")
        reason = self._obstacle(target, value)
        if reason is None:
            operands, binds = self.take([target, value])
            with self.inside(unit):
                self._change(unit, target, value)
            reason = unit.broken
        if reason is not None:
            self.cut(reason, eager="assign")
            self._write(target, value)
            return
        self.emit("assign", None, (), operands, binds, (), None, unit, (), None)

    def _obstacle(self, target: Tensor, value: Tensor) -> str | None:
        """Why a change in place cannot be part of the segment."""
        if target._base is not None and is_renewable(self, target) and target._array.flags.writeable:
            return obstacles.of_assignment(target._base, value)
        if self.exact(target) in self.parts:
            return "a view from outside is changed in place"
        return obstacles.of_assignment(target, value)

    def _change(self, unit: Unit, target: Tensor, value: Tensor) -> None:
        """Change a tensor in place as part of a unit: of a view its base, with the value put in."""
        if target._base is not None:
            target, value = target._base, with_part(target, value)
        slot, source = self.slot_in(unit, target), self.slot_in(unit, value)
        if slot is None or source is None:
            unit.broken = unit.broken or f"{unit.name} changes a tensor that is not among its arguments"
        elif unit.broken is None:
            self._assign(unit, slot, source, target, value)

    def _stray(self, unit: Unit, op: Op, args: tuple[Any, ...]) -> str | None:
        """Why a step cannot be done where the others of its segment are."""
        gpu = op.origin is not None or any(isinstance(a, Tensor) and on_gpu(a) for a in args)
        if self.gpu is None:
            self.gpu = gpu
        return None if gpu is self.gpu else f"{unit.name} computes on two devices"

    def _assign(self, unit: Unit, slot: int, source: int, target: Tensor, value: Tensor) -> None:
        before = target._node
        self._write(target, value)
        new = self.new_slots(1)[0]
        unit.steps.append(Step(None, (source,), (), (new,)))
        history = None if target._node is before else target._node is not None
        unit.assigned.append((slot, new, history))
        if history:
            unit.shown += [(s, slot) for s, t in self.living() if t._base is target]
        self._note_source(slot, new)
        root = self.owner[new] = self.owner.get(slot, slot)
        self.newest[root] = new, target._version
        cell = target._share()
        self.mutated[id(cell)] = cell
        self.name(target, new)

    def _write(self, target: Tensor, value: Tensor) -> None:
        state.session = None
        try:
            write(target, value)
        finally:
            state.session = self

    def composite(self, composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a composite and record it as one event."""
        if self.unit is not None:
            return composite.function(*args, **kwargs)
        if composite in self.region.eager_units:
            return self.outside(self.region.eager_units[composite], composite, composite.function, args, kwargs)
        try:
            tensors, floats, key, layout = flatten(args, kwargs)
        except Opaque:
            return composite.function(*args, **kwargs)
        operands, binds = self.take(tensors)
        numbers = tuple(self.number(f, varies=True) for f in floats)
        scalars = [Scalar(f, n) for f, n in zip(floats, numbers, strict=True)]
        unit = Unit(composite.function.__name__)
        with self.inside(unit):
            out = composite.function(
                *rebuild(layout[0], tensors, scalars), **rebuild(layout[1], tensors, scalars)
            )
        if unit.broken is not None:
            self.give_up(composite, unit.broken)
            return returned(out)
        results: list[Result] = []
        output = self.describe(out, results)
        self.emit(
            "composite", composite, key, operands, binds, numbers, layout, unit, tuple(results), output
        )
        return returned(out)

    def result(self, slot: int, t: Tensor) -> Result:
        """What Python gets in a slot."""
        strides = None if t._array.flags.c_contiguous else t.stride()
        aval = aval_of(t)
        return Result(slot, GpuAval(*aval) if on_gpu(t) else aval, t._requires_grad, strides, self.sources.get(slot))

    def describe(self, out: Any, results: list[Result]) -> Any:
        """The layout of what a unit returned; its tensors become results."""
        if isinstance(out, Tensor):
            slot = self.known(out)
            if slot is None:
                raise RuntimeError("a composite returned a tensor that the trace does not know")
            results.append(self.result(slot, out))
            return ("result", len(results) - 1)
        if isinstance(out, (list, tuple)):
            return ("sequence", type(out), [self.describe(o, results) for o in out])
        # A number that comes back out is Python's from here on: another one is another branch.
        return ("value", out.take() if type(out) is Scalar else out)

    def draw(self, generator: Any, count: int) -> tuple[Any, Any]:
        """Advance a generator; seed and offset become run-time numbers."""
        seed, offset = generator.advance(count)
        if self.replaying:
            _, *known, _ = next(self.replayed_draws)
            return Scalar(seed, known[0]), Scalar(offset, known[1])
        numbers = self.number(seed, varies=True), self.number(offset, varies=True)
        if self.unit is not None:
            self.unit.draws.append((generator, *numbers, count))
        return Scalar(seed, numbers[0]), Scalar(offset, numbers[1])

    def backward(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Run a backward pass and record it as one event."""
        if self.unit is not None:
            self.unit.broken = "a gradient is taken inside a composite"
            return function(*args)
        return record_backward(self, function, args)

    def host(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that looks at memory or does what a trace cannot hold."""
        name = name_of(function)
        if self.unit is not None:
            self.unit.broken = f"{self.unit.name} calls {name}, which works on memory"
        else:
            self.cut(f"{name} works on memory")
        state.session = None
        try:
            return function(*args, **kwargs)
        finally:
            state.session = self

    def outside(self, reason: str, what: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a unit eagerly, between two segments."""
        self.cut(reason, eager=what)
        state.session = None
        try:
            return function(*args, **kwargs)
        finally:
            state.session = self

    def give_up(self, what: Any, reason: str) -> None:
        """A unit turned out half way not to be one: no more recording in this call; the next one runs it eagerly."""
        self.region.eager_units[what] = reason
        self.region.note("eager", user_line(), reason)
        self.abandoned = True
        state.session = None

    def read(self, t: Tensor) -> Any:
        """Memory is looked at: in a following call the values up to here must be there."""
        if self.unit is not None:
            self.unit.broken = f"{self.unit.name} looks at values"
            return t._array
        found = self.named.get(id(t))
        computed = found is not None and found[0] not in self.bound
        if computed or (t._cell is not None and id(t._cell) in self.mutated):
            self.cut("a value was read")
        return t._array

    # --- ends of segments ---------------------------------------------------------------------------------------------

    def cut(self, reason: str, silent: bool = False, eager: Any = None) -> None:
        """End the segment here and start another."""
        stop = self.place.cut
        if stop is None:
            stop = self.stop(reason)
            stop.silent = silent
            stop.next = Segment(self.region, self.place.segment.number + 1)
            self.region.first_roots.setdefault(stop.next.number, stop.next.root)
            self.place.cut = stop
            stop.note = self.region.note("cut", stop.line, reason)
        if eager is not None:
            stop.eager.add(eager)
            stop.note.eager = True
        assert stop.next is not None
        self.rest()
        self.begin(stop.next.root)

    def rest(self) -> None:
        """The segment is done with its views."""
        come_to_rest(t for _, t in self.living())

    def finish(self) -> None:
        """The region's Python is done."""
        if self.place.end is None:
            self.place.end = self.stop("the region ends")
        self.rest()

    def stop(self, reason: str) -> Stop:
        """Take down the tape as it is now."""
        reader = TapeReader(self.place_of, self.outer, self.first)
        newest = {slot: t for slot, t in self.by_slot.items() if self.exact(t) == slot}
        tape, behind = reader.roots(newest), {slot for slot, t in self.by_slot.items() if is_behind(t)}
        return Stop(self.last, self.slots, self.numbers, tape, reason, user_line(), behind, cause=self.region.change)
