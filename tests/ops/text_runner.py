"""The scalar texts of elementwise records, evaluated over NumPy arrays: the semantics that kernels have."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.ops.record import Op, ops

_SUFFIX = re.compile(r"(\w+)_(\w+)")


class _Names(dict[str, Any]):
    """What a text may call: `select`, types by their short names, and `exp_f32` for the record `exp`."""

    def __missing__(self, name: str) -> Any:
        if name == "select":
            return np.where
        for d in dtypes.ALL:
            if d.short == name:
                return d.np.type
        if name == "not_b1":
            return np.logical_not
        match = _SUFFIX.fullmatch(name)
        if match is None:
            raise KeyError(name)
        return getattr(ops, {"rint": "round"}.get(match[1], match[1])).numpy


def text_of(op: Op, dtype: dtypes.dtype) -> str | None:
    """The text of a record for operands of a type."""
    return op.expr["bif"[dtype.category]] if isinstance(op.expr, dict) else op.expr


def run_text(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """What the record's text computes; the NumPy function of one without text."""
    arrays = [a for a in args[op.name == "where" :] if isinstance(a, np.ndarray)]
    text = text_of(op, dtypes.from_numpy(arrays[0].dtype)) if arrays else None
    if text is None or text == "cast":
        return op.on_arrays(args, attrs)
    kind = dtypes.from_numpy(arrays[0].dtype)
    wide = dtypes.float32 if kind is dtypes.bfloat16 else kind
    taken = wide if op.wide_numbers else kind
    values = [a if isinstance(a, np.ndarray) else np.asarray(a).astype(taken.np)[()] for a in args]
    if kind is dtypes.bfloat16:
        values = [v if v.dtype == bool else v.astype(np.float32) for v in values]
    code = text.format(**{p: p for p in op.params}, t=wide.short)
    result = eval(code, {}, _Names(zip(op.params, values, strict=True)))
    if kind is dtypes.bfloat16 and np.asarray(result).dtype == np.float32:
        result = np.asarray(result).astype(kind.np)
    return np.asarray(np.broadcast_to(result, np.broadcast_shapes(*map(np.shape, values))))
