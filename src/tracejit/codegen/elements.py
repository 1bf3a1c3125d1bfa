"""The elements of a group: where each operand lies for a row and a place in it, and the text that computes members.

In: a group, the memory of its values, a writer. Out: lines of a loop body.
Must not know: which loops surround the body.

A group is seen as [rows, inner]; `u` is the row and `j` the place in it. Texts hold no sizes: only whether a step is
0, 1 or another number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tracejit import dtypes
from tracejit.codegen import expression
from tracejit.codegen.text import Writer
from tracejit.kernels.tiles import TILE_BYTES, TILE_PITCH, TILED, WOVEN
from tracejit.schedule import cost
from tracejit.schedule.plan import Plan
from tracejit.schedule.spaces import LOOP, STRIP, Group
from tracejit.schedule.turned import TURNED_SIZES, is_mirrored
from tracejit.schedule.values import ELEMENTWISE, REDUCTION, VIRTUAL, Number, Read, Value, split

_WHOLE = max(WOVEN) * 16
"""Elements of as many vectors as there are rows that are woven, at most."""


@dataclass(slots=True)
class Access:
    """How a read goes through [rows, inner]: the text of its first element in row `u`, and its step in the row, with a
    `stride` unless that is 0, 1 or -1. What is picked place by place lies further on by steps of `along`, by
    single elements if there is none.

    A read that goes along rows in memory is turned, a tile at a time, into the scratch memory `tile`; `fill` is how.
    """

    base: str
    step: int
    stride: str = ""
    tile: tuple[str, int] | None = None
    fill: str = ""
    along: str = ""

    def at(self, j: str) -> str:
        """The text of the index at place `j`."""
        if self.step == -1:
            return f"{self.base or 0} - ({j})"
        move = "" if self.step == 0 else j if self.step == 1 else f"{j} * {self.stride}"
        return " + ".join(part for part in (self.base, move) if part) or "0"

    def steps(self, place: str) -> str:
        """The text of how far on lies what is picked at a place."""
        return f"{place} * {self.along}" if self.along else place


def _way(read: Read) -> tuple[object, ...]:
    """What a read's way through memory follows from."""
    own = read.source, read.offset, read.strides, read.shape
    return own if read.picked is None else (*own, read.along, *_way(read.picked))


class Elements:
    """Writes the loads, operations and stores of a group's members."""

    def __init__(self, writer: Writer, group: Group, plan: Plan) -> None:
        self.writer = writer
        self.group = group
        self.plan = plan
        self.inside = frozenset(group.members)
        self.stored = plan.stored(group)
        if group.kind == LOOP:
            self.inner = min(group.cuts, default=group.numel)
            cuts = {c // self.inner for c in group.cuts if c > self.inner}
        else:
            self.inner = group.unit
            cuts = set(group.cuts)
        self.rows = group.numel // max(self.inner, 1)
        self.flat = group.kind == LOOP and self.rows == 1
        self._row_cuts = [*sorted(cuts, reverse=True), 1]
        self._counters: list[str] = []
        self._accesses: dict[tuple[object, ...], Access] = {}
        self._row_texts: dict[tuple[object, ...], str] = {}
        self._texts: dict[tuple[object, ...], str] = {}
        self.rowwise: dict[Value, str] = {}
        self.placed: dict[Value, str] = {}
        self.n = "" if self.flat else writer.size(self.inner)
        self._tiles: dict[tuple[object, ...], tuple[str, int]] = {}
        self._steps_of: dict[tuple[Value, Read], tuple[list[int], int]] = {}
        self.streaming: dict[Value, tuple[str, int]] = {}
        self._beside: dict[Value, tuple[str, int]] = {}
        self.tiled = group.kind == LOOP and any(self._runs_across(v, r) for v, r in self._reads)
        self.mirrored = self.tiled and is_mirrored(group)
        self.woven = self.tiled and not self.mirrored and self._is_woven()
        self.far = self._find_far()
        self._plan_counters()

    def _find_far(self) -> list[Value]:
        """The members that go past the caches on their way to memory."""
        read = {r.source for _, r in self._reads if r.source.kind != VIRTUAL}
        written = [v for v in self.stored if v in self.group.full]
        nbytes = sum(v.numel * v.dtype.itemsize for v in (*read, *written))
        # Of what is picked from no more is read than is picked.
        picked = {r.source: v.numel for v, r in self._reads if r.picked is not None}
        nbytes -= sum(max(0, v.numel - count) * v.dtype.itemsize for v, count in picked.items())
        storage = self.plan.storage
        operands = {id(storage[v]) for v in read if v in storage}
        row = self.inner * self._size(len(self._row_cuts) - 1) if self.woven else self.inner
        return [
            v
            for v in written
            # What is written over an operand has its lines at hand, and what is read soon shall have them.
            if v.into is None and v.dtype.itemsize in (4, 8) and id(storage[v]) not in operands
            and v not in self.plan.soon and cost.is_far(nbytes, row * v.dtype.itemsize, self.tiled)
        ]

    # --- rows ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _reads(self) -> list[tuple[Value, Read]]:
        pairs = [(v, r) for v in self.group.members for r in v.reads if r.source not in self.inside]
        return pairs + [(v, v.into) for v in self.group.members if v.into is not None]

    @cached_property
    def _mixed(self) -> set[int]:
        """The buffers in which more is read or written than parts of a joined value that do not overlap."""
        storage = self.plan.storage
        read = {r.source for v, r in self._reads if r is not v.into and r.source.kind != VIRTUAL}
        written = {v.into.source if v.into else v for v in self.stored if not v.is_apart}
        return {id(storage[v]) for v in read | written if v in storage}

    def _is_full(self, value: Value) -> bool:
        return value in self.group.full or value.kind == REDUCTION

    def _is_beside(self, value: Value) -> bool:
        """Whether a member has one element for each column of strips."""
        return self.group.kind == STRIP and value not in self.group.full and value.kind != REDUCTION

    def _steps(self, value: Value, read: Read) -> tuple[list[int], int]:
        """Steps of a read over the row's dimensions, and in the row."""
        found = self._steps_of.get((value, read))
        if found is None:
            found = self._steps_of[value, read] = self._find_steps(value, read)
        return found

    def _find_steps(self, value: Value, read: Read) -> tuple[list[int], int]:
        shape = value.reads[0].shape if value.kind == REDUCTION else value.shape
        if self._is_beside(value):
            return [0] * len(self._row_cuts), split(read.over(shape), [1], self.inner)[0]
        if self._is_full(value):
            numel = self.rows * self.inner
            cuts = [c * self.inner for c in self._row_cuts]
            steps = split(read.over(shape), [*cuts, 1], numel)
            return steps[:-1], steps[-1]
        return split(read.over(shape), self._row_cuts, self.rows), 0

    def _linear(self, steps: list[int]) -> bool:
        """Whether going from row to row is one step everywhere."""
        return all(
            self._size(d) == 1 or steps[d] == steps[d + 1] * self._size(d + 1) for d in range(len(steps) - 1)
        )

    def _size(self, d: int) -> int:
        above = self.rows if d == 0 else self._row_cuts[d - 1]
        return above // self._row_cuts[d]

    def _plan_counters(self) -> None:
        if self.rows > 1 and any(not self._linear(self._steps(v, r)[0]) for v, r in self._reads):
            self._counters = [self.writer.name("i") for _ in self._row_cuts]
            self._limits = [self.writer.size(self._size(d)) for d in range(1, len(self._row_cuts))]

    def _runs_across(self, value: Value, read: Read) -> bool:
        """Whether what lies side by side in memory is one below the other in the rows."""
        if read is value.into or read.source.kind == VIRTUAL or read.source.dtype.itemsize not in TURNED_SIZES:
            return False
        if read.picked is not None:
            return False
        steps, inner = self._steps(value, read)
        return inner not in (0, 1) and steps[-1] == 1

    def _is_woven(self) -> bool:
        """Whether rows are a few elements that lie across them, or follow one another in memory as they do here."""
        known = isinstance(self.inner, int) and self.inner in WOVEN
        return known and all(self._runs_across(v, r) or self._follows(v, r) for v, r in self._reads)

    def _follows(self, value: Value, read: Read) -> bool:
        steps, inner = self._steps(value, read)
        if read.picked is not None:
            return False
        return not any(steps) if inner == 0 else inner == 1 and self._linear(steps) and steps[-1] == self.inner

    @property
    def run(self) -> str:
        """How many rows follow one another along the last of the row's dimensions."""
        return self.writer.size(self._size(len(self._row_cuts) - 1))

    @cached_property
    def tile_side(self) -> int:
        """Places of a tile, and its rows unless it is tall."""
        return TILE_BYTES // max(r.source.dtype.itemsize for v, r in self._reads if self._runs_across(v, r))

    def find_lines(self) -> None:
        """Sets `down` and `aside`: how far into a line of memory rows (of what is turned) and places (stored) begin.

        Tiles of long rows begin with lines, or each of their rows would take a line more.
        """
        read = next(r for v, r in self._reads if self._runs_across(v, r))
        self._find_line("down", read.source, read.offset, self.run)
        # Where values are joined, parts begin anywhere.
        stored = next((v for v in self.stored if v.into is None), None)
        self._find_line("aside", stored, 0, self.n)

    def _find_line(self, name: str, value: Value | None, offset: int, length: str) -> None:
        if value is None:
            self.writer.line(f"{name} = 0")
            return
        size = value.dtype.itemsize
        pointer = self.writer.pointer(self.plan.storage[value], offset * size)[0]
        self.writer.line(f"{name} = {pointer} % {cost.LINE} // {size} if {length} >= {cost.ALIGNED} else 0")

    def fill_tiles(self, first: str, rows: str, columns: str) -> None:
        """Turns the tiles of `rows` rows from `u`, their first, on and of `columns` places from `first` on."""
        for value, read in self._reads:
            access = self.access(value, read)
            if access.tile is None or access.tile in self._filled:
                continue
            self._filled.append(access.tile)
            size, at = read.source.dtype.itemsize, self._filled_from(access, read, first)
            self.writer.line(f"{access.fill}_{TILED[size]}({at}, {access.stride}, {access.tile[0]}, {rows}, {columns})")

    def ask_ahead(self) -> None:
        """Asks, where `asks` says so, for what row `u` reads in the tile that lies `ahead` places further on.

        What is turned comes in lines that have a few rows each, and is asked for where they begin.
        """
        asked: dict[str, None] = {}
        for value, read in self._reads:
            access, size = self.access(value, read), read.source.dtype.itemsize
            if read.picked is not None or read.source.kind == VIRTUAL:
                continue
            at, line = self._filled_from(access, read, "(first + ahead)"), cost.LINE // size
            if access.tile is not None:
                begun = f"stop - first if u % {line} == 0 else 0"
                asked[f"ask_lines({at}, {access.stride} * {size}, {begun})"] = None
            elif access.step == 1:
                asked[f"ask_lines({at}, {cost.LINE}, (stop - first) // {line})"] = None
        self.writer.line("if asks == 1:")
        self.writer.depth += 1
        for text in asked:
            self.writer.line(text)
        self.writer.depth -= 1

    def _filled_from(self, access: Access, read: Read, first: str) -> str:
        """The text of the address of what tiles are filled with."""
        size = read.source.dtype.itemsize
        pointer = self.writer.pointer(self.plan.storage[read.source], read.offset * size)
        return f"{pointer[0]} + {size} * ({access.at(first)})"

    def start_rows(self, first: str) -> None:
        """Sets the counters of the row's dimensions to those of row `first`."""
        if not self._counters:
            return
        left = first
        for d in range(len(self._counters) - 1, 0, -1):
            limit = self._limits[d - 1]
            above = self._counters[0] if d == 1 else self.writer.name("q")
            self.writer.line(f"{above} = {left} // {limit}")
            self.writer.line(f"{self._counters[d]} = {left} - {above} * {limit}")
            left = above

    def end_of_run(self, row: str) -> str:
        """The row up to which those from `row` on, to which the counters are set, lie at equal steps; "" if all do."""
        return f"{row} + {self._limits[-1]} - {self._counters[-1]}" if len(self._counters) > 1 else ""

    def next_row(self, rows: str = "1") -> None:
        """Advances the counters by so many rows, not past the end of a run."""
        depth = self.writer.depth
        last = len(self._counters) - 1
        for d in range(last, -1, -1):
            self.writer.line(f"{self._counters[d]} += {rows if d == last else 1}")
            if d:
                self.writer.line(f"if {self._counters[d]} == {self._limits[d - 1]}:")
                self.writer.depth += 1
                self.writer.line(f"{self._counters[d]} = 0")
        self.writer.depth = depth

    def begin_row(self) -> None:
        """Finds where the operands of row `u` lie."""
        self._row_texts.clear()
        self._filled: list[tuple[str, int]] = []
        self.rowwise.clear()
        self.forget_places()
        if self.flat:
            self._base = ""
        else:
            self._base = self.writer.name("b")
            self.writer.line(f"{self._base} = u * {self.n}")
        self._accesses.clear()
        for value, read in self._reads:
            self.access(value, read)

    def begin_beside(self) -> None:
        """What was found for a row is not at hand in a loop over columns alone."""
        self._row_texts.clear()
        self._accesses.clear()
        self.forget_places()

    def access(self, value: Value, read: Read) -> Access:
        """How a member's read goes through memory."""
        key = (*_way(read), value.shape, self._is_full(value))
        found = self._accesses.get(key)
        if found is None:
            found = self._accesses[key] = self._make_access(value, read)
        return found

    def _make_access(self, value: Value, read: Read) -> Access:
        steps, inner = self._steps(value, read)
        writer = self.writer
        if self.flat and self.inner == 1:
            # A single element: as if it lay in a longer row, so that the text is the same.
            inner = 1
        # Vectors of elements in descending order are read and turned.
        plain = inner in (0, 1, -1)
        stride, step = ("", inner) if plain else (writer.size(inner), 2)
        if self.rows == 1 and not self._is_full(value):
            base = "u"
        elif self.rows == 1 or not any(steps):
            base = self._base if self._reads_whole(value, read, inner) else ""
        elif self._linear(steps):
            last = steps[-1]
            if self._is_full(value) and inner == 1 and last == self.inner:
                base = self._base
            elif last == 1:
                base = "u"
            else:
                base = writer.name("o")
                writer.line(f"{base} = u * {writer.size(last)}")
        else:
            terms = [
                f"{self._counters[d]} * {writer.size(step_d)}"
                for d, step_d in enumerate(steps)
                if step_d and self._size(d) > 1
            ]
            base = writer.name("o")
            writer.line(f"{base} = {' + '.join(terms)}")
        if read.source.kind == VIRTUAL and read.offset:
            base = " + ".join(part for part in (writer.size(read.offset), base) if part)
        access = Access(base, step, stride)
        self._lay(access, value, read)
        if read.picked is not None:
            access.along = "" if read.along == 1 else writer.size(read.along)
            if self._is_even(value, read.picked):
                access.base = writer.name("o")
                place = access.steps(self.fetch(value, read.picked, ""))
                writer.line(f"{access.base} = {' + '.join(part for part in (base, place) if part)}")
        return access

    def _lay(self, access: Access, value: Value, read: Read) -> None:
        """Has a read go through scratch memory if it cannot be read as it lies."""
        if self.tiled and self._runs_across(value, read):
            access.fill = "weave" if self.woven else "turn"
            access.tile = self._tile(access.fill, value, read)

    def _tile(self, fill: str, value: Value, read: Read) -> tuple[str, int]:
        key = (read.source, read.offset, read.strides, read.shape, value.shape)
        if key not in self._tiles:
            # What weaves writes whole vectors, of as many rows as are woven.
            places = cost.WOVEN_PLACES + _WHOLE
            if fill == "turn":
                places = cost.TALL * self.tile_side * TILE_PITCH
            self._tiles[key] = self.writer.scratch("i64", places * read.source.dtype.itemsize // 8)
        return self._tiles[key]

    def _reads_whole(self, value: Value, read: Read, inner: int) -> bool:
        """Of one row, a contiguous operand is addressed as in many rows, so that the text is the same."""
        return self.rows == 1 and self._is_full(value) and inner == 1 and read.source.numel == self.inner

    # --- elements -----------------------------------------------------------------------------------------------------

    def forget_places(self) -> None:
        """What was loaded and computed at a place is not at hand in the next loop."""
        self._texts.clear()
        self.placed.clear()

    def hoist(self, members: list[Value]) -> None:
        """Loads what is the same at all places of the row, before the loop over them."""
        for value in members:
            for read in value.reads:
                in_rows = self._is_full(value) or self._is_beside(value)
                if read.source not in self.inside and in_rows and self._is_even(value, read):
                    self.fetch(value, read, "")

    def _is_even(self, value: Value, read: Read) -> bool:
        """Whether what is read is the same at all places of the row."""
        return self.access(value, read).step == 0 and (read.picked is None or self._is_even(value, read.picked))

    def fetch(self, value: Value, read: Read, j: str) -> str:
        """The variable that holds an operand from outside at place `j`."""
        access = self.access(value, read)
        if access.tile is not None:
            return self._fetch_turned(access.tile, read)
        index = access.at(j)
        if read.picked is not None and not self._is_even(value, read.picked):
            index = f"{index} + {access.steps(self.fetch(value, read.picked, j))}"
        key = (read.source, read.offset, access.base, access.step, access.stride, index if read.picked else "")
        texts = self._row_texts if self._is_even(value, read) else self._texts
        if key not in texts:
            name = self.writer.name("x")
            self.writer.line(f"{name} = {self._load(read, index)}")
            texts[key] = name
        return texts[key]

    def _fetch_turned(self, tile: tuple[str, int], read: Read) -> str:
        if tile not in self._texts:
            name = self._texts[tile] = self.writer.name("x")
            self.writer.line(f"{name} = {self.writer.load(read.source.dtype.short, tile, self._place_in_tile)}")
        return self._texts[tile]

    @property
    def _place_in_tile(self) -> str:
        """The text of where place `j` is in what was turned."""
        return "j" if self.woven else f"(u - top) * {TILE_PITCH} + j - first"

    def _load(self, read: Read, index: str) -> str:
        source = read.source
        if source.kind == VIRTUAL:
            return self._virtual(source, index)
        pointer = self.writer.pointer(self.plan.storage[source], read.offset * source.dtype.itemsize)
        return self.writer.load(source.dtype.short, pointer, index)

    def _virtual(self, source: Value, index: str) -> str:
        assert source.op is not None
        numbers = [a for a in source.args if isinstance(a, Number)]
        kind = source.dtype
        if source.op.family == "random":
            seed, offset = (self.writer.integer(a) for a in numbers)
            text = f"{source.op.name}_{expression.computing(kind)}({seed}, {offset}, {index})"
            return expression.shortened(text, kind)
        return self.writer.number(numbers[0], kind) if numbers else f"int64({index})"

    def compute(self, value: Value, j: str) -> str:
        """Computes a member at place `j`, or for the row; gives its variable."""
        known = self.placed if value in self.group.full or self.group.kind == STRIP else self.rowwise
        if value in known:
            return known[value]
        if value.reads and value.reads[0].picked is not None:
            known[value] = self.operand(value, value.reads[0], j)
            return known[value]
        operands = []
        if value.op is None:
            kind = value.dtype
        else:
            # A number takes the type of the tensors beside it.
            kind = value.reads[-1].source.dtype
        for arg in value.args:
            if isinstance(arg, Number):
                wide = value.op is not None and value.op.wide_numbers and kind is dtypes.bfloat16
                operands.append((self.writer.number(arg, dtypes.float32 if wide else kind), kind))
            else:
                operands.append((self.operand(value, arg, j), arg.source.dtype))
        if value.op is None:
            known[value] = operands[0][0]
            return operands[0][0]
        assert value.kind == ELEMENTWISE
        text = expression.apply(value.op, operands, value.dtype, value.attrs)
        name = self.writer.name("v" if known is self.placed else "r")
        self.writer.line(f"{name} = {text}  # {value.op.name}")
        known[value] = name
        return name

    def operand(self, value: Value, read: Read, j: str) -> str:
        """The variable that holds an operand, a member or from outside."""
        source = read.source
        if source in self.placed:
            return self.placed[source]
        if source in self.rowwise:
            return self.rowwise[source]
        if source in self.group.full:
            return self.compute(source, j)
        return self.fetch(value, read, j)

    def streams(self) -> list[tuple[str, int, bool]]:
        """What the rows go through in memory in order: pointer, bytes of an element, whether it is written."""
        found: dict[str, tuple[int, bool]] = {}
        for value, read in self._reads:
            access = self.access(value, read)
            follows = access.base == self._base and access.step == 1 and read.picked is None
            if self._is_full(value) and follows and read.source.kind != VIRTUAL:
                size = read.source.dtype.itemsize
                pointer = self.writer.pointer(self.plan.storage[read.source], read.offset * size)
                found.setdefault(pointer[0], (size, False))
        for value in self.stored:
            if value in self.group.full and value.into is None and value not in self.far:
                found[self.writer.pointer(self.plan.storage[value])[0]] = (value.dtype.itemsize, True)
        return [(pointer, size, written) for pointer, (size, written) in found.items()]

    def store(self, value: Value, j: str, text: str) -> None:
        """Stores a member that has memory, or puts it where it is streamed from."""
        if value in self.streaming:
            self.writer.store(value.dtype.short, self.streaming[value], f"{j} - first", text)
            return
        if value.into is not None:
            buffer, offset = self.plan.storage[value.into.source], value.into.offset * value.dtype.itemsize
            # In one scope with its neighbours, LLVM would look at where whole rows of parts lie, see them entangled,
            # and give up on vectors.
            apart = value.is_apart and id(buffer) not in self._mixed
            pointer = self.writer.pointer(buffer, offset, apart=apart)
            self.writer.store(value.dtype.short, pointer, self.access(value, value.into).at(j), text)
            return
        pointer = self.writer.pointer(self.plan.storage[value])
        self.writer.store(value.dtype.short, pointer, self.own(value, j), text)

    @property
    def streams_results(self) -> bool:
        """Whether anything is streamed."""
        return bool(self._beside)

    def open_pieces(self, streamed: list[Value], row: str, begin: str, end: str, length: int) -> None:
        """Opens a loop over pieces of a row, of `length` places at most, each from `first` to `stop`.

        Where values are streamed, pieces end with lines of the first one's memory, in which the row begins at `row`.
        """
        writer = self.writer
        if not streamed:
            writer.line(f"for first in range({begin}, {end}, {length}):")
            writer.depth += 1
            writer.line(f"stop = min(first + {length}, {end})")
            return
        value = streamed[0]
        size = value.dtype.itemsize
        index = " + ".join(part for part in (row, begin) if part)
        skew = writer.name("k")
        pointer = writer.pointer(self.plan.storage[value])[0]
        writer.line(f"{skew} = ({pointer} + {size} * ({index})) % {cost.LINE} // {size}")
        writer.line(f"for edge in range({begin} - {skew}, {end}, {length}):")
        writer.depth += 1
        writer.line(f"first = max(edge, {begin})")
        writer.line(f"stop = min(edge + {length}, {end})")

    def begin_stream(self, values: list[Value], length: int) -> None:
        """From here on stores of the values go to memory beside, as much as a piece of `length` places takes."""
        for value in values:
            if value not in self._beside:
                self._beside[value] = self.writer.scratch("i64", length * value.dtype.itemsize // 8)
            self.streaming[value] = self._beside[value]

    def end_stream(self) -> None:
        """Copies the piece to where it belongs."""
        for value, beside in self.streaming.items():
            size = value.dtype.itemsize
            target = f"{self.writer.pointer(self.plan.storage[value])[0]} + {size} * ({self.own(value, 'first')})"
            self.writer.line(f"stream({target}, {beside[0]}, (stop - first) * {size // 4})")
        self.streaming.clear()

    @property
    def own_row(self) -> str:
        """Where row `u` begins in a member's own memory."""
        return self._base

    def own(self, value: Value, j: str) -> str:
        """The index of a member in its own memory."""
        if self.group.kind == STRIP and value not in self.group.full:
            return j
        if value not in self.group.full:
            return "0" if self.flat else "u"
        return " + ".join(part for part in (self._base, j) if part)
