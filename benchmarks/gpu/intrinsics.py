"""Whether the CPU kernels' intrinsics compile in numba-cuda as they are, one small kernel each."""

from __future__ import annotations

from typing import Any

from numba import cuda, types

from tracejit.kernels import memory, philox, scalar, vmath

_VALUES = {
    "load and store": "a",
    "philox": "philox.uniform_f32(x, o, i)",
    "select": "scalar.select(a > types.float32(0), a, types.float32(1))",
    "rint": "scalar.rint_f32(a)",
    "floor": "scalar.floor_f32(a)",
    **{name: f"vmath.{name}_f32(a)" for name in ("exp", "log", "sqrt", "tanh", "sigmoid", "expm1", "sin", "erf")},
    "fma": "vmath.fma_f32(a, a, a)",
}
_TEXT = """
def kernel(x, o, n):
    i = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if i < n:
        a = memory.load_f32(x, i)
        memory.store_f32(o, i, {value})
"""


def _outcome(value: str, capability: tuple[int, int]) -> str:
    scope: dict[str, Any] = {
        "types": types, "cuda": cuda, "memory": memory, "philox": philox, "scalar": scalar, "vmath": vmath,
    }  # fmt: skip
    exec(compile(_TEXT.format(value=value), "<trial>", "exec"), scope)
    try:
        ptx, _ = cuda.compile_ptx(scope["kernel"], types.void(*[types.int64] * 3), cc=capability)
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return "compiles" if ".entry" in ptx or ".func" in ptx else "no code"


def trial(capability: tuple[int, int] = (9, 0)) -> dict[str, str]:
    """The outcome of each intrinsic: "compiles", or the error."""
    return {name: _outcome(value, capability) for name, value in _VALUES.items()}
