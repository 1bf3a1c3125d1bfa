"""The cost model: what a value costs to compute, and the limits that fusion keeps to. Costs are nanoseconds of one
thread, work is counted in additions.

In: values. Out: numbers. Nothing else in this package decides by figures of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

from tracejit import cpu
from tracejit.schedule.values import ELEMENTWISE, REDUCTION, SCAN, VIRTUAL, Read, Value
from tracejit.symbols import present

BLOCK = 4096
"""Elements of a row that are folded at once; part of the numerics contract, and the length of a scratch row."""
COLUMN_ROWS = 256
"""Rows that a column reduction adds up one after another; part of the numerics contract."""
FEW_COLUMNS, FEW_COLUMNS_ROWS = 16, 1024
"""Columns up to which the sums of a block stay in variables: less than a vector in memory is slow to come by again (3
columns take a fifth of the time). From so many rows on that is worth a kernel for each number of columns."""
COLUMN_WIDTH, COLUMN_STRIPS = 128, 16
"""Columns that one unit of a column reduction takes, and how many units side by side are done together: wide strips
read memory in order, many units can be shared."""
STRIP_WIDTH, STRIPS_AT_ONCE, STRIP_ROWS, STRIP_AGAIN = 64, 8, 48, 12.0
"""Columns that one unit takes whose sums are read back, and how many units are done together: the second cache has
their rows in later visits (columns of 128x512 about their means take 0.7 of the time one unit at a time takes); rows
that are kept beside, and the work an element up to which a value is computed again in a later visit."""
SIBLING_BYTES, SIBLING_ROW_BYTES = 1 << 14, 1 << 19
"""Bytes of a value from which on groups that go through it had better be one (two loops, or two sums of columns, over
32 KiB take 0.85 of the time), and groups that fold its rows: these are folded no faster than the second cache gives
them (two sums of rows over 400 KB take 1.05 of the time, over 16 MB 0.72)."""
MAX_MEMBERS = 96
"""Values in a group: kernels with more take long to compile."""
MAX_BUFFERS = 28
"""Buffers that a group touches: more streams than this defeat the prefetcher."""
MAX_SCRATCH = 8
"""Rows of scratch memory in a row kernel: 8 rows of 4096 float64 fill the 256 KiB that a kernel may take."""
SHORT_COLUMN, SMALL = 16, 1 << 14
"""A column reduction over fewer columns than SHORT_COLUMN takes elementwise work in only if it is SMALL."""
CHAIN = 8
"""Terms after which a long sum of whole values is cut, whatever its length: sums over other numbers of steps then need
no other kernels, but for their rest."""
SCAN_ROWS, SCAN_PLACES = 16, 128
"""Rows that a scan goes through side by side, each of which is a chain that waits, and places of each in one go: what
it keeps of them, 8 KiB of float32, stays in the first cache."""
SCAN_COLUMNS, SCAN_STRIPS = 64, 32
"""Columns that one unit of a scan along columns takes, and how many units side by side are done together."""
SHORT_SCAN, NARROW_SCAN = 32, 16
"""Elements of a row, and columns, below which a scan had better be a library operation: a kernel would spend its time
where rows begin (over rows of 8 it takes 3.5 times as long, over 4 columns 1.1 to 1.3)."""
SHORT_PICKED = 16
"""Elements of a row from which on those that an index picks are picked again rather than kept, and those that are added
where an index says are computed by the kernel that does it (of 8 and 12 elements that takes 1.1 to 1.5 times as long).
"""
PASSED, RANGED, PARTED_SUM, SUM_COLUMNS = 0.7, 16, 128, 64
"""What it takes to see that a row goes elsewhere; for how many of its elements there is one more range of destinations,
as each costs that once more; the elements of rows that are parted by columns, so that it does not matter how rows are
spread, and the columns of a part: threads that write nearer to one another wait for each other's lines."""
RECOMPUTED = 10.0
"""Computing a value anew in a later pass over a row is as cheap as keeping it, up to this work an element."""

ELEMENTARY = 15.0
"""The work of an element from which an operation is a long chain of arithmetic: that of an elementary function."""
INTERLEAVED = 4
"""Vectors that a loop with elementary functions works on side by side: one alone waits for the end of its polynomials
(a chain of exp, tanh and sigmoid takes 1.4 times as long)."""

SHARED, SHARED_ROWS, SHARED_SIZE = 4, (8, 96), 1 << 12
"""Products with one matrix, of so many rows and with so many elements of the matrix, from which it is packed once: each
of them would spend a fifth of its time on it."""

GATED_ROWS = 8
"""Rows of a product from which on it is surely one by panels, which alone may go through a gate."""

ACROSS, ACROSS_SIDE = 1 << 11, 8
"""Elements from which on rows that lie across lines of memory are turned into memory of their own, in tiles, before a
kernel goes along them, and the least of them on each side: one by one they take ten times as long (sums of the rows of
a 512 x 512 that lies in columns 157 us, 25 so)."""

SHORT_ROWS = 128
"""Rows of a few elements from which on they are gone through many at once (softmax over 65,536 rows of 16 takes half of
the time, maxima of 349,525 rows of 3 a 27th): fewer take a microsecond as they are, and half as long to compile."""

BESIDE, BESIDE_ROW = 16, 32
"""Rows that begin at neighbouring elements, as windows do, from which on they are folded as they lie, and the longest
ones that are (means of windows of 5 along the columns of 1000x1000 take a 40th of the time).
"""

SHORT_ROW = 16
"""Columns of a matrix below which its rows had better follow one another in one loop."""

STRIP, STRIP_BYTES, SHORT_LOOP = 512, 16 << 10, 64
"""Places of a row, and bytes of memory beside it, that loops with one elementary function each go through in turn; not
worth it for rows shorter than SHORT_LOOP. Several such functions in one loop want more registers than there are."""

SMALL_PART = 16
"""A value with such a part of another one's elements, or fewer, costs nothing beside it: a mean for each row."""

AHEAD, AHEAD_BYTES, LINE = 128, 1 << 20, 64
"""Places of a row in one go, before which as much of the next row is asked for, in lines of so many bytes, if the rows
take more memory than AHEAD_BYTES: visits that compute leave memory idle (softmax over 16 MB takes 0.6 of the time,
over a matrix that the second cache holds 1.1)."""

HELD_BYTES = 4 << 20
"""Memory that may be held by what waits for the end of a strand: what is read much later is no longer in a cache."""

MOST_BLOCKS = 1024
"""Blocks that stages are done in at most: each is a task in the program's tables."""

BLOCKED_BYTES, BLOCK_BYTES = 1 << 20, 1 << 19
"""Memory that stages of a strand go through from which on they do so block by block, and about what a stage goes
through for one: the second cache holds it, and beginning anew, one or two microseconds a launch, takes little beside it
(a convolution of one channel with bias and relu takes 0.93 of the time, MobileNet's blocks on 32x3x224x224 0.8)."""

FIRST_BYTES = 256 << 10
"""Memory that what an operation prepares may take if it comes before: it is held until then, perhaps for the whole
program, and a cache had better have it still."""

NEAR_BYTES = (256 << 10, 1 << 20)
"""What a program's launches read and write, at least and at most, if it is one that the second caches hold and that
threads share: less is done by one of them."""

USUAL_CACHE = 32 << 20
"""Bytes of the last cache where the system does not say."""


def last_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the last cache that the first CPU has, as Linux describes it."""
    levels: dict[int, int] = {}
    try:
        for cache in folder.glob("index*"):
            size = (cache / "size").read_text().strip()
            if size[-1:] in "KM" and size[:-1].isdigit():
                levels[int((cache / "level").read_text())] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1]]
    except (OSError, ValueError):
        return USUAL_CACHE
    return levels[max(levels)] if levels else USUAL_CACHE


FAR_TILED_BYTES, FAR_ROW = last_cache() // 4 * 3, 2 << 10
FAR_BYTES = last_cache() // 8 * 9 if cpu.name() == "znver5" else FAR_TILED_BYTES
"""What a launch reads and writes from which on caches do not hold all of it, so that its results go past them: a line
of a result is then neither read before it is written nor in the way of an operand (3 x + y over 16 MB takes 0.7 of the
time beside a cache of 32 MiB). Of 32 MiB that a Zen 4 has, 20 to 24 MB are worth it, even if the next launch reads what
was written (2 x over 12 MiB: 0.6 to 0.8 of the time, layer norm over 14 MiB 0.5); a Zen 5 keeps what it just holds (-x
over 16 MiB takes 0.65 of the time if it stays), but for results of tiles, whose lines meet other lines of theirs in the
caches before (a + a.T there: 1.5). Rows of fewer bytes than FAR_ROW would leave too many lines that are written in
parts."""

ALIGNED = 128
"""Places in a row from which on tiles had better begin with lines of memory (in 0.75 of the time over 2048 rows of 2048
float32)."""

TALL, TALL_BYTES, MIRRORED_BYTES = 2, 8 << 20, 2 << 20
"""What is turned in pieces twice as long in memory, so that it comes at 0.85 of the time from where the second cache
does not reach: tiles of so many times the usual rows, in matrices of so many bytes; from there on in squares two tiles
that read the same memory follow one another, too (0.8 of the time). Tall tiles fill a first cache of 32 KiB: where the
second one holds the matrix they take up to 1.1 of the time."""

WOVEN_PLACES = 2048
"""Places that rows of a few elements, which lie across them in memory, are woven into at once: 8 KiB of float32 stay in
the first cache (channels of 16x3x128x128 go last in a seventh of the time, pixels are shuffled in a fifth)."""

RANDOM, SCANNED = 70.0, 5.0
"""The work of a random number, and of a step of a scan."""
ADDITION, WORD = 0.02, 0.07
"""What an addition of float32 takes, and four bytes that are read or written, as measured for arrays that the second
cache holds (AVX2, 3.4 GHz): loops of such sizes are the ones for which it matters whether threads share them."""


def work(value: Value) -> float:
    """What computing one element takes, in additions."""
    if value.kind == SCAN:
        return SCANNED
    if value.kind == VIRTUAL:
        return RANDOM if value.op is not None and value.op.family == "random" else 1.0
    return value.op.work if value.kind == ELEMENTWISE and value.op is not None else 1.0


def is_elementary(value: Value) -> bool:
    """Whether a value is that of an elementary function."""
    return value.kind == ELEMENTWISE and work(value) >= ELEMENTARY


def of_element(value: Value) -> float:
    """The cost of computing one element. Wider numbers leave fewer to a vector, and want longer polynomials."""
    words = max([value.dtype.itemsize, *(r.source.dtype.itemsize for r in value.reads)]) / 4
    return ADDITION * work(value) * max(1.0, words * words if is_elementary(value) else words)


def block(nbytes: int, at_once: int, parts: int) -> int:
    """How many parts of stages are done at a time if they go through so many bytes, at most so many `at_once` in one of
    them; all if there is no need.
    """
    if nbytes < BLOCKED_BYTES:
        return parts
    return max(1, BLOCK_BYTES * parts // at_once, parts // MOST_BLOCKS)


def comes_first(nbytes: int) -> bool:
    """Whether what an operation prepares may be made long before it is read."""
    return nbytes <= FIRST_BYTES


def is_near(nbytes: int) -> bool:
    """Whether a program of so many bytes stays in the second caches of the threads that share it."""
    return NEAR_BYTES[0] <= nbytes <= NEAR_BYTES[1]


def is_computed_again(work: float, times: int) -> bool:
    """Whether so much work an element, so many times, takes no longer than to store a word, whose line is read first.
    """
    return ADDITION * work * times <= 2 * WORD


def is_strip(layout: tuple[int, int, int]) -> bool:
    """Whether sums over columns are read back in one kernel with them."""
    outer, size, _ = layout
    return outer == 1 and size <= COLUMN_ROWS


def is_dear_again(work: float) -> bool:
    """Whether so much work an element is too much to be done in each visit of a strip."""
    return work > STRIP_AGAIN


def is_small_beside(numel: int, large: int) -> bool:
    """Whether to read a value is nothing beside reading another one."""
    return numel * SMALL_PART <= large


def is_met_for(numel: int, large: int) -> bool:
    """Whether threads had better meet for so few elements than go twice through so many, which are those of rows."""
    return is_small_beside(numel, large) and 4 * large >= SIBLING_ROW_BYTES


def shares(rows: int, inner: int, columns: int) -> bool:
    """Whether a product had better read its matrix as panels, if others do. A size that is open is no obstacle."""
    low, high = SHARED_ROWS
    fits = not isinstance(rows, int) or low <= rows <= high
    known = isinstance(inner, int) and isinstance(columns, int)
    return fits and (not known or inner * columns >= SHARED_SIZE)


def lies_across(dims: tuple[tuple[int, int], ...]) -> bool:
    """Whether what is read in such (size, stride) dimensions had better be turned before rows of it are gone along.
    Sizes that are open count as they are now.
    """
    if len(dims) < 2:
        return False
    sizes, steps = [present(n) for n, _ in dims], [abs(present(step)) for _, step in dims]
    if steps[-1] < 2 or not all(steps) or sizes[-1] < ACROSS_SIDE:
        return False
    along = max(n for n, step in zip(sizes, steps, strict=True) if step <= min(steps))
    return min(steps) < steps[-1] and along >= ACROSS_SIDE and prod(sizes) >= ACROSS


def folds_beside(read: Read, layout: tuple[int, int, int]) -> bool:
    """Whether rows of a few elements that lie side by side are folded as they lie, many at once. If each element is in
    one of them alone, they had better be turned, as others may read them.
    """
    rows, size, inner = layout
    dims = read.over(read.shape)
    if inner != 1 or not isinstance(size, int) or size > BESIDE_ROW or present(rows) < SHORT_ROWS or len(dims) < 2:
        return False
    beside, step = dims[-2]
    span = 1 + sum((present(n) - 1) * abs(present(s)) for n, s in dims)
    return step == 1 and present(beside) >= BESIDE and span < present(rows) * size


def reads_across(value: Value, inside: set[Value]) -> bool:
    """Whether a value reads from outside of a group what had better be turned before."""
    if value.kind == REDUCTION and folds_beside(value.reads[0], value.layout):
        return False
    return any(
        r.picked is None and r.source not in inside and r.source.kind != VIRTUAL and lies_across(r.over(r.shape))
        for r in value.reads
    )


def is_short_row(columns: int) -> bool:
    """Whether rows are so short that a loop over them hardly fills a vector. A size that is open is not."""
    return isinstance(columns, int) and columns < SHORT_ROW


def is_far(nbytes: int, row: int, tiled: bool) -> bool:
    """Whether results had better go past the caches: bytes that a launch moves, those of a row. Open sizes: no."""
    limit = FAR_TILED_BYTES if tiled else FAR_BYTES
    return isinstance(nbytes, int) and isinstance(row, int) and nbytes >= limit and row >= FAR_ROW


def is_read_once(nbytes: int, row: int) -> bool:
    """Whether groups that read a value of so many bytes had better be one: `row` is the length of the rows that they
    fold, 0 if they fold none; short ones have other costs. A size that is open counts as it is now.
    """
    if not row:
        return bool(present(nbytes) >= SIBLING_BYTES)
    return bool(present(nbytes) >= SIBLING_ROW_BYTES and present(row) >= SHORT_LOOP)


def is_short_sum(inner: int) -> bool:
    """Whether rows that are added up at places are too short to share a kernel. Some of open length may be."""
    return not isinstance(inner, int) or inner < SHORT_PICKED


def scatter_columns(inner: int) -> int:
    """The columns that one unit of a sum of rows at places takes; 0 if its units are ranges of destinations."""
    return SUM_COLUMNS if inner >= PARTED_SUM else 0


def scatter_ranges(inner: int) -> int:
    """In how many ranges the destinations of rows are cut up."""
    return max(2, inner // RANGED)


def is_short_scan(size: int, inner: int) -> bool:
    """Whether a scan of so many steps, with so many columns beside each other, has rows that are too short."""
    return size < SHORT_SCAN if inner == 1 else inner < NARROW_SCAN


def interleaving(members: list[Value]) -> int:
    """How many vectors the loops of a group had better work on side by side; 1 leaves that to the compiler."""
    return INTERLEAVED if any(map(is_elementary, members)) else 1


def has_few_columns(members: list[Value], layout: tuple[int, int, int]) -> bool:
    """Whether columns of this layout are so few that what is computed at each is written out, and worth it."""
    outer, size, inner = layout
    if not all(isinstance(n, int) for n in layout) or outer * size < FEW_COLUMNS_ROWS:
        return False
    return inner * (1 + sum(map(is_elementary, members))) <= FEW_COLUMNS


def staged(members: list[Value], inner: int) -> list[Value]:
    """The members that had better have a loop of their own, in order; none if one loop for all is as good."""
    dear = [v for v in members if is_elementary(v)]
    # A size that is open is no reason to plan anew.
    is_short = isinstance(inner, int) and inner < SHORT_LOOP
    return dear if len(dear) > 1 and not is_short else []


def of_visit(members: list[Value]) -> float:
    """What one place of a visit costs to compute."""
    return sum(map(of_element, members))


def strip(count: int) -> int:
    """The places that loops go through in turn if they keep `count` values at each."""
    return min(STRIP, STRIP_BYTES // 8 // count)


def of_elements(members: list[Value], memory: Iterable[Value]) -> float:
    """The cost of one element of a group: its arithmetic, and its traffic with the values in memory."""
    virtual = {id(r.source): r.source for v in members for r in v.reads if r.source.kind == VIRTUAL}
    nbytes = sum(v.dtype.itemsize for v in memory)
    return of_visit([*members, *virtual.values()]) + WORD * nbytes / 4
