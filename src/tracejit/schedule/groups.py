"""Groups: which values share a kernel.

In: values in order. Out: groups, and for every producer that was not fused the reason.
Must not know: kernel text, memory.

Values are taken one by one. Each joins the groups of its operands where spaces fit, no path would lead out of the
group and back, and the cost model agrees.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from tracejit.ops import ops
from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.rows import plan_rows
from tracejit.schedule.spaces import (
    BACKSCAN,
    BLOCKS,
    CALL,
    COLUMN,
    LOOP,
    ROW,
    SCAN,
    SCANS,
    SCATTER,
    SCATTERS,
    STRIP,
    Group,
    is_row_read,
    read_back,
    relation,
)
from tracejit.schedule.values import Value, buffers, nests, outer_cuts, writers
from tracejit.symbols import present

# Reasons for a cut.
_BETWEEN = "another kernel lies between them"
_COVERS = "what it covers must be written by an earlier kernel"
_INCOMPLETE = "a joined value must be complete before it is read"
_MANY = f"the group has {cost.MAX_MEMBERS} values already"
_WIDE = f"the group touches {cost.MAX_BUFFERS} buffers already"
_CROSSED = "its operands are laid out so that no common loop goes through them"
_ACROSS = "what it reads lies across its rows, and is turned before"
_DEAR = "it would be computed again in each visit of a strip"
_LATER = "an update does not wait for what else is made of its operand"
_ELSEWHERE = "their rows go to other places"
_UNEVEN = "threads would not share elementary functions evenly"
_TALL = "it would keep more rows in scratch memory than there is room for"


@dataclass(frozen=True, slots=True)
class Cut:
    """A producer and a consumer that did not come into one group, and why; `reader` is the consumer's operation."""

    producer: Value
    consumer: Value
    reason: str
    reader: str


class Partition:
    """The groups of some values; without `strips` none is of that kind."""

    def __init__(self, values: list[Value], *, strips: bool = True) -> None:
        self._strips = read_back(values) if strips else frozenset()
        self.group_of: dict[Value, Group] = {}
        self.groups: list[Group] = []
        self.cuts: list[Cut] = []
        self.numbered = 0
        # A set in an order: all steps of a loop read its weights.
        self._readers: dict[Value, dict[Group, None]] = {}
        # Groups that others come after, and which one if it is but one: most that grow are not among them, and nobody
        # else need hear of it.
        self._followed: dict[Group, Group | None] = {}
        self._gone: set[Group] = set()
        self._terms: dict[Value, int] = {}
        self._tried: frozenset[int] | None = None
        self._sources_of: tuple[Value | None, list[Group]] = (None, [])
        for value in values:
            self._count_terms(value)
            if value.kind == kinds.CALL:
                group = self._open(CALL, 1)
                self._enter(group, value, True)
            elif value.kind == kinds.ISLAND:
                self._place_island(value)
            elif value.kind in kinds.COMPUTED and value.numel and self._elements(value):
                self._place(value)

    @staticmethod
    def _elements(value: Value) -> int:
        return value.layout[0] * value.layout[1] * value.layout[2] if value.kind == kinds.REDUCTION else value.numel

    def sources(self, value: Value) -> list[Group]:
        """The groups that must be done before `value` can be computed."""
        known, groups = self._sources_of
        if known is value:
            return groups
        found: dict[Group, None] = {}
        for read in value.reads:
            for writer in writers(read.source):
                if writer in self.group_of:
                    found[self.group_of[writer]] = None
        for part in value.after:
            found[self.group_of[part]] = None
        self._sources_of = value, list(found)
        return self._sources_of[1]

    def _open(self, kind: str, outer: int, unit: int = 1, layout: tuple[int, int, int] = (0, 0, 0)) -> Group:
        group = Group(self.numbered, kind, outer, unit, layout)
        self.numbered += 1
        self.groups.append(group)
        return group

    def _enter(self, group: Group, value: Value, is_full: bool) -> None:
        group.members.append(value)
        if is_full:
            group.full.add(value)
        self.group_of[value] = group
        more = group.behind
        for source in self.sources(value):
            if source is not group:
                more |= source.behind | 1 << source.number
                if self._followed.setdefault(source, group) is not group:
                    self._followed[source] = None
        self._extend(group, more)
        for read in value.reads:
            readers = self._readers.get(read.source)
            if readers is None:
                self._readers[read.source] = {group: None}
            else:
                readers.setdefault(group)
            if read.source.kind != kinds.VIRTUAL and self.group_of.get(read.source) is not group:
                group.outside.add(read.source)

    def _extend(self, group: Group, behind: int) -> None:
        """Sets what lies behind a group, and so behind all that come after it."""
        if behind == group.behind:
            return
        group.behind = behind
        if group in self._followed:
            bit = 1 << group.number
            for other in self.groups:
                if other.behind & bit:
                    other.behind |= behind

    def _place(self, value: Value) -> None:
        candidates = [g for g in self.sources(value) if g.kind != CALL]
        if value.kind == kinds.REDUCTION:
            group = self._place_reduction(value, candidates)
        elif value.kind == kinds.SCAN:
            group = self._place_scan(value, candidates)
        else:
            group = self._place_elementwise(value, candidates)
        for other in candidates:
            if other is not group and other not in self._gone:
                self._note(value, value, other, self._refusal.get(other, "the groups lie in a circle"))

    def _place_island(self, island: Value) -> None:
        """Opens a loop for what shares none with others."""
        body = island.body
        assert body is not None
        group = self._open(LOOP, island.numel)
        self._enter(group, island, True)
        for result in island.results:
            group.members.append(result)
            group.full.add(result)
            self.group_of[result] = group
        group.cuts = body.cuts
        fused = {-1 - k: read for k, read in enumerate(island.reads) if self._is_fused(read.source)}
        for op, kind, _, operands in body.steps if fused else ():
            if fused.keys().isdisjoint(operands):
                continue
            leaves = tuple([fused[a] for a in operands if a in fused])
            reader = Value(kinds.ELEMENTWISE, op, island.shape, kind, leaves)
            for other in self.sources(reader):
                reason = _LATER if other.kind == STRIP else self._fit(other, reader)[1]
                assert reason is not None
                self._note(reader, island, other, reason)

    def _is_fused(self, source: Value) -> bool:
        """Whether a source is made in a group that others might have joined."""
        return any(writer.kind != kinds.CALL for writer in writers(source) if writer in self.group_of)

    def _note(self, reader: Value, consumer: Value, group: Group, reason: str) -> None:
        """Takes note of why what reads members of a group, perhaps within an island, is not part of it."""
        for read in reader.reads:
            for writer in writers(read.source):
                if self.group_of.get(writer) is group:
                    self.cuts.append(Cut(writer, consumer, reason, reader.name))

    def _count_terms(self, value: Value) -> None:
        """How many additions lead up to a value, one after another."""
        if value.op is ops.add and value.kind == kinds.ELEMENTWISE:
            self._terms[value] = 1 + max((self._terms.get(r.source, 0) for r in value.reads), default=0)

    def _cut_sum(self, group: Group, value: Value) -> bool:
        """Whether `value` goes on with a sum that is cut behind a member of the group."""
        return value in self._terms and any(
            self._terms.get(r.source, 1) % cost.CHAIN == 0 and self.group_of.get(r.source) is group
            for r in value.reads
        )

    # --- elementwise values -------------------------------------------------------------------------------------------

    def _place_elementwise(self, value: Value, candidates: list[Group]) -> Group:
        self._refusal: dict[Group, str] = {}
        # Groups with reductions first: the others can be merged into them.
        ordered = sorted(candidates, key=lambda g: (g.kind == LOOP, g.number))
        group: Group | None = None
        for candidate in ordered:
            if self._cut_sum(candidate, value):
                self._refusal[candidate] = f"a sum is cut after every {cost.CHAIN} terms"
                continue
            if group is not None:
                self._merge(group, candidate, value)
                continue
            is_full, reason = self._fit(candidate, value)
            if reason is None:
                group = candidate
                self._enter(group, value, is_full)
                self._take_cuts(group)
            else:
                self._refusal[candidate] = reason
        if group is None:
            group = self._open(LOOP, value.numel)
            self._enter(group, value, True)
            group.cuts = self._all_cuts(group)
        return group

    def refusal(self, group: Group, more: list[Value]) -> str | None:
        """Why a group that comes later cannot compute these values for itself, or None."""
        return self._refuse(group, more, set(more), [])

    def sibling_refusal(self, group: Group, other: Group) -> str | None:
        """Why two groups of one kind and size, of which none comes after the other, cannot be one, or None."""
        return self._refuse(group, other.members, other.full, [])

    def join(self, group: Group, other: Group) -> None:
        """Puts all of `other` into `group`, right after that was found to be possible."""
        self.groups.remove(other)
        group.members = sorted([*group.members, *other.members], key=lambda v: v.index)
        group.full |= other.full
        for member in other.members:
            self.group_of[member] = group
        self._take_cuts(group)
        group.outside = buffers(group.members)

    def renew(self, group: Group) -> None:
        """Takes note that values came to a group or left it."""
        group.cuts = self._all_cuts(group)
        group.outside = buffers(group.members)

    def part(self, group: Group, members: list[Value]) -> None:
        """Lets a loop of its own compute members that need no others, if one can go through their operands."""
        full = set(members)
        cuts = self._try_cuts(members, full, group.numel, 1, LOOP)
        if cuts is None:
            return
        first = self._open(LOOP, group.numel)
        first.members, first.full, first.cuts, first.behind = members, full, cuts, group.behind
        first.outside = buffers(members)
        for member in members:
            self.group_of[member] = first
        group.members = [v for v in group.members if v not in full]
        group.full -= full
        for other in self.groups:
            if other is group or other.behind >> group.number & 1:
                other.behind |= 1 << first.number
        self.renew(group)

    def forget_cuts(self) -> None:
        """Takes note that producers and consumers came into one group."""
        self.cuts = [c for c in self.cuts if self.group_of[c.producer] is not self.group_of[c.consumer]]

    def _take_cuts(self, group: Group) -> None:
        """Gives a group the cuts that it was found to have with the members that it just got."""
        assert self._tried is not None
        group.cuts = self._tried

    def _all_cuts(self, group: Group) -> frozenset[int]:
        cuts = self._try_cuts(group.members, group.full, group.outer, group.unit, group.kind)
        assert cuts is not None
        return cuts

    @staticmethod
    def _try_cuts(members: list[Value], full: set[Value], outer: int, unit: int, kind: str) -> frozenset[int] | None:
        cut = [member for member in members if member.cuts]
        if not cut:
            return frozenset()
        inside = set(members)
        cuts: set[int] = set()
        for member in cut:
            found = _cuts_of(member, member in full, unit, inside, kind)
            if found is None:
                return None
            cuts |= found
        return frozenset(cuts) if nests(frozenset(cuts), outer) else None

    def _fit(self, group: Group, value: Value) -> tuple[bool, str | None]:
        """Whether `value` would be a full member, and why it cannot be one at all."""
        if value.numel == group.numel:
            is_full = True
        elif group.reads_back and value.numel == group.beside:
            is_full = False
        else:
            return False, f"{value.name} has {present(value.numel)} elements, the group {present(group.numel)}"
        for read in value.reads:
            if self.group_of.get(read.source) is not group:
                continue
            how = relation(read, value, group)
            if how is None:
                return False, f"{value.name} reads {read.source.name} at other places than its own"
            if read.source.kind == kinds.REDUCTION and not group.reads_back:
                return False, f"{read.source.name} is complete only when its kernel is done"
            if not is_full and read.source in group.full:
                return False, f"{value.name} reads {read.source.name} at other places than its own"
        return is_full, self._refuse_one(group, value, is_full)

    def _refuse_one(self, group: Group, value: Value, is_full: bool) -> str | None:
        """As `_refuse`, for a value that comes after all members."""
        bit = 1 << group.number
        for other in self.sources(value):
            if other is not group and other.behind & bit:
                return _BETWEEN
        if value.after and any(self.group_of.get(part) is group for part in value.after):
            return _COVERS
        if value.joined and any(self.group_of.get(part) is group for joined in value.joined for part in joined.parts):
            return _INCOMPLETE
        if group.kind == SCATTER and (reason := _refuse_sums([*group.members, value])) is not None:
            return reason
        if len(group.members) >= cost.MAX_MEMBERS:
            return _MANY
        inside, outside = set(), set()
        for read in value.reads:
            if self.group_of.get(read.source) is group:
                inside.add(read.source)
            elif read.source.kind != kinds.VIRTUAL:
                outside.add(read.source)
        if len(group.outside) + len(outside) > cost.MAX_BUFFERS and len(group.outside | outside) > cost.MAX_BUFFERS:
            return _WIDE
        self._tried = group.cuts
        if value.cuts and group.kind != LOOP and cost.reads_across(value, inside):
            return _ACROSS
        if value.cuts or group.kind == STRIP:
            found = _cuts_of(value, is_full, group.unit, inside, group.kind)
            if found is None or not (found <= group.cuts or nests(group.cuts | found, group.outer)):
                return _CROSSED
            self._tried = group.cuts | found
        if group.keeps_rows or group.kind == STRIP:
            members = sorted([*group.members, value], key=lambda v: v.index)
            return _refuse_rows(members, {*group.full, value} if is_full else group.full, group.kind)
        return None

    def _refuse(
        self,
        group: Group,
        more: list[Value],
        more_full: set[Value],
        sources: list[Group],
        unit: int | None = None,
        outer: int | None = None,
        kind: str | None = None,
    ) -> str | None:
        """Why a group cannot take more members in, or None."""
        bit = 1 << group.number
        for other in sources:
            if other is not group and other.behind & bit:
                return _BETWEEN
        members = [*group.members, *more]
        inside = set(members)
        for member in members:
            if member.after and not inside.isdisjoint(member.after):
                return _COVERS
            if member.joined and any(not inside.isdisjoint(joined.parts) for joined in member.joined):
                return _INCOMPLETE
        kind = kind or group.kind
        if kind == SCATTER and (reason := _refuse_sums(members)) is not None:
            return reason
        if len(members) > cost.MAX_MEMBERS:
            return _MANY
        if len(buffers(members)) > cost.MAX_BUFFERS:
            return _WIDE
        if (group.kind != LOOP or unit is not None) and any(cost.reads_across(m, inside) for m in members if m.cuts):
            return _ACROSS
        unit = group.unit if unit is None else unit
        outer = group.outer if outer is None else outer
        self._tried = self._try_cuts(members, group.full | more_full, outer, unit, kind)
        if self._tried is None:
            return _CROSSED
        if group.keeps_rows or group.kind == STRIP:
            members.sort(key=lambda v: v.index)
            return _refuse_rows(members, group.full | more_full, group.kind)
        return None

    def _next(self, group: Group) -> list[Group]:
        """Groups that come after a group, at least those that come right after it."""
        if any(member.into is not None for member in group.members):
            return [g for g in self.groups if g.behind >> group.number & 1]
        return [g for member in group.members for g in self._readers.get(member, ())]

    def _merge(self, group: Group, other: Group, value: Value) -> None:
        """Takes `other` into `group` if it can, as both feed `value`, which is in `group`."""
        reason = self._merge_refusal(group, other, value)
        if reason is not None:
            self._refusal[other] = reason
            return
        is_full = other.numel == group.numel
        # Later ones have higher numbers.
        del self.groups[bisect_left(self.groups, other.number, key=lambda g: g.number)]
        self._gone.add(other)
        group.full |= other.full if is_full else set()
        group.members = sorted([*group.members, *other.members], key=lambda v: v.index)
        for member in other.members:
            self.group_of[member] = group
        for read in (read for member in other.members for read in member.reads):
            readers = self._readers[read.source]
            if other in readers:
                del readers[other]
                readers.pop(group, None)
                readers[group] = None
        old, new = 1 << other.number, 1 << group.number
        if self._followed.get(other, group) is not group:
            self._followed[group] = None
        group.behind = (group.behind | other.behind) & ~old & ~new
        for g in self.groups if group in self._followed else ():
            if g is not group and g.behind & (old | new):
                g.behind |= new | group.behind
        self._take_cuts(group)
        group.outside = buffers(group.members)
        self._sources_of = None, []

    def _merge_refusal(self, group: Group, other: Group, value: Value) -> str | None:
        if other.kind not in (LOOP, group.kind):
            return _unlike(other.kind, group.kind)
        if other.kind != LOOP and (other.outer, other.unit, other.layout) != (group.outer, group.unit, group.layout):
            return "the two reduce over different dimensions"
        if other.numel != group.numel and not (group.reads_back and other.numel == group.beside):
            return f"the one has {present(other.numel)} elements, the other {present(group.numel)}"
        is_full = other.numel == group.numel
        for read in value.reads:
            if read.source in other.members:
                is_row = not (is_full and read.source in other.full)
                if not read.is_whole(read.source.numel) and not (is_row and is_row_read(read, value, group)):
                    return f"{value.name} reads {read.source.name} at other places than its own"
                if is_row is (value in group.full) and not is_row_read(read, value, group):
                    return f"{value.name} reads {read.source.name} at other places than its own"
                if read.source.kind == kinds.REDUCTION and not group.reads_back:
                    return f"{read.source.name} is complete only when its kernel is done"
        # `value` made `group` come after `other`; anything else between the two forbids the merge.
        if other.behind >> group.number & 1:
            return _BETWEEN
        if any(group.behind >> g.number & 1 for g in self._next(other) if g is not group and g is not other):
            return _BETWEEN
        for member in other.members:
            for read in member.reads:
                if self.group_of.get(read.source) is group and relation(read, member, group) is None:
                    return "they read each other at different places"
        for member in group.members:
            for read in member.reads:
                if read.source in other.members and member is not value:
                    is_row = not (is_full and read.source in other.full)
                    same = read.is_whole(read.source.numel) and is_row is (member not in group.full)
                    if not same and not (is_row and is_row_read(read, member, group)):
                        return f"{member.name} reads {read.source.name} at other places than its own"
        more_full = other.full if is_full else set()
        return self._refuse(group, other.members, more_full, [])

    # --- reductions ---------------------------------------------------------------------------------------------------

    def _place_reduction(self, value: Value, candidates: list[Group]) -> Group:
        self._refusal = {}
        outer, size, inner = value.layout
        if value.op in SCATTERS:
            kind = SCATTER
        elif inner > 1:
            kind = STRIP if value.layout in self._strips else COLUMN
        else:
            kind = ROW if size <= cost.BLOCK else BLOCKS
        rows, unit = (outer * size, inner) if inner > 1 else (outer, size)
        layout = value.layout if inner > 1 else (0, 0, 0)
        read = value.reads[0]
        own = self.group_of.get(read.source)
        if own is not None and own in candidates:
            reason = self._join_reduction(own, value, kind, rows, unit, layout)
            if reason is None:
                return own
            self._refusal[own] = reason
        for group in self._readers.get(read.source, ()):
            same = (group.kind, group.outer, group.unit, group.layout) == (kind, rows, unit, layout)
            # Where the operand is made its places are the kernel's own, which were asked for above.
            if same and group is not own and self._refuse_one(group, value, False) is None:
                self._enter(group, value, False)
                self._take_cuts(group)
                return group
        group = self._open(kind, rows, unit, layout)
        if self._try_cuts([value], set(), rows, unit, kind) is None:
            # The operand's rows are not lines of memory: read it through a loop that copies.
            raise AssertionError(f"{value}: its operand was to be copied")
        self._enter(group, value, False)
        group.cuts = self._all_cuts(group)
        return group

    def _join_reduction(
        self, group: Group, value: Value, kind: str, rows: int, unit: int, layout: tuple[int, int, int]
    ) -> str | None:
        read = value.reads[0]
        if read.source not in group.full or not read.is_whole(group.numel):
            return f"{value.name} reads {read.source.name} at other places than its own"
        if read.source.kind == kinds.REDUCTION:
            return f"{read.source.name} is complete only when its kernel is done"
        if group.kind == LOOP:
            if group.numel != rows * unit:
                return f"{value.name} goes over {present(rows * unit)} elements, the group over {present(group.numel)}"
            if kind in (COLUMN, STRIP) and unit < cost.SHORT_COLUMN and group.numel > cost.SMALL:
                return f"{present(unit)} columns are too few for the elementwise work"
        elif group.kind in SCANS or group.kind != kind == SCATTER:
            return _unlike(group.kind, kind)
        elif (group.kind, group.outer, group.unit, group.layout) != (kind, rows, unit, layout):
            return "the two reduce over different dimensions"
        reason = self._refuse(group, [value], set(), self.sources(value), unit=unit, outer=rows, kind=kind)
        if reason is None:
            group.kind, group.outer, group.unit, group.layout = kind, rows, unit, layout
            self._enter(group, value, False)
            self._take_cuts(group)
        return reason

    # --- scans --------------------------------------------------------------------------------------------------------

    def _place_scan(self, value: Value, candidates: list[Group]) -> Group:
        self._refusal = {}
        kind = BACKSCAN if value.back else SCAN
        outer, size, inner = value.layout
        rows, unit = (outer * size, inner) if inner > 1 else (outer, size)
        group: Group | None = None
        for candidate in candidates:
            if group is not None:
                self._merge(group, candidate, value)
                continue
            reason = self._join_scan(candidate, value, kind, rows, unit)
            if reason is None:
                group = candidate
            else:
                self._refusal[candidate] = reason
        if group is None:
            group = self._open(kind, rows, unit, value.layout)
            self._enter(group, value, True)
            group.cuts = self._all_cuts(group)
        return group

    def _join_scan(self, group: Group, value: Value, kind: str, rows: int, unit: int) -> str | None:
        for read in value.reads:
            own = self.group_of.get(read.source) is group
            if own and not (read.source in group.full and read.is_whole(value.numel)):
                return f"{value.name} reads {read.source.name} at other places than its own"
        if group.kind not in (LOOP, kind):
            return _unlike(group.kind, kind)
        if group.kind == kind and group.layout != value.layout:
            return "the two go over different dimensions"
        reason = self._refuse(group, [value], {value}, self.sources(value), unit=unit, outer=rows)
        if reason is None:
            group.kind, group.outer, group.unit, group.layout = kind, rows, unit, value.layout
            self._enter(group, value, True)
            self._take_cuts(group)
        return reason


def _cuts_of(value: Value, is_full: bool, unit: int, inside: set[Value], kind: str) -> set[int] | None:
    """As `outer_cuts`, for a member of a group that may have strips, whose other values lie along their columns."""
    if kind == STRIP and value.numel == unit and value.kind != kinds.REDUCTION:
        is_plain = all(source in inside for source, _ in value.cuts) and all(r.picked is None for r in value.reads)
        return set() if is_plain else None
    return outer_cuts(value, is_full or value.kind == kinds.REDUCTION, unit, inside)


def _refuse_rows(members: list[Value], full: set[Value], kind: str) -> str | None:
    """Why a kernel that folds in several visits cannot have these members, or None."""
    if kind == STRIP:
        if len(members) - len(full) > cost.STRIP_ROWS:
            return _TALL
        read = {r.source for v in members for r in v.reads}
        return _DEAR if plan_rows(members, full, [v for v in full if v not in read], keeps=False).dear else None
    return _TALL if plan_rows(members, full).scratch_rows > cost.MAX_SCRATCH else None


def _refuse_sums(members: list[Value]) -> str | None:
    """Why a kernel that adds rows at places cannot have these members, or None."""
    if sum(member.op in SCATTERS for member in members) > 1:
        return _ELSEWHERE
    return _UNEVEN if any(map(cost.is_elementary, members)) else None


def _unlike(kind: str, other: str) -> str:
    return f"a {kind} kernel and a {other} kernel do not go through memory alike"
