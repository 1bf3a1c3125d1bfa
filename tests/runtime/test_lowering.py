"""Kernel text lowered directly: numba's types, numba's bits, and what is left to numba."""

from __future__ import annotations

import inspect
import operator
import random
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError
from numba.core.registry import cpu_target

from tests.programs import RandomGraph, run_compiled, same_bits
from tests.runtime.lowering_ways import directly, through_numba
from tracejit.compiler import compile_graph
from tracejit.errors import KernelBuildError
from tracejit.kernels import emit, memory, threads
from tracejit.runtime import frontend, scalars
from tracejit.runtime.build import build, build_together, function_of, namespace
from tracejit.runtime.scalars import Unsupported, Value
from tracejit.runtime.team import launch

# --- types ------------------------------------------------------------------------------------------------------------

KINDS = [
    types.boolean, types.int8, types.int16, types.int32, types.int64, types.uint8, types.uint16, types.uint32,
    types.uint64, types.float32, types.float64,
]  # fmt: skip
ARITHMETIC = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "&": operator.and_, "|": operator.or_, "^": operator.xor, "<<": operator.lshift,
    ">>": operator.rshift,
}  # fmt: skip
UNARY = {"-": operator.neg, "~": operator.invert, "not": operator.not_}


def numbas_type(function: Callable[..., Any], *kinds: Any) -> Any:
    """What numba's inference says that an operator gives; None if it refuses."""
    context = cpu_target.typing_context
    context.refresh()
    try:
        found = context.resolve_function_type(context.resolve_value_type(function), kinds, {})
    except TypingError:
        return None
    return found and found.return_type


def nowhere() -> Any:
    """A builder whose instructions nobody reads."""
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "nowhere")
    return ir.IRBuilder(function.append_basic_block())


def undefined(kind: Any) -> Value:
    return Value(kind, ir.Constant(scalars.llvm_type(kind), ir.Undefined))


def typed(make: Callable[..., Value], sign: str, *kinds: Any) -> Any:
    try:
        return make(nowhere(), sign, *map(undefined, kinds)).kind
    except Unsupported:
        return None


@pytest.mark.parametrize("sign", ARITHMETIC)
def test_arithmetic_has_numbas_types(sign: str) -> None:
    accepted = 0
    for left in KINDS:
        for right in KINDS:
            found = typed(scalars.binary, sign, left, right)
            if found is not None:
                accepted += 1
                assert found == numbas_type(ARITHMETIC[sign], left, right), f"{left} {sign} {right}"
    assert accepted >= 20


@pytest.mark.parametrize("sign", UNARY)
def test_unary_operators_have_numbas_types(sign: str) -> None:
    found = {kind: typed(scalars.unary, sign, kind) for kind in KINDS}
    assert found[types.int64] is not None
    for kind, result in found.items():
        assert result is None or result == numbas_type(UNARY[sign], kind), f"{sign} {kind}"


# --- values -----------------------------------------------------------------------------------------------------------

LOADS = {
    "b1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u8": np.uint8,
    "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "f32": np.float32, "f64": np.float64,
}  # fmt: skip


def operands(short: str, count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    kind = np.dtype(LOADS[short])
    if kind.kind == "b":
        return draw.integers(0, 2, count).astype(kind)
    if kind.kind == "f":
        array = draw.standard_normal(count).astype(kind) * kind.type(50)
        array[::9], array[1::11], array[2::13], array[3::15] = np.nan, -0.0, np.inf, 3.0
        return array
    return draw.integers(-100 if kind.kind == "i" else 0, 100, count).astype(kind)


def run_both_ways(text: str, name: str, arrays: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The arrays after the kernel ran on them, lowered directly and through numba."""
    results = []
    for way in (directly, through_numba):
        given = [array.copy() for array in arrays]
        with way():
            assert launch(build(text, name).address, arrays[0].size, 1.0, *given) == 0
        results.append(given)
    return results


def assert_same_both_ways(text: str, name: str, arrays: list[np.ndarray]) -> None:
    direct, numba = run_both_ways(text, name, arrays)
    for k, (found, expected) in enumerate(zip(direct, numba, strict=True)):
        assert same_bits(found, expected), f"array {k} of\n{text}"


COUNT = 211


def grid(signs: list[str], kinds: list[str]) -> tuple[list[str], list[str]]:
    """The body of a loop that applies operators to all pairs of kinds that are typed, and the kinds of the results."""
    lines, results = [], []
    symbols = {short: getattr(types, np.dtype(LOADS[short]).name if short != "b1" else "boolean") for short in LOADS}
    for sign in signs:
        make = scalars.compare if sign in ("<", "<=", ">", ">=", "==", "!=") else scalars.binary
        for left in kinds:
            for right in kinds:
                result = typed(make, sign, symbols[left], symbols[right])
                if result is not None:
                    short = next(s for s, kind in symbols.items() if kind == result)
                    place = f"{results.count(short) * COUNT} + i"
                    lines.append(f"store_{short}(o{short}, {place}, {left} {sign} {right})")
                    results.append(short)
    return lines, results


@pytest.mark.parametrize("signs", [["+"], ["-"], ["*"], ["/"], ["//", "%"], ["&", "|", "^"], ["<", "<="], ["==", "!="]])
@pytest.mark.parametrize(
    "kinds", [["b1", "i8", "i64", "u8"], ["i32", "u32", "f32", "f64"], ["i16", "u16", "u64", "f32"]]
)
def test_arithmetic_has_numbas_bits(signs: list[str], kinds: list[str]) -> None:
    name = "grid"
    lines, results = grid(signs, kinds)
    head = [f"a{short} = load_arg(p, {k})" for k, short in enumerate(kinds)]
    outs = sorted(set(results))
    head += [f"o{short} = load_arg(p, {len(kinds) + k})" for k, short in enumerate(outs)]
    loads = [f"{short} = load_{short}(a{short}, i)" for short in kinds]
    text = "\n    ".join([f"def {name}(p, lo, hi):", *head, "for i in range(lo, hi):"])
    text += "".join(f"\n        {line}" for line in loads + lines) + "\n    return 0\n"
    arrays = [operands(short, COUNT, k) for k, short in enumerate(kinds)]
    arrays += [np.zeros(COUNT * results.count(short), LOADS[short]) for short in outs]
    assert_same_both_ways(text, name, arrays)


DIVIDE = """
def divide(p, lo, hi):
    x = load_arg(p, 0)
    y = load_arg(p, 1)
    q = load_arg(p, 2)
    r = load_arg(p, 3)
    for i in range(lo, hi):
        n = load_i64(x, i)
        d = load_i64(y, i)
        store_i64(q, i, n // d)
        store_i64(r, i, n % d)
    return 0
"""


def test_quotients_go_towards_minus_infinity_and_are_0_where_there_is_none() -> None:
    edges = np.array([-(2**63), -(2**63) + 1, -7, -4, -1, 0, 1, 3, 4, 7, 2**62, 2**63 - 1], np.int64)
    x, y = (a.ravel().copy() for a in np.meshgrid(edges, edges))
    arrays = [x, y, np.zeros_like(x), np.zeros_like(x)]
    assert_same_both_ways(DIVIDE, "divide", arrays)
    with directly():
        launch(build(DIVIDE, "divide").address, x.size, 1.0, *arrays)
    for n, d, q, r in zip(*(a.tolist() for a in arrays), strict=True):
        none = d == 0 or (n == -(2**63) and d == -1)
        assert (q, r) == ((0, 0) if none else divmod(n, d))


@pytest.mark.parametrize("divisor", [1, 2, 3, 8, 64, 7, -1, -2, -7, 0])
def test_quotients_by_numbers_in_the_text(divisor: int) -> None:
    name = f"by_{divisor}".replace("-", "minus_")
    text = DIVIDE.replace("def divide", f"def {name}").replace("n // d", f"n // {divisor}")
    text = text.replace("n % d", f"n % {divisor}")
    x = np.array([-(2**63) + 1, -65, -64, -8, -7, -1, 0, 1, 7, 8, 63, 64, 2**63 - 1], np.int64)
    assert_same_both_ways(text, name, [x, x, np.zeros_like(x), np.zeros_like(x)])


# --- random texts -----------------------------------------------------------------------------------------------------


class RandomText:
    """A text with loops, branches and arithmetic on int64, float32, float64 and bool, from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.name = f"random_{seed}"
        self.lines = [f"def {self.name}(p, lo, hi):"]
        self.known = {"i64": ["lo", "hi"], "f32": [], "f64": [], "b1": []}
        self.depth = 1
        self.fresh = 0
        for k, short in enumerate(("i64", "f32", "f64")):
            self.line(f"a{short} = load_arg(p, {k})")
            self.line(f"o{short} = load_arg(p, {k + 3})")
        self.line("total = 0")
        self.line("for i in range(lo, hi):")
        self.block(self.rng.randrange(4, 9), ["i"])
        self.line("store_i64(oi64, 0, load_i64(oi64, 0) + total)")
        self.line("return 0")
        self.text = "\n".join(self.lines) + "\n"

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def block(self, count: int, indices: list[str]) -> None:
        """Statements one level deeper; what they assign is not known behind them."""
        before = {short: list(names) for short, names in self.known.items()}
        self.depth += 1
        self.known["i64"] += indices
        for short in ("i64", "f32", "f64"):
            name = self.assigned(short)
            self.line(f"{name} = load_{short}(a{short}, {indices[0]})")
            self.known[short].append(name)
        for _ in range(count):
            self.statement()
        for short in ("i64", "f32", "f64"):
            self.line(f"store_{short}(o{short}, {indices[0]}, {self.expression(short, 1)})")
        self.depth -= 1
        self.known = before

    def assigned(self, short: str) -> str:
        self.fresh += 1
        return f"{short}_{self.fresh}"

    def statement(self) -> None:
        pick = self.rng.random()
        if pick < 0.6:
            short = self.rng.choice(["i64", "f32", "f64", "b1"])
            text = self.expression(short, 3)
            name = self.assigned(short)
            self.line(f"{name} = {text}")
            self.known[short].append(name)
        elif pick < 0.75:
            short = self.rng.choice(["f32", "f64"])
            self.line(f"{self.rng.choice(self.known[short])} {self.rng.choice('+-*')}= {self.expression(short, 1)}")
        elif pick < 0.85 and self.depth < 4:
            self.line(f"if {self.expression('b1', 2)}:")
            self.block(1, ["i"])
            self.line("else:")
            self.depth += 1
            self.line("total += 1")
            self.depth -= 1
        elif pick < 0.93 and self.depth < 4:
            self.fresh += 1
            step = self.rng.choice(["", ", 2", ", -3"])
            ends = "7, 1" if "-" in step else "1, 5"
            self.line(f"for j{self.fresh} in range({ends}{step}):")
            self.block(1, [f"j{self.fresh}"])
        elif self.depth < 4:
            self.fresh += 1
            counter = f"w{self.fresh}"
            self.line(f"{counter} = 0")
            self.line(f"while {counter} < 5:")
            self.depth += 1
            self.line(f"{counter} += 1")
            self.line(f"if {self.expression('b1', 1)}:")
            self.line(f"    {self.rng.choice(['break', 'continue', 'pass'])}")
            self.line(f"total += {counter}")
            self.depth -= 1

    def expression(self, short: str, depth: int) -> str:
        rng = self.rng
        if depth == 0 or rng.random() < 0.15:
            if self.known[short] and rng.random() < 0.8:
                return str(rng.choice(self.known[short]))
            number = rng.choice(["1", "3", "7"])
            return {"i64": number, "b1": f"({number} < 5)", "f64": f"{number}.5"}.get(short, f"float32({number})")
        part = self.expression
        if short == "b1":
            kind = rng.choice(["i64", "f32", "f64"])
            sign = rng.choice(["<", "<=", ">", ">=", "==", "!="])
            return str(
                rng.choice(
                    [
                        f"({part(kind, depth - 1)} {sign} {part(kind, depth - 1)})",
                        f"({part('b1', depth - 1)} {rng.choice(['and', 'or', '&', '|', '^'])} {part('b1', depth - 1)})",
                        f"(not {part('b1', depth - 1)})",
                    ]
                )
            )
        chosen = f"({part(short, depth - 1)} if {part('b1', 1)} else {part(short, depth - 1)})"
        selected = f"select({part('b1', 1)}, {part(short, depth - 1)}, {part(short, depth - 1)})"
        if short == "i64":
            # The remainders keep numbers small: what a sum beyond int64 gives is not numba's to say.
            small = f"({part('i64', depth - 1)} % {rng.choice(['97', '64', '-7', 'i64_1'])})"
            return str(
                rng.choice(
                    [
                        f"({small} {rng.choice(['+', '-', '*', '&', '|', '^'])} {small})",
                        f"(({part('i64', depth - 1)}) // {rng.choice(['3', '8', '-5'])})",
                        f"({small} >> {rng.randrange(5)})",
                        f"(-{small})",
                        f"(~{small})",
                        f"{rng.choice(['min', 'max'])}({small}, {small}, {rng.randrange(9)})",
                        f"int64({part('b1', 1)})",
                        chosen,
                        selected,
                    ]
                )
            )
        other = {"f32": "f64", "f64": "f32"}[short]
        cast = {"f32": "float32", "f64": "float64"}[short]
        return str(
            rng.choice(
                [
                    f"({part(short, depth - 1)} {rng.choice('+-*/')} {part(short, depth - 1)})",
                    f"(-{part(short, depth - 1)})",
                    f"{cast}({part(other, depth - 1)})",
                    f"{cast}({part('i64', depth - 1)})",
                    f"{cast}({part(other, depth - 1)} * {part('i64', 1)})",
                    f"abs_{short}({part(short, depth - 1)})",
                    f"exp_{short}({part(short, depth - 1)})",
                    chosen,
                    selected,
                ]
            )
        )


@pytest.mark.parametrize("seed", range(40))
def test_random_texts_have_numbas_bits(seed: int) -> None:
    drawn = RandomText(seed)
    arrays = [operands(short, 67, seed + k) for k, short in enumerate(("i64", "f32", "f64"))]
    assert_same_both_ways(drawn.text, drawn.name, arrays + [np.zeros_like(a) for a in arrays])


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
def test_generated_kernels_have_numbas_bits(seed: int) -> None:
    drawn = RandomGraph(seed)
    number = 0.75 if drawn.scalars == "f" else 3
    results = []
    for way in (directly, through_numba):
        with way():
            compiled = compile_graph(drawn.graph)
        given = [np.array(array) if k in drawn.graph.homes.values() else array for k, array in enumerate(drawn.arrays)]
        results.append(run_compiled(compiled, drawn.graph, given, (number,)))
    for found, expected in zip(*results, strict=True):
        assert same_bits(found, expected)


def test_the_kernels_that_run_programs_are_lowered_directly() -> None:
    with directly():
        for kernel in threads.KERNELS:
            assert build(kernel).address
        assert len(set(build_together(threads.KERNELS, "team_again"))) == len(threads.KERNELS)


# --- functions, and what is left to numba -----------------------------------------------------------------------------


load_arg, load_i64, store_i64, store_f64 = memory.load_arg, memory.load_i64, memory.store_i64, memory.store_f64


def find(values, count, limit):  # type: ignore[no-untyped-def]
    for k in range(count):
        if load_i64(values, k) > limit:
            return k
    return -1


def note(out, count):  # type: ignore[no-untyped-def]
    if count > 3:
        return
    store_i64(out, 0, count)


def calls_others(p, lo, hi):  # type: ignore[no-untyped-def]
    values = load_arg(p, 0)
    out = load_arg(p, 1)
    note(out, 2)
    note(out, 5)
    store_i64(out, 1, find(values, hi, 4) + 10 * find(values, hi, 100))
    return 0


def test_functions_are_written_out_where_they_are_called() -> None:
    values, out = np.arange(9), np.zeros(2, np.int64)
    with directly():
        assert launch(build(calls_others).address, 9, 1.0, values, out) == 0
    assert out.tolist() == [2, 5 - 10]


@emit.shared
def shared_find(values, count, limit):  # type: ignore[no-untyped-def]
    for k in range(count):
        if load_i64(values, k) > limit:
            return k
    return -1


@emit.shared
def shared_note(out, place, value):  # type: ignore[no-untyped-def]
    if place < 0:
        return
    store_i64(out, place, value)


def finds_twice(p, lo, hi):  # type: ignore[no-untyped-def]
    values, out = load_arg(p, 0), load_arg(p, 1)
    shared_note(out, 0, shared_find(values, hi, 4))
    shared_note(out, -1, shared_find(values, hi, 5))
    return shared_find(values, hi, 100)


def finds_once(p, lo, hi):  # type: ignore[no-untyped-def]
    values, out = load_arg(p, 0), load_arg(p, 1)
    shared_note(out, 1, shared_find(values, hi, 6))
    return 0


def test_shared_functions_are_there_once_for_all_kernels_of_a_module() -> None:
    values, out = np.arange(9), np.zeros(2, np.int64)
    twice, once = build_together((finds_twice, finds_once), "finding")
    assert launch(twice, 9, 1.0, values, out) == -1
    assert launch(once, 9, 1.0, values, out) == 0
    assert out.tolist() == [5, 7]
    texts = {function: inspect.getsource(function) for function in (finds_twice, finds_once)}
    written = frontend.lower_together(texts, "finding").text
    assert written.count("define internal i64") == 2


@emit.shared
def shared_number(out, number):  # type: ignore[no-untyped-def]
    store_f64(out, 0, number)


def shares_a_float(p, lo, hi):  # type: ignore[no-untyped-def]
    shared_number(load_arg(p, 0), 1.5)
    return 0


@emit.shared
def shared_half(number):  # type: ignore[no-untyped-def]
    return 0.5 * number


def takes_a_float(p, lo, hi):  # type: ignore[no-untyped-def]
    store_f64(load_arg(p, 0), 0, shared_half(hi))
    return 0


@emit.shared
def shared_endless(number):  # type: ignore[no-untyped-def]
    return shared_endless(number)


def calls_itself(p, lo, hi):  # type: ignore[no-untyped-def]
    return shared_endless(hi)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (shares_a_float, "of other than int64"),
        (takes_a_float, "gives other than int64"),
        (calls_itself, "calls itself"),
    ],
)
def test_shared_functions_are_of_whole_numbers_and_do_not_call_themselves(function: Any, message: str) -> None:
    with pytest.raises(KernelBuildError, match=message):
        frontend.lower_together({function: inspect.getsource(function)}, "refused")


def kernel(*lines: str) -> str:
    return "def kernel(p, lo, hi):\n" + "".join(f"    {line}\n" for line in lines) + "    return 0\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["x = 1", "x = 1.5"],
        ["x = hi ** 2"],
        ["x = 0 < lo < hi"],
        ["for j in range(0, hi, lo):", "    pass"],
        ["if hi > 3:", "    x = 1", "y = min(1.5, 2.5)"],
        ["x = (lo, hi)"],
        ["x, y = (lo, hi), 1"],
        ["x = +lo"],
        ["x = y = lo"],
        ["x = 1.5 // 2.0"],
        ["for j in range(hi):", "    pass", "else:", "    x = 1"],
        ["x = load_i64(index=0, address=lo)"],
        ["x = 9223372036854775808"],
    ],
)
def test_other_text_is_left_to_numba(lines: list[str]) -> None:
    text = kernel(*lines)
    with pytest.raises(Unsupported):
        frontend.lower_directly(function_of(text, "kernel"), text)


@pytest.mark.parametrize("lines", [["x = 1", "x = 1.5"], ["x = 0 < lo < hi"], ["y = min(1.5, 2.5)"]])
def test_what_is_left_to_numba_is_built(lines: list[str]) -> None:
    assert launch(build(kernel(*lines), "kernel").address, 3, 1.0) == 0


def test_a_range_may_go_down_and_its_name_may_change() -> None:
    text = kernel(
        "out = load_arg(p, 0)",
        "at = 0",
        "for j in range(hi, lo, -2):",
        "    j = j * 10",
        "    store_i64(out, at, j)",
        "    at += 1",
    )
    out = np.zeros(5, np.int64)
    with directly():
        launch(build(text, "kernel").address, 9, 1.0, out)
    assert out.tolist() == [90, 70, 50, 30, 10]


def test_names_that_have_one_value_take_no_memory() -> None:
    lines = [
        "base = load_arg(p, 0)",
        "last = base",
        "for u in range(lo, hi):",
        "    twice = u * 2",
        "    if twice > 4:",
        "        once = twice - 1",
        "        last = once",
        "    else:",
        "        behind = lo",
        "    if u == lo:",
        "        before = 7",
        "    store_i64(base, u, twice + before + last)",
        "return 0",
    ]
    text = "def settled(p, lo, hi):\n" + "".join(f"    {line}\n" for line in lines)
    function = function_of(text, "settled")
    lowered = frontend.lower_directly(function, text).text
    # The loop's counter, what is assigned twice, and what is read where it need not have been assigned.
    assert lowered.count("alloca") == 3
    out = np.zeros(6, np.int64)
    assert launch(build(text, "settled").address, 6, 1.0, out) == 0
    assert out.tolist() == [2 * u + 7 + (2 * u - 1 if u > 2 else out.ctypes.data) for u in range(6)]


def test_every_intrinsic_name_of_kernel_text_has_a_definition_that_can_be_asked() -> None:
    """`lowering` calls what numba keeps private in an intrinsic."""
    assert all(callable(value._defn) for name, value in namespace().items() if name.startswith("load_f"))
