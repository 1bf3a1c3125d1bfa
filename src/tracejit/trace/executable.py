"""From the events of a segment to a program, and from tensors to the program's pointers."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from tracejit.ir.graph import Graph
from tracejit.runtime.arrays import empty
from tracejit.runtime.entry import ENTRY
from tracejit.trace.background import Elsewhere, Job
from tracejit.trace.lean import Lean, lean_of
from tracejit.trace.memory import Memory
from tracejit.trace.ranges import looking_steps
from tracejit.trace.structure import (
    READ,
    Built,
    Ends,
    Kept,
    Structures,
    computes_on_gpu,
    make_graph,
    outline,
    scalars_of,
)
from tracejit.trace.tape import NodePlan, TapePlan, depends_on_sizes, needed_slots, plan_tape
from tracejit.trace.tree import Event, Static, Stop, path

address_of = ENTRY.address_of
_BYTE = np.dtype(np.uint8)

STRANGERS = 8
"""How many arrays an input is held for one after the other; then each run brings another, and holding the last one
would only keep its memory."""


class Executable:
    """What a segment became for one set of values that live on.

    `views` are tensors that get their memory from another's, in order: (slot, source, op, step). `bumps` count the
    changes in place, `renamed` are the slots that they gave to tensors by which the tape knows them: before, after.
    `tape` is what must be put back on the gradient tape; of what a lean one keeps the large values are the last
    outputs, by numbers below zero, and the small ones have places in a `block`: offsets, and bytes in all. What Python
    only reads of a whole call is among the outputs by `READ`. With an `obstacle` there is no program.
    """

    __slots__ = (
        "behind",
        "block",
        "built",
        "bumps",
        "compiled",
        "empty",
        "ends",
        "events",
        "generation",
        "gpu",
        "highs",
        "homes",
        "inputs",
        "last",
        "lows",
        "moves",
        "mutated",
        "name",
        "numbers",
        "obstacle",
        "outputs",
        "pointers",
        "renamed",
        "scalars",
        "tape",
        "views",
        "words",
        "written",
    )

    kind = "eager"
    """What the account calls it when the segment runs eagerly."""

    def __init__(self, generation: int, obstacle: str | None = None) -> None:
        self.generation = generation
        self.obstacle = obstacle
        self.compiled: Any = None
        self.built: Built | None = None
        self.gpu = False
        self.events: list[Event] = []
        self.ends = Ends([], [])
        self.name = ""
        self.inputs: list[int] = []
        self.outputs: list[tuple[int, tuple[int, ...], Any]] = []
        self.numbers: list[tuple[int, str]] = []
        self.behind: set[int] = set()
        self.views: list[tuple[int, int, Any, tuple[Any, ...]]] = []
        self.bumps: list[tuple[int, int]] = []
        self.renamed: list[tuple[int, int]] = []
        self.tape: TapePlan | None = None
        self.block: tuple[np.ndarray, int] | None = None
        self.mutated: list[int] = []

    @property
    def left(self) -> tuple[int, ...]:
        """The slots whose values it leaves for a lean tape."""
        return () if self.tape is None or self.tape.lean is None else tuple(self.tape.lean.kept)

    def refusal(self) -> str:
        """Why the program changed nothing, when `run` gave None."""
        return "its program refused: an index is out of range, or a tensor that it writes overlaps another in memory"

    @property
    def graph(self) -> Graph | None:
        """The graph that the program computes."""
        if not self.events:
            return None
        return make_graph(self.events, self.ends, outline(self.events), self.name)

    def make(self, structures: Structures, elsewhere: Elsewhere | None, kept: Kept | None) -> None:
        """Make the program of the events.

        Raises: what `Structures.build` raises.
        """
        self.gpu = computes_on_gpu(self.events)
        self.built = structures.build(self.events, self.ends, self.name, elsewhere, kept)

    def load(self, compiled: Any) -> None:
        """Take the program over and lay out its pointers."""
        self.compiled = compiled
        self.empty = compiled.empty if self.gpu else empty
        small = 0 if self.block is None else len(self.block[0])
        self.homes = len(self.inputs) + len(self.outputs) + small
        self.pointers = np.zeros(self.homes + len(self.mutated), np.int64)
        self.scalars = np.zeros(max(len(self.numbers), 1), np.float64)
        self.words = self.scalars.view(np.int64)
        self.last: list[Any] = [None] * len(self.inputs)
        self.moves = [0] * len(self.inputs)
        self.written = frozenset(self.mutated)
        self.lows: list[int] = []
        self.highs: list[int] = []

    def run(self, values: list[Any], numbers: list[Any]) -> list[tuple[int, Any]] | None:
        """Run the program: the arrays of its outputs by slot, or None if it refused and changed nothing."""
        pointers = self.pointers
        moved = self.arrive(values)
        k = len(self.inputs)
        made: list[tuple[int, Any]] = []
        new = self.empty
        for slot, shape, kind in self.outputs:
            array = new(shape, kind)
            pointers[k] = address_of(array)
            made.append((slot, array))
            k += 1
        if self.block is not None:
            offsets, nbytes = self.block
            array = new((nbytes,), _BYTE)
            np.add(offsets, address_of(array), out=pointers[k : self.homes])
            made.append((-1, array))
        if moved and self.mutated and self.overlap(moved):
            self.last = [None] * len(self.inputs)
            return None
        scalars, words = self.scalars, self.words
        for i, (index, kind) in enumerate(self.numbers):
            value = numbers[index]
            if kind == "f":
                scalars[i] = value
            else:
                words[i] = signed(value)
        refused = self.compiled.run(pointers, scalars)
        self.leave(moved)
        return None if refused else made

    def arrive(self, values: list[Any]) -> list[int]:
        """Take the inputs; the places of those that are not where they were."""
        pointers, last = self.pointers, self.last
        moved: list[int] = []
        for i, slot in enumerate(self.inputs):
            array = values[slot]._array
            if array is not last[i]:
                pointers[i] = address_of(array)
                last[i] = array
                moved.append(i)
        return moved

    def leave(self, moved: list[int]) -> None:
        """Let go of inputs that are others in each run."""
        moves = self.moves
        for i in moved:
            moves[i] += 1
            if moves[i] > STRANGERS:
                self.last[i] = None

    def overlap(self, moved: list[int]) -> bool:
        """Whether an input that is written shares memory with another input, now that some moved."""
        last = self.last
        if self.written.isdisjoint(moved):
            rest = moved
        else:
            for k, i in enumerate(self.mutated, self.homes):
                self.pointers[k] = self.pointers[i]
            spans = sorted(_span(last[i]) for i in self.mutated)
            self.lows, self.highs = [low for low, _ in spans], [high for _, high in spans]
            if any(low < high for low, high in zip(self.lows[1:], self.highs, strict=False)):
                return True
            rest = [i for i in range(len(last)) if i not in self.written]
        for i in rest:
            low, high = _span(last[i])
            # The first written span that ends behind the start of this one.
            at = bisect_right(self.highs, low)
            if at < len(self.highs) and self.lows[at] < high:
                return True
        return False


def _span(array: Any) -> tuple[int, int]:
    """The addresses between which an array lies."""
    if array.flags.c_contiguous:
        low = address_of(array)
        return low, low + array.nbytes
    return np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)


def signed(value: int) -> int:
    """The int64 with the low 64 bits of a whole number: seeds may be from 2**63 on."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


class Waiting(Executable):
    """Stands for a program that another process compiles, until a call finds it done.

    `asked` is the generation of numbers that it was asked for; its own is none, so that each call asks for the program.
    """

    __slots__ = ("asked", "job")
    kind = "background"

    def __init__(self, generation: int, job: Job) -> None:
        super().__init__(-1, "computed eagerly while another process compiles its program")
        self.asked = generation
        self.job = job


def without_detached(exe: Executable, alive: set[int]) -> tuple[list[Any], list[Any]]:
    """The outputs and the views, where a detached tensor stands for the one it was detached from, which is gone.

    With nobody else on its memory, it is a tensor like any other.
    """
    shown = Counter(source for _, source, _, _ in exe.views)
    parts = exe.tape.parts if exe.tape is not None else ()
    kept = {slot for part in parts for slot in (*part.tensors, *part.results)}
    gone = {slot for slot, _, _ in exe.outputs} - alive - kept - {slot for slot, _ in exe.bumps}
    stands = {
        source: slot
        for slot, source, op, _ in exe.views
        if op is None and slot in alive and source in gone and shown[source] == 1 and slot not in shown
    }
    outputs = [(stands.get(slot, slot), shape, kind) for slot, shape, kind in exe.outputs]
    return outputs, [view for view in exe.views if view[1] not in stands]


_Views = dict[int, tuple[int, Any, tuple[Any, ...]]]
"""By slots of views: the slot that each shows, and the operation with its attributes, none if it was detached."""


class Living(NamedTuple):
    """What lives on behind a segment: slots with the steps of the tape that made some, and those whose memory does so
    whatever the tape holds.
    """

    slots: dict[int, None]
    roots: dict[int, tuple[NodePlan, int]]
    shared: set[int]


def _living(stop: Stop, alive: tuple[int, ...], memory: Memory) -> Living | str:
    """What lives on with the values `alive`; a step's trouble if its history cannot be put back."""
    roots: dict[int, tuple[NodePlan, int]] = {}
    changed = [s for s in stop.tape if memory.root(s) in memory.external]
    # What the tape saved, and what a view shows, lives on too, with a history of its own. Of what a detached tensor
    # was detached from only the memory does.
    needed: dict[int, None] = {}
    todo = [*alive, *changed]
    shared = {memory.way(slot)[-1] for slot in todo}
    # The tape below one root is mostly that below the others.
    seen: set[NodePlan] = set()
    while todo:
        slot = todo.pop()
        if slot in needed:
            continue
        needed[slot] = None
        if slot in memory.made and memory.made[slot].view and memory.made[slot].op is not None:
            todo.append(memory.made[slot].args[0])
        plan = stop.tape.get(memory.name(slot))
        if isinstance(plan, str):
            return plan
        if plan is not None:
            roots[memory.name(slot)] = plan
            todo.extend(needed_slots(plan[0], seen))
    return Living(needed, roots, shared)


def leanness(stop: Stop, alive: tuple[int, ...], needed: Collection[int]) -> Lean | None:
    """What the program of a segment would leave for a lean tape, of which the slots `needed` are wanted in memory."""
    events = path(stop.last)
    memory = Memory(events)
    living = _living(stop, alive, memory)
    if isinstance(living, str) or not living.roots or computes_on_gpu(events):
        return None
    return lean_of(events, memory, living.slots, living.shared, needed)


def build(
    stop: Stop,
    alive: tuple[int, ...],
    generation: int,
    name: str,
    kind: Callable[[int], Executable] = Executable,
    structures: Structures | None = None,
    elsewhere: Elsewhere | None = None,
) -> Executable:
    """The program of a segment that ends at `stop` with the values `alive` still in Python's hands.

    `structures` are those that the region met so far; `elsewhere` may have another process compile it.

    Raises: NotImplementedError if the compiler cannot make a program of it, Pending if another process is at it.
    """
    if stop.obstacle is not None:
        return Executable(generation, stop.obstacle)
    events = path(stop.last)
    memory = Memory(events)
    exe = kind(generation)
    living = _living(stop, alive, memory)
    if isinstance(living, str):
        return Executable(generation, f"a tensor that lives on needs its gradient history, but {living}")
    needed, roots, _ = living
    if stop.opening is not None and depends_on_sizes(roots):
        return Executable(generation, "a tensor that lives on has a gradient history that depends on open sizes")
    wanted: dict[int, None] = {}
    lives = {memory.name(slot) for slot in (*needed, *memory.external)}
    own = {slot for slot in roots if memory.is_bare(slot)}
    lean = None
    if (reads := stop.lean.get(alive)) is not None:
        lean = leanness(stop, alive, reads)
    exe.tape = plan_tape(roots, lives, own, lean) if roots else None
    views: _Views = {}
    for slot in sorted(needed):
        if lean is None or slot not in lean.away:
            _want(slot, memory, wanted, views)
    exe.views = [(slot, *how) for slot, how in views.items()]
    kept = stop.kept.get(alive) if generation == 0 else None
    if kept is not None and kept.left != exe.left:
        # The other process thought otherwise of what a lean tape is worth.
        kept = None
    ends = Ends([(READ, slot) for slot in stop.reads], [], stop.expected)
    _translate(events, memory, wanted, exe, name, ends, structures, elsewhere, kept, lean)
    exe.behind = stop.behind & views.keys()
    if exe.tape is not None and memory.renamed:
        exe.renamed = _renamed(events, exe.tape)
    exe.bumps = [(root, n) for root, n in memory.bumps.items() if root in memory.external or root in wanted]
    return exe


def _renamed(events: list[Event], tape: TapePlan) -> list[tuple[int, int]]:
    """The slots that changes in place gave to tensors by which a tape knows them, in order."""
    asked = {slot for part in tape.parts for slot in (*part.tensors, *part.results)} | tape.roots.keys()
    found: list[tuple[int, int]] = []
    for event in reversed(events):
        renamed = [*event.renewed, *((target, new) for target, new, _ in event.assigned)]
        for before, new in reversed(renamed):
            if new in asked:
                asked.add(before)
                found.append((before, new))
    return found[::-1]


def _want(slot: int, memory: Memory, wanted: dict[int, None], views: _Views) -> None:
    """Arrange that the tensor of a slot has memory after the program ran."""
    slot = memory.first.get(slot, slot)
    root = memory.root(slot)
    if root != slot and memory.made[slot].view:
        if slot not in views:
            _want(root, memory, wanted, views)
            views[slot] = (root, None, ())
        return
    if root in memory.external or root in wanted:
        return
    step = memory.made[root]
    if step.view:
        source = step.args[0]
        if root not in views:
            _want(source, memory, wanted, views)
            # A replay knows a tensor that was changed in place, and that nobody has, by the memory's slot alone.
            first = memory.root(source)
            shows = source if first == source or memory.made[source].view else first
            numbers = [a.value if type(a) is Static else a for a in step.args[1:]]
            views[root] = (shows, step.op, (*numbers, *step.attrs))
        return
    wanted[root] = None


def _translate(
    events: list[Event],
    memory: Memory,
    wanted: dict[int, None],
    exe: Executable,
    name: str,
    ends: Ends,
    structures: Structures | None = None,
    elsewhere: Elsewhere | None = None,
    kept: Kept | None = None,
    lean: Lean | None = None,
) -> None:
    """Compile the program of a segment, which gives what is asked for with its `ends` and what a lean tape keeps."""
    for event in events:
        exe.inputs.extend(event.binds)
    exe.numbers = scalars_of(events, ends)
    ends.homes = [(root, last) for root, last in memory.final.items() if root in memory.external]
    place = {slot: i for i, slot in enumerate(exe.inputs)}
    exe.mutated = [place[root] for root, _ in ends.homes]
    ends.outputs = [*((root, memory.last(root)) for root in wanted), *ends.outputs]
    own = len(ends.outputs)
    if lean is not None:
        ends.outputs += [(-1 - slot, slot) for slot in lean.kept]
        own += lean.apart
        exe.block = (lean.offsets, lean.nbytes) if lean.apart < len(lean.kept) else None
    exe.events, exe.ends, exe.name = events, ends, name
    if not (ends.outputs or ends.homes or ends.expected or looking_steps(events)):
        exe.load(_Nothing())
        return
    exe.make(Structures() if structures is None else structures, elsewhere, kept)
    assert exe.built is not None
    for (root, _), (shape, kind) in zip(ends.outputs[:own], exe.built.results, strict=False):
        exe.outputs.append((root, shape, kind))
    exe.load(exe.built.compiled)


class _Nothing:
    """The program of a segment that leaves nothing behind."""

    kernels: tuple[Any, ...] = ()
    launches = stages = arena_bytes = 0
    releases = False

    def run(self, pointers: Any, scalars: Any) -> int:
        """Do nothing."""
        return 0
