"""As many elements at once as a fold has lanes: what a kernel computes with them until it folds them.

In: addresses, or scalars of a kernel. Out: numba intrinsics on values of the type `Lanes`, each one LLVM instruction.
Must not know: what is computed.

LLVM makes vectors of loops over elements, but not where results go to lanes in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from tracejit.kernels.fold import FLOATS, LANES, Kind, write_rest, write_start, write_step, write_tree


class Lanes(types.Type):  # type: ignore[misc]
    """`LANES` elements of a floating-point type."""

    def __init__(self, element: Kind) -> None:
        super().__init__(name=f"lanes of {element.name}")
        self.llvm = ir.VectorType(element.llvm, LANES)


@register_model(Lanes)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, kind.llvm)


_OF = {kind.name: Lanes(kind) for kind in FLOATS}


def _named(typed: Callable[..., Any], name: str, doc: str) -> Any:
    typed.__name__ = typed.__qualname__ = name
    typed.__doc__ = doc
    return intrinsic(typed)


def _define_load(kind: Kind) -> Any:
    lanes = _OF[kind.name]

    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], ir.VectorType(kind.llvm, LANES).as_pointer())
            return builder.load(at, align=kind.size)

        return lanes(types.int64), codegen

    return _named(load, f"load_lanes_{kind.name}", f"{LANES} adjacent {kind.name} from `address` on.")


def _define_spread(kind: Kind) -> Any:
    lanes = _OF[kind.name]

    def spread(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            undefined = ir.Constant(ir.VectorType(kind.llvm, LANES), ir.Undefined)
            first = builder.insert_element(undefined, args[0], ir.IntType(32)(0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
            return builder.shuffle_vector(first, undefined, zeros)

        return lanes(kind.numba), codegen

    return _named(spread, f"spread_lanes_{kind.name}", f"A {kind.name} in all lanes.")


def _define_arithmetic(what: str, kind: Kind) -> Any:
    lanes = _OF[kind.name]

    def arithmetic(typingctx: Any, x: Any, y: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, f"f{what}")(*args)

        return lanes(lanes, lanes), codegen

    return _named(arithmetic, f"{what}_lanes_{kind.name}", f"The {what} of the lanes of x and y.")


def _define_negation(kind: Kind) -> Any:
    lanes = _OF[kind.name]

    def negation(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.fneg(args[0])

        return lanes(lanes), codegen

    return _named(negation, f"neg_lanes_{kind.name}", "The lanes with the other sign.")


def _define_start(what: str, kind: Kind) -> Any:
    def start(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return write_start(what, kind)

        return _OF[kind.name](), codegen

    return _named(start, f"start_lanes_{what}_{kind.name}", f"What the lanes of a {what} of {kind.name} start from.")


def _define_into(what: str, kind: Kind) -> Any:
    lanes = _OF[kind.name]

    def into(typingctx: Any, sofar: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return write_step(builder, what, kind, *args)

        return lanes(lanes, lanes), codegen

    return _named(into, f"{what}_into_lanes_{kind.name}", f"The lanes of a {what} after those of x.")


def _define_rest(what: str, kind: Kind) -> Any:
    lanes = _OF[kind.name]

    def rest(typingctx: Any, sofar: Any, address: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            sofar, address, count = args
            at = builder.inttoptr(address, sofar.type.as_pointer())
            return write_rest(builder, what, kind, sofar, at, count)

        return lanes(lanes, types.int64, types.int64), codegen

    doc = f"The lanes of a {what} after `count` adjacent {kind.name} from `address` on, fewer than {LANES}."
    return _named(rest, f"{what}_rest_lanes_{kind.name}", doc)


def _define_tree(what: str, kind: Kind) -> Any:
    def tree(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return write_tree(builder, what, kind, args[0])

        return kind.numba(_OF[kind.name]), codegen

    return _named(tree, f"{what}_of_lanes_{kind.name}", f"The {what} of the lanes, folded as a tree.")


load_lanes_f32, load_lanes_f64 = map(_define_load, FLOATS)
spread_lanes_f32, spread_lanes_f64 = map(_define_spread, FLOATS)
add_lanes_f32, add_lanes_f64 = (_define_arithmetic("add", kind) for kind in FLOATS)
sub_lanes_f32, sub_lanes_f64 = (_define_arithmetic("sub", kind) for kind in FLOATS)
mul_lanes_f32, mul_lanes_f64 = (_define_arithmetic("mul", kind) for kind in FLOATS)
div_lanes_f32, div_lanes_f64 = (_define_arithmetic("div", kind) for kind in FLOATS)
neg_lanes_f32, neg_lanes_f64 = map(_define_negation, FLOATS)
start_lanes_sum_f32, start_lanes_sum_f64 = (_define_start("sum", kind) for kind in FLOATS)
start_lanes_prod_f32, start_lanes_prod_f64 = (_define_start("prod", kind) for kind in FLOATS)
start_lanes_amax_f32, start_lanes_amax_f64 = (_define_start("amax", kind) for kind in FLOATS)
start_lanes_amin_f32, start_lanes_amin_f64 = (_define_start("amin", kind) for kind in FLOATS)
sum_into_lanes_f32, sum_into_lanes_f64 = (_define_into("sum", kind) for kind in FLOATS)
prod_into_lanes_f32, prod_into_lanes_f64 = (_define_into("prod", kind) for kind in FLOATS)
amax_into_lanes_f32, amax_into_lanes_f64 = (_define_into("amax", kind) for kind in FLOATS)
amin_into_lanes_f32, amin_into_lanes_f64 = (_define_into("amin", kind) for kind in FLOATS)
sum_rest_lanes_f32, sum_rest_lanes_f64 = (_define_rest("sum", kind) for kind in FLOATS)
prod_rest_lanes_f32, prod_rest_lanes_f64 = (_define_rest("prod", kind) for kind in FLOATS)
amax_rest_lanes_f32, amax_rest_lanes_f64 = (_define_rest("amax", kind) for kind in FLOATS)
amin_rest_lanes_f32, amin_rest_lanes_f64 = (_define_rest("amin", kind) for kind in FLOATS)
sum_of_lanes_f32, sum_of_lanes_f64 = (_define_tree("sum", kind) for kind in FLOATS)
prod_of_lanes_f32, prod_of_lanes_f64 = (_define_tree("prod", kind) for kind in FLOATS)
amax_of_lanes_f32, amax_of_lanes_f64 = (_define_tree("amax", kind) for kind in FLOATS)
amin_of_lanes_f32, amin_of_lanes_f64 = (_define_tree("amin", kind) for kind in FLOATS)
