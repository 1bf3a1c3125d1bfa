"""Elementwise functions with PyTorch's argument rules: promotion, numbers, operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy import ndarray

from tracejit import dtypes
from tracejit.ops.record import Op, ops
from tracejit.tensor.beside_arrays import with_array
from tracejit.tensor.dispatch import apply, apply_pair, apply_single, beside
from tracejit.tensor.promote import floating, in_single, operand, result_type, tensor_of, to_dtype
from tracejit.tensor.scalar import alike, is_one_of, plain
from tracejit.tensor.tensor import Tensor, method

_BEYOND = 1 << 63
"""The first whole number that 64 bits do not hold."""


def binary(op: Op, x: Any, y: Any) -> Any:
    """Apply an elementwise record to two operands in their common type."""
    if isinstance(x, Tensor):
        if isinstance(y, Tensor):
            if x._dtype is y._dtype:
                return apply_pair(op, x, y)
        elif x._dtype.category == 2 and (type(y) is float or (type(y) is int and -_BEYOND <= y < _BEYOND)):
            return apply(op, (x, y))
        if type(y) is ndarray:
            return with_array(op, x, y)
    x, y = operand(x, op.name), operand(y, op.name)
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        x = tensor_of(x)
    d = result_type(x, y)
    return apply(op, (to_dtype(x, d), to_dtype(y, d)))


def _scaled(y: Any, alpha: Any) -> Any:
    if type(alpha) is int and alpha == 1:
        return y
    return binary(ops.mul, y, alpha) if isinstance(y, Tensor) else plain(y) * plain(alpha)


@method("__add__", "__radd__")
def add(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """input + alpha * other.

    Shape: broadcast. DType: promoted; bools give their disjunction.

    >>> import tracejit as tj
    >>> tj.add(tj.tensor([1, 2]), 0.5)
    tensor([1.5000, 2.5000])
    """
    if type(alpha) is int and alpha == 1:
        return binary(ops.add, input, other)
    return _with_scaled(input, other, alpha, ops.add)


@in_single
def _with_scaled(x: Any, y: Any, alpha: Any, op: Op) -> Any:
    return binary(op, x, _scaled(y, alpha))


def _boolean(x: Any) -> bool:
    return x._dtype is dtypes.bool if isinstance(x, Tensor) else type(x) is bool


@method("__sub__", "subtract")
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """input - alpha * other.

    Shape: broadcast. DType: promoted. Raises: RuntimeError for bools.
    """
    if _boolean(input) or _boolean(other):
        raise RuntimeError(
            "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a mask, "
            "use the `~` or `logical_not()` operator instead."
        )
    if type(alpha) is int and alpha == 1:
        return binary(ops.sub, input, other)
    return _with_scaled(input, other, alpha, ops.sub)


subtract = sub


@method("__rsub__")
def rsub(input: Any, other: Any) -> Any:
    """other - input."""
    return sub(other, input)


@method("__mul__", "__rmul__", "multiply")
def mul(input: Any, other: Any) -> Any:
    """input * other.

    Shape: broadcast. DType: promoted; bools give their conjunction.
    """
    return binary(ops.mul, input, other)


multiply = mul


@method("__truediv__", "divide", "true_divide")
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other; with `rounding_mode` "trunc" or "floor" the rounded quotient.

    Shape: broadcast. DType: promoted, integers to the default float type; with a rounding mode integers stay.
    Raises: RuntimeError for an integer division by zero with a rounding mode.
    """
    if rounding_mode is None:
        if isinstance(input, Tensor) and input._dtype.category == 2:
            return binary(ops.div, input, other)
        if type(other) is ndarray:
            return with_array(ops.div, input, other)
        x, y = operand(input, "div"), operand(other, "div")
        if not isinstance(x, Tensor) and not isinstance(y, Tensor):
            x = tensor_of(x)
        d = result_type(x, y)
        if not d.is_floating_point:
            d = dtypes.get_default_dtype()
        return apply(ops.div, (to_dtype(x, d), to_dtype(y, d)))
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise RuntimeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '" + str(rounding_mode) + "'"
        )
    if result_type(input, other).is_floating_point:
        return trunc(div(input, other))
    return binary(ops.trunc_divide, input, other)


divide = true_divide = div


@method("__rtruediv__")
def rdiv(input: Any, other: Any) -> Any:
    """other / input."""
    return div(other, input)


_BY_KNOWN = {ops.floor_divide: ops.floor_quotient, ops.remainder: ops.floor_rest}
"""What does the same where the divisor is known not to be 0, so that nothing need be raised."""


_OF_FLOATS = {
    ops.floor_divide: ops.float_floor_divide,
    ops.remainder: ops.float_remainder,
    ops.fmod: ops.float_fmod,
}
"""What does the same to floats, whose division by 0 raises nothing."""


def _divided(op: Op, x: Any, y: Any, name: str) -> Any:
    """A quotient or remainder, which bools do not have."""
    if type(y) is ndarray and isinstance(x, Tensor):
        return with_array(_OF_FLOATS[op], x, y)
    kind = result_type(operand(x, name), operand(y, name))
    if kind.category == 0:
        raise NotImplementedError(f"\"{name}_cpu\" not implemented for 'Bool'")
    if kind.is_floating_point:
        return binary(_OF_FLOATS[op], x, y)
    known = _BY_KNOWN.get(op)
    if known is not None and isinstance(x, Tensor) and not isinstance(y, Tensor):
        # Numbers wrap around where they become elements.
        if y % (1 << 8 * kind.itemsize) == 0:
            raise RuntimeError("ZeroDivisionError")
        return binary(known, x, y)
    return binary(op, x, y)


@method("__floordiv__")
def floor_divide(input: Any, other: Any) -> Any:
    """Quotient rounded towards minus infinity.

    Raises: RuntimeError for an integer division by zero.
    """
    return _divided(ops.floor_divide, input, other, "div_floor")


@method("__rfloordiv__")
def rfloordiv(input: Any, other: Any) -> Any:
    """other // input."""
    return floor_divide(other, input)


@method("__mod__")
def remainder(input: Any, other: Any) -> Any:
    """Remainder with the sign of the divisor."""
    return _divided(ops.remainder, input, other, "remainder")


@method("__rmod__")
def rmod(input: Any, other: Any) -> Any:
    """other % input."""
    return remainder(other, input)


@method()
def fmod(input: Any, other: Any) -> Any:
    """Remainder with the sign of the dividend."""
    return _divided(ops.fmod, input, other, "fmod")


@method("__pow__")
def pow(input: Any, exponent: Any) -> Any:
    """`input` to the power of `exponent`.

    Shape: broadcast. DType: promoted. Edge: small whole exponents are products, 0.5 is a square root.
    Raises: RuntimeError for integers to a negative integer power.
    """
    if isinstance(input, Tensor) and not isinstance(exponent, Tensor):
        if type(exponent) is ndarray:
            return with_array(ops.pow, input, exponent)
        return _power_of(input, operand(exponent, "pow"))
    x, y = operand(input, "pow"), operand(exponent, "pow")
    d = result_type(x, y)
    if d.category == 0:
        raise NotImplementedError("\"pow\" not implemented for 'Bool'")
    if not d.is_floating_point:
        x, y = (tensor_of(v).to(dtypes.float64) for v in (x, y))
        return apply(ops.cast, (rint_pow(x, y),), (d,))
    if isinstance(x, Tensor):
        return apply(ops.pow, (to_dtype(x, d), to_dtype(y, d)))
    return apply(ops.pow, (beside(y, ops.full, (x,), ((), d)), to_dtype(y, d)))


def rint_pow(x: Tensor, y: Tensor) -> Any:
    """A power rounded to the nearest integer: integer powers computed in float64."""
    return apply(ops.round, (apply(ops.pow, (x, y)),))


_SPECIAL = (2.0, 1.0, 3.0, 0.5, -0.5, -1.0, -2.0)
"""Powers that are computed by other operations."""


def _power_of(x: Tensor, exponent: Any) -> Any:
    if isinstance(alike(exponent), float) and not is_one_of(exponent, _SPECIAL):
        return apply(ops.pow, (floating(x), exponent))
    e = plain(exponent)
    if isinstance(e, float) and not x._dtype.is_floating_point:
        x = floating(x)
    if x._dtype is dtypes.bool:
        if type(e) is bool:
            raise NotImplementedError("\"pow\" not implemented for 'Bool'")
        x = to_dtype(x, dtypes.int64)
    if e == 2:
        return apply(ops.mul, (x, x))
    if e == 1:
        return apply(ops.copy, (x,))
    if e == 3:
        return apply(ops.mul, (apply(ops.mul, (x, x)), x))
    if not x._dtype.is_floating_point:
        if e < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
        out = beside(x, ops.full, (1,), (x._shape, dtypes.int64 if x._dtype is dtypes.bool else x._dtype))
        # By squares: the exponent may be any whole number, and integers wrap the same way whatever the order.
        base, left = x, int(e)
        while left:
            if left & 1:
                out = binary(ops.mul, out, base)
            left >>= 1
            if left:
                base = binary(ops.mul, base, base)
        return out
    if e == 0.5:
        return apply(ops.sqrt, (x,))
    if e == -0.5:
        return rsqrt(x)
    if e == -1:
        return apply(ops.div, (1.0, x))
    if e == -2:
        return apply(ops.div, (1.0, apply(ops.mul, (x, x))))
    return apply(ops.pow, (x, float(e)))


@method("__rpow__")
def rpow(input: Any, other: Any) -> Any:
    """other ** input."""
    return pow(other, input)


@method("arctan2")
def atan2(input: Any, other: Any) -> Any:
    """The angle of the point (other, input)."""
    d = result_type(input, other)
    if not d.is_floating_point:
        d = dtypes.get_default_dtype()
    return apply(ops.atan2, (to_dtype(input, d), to_dtype(other, d)))


# --- comparison and logic ---------------------------------------------------------------------------------------------


def _comparison(name: str, dunder: str, *aliases: str) -> Callable[[Any, Any], Any]:
    op: Op = getattr(ops, name)

    def compare(input: Any, other: Any) -> Any:
        if not isinstance(other, Tensor) and dunder in ("__eq__", "__ne__") and not _is_number(other):
            return NotImplemented
        return binary(op, input, other)

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"{op.doc}\n\nShape: broadcast. DType: bool."
    return method(dunder, *aliases)(compare)


def _is_number(x: Any) -> bool:
    if type(x) is ndarray:
        return True
    try:
        operand(x, "comparison")
    except TypeError:
        return False
    return True


eq = _comparison("eq", "__eq__")
ne = _comparison("ne", "__ne__", "not_equal")
lt = _comparison("lt", "__lt__", "less")
le = _comparison("le", "__le__", "less_equal")
gt = _comparison("gt", "__gt__", "greater")
ge = _comparison("ge", "__ge__", "greater_equal")
# Assigning __eq__ after the class statement leaves __hash__ as it is: a tensor hashes by identity.


def truth(x: Any) -> Any:
    """A tensor as bools: whether each element is not zero."""
    x = tensor_of(x)
    return x if x._dtype is dtypes.bool else apply(ops.ne, (x, 0))


@method()
def logical_not(input: Tensor) -> Any:
    """Whether each element is zero. DType: bool."""
    return apply(ops.bitwise_not, (truth(input),))


@method()
def logical_and(input: Any, other: Any) -> Any:
    """Whether both elements are not zero. DType: bool."""
    return apply(ops.bitwise_and, (truth(input), truth(other)))


@method()
def logical_or(input: Any, other: Any) -> Any:
    """Whether either element is not zero. DType: bool."""
    return apply(ops.bitwise_or, (truth(input), truth(other)))


@method()
def logical_xor(input: Any, other: Any) -> Any:
    """Whether one element is zero and the other is not. DType: bool."""
    return apply(ops.bitwise_xor, (truth(input), truth(other)))


def _bits(name: str, *names: str) -> Callable[[Any, Any], Any]:
    op: Op = getattr(ops, name)

    def function(input: Any, other: Any) -> Any:
        if type(other) is ndarray and isinstance(input, Tensor):
            return with_array(op, input, other)
        x, y = operand(input, name), operand(other, name)
        if not isinstance(x, Tensor) and not isinstance(y, Tensor):
            x = tensor_of(x)
        d = result_type(x, y)
        if d.is_floating_point or (d is dtypes.bool and "b" not in op.kinds):
            raise NotImplementedError(f'"{name}_cpu" not implemented for \'{d.title}\'')
        return apply(op, (to_dtype(x, d), to_dtype(y, d)))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{op.doc}\n\nShape: broadcast. DType: promoted. Raises: NotImplementedError for floats."
    return method(*names)(function)


bitwise_and = _bits("bitwise_and", "__and__", "__rand__")
bitwise_or = _bits("bitwise_or", "__or__", "__ror__")
bitwise_xor = _bits("bitwise_xor", "__xor__", "__rxor__")
bitwise_left_shift = _bits("left_shift", "__lshift__", "bitwise_left_shift")
bitwise_right_shift = _bits("right_shift", "__rshift__", "bitwise_right_shift")


@method()
def __rlshift__(self: Tensor, other: Any) -> Any:
    """other << self."""
    return bitwise_left_shift(other, self)


@method()
def __rrshift__(self: Tensor, other: Any) -> Any:
    """other >> self."""
    return bitwise_right_shift(other, self)


@method()
def bitwise_not(input: Tensor) -> Any:
    """Complement of the bits; of bools the negation. Raises: NotImplementedError for floats."""
    if input._dtype.is_floating_point:
        raise NotImplementedError(f"\"bitwise_not_cpu\" not implemented for '{input._dtype.title}'")
    return apply(ops.bitwise_not, (input,))


@method()
def __invert__(self: Tensor) -> Any:
    """Complement of the bits; of bools the negation. Raises: TypeError for floats."""
    if self._dtype.is_floating_point:
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return apply(ops.bitwise_not, (self,))


# --- functions of one operand -----------------------------------------------------------------------------------------


def of_floats(name: str, *names: str) -> Callable[[Tensor], Any]:
    """A function that computes in a floating point type."""
    op: Op = getattr(ops, name)

    def function(input: Tensor) -> Any:
        if not isinstance(input, Tensor):
            raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(input).__name__}")
        return apply_single(op, floating(input))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{op.doc}\n\nShape: kept. DType: floats stay, others become the default float type."
    return method(*names)(function)


exp = of_floats("exp")
exp2 = of_floats("exp2")
expm1 = of_floats("expm1")
log = of_floats("log")
log1p = of_floats("log1p")
log2 = of_floats("log2")
log10 = of_floats("log10")
sin = of_floats("sin")
cos = of_floats("cos")
tan = of_floats("tan")
tanh = of_floats("tanh")
sinh = of_floats("sinh")
cosh = of_floats("cosh")
asin = of_floats("asin", "arcsin")
acos = of_floats("acos", "arccos")
atan = of_floats("atan", "arctan")
sigmoid = of_floats("sigmoid")
erf = of_floats("erf")
sqrt = of_floats("sqrt")


@method()
@in_single
def rsqrt(input: Tensor) -> Any:
    """1 / sqrt(input)."""
    return apply(ops.div, (1.0, apply(ops.sqrt, (floating(input),))))


@method()
def reciprocal(input: Tensor) -> Any:
    """1 / input."""
    return apply(ops.div, (1.0, floating(input)))


@method()
def square(input: Tensor) -> Any:
    """input * input. DType: of bools int64."""
    x = to_dtype(input, dtypes.int64) if input._dtype is dtypes.bool else input
    return apply(ops.mul, (x, x))


def flush_denormal(input: Tensor) -> Any:
    """The elements, or 0 where they are subnormal. DType: floating point, kept."""
    return apply(ops.flush_denormal, (input,))


def _kept(name: str, *names: str) -> Callable[[Tensor], Any]:
    """A function that keeps the type; on types for which it changes nothing it copies."""
    op: Op = getattr(ops, name)

    def function(input: Tensor) -> Any:
        kind = "bif"[input._dtype.category]
        if kind in op.kinds:
            return apply_single(op, input)
        if kind == "b" and name == "neg":
            raise RuntimeError(
                "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, "
                "use the `~` or `logical_not()` operator instead."
            )
        if kind == "b" and name != "sign":
            raise NotImplementedError(f"\"{name}_cpu\" not implemented for 'Bool'")
        return apply(ops.copy, (input,))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{op.doc}\n\nShape: kept. DType: kept."
    return method(*names)(function)


neg = _kept("neg", "__neg__", "negative")
abs = _kept("abs", "__abs__", "absolute")
sign = _kept("sign", "sgn")
floor = _kept("floor")
ceil = _kept("ceil")
trunc = _kept("trunc", "fix")
negative, absolute, sgn, fix = neg, abs, sign, trunc
_round = _kept("round")


@method()
def round(input: Tensor, *, decimals: int = 0) -> Any:
    """Nearest integer, ties to even; with `decimals` the nearest multiple of 10**-decimals."""
    if decimals == 0 or not input._dtype.is_floating_point:
        return _round(input)
    factor = 10.0**decimals
    return div(_round(mul(input, factor)), factor)


@method("__pos__")
def positive(input: Tensor) -> Tensor:
    """The tensor itself. Raises: RuntimeError for bools."""
    if input._dtype is dtypes.bool:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


@method()
def isnan(input: Tensor) -> Any:
    """Whether each element is not a number. DType: bool."""
    return apply(ops.ne, (input, input))


@method()
def isinf(input: Tensor) -> Any:
    """Whether each element is infinite. DType: bool."""
    if not input._dtype.is_floating_point:
        return apply(ops.ne, (input, input))
    return apply(ops.eq, (apply(ops.abs, (input,)), float("inf")))


@method()
def isfinite(input: Tensor) -> Any:
    """Whether each element is a finite number. DType: bool."""
    if not input._dtype.is_floating_point:
        return apply(ops.eq, (input, input))
    return apply(ops.lt, (apply(ops.abs, (input,)), float("inf")))


@method()
def maximum(input: Tensor, other: Tensor) -> Any:
    """The larger element; NaN if either is."""
    return binary(ops.maximum, input, other)


@method()
def minimum(input: Tensor, other: Tensor) -> Any:
    """The smaller element; NaN if either is."""
    return binary(ops.minimum, input, other)


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """`input` where the condition holds, else `other`.

    Shape: broadcast. DType: promoted from `input` and `other`.
    Raises: RuntimeError if the condition is not bool.
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if condition._dtype is not dtypes.bool:
        if condition._dtype is not dtypes.uint8:
            raise RuntimeError(
                f"where expected condition to be a boolean tensor, but got a tensor with dtype {condition._dtype}"
            )
        condition = truth(condition)
    x, y = operand(input, "where"), operand(other, "where")
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        x = beside(condition, ops.full, (x,), ((), dtypes.of_number(alike(x))))
    d = result_type(x, y)
    return apply(ops.where, (condition, to_dtype(x, d), to_dtype(y, d)))


@method("where")
def _where_method(self: Tensor, condition: Tensor, other: Any) -> Any:
    """The elements of the tensor where the condition holds, else `other`."""
    return where(condition, self, other)


@method()
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Any:
    """`value` where the mask holds, else the element.

    Raises: RuntimeError if the mask is not bool.
    """
    if mask._dtype is not dtypes.bool:
        raise RuntimeError(f"masked_fill_ only supports boolean masks, but got mask with dtype {mask._dtype}")
    if not isinstance(value, Tensor):
        value = operand(value, "masked_fill")
    return apply(ops.where, (mask, to_dtype(value, input._dtype), input))
