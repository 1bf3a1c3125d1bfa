"""The text of an elementwise record computes what its NumPy function does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.ops.text_runner import run_text
from tracejit import dtypes
from tracejit.ops.record import Op, ops

FLOATS = [0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan, 1e-40, -3e38]
INTEGERS = [0, 1, 2, 7, -1, -7, 100, -128]
VALUES = {dtypes.float32: FLOATS, dtypes.float64: FLOATS, dtypes.bfloat16: FLOATS, dtypes.int8: INTEGERS,
          dtypes.int64: INTEGERS, dtypes.bool: [False, True]}  # fmt: skip


@pytest.mark.parametrize("op", [op for op in ops.family("elementwise") if op.compiled], ids=repr)
def test_text_agrees_with_numpy(op: Op) -> None:
    for dtype, pool in VALUES.items():
        if "bif"[dtype.category] not in op.kinds:
            continue
        columns = zip(*itertools.product(pool, repeat=len(op.params)), strict=True)
        args = [np.array(column).astype(dtype.np) for column in columns]
        if op.name == "where":
            args[0] = np.signbit(args[0]) if dtype.is_floating_point else args[0] > 0
        attrs = (dtypes.float64,) if op.attrs else ()
        with np.errstate(all="ignore"):
            expected, found = op.on_arrays(tuple(args), attrs), run_text(op, tuple(args), attrs)
        assert found.dtype == expected.dtype
        if dtype is dtypes.bfloat16 and found.dtype == dtype.np:
            found, expected = found.astype(np.float32), expected.astype(np.float32)
        np.testing.assert_array_equal(found, expected, err_msg=str(dtype))
        if op.exact and dtype.is_floating_point and not op.name.startswith("sign"):
            zero = expected == 0
            np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(expected[zero]))
