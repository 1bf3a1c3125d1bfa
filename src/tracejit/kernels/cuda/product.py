"""The middle of every product on a GPU: a block does a tile of the result, step by step of k through shared memory.

While a block multiplies what lies in one half of its shared memory, it loads what comes next into registers, and puts
it into the other half behind the products: one barrier a turn. An element of the result is one chain of fused
multiply-adds in ascending order of k, from 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from tracejit.kernels.cuda.launch import indented

FLOATS: Final = {"f16": 2, "f32": 4, "f64": 8}
INTEGERS: Final = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "u8": 1}
"""Element types and their bytes."""
TOGETHER = 4
"""Adjacent rows and columns of a thread: a vector of float32."""
SCOPES = 5
"""Buffers of a product: two operands, the result, and the tiles of both."""
MULTIPROCESSORS = 132
"""Those of the GPUs that this is written for. A fixed number: which sum a result is must not depend on the GPU."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a block of `threads` threads shares a tile of `side` x `side`, of which it has `depth` steps at once.

    A thread does `each` x `each` elements, four and four of them adjacent.
    """

    side: int
    depth: int
    each: int

    @property
    def across(self) -> int:
        """Threads along a side."""
        return self.side // self.each

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.across * self.across

    @property
    def pitch(self) -> int:
        """Elements of shared memory from one step to the next: whole vectors, and other banks for threads along k."""
        return self.side + TOGETHER

    @property
    def elements(self) -> int:
        """Elements of a half of shared memory."""
        return self.pitch * self.depth

    def place(self, axis: str, index: int) -> str:
        """Where in the tile a thread's row (`y`) or column (`x`) number `index` is."""
        group, rest = divmod(index, TOGETHER)
        return f"{axis} * {TOGETHER} + {group * self.across * TOGETHER + rest}"


LARGE, MEDIUM, SMALL = Tile(128, 8, 8), Tile(64, 16, 4), Tile(32, 16, 4)


def tile_for(short: str, rows: int, columns: int, batches: int) -> Tile:
    """The largest tile of which there are enough to keep a GPU busy."""
    sizes = (LARGE, MEDIUM) if short in ("f16", "f32") else (MEDIUM,)
    for tile in sizes:
        if tiles_of(tile, rows, columns) * batches >= MULTIPROCESSORS:
            return tile
    return SMALL


def tiles_of(tile: Tile, rows: int, columns: int) -> int:
    """How many tiles a matrix has."""
    return -(-rows // tile.side) * -(-columns // tile.side)


LEAST_SPLIT = 256
"""Steps of k that a part of a sum has at least."""


def parts_for(blocks: int, steps: int) -> int:
    """Parts that a sum along k is split into: more than one where there are few tiles and many steps."""
    return max(1, min(MULTIPROCESSORS // max(blocks, 1), steps // LEAST_SPLIT))


def number(short: str, text: str) -> str:
    """A number as an element of a type."""
    return f"{ {'f': 'float', 'i': 'int', 'u': 'uint'}[short[0]] }{short[1:]}({text})"


def computed(short: str) -> str:
    """The type that elements of a type are multiplied in and lie in shared memory as."""
    return "f32" if short == "f16" else short


class Side(ABC):
    """How one operand comes into shared memory: `letter` is `a` for rows of the result, `b` for its columns.

    Items are dealt to the threads along k, or along the tile's side; an item is `vector` adjacent elements that way.
    """

    def __init__(self, letter: str, short: str, tile: Tile, along_k: bool, vector: int = 1) -> None:
        self.letter, self.short, self.tile = letter, short, tile
        self.along_k, self.vector = along_k, vector
        per = (tile.depth if along_k else tile.side) // vector
        self.per, self.step = per, tile.threads // per
        self.items = tile.side * tile.depth // (tile.threads * vector)
        self.scope = 0 if letter == "a" else 1

    def begin(self) -> list[str]:
        """Lines that find a thread's first item: row or column `a_i` of the tile, step `a_s`."""
        fast, slow = f"t % {self.per}", f"t // {self.per}"
        fast = f"{fast} * {self.vector}" if self.vector > 1 else fast
        i, s = (slow, fast) if self.along_k else (fast, slow)
        name = self.letter
        return [
            f"{name}_i, {name}_s = {i}, {s}",
            f"{name}_put = {name}_s * {self.tile.pitch} + {name}_i",
            *self.locate(),
            *(f"{self.register(n, e)} = {number(computed(self.short), '0')}" for n, e in self.registers),
        ]

    @property
    def registers(self) -> list[tuple[int, int]]:
        """Item and place in it of all elements of a thread."""
        return [(n, e) for n in range(self.items) for e in range(self.vector)]

    def register(self, n: int, e: int) -> str:
        """The variable with an element that was loaded."""
        return f"{self.letter}{n}_{e}"

    def row(self, n: int) -> str:
        """The row or column of the tile that item `n` begins at."""
        return f"({self.letter}_i + {n * self.step})" if self.along_k else f"{self.letter}_i"

    def k(self, n: int, begin: str) -> str:
        """The step of k that item `n` begins at."""
        return f"({begin} + {self.letter}_s)" if self.along_k else f"({begin} + {self.letter}_s + {n * self.step})"

    @abstractmethod
    def locate(self) -> list[str]:
        """Lines that are done once."""

    @abstractmethod
    def load(self, n: int, begin: str) -> list[str]:
        """Lines that load item `n`; its registers are 0 before, which is right for what lies beyond the operand."""

    def fetch(self, begin: str) -> list[str]:
        """Lines that load a thread's items of the steps from `begin` on."""
        lines = [f"{self.register(n, e)} = {number(computed(self.short), '0')}" for n, e in self.registers]
        lines += self.prepare(begin)
        for n in range(self.items):
            lines += self.load(n, begin)
        return lines

    def prepare(self, begin: str) -> list[str]:
        """Lines that are done once for the items of a turn."""
        return []

    def put(self, half: str) -> list[str]:
        """Lines that put them into a half of the tile in shared memory."""
        pitch, name = self.tile.pitch, self.letter
        lines = []
        for n, e in self.registers:
            offset = e * pitch + n * self.step if self.along_k else n * self.step * pitch + e
            place = f"{half} + {name}_put + {offset}"
            if self.vector == TOGETHER and not self.along_k:
                place = f"multiple({half} + {name}_put + {offset - e}, {TOGETHER}) + {e}"
            text = f"store_{computed(self.short)}_b({name}_tile, {place}, {self.register(n, e)}, {self.scope + 3}, "
            lines.append(f"{text}{SCOPES})")
        return lines


def _steps(tile: Tile, short: str, count: str, *, unrolled: bool) -> list[str]:
    """Lines that go on with a thread's chains."""
    lines = [f"for s in range({count}):", "    unrolled()" if unrolled else "    rolled()"]
    body = []
    for letter, axis in (("a", "y"), ("b", "x")):
        for i in range(tile.each):
            place = f"now + s * {tile.pitch} + {tile.place(axis, i)}"
            body.append(f"{letter}v{i} = load_{short}_b({letter}_tile, {place}, {3 if letter == 'a' else 4}, {SCOPES})")
    for i in range(tile.each):
        for j in range(tile.each):
            chain = f"fma_{short}(av{i}, bv{j}, c{i}_{j})" if short in FLOATS else f"c{i}_{j} + av{i} * bv{j}"
            body.append(f"c{i}_{j} = {chain}")
    return lines + indented(body)


def product_lines(tile: Tile, a: Side, b: Side, first: str, stop: str) -> list[str]:
    """Lines that compute the elements `c0_0` and so on of a thread, `y` and `x` of the tile, along k from `first`."""
    short = computed(a.short)
    words = -(-2 * tile.elements * (FLOATS | INTEGERS)[short] // 8)
    zero = number(short if short in FLOATS else "i64", "0")
    lines = [
        f"a_tile, b_tile = shared(0, {words}), shared(1, {words})",
        "t = thread()",
        f"x, y = t % {tile.across}, t // {tile.across}",
        *(f"c{i}_{j} = {zero}" for i in range(tile.each) for j in range(tile.each)),
        *a.begin(),
        *b.begin(),
        *a.fetch(first),
        *b.fetch(first),
        *a.put("0"),
        *b.put("0"),
        "barrier()",
        "now = 0",
    ]
    depth = tile.depth
    loop = [
        "rolled()",
        f"coming = begin + {depth}",
        f"if coming < {stop}:",
        *indented([*a.fetch("coming"), *b.fetch("coming")]),
        f"if coming <= {stop}:",
        *indented(_steps(tile, short, str(depth), unrolled=True)),
        "else:",
        *indented(_steps(tile, short, f"{stop} - begin", unrolled=False)),
        f"now = multiple({tile.elements} - now, {TOGETHER})",
        f"if coming < {stop}:",
        *indented([*a.put("now"), *b.put("now")]),
        "barrier()",
    ]
    return [*lines, f"for begin in range({first}, {stop}, {depth}):", *indented(loop)]
