"""What one unit of attention does: a head's block of query rows, all rows of a head for the gradients, or packing,
which the gradients do themselves, as each of their units has a head of its own.

A block of rows of scores, all keys wide, is in the workspace: products with the keys, then each row's weights
(`attention_rows`), then products with the values. The gradients compute the weights again from each row's maximum and
sum. Every product is one chain of fused multiply-adds in ascending order, so that a block's height changes no bit; if
`causal`, keys behind a block's last row are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tracejit.kernels.attention_rows import ADDED, FLAGS, NO_MASK, add_steps, add_weights
from tracejit.kernels.code import Code, Word
from tracejit.kernels.gemm_kernels import BLOCK_BYTES, TILE_ROWS, TILE_VECTORS, call_tile
from tracejit.kernels.gemm_packing import add_copy, add_transpose
from tracejit.kernels.gemm_tiles import add_column
from tracejit.kernels.vectors import Lane

PACK = ("operand", "scratch", "heads", "batch_step", "head_step", "row_step", "rows", "width", "chunk", "space",
        "turned", "straight")  # fmt: skip
"""The slots of packing: `heads` of a batch, strides of the operand, its rows and columns, rows of a unit, elements of
scratch memory of each head, and where in it the panels of the transposed operand and of the operand itself begin, -1
if there are none."""

_SHARED = ("q", "stats", "mask", "scratch", "kind", "heads", "length", "source", "width", "depth", "causal", "scale",
           "q_batch", "q_head", "q_row", "mask_batch", "mask_head", "mask_row", "height", "pitch", "run", "together",
           "space", "k_turned")  # fmt: skip
PANELS = ("panels", "panels_start", "panels_batch", "panels_head", "panels_row", "panels_column")
"""Slots of an operand that is read in panels of columns, after its name: an address, where in it the panels start, and
how far apart batches, heads, rows of a panel, and the first columns of panels lie (that distance for each column), in
elements. The panels are packed, or the operand itself."""


def _panels_of(*operands: str) -> tuple[str, ...]:
    return tuple(f"{operand}_{word}" for operand in operands for word in PANELS)


FORWARD = (*_SHARED, "out", *_panels_of("v"))
"""The slots of attention: addresses; the kind of mask; `width` of queries and keys, `depth` of values; strides; a block
of scores has `height` rows that lie `pitch` elements apart, `together` of them in a pass; `run` keys are gone through
at once; each head has `space` elements of scratch memory, in which the panels of turned operands begin at the places
named like them."""

LYING = ("batch", "head", "row")
"""Slots of an operand, after its name: the strides of batches, heads and rows."""

BACKWARD = (*_SHARED, "ct", "k", "v", "dq", "dk", "dv", "v_turned",
            *[f"{name}_{word}" for name in ("ct", "k", "v") for word in LYING],
            *[f"{name}_straight" for name in ("ct", "k", "q")],
            *_panels_of("k", "q", "ct"))  # fmt: skip
"""The slots of its gradients, where panels of an operand as it lies begin at `straight` if they are packed; else that
is -1."""


class _Slots:
    """The slots of an argument block by name."""

    def __init__(self, code: Code, block: Word, names: tuple[str, ...]) -> None:
        self.__dict__.update(zip(names, code.slots(block, *range(len(names))), strict=True))

    def __getattr__(self, name: str) -> Word:
        raise AttributeError(name)


def pack(lane: Lane, code: Code, p: Word, low: Word, high: Word) -> None:
    """Some rows of a head: panels of whole vectors, so that products go through memory in order."""
    s = _Slots(code, p, PACK)
    size = lane.size
    chunks = s.rows.ceil_div(s.chunk)
    with code.loop(low, high) as unit:
        head = unit.quotient(chunks)
        batch = head.quotient(s.heads)
        first = (unit - head * chunks) * s.chunk
        last = s.rows.least(first + s.chunk)
        source = s.operand + (batch * s.batch_step + (head - batch * s.heads) * s.head_step) * size
        target = s.scratch + head * s.space * size
        with code.when(s.turned >= 0):
            _turn(lane, code, source, s.row_step, first, last, s.width, target + s.turned * size)
        with code.when(s.straight >= 0):
            _copy(lane, code, source, s.row_step, first, last, s.rows, s.width, target + s.straight * size)


def _turn(
    lane: Lane, code: Code, source: Word, step: Word, first: Word | int, last: Word, width: Word, panels: Word
) -> None:
    """Packs rows of a head turned: each is a column of panels."""
    size, columns = lane.size, TILE_VECTORS * lane.count
    with code.loop(first, last, columns) as row:
        panel = panels + row * width * size
        there = (last - row).least(columns)
        with code.loop(0, there, lane.count) as j:
            transpose = add_transpose(code.module, lane)
            code.call(transpose, source + (row + j) * step * size, step, panel + j * size, columns, width, there - j)


def _copy(
    lane: Lane, code: Code, source: Word, step: Word, first: Word, last: Word, rows: Word, width: Word, panels: Word
) -> None:
    """Packs some of the `rows` rows of a head as they lie, in panels of columns."""
    size, columns = lane.size, TILE_VECTORS * lane.count
    with code.loop(0, width, columns) as column:
        panel = panels + (column * rows + first * columns) * size
        at = source + (first * step + column) * size
        code.call(add_copy(code.module, lane, TILE_VECTORS), at, step, panel, columns, last - first, width - column)


class _Panels(NamedTuple):
    """Panels of columns of an operand of a head: an address, and the distances of rows and of columns."""

    base: Word
    row: Word
    column: Word


class _Heads:
    """What forward and backward share: the head, a block of its rows, and products with panels."""

    def __init__(self, lane: Lane, code: Code, p: Word, names: tuple[str, ...], masked: bool) -> None:
        self.lane = lane
        self.code = code
        self.slots: Any = _Slots(code, p, names)
        self.masked = masked
        self.columns = TILE_VECTORS * lane.count

    def enter(self, head: Word) -> None:
        """Finds the operands of a head."""
        s, size = self.slots, self.lane.size
        self.head = head
        self.batch = head.quotient(s.heads)
        self.inner = head - self.batch * s.heads
        self.q = self.operand("q")
        self.stats = s.stats + head * s.length * (2 * size)
        self.packed = s.scratch + head * s.space * size
        self.each_flag = s.kind.equals(ADDED).choose(size, 1)
        self.mask = s.mask + (self.batch * s.mask_batch + self.inner * s.mask_head) * self.each_flag

    def result(self, base: Word, rows: Word, width: Word) -> tuple[Word, Word]:
        """The head's first row in a result (batch, row, head, element), and the distance of its rows."""
        step = self.slots.heads * width
        return base + (self.batch * rows * step + self.inner * width) * self.lane.size, step

    def operand(self, name: str) -> Word:
        """The first row of an operand of the head."""
        base, batch, head = (getattr(self.slots, word) for word in (name, f"{name}_batch", f"{name}_head"))
        at: Word = base + (self.batch * batch + self.inner * head) * self.lane.size
        return at

    def pack(self) -> None:
        """Packs the operands of the head for its gradients."""
        s, code, lane = self.slots, self.code, self.lane
        for name, width in (("k", s.width), ("v", s.depth)):
            place = self.turned(getattr(s, f"{name}_turned"))
            _turn(lane, code, self.operand(name), getattr(s, f"{name}_row"), 0, s.source, width, place)
        for name, rows, width in (("k", s.source, s.width), ("q", s.length, s.width), ("ct", s.length, s.depth)):
            start, step = getattr(s, f"{name}_straight"), getattr(s, f"{name}_row")
            with code.when(start >= 0):
                _copy(lane, code, self.operand(name), step, code.word(0), rows, rows, width, self.turned(start))

    def turned(self, place: Word) -> Word:
        """The address of the panels of a packed operand of the head."""
        return self.packed + place * self.lane.size

    def panels(self, operand: str) -> _Panels:
        """The panels of an operand of the head."""
        base, start, batch, head, row, column = (getattr(self.slots, f"{operand}_{word}") for word in PANELS)
        return _Panels(base + (start + self.batch * batch + self.inner * head) * self.lane.size, row, column)

    def against(
        self, base: Word, step: Word, panels: Word, width: Word, out: Word, first: Word, rows: Word, seen: Word
    ) -> None:
        """`rows` rows of length `width` from `first` on against `seen` transposed rows: a block of scores.

        If causal, tiles that their rows do not see are left out.
        """
        code, lane, size, pitch = self.code, self.lane, self.lane.size, self.slots.pitch
        left = base + first * step * size
        with code.loop(0, seen, self.columns) as j:
            top = (j - first).most(0).quotient(TILE_ROWS) * TILE_ROWS
            top = self.slots.causal.differs(0).choose(top, 0)
            panel = panels + j * width * size
            # Whole vectors, since the block has room for them.
            there = (seen - j).ceil_div(lane.count) * lane.count
            at, to = left + top * step * size, out + (top * pitch + j) * size
            self.tiles(at, step, 1, panel, self.columns, to, pitch, width, 1, rows - top, there)

    def along(self, block: Word, panels: _Panels, width: Word, out: Word, step: Word, rows: Word, seen: Word) -> None:
        """A block of weights times the first `seen` rows of length `width`, in panels."""
        size, pitch, run = self.lane.size, self.slots.pitch, self.slots.run
        code = self.code
        with code.loop(0, seen.most(1), run) as start, code.loop(0, width, self.columns) as j:
            panel = panels.base + (j * panels.column + start * panels.row) * size
            length, begin = run.least(seen - start), start.equals(0).number()
            at, to = block + start * size, out + j * size
            self.tiles(at, pitch, 1, panel, panels.row, to, step, length, begin, rows, width - j)

    def across(
        self, block: Word, panels: _Panels, first: Word, width: Word, out: Word, step: Word, rows: Word, seen: Word
    ) -> None:
        """Adds the transposed block times rows of length `width` from `first` on, in panels, to `seen` rows."""
        code, size, pitch = self.code, self.lane.size, self.slots.pitch
        with code.loop(0, width, self.columns) as j:
            panel = panels.base + (j * panels.column + first * panels.row) * size
            self.tiles(block, 1, pitch, panel, panels.row, out + j * size, step, rows, 0, seen, width - j)

    def clear(self, out: Word, step: Word, rows: Word, width: Word) -> None:
        """Rows of zeros."""
        with self.code.loop(0, width, self.columns) as j:
            to = out + j * self.lane.size
            self.tiles(to, 0, 0, to, 0, to, step, self.code.word(0), 1, rows, width - j)

    def tiles(
        self,
        a: Word,
        a_m: Word | int,
        a_k: Word | int,
        b: Word,
        b_k: Word | int,
        c: Word,
        c_m: Word,
        k: Word,
        begin: Word | int,
        rows: Word,
        left: Word,
    ) -> None:
        """A panel's tiles for `rows` rows: the whole ones at once."""
        code, lane, size = self.code, self.lane, self.lane.size
        whole = (left >= self.columns).choose(rows.quotient(TILE_ROWS), 0)
        column = add_column(code.module, lane, TILE_ROWS, TILE_VECTORS)
        code.call(column, a, a_m, a_k, a_m * TILE_ROWS, b, b_k, c, c_m, k, begin, whole)
        with code.loop(whole * TILE_ROWS, rows, TILE_ROWS) as i:
            at, to = a + i * a_m * size, c + i * c_m * size
            call_tile(code, lane, at, a_m, a_k, b, b_k, to, c_m, k, begin, rows - i, left)

    def each_row(self, first: Word, rows: Word, seen: Word, passes: Any, weights: Word, steps: Word) -> None:
        """Lets the passes of the mask's kind go over a block: over some rows, which stay in the first cache, each."""
        code, s, size = self.code, self.slots, self.lane.size

        def go(function: Any, start: Word, stop: Word) -> None:
            with code.loop(start, stop) as i:
                row, at = first + i, i * s.pitch * size
                own = s.causal.differs(0).choose(seen.least(row + 1), seen)
                mask = self.mask + row * s.mask_row * self.each_flag
                stats, note = self.stats + row * (2 * size), steps + at + (s.pitch - 1) * size
                code.call(function, weights + at, steps + at, own, seen, s.scale, mask, stats, note)

        def all_passes(kind: int, start: Word, stop: Word) -> None:
            for function in passes(code.module, self.lane, kind):
                go(function, start, stop)

        with code.loop(0, rows, s.together) as start:
            stop = rows.least(start + s.together)
            if self.masked:
                flags = s.kind.equals(FLAGS)
                code.either(flags, lambda: all_passes(FLAGS, start, stop), lambda: all_passes(ADDED, start, stop))
            else:
                all_passes(NO_MASK, start, stop)

    def seen(self, first: Word, rows: Word) -> Word:
        """How many keys the rows from `first` on see."""
        s = self.slots
        return s.causal.differs(0).choose(s.source.least(first + rows), s.source)


def forward(lane: Lane, masked: bool, code: Code, p: Word, low: Word, high: Word) -> None:
    """A unit is a block of rows of a head."""
    h = _Heads(lane, code, p, FORWARD, masked)
    s = h.slots
    block = code.buffer(BLOCK_BYTES)
    blocks = s.length.ceil_div(s.height)
    with code.loop(low, high) as unit:
        h.enter(unit.quotient(blocks))
        first = (unit - h.head * blocks) * s.height
        rows = s.height.least(s.length - first)
        seen = h.seen(first, rows)
        h.against(h.q, s.q_row, h.turned(s.k_turned), s.width, block, first, rows, seen)
        h.each_row(first, rows, seen, add_weights, block, block)
        out, step = h.result(s.out, s.length, s.depth)
        at = out + first * step * lane.size
        h.along(block, h.panels("v"), s.depth, at, step, rows, seen)


def backward(lane: Lane, masked: bool, code: Code, p: Word, low: Word, high: Word) -> None:
    """A unit is a head: the gradients of keys and values are chains along all of its rows."""
    h = _Heads(lane, code, p, BACKWARD, masked)
    s, size = h.slots, lane.size
    weights = code.buffer(BLOCK_BYTES)
    steps = weights + s.height * s.pitch * size
    with code.loop(low, high) as head:
        h.enter(head)
        h.pack()
        ct = h.operand("ct")
        dq, dq_step = h.result(s.dq, s.length, s.width)
        dk, dk_step = h.result(s.dk, s.source, s.width)
        dv, dv_step = h.result(s.dv, s.source, s.depth)
        h.clear(dk, dk_step, s.source, s.width)
        h.clear(dv, dv_step, s.source, s.depth)
        with code.loop(0, s.length, s.height) as first:
            rows = s.height.least(s.length - first)
            seen = h.seen(first, rows)
            h.against(h.q, s.q_row, h.turned(s.k_turned), s.width, weights, first, rows, seen)
            h.against(ct, s.ct_row, h.turned(s.v_turned), s.depth, steps, first, rows, seen)
            h.each_row(first, rows, seen, add_steps, weights, steps)
            at = dq + first * dq_step * size
            h.along(steps, h.panels("k"), s.width, at, dq_step, rows, seen)
            h.across(weights, h.panels("ct"), first, s.depth, dv, dv_step, rows, seen)
            h.across(steps, h.panels("q"), first, s.width, dk, dk_step, rows, seen)
