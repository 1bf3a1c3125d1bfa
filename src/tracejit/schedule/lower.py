"""From nodes to values: views become strides, joins become copies, library operations get their launches.

In: a graph, and a planner for library operations. Out: `Program`: values in order, and what each output reads.
Must not know: groups, kernels.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, Protocol

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.dtypes import dtype
from tracejit.ir.graph import Graph
from tracejit.ir.node import INPUT, ITEM, Node
from tracejit.ops import Op, ops
from tracejit.ops.index import CHANGING
from tracejit.schedule import cost
from tracejit.schedule import values as kinds
from tracejit.schedule.islands import Islands, Run, detach
from tracejit.schedule.spaces import SCATTERS
from tracejit.schedule.values import Number, Read, Value, cuts_of, number_of, whole
from tracejit.schedule.views import VIEWS, flipped
from tracejit.shapes import contiguous_strides

UNITS = {"sum": 0, "prod": 1}
"""What a reduction of nothing gives."""
PICKS = frozenset((ops.take, ops.gather))
"""Operations that read an element for each of their results, at a place that is an operand."""
RUNNING = frozenset((ops.cumsum, ops.cumprod, ops.linear_recurrence))
"""Operations of which each result follows from the one before it along a dimension."""
_FOLDED = (dtypes.float32, dtypes.float64)
"""Types of which there are kernels for scans, and for sums at places, that share them with others."""


class Layout(NamedTuple):
    """How an operand of a library operation lies in memory; strides in elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PlannedLaunch(Protocol):
    """What this package needs to know of a library launch."""

    @property
    def units(self) -> int:
        """Pieces of work that threads may share."""

    @property
    def unit_cost(self) -> float:
        """Serial nanoseconds of one."""

    @property
    def slots(self) -> tuple[Any, ...]:
        """The arguments; those with an `index` are addresses of operands, then of results."""

    @property
    def fails(self) -> bool:
        """Whether the kernel may return an error code."""

    @property
    def in_place(self) -> tuple[tuple[int, int], ...]:
        """Pairs of slots, of an operand that only this launch reads and of a result, that may be one buffer."""

    @property
    def parts(self) -> int:
        """Equal parts of the units each of which only needs its part of the rows of what is `along`; 0 if none."""

    @property
    def along(self) -> tuple[int, ...]:
        """Operands and results, numbered as in slots."""

    @property
    def loose(self) -> bool:
        """Whether parts take no longer one by one than together."""

    @property
    def scratch(self) -> int:
        """Bytes of memory that it shares with the other launches of its operation."""


class Planner(Protocol):
    """Plans a library operation over operands and results (contiguous).

    Raises: ValueError if an operand must be contiguous, NotImplementedError if an element type has no kernel.
    """

    def __call__(self, op: Op, layouts: tuple[Layout, ...], attrs: tuple[Any, ...]) -> tuple[PlannedLaunch, ...]: ...


class Prepared(NamedTuple):
    """An operation as two: what the `first` launches make of these operands, `nbytes` of memory, is one operand more
    of the `others`, behind those that there are. Where they make nothing, the others come after them.
    """

    operands: tuple[int, ...]
    nbytes: int
    first: tuple[PlannedLaunch, ...]
    others: tuple[PlannedLaunch, ...]


Preparing = Callable[[Any, int], Prepared | None]
"""Takes launches that a planner gave, and the number of operands, apart, if that is worth it."""


class _Planned(NamedTuple):
    """The launches of a library operation, how its operands and results lie, and the two that it may be."""

    launches: tuple[PlannedLaunch, ...]
    layouts: tuple[Layout, ...]
    prepared: Prepared | None


@dataclass(slots=True)
class Lowered:
    """Values in an order in which they can be computed, the inputs, and what each output reads; calls that are done for
    what they look at; the lines of nodes, and the `count` of values if islands are their own.
    """

    values: list[Value] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Read] = field(default_factory=list)
    checks: list[Value] = field(default_factory=list)
    lines: Mapping[Node, str] = field(default_factory=dict)
    count: int = 0


def missing(op: Op, avals: tuple[Aval | None, ...]) -> str | None:
    """Why an operation cannot be compiled, or None; `avals` are the operands' (None for a number)."""
    if op.family == "elementwise":
        if op.expr is None:
            return f"'{op.name}' has no kernel: it runs eagerly, where it can raise"
        known = [a for a in avals if a is not None]
        if not known:
            return f"'{op.name}' of numbers alone is no operation on tensors"
        key = "bif"[known[-1].dtype.category]
        if isinstance(op.expr, dict) and key not in op.expr:
            return f"'{op.name}' is not defined for {known[-1].dtype.name}"
    return None


class Lowering:
    """Turns the nodes of one graph into values; those that may be islands as they are, the others as `arrange` leaves
    them. What `preparing` takes apart, such as the packing of a convolution's weights, need not wait for all operands.
    With `scans` those of float32 and float64 are values like reductions, not library operations, unless they are short;
    with `sums` so are those of rows at places.
    """

    def __init__(
        self,
        graph: Graph,
        planner: Planner,
        arrange: Callable[[Graph], Graph] | None = None,
        preparing: Preparing | None = None,
        *,
        scans: bool = True,
        sums: bool = True,
    ) -> None:
        left, runs = detach(graph)
        arranged = left if arrange is None else arrange(left)
        self._islands = Islands()
        self.planner = planner
        self._preparing = preparing
        self._scans, self._sums = scans, sums
        # Nobody writes to what the mappings are joined to.
        self.out = Lowered(lines=ChainMap(arranged.lines, graph.lines))  # type: ignore[arg-type]
        self._reads: dict[Node, Read | Number] = {}
        self._results: dict[Node, list[Read]] = {}
        self._launches: dict[tuple[Any, ...], _Planned] = {}
        self._checks: dict[tuple[Any, ...], Value] = {}
        self._node: Node | None = None
        for k, node in enumerate(graph.inputs):
            aval = node.tensor
            value = Value(kinds.INPUT, None, aval.shape, aval.dtype, attrs=(k,), node=node)
            self.out.inputs.append(value)
            strides = node.attrs[1]
            self._reads[node] = Read(value, aval.shape, contiguous_strides(aval.shape) if strides is None else strides)
        self._nodes = iter(arranged.nodes())
        outputs = list(zip(left.outputs, arranged.outputs, strict=True))
        before = 0
        for run in runs:
            self._enter_until(outputs[before : run.after])
            self._enter_run(run)
            before = run.after
        self._enter_until(outputs[before:])
        self._enter_until(list(zip(left.checks, arranged.checks, strict=True)))
        for node in graph.outputs:
            read = self._reads[node]
            assert isinstance(read, Read)
            self.out.outputs.append(read)
        self.out.checks = self._looking([self._reads[node] for node in graph.checks])

    def _looking(self, reads: list[Read | Number]) -> list[Value]:
        """The calls that look at values, of those that these are made with."""
        found: dict[Value, None] = {}
        rest = [read.source for read in reads if isinstance(read, Read)]
        while rest:
            value = rest.pop()
            if any(launch.fails for launch in value.launches):
                found[value] = None
                continue
            rest += [read.source for read in value.reads]
            rest += value.after
            if value.call is not None:
                rest.append(value.call)
        return list(found)

    def _add(self, kind: str, op: Op | None, aval: Aval, args: tuple[Read | Number, ...] = (), **more: Any) -> Value:
        return self._append(Value(kind, op, aval.shape, aval.dtype, args, node=self._node, **more))

    def _append(self, value: Value) -> Value:
        value.index = self.out.count
        # An island keeps places for all that it stands for.
        self.out.count += 1 if value.body is None else len(value.body.steps)
        self.out.values.append(value)
        return value

    def copy(self, read: Read, **more: Any) -> Value:
        """A copy of what is read, in row-major order."""
        return self._add(kinds.ELEMENTWISE, None, Aval(read.shape, read.source.dtype), (read,), **more)

    def copy_output(self, node: Node) -> Value:
        """A copy of what an output is."""
        self._node = node
        read = self._reads[node]
        assert isinstance(read, Read)
        return self.copy(read)

    def _enter_until(self, outputs: list[tuple[Node, Node]]) -> None:
        """Enters nodes up to those that some have become."""
        for node, now in outputs:
            while now not in self._reads:
                self._enter(next(self._nodes))
            self._reads[node] = self._reads[now]

    def _enter(self, node: Node) -> None:
        self._node = node
        if node in self._reads:
            return
        op = node.op
        if isinstance(op, Op):
            self._enter_operation(node, op)
        elif node.is_number:
            self._reads[node] = number_of(node)
        elif op == ITEM:
            self._reads[node] = self._results[node.args[0]][node.attrs[0]]
        else:
            raise TypeError(f"{node!r} is not a node of a graph ({op}, {INPUT})")

    def _enter_run(self, run: Run) -> None:
        """One value for nodes that are read by each other alone, unless kernels may be shared with others."""
        island = self._islands.value(run, self._reads)
        if island is None:
            for node in run.nodes:
                for number in [a for a in node.args if a.is_number]:
                    self._enter(number)
                self._enter(node)
            return
        self._append(island)
        results: list[Value] = []
        for k in run.results:
            self._node = node = run.nodes[k]
            result = self._add(kinds.RESULT, None, node.tensor, attrs=(k,), call=island)
            results.append(result)
            self._reads[node] = whole(result)
        island.results = tuple(results)

    def _enter_operation(self, node: Node, op: Op) -> None:
        reads = self._reads
        args = tuple([reads[a] for a in node.args])
        if op.family == "elementwise":
            reason = missing(op, tuple([a.aval if isinstance(a.aval, Aval) else None for a in node.args]))
            if reason is not None:
                raise NotImplementedError(f"cannot compile {reason}")
        elif op in PICKS and (picked := self._pick(op, node.tensor, args, node.attrs)) is not None:
            self._reads[node] = picked
            return
        elif op in RUNNING and (running := self._run(op, node.tensor, args, node.attrs)) is not None:
            self._reads[node] = running
            return
        elif op in SCATTERS and (sums := self._scatter(op, node.tensor, args, node.attrs)) is not None:
            self._reads[node] = sums
            return
        elif op.family == "library":
            self._results[node] = results = self._enter_call(node, op, args)
            if isinstance(node.aval, Aval):
                self._reads[node] = results[0]
            return
        lower = getattr(self, f"_{op.family}", None)
        if lower is None:
            raise NotImplementedError(f"cannot compile '{op.name}': nothing is known of family '{op.family}'")
        self._reads[node] = lower(op, node.tensor, args, node.attrs)

    def _elementwise(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read:
        return whole(self._add(kinds.ELEMENTWISE, op, aval, args, attrs=attrs))

    def _create(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read:
        return whole(self._add(kinds.VIRTUAL, op, aval, args, attrs=attrs))

    _random = _create

    def full(self, aval: Aval, number: Any) -> Read:
        """A value whose elements are all `number`."""
        return whole(self._add(kinds.VIRTUAL, ops.full, aval, (Number(constant=number),)))

    def _reduction(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read:
        x: Read = args[0]
        dim = attrs[0]
        size, inner = x.shape[dim], prod(x.shape[dim + 1 :])
        if size == 0 and aval.numel:
            if op.name not in UNITS:
                raise ValueError(f"{op.name}: the reduced dimension {dim} of {list(x.shape)} is empty")
            return self.full(aval, UNITS[op.name])
        if size == 1:
            # Every fold of one element is that element.
            strides = tuple(s for d, s in enumerate(x.strides) if d != dim)
            return Read(x.source, aval.shape, strides, x.offset)
        unit = size if inner == 1 else inner
        dims = x.over(x.shape)
        layout = (prod(x.shape[:dim]), size, inner)
        across = cost.lies_across(dims) and not cost.folds_beside(x, layout)
        if aval.numel and (any(cut % unit for cut in cuts_of(dims)) or across):
            x = self._turn(x)
        if inner == 1:
            self._islands.note_rows(layout[0], size)
        return whole(self._add(kinds.REDUCTION, op, aval, (x,), attrs=attrs, layout=layout))

    def _turn(self, x: Read) -> Read:
        """A copy of an operand of this node in row-major order, which those behind it read as well."""
        copied = whole(self.copy(x))
        for node in self._node.args if self._node is not None else ():
            if self._reads[node] is x:
                self._reads[node] = copied
        return copied

    def _run(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read | None:
        """A scan; None if a library operation does it."""
        dim = attrs[0]
        size, inner = aval.shape[dim], prod(aval.shape[dim + 1 :])
        if not self._scans or aval.numel == 0 or aval.dtype not in _FOLDED:
            return None
        if size == 1 or cost.is_short_scan(size, inner):
            return None
        steps = [x.strides[dim] for x in args if x.source.op is not ops.full] or [0]
        # What is read in descending order is as it lies for a scan that begins at the end.
        back = min(steps) < 0 and max(steps) <= 0
        unit = size if inner == 1 else inner
        reads: list[Read] = []
        for x in args:
            read = flipped(x, x.shape, (dim,)) if back else x
            dims = read.over(read.shape)
            crosses = any(cut % unit for cut in cuts_of(dims)) or cost.lies_across(dims)
            reads.append(self._turn(read) if crosses else read)
        layout = (prod(aval.shape[:dim]), size, inner)
        scan = whole(self._add(kinds.SCAN, op, aval, tuple(reads), attrs=attrs, layout=layout, back=back))
        return flipped(scan, aval.shape, (dim,)) if back else scan

    def _scatter(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read | None:
        """Sums of rows at the places of an index, where there was one number before; None if a library operation adds.
        """
        x, index, rows = args
        if not self._sums or attrs[0] != 0 or x.source.op is not ops.full or aval.dtype not in _FOLDED:
            return None
        if cost.is_short_sum(prod(aval.shape[1:])) or aval.numel == 0 or prod(rows.shape) == 0:
            return None
        size, shape = aval.shape[0], (rows.shape[0], *aval.shape[1:])
        if not (index.shape == rows.shape == shape if op is ops.scatter_add else rows.shape == shape):
            return None
        if any(step and n > 1 for n, step in zip(index.shape[1:], index.strides[1:], strict=True)):
            # Its places differ from column to column.
            return None
        index = self._real(index)
        after = self._looked_at(index, size)
        if after is None:
            return None
        places = Read(index.source, shape, (index.strides[0], *[0] * (len(shape) - 1)), index.offset)
        layout = (1, shape[0], prod(shape[1:]))
        dims = rows.over(shape)
        if any(cut % layout[2] for cut in cuts_of(dims)) or cost.lies_across(dims):
            rows = self._turn(rows)
        operands = (rows, places, x.source.args[0])
        return whole(self._add(kinds.REDUCTION, op, aval, operands, attrs=attrs, layout=layout, after=after))

    def _contraction(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read:
        kind = dtypes.widened(aval.dtype)
        wide = tuple([self._cast(x, kind) for x in args])
        products = self._elementwise(ops.mul, Aval(args[0].shape, kind), wide, ())
        return self._cast(self._reduction(ops.sum, Aval(aval.shape, kind), (products,), attrs), aval.dtype)

    def _view(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read:
        x: Read = args[0]
        if aval.numel == 0:
            return Read(x.source, aval.shape, contiguous_strides(aval.shape))
        step: Callable[..., Read | None] = VIEWS[op.name]
        seen = step(x, aval.shape, *attrs)
        if seen is not None:
            return seen
        again = step(whole(self.copy(x)), aval.shape, *attrs)
        assert again is not None
        return again

    def _place(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read:
        joined = Value(kinds.JOINED, None, aval.shape, aval.dtype, node=self._node)
        strides = contiguous_strides(aval.shape)
        parts: list[Value] = []
        if op.name == "cat":
            at = 0
            for x in args:
                parts += self._put(joined, x, at * strides[attrs[0]] if strides else 0, strides)
                at += x.shape[attrs[0]]
        else:
            # The ground first, then the part that covers some of it.
            if op.name == "unslice":
                ground, part, (_, start, step) = self.full(aval, 0), args[0], attrs
            else:
                ground, part, (start, step) = args[0], args[1], attrs
            if prod(part.shape) < aval.numel:
                parts += self._put(joined, ground, 0, strides)
            offset = sum(a * s for a, s in zip(start, strides, strict=True))
            steps = tuple(a * s for a, s in zip(step, strides, strict=True))
            parts += self._put(joined, part, offset, steps, tuple(parts))
        joined.parts = tuple(parts)
        return whole(self._append(joined))

    def _put(
        self, joined: Value, x: Read, offset: int, strides: tuple[int, ...], after: tuple[Value, ...] = ()
    ) -> tuple[Value, ...]:
        """The part that copies an operand to its place, unless there is nothing of it."""
        if prod(x.shape) == 0:
            return ()
        return (self.copy(x, into=Read(joined, x.shape, strides, offset), after=after),)

    def _cast(self, read: Read, kind: dtype) -> Read:
        if read.source.dtype is kind:
            return read
        return whole(self._add(kinds.ELEMENTWISE, ops.cast, Aval(read.shape, kind), (read,), attrs=(kind,)))

    def _enter_call(self, node: Node, op: Op, args: tuple[Any, ...]) -> list[Read]:
        avals = (node.aval,) if isinstance(node.aval, Aval) else tuple(node.aval or ())
        numbers = [i for i, a in enumerate(args) if isinstance(a, Number)]
        if numbers:
            raise NotImplementedError(f"cannot compile '{op.name}': operand {op.params[numbers[0]]} is a number")
        reads: list[Read] = [self._real(a) for a in args]
        try:
            call = self._change(op, reads, avals, node.attrs) if op in CHANGING else None
            call = call or self._plan(op, reads, avals, node.attrs)
            return [whole(r) for r in call.results]
        except NotImplementedError:
            if not any(a.dtype in dtypes.HALVES for a in avals):
                raise
        wide = [self._cast(r, dtypes.widened(r.source.dtype)) for r in reads]
        results = tuple(Aval(a.shape, dtypes.widened(a.dtype)) for a in avals)
        call = self._plan(op, wide, results, node.attrs)
        return [self._cast(whole(r), a.dtype) for r, a in zip(call.results, avals, strict=True)]

    def _change(self, op: Op, reads: list[Read], avals: tuple[Aval, ...], attrs: tuple[Any, ...]) -> Value | None:
        """A change of what an index picks, at which a call of its own looks, unless this gives None: so several tensors
        may be changed where they lie.
        """
        x, index, *_ = reads
        if not x.shape or not all(isinstance(n, int) and n for n in (*x.shape, *index.shape)):
            return None
        after = self._looked_at(index, x.shape[attrs[0]])
        if after is None:
            return None
        call = self._plan(op, reads, avals, attrs)
        if call.launches[0].fails:
            call.launches, call.after = call.launches[1:], (*call.after, *after)
            call.origin = call.origin[0], call.origin[1] + 1
        return call

    def _looked_at(self, index: Read, size: int) -> tuple[Value, ...] | None:
        """The calls after which an index is known to be right; None where none tells that before."""
        check = self._check(index, size)
        if check is None:
            return None
        maker = index.source.call
        wrapped = maker is not None and maker.op is ops.wrap_index and maker.attrs == (size,)
        return () if wrapped else (check,)

    def _pick(self, op: Op, aval: Aval, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Read | None:
        """Elements picked by an index, which is checked by a call of its own; None if a library operation picks them.
        """
        x, index = args
        (dim,) = attrs
        if not aval.shape or aval.numel == 0 or x.source.numel == 0:
            return None
        index = self._real(index)
        after = self._looked_at(index, x.shape[dim])
        if after is None:
            return None
        if op is ops.take:
            steps = tuple(index.strides[0] if d == dim else 0 for d in range(len(aval.shape)))
            index = Read(index.source, aval.shape, steps, index.offset)
        if x.source.op is ops.iota and len(x.shape) == 1 and (x.offset, x.strides) == (0, (1,)):
            # Places of a list of all places.
            same = index.source.dtype is aval.dtype
            made = (None, ()) if same else (ops.cast, (aval.dtype,))
            return whole(self._add(kinds.ELEMENTWISE, made[0], aval, (index,), attrs=made[1], after=after))
        x = self._real(x)
        strides = tuple(0 if d == dim else s for d, s in enumerate(x.strides))
        x = Read(x.source, aval.shape, strides, x.offset, index, x.strides[dim])
        return whole(self._add(kinds.ELEMENTWISE, op, aval, (x, index), attrs=attrs, after=after))

    def _check(self, index: Read, size: int) -> Value | None:
        """The call that fails if an index is none of so many places, one for all that pick by it; None where what comes
        after a failure runs all the same.
        """
        kept = [d for d, (n, step) in enumerate(zip(index.shape, index.strides, strict=True)) if n != 1 and step != 0]
        shape, strides = tuple(index.shape[d] for d in kept), tuple(index.strides[d] for d in kept)
        key = (index.source, index.offset, shape, strides, size)
        if key not in self._checks:
            try:
                looked = Read(index.source, shape, strides, index.offset)
                self._checks[key] = self._plan(ops.check_index, [looked], (Aval((0,), dtypes.bool),), (size,))
            except NotImplementedError:
                return None
        return self._checks[key]

    def _real(self, read: Read) -> Read:
        """A read of memory: virtual values get some."""
        return whole(self.copy(read)) if read.source.kind == kinds.VIRTUAL else read

    def _plan(self, op: Op, reads: list[Read], avals: tuple[Aval, ...], attrs: tuple[Any, ...]) -> Value:
        def plan(operands: list[Read]) -> _Planned:
            # Layers are alike, and so are the steps of a loop.
            key = (op, attrs, avals, *[part for r in operands for part in (r.source.dtype, r.shape, r.strides)])
            planned = self._launches.get(key)
            if planned is None:
                layouts = [Layout(r.source.dtype.name, r.shape, r.strides) for r in operands]
                layouts += [Layout(a.dtype.name, a.shape, contiguous_strides(a.shape)) for a in avals]
                launches = self.planner(op, tuple(layouts), attrs)
                prepared = None if self._preparing is None else self._preparing(launches, len(operands))
                planned = self._launches[key] = _Planned(launches, tuple(layouts), prepared)
            return planned

        try:
            planned = plan(reads)
        except ValueError:
            strided = [prod(r.shape) > 1 and r.over(r.shape) != ((prod(r.shape), 1),) for r in reads]
            if not any(strided):
                raise
            reads = [whole(self.copy(r)) if s else r for r, s in zip(reads, strided, strict=True)]
            planned = plan(reads)
        prepared = planned.prepared
        if prepared is None:
            return self._call(op, reads, avals, attrs, planned.launches, planned.layouts, 0)
        room = (Aval((prepared.nbytes,), dtypes.uint8),)
        some = [reads[k] for k in prepared.operands]
        first = self._call(op, some, room, attrs, prepared.first, planned.layouts, 0)
        if prepared.nbytes:
            reads = [*reads, whole(first.results[0])]
        after = () if prepared.nbytes else (first,)
        return self._call(op, reads, avals, attrs, prepared.others, planned.layouts, len(prepared.first), after)

    def _call(
        self,
        op: Op,
        reads: list[Read],
        avals: tuple[Aval, ...],
        attrs: tuple[Any, ...],
        launches: tuple[PlannedLaunch, ...],
        layouts: tuple[Layout, ...],
        step: int,
        after: tuple[Value, ...] = (),
    ) -> Value:
        """The value of launches of an operation, from the one of this number on, with its results."""
        more = {"attrs": attrs, "launches": launches, "origin": (layouts, step), "after": after}
        call = self._add(kinds.CALL, op, Aval((), dtypes.bool), tuple(reads), **more)
        results = [self._add(kinds.RESULT, None, a, attrs=(k,), call=call) for k, a in enumerate(avals)]
        call.results = tuple(results)
        return call


def lower(graph: Graph, planner: Planner) -> Lowered:
    """The values of a graph.

    Raises: NotImplementedError naming an operation that has no kernel.
    """
    return Lowering(graph, planner).out
