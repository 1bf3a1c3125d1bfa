"""The plan: groups in stages, and the memory of every value that has one.

In: a graph and a planner for library operations. Out: `Plan`.
Must not know: kernel text, addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from tracejit import dtypes
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node
from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.again import compute_again
from tracejit.schedule.blocking import Blocked, blocked_of
from tracejit.schedule.grounds import Grounds, link_of, memory
from tracejit.schedule.groups import Cut, Partition
from tracejit.schedule.lower import Lowered, Lowering, PlannedLaunch, Planner, Preparing
from tracejit.schedule.memory import Buffer, place
from tracejit.schedule.near import is_near, part_columns
from tracejit.schedule.order import order
from tracejit.schedule.siblings import Siblings
from tracejit.schedule.sink import sink
from tracejit.schedule.spaces import BLOCKS, CALL, COLUMN, LOOP, STRIP, Group, relation
from tracejit.schedule.strands import Partings, Strand
from tracejit.schedule.values import Value, readers_of, unfold, whole, writers
from tracejit.symbols import present

Early = Callable[[int, Sequence[PlannedLaunch]], object]
"""Is told how many values there are, and the launches of library operations, when a third of the planning is done."""


@dataclass(slots=True)
class Plan:
    """Groups in the order of their stages; `storage` is the memory of values, `partials` that of unfinished folds,
    `scratch` that which the launches of a library operation share.

    `homes` maps an output to the input whose memory it is written to, `lines` what values were nodes to the user's
    source. What is `soon` read again is read by one of the groups that are done block by block with the one that makes
    it.
    """

    groups: list[Group] = field(default_factory=list)
    stage: dict[Group, int] = field(default_factory=dict)
    stages: int = 0
    storage: dict[Value, Buffer] = field(default_factory=dict)
    partials: dict[Value, Buffer] = field(default_factory=dict)
    scratch: dict[Value, Buffer] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    homes: dict[int, int] = field(default_factory=dict)
    lines: Mapping[Node, str] = field(default_factory=dict, repr=False)
    strands: list[Strand] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    soon: set[Value] = field(default_factory=set)
    arena: list[Buffer] = field(default_factory=list)
    arena_bytes: int = 0

    def stored(self, group: Group) -> list[Value]:
        """The members of a group that are written to memory, in order."""
        return [v for v in group.members if v in self.storage or v.into is not None]

    def release(self) -> None:
        """Lets go of all: values refer to one another, so they would stay until Python searches for cycles."""
        for group in self.groups:
            for value in group.members:
                value.release()

    def unfolded(self, group: Group) -> Group:
        """A group with its values one by one, whose results have memory as those of the island that it may be."""
        island = group.members[0]
        if island.body is None:
            return group
        values = unfold(island)
        for k, result in zip(island.body.results, island.results, strict=True):
            self.storage[values[k]] = self.storage[result]
        return replace(group, members=values, full=set(values))


def folded_blocks(group: Group, value: Value) -> int:
    """How many partial results each element of a reduction outside a row kernel is put together from."""
    size = value.layout[1]
    return -(-size // (cost.COLUMN_ROWS if group.kind == COLUMN else cost.BLOCK))


def launches_of(group: Group) -> int:
    """The number of launches of a group, which run one after another."""
    if group.kind == CALL:
        return len(group.members[0].launches)
    if group.kind in (BLOCKS, COLUMN) and any(folded_blocks(group, v) > 1 for v in group.reductions):
        return 2
    return 1


def scratch_bytes(launches: Iterable[PlannedLaunch]) -> int:
    """The memory that the launches of a library operation share."""
    return max((launch.scratch for launch in launches), default=0)


def fails(group: Group) -> bool:
    """Whether a launch of the group may give an error."""
    return group.kind == CALL and any(launch.fails for launch in group.members[0].launches)


class _Planning:
    def __init__(
        self,
        graph: Graph,
        planner: Planner,
        arrange: Callable[[Graph], Graph] | None,
        strands: bool,
        early: Early | None,
        preparing: Preparing | None,
        scans: bool,
        sums: bool,
        strips: bool,
    ) -> None:
        self.graph = graph
        lowering = Lowering(graph, planner, arrange, preparing, scans=scans, sums=sums)
        self.lowered: Lowered = lowering.out
        if early is not None:
            early(len(self.lowered.values), [launch for value in self.lowered.values for launch in value.launches])
        self.target: dict[Value, int] = {}
        self._bind_outputs(lowering)
        self._drop_unused()
        partition = self.partition = Partition(self.lowered.values, strips=strips)
        self.readers = readers_of(v for group in partition.groups for v in group.members)
        sink(partition, self.target, self.readers)
        changing = {self.lowered.inputs[home] for home in graph.homes.values()}
        compute_again(partition, self.target, self.readers, changing)
        self._near = strands and is_near(partition, self.target)
        if self._near:
            part_columns(partition)
        self.group_of = partition.group_of
        self.groups = partition.groups
        # Numbers of merged groups stay in the sets of what lies behind a group, so none is given out again.
        self._number = partition.numbered
        self._makers: dict[Value, list[Group]] = {}
        self.followed: dict[Group, set[Group]] = {}
        """For a group that writes in place those that must have read before."""
        self.plan = Plan(cuts=partition.cuts, homes=dict(graph.homes), lines=self.lowered.lines)
        # Groups that others come after, by their bits: most that write in place are not among them.
        self._led = 0
        for group in self.groups:
            self._led |= group.behind
        self.grounds = Grounds(self.groups, self.group_of, self.readers, self.target)
        self._drop(self.grounds.settle(self.lowered.values, self._follow))
        self._settle_homes()
        self._order(strands)
        self._store()

    def _bind_outputs(self, lowering: Lowering) -> None:
        """Says which value is written where the caller wants an output, copying what is not a value of its own."""
        for o, read in enumerate(self.lowered.outputs):
            source, numel = read.source, self.graph.outputs[o].tensor.numel
            if numel == 0:
                continue
            home = self.graph.homes.get(o)
            if source.kind == kinds.INPUT and source.attrs[0] == home and read.is_whole(numel):
                continue
            computed = source.kind in (*kinds.COMPUTED, kinds.RESULT, kinds.JOINED)
            if not computed or not read.is_whole(numel) or source in self.target or source.into is not None:
                source = lowering.copy_output(self.graph.outputs[o])
            self.target[source] = o

    def _drop_unused(self) -> None:
        """Forgets values that no root needs, such as those that only an empty view looked at."""
        used: set[Value] = set()
        rest = [*self.target, *self.lowered.checks]
        while rest:
            value = rest.pop()
            if value in used or value.numel == 0:
                continue
            used.add(value)
            used.update(value.results)
            rest += [r.source for r in value.reads]
            rest += value.parts
            rest += value.after
            if value.call is not None and value.call not in used:
                used.add(value.call)
                used.update(value.call.results)
                rest += [r.source for r in value.call.reads]
                rest += value.call.after
        unused = [v for v in self.lowered.values if v not in used]
        self.lowered.values = [v for v in self.lowered.values if v in used]
        for value in unused:
            value.release()

    # --- homes --------------------------------------------------------------------------------------------------------

    def _settle_homes(self) -> None:
        """Lets homed outputs be written in place where that is safe; the others are copied there at the end."""
        failing = [g for g in self.groups if fails(g)]
        late: list[tuple[Value, int]] = []
        for value, o in list(self.target.items()):
            if o not in self.graph.homes:
                continue
            old = self.lowered.inputs[self.graph.homes[o]]
            if self._lies_on(value, old, failing):
                continue
            mine = set(self._made_by(value))
            early = [g for g in (*failing, *self._read_by(old)) if g not in mine]
            follows = not any(g.behind >> w.number & 1 for w in mine for g in early)
            in_place = self.grounds.is_over if value.kind == kinds.JOINED else self._writes_in_place
            if follows and in_place(value, old, mine):
                self._follow(mine, early)
            else:
                late.append((value, o))
        for value, o in late:
            del self.target[value]
            copy = Value(kinds.ELEMENTWISE, None, value.shape, value.dtype, (whole(value),), node=value.node)
            copy.index = self.lowered.count
            self.lowered.count += 1
            self.lowered.values.append(copy)
            self.target[copy] = o
            group = Group(self._number, LOOP, copy.numel, members=[copy], full={copy})
            self._number += 1
            self.groups.append(group)
            self.group_of[copy] = group
            self.readers.setdefault(value, []).append(copy)
            old = self.lowered.inputs[self.graph.homes[o]]
            self._follow({group}, [*self._made_by(value), *failing, *self._read_by(old)])

    def _lies_on(self, value: Value, old: Value, failing: list[Group]) -> bool:
        """Lets a value that belongs where an input is lie on that, if it is the input with parts changed."""
        bottom = self.grounds.bottom(value)
        link = link_of(bottom)
        if link is None or link.ground is not old or old in self.grounds.under:
            return False
        own = None if link.stays else self.group_of[link.reader]
        late = set(self._made_by(value)) - {own}
        if len(late) > 1 and not late.isdisjoint(failing):
            # One would fail when another had changed something.
            return False
        early = [g for g in (*failing, *self._read_by(old)) if g not in late and g is not own]
        found = self.grounds.order(bottom, early)
        if found is None or any(g.behind >> w.number & 1 for w in late for g in (*early, *found[1])):
            return False
        self._follow(*found)
        self._follow(late, early)
        self._drop(self.grounds.lay(bottom))
        return True

    def _drop(self, copies: list[Value]) -> None:
        """Forgets copies that are not made."""
        if not copies:
            return
        gone = set(copies)
        self.lowered.values = [v for v in self.lowered.values if v not in gone]
        self._makers.clear()
        self.plan.cuts = [cut for cut in self.plan.cuts if cut.consumer not in gone]
        there = set(self.groups)
        for found in self.followed.values():
            found &= there

    def _made_by(self, source: Value) -> list[Group]:
        """The groups that put a source into memory, with what lies under it."""
        makers = self._makers.get(source)
        if makers is None:
            makers = [self.group_of[w] for w in writers(source) if w in self.group_of]
            if source in self.grounds.of:
                makers = list(dict.fromkeys([*makers, *self._made_by(self.grounds.of[source])]))
            self._makers[source] = makers
        return makers

    def _read_by(self, source: Value) -> list[Group]:
        """The groups that read a source, once for each place where they do."""
        return [self.group_of[reader] for reader in self.readers.get(source, ())]

    def _writes_in_place(self, value: Value, old: Value, mine: set[Group]) -> bool:
        """Whether the groups that write `value` read the old one only where they are about to write."""
        in_order = value.kind == kinds.ELEMENTWISE or (value.call is not None and value.call.kind == kinds.ISLAND)
        for reader in self.readers.get(old, ()):
            group = self.group_of[reader]
            if group not in mine:
                continue
            if group.kind == STRIP and value.kind == kinds.ELEMENTWISE and value not in group.full:
                # What a kernel has beside its columns is stored when it is done with them.
                if reader.into is None and all(relation(r, reader, group) for r in reader.reads if r.source is old):
                    continue
                return False
            if group.kind != LOOP or not in_order or reader.into is not None:
                return False
            if not all(r.is_whole(value.numel) for r in reader.reads if r.source is old):
                return False
        return True

    def _follow(self, late: set[Group], early: list[Group]) -> None:
        for group in late:
            followed = self.followed.setdefault(group, set())
            if followed.issuperset(early):
                continue
            followed.update(early)
            more = 0
            for other in early:
                more |= other.behind | 1 << other.number
            more &= ~(1 << group.number)
            if group.behind | more == group.behind:
                continue
            group.behind |= more
            self._led |= more
            if not self._led >> group.number & 1:
                continue
            for other in self.groups:
                if other.behind >> group.number & 1:
                    other.behind |= group.behind

    # --- order and memory ---------------------------------------------------------------------------------------------

    def _order(self, strands: bool) -> None:
        plan, groups = self.plan, self.groups
        ways = Partings()
        partings = {g: ways.of(g) if strands else None for g in groups}
        self.lengths = {g: launches_of(g) for g in groups}
        before = {g: self._before(g) for g in groups}
        siblings = Siblings(
            self.partition, self.readers, before, self.followed, self.lengths, partings, ways, self.target
        )
        self._makers.clear()
        plan.cuts += siblings.cuts
        if siblings.opened:
            self._open(siblings.opened)
        found = order(before, self.followed, self.lengths, partings, late=self._near)
        plan.stage, plan.stages, plan.strands = found.stage, found.stages, found.strands
        self._partings = partings
        plan.groups = sorted(groups, key=lambda g: (plan.stage[g], g.number))

    def _open(self, opened: Mapping[Value, list[Value]]) -> None:
        """Takes note that islands became their values."""
        rest = (value for value in self.lowered.values if value.call not in opened)
        self.lowered.values = list(chain.from_iterable(opened.get(value, (value,)) for value in rest))
        cuts = self.plan.cuts
        cuts[:] = [replace(c, consumer=opened[c.consumer][0]) if c.consumer in opened else c for c in cuts]

    def _before(self, group: Group) -> set[Group]:
        """The groups that must be done right before a group."""
        found = set(self.followed.get(group, ()))
        for value in group.members:
            for read in value.reads:
                if read.source.kind != kinds.INPUT:
                    found.update(self._made_by(read.source))
            if value.after:
                found.update([self.group_of[part] for part in value.after])
        found.discard(group)
        return found

    def _store(self) -> None:
        plan = self.plan
        for value in self.lowered.inputs:
            plan.storage[value] = Buffer("input", value.attrs[0], value.numel * value.dtype.itemsize)
        for value in self.lowered.values:
            if value.numel == 0:
                continue
            if value.kind in (kinds.RESULT, kinds.JOINED) or value in self.target:
                needed = True
            elif value.kind in kinds.COMPUTED:
                own = self.group_of.get(value)
                needed = value.into is None and any(g is not own for g in self._read_by(value))
            else:
                needed = False
            if needed:
                plan.storage[value] = self._buffer(value)
        for value, ground in memory(self.grounds.of):
            plan.storage[ground] = plan.storage[value]
        # The last first: where one call's result is the next one's operand, all of them work on the last one's memory.
        for group in reversed(plan.groups):
            if group.kind == CALL:
                self._donate(group)
            elif group.kind == LOOP and not self._near:
                self._write_over(group)
        self._live()
        for strand in plan.strands:
            self._share_memory(strand)
            plan.blocked += blocked_of(strand, plan.stage, self.lengths, self._partings, plan.storage)
        for stages in plan.blocked:
            plan.soon |= stages.read_again()
        arena = list(dict.fromkeys(b for b in plan.storage.values() if b.kind == "arena"))
        # Calls that are alike have the same launches.
        rooms: dict[int, int] = {}
        for group in plan.groups:
            if group.kind == CALL:
                call, start = group.members[0], plan.stage[group]
                nbytes = rooms.get(id(call.launches))
                if nbytes is None:
                    nbytes = rooms[id(call.launches)] = scratch_bytes(call.launches)
                if nbytes:
                    plan.scratch[call] = Buffer("arena", 0, nbytes, start, start + self.lengths[group] - 1)
                    arena.append(plan.scratch[call])
            if group.kind not in (BLOCKS, COLUMN) or self.lengths[group] == 1:
                continue
            for value in group.reductions:
                blocks = folded_blocks(group, value)
                if blocks > 1:
                    kind = dtypes.widened(value.dtype)
                    start = plan.stage[group]
                    buffer = Buffer("arena", 0, value.numel * blocks * kind.itemsize, start, start + 1)
                    plan.partials[value] = buffer
                    arena.append(buffer)
        # Memory that a strand is through with may still be in use by a thread that is behind.
        for strand in plan.strands:
            first, last = self._span(strand)
            for buffer in arena:
                if first <= buffer.last < last:
                    buffer.last = last
        if self._near:
            # What one thread wrote last is in its own cache, and so are the places that it will write again.
            for buffer in arena:
                buffer.live(0, plan.stages)
        plan.arena = arena
        plan.arena_bytes = place(arena)

    def _live(self) -> None:
        """Finds out between which stages memory of the arena is in use."""
        plan = self.plan
        spans = {group: (start, start + max(self.lengths[group], 1) - 1) for group, start in plan.stage.items()}
        for value, buffer in plan.storage.items():
            if buffer.kind == "arena":
                for group in [*self._made_by(value), *self._read_by(value)]:
                    buffer.live(*spans[group])

    def _span(self, strand: Strand) -> tuple[int, int]:
        first = min(self.plan.stage[group] for group in strand.groups)
        return first, max(self.plan.stage[group] + self.lengths[group] - 1 for group in strand.groups)

    def _share_memory(self, strand: Strand) -> None:
        """Lets a value that comes and goes in a strand have the memory of one of the same size that is gone.

        Each thread then writes over what it has read itself.
        """
        storage, (first, last) = self.plan.storage, self._span(strand)
        values_in: dict[Buffer, list[Value]] = {}
        for value, buffer in storage.items():
            if buffer.kind == "arena" and first <= buffer.first and buffer.last < last:
                values_in.setdefault(buffer, []).append(value)
        free: dict[int, list[Buffer]] = {}
        for buffer, values in sorted(values_in.items(), key=lambda pair: pair[0].first):
            if not all(map(strand.keeps_apart, values)):
                continue
            same = free.setdefault(buffer.nbytes, [])
            gone = next((other for other in same if other.last < buffer.first), None)
            if gone is None:
                same.append(buffer)
                continue
            for value in values:
                storage[value] = gone
            gone.live(buffer.first, buffer.last)

    def _donate(self, group: Group) -> None:
        """Lets a call that turns an operand into a result work on that operand's memory, if nobody else reads it."""
        call, storage = group.members[0], self.plan.storage
        slots = [tuple([one.slots[slot].index for slot in pair]) for one in call.launches for pair in one.in_place]
        for at, number in slots:
            to = number - len(call.reads)
            read, result = call.reads[at], call.results[to]
            source = read.source
            again = any(r.source is source for k, r in enumerate(call.reads) if k != at)
            own = source in storage and storage[source].kind == "arena" and source not in self.target
            own = own and not self.grounds.shares(source)
            fresh = result in storage and (storage[result].kind == "arena" or self._is_new_output(result))
            if own and fresh and not again and read.is_whole(source.numel) and set(self._read_by(source)) == {group}:
                storage[source] = storage[result]

    def _write_over(self, group: Group) -> None:
        """Has a loop write its results over operands that nobody else reads: their lines are in a cache.

        A loop over short rows would begin each by waiting for the stores of the one before.
        """
        if group.cuts and present(min(group.cuts)) < cost.SHORT_LOOP:
            return
        storage = self.plan.storage
        mine = {group}
        free = [
            source
            for source in sorted(group.outside, key=lambda v: v.index)
            if source.kind in (kinds.ELEMENTWISE, kinds.RESULT)
            and storage[source].kind == "arena"
            and source not in self.target
            and not self.grounds.shares(source)
            and mine.issuperset(set(self._read_by(source)).difference(self._made_by(source)))
        ]
        for value in group.members if free else ():
            if value not in storage or not (storage[value].kind == "arena" or self._is_new_output(value)):
                continue
            old = next((v for v in free if self._takes_the_place(value, v, mine)), None)
            if old is not None:
                free.remove(old)
                storage[old] = storage[value]

    def _takes_the_place(self, value: Value, old: Value, mine: set[Group]) -> bool:
        same = value.numel == old.numel and value.dtype.itemsize == old.dtype.itemsize
        return same and self._writes_in_place(value, old, mine)

    def _is_new_output(self, value: Value) -> bool:
        return value in self.target and self.target[value] not in self.graph.homes

    def _buffer(self, value: Value) -> Buffer:
        nbytes = value.numel * value.dtype.itemsize
        output = self.target.get(value)
        if output is None:
            return Buffer("arena", 0, nbytes)
        home = self.graph.homes.get(output)
        return Buffer("output", output, nbytes) if home is None else self.plan.storage[self.lowered.inputs[home]]


def make_plan(
    graph: Graph,
    planner: Planner,
    *,
    arrange: Callable[[Graph], Graph] | None = None,
    strands: bool = True,
    early: Early | None = None,
    preparing: Preparing | None = None,
    scans: bool = True,
    sums: bool = True,
    strips: bool = True,
) -> Plan:
    """The plan of a graph, whose products `arrange` arranges; with `strands` for threads that may go through stages
    without meeting, which open sizes cannot have. What `preparing` takes apart does not keep a stage from being one;
    without `scans`, and `sums` of rows at places, these are library operations, without `strips` no sum of columns is
    read back where it is made.

    Raises: NotImplementedError naming an operation that has no kernel.
    """
    return _Planning(graph, planner, arrange, strands, early, preparing, scans, sums, strips).plan
