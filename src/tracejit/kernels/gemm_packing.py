"""LLVM vector functions that pack matrices: rows into panels, columns into strips, a transpose.

Arguments are those of `gemm_tiles`.
"""

from __future__ import annotations

from typing import Any

from tracejit.kernels.emit import I64, SHORT_LOOP, emit_loop, integers, internal_function
from tracejit.kernels.vectors import LINE_BYTES, TARGET, Lane, VectorBuilder, row_addresses

_AHEAD, _FAR_BYTES = 8, 256
"""How many rows (along a row how many bytes) ahead of what is packed are asked for, which the CPU itself does not do
where rows lie far apart or are many."""
_PIECE_BYTES = 16
"""What `load_transposed` loads at a time."""


def add_transpose(module: Any, lane: Lane) -> Any:
    """Copies `n_left` (at most W) rows of k contiguous elements into columns: out[k * out_k + n] = rows[n, k].

    Arguments: rows, rows_n, out, out_k, k, n_left. Writes whole vectors.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        rows, rows_n, out, out_k, k, n_left = arguments
        v = VectorBuilder(builder, lane)
        sources = row_addresses(v, rows, rows_n, n_left, v.width)
        out_step = v.bytes(out_k)

        def block(pieces: int | None) -> Any:
            def step(state: list[Any]) -> list[Any]:
                at, target = state
                if pieces is None:
                    for source in sources:
                        v.prefetch(builder.add(builder.add(source, at), I64(_FAR_BYTES)), written=False)
                columns = v.load_transposed([(source, at) for source in sources], pieces)
                for column in columns:
                    v.store(column, target)
                    target = builder.add(target, out_step)
                return [builder.add(at, I64(len(columns) * lane.size)), target]

            return step

        blocks = builder.sdiv(k, I64(v.width))
        state = emit_loop(builder, blocks, [I64(0), out], block(None))
        left = builder.sub(k, builder.mul(blocks, I64(v.width)))
        piece = _PIECE_BYTES // lane.size
        if piece < v.width:
            # Rows as short as the taps of a filter are little else.
            blocks = builder.sdiv(left, I64(piece))
            state = emit_loop(builder, blocks, state, block(1))
            left = builder.sub(left, builder.mul(blocks, I64(piece)))

        def single(state: list[Any]) -> list[Any]:
            at, target = state
            for n, source in enumerate(sources):
                value = builder.load(v.pointer(source, lane.kind, at), align=lane.size)
                builder.store(value, v.pointer(target, lane.kind, I64(n * lane.size)), align=lane.size)
            return [builder.add(at, I64(lane.size)), builder.add(target, out_step)]

        emit_loop(builder, left, state, single)

    return internal_function(module, f"transpose_{lane.name}", 6, body)


def add_copy(module: Any, lane: Lane, vectors: int) -> Any:
    """Copies k rows of `n_left` (at most vectors*W) contiguous elements into rows of whole vectors, padded by 0.

    Arguments: rows, rows_k, out, out_k, k, n_left.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        rows, rows_k, out, out_k, k, n_left = arguments
        v = VectorBuilder(builder, lane)
        step, out_step = v.bytes(rows_k), v.bytes(out_k)
        columns = [I64(j * TARGET.vector_bytes) for j in range(vectors)]
        masks = [v.mask(builder.sub(n_left, I64(j * v.width))) for j in range(vectors)]

        ahead = builder.mul(step, I64(_AHEAD))

        def copy(state: list[Any]) -> list[Any]:
            source, target = state
            for line in range(0, vectors * TARGET.vector_bytes, LINE_BYTES):
                v.prefetch(builder.add(builder.add(source, ahead), I64(line)), written=False)
            for at, mask in zip(columns, masks, strict=True):
                v.store(v.load_masked(source, mask, at), target, at)
            return [builder.add(source, step), builder.add(target, out_step)]

        emit_loop(builder, k, [rows, out], copy, together=SHORT_LOOP)

    return internal_function(module, f"copy_{lane.name}_{vectors}", 6, body)


def add_part(module: Any, lane: Lane, vectors: int) -> Any:
    """Copies rows of `n_left` (at most vectors*W) contiguous elements, and touches no others.

    Arguments: source, source_m, target, target_m, rows, n_left.
    """

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        source, source_m, target, target_m, rows, n_left = arguments
        v = VectorBuilder(builder, lane)
        source_step, target_step = v.bytes(source_m), v.bytes(target_m)
        columns = [I64(j * TARGET.vector_bytes) for j in range(vectors)]
        masks = [v.mask(builder.sub(n_left, I64(j * v.width))) for j in range(vectors)]

        def copy(state: list[Any]) -> list[Any]:
            read, written = state
            for at, mask in zip(columns, masks, strict=True):
                v.store_masked(v.load_masked(read, mask, at), written, mask, at)
            return [builder.add(read, source_step), builder.add(written, target_step)]

        emit_loop(builder, rows, [source, target], copy)

    return internal_function(module, f"part_{lane.name}_{vectors}", 6, body)


def add_strips(module: Any, lane: Lane, rows: int, strips: int) -> Any:
    """Copies k columns of `m_left` contiguous elements (at most strips*rows) into strips of `rows` of them.

    Arguments: columns, columns_k, out, out_strip, k, m_left. Whole vectors are written, at most one of them past the
    last element of a strip.
    """
    # Where a vector is as long as two columns of a strip, it is filled by both, not written twice.
    paired = rows * 2 == lane.count and strips % 2 == 0
    pieces = range(0, strips * rows if paired else rows, lane.count)
    places = [*pieces] if paired else [strip * rows + row for strip in range(strips) for row in pieces]

    def body(builder: Any, arguments: tuple[Any, ...]) -> None:
        columns, columns_k, out, out_strip, k, m_left = arguments
        v = VectorBuilder(builder, lane)
        step = v.bytes(columns_k)
        starts = [v.bytes(builder.mul(out_strip, I64(strip))) for strip in range(strips)]
        masks = [v.mask(builder.sub(m_left, I64(row))) for row in places]
        ahead = builder.mul(step, I64(_AHEAD))

        def ask(source: Any) -> None:
            for line in range(0, strips * rows * lane.size, LINE_BYTES):
                v.prefetch(builder.add(builder.add(source, ahead), I64(line)), written=False)

        def copy(state: list[Any]) -> list[Any]:
            source, target = state
            ask(source)
            for row, mask in zip(places, masks, strict=True):
                value = v.load_masked(source, mask, I64(row * lane.size))
                v.store(value, builder.add(target, starts[row // rows]), I64(row % rows * lane.size))
            return [builder.add(source, step), builder.add(target, I64(rows * lane.size))]

        def copy_two(state: list[Any]) -> list[Any]:
            first, target, left = state
            # The last of an odd number is there twice: its second copy is what comes after a strip.
            second = builder.select(builder.icmp_signed(">", left, I64(1)), builder.add(first, step), first)
            ask(first)
            ask(builder.add(first, step))
            for row, mask in zip(places, masks, strict=True):
                values = [v.load_masked(source, mask, I64(row * lane.size)) for source in (first, second)]
                for strip in range(2):
                    lanes = range(strip * rows, (strip + 1) * rows)
                    order = integers(*lanes, *[at + lane.count for at in lanes])
                    v.store(builder.shuffle_vector(*values, order), builder.add(target, starts[row // rows + strip]))
            target = builder.add(target, I64(TARGET.vector_bytes))
            return [builder.add(second, step), target, builder.sub(left, I64(2))]

        if paired:
            emit_loop(builder, builder.sdiv(builder.add(k, I64(1)), I64(2)), [columns, out, k], copy_two)
        else:
            emit_loop(builder, k, [columns, out], copy)

    return internal_function(module, f"strips_{lane.name}_{rows}x{strips}", 6, body)
