"""The follower: Python runs, its operations are only matched against the tree, and programs compute the values.

At a mismatch the matched part of the segment is computed eagerly, operation by operation as Python made them, and a
recorder goes on from that point of the tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from functools import partial
from itertools import repeat
from operator import is_
from sys import getrefcount
from time import perf_counter
from typing import Any

from tracejit.ops.record import Op
from tracejit.tensor.dispatch import compute
from tracejit.tensor.exposure import are_there, is_exposed
from tracejit.tensor.host import name_of
from tracejit.tensor.inplace import write_late
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tape import OWED, TapeNode
from tracejit.tensor.tensor import Tensor, pending, set_requires_grad
from tracejit.trace.backward import follow_backward, match_backward
from tracejit.trace.eager import EAGER
from tracejit.trace.executable import STRANGERS, Executable
from tracejit.trace.growth import Growth, grow, grow_cut, grow_end, sketched, sketched_backward
from tracejit.trace.landing import land
from tracejit.trace.matcher import MISS, matcher
from tracejit.trace.memory import Memory, is_changed, shows_changed
from tracejit.trace.moving import STARTS, begins_to_move, in_motion, known_to_move
from tracejit.trace.open_following import end_otherwise, find_sizes, leave_opening, results_at, take_opening
from tracejit.trace.open_program import OpenExecutable
from tracejit.trace.opening import Opening
from tracejit.trace.ranges import in_range
from tracejit.trace.repeat import materialise
from tracejit.trace.tree import Event, External, Opaque, Place, Stop, flatten, is_detached, path

FAMILIAR = 4
"""From how many meetings on an event gets a matcher: where calls are replayed soon, none is needed."""
MATCHERS = 4
"""How often an event may get a new matcher before the general way is taken for what it does not admit."""


class Follower:
    """The session of a call that follows the tree."""

    grows = True
    """Whether the tree may get branches for other sizes on the way."""

    def __init__(self, region: Any, place: Place) -> None:
        self.region = region
        # Where a proof wants to know what the call did: called with each segment's end and program.
        self.witness: Callable[[Follower, Stop, Executable, tuple[int, ...]], None] | None = None
        self.begin(place)

    def begin(self, place: Place) -> None:
        """Start on a segment."""
        self.place = place
        self.last: Event | None = None
        self.values: list[Any] = []
        self.numbers: list[Any] = []
        self.externals: list[Any] = []
        self.bound: set[int] = set()
        self.tried: list[int] = []
        self.settled = 0
        self.mutators: list[Event] = []
        self.owed: list[int] = []
        self.growth: Growth | None = None
        # The branch for all sizes that the call is in, those tried, the sizes, and what follows from them of an event.
        self.opening: Opening | None = None
        self.tried_openings: list[Opening] = []
        self.sizes: list[Any] = []
        self.found: Any = None
        self.rebased: list[tuple[Any, Any, bool]] = []
        self.crossed: dict[Event, list[TapeNode]] = {}
        self.released: list[Callable[[], None]] = []
        # Behind which event a generator stood where.
        self.drawn: list[tuple[Event | None, Any, tuple[int, int]]] = []

    # --- matching -----------------------------------------------------------------------------------------------------

    def match(self, kind: str, function: Any, key: Any, tensors: list[Any], numbers: list[Any]) -> Event | None:
        """The event that this call is, with its operands bound; None if the tree does not know it."""
        while True:
            self.unbind()
            for event in self.place.events:
                if (
                    event.function is function
                    and event.kind == kind
                    and event.grad is state.grad_enabled
                    and len(event.operands) == len(tensors)
                    and (event.key == key if event.fit is None else find_sizes(self, event, key, tensors))
                    and not (state.exposed is not None and self.changes_exposed(event, tensors))
                    and self.admit(event, tensors, numbers)
                ):
                    self.first_in_line(event)
                    self.enter(event, numbers)
                    return event
            if self.turns(kind, function, tensors, numbers):
                continue
            cut = self.place.cut
            if cut is None and next(self.place.models(), None) is None and grow_cut(self):
                cut = self.place.cut
            if cut is None or not cut.silent:
                return None
            self.cut(cut.reason)

    def turns(self, kind: str, function: Any, tensors: list[Any], numbers: list[Any]) -> bool:
        """Whether there is another place to look for a call: a branch for all sizes begins or ends here."""
        if self.place.cut is not None:
            return False
        return leave_opening(self) or take_opening(self, kind, function, tensors, numbers)

    def fits(self, event: Event, tensors: list[Any]) -> bool:
        """Whether an event whose key is known is for the sizes of its operands, which it then has if they were open."""
        return event.fit is None or find_sizes(self, event, event.key, tensors)

    def unbind(self) -> None:
        """Forget what a matcher that missed half way has noted as bound."""
        externals = self.externals
        count = 0 if self.last is None else self.last.outside
        del externals[count:]
        self.bound.difference_update(self.tried)
        self.tried.clear()
        # What a matcher found in its cells, and what an event bound that was stepped on, stands in the list.
        self.bound.update(map(id, externals[self.settled :]))
        self.settled = count

    def note(self, t: Any) -> None:
        """Note a tensor as bound, until it is known whether its event is the one."""
        self.bound.add(id(t))
        self.tried.append(id(t))

    def first_in_line(self, event: Event) -> None:
        """Let the event be looked at first from here on: it is the one that was used last."""
        events = self.place.events
        if events[0] is not event:
            events.remove(event)
            events.insert(0, event)

    def admit(
        self, event: Event, tensors: list[Any], numbers: list[Any], bare: Set[int] = frozenset()
    ) -> bool:
        """Whether operands and numbers fit; binds tensors from outside. Those that are `bare`, by their ids, have not
        the steps that made them.
        """
        values = self.values
        count = len(values)
        binds = event.binds
        new: dict[int, Any] = {}
        ids: set[int] = set()
        for slot, t in zip(event.operands, tensors, strict=True):
            if slot < count:
                if values[slot] is not t:
                    return False
            elif slot in new:
                if new[slot] is not t:
                    return False
            elif (
                slot not in binds
                or id(t) in self.bound
                or not (binds[slot].holds(t._array, t._dtype) if id(t) in bare else binds[slot].admits(t))
                or self.is_mutated(t)
                or id(t) in ids
            ):
                return False
            else:
                new[slot] = t
                ids.add(id(t))
        for k, (slot, low, high) in enumerate(event.ranges):
            if event.fit is not None:
                low, high = self.found[1][k]
            if not in_range(new[slot] if slot in new else values[slot], low, high):
                return False
        for number, value in zip(event.numbers, numbers, strict=True):
            if not number.admits(value):
                return False
        if new:
            values.extend([None] * (max(new) + 1 - count))
            for slot, t in new.items():
                values[slot] = t
                self.externals.append(t)
                self.note(t)
        return True

    def first(self, external: External, t: Any, cell: list[Any]) -> bool:
        """Whether a tensor that a matcher has not seen before fits; the matcher's cell then holds it."""
        if (
            not isinstance(t, Tensor)
            or not external.admits(t)
            or id(t) in self.bound
            or any(map(is_, self.externals, repeat(t)))
        ):
            return False
        self.note(t)
        # A tensor in the cells of two slots would be taken for two tensors.
        cells = self.place.segment.cells
        other = cells.get(id(t))
        if other is not None and other is not cell and other[0] is t:
            other[0] = other[1] = MISS
        if cells.get(id(cell[0])) is cell:
            del cells[id(cell[0])]
        cell[2] += 1
        if cell[2] > STRANGERS or not external.leaf:
            cell[0] = cell[1] = MISS
            return True
        cells[id(t)] = cell
        cell[0], cell[1] = t, t._array
        return True

    def is_mutated(self, t: Any) -> bool:
        """Whether the memory of a tensor from outside is also that of one which this segment changes."""
        return is_changed(t, self.mutators, self.values)

    def shows_mutated(self, t: Any) -> bool:
        """Whether a tensor shows memory that this segment changes through an array it does not know of."""
        return shows_changed(t, self.mutators, self.values)

    def changes_exposed(self, event: Event, tensors: list[Any]) -> bool:
        """Whether an event changes memory that NumPy arrays show, of which a program would make use too late."""
        if not event.assigned or not are_there():
            return False
        memory = Memory([*path(self.last), event])
        known = dict(enumerate(self.values)) | dict(zip(event.operands, tensors, strict=True))
        changed = [known.get(memory.root(target)) for target, _, _ in event.assigned]
        return any(t is not None and is_exposed(t) for t in changed)

    def enter(self, event: Event, numbers: list[Any]) -> None:
        """Step onto an event: make what Python gets from it, draw its random numbers, note its assignments."""
        values = self.values
        values.extend([None] * (event.slots - len(values)))
        stored = self.numbers
        stored.extend([None] * (event.count - len(stored)))
        for number, value in zip(event.numbers, numbers, strict=True):
            stored[number.index] = value
        results, draws = (event.results, event.draws) if event.fit is None else results_at(event, self.found)
        for generator, seed, offset, count in draws:
            stored[seed.index], stored[offset.index] = self.draw(generator, count)
        for result in results:
            slot = result.slot
            if values[slot] is None:
                values[slot] = pending(
                    result.aval, result.requires_grad, result.strides, OWED if result.requires_grad else None
                )
                self.owed.append(slot)
                if result.source is not None:
                    values[slot]._base = self.base_of(result.source)
        for before, new in event.renewed:
            values[new] = values[before]
        for target, new, history in event.assigned:
            t = values[target]
            values[new] = t
            if t is not None and history is not None:
                self.rebase(t, history)
        for slot, base in event.shown:
            self.outdate(values[slot], values[base])
        if event.assigned or event.renewed:
            self.mutators.append(event)
        if event.kind == "require":
            self.flag(values[event.operands[0]])
        event.met += 1
        if FAMILIAR <= event.met < FAMILIAR + MATCHERS and event.crossing is None:
            event.match = matcher(event)
        self.last = event
        self.place = event.next

    def base_of(self, slot: int) -> Any:
        """The tensor whose memory a tensor from outside shows."""
        source = self.values[slot]
        return source if source._base is None else source._base

    def rebase(self, t: Any, history: bool) -> None:
        """A change in place gave a tensor another gradient history, or took it away."""
        self.rebased.append((t, t._node, t._requires_grad))
        t._node = OWED if history else None
        t._requires_grad = history

    def flag(self, t: Any) -> None:
        """A leaf that this segment made requires gradients."""
        self.rebased.append((t, t._node, t._requires_grad))
        t._requires_grad = True

    def outdate(self, view: Any, base: Any) -> None:
        """The history of a view is that of its base, which a change in place gave one: found when somebody asks."""
        if view is not None:
            self.rebased.append((view, view._node, view._requires_grad))
            view._node, view._base = OWED, base

    def eagerly(self, what: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what the tree knows to run eagerly at this place, with what is pending computed first; else `MISS`."""
        cut = self.place.cut
        if cut is None and grow_cut(self, what=what):
            cut = self.place.cut
        if cut is None or what not in cut.eager:
            return MISS
        self.cut(cut.reason)
        state.session = None
        try:
            with cut.note.timed():
                return function(*args, **kwargs)
        finally:
            state.session = self

    # --- the session --------------------------------------------------------------------------------------------------

    def apply(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], rest: bool = False) -> Any:
        """Match an operation, which may be on the `rest` of a part that moves."""
        place = self.place
        if place.moving is not None and op in STARTS:
            dims = known_to_move(self.region, place, op, args, attrs, rest)
            if dims:
                return in_motion(dims, op, args, attrs)
        events = place.events
        if events:
            event = events[0]
            if event.function is op and event.match is not None:
                out = event.match(self, args, attrs)
                if out is not MISS:
                    return out
        tensors: list[Any] = []
        numbers: list[Any] = []
        shape: list[Any] = []
        for a in args:
            if isinstance(a, Tensor):
                tensors.append(a)
                shape.append(Tensor)
            elif type(a) is float:
                numbers.append(a)
                shape.append("f")
            elif type(a) is bool:
                shape.append(a)
            else:
                if type(a) is Scalar:
                    a = a.value
                numbers.append(a)
                shape.append("f" if isinstance(a, float) else "i")
        call = ("op", op, (attrs, tuple(shape)), tensors, numbers)
        found = self.match(*call)
        if found is None:
            if op in STARTS and (dims := begins_to_move(self, op, tensors, attrs, rest)):
                return in_motion(dims, op, args, attrs)
            out = self.eagerly(op, compute, (op, args, attrs), {})
            if out is not MISS:
                return out
            found = grow(self, *call, lambda sketch, of: sketch.apply(op, tuple(map(of, args)), attrs, True))
            if found is None:
                return self.leave(*call).apply(op, args, attrs, True)
        results = found.results
        if len(results) == 1:
            return self.values[results[0].slot]
        return tuple(self.values[r.slot] for r in results)

    def detach(self, t: Tensor) -> Tensor:
        """Match a detachment."""
        events = self.place.events
        if events and events[0].kind == "detach" and events[0].match is not None:
            out = events[0].match(self, t)
            if out is not MISS:
                return out  # type: ignore[no-any-return]
        event = self.match("detach", None, (), [t], [])
        if event is None:
            event = grow(self, "detach", None, (), [t], [], lambda sketch, of: sketch.detach(of(t)))
        if event is None:
            return self.leave("detach", None, (), [t], []).detach(t)
        return self.values[event.results[0].slot]  # type: ignore[no-any-return]

    def stands_on(self, t: Tensor, value: Tensor) -> bool:
        """Whether this segment detached `value` from the tensor."""
        return is_detached(self.last, self.values, value, t)

    def require(self, t: Tensor, value: bool) -> None:
        """Match that a leaf which this segment made requires gradients."""
        events = self.place.events
        if (
            value
            and events
            and events[0].kind == "require"
            and events[0].match is not None
            and events[0].match(self, t) is not MISS
        ):
            return
        values = self.values
        if not value or t._base is not None or not any(values[slot] is t for slot in self.owed):
            self.host(set_requires_grad, (t, value), {})
            return
        if self.match("require", None, (), [t], []) is not None:
            return
        if self.place.cut is not None:
            self.host(set_requires_grad, (t, value), {})
        elif grow(self, "require", None, (), [t], [], lambda sketch, of: sketch.require(of(t), True)) is None:
            self.leave("require", None, (), [t], []).require(t, True)

    def assign(self, target: Tensor, value: Tensor) -> None:
        """Match a change in place."""
        events = self.place.events
        if (
            events
            and events[0].kind == "assign"
            and events[0].match is not None
            and events[0].match(self, target, value) is not MISS
        ):
            return
        operands = [target, value]
        if self.match("assign", None, (), operands, []) is not None:
            return
        if self.eagerly("assign", write_late, (target, value), {}) is not MISS:
            return
        if grow(self, "assign", None, (), operands, [], lambda s, of: s.assign(of(target), of(value))) is None:
            self.leave("assign", None, (), operands, []).assign(target, value)

    def composite(self, composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Match a composite as one unit."""
        events = self.place.events
        if events:
            first = events[0]
            if first.function is composite and first.match is not None:
                out = first.match(self, args, kwargs)
                if out is not MISS:
                    return out
        try:
            tensors, floats, key, layout = flatten(args, kwargs)
        except Opaque:
            return composite.function(*args, **kwargs)
        call = ("composite", composite, key, tensors, floats)
        event = self.match(*call)
        if event is None:
            out = self.eagerly(composite, composite.function, args, kwargs)
            if out is not MISS:
                return out
            event = grow(self, *call, sketched(composite, tensors, floats, layout))
            if event is None:
                return self.leave(*call, layout).composite(composite, args, kwargs)
        return self.output(event.output, event)

    def output(self, layout: Any, event: Event) -> Any:
        """What a matched unit gives to Python."""
        kind = layout[0]
        if kind == "result":
            return self.values[event.results[layout[1]].slot]
        if kind == "value":
            return layout[1]
        items = [self.output(item, event) for item in layout[2]]
        return layout[1](items) if layout[1] in (list, tuple) else layout[1](*items)

    def draw(self, generator: Any, count: int) -> tuple[Any, Any]:
        """Advance a generator: its numbers are operands of the operation that follows."""
        drawn: tuple[int, int] = generator.advance(count)
        self.drawn.append((self.last, generator, drawn))
        return drawn

    def backward(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Match a backward pass as one unit."""
        return follow_backward(self, function, args)

    def grow_backward(self, function: Any, key: Any, tensors: list[Any], args: tuple[Any, ...]) -> Event | None:
        """Add the backward pass that is missing if it is one of the tree's at other sizes, and step on it."""
        run = sketched_backward(self, function, args)
        find = partial(match_backward, self, args)
        return grow(self, "backward", function, key, tensors, [], run, find)

    def host(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute what is pending, then run the function on real memory."""
        name = name_of(function)
        reason = f"{name} works on memory"
        if self.place.cut is None and not grow_cut(self, reason):
            return self.leave("host", None, name, [], []).host(function, args, kwargs)
        self.cut(reason)
        session, state.session = state.session, None
        try:
            return function(*args, **kwargs)
        finally:
            state.session = session

    def read(self, t: Tensor) -> Any:
        """The memory of a tensor: what is pending is computed first."""
        if t._array is None or (self.mutators and (self.is_mutated(t) or self.shows_mutated(t))):
            if self.place.cut is None and not grow_cut(self, "a value was read"):
                return self.leave("read", None, (), [t], []).read(t)
            self.cut("a value was read")
        return t._array

    # --- ends of segments ---------------------------------------------------------------------------------------------

    def cut(self, reason: str) -> None:
        """Compute the segment and start on the next."""
        stop = self.place.cut
        assert stop is not None
        begin = perf_counter()
        self.commit(stop)
        # Where a branch for all sizes was not for these, it is another one.
        stop = self.place.cut or stop
        assert stop.next is not None
        stop.note.add(perf_counter() - begin)
        self.begin(stop.next.root)

    def finish(self) -> None:
        """The region's Python is done: compute what it left."""
        stop = self.place.end
        if stop is None and grow_end(self):
            stop = self.place.end
        if stop is None:
            self.leave("end", None, (), [], []).finish()
            return
        self.commit(stop)

    def commit(self, stop: Stop) -> None:
        """Run the program of the segment and give every tensor that lives on its value."""
        if self.last is None:
            return
        alive = self._alive()
        executable = stop.programs.get(alive)
        if executable is None or executable.generation != self.region.generation:
            executable = self.region.compile(stop, alive)
            stop.programs[alive] = executable
        if executable.obstacle is not None or not self._run(executable):
            behind = None if self.opening is None else end_otherwise(self, stop, executable)
            if behind is not None:
                self.commit(behind)
                return
            self.region.eager_segments += 1
            reason = executable.obstacle or executable.refusal()
            with self.region.account.timed(executable.kind, stop.line, reason):
                materialise(self)
            return
        self.region.runs += 1
        if self.opening is not None:
            self.opening.runs += 1
            self.opening.place.openings.prefer(self.opening)
            self.region.pace.opened = True
        if self.witness is not None:
            self.witness(self, stop, executable, alive)

    def _alive(self) -> tuple[int, ...]:
        """The slots of what this segment owes and somebody but the segment holds."""
        values = self.values
        if not self.mutators and not self.rebased:
            return tuple(slot for slot in self.owed if getrefcount(values[slot]) > 2)
        # What was changed in place has a slot for each change.
        held = Counter([id(values[new]) for event in self.mutators for _, new, _ in event.assigned])
        held.update([id(values[new]) for event in self.mutators for _, new in event.renewed])
        held.update([id(t) for t, _, _ in self.rebased])
        # A leaf that goes takes its gradient along.
        leaves = [t for t, _, _ in self.rebased if t._grad is not None]
        held.update([id(t._grad) for t in leaves if getrefcount(t) <= 4 + held[id(t)]])
        leaves.clear()
        # A view that nobody holds lets its base go with it.
        views = [slot for slot in self.owed if values[slot]._base is not None]
        held.update([id(values[s]._base) for s in views if getrefcount(values[s]) <= 2 + held[id(values[s])]])
        return tuple(slot for slot in self.owed if getrefcount(values[slot]) > 2 + held[id(values[slot])])

    def _run(self, executable: Executable) -> bool:
        values = self.values
        if isinstance(executable, OpenExecutable):
            arrays = executable.run_at(self.sizes, values, self.numbers)
        else:
            arrays = executable.run(values, self.numbers)
        if arrays is None:
            return False
        land(self, executable, arrays)
        return True

    # --- leaving the tree ---------------------------------------------------------------------------------------------

    def leave(self, *call: Any) -> Any:
        """Compute eagerly what was matched in this segment, and record from here on; the session that goes on."""
        change = self.region.leaving(self, call)
        recorder = materialise(self)
        state.session = recorder if self.region.side_exit(change) else None
        return state.session or EAGER
