"""Additions and copies to places that an index names, on a GPU: whoever comes first to a place does all that go there.

An index is checked, and `x` copied, by the CPU's kernels, a unit a thread. Then a block has an element of the index (of
`index_add` and `index_copy`), or a line of it (of `scatter_add`); it does nothing if the check failed. No two threads
write to one place, and additions to one go in the order of the index, as on the CPU: the same bits.
"""

from __future__ import annotations

from typing import Any

from tracejit.kernels import index as cpu
from tracejit.kernels.cuda.launch import MOST, Arguments, GpuLaunch, checked, indented
from tracejit.kernels.cuda.threads import WARP
from tracejit.kernels.launch import Launch, Operand
from tracejit.kernels.template import index_name, short_name

_MANY = 128
"""Threads of a block if rows are longer than a warp."""
_LONGEST = 512
"""Elements of a line up to which each of them looks at all others; the CPU's kernel takes a thread for longer ones."""
_LINE = 128
"""Threads of a block that has a line."""


_LETTERS = {"f": "float", "i": "int", "u": "uint"}


def _zero(short: str) -> str:
    """The text of a 0 of the type that an element type is added up in."""
    if short == "b1":
        return "row < 0"
    return "float32(0)" if short in ("f16", "bf16") else f"{_LETTERS[short[0]]}{short[1:]}(0)"


def _sum(short: str, total: str, value: str) -> str:
    """The text of an addition, rounded to the element type; for bool, whether either is set."""
    if short == "b1":
        return f"{total} | {value}"
    if short in ("f16", "bf16"):
        return f"round_{short}({total} + {value})"
    return f"{_LETTERS[short[0]]}{short[1:]}({total} + {value})"


def _matches(condition: str, found: list[str]) -> list[str]:
    """Lines that go over 32 elements of the index from `begin` on, and on to those that name the row, in order."""
    return [
        f"other = begin + thread() % {WARP}",
        "same = 0",
        f"if {condition}:",
        "    same = 1 if load_$i_g(index, other, 1, 3) == row else 0",
        "mask = ballot(same)",
        "if mask != 0:",
        *indented(found),
    ]


def _rows(what: str, launches: tuple[Launch, ...], index: Operand, short: str) -> tuple[Any, ...]:
    """The launches of the CPU, the last one, if there is one, replaced: a block an element of the index and a strip."""
    moved = [launch for launch in launches if launch.function.__name__.startswith(what)]
    if not moved:
        return launches
    (launch,) = moved
    src, at, out, n, size, inner, _ = launch.slots
    assert isinstance(n, int)
    assert isinstance(inner, int)
    outer = launch.units // inner
    threads = WARP if inner <= WARP else _MANY
    strips = -(-inner // threads)
    arguments = Arguments()
    arguments.add_all(src=src, index=at, out=out, n=n, size=size, inner=inner, strips=strips)
    arguments.add_divisor("strips", strips)
    arguments.add_divisor("n", n)
    body = [
        "if lo >= hi:",
        "    return 0",
        "rest = lo * strips_by >> strips_to",
        f"column = (lo - rest * strips) * {threads} + thread()",
        "o = rest * n_by >> n_to",
        "place = rest - o * n",
        "row = load_$i_g(index, place, 1, 3)",
        "taken = 0",
    ]
    to = "to = (o * size + row) * inner + column"
    if what == "index_add":
        # Whoever has an earlier element with the same row does it.
        body += [
            f"for begin in range(0, place, {WARP}):",
            *indented(["rolled()", *_matches("other < place", ["taken = 1"])]),
            "if taken == 0:",
        ]
        value = f"load_{short}_g(src, (o * n + begin + k) * inner + column, 0, 3)"
        addition = [
            f"for k in range({WARP}):",
            "    if mask >> k & 1 != 0:",
            f"        total = {_sum(short, 'total', value)}",
        ]
        work = [
            to,
            f"total = {_zero(short)}",
            "if column < inner:",
            f"    total = load_{short}_g(out, to, 2, 3)",
            f"for begin in range(place // {WARP} * {WARP}, n, {WARP}):",
            *indented(
                ["rolled()", *_matches("other >= place and other < n", ["if column < inner:", *indented(addition)])]
            ),
            "if column < inner:",
            f"    store_{short}_g(out, to, total, 2, 3)",
        ]
        body += indented(work)
    else:
        body += [
            f"for begin in range(place // {WARP} * {WARP}, n, {WARP}):",
            *indented(["rolled()", *_matches("other > place and other < n", ["taken = 1"])]),
            "if taken == 0 and column < inner:",
            f"    {to}",
            f"    store_{short}_g(out, to, load_{short}_g(src, (o * n + place) * inner + column, 0, 3), 2, 3)",
        ]
    name = index_name(what, index)
    lines = [line.replace("$i", name) for line in body]
    blocks = outer * n * strips
    if blocks >= MOST:
        return launches
    return (*launches[:-1], checked(arguments.launch(f"cuda_{what}_{short}_{name}", lines, blocks, threads)))


def launch_index_add(x: Operand, index: Operand, src: Operand, out: Operand, dim: int) -> tuple[Any, ...]:
    """The launches of `x.index_add(dim, index, src)`; see the CPU's. Operands: x, index, src, out."""
    return _rows("index_add", cpu.plan_index_add(x, index, src, out, dim, apart=True), index, short_name(x))


def launch_index_copy(x: Operand, index: Operand, src: Operand, out: Operand, dim: int) -> tuple[Any, ...]:
    """The launches of `x.index_copy(dim, index, src)`; see the CPU's. Operands: x, index, src, out."""
    short = {"b1": "u8"}.get(short_name(x), short_name(x))
    return _rows("index_copy", cpu.plan_index_copy(x, index, src, out, dim, apart=True), index, short)


def launch_scatter(x: Operand, index: Operand, src: Operand, out: Operand, dim: int) -> tuple[Any, ...]:
    """The launches of `x.scatter(dim, index, src)`; see the CPU's. Operands: x, index, src, out."""
    return cpu.plan_scatter(x, index, src, out, dim, apart=True)


def launch_scatter_add(x: Operand, index: Operand, src: Operand, out: Operand, dim: int) -> tuple[Any, ...]:
    """The launches of `x.scatter_add(dim, index, src)`; see the CPU's. Operands: x, index, src, out."""
    launches = cpu.plan_scatter_add(x, index, src, out, dim, apart=True)
    moved = launches[-1] if launches and launches[-1].function.__name__.startswith("scatter_add") else None
    if moved is None or not isinstance(moved.slots[3], int) or moved.slots[3] > _LONGEST:
        return launches
    return (*launches[:-1], _line(moved, short_name(x), index_name("scatter_add", index)))


def _line(launch: Launch, short: str, name: str) -> GpuLaunch:
    """A block for each line of an index, which lies in shared memory meanwhile."""
    names = ("src", "index", "out", "n", "out_along", "index_along", "src_along", "run", "out_step", "index_step")
    arguments = Arguments()
    *before, src_step, _, axes = launch.slots[: len(names) + 3]
    arguments.add_all(**dict(zip(names, before, strict=True)), src_step=src_step, axes=axes)
    for k, slot in enumerate(launch.slots[len(names) + 3 :]):
        arguments.add(f"axis{k}", slot)
    body = [
        "if lo >= hi:",
        "    return 0",
        f"places = shared(0, {_LONGEST})",
        "rest = lo // run",
        "first = lo - rest * run",
        "o, i, s = first * out_step, first * index_step, first * src_step",
        "for k in range(axes):",
        "    slot = 12 + 4 * (axes - 1 - k)",
        "    above = rest // load_arg(p, slot)",
        "    position = rest - above * load_arg(p, slot)",
        "    o += position * load_arg(p, slot + 1)",
        "    i += position * load_arg(p, slot + 2)",
        "    s += position * load_arg(p, slot + 3)",
        "    rest = above",
        "j = thread()",
        "while j < n:",
        f"    store_i64_b(places, j, int64(load_{name}_g(index, i + j * index_along, 1, 4)), 3, 4)",
        f"    j += {_LINE}",
        "barrier()",
        "j = thread()",
        "while j < n:",
        "    place = load_i64_b(places, j, 3, 4)",
        # Whoever has an earlier element with the same place does it.
        "    before = 0",
        "    while before < j and load_i64_b(places, before, 3, 4) != place:",
        "        before += 1",
        "    if before == j:",
        "        to = o + place * out_along",
        f"        total = load_{short}_g(out, to, 2, 4)",
        "        for k in range(j, n):",
        "            if load_i64_b(places, k, 3, 4) == place:",
        f"                total = {_sum(short, 'total', f'load_{short}_g(src, s + k * src_along, 0, 4)')}",
        f"        store_{short}_g(out, to, total, 2, 4)",
        f"    j += {_LINE}",
    ]
    return checked(arguments.launch(f"cuda_scatter_add_{short}_{name}", body, launch.units, _LINE))
