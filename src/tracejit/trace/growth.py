"""Growth: the tree gets a branch for new sizes without running anything.

Where a call differs from the tree in sizes alone, its operations are put down beside those of the branch they
resemble: Python's part of each, also of composites and of the backward pass, runs at the new sizes on tensors whose
memory is never looked at. What looks at it, raises, or turns out to have another structure is no growth: the call
then leaves the tree as any call that does something new.

In: a miss of the follower, and the place of the tree that its branch resembles. Out: the event that was missing.
Must not know: programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tracejit.aval import Aval
from tracejit.ops.dynamic import DYNAMIC
from tracejit.ops.record import Op
from tracejit.runtime.cuda.array import DeviceArray, host_view
from tracejit.tensor.blank import blank
from tracejit.tensor.dispatch import compute, wrap
from tracejit.tensor.inplace import rewritten
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tape import current, enter
from tracejit.tensor.tensor import Tensor, aval_of, on_gpu
from tracejit.trace.backward import reach
from tracejit.trace.closing import close
from tracejit.trace.recorder import Recorder
from tracejit.trace.repeat import repeat
from tracejit.trace.structure import computes_on_gpu
from tracejit.trace.tree import Event, External, Place, Segment, Stop, path, rebuild


class Ungrown(Exception):
    """The call does something for which it must really run."""


class Sketch(Recorder):
    """A recorder whose tensors have shapes and histories, but no values."""

    keeps_all = True
    # The branch that it makes is followed with them.

    def __init__(self, region: Any, place: Place) -> None:
        super().__init__(region, place)
        self.positions: dict[int, tuple[Any, Any, Any]] = {}

    def compute(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """What the operation gives, without its values."""
        if op.family == "view":
            return self.view(op, args, attrs)
        known = [aval_of(a) if isinstance(a, Tensor) else a.value if type(a) is Scalar else a for a in args]
        found = op.infer(*known, *attrs)
        several = type(found) is tuple
        outs = tuple(map(self.made, found if several else (found,)))
        if op.origin is not None or any(isinstance(a, Tensor) and on_gpu(a) for a in args):
            if any(isinstance(a, Tensor) and not on_gpu(a) and a._shape for a in args):
                raise Ungrown
            for out in outs:
                out._array = out._array.view(DeviceArray)
        for a in args:
            if isinstance(a, Tensor) and a._base is not None:
                # A change in place of what it shows may have given it a history.
                current(a)
        mask = sum(1 << i for i, a in enumerate(args) if isinstance(a, Tensor) and a._requires_grad)
        if mask and state.grad_enabled and op.rules:
            enter(op, args, attrs, outs, mask)
        return outs if several else outs[0]

    def made(self, aval: Aval) -> Tensor:
        """A tensor that an operation makes."""
        return wrap(blank(aval.shape, aval.dtype.np))

    def view(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Tensor:
        """What an operation shows of a tensor; of one on a GPU it is memory of the host, too."""
        x = args[0]
        if not on_gpu(x):
            return compute(op, args, attrs)  # type: ignore[no-any-return]
        array, x._array = x._array, host_view(x._array)
        try:
            out: Tensor = compute(op, args, attrs)
        finally:
            x._array = array
        out._array = out._array.view(DeviceArray)
        return out

    def _write(self, target: Tensor, value: Tensor) -> None:
        if target._base is not None:
            raise Ungrown
        rewritten(target, value)

    def draw(self, generator: Any, count: int) -> tuple[Any, Any]:
        """Seed and offset as run-time numbers; the generator is put back afterwards."""
        self.positions.setdefault(id(generator), (generator, generator.seed_, generator.offset))
        return super().draw(generator, count)

    def put_back(self) -> None:
        """Undo the draws: the follower makes them when it steps onto the event."""
        for generator, seed, offset in self.positions.values():
            generator.seed_, generator.offset = seed, offset
        self.positions.clear()

    def read(self, t: Tensor) -> Any:
        """Nothing can be read."""
        raise Ungrown

    def host(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Nothing works on memory."""
        raise Ungrown

    def cut(self, reason: str, silent: bool = False, eager: Any = None) -> None:
        """Segments end where those of the branch that is resembled end, or not at all."""
        raise Ungrown

    def give_up(self, what: Any, reason: str) -> None:
        """A unit that must run eagerly."""
        raise Ungrown


class Growth:
    """The sketch of one segment of a following call."""

    def __init__(self, follower: Any) -> None:
        self.follower = follower
        self.sketch = Sketch(follower.region, follower.place.segment.root)
        self.done: Event | None = None
        self.cells: set[int] = set()
        # The first slots of the call's tensors, as far as they have been looked at.
        self.slots: dict[int, int] = {}
        self.looked = 0

    # --- tensors ------------------------------------------------------------------------------------------------------

    def shadow(self, t: Any) -> Any:
        """The sketch's tensor for one of the call."""
        if not isinstance(t, Tensor):
            return t.value if type(t) is Scalar else t
        slot = self.slot_of(t)
        if slot is not None:
            found = self.sketch.by_slot[slot]
        else:
            array = t._array
            if array is None or t._node is not None or self.follower.is_mutated(t):
                raise Ungrown
            if t._base is not None and (t._base._node is not None or t._base._requires_grad):
                raise Ungrown
            if id(t) in self.new:
                found = self.new[id(t)]
            else:
                strides = None if array.flags.c_contiguous else array.strides
                writeable, gpu = array.flags.writeable, on_gpu(t)
                found = self.ghost(
                    External(array.shape, t._dtype, t._requires_grad, True, strides, writeable, gpu)
                )
                self.new[id(t)] = found
                self.share(t)
        if found._requires_grad is not t._requires_grad or (found._node is None) is not (t._node is None):
            raise Ungrown
        return found

    def slot_of(self, t: Any) -> int | None:
        """The first slot of a tensor of the call."""
        values = self.follower.values
        for slot in range(self.looked, len(values)):
            if values[slot] is not None:
                self.slots.setdefault(id(values[slot]), slot)
        self.looked = len(values)
        found = self.slots.get(id(t))
        return found if found is not None and values[found] is t else None

    def share(self, t: Any) -> None:
        """Note a tensor from outside; none may show the memory of another."""
        if t._cell is not None:
            if id(t._cell) in self.cells:
                raise Ungrown
            self.cells.add(id(t._cell))

    @staticmethod
    def ghost(external: External) -> Tensor:
        """A tensor like one from outside, with memory that nobody looks at."""
        if not external.leaf:
            raise Ungrown
        if external.strides is not None and any(s < 0 for s in external.strides):
            raise Ungrown
        array = blank(external.shape, external.dtype.np, external.strides)
        array.flags.writeable = external.writeable
        t = wrap(array.view(DeviceArray) if external.gpu else array)
        t._requires_grad = external.requires_grad
        return t

    # --- keeping up ---------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Sketch what the follower has matched since."""
        follower, sketch = self.follower, self.sketch
        events = path(follower.last, self.done)

        def ghost(slot: int, external: External) -> Tensor:
            self.share(follower.values[slot])
            return self.ghost(external)

        put_behind(sketch, events, follower.numbers, ghost)
        self.done = follower.last
        if events:
            sketch.gpu = bool(sketch.gpu) or computes_on_gpu(events)
        sketch.last, sketch.place = follower.last, follower.place

    def grow(self, run: Callable[[Sketch, Callable[[Any], Any]], Any], model: Event | None) -> Event:
        """Put down the event that `run` makes of the sketch and its tensors, if it resembles the model, if any."""
        sketch = self.sketch
        session, mode = state.session, state.grad_enabled
        state.session = sketch
        place = self.follower.place
        self.new: dict[int, Any] = {}
        try:
            self.catch_up()
            state.grad_enabled = mode
            run(sketch, self.shadow)
        finally:
            state.session, state.grad_enabled = session, mode
            sketch.put_back()
        made = sketch.last
        if made is None or made is self.follower.last:
            raise Ungrown
        if model is not None and not alike(made, model):
            place.events.remove(made)
            self.follower.region.recorded_events -= 1
            raise Ungrown
        self.done = made
        return made

    def sync_leaves(self, roots: Any, inputs: Any) -> None:
        """Give the sketch's leaves the gradients that those of the call have."""
        sketch = self.sketch
        leaves, pairs = reach(sketch, roots)
        if pairs:
            raise Ungrown
        for leaf in [*leaves.values(), *(inputs or ())]:
            real = self.follower.values[sketch.slot(leaf)]
            if real._hooks is not None:
                raise Ungrown
            leaf._grad = None if real._grad is None else self.shadow(real._grad)

    def stop(self, reason: str, model: Stop | None) -> Stop:
        """The end of the segment, as that of the branch that is resembled."""
        sketch = self.sketch
        session, mode = state.session, state.grad_enabled
        state.session = sketch
        try:
            self.catch_up()
            made = sketch.stop(reason)
        finally:
            state.session, state.grad_enabled = session, mode
            sketch.put_back()
        if model is not None:
            made.silent = model.silent
            made.eager = set(model.eager)
        return made

    def cut(self, reason: str, model: Stop | None) -> Stop:
        """A look at memory; the next segment resembles the one behind that of the branch that is resembled."""
        number = self.follower.place.segment.number + 1
        made = self.stop(reason, model)
        made.next = segment_like(self.follower.region, number, model)
        return made


class _Behind(NamedTuple):
    """What repeating events asks of a follower that has passed them."""

    values: dict[int, Any]
    numbers: Any


def put_behind(sketch: Sketch, events: list[Event], numbers: Any, ghost: Callable[[int, External], Tensor]) -> None:
    """Let a sketch stand behind events that are there, with a ghost for each tensor from outside."""
    for event in events:
        for generator, *_ in event.draws:
            sketch.positions.setdefault(id(generator), (generator, generator.seed_, generator.offset))
    sketch.replaying = True
    try:
        for event in events:
            for slot, external in event.binds.items():
                sketch.by_slot[slot] = ghost(slot, external)
            state.grad_enabled = event.grad
            repeat(_Behind(sketch.by_slot, numbers), event, sketch, {})
    finally:
        sketch.replaying = False


def segment_like(region: Any, number: int, model: Stop | None) -> Segment:
    """A segment for other sizes behind a look at memory, like that behind another one."""
    made = Segment(region, number)
    root = made.root
    root.grown = True
    like = region.first_roots.get(number) if model is None or model.next is None else model.next.root
    if like is not None:
        root.model = like.model or like
        root.model.peers.add(root)
    return made


Run = Callable[[Sketch, Callable[[Any], Any]], Any]
"""Repeats a call on a sketch; the second argument gives the sketch's tensor for one of the call."""


def grow(
    follower: Any,
    kind: str,
    function: Any,
    key: Any,
    tensors: list[Any],
    numbers: list[Any],
    run: Run,
    match: Callable[[Any, list[Any]], Event | None] | None = None,
) -> Event | None:
    """Add the event that the tree lacks at the follower's place if it is one of the tree's at other sizes; step on it.

    `match` is how the follower finds it, if not as other events.
    """
    close(follower)
    place = follower.place
    model = next((e for e in place.models() if resembles(e, kind, function, tensors, follower.values)), None)
    # Within a branch for other sizes, such as a loop over more steps, anything may follow that is known to grow.
    # What begins where a number of the run says takes the place of something known.
    begins = function in DYNAMIC
    if model is None and not (begins or (place.grown and (kind, function) in follower.region.known)):
        return None
    region = follower.region
    if not follower.grows or not region.may_grow(tensors, structural(model, numbers)):
        return None
    change = "" if place.grown else region.resizing(follower, (kind, function, key, tensors, numbers))
    count = region.calls.resized
    try:
        if follower.growth is None:
            follower.growth = Growth(follower)
        made = follower.growth.grow(run, model)
    except Exception:  # noqa: BLE001 - a composite may raise anything
        # What eager execution makes of it, an error or not, it says itself.
        follower.growth = None
        return None
    found: Event | None
    found = follower.match(kind, function, key, tensors, numbers) if match is None else match(key, tensors)
    if found is not made:
        # It does not fit after all, such as for an index out of range.
        follower.growth = None
        if made in place.events:
            place.events.remove(made)
            region.recorded_events -= 1
    else:
        if begins and made is not None:
            made.next.grown = True
        if region.calls.resized > count:
            region.resized(change)
    return found


def grow_end(follower: Any) -> bool:
    """End the region here, if it ends at places like this one or in a branch for other sizes."""
    close(follower)
    place = follower.place
    model = place.ends("end")
    if not follower.grows or (model is None and not place.grown):
        return False
    try:
        if follower.growth is None:
            follower.growth = Growth(follower)
        place.end = follower.growth.stop("the region ends", model)
    except Exception:  # noqa: BLE001 - as above
        follower.growth = None
    return place.end is not None


def grow_cut(follower: Any, reason: str = "", what: Any = None) -> bool:
    """Add the look at memory that places like this one have; with `what` only for that unit.

    With a `reason`, also where only the branch is one for other sizes.
    """
    close(follower)
    place = follower.place
    if place.cut is not None or not follower.grows:
        return False
    model = place.ends("cut")
    if model is None:
        if not (reason and place.grown):
            return False
    elif what is not None and what not in model.eager:
        return False
    try:
        if follower.growth is None:
            follower.growth = Growth(follower)
        place.cut = follower.growth.cut(reason or model.reason, model)
    except Exception:  # noqa: BLE001 - as above
        follower.growth = None
    return place.cut is not None


def sketched(composite: Any, tensors: list[Any], floats: list[Any], layout: Any) -> Run:
    """Repeats the call of a composite."""

    def run(sketch: Sketch, of: Callable[[Any], Any]) -> None:
        shadows = [of(t) for t in tensors]
        sketch.composite(composite, rebuild(layout[0], shadows, floats), rebuild(layout[1], shadows, floats))

    return run


def sketched_backward(follower: Any, function: Any, args: tuple[Any, ...]) -> Run:
    """Repeats a backward pass."""
    roots, cotangents, keep, create_graph, inputs, accumulate = args

    def run(sketch: Sketch, of: Callable[[Any], Any]) -> None:
        starts, given = [of(t) for t in roots], [of(c) for c in cotangents]
        targets = None if inputs is None else [of(t) for t in inputs]
        if accumulate:
            follower.growth.sync_leaves(starts, targets)
        sketch.backward(function, (starts, given, keep, create_graph, targets, accumulate))

    return run


def structural(model: Event | None, numbers: list[Any]) -> list[Any]:
    """The numbers of a call that are part of the structure: those of the run are not."""
    own = () if model is None else zip(model.numbers, numbers, strict=False)
    return [value for n, value in own if n.fixed or not n.varies]


def resembles(model: Event, event_kind: str, function: Any, tensors: list[Any], values: list[Any]) -> bool:
    """Whether a call may be the model's at other sizes."""
    if model.kind != event_kind or model.function is not function or model.grad is not state.grad_enabled:
        return False
    if len(model.operands) < len(tensors):
        return False
    for slot, t in zip(model.operands, tensors, strict=False):
        external = model.binds.get(slot)
        if external is None:
            if slot < len(values) and values[slot] is not t:
                return False
        elif (
            external.dtype is not t._dtype or len(external.shape) != len(t._shape) or external.gpu is not on_gpu(t)
        ):
            return False
    return True


def alike(a: Event, b: Event) -> bool:
    """Whether two events differ in sizes and numbers alone."""
    return (
        a.kind == b.kind
        and a.function is b.function
        and a.grad is b.grad
        and a.operands == b.operands
        and a.slots == b.slots
        and a.count == b.count
        and len(a.draws) == len(b.draws)
        and a.leaves == b.leaves
        and a.assigned == b.assigned
        and a.shown == b.shown
        and a.renewed == b.renewed
        and len(a.steps) == len(b.steps)
        and [(n.index, n.kind, n.varies, n.fixed) for n in a.numbers]
        == [(n.index, n.kind, n.varies, n.fixed) for n in b.numbers]
        and list(map(_bind, a.binds.items())) == list(map(_bind, b.binds.items()))
        and [(r.slot, r.requires_grad, r.source, r.strides is None) for r in a.results]
        == [(r.slot, r.requires_grad, r.source, r.strides is None) for r in b.results]
        and all(map(_same_step, a.steps, b.steps))
    )


def _bind(item: tuple[int, External]) -> Any:
    slot, e = item
    return slot, e.dtype, len(e.shape), e.requires_grad, e.leaf, e.strides is None, e.writeable, e.gpu


def _same_step(a: Any, b: Any) -> bool:
    return (
        a.op is b.op
        and a.outs == b.outs
        and a.view == b.view
        and [x if type(x) is int else None for x in a.args] == [x if type(x) is int else None for x in b.args]
    )
