"""The template of elementwise groups with operands that lie across their rows in memory, such as transposed ones.

In: a group and its plan. Out: `CudaText`.
Must not know: any operation.

A block does a tile of 32 rows and 32 places. What lies across is loaded along its own rows into shared memory, and read
from there along the tile's.
"""

from __future__ import annotations

from tracejit.codegen.cuda.text import CudaText, CudaWriter
from tracejit.codegen.elements import Elements
from tracejit.kernels.cuda.threads import WARP
from tracejit.schedule.plan import Plan
from tracejit.schedule.spaces import Group
from tracejit.schedule.values import Read, Value

TILE = WARP
"""Rows and places of a tile."""
TILE_WARPS = 8
TILE_THREADS = TILE_WARPS * WARP
_PITCH = TILE + 1
"""Elements from row to row of a tile: a column of it is then in as many banks of shared memory as it has elements."""


class Tiled(Elements):
    """Elements of a tile, some of whose operands are in shared memory."""

    def __init__(self, writer: CudaWriter, group: Group, plan: Plan) -> None:
        super().__init__(writer, group, plan)
        self._cuda = writer

    def _tile(self, fill: str, value: Value, read: Read) -> tuple[str, int]:
        key = (read.source, read.offset, read.strides, read.shape, value.shape)
        if key not in self._tiles:
            self._tiles[key] = self._cuda.shared(-(-TILE * _PITCH * read.source.dtype.itemsize // 8))
        return self._tiles[key]

    def _fetch_turned(self, tile: tuple[str, int], read: Read) -> str:
        if tile not in self._texts:
            name = self._texts[tile] = self.writer.name("x")
            place = f"(u - top) * {_PITCH} + j - begin"
            self.writer.line(f"{name} = {self._cuda.load_shared(read.source.dtype.short, tile, place)}")
        return self._texts[tile]

    def fill(self) -> None:
        """Loads what lies across: a warp goes along memory, which is down the tile's rows."""
        writer = self._cuda
        filled = set()
        for value, read in self._reads:
            access = self.access(value, read)
            if access.tile is None or access.tile in filled:
                continue
            filled.add(access.tile)
            kind = read.source.dtype
            pointer = writer.pointer(self.plan.storage[read.source], read.offset * kind.itemsize)
            writer.line(f"for k in range({TILE // TILE_WARPS}):")
            writer.depth += 1
            writer.line("unrolled()")
            writer.line(f"j = begin + turn + k * {TILE_WARPS}")
            writer.line("if top + lane < bottom and j < stop:")
            writer.depth += 1
            text = writer.load(kind.short, pointer, f"{access.at('j')} + lane")
            writer.store_shared(kind.short, access.tile, f"lane * {_PITCH} + j - begin", text)
            writer.depth -= 2

    @property
    def rows_in_a_run(self) -> int:
        """How many rows follow one another along the last of the row's dimensions."""
        return self._size(len(self._row_cuts) - 1)


def write_tiles(elements: Tiled, writer: CudaWriter, stem: str, doc: str) -> CudaText:
    """Tile by tile, none of which goes beyond rows that follow one another. The units are tiles."""
    group, n = elements.group, elements.n
    run, strips = elements.rows_in_a_run, -(-elements.inner // TILE)
    pieces = -(-run // TILE)
    across, down, many = writer.size(strips), writer.size(pieces), writer.size(run)
    writer.line("w = lo")
    writer.line("if w < hi:")
    writer.depth += 1
    writer.line(f"lane = thread() % {WARP}")
    writer.line(f"turn = thread() // {WARP}")
    writer.line(f"q = w // {across}")
    writer.line(f"begin = (w - q * {across}) * {TILE}")
    writer.line(f"stop = min(begin + {TILE}, {n})")
    writer.line(f"top = q // {down} * {many} + q % {down} * {TILE}")
    writer.line(f"bottom = min(top + {TILE}, q // {down} * {many} + {many})")
    writer.line("u = top")
    elements.start_rows("u")
    elements.begin_row()
    elements.fill()
    writer.line("barrier()")
    writer.line(f"for k in range({TILE // TILE_WARPS}):")
    writer.depth += 1
    writer.line("unrolled()")
    writer.line(f"u = top + turn + k * {TILE_WARPS}")
    writer.line("j = begin + lane")
    writer.line("if u < bottom and j < stop:")
    writer.depth += 1
    elements.start_rows("u")
    elements.begin_row()
    elements.hoist(group.members)
    texts = [(v, elements.compute(v, "j")) for v in elements.stored]
    for value, text in texts:
        elements.store(value, "j", text)
    writer.depth -= 3
    units = elements.rows // run * pieces * strips
    return writer.complete(stem, doc, units, units, TILE_THREADS)
