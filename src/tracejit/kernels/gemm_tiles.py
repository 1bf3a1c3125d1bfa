"""LLVM vector functions that matrix products are made of: tiles, columns of tiles, dot tiles, what comes behind them.

Each builder adds one internal function to the module that is being compiled and returns it; callers share it.
All arguments are int64: addresses in bytes, strides in elements. The vector width is this machine's; no result
depends on it, because every element is one chain of fused multiply-adds along k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tracejit.kernels.emit import I64, SHORT_LOOP, emit_loop, internal_function
from tracejit.kernels.vectors import LINE_BYTES, TARGET, Lane, Place, VectorBuilder, row_addresses

ALONE, ADDING, ENDING, APART = "", "_add", "_end", "_apart"
"""What is done with a product: nothing, it is added to a D, or a bias and relu may follow. APART it is none: squares of
differences are added up in place of products, and their root may follow."""

DOTS_AHEAD = 4 * LINE_BYTES
"""How far on in a column of B is asked for (64 MB by a vector take 0.8 of the time; 16 lines on gain nothing)."""

ASKED_BYTES = 512
"""What a tile of a column that is ADDING asks for of a row."""

Load = Callable[[Any, int], Any]
"""Vector `j` of the row at an address."""


def _either(v: VectorBuilder, pairs: Iterable[tuple[Any, Any]], first: Any, second: Any) -> list[Any]:
    """Of each pair the one that goes with the block that was left for this one."""
    results = []
    for value, other in pairs:
        phi = v.ir.phi(v.lane.vector)
        phi.add_incoming(value, first)
        phi.add_incoming(other, second)
        results.append(phi)
    return results


def _starts(v: VectorBuilder, begin: Any, rows: list[Any], vectors: int, load: Load) -> list[Any]:
    """Zeros if `begin` is not 0, else what the rows of C hold."""
    start = v.ir.block
    resume, ready = v.ir.append_basic_block("resume"), v.ir.append_basic_block("ready")
    v.ir.cbranch(v.ir.icmp_signed("!=", begin, I64(0)), ready, resume)
    v.ir.position_at_end(resume)
    loaded = [load(row, j) for row in rows for j in range(vectors)]
    v.ir.branch(ready)
    v.ir.position_at_end(ready)
    return _either(v, ((v.zeros, value) for value in loaded), start, resume)


def _ended(v: VectorBuilder, bias: Any, sums: list[Any], vectors: int, load: Load) -> list[Any]:
    """The sums, or, if the address of a bias is not 0, relu(sums + bias)."""
    start = v.ir.block
    ending, ended = v.ir.append_basic_block("ending"), v.ir.append_basic_block("ended")
    v.ir.cbranch(v.ir.icmp_signed("!=", bias, I64(0)), ending, ended)
    v.ir.position_at_end(ending)
    addends = [load(bias, j) for j in range(vectors)]
    totals = [v.ir.fadd(value, addends[position % vectors]) for position, value in enumerate(sums)]
    raised = [v.ir.select(v.ir.fcmp_ordered("<=", total, v.zeros), v.zeros, total) for total in totals]
    v.ir.branch(ended)
    v.ir.position_at_end(ended)
    return _either(v, zip(sums, raised, strict=True), start, ending)


def _rooted(v: VectorBuilder, last: Any, sums: list[Any]) -> list[Any]:
    """The sums, or, if `last` is not 0, their roots."""
    start = v.ir.block
    ending, ended = v.ir.append_basic_block("ending"), v.ir.append_basic_block("ended")
    v.ir.cbranch(v.ir.icmp_signed("!=", last, I64(0)), ending, ended)
    v.ir.position_at_end(ending)
    roots = [v.sqrt(value) for value in sums]
    v.ir.branch(ended)
    v.ir.position_at_end(ended)
    return _either(v, zip(sums, roots, strict=True), start, ending)


def _last(v: VectorBuilder, use: str, more: list[Any], sums: list[Any], vectors: int, load: Load) -> list[Any]:
    """The sums after what may follow them."""
    if use == ENDING:
        return _ended(v, more[0], sums, vectors, load)
    return _rooted(v, more[0], sums) if use == APART else sums


def _chains(
    v: VectorBuilder,
    k: Any,
    a: list[Any],
    b: Any,
    steps: tuple[Any, Any],
    sums: list[Any],
    load: Load,
    use: str,
    turn: int = 1,
    ahead: int = 0,
) -> list[Any]:
    """The sums, row by row, after `k` steps along the rows `a` and the vectors at `b`, `turn` of them in each turn.

    What is read `ahead` steps later is asked for, if that is not 0.
    """
    a_step, b_step = steps
    vectors = len(sums) // len(a)
    later = v.ir.mul(b_step, I64(ahead)) if ahead else I64(0)

    def step(state: list[Any]) -> list[Any]:
        a_at, b_at, *sums = state
        for at in range(0, vectors * TARGET.vector_bytes if ahead else 0, LINE_BYTES):
            v.prefetch(v.ir.add(v.ir.add(b_at, later), I64(at)), written=False, nearest=False)
        panel = [load(b_at, j) for j in range(vectors)]
        out = []
        for i, row in enumerate(a):
            value = v.splat(row, a_at)
            if use == APART:
                factors = [(gap, gap) for gap in (v.ir.fsub(panel[j], value) for j in range(vectors))]
            else:
                factors = [(value, panel[j]) for j in range(vectors)]
            out += [v.fma(*factors[j], sums[i * vectors + j]) for j in range(vectors)]
        return [v.ir.add(a_at, a_step), v.ir.add(b_at, b_step), *out]

    return emit_loop(v.ir, k, [I64(0), b, *sums], step, together=turn)[2:]


def add_tile(module: Any, lane: Lane, rows: int, vectors: int, use: str = ALONE, ahead: int = 0) -> Any:
    """C[rows, vectors*W] = or += A @ B, each element's chain held in a register.

    Arguments: a, a_m, a_k, b, b_k, c, c_m, k, begin, m_left, n_left. `begin` other than 0 starts the chains at 0,
    else they go on from C. Rows past `m_left` repeat the last one, columns past `n_left` are not touched.
    ENDING has one more, the address of a bias, one row; if it is not 0, C = relu(C + bias). APART has one more, too; if
    it is not 0, this is the last of k. Rows of B are asked for so many steps `ahead`, if that is not 0.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        a, a_m, a_k, b, b_k, c, c_m, k, begin, m_left, n_left, *more = arguments
        v = VectorBuilder(builder, lane)
        a_rows = row_addresses(v, a, a_m, m_left, rows)
        steps = v.bytes(a_k), v.bytes(b_k)
        c_rows = row_addresses(v, c, c_m, m_left, rows)
        columns = [I64(j * TARGET.vector_bytes) for j in range(vectors)]
        for row in c_rows:
            v.prefetch(row)

        def load(at: Any, j: int) -> Any:
            return v.load(at, columns[j])

        def store(value: Any, at: Any, j: int) -> None:
            v.store(value, at, columns[j])

        def load_masked(at: Any, j: int) -> Any:
            return v.load_masked(at, masks[j], columns[j])

        def store_masked(value: Any, at: Any, j: int) -> None:
            v.store_masked(value, at, masks[j], columns[j])

        def results(load: Load) -> list[Any]:
            starts = _starts(v, begin, c_rows, vectors, load)
            return _last(v, use, more, _chains(v, k, a_rows, b, steps, starts, load, use, 1, ahead), vectors, load)

        def write(store: Callable[[Any, Any, int], None], sums: list[Any]) -> None:
            for position, value in enumerate(sums):
                store(value, c_rows[position // vectors], position % vectors)

        masks = [v.mask(builder.sub(n_left, I64(j * v.width))) for j in range(vectors)]
        if TARGET.free_masks:
            write(store_masked, results(load_masked))
            return
        full = builder.icmp_signed(">=", n_left, I64(vectors * v.width))
        if rows > 1:
            # A vector of B is used for several rows, so a masked load costs little; a masked store costs much.
            sums = results(load_masked)
            with builder.if_else(full) as (then, otherwise):
                with then:
                    write(store, sums)
                with otherwise:
                    v.store_first([sums[k : k + vectors] for k in range(0, len(sums), vectors)], c_rows, n_left)
            return
        with builder.if_else(full) as (then, otherwise):
            with then:
                write(store, results(load))
            with otherwise:
                write(store_masked, results(load_masked))

    asking = f"_{ahead}" if ahead else ""
    return internal_function(module, f"tile_{lane.name}_{rows}x{vectors}{use}{asking}", 12 if use else 11, body)


def add_column(module: Any, lane: Lane, rows: int, vectors: int, use: str = ALONE) -> Any:
    """Whole tiles one below the other, as `add_tile` computes each: what is between two of them is a few additions.

    Arguments: a, a_m, a_k, a_tile, b, b_k, c, c_m, k, begin, tiles; `a_tile` is how far a tile's rows of A lie from
    those of the one above. ENDING and APART have one more, as for a tile. ADDING has how far from C lies a D, where a
    row is that will be read soon, and how far, in bytes, the next tile's: C = D + A @ B, where D may be C.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        a, a_m, a_k, a_tile, b, b_k, c, c_m, k, begin, tiles, *more = arguments
        v = VectorBuilder(builder, lane)
        steps, a_down, c_down = (v.bytes(a_k), v.bytes(b_k)), v.bytes(a_tile), v.bytes(c_m)
        # A few steps in a turn: the CPU foresees the end of a shorter loop, and asks further ahead for what it reads.
        turn = 1 if use == ADDING else SHORT_LOOP
        a_rows = [builder.mul(v.bytes(a_m), I64(i)) for i in range(rows)]
        columns = [I64(j * TARGET.vector_bytes) for j in range(vectors)]

        def load(at: Any, j: int) -> Any:
            return v.load(at, columns[j])

        def tile(state: list[Any]) -> list[Any]:
            a_at, c_at, *asked = state
            for place in [builder.add(x, I64(at)) for x in asked for at in range(0, ASKED_BYTES, LINE_BYTES)]:
                v.prefetch(place, written=False, nearest=False)
            c_rows = [c_at]
            for _ in range(rows):
                c_rows.append(builder.add(c_rows[-1], c_down))
            below = c_rows.pop()
            # All lines of the tile: 0.97 of the time for 1024 x 1024 x 1024.
            for row in c_rows:
                for at in range(0, vectors * TARGET.vector_bytes, LINE_BYTES):
                    v.prefetch(builder.add(row, I64(at)))
            starts = [v.zeros] * (rows * vectors) if use == ADDING else _starts(v, begin, c_rows, vectors, load)
            results = _chains(v, k, [builder.add(a_at, row) for row in a_rows], b, steps, starts, load, use, turn)
            results = _last(v, use, more, results, vectors, load)
            for position, value in enumerate(results):
                row, j = c_rows[position // vectors], position % vectors
                if use == ADDING:
                    value = builder.fadd(load(builder.add(row, more[0]), j), value)
                v.store(value, row, columns[j])
            return [builder.add(a_at, a_down), below, *[builder.add(row, more[2]) for row in asked]]

        emit_loop(builder, tiles, [a, c, *more[1:2]], tile)

    arguments = {ADDING: 14, ENDING: 12, APART: 12}.get(use, 11)
    return internal_function(module, f"column_{lane.name}_{rows}x{vectors}{use}", arguments, body)


MULTIPLIED, MASKED, MOVED = range(3)
"""What a gate does to a product: multiplies it, makes it 0 where the gate is not above 0, adds to it."""


def add_gate(module: Any, lane: Lane, vectors: int) -> Any:
    """C[rows, columns] goes through a gate D, so many vectors at once: what that does to it is one of those above.

    Arguments: c, c_m, d, d_m, rows, columns, use.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        c, c_m, d, d_m, rows, columns, use = arguments
        v = VectorBuilder(builder, lane)
        c_step, d_step = v.bytes(c_m), v.bytes(d_m)
        is_masked, is_moved = (builder.icmp_signed("==", use, I64(other)) for other in (MASKED, MOVED))
        many = I64(vectors * v.width)
        whole = builder.sdiv(columns, many)
        left = builder.sub(columns, builder.mul(whole, many))
        places = [I64(j * TARGET.vector_bytes) for j in range(vectors)]
        masks = [v.mask(builder.sub(left, I64(j * v.width))) for j in range(vectors)]

        def through(value: Any, gate: Any) -> Any:
            kept = builder.select(builder.fcmp_ordered("<=", gate, v.zeros), v.zeros, value)
            result = builder.select(is_masked, kept, builder.fmul(value, gate))
            return builder.select(is_moved, builder.fadd(value, gate), result)

        def row(state: list[Any]) -> list[Any]:
            at, gates = state

            def step(state: list[Any]) -> list[Any]:
                for place in places:
                    here, there = (builder.add(x, place) for x in state)
                    v.store(through(v.load(here), v.load(there)), here)
                return [builder.add(x, I64(vectors * TARGET.vector_bytes)) for x in state]

            here, there = emit_loop(builder, whole, [at, gates], step)
            with builder.if_then(builder.icmp_signed("!=", left, I64(0))):
                pairs = list(zip(places, masks, strict=True))
                results = [through(*(v.load_masked(x, mask, at) for x in (here, there))) for at, mask in pairs]
                if TARGET.free_masks:
                    for result, (place, mask) in zip(results, pairs, strict=True):
                        v.store_masked(result, here, mask, place)
                else:
                    v.store_first([results], [here], left)
            return [builder.add(at, c_step), builder.add(gates, d_step)]

        emit_loop(builder, rows, [c, d], row)

    return internal_function(module, f"gate_{lane.name}_{vectors}", 7, body)


def _dots(
    v: VectorBuilder,
    a_rows: list[Any],
    a_step: Any,
    groups: list[Callable[[Any], list[Place]]],
    k: Any,
    by_lines: bool,
) -> list[list[Any]]:
    """Per row of A and group of W columns of B: the sums along k.

    A group tells where its columns go on at an offset. A block of 16 bytes of each is loaded and they are transposed in
    registers, one group after another; `by_lines` a vector of each before, as columns may be in the way of one another
    in the first cache, so that each line is met once, and asked for little before. What is left of k are single
    elements.
    """
    rows = len(a_rows)

    def lines(places: list[Place]) -> list[Any]:
        for base, offset in places:
            v.prefetch(v.ir.add(v.ir.add(base, offset), I64(DOTS_AHEAD)), written=False)
        return v.load_lines_transposed(places)

    def add_columns(load: Callable[[list[Place]], list[Any]], state: list[Any]) -> list[Any]:
        a_first, b_at, *chains = state
        out: list[Any] = []
        for j, group in enumerate(groups):
            a_at, mine = a_first, chains[j * rows : (j + 1) * rows]
            columns = load(group(b_at))
            for column in columns:
                mine = [v.fma(v.splat(row, a_at), column, chain) for row, chain in zip(a_rows, mine, strict=True)]
                a_at = v.ir.add(a_at, a_step)
            out += mine
        return [a_at, v.ir.add(b_at, I64(len(columns) * v.lane.size)), *out]

    ways: list[tuple[int, Callable[[list[Place]], list[Any]]]] = [
        *([(v.width, lines)] if by_lines else []),
        (16 // v.lane.size, lambda places: v.load_transposed(places, 1)),
        (1, lambda places: [v.load_column(places)]),
    ]
    state, left = [I64(0), I64(0), *[v.zeros] * (rows * len(groups))], k
    for many, load in ways:
        turns = v.ir.sdiv(left, I64(many))
        state = emit_loop(v.ir, turns, state, partial(add_columns, load), rolled=many > 1)
        left = v.ir.sub(left, v.ir.mul(turns, I64(many)))
    return [state[2 + row :: rows] for row in range(rows)]


def add_dots(module: Any, lane: Lane, rows: int) -> Any:
    """C[rows, W] = A @ B where B[k, n] lies at b + n*b_n + k: B is transposed in registers, nothing is packed.

    Arguments: a, a_m, a_k, b, b_n, c, c_m, k, m_left, n_left, bias. Rows past `m_left` repeat the last one, columns
    past `n_left` are not touched; the bias is that of an ENDING tile. The whole of k is one pass, a vector of each row
    of B at a time.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        a, a_m, a_k, b, b_n, c, c_m, k, m_left, n_left, bias = arguments
        v = VectorBuilder(builder, lane)
        a_rows, c_rows = (row_addresses(v, *matrix, m_left, rows) for matrix in ((a, a_m), (c, c_m)))
        b_rows = row_addresses(v, b, b_n, n_left, v.width)
        mask = v.mask(n_left)
        sums = _dots(v, a_rows, v.bytes(a_k), [lambda offset: [(row, offset) for row in b_rows]], k, False)
        results = _ended(v, bias, [chain for (chain,) in sums], 1, lambda at, j: v.load_masked(at, mask))
        for result, row in zip(results, c_rows, strict=True):
            v.store_masked(result, row, mask)

    return internal_function(module, f"dots_{lane.name}_{rows}", 11, body)


def add_row_dots(module: Any, lane: Lane, vectors: int, by_lines: bool) -> Any:
    """C[1, vectors*W] = A @ B as `add_dots` does it, for a contiguous row A and for columns that are all there, which
    are met `by_lines` or not.

    Arguments: a, b, b_n, c, k, bias. So many columns at a time keep the multiply-adds busy, each of which waits for the
    one before in its column.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        a, b, b_n, c, k, bias = arguments
        v = VectorBuilder(builder, lane)
        step = v.bytes(b_n)
        down = [builder.mul(step, I64(row)) for row in range(v.width)]

        def group(first: Any) -> Callable[[Any], list[Place]]:
            return lambda offset: [(base, row) for base in [builder.add(first, offset)] for row in down]

        firsts = [builder.add(b, builder.mul(step, I64(j * v.width))) for j in range(vectors)]
        places = [I64(j * TARGET.vector_bytes) for j in range(vectors)]
        (chains,) = _dots(v, [a], I64(lane.size), [group(first) for first in firsts], k, by_lines)
        results = _ended(v, bias, chains, vectors, lambda at, j: v.load(at, places[j]))
        for result, place in zip(results, places, strict=True):
            v.store(result, c, place)

    return internal_function(module, f"row_dots_{lane.name}_{vectors}", 6, body)
