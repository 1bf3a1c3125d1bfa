"""What the kernels of attention on a GPU share: tiles of scores, of which a thread has four rows and four columns.

A block has `rows` rows of one head, and goes over the other side of the scores 32 columns at a time. Its threads lie in
8 columns: the threads of a row are neighbours in a warp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tracejit.kernels.cuda.launch import VECTOR_BYTES, Arguments, indented, load_text
from tracejit.kernels.cuda.product import FLOATS, TOGETHER, computed, number
from tracejit.kernels.launch import Operand, Ptr, Scratch

COLUMNS, ACROSS, CHUNK, STRIP = 32, 8, 32, 64
"""Columns of scores at once, threads along them, elements of rows and columns that are multiplied at once, elements of
the result's rows that a block does."""
SCOPES = 13
"""Buffers of a kernel: up to nine operands and results, four tiles."""
LEFT, RIGHT, WEIGHTS, STRAIGHT = 9, 10, 11, 12
"""Scopes of the tiles: rows and columns with their elements turned, weights, columns as they lie."""
_AT_ONCE = 4
"""Loads of a thread that are on their way at once: a multiple of it is what fills a tile."""
_ROWS: Final = {"f32": 64, "f64": 32}


@dataclass(frozen=True, slots=True)
class Source:
    """An operand (batch, head, row, element) in a text: `q` lies at `q_at` and has `q_end` rows `q_row` apart, each
    of `size` elements.
    """

    name: str
    scope: int
    size: str


@dataclass(frozen=True, slots=True)
class Tiles:
    """The texts of a kernel: elements are loaded as `short`, `vector` at a time."""

    short: str
    vector: int

    @property
    def wide(self) -> str:
        """The type that is computed in."""
        return computed(self.short)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return _ROWS[self.wide]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // TOGETHER * ACROSS

    def begin(self) -> list[str]:
        """Lines that find a thread's place, and the tiles."""
        size = FLOATS[self.wide]
        tiles = {
            "left": CHUNK * self._pitch(self.rows),
            "right": CHUNK * self._pitch(COLUMNS),
            "weights": COLUMNS * self._pitch(self.rows),
            "straight": COLUMNS * self._pitch(STRIP),
        }
        shared = [f"{name}_tile = shared({k}, {n * size // 8})" for k, (name, n) in enumerate(tiles.items())]
        return [*shared, "t = thread()", f"x, y = t % {ACROSS}, t // {ACROSS}"]

    def _pitch(self, length: int) -> int:
        return length + TOGETHER

    def zeros(self, name: str, columns: int = TOGETHER) -> list[str]:
        """Lines that begin sums `name0_0` and so on."""
        zero = number(self.wide, "0")
        return [f"{name}{i}_{j} = {zero}" for i in range(TOGETHER) for j in range(columns)]

    def fill(self, tile: str, source: Source, first: str, begin: str, length: int) -> list[str]:
        """Lines that load rows of an operand from `first` on, elements from `begin` on: turned, but for `straight`."""
        width, scope = {"left": (CHUNK, LEFT), "right": (CHUNK, RIGHT), "straight": (STRIP, STRAIGHT)}[tile]
        per = width // self.vector
        pitch = self._pitch(STRIP if tile == "straight" else length)
        at = f"{source.name}_at + ({first} + r) * {source.name}_row + {begin} + e"
        at = f"multiple({at}, {self.vector})" if self.vector > 1 else at
        step = self.threads // per
        # Turned elements of neighbours go to other banks of shared memory if their rows are neighbours.
        straight = f"r, e = t // {per} + n * {step}, t % {per} * {self.vector}"
        turned = f"r, e = t % {step} + n * {step}, t // {step} * {self.vector}"
        lines = [
            "unrolled()",
            straight if tile == "straight" else turned,
            *(f"v{k} = {number(self.wide, '0')}" for k in range(self.vector)),
            f"if {first} + r < {source.name}_end and {begin} + e < {source.size}:",
            f"    where = {at}",
        ]
        for k in range(self.vector):
            many = 1 if k else self.vector
            load = load_text(self.short, source.name, f"where + {k}", source.scope, SCOPES, many)
            lines.append(f"    v{k} = {load}")
        for k in range(self.vector):
            place = f"r * {pitch} + e + {k}" if tile == "straight" else f"(e + {k}) * {pitch} + r"
            lines.append(f"store_{self.wide}_b({tile}_tile, {place}, v{k}, {scope}, {SCOPES})")
        count = length * per // self.threads
        if count <= _AT_ONCE:
            return [f"for n in range({count}):", *indented(lines)]
        head = f"for begin in range(0, {count}, {_AT_ONCE}):"
        inner = [f"for m in range({_AT_ONCE}):", *indented([lines[0], "n = begin + m", *lines[1:]])]
        return [head, *indented(["rolled()", *inner])]

    def scores(self, name: str, left: Source, right: Source, first: str, column: str) -> list[str]:
        """Lines that compute `name0_0` and so on: rows of one operand times rows of another. All threads come here."""
        body = [f"left{i} = load_{self.wide}_b(left_tile, s * {self._pitch(self.rows)} + y * {TOGETHER} + {i}, {LEFT}, "
                f"{SCOPES})" for i in range(TOGETHER)]  # fmt: skip
        body += [f"right{j} = load_{self.wide}_b(right_tile, s * {self._pitch(COLUMNS)} + x * {TOGETHER} + {j}, "
                 f"{RIGHT}, {SCOPES})" for j in range(TOGETHER)]  # fmt: skip
        body += [
            f"{name}{i}_{j} = fma_{self.wide}(left{i}, right{j}, {name}{i}_{j})"
            for i in range(TOGETHER)
            for j in range(TOGETHER)
        ]
        chunk = [
            "rolled()",
            *self.fill("left", left, first, "part", self.rows),
            *self.fill("right", right, column, "part", COLUMNS),
            "barrier()",
            f"for s in range({CHUNK}):",
            "    unrolled()",
            *indented(body),
            "barrier()",
        ]
        return [*self.zeros(name), f"for part in range(0, {left.size}, {CHUNK}):", *indented(chunk)]

    def add_columns(self, name: str, weights: str, source: Source, column: str) -> list[str]:
        """Lines that go on with sums `name0_0` and so on: weights times columns' rows. All threads come here."""
        pitch, many = self._pitch(self.rows), STRIP // ACROSS
        body = [f"weight{i} = load_{self.wide}_b(weights_tile, s * {pitch} + y * {TOGETHER} + {i}, {WEIGHTS}, {SCOPES})"
                for i in range(TOGETHER)]  # fmt: skip
        for j in range(many):
            place = f"s * {self._pitch(STRIP)} + {self.strip_place(j)}"
            body.append(f"value{j} = load_{self.wide}_b(straight_tile, {place}, {STRAIGHT}, {SCOPES})")
        body += [
            f"{name}{i}_{j} = fma_{self.wide}(weight{i}, value{j}, {name}{i}_{j})"
            for i in range(TOGETHER)
            for j in range(many)
        ]
        stores = [
            f"store_{self.wide}_b(weights_tile, (x * {TOGETHER} + {j}) * {pitch} + y * {TOGETHER} + {i}, "
            f"{weights}{i}_{j}, {WEIGHTS}, {SCOPES})"
            for j in range(TOGETHER)
            for i in range(TOGETHER)
        ]
        return [
            *stores,
            *self.fill("straight", source, column, "strip", COLUMNS),
            "barrier()",
            f"for s in range({COLUMNS}):",
            "    unrolled()",
            *indented(body),
            "barrier()",
        ]

    def strip_place(self, index: int) -> str:
        """Where in a strip a thread's column number `index` is."""
        group, rest = divmod(index, TOGETHER)
        return f"x * {TOGETHER} + {group * ACROSS * TOGETHER + rest}"

    def in_row(self, lines: str, name: str) -> list[str]:
        """Lines that put the values `name` of a row's threads together; `lines` is how, with `other`."""
        found = []
        distance = ACROSS // 2
        while distance:
            found += [f"other = across_{self.wide}({name}, {distance})", lines]
            distance //= 2
        return found

    def store(self, name: str, to: str, scope: int, end: str, size: str, times: str = "") -> list[str]:
        """Lines that store sums as rows of a result (batch, row, head, element); `times0` and so on are factors."""
        lines = []
        for i in range(TOGETHER):
            inner = [f"at = ((batch * {end} + first + y * {TOGETHER} + {i}) * heads + inner) * {size} + strip"]
            for j in range(STRIP // ACROSS):
                column, value = self.strip_place(j), f"{name}{i}_{j}"
                value = f"{value} * {times}{i}" if times else value
                store = f"store_{self.short}_g({to}, at + {column}, {value}, {scope}, {SCOPES})"
                inner += [f"if strip + {column} < {size}:", f"    {store}"]
            lines += [f"if first + y * {TOGETHER} + {i} < {end}:", *indented(inner)]
        return lines


def block_lines(rows: int) -> list[str]:
    """Lines that find a block's head, the strip of its results and its first row."""
    return [
        "if lo >= hi:",
        "    return 0",
        "group = lo * blocks_by >> blocks_to",
        f"first = (lo - group * blocks) * {rows}",
        "head = group * strips_by >> strips_to",
        f"strip = (group - head * strips) * {STRIP}",
        "batch = head * heads_by >> heads_to",
        "inner = head - batch * heads",
    ]


def block_arguments(arguments: Arguments, rows: int, length: int, heads: tuple[int, int], columns: int) -> int:
    """The arguments of `block_lines` for heads of `length` rows, and results of so many columns; the blocks."""
    blocks, strips = -(-length // rows), max(1, -(-columns // STRIP))
    arguments.add_all(blocks=blocks, strips=strips, heads=heads[1])
    for name, value in (("blocks", blocks), ("strips", strips), ("heads", heads[1])):
        arguments.add_divisor(name, max(value, 1))
    return heads[0] * heads[1] * strips * blocks


def source_arguments(
    arguments: Arguments, name: str, pointer: Ptr | Scratch, x: Operand, vector: int, turned: bool = False
) -> None:
    """An operand (batch, head, row, element), or `turned` (batch, row, head, element), whose rows are contiguous."""
    size = FLOATS[{"float16": "f16", "float32": "f32", "float64": "f64"}[x.dtype]]
    batch, head, row = (x.strides[d] for d in ((0, 2, 1) if turned else (0, 1, 2)))
    arguments.add(name, pointer, vector * size if vector > 1 else 1)
    for part, step in (("batch", batch), ("head", head), ("row", row)):
        arguments.add(f"{name}_{part}", int(step), vector)
    arguments.add(f"{name}_end", int(x.shape[1 if turned else 2]))


def source_lines(*names: str) -> list[str]:
    """Lines that find a block's head in operands."""
    return [f"{name}_at = batch * {name}_batch + inner * {name}_head" for name in names]


def lanes_of(*operands: Operand) -> int:
    """How many elements at a time rows can be loaded: a whole vector where all are whole vectors, else one."""
    lanes = min(TOGETHER, VECTOR_BYTES // {"float16": 2, "float32": 4, "float64": 8}[operands[0].dtype])
    whole = all(x.shape[-1] % lanes == 0 and not any(step % lanes for step in x.strides[:3]) for x in operands)
    return lanes if whole else 1
