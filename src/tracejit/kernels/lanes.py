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

from tracejit.kernels.fold import FLOATS, LANES, Kind, write_step


class Lanes(types.Type):  # type: ignore[misc]
    """`LANES` elements of a floating-point type."""

    def __init__(self, element: Kind) -> None:
        super().__init__(name=f"lanes of {element.name}")
        self.element = element


@register_model(Lanes)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(kind.element.llvm, LANES))


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


def _define_into(what: str, kind: Kind) -> Any:
    lanes = _OF[kind.name]

    def into(typingctx: Any, place: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], ir.VectorType(kind.llvm, LANES).as_pointer())
            sofar = builder.load(at, align=kind.size)
            builder.store(write_step(builder, what, kind, sofar, args[1]), at, align=kind.size)
            return context.get_dummy_value()

        return types.void(types.int64, lanes), codegen

    return _named(into, f"into_{what}_{kind.name}", f"Folds x into the lanes of a {what} at `place`.")


load_lanes_f32, load_lanes_f64 = map(_define_load, FLOATS)
spread_lanes_f32, spread_lanes_f64 = map(_define_spread, FLOATS)
add_lanes_f32, add_lanes_f64 = (_define_arithmetic("add", kind) for kind in FLOATS)
sub_lanes_f32, sub_lanes_f64 = (_define_arithmetic("sub", kind) for kind in FLOATS)
mul_lanes_f32, mul_lanes_f64 = (_define_arithmetic("mul", kind) for kind in FLOATS)
div_lanes_f32, div_lanes_f64 = (_define_arithmetic("div", kind) for kind in FLOATS)
neg_lanes_f32, neg_lanes_f64 = map(_define_negation, FLOATS)
into_sum_f32, into_sum_f64 = (_define_into("sum", kind) for kind in FLOATS)
into_prod_f32, into_prod_f64 = (_define_into("prod", kind) for kind in FLOATS)
into_amax_f32, into_amax_f64 = (_define_into("amax", kind) for kind in FLOATS)
into_amin_f32, into_amin_f64 = (_define_into("amin", kind) for kind in FLOATS)
