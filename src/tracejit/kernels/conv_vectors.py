"""LLVM vector functions of convolutions: product tiles that look pixels up, padded copies, transposed results, zeros.

Each builder adds one internal function to the module that is being compiled and returns it. All arguments are int64:
addresses in bytes, sizes and steps in elements unless they say otherwise.
"""

from __future__ import annotations

from typing import Any

from tracejit.kernels.emit import I64, SHORT_LOOP, emit_loop, internal_function
from tracejit.kernels.gemm_kernels import TILE_ROWS, TILE_VECTORS
from tracejit.kernels.vectors import TARGET, Lane, VectorBuilder

_FEW_CHAINS = 8
"""Chains of a tile up to which its loop is a short one."""


def add_lookup(module: Any, lane: Lane, rows: int, vectors: int) -> Any:
    """sums[r] = or += the sum over k of window[places[r] + offsets[k]] * b[k], each element's chain held in a register.

    Arguments: window, places, offsets, k, b, sums, sums_step, begin. `places` and `offsets` are tables of int64, in
    bytes, as is `sums_step`; a row of `b` or `sums` is `vectors` whole vectors, and rows of `b` lie together. `begin`
    other than 0 starts the chains at 0, else they go on from `sums`.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        window, places, offsets, k, b, sums, sums_step, begin = arguments
        v = VectorBuilder(builder, lane)
        at = _look_up(v, window, places, rows)
        targets = _targets(v, sums, sums_step, rows, vectors)

        def step(state: list[Any]) -> list[Any]:
            offset_at, b_at, *chains = state
            offset = builder.load(v.pointer(offset_at, I64), align=8)
            panel = [v.load(b_at, I64(j * TARGET.vector_bytes)) for j in range(vectors)]
            out = []
            for r in range(rows):
                value = v.splat(at[r], offset)
                out += [v.fma(value, panel[j], chains[r * vectors + j]) for j in range(vectors)]
            return [builder.add(offset_at, I64(8)), builder.add(b_at, I64(vectors * TARGET.vector_bytes)), *out]

        # As for a column of products; the tile that most of the work is done by is worth the code.
        together = SHORT_LOOP if (rows, vectors) == (TILE_ROWS, TILE_VECTORS) else 1
        chains = emit_loop(builder, k, [offsets, b, *_start_chains(v, targets, begin)], step, together=together)[2:]
        for value, target in zip(chains, targets, strict=True):
            v.store(value, target)

    return internal_function(module, f"lookup_{lane.name}_{rows}x{vectors}", 8, body)


def add_unfolded(module: Any, lane: Lane, vectors: int) -> Any:
    """out[k][j] = window[places[j] + offsets[k]], for as many j as there are elements in `vectors` vectors.

    Arguments: window, places, offsets, k, out. Tables are as in `add_lookup`; rows of `out` are whole vectors.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        window, places, offsets, k, out = arguments
        v = VectorBuilder(builder, lane)

        def step(state: list[Any]) -> list[Any]:
            offset_at, to = state
            row = builder.add(window, builder.load(v.pointer(offset_at, I64), align=8))
            for j in range(vectors * lane.count):
                place = builder.load(v.pointer(places, I64, I64(8 * j)), align=8)
                value = builder.load(v.pointer(row, lane.kind, place), align=lane.size)
                builder.store(value, v.pointer(to, lane.kind, I64(j * lane.size)), align=lane.size)
            return [builder.add(offset_at, I64(8)), builder.add(to, I64(vectors * TARGET.vector_bytes))]

        emit_loop(builder, k, [offsets, out], step)

    return internal_function(module, f"unfolded_{lane.name}_{vectors}", 5, body)


def add_lookup_across(module: Any, lane: Lane, rows: int, vectors: int) -> Any:
    """sums[j][r] = or += the sum over k of b[k][r] * (the vector at window + places[j] + offsets[k]).

    Arguments: as in `add_lookup`. A row of `b` is one vector, of which `rows` elements count; a row of `sums` is `rows`
    vectors.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        window, places, offsets, k, b, sums, sums_step, begin = arguments
        v = VectorBuilder(builder, lane)
        at = _look_up(v, window, places, vectors)
        targets = _targets(v, sums, sums_step, vectors, rows)

        def step(state: list[Any]) -> list[Any]:
            offset_at, b_at, *chains = state
            offset = builder.load(v.pointer(offset_at, I64), align=8)
            factors = [v.splat(b_at, I64(r * lane.size)) for r in range(rows)]
            out = []
            for j in range(vectors):
                pixels = v.load(at[j], offset)
                out += [v.fma(factors[r], pixels, chains[j * rows + r]) for r in range(rows)]
            return [builder.add(offset_at, I64(8)), builder.add(b_at, I64(TARGET.vector_bytes)), *out]

        together = SHORT_LOOP if rows * vectors <= _FEW_CHAINS else 1
        chains = emit_loop(builder, k, [offsets, b, *_start_chains(v, targets, begin)], step, together=together)[2:]
        for value, target in zip(chains, targets, strict=True):
            v.store(value, target)

    return internal_function(module, f"across_{lane.name}_{rows}x{vectors}", 8, body)


def _look_up(v: VectorBuilder, window: Any, places: Any, count: int) -> list[Any]:
    """The addresses of the first places of a table."""
    return [v.ir.add(window, v.ir.load(v.pointer(places, I64, I64(8 * i)), align=8)) for i in range(count)]


def _targets(v: VectorBuilder, sums: Any, step: Any, rows: int, vectors: int) -> list[Any]:
    """The addresses of the vectors of rows of sums."""
    starts = [v.ir.add(sums, v.ir.mul(step, I64(row))) for row in range(rows)]
    return [v.ir.add(start, I64(j * TARGET.vector_bytes)) for start in starts for j in range(vectors)]


def _start_chains(v: VectorBuilder, sums: list[Any], begin: Any) -> list[Any]:
    """A vector for each address: zeros if `begin` differs from 0, else what lies there."""
    builder = v.ir
    start = builder.block
    resume, ready = builder.append_basic_block("resume"), builder.append_basic_block("ready")
    builder.cbranch(builder.icmp_signed("!=", begin, I64(0)), ready, resume)
    builder.position_at_end(resume)
    loaded = [v.load(address) for address in sums]
    builder.branch(ready)
    builder.position_at_end(ready)
    chains = []
    for value in loaded:
        chain = builder.phi(v.lane.vector)
        chain.add_incoming(v.zeros, start)
        chain.add_incoming(value, resume)
        chains.append(chain)
    return chains


def add_padded(module: Any, lane: Lane) -> Any:
    """Copies rows of planes into rows of whole vectors; elements before `first` or from `last` on are 0.

    Arguments: source, row_step, plane_step, out, out_row_step, out_plane_step, rows, planes, first, last, vectors.
    Only elements first..last of a row are read.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        source, row_step, plane_step, out, out_row_step, out_plane_step, rows, planes, first, last, vectors = arguments
        v = VectorBuilder(builder, lane)
        row_step, plane_step, out_row_step, out_plane_step = (
            v.bytes(step) for step in (row_step, plane_step, out_row_step, out_plane_step)
        )

        def column(state: list[Any]) -> list[Any]:
            at, to, before, left = state
            mask = builder.and_(v.mask(left), builder.not_(v.mask(before)))

            def plane(places: list[Any]) -> list[Any]:
                def row(inner: list[Any]) -> list[Any]:
                    v.store(v.load_masked(inner[0], mask), inner[1])
                    return [builder.add(inner[0], row_step), builder.add(inner[1], out_row_step)]

                emit_loop(builder, rows, list(places), row)
                return [builder.add(places[0], plane_step), builder.add(places[1], out_plane_step)]

            emit_loop(builder, planes, [at, to], plane)
            step = I64(TARGET.vector_bytes)
            done = I64(v.width)
            return [builder.add(at, step), builder.add(to, step), builder.sub(before, done), builder.sub(left, done)]

        emit_loop(builder, vectors, [source, out, first, last], column)

    return internal_function(module, f"padded_{lane.name}", 11, body)


def add_turned(module: Any, lane: Lane) -> Any:
    """out[c * step + n] = sums[n][c] for c below `columns` and n below `count`, which is at least a vector's width.

    Arguments: sums, out, step, columns, count, vectors. The rows of `sums` are `vectors` whole vectors.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        sums, out, step, columns, count, vectors = arguments
        v = VectorBuilder(builder, lane)
        row_bytes, vector = builder.mul(vectors, I64(TARGET.vector_bytes)), I64(TARGET.vector_bytes)
        step = v.bytes(step)
        right = builder.mul(step, I64(v.width))
        wide = v.minimum(vectors, builder.sdiv(builder.add(columns, I64(v.width - 1)), I64(v.width)))
        last = builder.sub(count, I64(v.width))
        blocks = builder.sdiv(builder.add(count, I64(v.width - 1)), I64(v.width))

        def turn(state: list[Any]) -> list[Any]:
            at, to, left = state
            rows = [at]
            for _ in range(v.width - 1):
                rows.append(builder.add(rows[-1], row_bytes))
            turned = v.load_transposed([(row, I64(0)) for row in rows])
            whole = builder.icmp_signed(">=", left, I64(v.width))
            places = [to]
            for _ in range(v.width - 1):
                places.append(builder.add(places[-1], step))
            with builder.if_else(whole) as (then, otherwise):
                with then:
                    for column, place in zip(turned, places, strict=True):
                        v.store(column, place)
                with otherwise:
                    for c, (column, place) in enumerate(zip(turned, places, strict=True)):
                        with builder.if_then(builder.icmp_signed("<", I64(c), left)):
                            v.store(column, place)
            return [builder.add(at, vector), builder.add(to, right), builder.sub(left, I64(v.width))]

        def block(state: list[Any]) -> list[Any]:
            n = v.minimum(state[0], last)  # the last block goes back over elements that are there already
            at, to = builder.add(sums, builder.mul(n, row_bytes)), builder.add(out, v.bytes(n))
            emit_loop(builder, wide, [at, to, columns], turn)
            return [builder.add(state[0], I64(v.width))]

        emit_loop(builder, blocks, [I64(0)], block)

    return internal_function(module, f"turned_{lane.name}", 6, body)


def add_rows(module: Any, lane: Lane) -> Any:
    """Copies rows of `columns` elements, at least a vector's width, out of whole vectors.

    Arguments: sums, sums_step (in bytes), out, out_step, rows, columns. The vectors of a row start at its elements 0,
    W, 2 W, ..., the last one where the row ends with it.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        sums, sums_step, out, out_step, rows, columns = arguments
        v = VectorBuilder(builder, lane)
        row_step, last = v.bytes(out_step), builder.sub(columns, I64(v.width))
        vectors = builder.sdiv(builder.add(columns, I64(v.width - 1)), I64(v.width))

        def row(state: list[Any]) -> list[Any]:
            def vector(inner: list[Any]) -> list[Any]:
                at, x = inner
                v.store(v.load(at), builder.add(state[1], v.bytes(v.minimum(x, last))))
                return [builder.add(at, sums_step), builder.add(x, I64(v.width))]

            at = emit_loop(builder, vectors, [state[0], I64(0)], vector)[0]
            return [at, builder.add(state[1], row_step)]

        emit_loop(builder, rows, [sums, out], row)

    return internal_function(module, f"rows_{lane.name}", 6, body)


def add_zeros(module: Any, lane: Lane) -> Any:
    """Sets whole vectors to 0. Arguments: out, vectors."""

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        v = VectorBuilder(builder, lane)

        def clear(state: list[Any]) -> list[Any]:
            v.store(v.zeros, state[0])
            return [builder.add(state[0], I64(TARGET.vector_bytes))]

        emit_loop(builder, arguments[1], [arguments[0]], clear)

    return internal_function(module, f"zeros_{lane.name}", 2, body)
