"""The session of an abstract run: operations are matched against the tree, and nothing is computed or changed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.ops.record import Op
from tracejit.tensor.host import name_of
from tracejit.tensor.scalar import Scalar, settled
from tracejit.tensor.state import state
from tracejit.tensor.tape import OWED
from tracejit.tensor.tensor import Tensor, on_gpu, pending, set_requires_grad
from tracejit.trace.expected import Expected, Form, evaluate, given_form, likeness, takes_given
from tracejit.trace.memory import is_changed
from tracejit.trace.moving import STARTS, in_motion, known_to_move
from tracejit.trace.ranges import in_range
from tracejit.trace.replay.symbols import Later, Midway, Source, Sym, Unproven
from tracejit.trace.replay.world import World
from tracejit.trace.tree import Event, External, Number, Opaque, Place, Stop, flatten, is_detached, same_number
from tracejit.trace.uncut import Uncut

STRUCTURE = "the function does something here that it did not do in the calls before"


class Matched:
    """A segment that the run went through: its end, and what stands for its slots and numbers."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.last: Event | None = None
        self.values: list[Any] = []
        self.numbers: list[tuple[Any, str | None]] = []
        self.externals: dict[int, int] = {}
        self.mutators: list[Event] = []
        self.stop: Stop | None = None


class Shadow:
    """Walks the tree as a follower does, with the world in an overlay and numbers as text.

    In a call that is recorded as a whole (`uncut`) reads cut nothing: values are there when its program ran, and where
    Python decides on one it is taken to do as it did then, which is what the call is `expected` to do.
    """

    def __init__(self, world: World, place: Place, uncut: Uncut | None = None) -> None:
        self.world = world
        self.uncut = uncut
        self.expected: dict[Expected, None] = {}
        self.given: dict[str, tuple[int, Any]] = {}
        """By their text, the numbers from outside that values are compared with: index and what they are now."""
        self.segments: list[Matched] = []
        self.drawn: dict[int, tuple[Any, int]] = {}
        self.reads: list[tuple[Any, int, Any, str]] = []
        """Segment, slot and tensor of what is read, and the method that does it."""
        self.lines: list[str] = []
        self.begin(place)

    def begin(self, place: Place) -> None:
        """Start on a segment."""
        self.at = Matched(place)
        self.segments.append(self.at)

    # --- matching -----------------------------------------------------------------------------------------------------

    def match(self, kind: str, function: Any, key: Any, tensors: list[Any], numbers: list[Any]) -> Event:
        """The event that this call is.

        Raises: Unproven if the tree does not know it.
        """
        while True:
            for event in self.at.place.events:
                if (
                    event.function is function
                    and event.kind == kind
                    and event.grad is state.grad_enabled
                    and len(event.operands) == len(tensors)
                    and event.key == key
                    and self.admit(event, tensors, numbers)
                ):
                    self.enter(event, numbers)
                    return event
            cut = self.at.place.cut
            if cut is None or not cut.silent:
                raise Unproven(STRUCTURE)
            self.cut(cut)

    def admit(self, event: Event, tensors: list[Any], numbers: list[Any]) -> bool:
        """Whether operands and numbers fit; binds tensors from outside."""
        at = self.at
        values, binds = at.values, event.binds
        count = len(values)
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
                or id(t) in at.externals
                or not self._suits(binds[slot], t)
                or self.is_mutated(t)
                or id(t) in ids
            ):
                return False
            else:
                new[slot] = t
                ids.add(id(t))
        for number, value in zip(event.numbers, numbers, strict=True):
            if not _fits(number, value):
                return False
        for slot, low, high in event.ranges:
            index = new[slot] if slot in new else values[slot]
            if index._array is None:
                raise Unproven("an index is computed before a look at memory", Later.fix)
            if not in_range(index, low, high):
                return False
        if new:
            values.extend([None] * (max(new) + 1 - count))
            for slot, t in new.items():
                self.world.touch(t)
                values[slot] = t
                at.externals[id(t)] = slot
        return True

    def _suits(self, external: External, t: Tensor) -> bool:
        """Whether a tensor from outside of the segment is like that; one of an earlier segment has no memory here."""
        if t._array is not None:
            return external.admits(t)
        seen = (t._shape, t._dtype, t._requires_grad, t._node is None, on_gpu(t))
        return seen == (external.shape, external.dtype, external.requires_grad, external.leaf, external.gpu)

    def is_mutated(self, t: Any) -> bool:
        """Whether the memory of a tensor from outside is also that of one which this segment changes."""
        return is_changed(t, self.at.mutators, self.at.values)

    def enter(self, event: Event, numbers: list[Any]) -> None:
        """Step onto an event."""
        at = self.at
        values, listing = at.values, self.world.listing
        values.extend([None] * (event.slots - len(values)))
        at.numbers.extend([(None, None)] * (event.count - len(at.numbers)))
        for number, given in zip(event.numbers, numbers, strict=True):
            value, text = _parts(given)
            if text is not None and (not number.varies or number.fixed):
                listing.require_number(text, value)
                text = None
            if text is not None and number.kind == "i":
                listing.require(f"{number.low} <= {text} <= {number.high}")
            at.numbers[number.index] = (value, text)
        for generator, seed, offset, count in event.draws:
            first, second = self.draw(generator, count)
            at.numbers[seed.index] = (first.value, first.source.text)
            at.numbers[offset.index] = (second.value, second.source.text)
        for result in event.results:
            slot = result.slot
            if values[slot] is None:
                made = pending(
                    result.aval, result.requires_grad, result.strides, OWED if result.requires_grad else None
                )
                if result.source is not None:
                    source = values[result.source]
                    made._base = source if source._base is None else source._base
                values[slot] = self.world.make_fresh(made)
        for before, new in event.renewed:
            values[new] = values[before]
        for target, new, history in event.assigned:
            t = values[target]
            values[new] = t
            if t is not None and history is not None:
                if not self.world.is_fresh(t):
                    raise Unproven(
                        "a tensor from outside gets or loses a gradient history by a change in place",
                        "change it under no_grad, or make a new tensor",
                    )
                t._node, t._requires_grad = OWED if history else None, history
        for slot, base in event.shown:
            if values[slot] is not None:
                values[slot]._node, values[slot]._base = OWED, values[base]
        if event.assigned or event.renewed:
            at.mutators.append(event)
        at.last, at.place = event, event.next

    def cut(self, stop: Stop) -> None:
        """Go on with the segment behind a look at memory."""
        self.at.stop = stop
        if stop.next is None:
            raise Unproven(STRUCTURE)
        self.begin(stop.next.root)

    # --- the session --------------------------------------------------------------------------------------------------

    def apply(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], rest: bool = False) -> Any:
        """Match an operation, which may be on the `rest` of a part that moves."""
        place = self.at.place
        if place.moving is not None and op in STARTS:
            dims = known_to_move(place.segment.region, place, op, args, attrs, rest)
            if dims:
                return in_motion(dims, op, args, attrs)
        attrs = settled(attrs)
        tensors: list[Any] = []
        numbers: list[Any] = []
        shape: list[Any] = []
        for a in args:
            if isinstance(a, Tensor):
                tensors.append(a)
                shape.append(Tensor)
            elif type(a) is bool:
                shape.append(a)
            else:
                numbers.append(a)
                shape.append("f" if isinstance(_parts(a)[0], float) else "i")
        self._refuse_eager(op)
        event = self.match("op", op, (attrs, tuple(shape)), tensors, numbers)
        values = self.at.values
        out = tuple(values[r.slot] for r in event.results)
        return out[0] if len(out) == 1 else out

    def detach(self, t: Tensor) -> Tensor:
        """Match a detachment."""
        event = self.match("detach", None, (), [t], [])
        return self.at.values[event.results[0].slot]  # type: ignore[no-any-return]

    def stands_on(self, t: Tensor, value: Tensor) -> bool:
        """Whether this segment detached `value` from the tensor."""
        return is_detached(self.at.last, self.at.values, value, t)

    def require(self, t: Tensor, value: bool) -> None:
        """Match that a leaf which this segment made requires gradients."""
        if not value or not self.world.is_fresh(t) or t._base is not None:
            self.host(set_requires_grad, (t, value), {})
        self.match("require", None, (), [t], [])
        t._requires_grad = True

    def assign(self, target: Tensor, value: Tensor) -> None:
        """Match a change in place."""
        self._refuse_eager("assign")
        self.match("assign", None, (), [target, value], [])

    def composite(self, composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Match a composite as one unit."""
        self._refuse_eager(composite)
        floats: list[Any] = []
        try:
            tensors, _, key, _ = flatten(self._plain(args, floats), self._plain(kwargs, floats))
        except Opaque:
            return composite.function(*args, **kwargs)
        event = self.match("composite", composite, key, tensors, floats)
        return self._output(event.output, event)

    def _plain(self, x: Any, floats: list[Any]) -> Any:
        """An argument with plain numbers; `floats` get the floats in order, symbolic ones as they are."""
        kind = type(x)
        if kind is Sym or kind is Scalar:
            value, _ = _parts(x)
            if type(value) is float:
                floats.append(x)
                return value
            return self.world.fix(x) if kind is Sym else x.take()
        if kind is float:
            floats.append(x)
            return x
        if kind is tuple or kind is list:
            return kind(self._plain(e, floats) for e in x)
        if kind is dict:
            return {k: self._plain(v, floats) for k, v in x.items()}
        return x

    def _output(self, layout: Any, event: Event) -> Any:
        kind = layout[0]
        if kind == "result":
            return self.at.values[event.results[layout[1]].slot]
        if kind == "value":
            return layout[1]
        items = [self._output(item, event) for item in layout[2]]
        made = layout[1](items) if layout[1] in (list, tuple) else layout[1](*items)
        return self.world.make_fresh(made)

    def draw(self, generator: Any, count: int) -> tuple[Any, Any]:
        """Seed and offset of random operations, as text: where the generator will stand then."""
        listing, world = self.world.listing, self.world
        world.keep(generator)
        before = self.drawn.get(id(generator), (generator, 0))[1]
        self.drawn[id(generator)] = (generator, before + count)
        if world.is_found(generator):
            world.pin(generator)
        name = listing.constant(generator)
        seed = listing.let(f"{name}.seed_")
        offset = listing.let(f"{name}.offset + {before}")
        return (
            Scalar(generator.seed_, Source(listing, seed)),
            Scalar(generator.offset + before, Source(listing, offset)),
        )

    def backward(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Match a backward pass as one unit."""
        self._refuse_eager("backward")
        roots, cotangents, keep, create_graph, inputs, accumulate = args
        key = (
            keep,
            create_graph,
            accumulate,
            len(roots),
            tuple(c is not None for c in cotangents),
            None if inputs is None else len(inputs),
        )
        tensors = [*roots, *(c for c in cotangents if c is not None), *(inputs or ())]
        crosses = False
        for event in self.at.place.events:
            if event.kind != "backward" or event.key != key or event.grad is not state.grad_enabled:
                continue
            if event.crossing is not None:
                # What a graph from outside is like is seen only by walking it.
                crosses = True
                continue
            full = self._with_leaves(event, tensors)
            if full is None or len(full) != len(event.operands) or not self.admit(event, full, []):
                continue
            self.enter(event, [])
            values = self.at.values
            for leaf, before, after in event.leaves:
                if after is not None and after != before:
                    self.world.write("slot", values[leaf], "_grad", values[after])
            return self._output(event.output, event)
        if crosses and len(self.segments) > 1:
            raise Midway("a backward pass goes back over a value that is read", Later.fix)
        raise Unproven(STRUCTURE)

    def _with_leaves(self, event: Event, tensors: list[Any]) -> list[Any] | None:
        grads = []
        leaves = []
        values = self.at.values
        given = dict(zip(event.operands, tensors, strict=False))
        for slot, before, _ in event.leaves:
            leaf = values[slot] if slot < len(values) and values[slot] is not None else given.get(slot)
            if leaf is None or leaf._hooks is not None:
                return None
            grad = self.world.grad_of(leaf)
            if (grad is None) != (before is None):
                return None
            leaves.append(leaf)
            if grad is not None:
                grads.append(grad)
        if any((values[slot] if slot < len(values) else given[slot])._hooks is not None for slot in event.watched):
            return None
        return [*tensors, *leaves, *grads]

    def host(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Functions that work on memory depend on values, or do what a program cannot."""
        name = name_of(function)
        raise Unproven(f"{name} works on memory", "keep it out of the compiled function, or use mode='follow'")

    def read(self, t: Tensor) -> Any:
        """The memory of a tensor decides what happens: in a whole call it is taken to hold what it held then."""
        kind = "bif"[t._dtype.category]
        if t._array is not None or t.numel() != 1 or kind == "f":
            raise Unproven(Later.complaint, Later.fix)
        if self.uncut is None:
            raise Midway("what the function does depends on a value of a tensor", Later.fix)
        slot = max((i for i, v in enumerate(self.at.values) if v is t), default=-1)
        if slot not in self.uncut.seen:
            raise Unproven(STRUCTURE)
        value = self.uncut.seen[slot]
        form: Form = ("read", kind, slot)
        equal = Expected(("==", form, ("number", value)), True) if kind == "i" else Expected(form, bool(value))
        self.expected[equal] = None
        return np.full(t._shape, value, t._dtype.np)

    def item(self, t: Tensor, how: str = "item") -> Later:
        """The only element of a tensor, once the program ran, or its array or list."""
        at = self.at
        position = len(self.reads)
        kind = "bif"[t._dtype.category] if how == "item" else "array"
        if how == "numpy" and (t._requires_grad or t._dtype is dtypes.bfloat16 or on_gpu(t)):
            raise Unproven(f"a tensor is turned into an array that has none like it: {t._dtype}", Later.fix)
        if t._array is None and self.uncut is not None:
            # The slot of the value that it has here.
            slot = max(i for i, v in enumerate(at.values) if v is t)
            if how == "numpy":
                raise Unproven("an array on the memory of a tensor is made between operations", Later.fix)
            if how == "item" and slot not in self.uncut.seen:
                raise Unproven(STRUCTURE)
            self.reads.append((at, slot, t, how))
            self.lines.append(self.world.line())
            return Later(f"r{position}", ("read", kind, slot) if how == "item" else None, kind)
        if t._array is None:
            # It may have been computed before an earlier look at memory.
            segment = next(s for s in reversed(self.segments) if any(v is t for v in s.values))
            slot = next(i for i, v in enumerate(segment.values) if v is t)
            self.reads.append((segment, slot, t, how))
            self.lines.append(self.world.line())
            if segment is at:
                stop = at.place.cut
                if stop is None:
                    raise Unproven(STRUCTURE)
                self.cut(stop)
            return Later(f"r{position}", kind=kind)
        raise Unproven(
            "a value of a tensor from outside is read", "give the number as an argument, or keep it a tensor"
        )

    def decide(self, x: Any) -> bool:
        """Whether a value that is read counts as true, which Python's way through the function depends on."""
        if self.uncut is None:
            raise Midway("the way through the function depends on a value of a tensor", Later.fix)
        if isinstance(x, Tensor):
            if x.numel() != 1:
                raise Unproven("the truth of a tensor of other than one element is asked for", Later.fix)
            x = self.item(x)
        if x.form is None:
            raise Unproven(Later.complaint, Later.fix)
        outcome = bool(evaluate(x.form, self.uncut.seen, self.given_now()))
        if takes_given(x.form):
            alike = likeness(x.form)
            if alike in self.uncut.outcomes:
                outcome = self.uncut.outcomes[alike]
            else:
                self.uncut.guessed[alike] = outcome
        self.expected[Expected(x.form, outcome)] = None
        return outcome

    def given_now(self) -> dict[int, Any]:
        """The numbers that the call finds, by index."""
        return dict(self.given.values())

    def form_of(self, x: Sym) -> Form | None:
        """The form of a number from outside, which the program of a whole call gets behind those of its operations."""
        if self.uncut is None:
            return None
        index, _ = self.given.setdefault(x.text, (self.uncut.count + len(self.given), x.value))
        if type(x.value) is int:
            # What a program's whole numbers hold.
            self.world.listing.require(f"-(2**63) <= {x.text} < 2**63")
        return given_form(x.value, index)

    def finish(self) -> None:
        """The abstract run is done."""
        stop = self.at.place.end
        if stop is None:
            raise Unproven(STRUCTURE)
        self.at.stop = stop
        self.at.numbers += [(value, text) for text, (_, value) in self.given.items()]

    def _refuse_eager(self, what: Any) -> None:
        cut = self.at.place.cut
        if cut is not None and what in cut.eager:
            name = getattr(what, "name", None) or getattr(what, "__name__", what)
            raise Unproven(f"{name} runs eagerly: {cut.reason}")


def _parts(x: Any) -> tuple[Any, str | None]:
    """Value and text of a number; a constant has no text."""
    if type(x) is Scalar:
        return x.value, x.source.text
    if type(x) is Sym:
        return x.value, x.text
    return x, None


def _fits(number: Number, given: Any) -> bool:
    value, _ = _parts(given)
    kind = "f" if isinstance(value, float) else "i"
    if kind != number.kind or (kind == "i" and not number.low <= value <= number.high):
        return False
    if number.varies and not number.fixed:
        return True
    return same_number(number.value, value)
