"""Vectors times powers of two, in LLVM text: AVX-512 has an instruction that takes the exponents as floats.

In: the names of two vectors. Out: text of their product.
Must not know: loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracejit.kernels.vectors import TARGET
from tracejit.kernels.vmath.expression import SCALE, WHOLE, scale_of_vectors

_BITS = {"float": 32, "double": 64}
SCALES, WHOLES = ({name.format(bits) for bits in _BITS.values()} for name in (SCALE, WHOLE))
"""What stands for such a product in code for one element, and for what makes an exponent of a float."""


def scaled(
    kind: str, count: int, operands: Sequence[str], named: Callable[[str], str]
) -> tuple[str, dict[str, Any]]:
    """The instruction that gives x * 2**n, for vectors x and n of `count` floats, and the functions that it calls.

    `named` writes an instruction before it and gives its value's name. Vectors may be several of the machine's, as
    elements of memory may be shorter than what is computed.

    >>> scaled("float", 4, ("%x", "%n"), lambda text: "%unused")[0].partition("(")[0]
    'call <4 x float> @"llvm.x86.avx512.mask.scalef.ps.128"'
    """
    lanes = min(count, TARGET.vector_bytes * 8 // _BITS[kind])
    name, function, more = scale_of_vectors(_BITS[kind], lanes)

    def call(given: Sequence[str]) -> str:
        arguments = ", ".join([*(f"<{lanes} x {kind}> {x}" for x in given), *map(str, more)])
        return f'call <{lanes} x {kind}> @"{name}"({arguments})'

    if lanes == count:
        return call(operands), {name: function}
    parts = []
    for first in range(0, count, lanes):
        order = range(first, first + lanes)
        parts.append(call([named(_shuffled(kind, count, x, x, order)) for x in operands]))
    width = lanes
    while len(parts) > 1:
        names = list(map(named, parts))
        pairs = zip(names[::2], names[1::2], strict=True)
        parts = [_shuffled(kind, width, left, right, range(2 * width)) for left, right in pairs]
        width *= 2
    return parts[0], {name: function}


def _shuffled(kind: str, lanes: int, left: str, right: str, order: range) -> str:
    """Lanes of two vectors in another order."""
    vector, places = f"<{lanes} x {kind}>", ", ".join(f"i32 {k}" for k in order)
    return f"shufflevector {vector} {left}, {vector} {right}, <{len(order)} x i32> <{places}>"
