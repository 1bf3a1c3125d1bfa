"""Reductions of one run of adjacent elements, in an order that depends on its length alone, and exact half casts.

Element k of a run is folded into lane k mod 32, in ascending order; the 32 lanes are then folded as a tree, lane
l with lane l + 16, then l + 8, and so on. Lanes are LLVM vectors, so the order is the same on every CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tracejit.kernels.emit import Splat, emit_loop, freeze, integers, internal_function, own_name

LANES = 32
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


@dataclass(frozen=True, slots=True)
class Kind:
    """An element type that runs are folded in."""

    name: str
    llvm: Any
    numba: Any
    lowest: Any
    highest: Any

    @property
    def is_float(self) -> bool:
        return self.name in ("f32", "f64")

    @property
    def size(self) -> int:
        return {"f32": 4, "f64": 8}.get(self.name) or int(self.llvm.width) // 8

    @property
    def suffix(self) -> str:
        return self.name if self.is_float else f"i{self.llvm.width}"


def _integer(name: str, bits: int, kind: Any, signed: bool) -> Kind:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return Kind(name, ir.IntType(bits), kind, low, high)


_INFINITY = float("inf")
_KINDS = (
    Kind("f32", ir.FloatType(), types.float32, -_INFINITY, _INFINITY),
    Kind("f64", ir.DoubleType(), types.float64, -_INFINITY, _INFINITY),
    _integer("i8", 8, types.int8, True),
    _integer("i16", 16, types.int16, True),
    _integer("i32", 32, types.int32, True),
    _integer("i64", 64, types.int64, True),
    _integer("u8", 8, types.uint8, False),
)


FLOATS = _KINDS[:2]
"""The floating-point types that runs are folded in."""


def _add(builder: Any, kind: Kind, x: Any, y: Any) -> Any:
    return builder.fadd(x, y) if kind.is_float else builder.add(x, y)


def _mul(builder: Any, kind: Kind, x: Any, y: Any) -> Any:
    return builder.fmul(x, y) if kind.is_float else builder.mul(x, y)


def _wins(relation: str, builder: Any, kind: Kind, x: Any, y: Any) -> Any:
    """Whether y is beyond x."""
    if kind.is_float:
        return builder.fcmp_ordered(relation, y, x)
    compare = builder.icmp_unsigned if kind.name == "u8" else builder.icmp_signed
    return compare(relation, y, x)


def _beyond(relation: str, builder: Any, kind: Kind, x: Any, y: Any) -> Any:
    """The element that is beyond the other, x if neither is."""
    return builder.select(_wins(relation, builder, kind, x, y), y, x)


def _extreme(relation: str) -> Callable[..., Any]:
    def step(builder: Any, kind: Kind, x: Any, y: Any) -> Any:
        if not kind.is_float:
            return _beyond(relation, builder, kind, x, y)
        # A select of what is at a place and stored there again would become a masked store, slow where masks are not
        # registers (AVX2 of AMD's: a dozen cycles a vector): LLVM does not look through `freeze`.
        x = freeze(builder, x)
        wins = _wins(relation, builder, kind, x, y)
        # The later element wins if it is beyond, or if it is NaN; a NaN that is there is never beaten.
        return builder.select(builder.or_(wins, builder.fcmp_unordered("uno", y, y)), y, x)

    return step


# -0.0 is the identity of a sum: x + -0.0 has the bits of x, also for x = -0.0.
_RELATIONS = {"amax": ">", "amin": "<"}
"""How an element is to the one that it beats."""

_FOLDS: dict[str, tuple[Callable[..., Any], Callable[[Kind], Any]]] = {
    "sum": (_add, lambda kind: -0.0 if kind.is_float else 0),
    "prod": (_mul, lambda kind: 1.0 if kind.is_float else 1),
    "amax": (_extreme(_RELATIONS["amax"]), lambda kind: kind.lowest),
    "amin": (_extreme(_RELATIONS["amin"]), lambda kind: kind.highest),
}


class _Chain:
    """What a loop carries from a step of a fold to the next: lanes, or what they are made of in the end.

    An extreme is carried without NaN, which is one instruction, and the last NaN beside it, which waits for nothing but
    its own element; with both in one step a loop takes twice as long.
    """

    def __init__(self, builder: Any, what: str, kind: Kind) -> None:
        self._builder = builder
        self._what = what
        self._kind = kind
        self._relation = _RELATIONS.get(what) if kind.is_float else None
        self.start = [write_start(what, kind)] * (2 if self._relation else 1)

    def step(self, sofar: list[Any], x: Any) -> list[Any]:
        b = self._builder
        if self._relation is None:
            return [write_step(b, self._what, self._kind, sofar[0], x)]
        extreme, nan = sofar
        beyond = _beyond(self._relation, b, self._kind, extreme, x)
        return [beyond, b.select(b.fcmp_unordered("uno", x, x), x, nan)]

    def fold(self, last: list[Any]) -> Any:
        """What the lanes give that the steps one after another would give.

        A step of a tree that looks for NaN takes three times as long, and all that follows waits: they are looked for
        once.
        """
        b, what, kind, relation = self._builder, self._what, self._kind, self._relation
        if relation is None:
            return _write_halves(b, last[0], lambda x, y: write_step(b, what, kind, x, y))
        extreme, nan = last
        is_nan = b.fcmp_unordered("uno", nan, nan)
        flags = b.bitcast(is_nan, ir.IntType(LANES))
        with b.if_else(b.icmp_unsigned("!=", flags, ir.Constant(flags.type, 0)), likely=False) as (rare, usual):
            with rare:
                lanes = b.select(is_nan, nan, extreme)
                careful = _write_halves(b, lanes, lambda x, y: write_step(b, what, kind, x, y))
                beside = b.block
            with usual:
                quick = _write_halves(b, extreme, lambda x, y: _beyond(relation, b, kind, x, y))
                along = b.block
        value = b.phi(kind.llvm)
        value.add_incoming(careful, beside)
        value.add_incoming(quick, along)
        return value


def _tail_mask(builder: Any, count: Any) -> Any:
    """True in the first `count` lanes."""
    wide = ir.VectorType(_I32, LANES)
    first = builder.insert_element(ir.Constant(wide, ir.Undefined), builder.trunc(count, _I32), _I32(0))
    counts = builder.shuffle_vector(first, ir.Constant(wide, ir.Undefined), integers(*[0] * LANES))
    return builder.icmp_signed("<", integers(*range(LANES)), counts)


def start_of(what: str, kind: Kind) -> Any:
    """The number that a fold starts from, which changes nothing."""
    return _FOLDS[what][1](kind)


def write_start(what: str, kind: Kind) -> Any:
    """What the lanes of a fold start from, in LLVM code."""
    return Splat(ir.VectorType(kind.llvm, LANES), start_of(what, kind))


def write_rest(builder: Any, what: str, kind: Kind, lanes: Any, at: Any, rest: Any) -> Any:
    """Folds `rest` elements, fewer than there are lanes, from the address `at` on into lanes, in LLVM code."""

    def step(sofar: list[Any], x: Any) -> list[Any]:
        return [write_step(builder, what, kind, sofar[0], x)]

    return _write_rest(builder, what, kind, [lanes], at, rest, step)[0]


def _write_rest(
    builder: Any,
    what: str,
    kind: Kind,
    sofar: list[Any],
    at: Any,
    rest: Any,
    step: Callable[[list[Any], Any], list[Any]],
) -> list[Any]:
    before = builder.block
    with builder.if_then(builder.icmp_signed(">", rest, _I64(0))):
        mask = _tail_mask(builder, rest)
        start = write_start(what, kind)
        arguments = [at, _I32(kind.size), mask, start]
        function_type = ir.FunctionType(start.type, [a.type for a in arguments])
        name = f"llvm.masked.load.v{LANES}{kind.suffix}.p0"
        part = builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)
        tail = step(sofar, part)
        inside = builder.block
    values = [builder.phi(start.type) for _ in sofar]
    for value, old, new in zip(values, sofar, tail, strict=True):
        value.add_incoming(old, before)
        value.add_incoming(new, inside)
    return values


def write_tree(builder: Any, what: str, kind: Kind, lanes: Any) -> Any:
    """Folds lanes as a tree, in LLVM code: each with that half of them on."""
    chain = _Chain(builder, what, kind)
    return chain.fold([lanes] * len(chain.start))


def _write_halves(builder: Any, lanes: Any, step: Callable[[Any, Any], Any]) -> Any:
    width = LANES
    while width > 1:
        width //= 2
        undefined = ir.Constant(lanes.type, ir.Undefined)
        low = builder.shuffle_vector(lanes, undefined, integers(*range(width)))
        high = builder.shuffle_vector(lanes, undefined, integers(*range(width, 2 * width)))
        lanes = step(low, high)
    return builder.extract_element(lanes, _I32(0))


def _write_fold(builder: Any, what: str, kind: Kind, address: Any, count: Any) -> Any:
    vector = ir.VectorType(kind.llvm, LANES)
    chain = _Chain(builder, what, kind)

    def turn(state: list[Any]) -> list[Any]:
        at, *sofar = state
        part = builder.load(at, align=kind.size)
        return [builder.gep(at, [_I32(1)]), *chain.step(sofar, part)]

    first = builder.inttoptr(address, vector.as_pointer())
    whole = builder.ashr(count, _I64(LANES.bit_length() - 1))
    # Each lane is a chain: more of its steps in a turn of the loop would only be more code.
    at, *last = emit_loop(builder, whole, [first, *chain.start], turn, rolled=True)
    rest = builder.and_(count, _I64(LANES - 1))
    return chain.fold(_write_rest(builder, what, kind, last, at, rest, chain.step))


def _define_fold(what: str, kind: Kind) -> Any:
    def write(builder: Any, arguments: tuple[Any, ...]) -> Any:
        return _write_fold(builder, what, kind, *arguments)

    def fold(typingctx: Any, address: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            # A function, as its code is long and kernels fold several runs; only one of them has it written out.
            name = f"lanes_{what}_{kind.name}"
            again = own_name(builder.module, name) in builder.module.globals
            function = internal_function(builder.module, name, 2, write, kind.llvm)
            function.attributes.discard("alwaysinline")
            function.attributes.add("noinline" if again else "alwaysinline")
            return builder.call(function, args)

        return kind.numba(types.int64, types.int64), codegen

    fold.__name__ = fold.__qualname__ = f"fold_{what}_{kind.name}"
    fold.__doc__ = f"The {what} of `count` adjacent {kind.name} from `address` on."
    return intrinsic(fold)


def write_step(builder: Any, what: str, kind: Kind, x: Any, y: Any) -> Any:
    """One step of a fold, in LLVM code: what is there, and the next element."""
    return _FOLDS[what][0](builder, kind, x, y)


def _define_step(what: str, kind: Kind) -> Any:
    combine = _FOLDS[what][0]

    def step(typingctx: Any, x: Any, y: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return combine(builder, kind, *args)

        return kind.numba(kind.numba, kind.numba), codegen

    step.__name__ = step.__qualname__ = f"step_{what}_{kind.name}"
    step.__doc__ = f"One step of a {what}: what is there, and the next element, both {kind.name}."
    return intrinsic(step)


def _define_identity(what: str, kind: Kind) -> Any:
    number = start_of(what, kind)

    def identity(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return ir.Constant(kind.llvm, number)

        return kind.numba(), codegen

    identity.__name__ = identity.__qualname__ = f"start_{what}_{kind.name}"
    identity.__doc__ = f"What a {what} of {kind.name} starts from."
    return intrinsic(identity)


fold_sum_f32, fold_sum_f64, fold_sum_i8, fold_sum_i16, fold_sum_i32, fold_sum_i64, fold_sum_u8 = (
    _define_fold("sum", kind) for kind in _KINDS
)
fold_prod_f32, fold_prod_f64, fold_prod_i8, fold_prod_i16, fold_prod_i32, fold_prod_i64, fold_prod_u8 = (
    _define_fold("prod", kind) for kind in _KINDS
)
fold_amax_f32, fold_amax_f64, fold_amax_i8, fold_amax_i16, fold_amax_i32, fold_amax_i64, fold_amax_u8 = (
    _define_fold("amax", kind) for kind in _KINDS
)
fold_amin_f32, fold_amin_f64, fold_amin_i8, fold_amin_i16, fold_amin_i32, fold_amin_i64, fold_amin_u8 = (
    _define_fold("amin", kind) for kind in _KINDS
)
step_sum_f32, step_sum_f64, step_sum_i8, step_sum_i16, step_sum_i32, step_sum_i64, step_sum_u8 = (
    _define_step("sum", kind) for kind in _KINDS
)
step_prod_f32, step_prod_f64, step_prod_i8, step_prod_i16, step_prod_i32, step_prod_i64, step_prod_u8 = (
    _define_step("prod", kind) for kind in _KINDS
)
step_amax_f32, step_amax_f64, step_amax_i8, step_amax_i16, step_amax_i32, step_amax_i64, step_amax_u8 = (
    _define_step("amax", kind) for kind in _KINDS
)
step_amin_f32, step_amin_f64, step_amin_i8, step_amin_i16, step_amin_i32, step_amin_i64, step_amin_u8 = (
    _define_step("amin", kind) for kind in _KINDS
)
start_sum_f32, start_sum_f64, start_sum_i8, start_sum_i16, start_sum_i32, start_sum_i64, start_sum_u8 = (
    _define_identity("sum", kind) for kind in _KINDS
)
start_prod_f32, start_prod_f64, start_prod_i8, start_prod_i16, start_prod_i32, start_prod_i64, start_prod_u8 = (
    _define_identity("prod", kind) for kind in _KINDS
)
start_amax_f32, start_amax_f64, start_amax_i8, start_amax_i16, start_amax_i32, start_amax_i64, start_amax_u8 = (
    _define_identity("amax", kind) for kind in _KINDS
)
start_amin_f32, start_amin_f64, start_amin_i8, start_amin_i16, start_amin_i32, start_amin_i64, start_amin_u8 = (
    _define_identity("amin", kind) for kind in _KINDS
)


def _extreme_in_numpy(relation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda x, y: np.where(relation(y, x) | (y != y), y, x)


STEPS_IN_NUMPY: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add,
    "prod": np.multiply,
    "amax": _extreme_in_numpy(np.greater),
    "amin": _extreme_in_numpy(np.less),
}
"""One step of each fold of floats: what is there, and the next element."""


def fold_in_numpy(what: str, rows: Any) -> Any:
    """The folds of the rows of a float32 or float64 array, step by step as the kernels do them, with the same bits.

    Cost: a loop of NumPy's for each 32 elements of a row.
    """
    step = STEPS_IN_NUMPY[what]
    count, size = rows.shape
    turns = -(-size // LANES)
    kind = _KINDS[0] if rows.dtype == np.float32 else _KINDS[1]
    padded = np.full((count, turns * LANES), _FOLDS[what][1](kind), rows.dtype)
    padded[:, :size] = rows
    lanes = padded[:, :LANES]
    for turn in range(1, turns):
        lanes = step(lanes, padded[:, turn * LANES : (turn + 1) * LANES])
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = step(lanes[:, :half], lanes[:, half:])
    return lanes[:, 0]


@intrinsic
def half_f64(typingctx: Any, x: Any) -> Any:
    """A float64 rounded once to half precision, as a float32.

    Going through float32 would round twice, so it is rounded to odd there: inexact results get their last bit set.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        single = builder.fptrunc(args[0], ir.FloatType())
        back = builder.fpext(single, ir.DoubleType())
        bits = builder.bitcast(single, _I32)
        even = builder.icmp_signed("==", builder.and_(bits, _I32(1)), _I32(0))
        inexact = builder.and_(builder.fcmp_ordered("!=", back, args[0]), even)
        # An even neighbour that lies farther from zero than the value steps back, else one step out.
        fabs = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.DoubleType(), [ir.DoubleType()]), "llvm.fabs.f64"
        )
        beyond = builder.fcmp_ordered(">", builder.call(fabs, [back]), builder.call(fabs, [args[0]]))
        moved = builder.select(beyond, builder.sub(bits, _I32(1)), builder.add(bits, _I32(1)))
        odd = builder.bitcast(builder.select(inexact, moved, bits), ir.FloatType())
        return builder.fpext(builder.fptrunc(odd, ir.HalfType()), ir.FloatType())

    return types.float32(types.float64), codegen
