"""What an operation is: one record for each, the single source of truth.

In: nothing but shapes and element types. Out: records that say how an operation types, computes,
differentiates and is tested. Fronts (broadcast numbers, promote types, default arguments) live in
`tensor`; kernels live in `kernels` and are found by the record's family and name.
Must not know: tensors, graphs, kernels, devices.
"""

from tracejit.ops import (
    attention,
    contraction,
    create,
    dynamic,
    elementary,
    elementwise,
    index,
    normalization,
    order,
    random,
    reduction,
    resize,
    view,
    window,
)
from tracejit.ops.record import Op, install, ops

for _made in (ops.full, ops.iota, ops.uniform):
    _made.elsewhere()

__all__ = [
    "Op",
    "attention",
    "contraction",
    "create",
    "dynamic",
    "elementary",
    "elementwise",
    "index",
    "install",
    "normalization",
    "ops",
    "order",
    "random",
    "reduction",
    "resize",
    "view",
    "window",
]
