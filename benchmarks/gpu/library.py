"""All trial kernels by name, and their PTX: made here, or read from a folder that `probe.py --build` wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu import kernels, numerics, rows
from benchmarks.gpu.emit import BF16, F16, F32, Kernel, ptx_of
from benchmarks.gpu.kernels import quick_divisions
from benchmarks.gpu.text_kernel import text_kernel_ptx

TEXT_KERNEL = "text_kernel"
# Kernels with instructions that older chips lack.
FROM_90 = ("small_early",)
COLUMN_ROWS = 128
COLUMN_PARTS = 65536 // COLUMN_ROWS
Maker = Callable[[], Kernel]


def _chains() -> dict[str, Maker]:
    found: dict[str, Maker] = {}

    def define(name: str, **options: object) -> None:
        formula = {
            "exact": kernels.chain_exact,
            "hardware": kernels.chain_hardware,
            "triad": kernels.triad,
            "quick": kernels.chain_exact,
            "copy": kernels.copy,
        }[name.split("_")[0]]
        found[name] = lambda: kernels.elementwise(name, formula, **options)  # type: ignore[arg-type]

    for kind in ("exact", "hardware", "triad"):
        define(f"{kind}_f32_scalar_1_256", lanes=1)
        for vectors in (1, 2, 4):
            define(f"{kind}_f32_vector_{vectors}_256", vectors=vectors)
        for threads in (128, 512):
            define(f"{kind}_f32_vector_1_{threads}", threads=threads)
        for label, ty in (("bf16", BF16), ("f16", F16)):
            define(f"{kind}_{label}_vector_1_256", ty=ty, lanes=8)
            define(f"{kind}_{label}_scalar_1_256", ty=ty, lanes=1)
    define("quick_f32_vector_1_256")
    define("quick_f32_vector_1_128", threads=128)
    define("quick_bf16_vector_1_256", ty=BF16, lanes=8)
    define("copy_f32_vector_1_256")
    return found


def _others() -> dict[str, Maker]:
    found: dict[str, Maker] = {
        "transposed_sum": lambda: kernels.transposed_sum("transposed_sum"),
        "transposed_pair": lambda: kernels.transposed_pair("transposed_pair"),
        "small_early": lambda: kernels.elementwise("small_early", kernels.triad, lanes=1, threads=32, early=True),
        "reciprocal_exact": lambda: numerics.pointwise("reciprocal_exact", lambda x, y: 1.0 / x, F32),
        "reciprocal_quick": lambda: numerics.pointwise("reciprocal_quick", lambda x, y: 1.0 / x, F32),
        "quotient_exact": lambda: numerics.pointwise("quotient_exact", lambda x, y: x / (x + 1.0), F32),
        "quotient_quick": lambda: numerics.pointwise("quotient_quick", lambda x, y: x / (x + 1.0), F32),
        "column_parts": lambda: kernels.column_parts("column_parts", COLUMN_ROWS),
        "column_combine": lambda: kernels.column_combine("column_combine", COLUMN_PARTS),
        "sum_parts": lambda: kernels.sum_parts("sum_parts"),
        "sum_combine": lambda: kernels.sum_combine("sum_combine"),
        "adam": lambda: kernels.adam("adam"),
        "philox": lambda: numerics.philox_words("philox"),
        "small": lambda: kernels.elementwise("small", kernels.triad, lanes=1, threads=32),
        "softmax_1000_block": lambda: rows.softmax("softmax_1000_block", 1000, 256),
        "softmax_1000_warp": lambda: rows.softmax("softmax_1000_warp", 1000, 128, 4),
        "softmax_1000_hardware": lambda: rows.softmax("softmax_1000_hardware", 1000, 256, approximate=True),
        "softmax_4096_block": lambda: rows.softmax("softmax_4096_block", 4096, 256),
        "softmax_4096_block512": lambda: rows.softmax("softmax_4096_block512", 4096, 512),
        "layer_norm_1000_block": lambda: rows.layer_norm("layer_norm_1000_block", 1000, 256),
        "layer_norm_1000_warp": lambda: rows.layer_norm("layer_norm_1000_warp", 1000, 128, 4),
        "layer_norm_4096_block": lambda: rows.layer_norm("layer_norm_4096_block", 4096, 256),
        "layer_norm_4096_block512": lambda: rows.layer_norm("layer_norm_4096_block512", 4096, 512),
    }
    for index, formula in enumerate(numerics.FORMULAS.values()):
        for label, ty in numerics.TYPES.items():
            name = f"point_{index}_{label}"
            found[name] = lambda name=name, formula=formula, ty=ty: numerics.pointwise(name, formula, ty)  # type: ignore[misc]
    return found


KERNELS: dict[str, Maker] = {**_chains(), **_others()}


def ptx(name: str, capability: int) -> str:
    """The PTX of a kernel, made now."""
    if name == TEXT_KERNEL:
        return text_kernel_ptx(capability, name)
    text = KERNELS[name]().text()
    return ptx_of(quick_divisions(text) if "quick" in name else text, capability)


def write_all(folder: Path, capabilities: Sequence[int]) -> dict[str, int]:
    """Writes `<capability>/<kernel>.ptx` for every kernel; gives bytes written by capability."""
    written = {}
    for capability in capabilities:
        place = folder / str(capability)
        place.mkdir(parents=True, exist_ok=True)
        total = 0
        for name in (*KERNELS, TEXT_KERNEL):
            if name in FROM_90 and capability < 90:
                continue
            total += (place / f"{name}.ptx").write_text(ptx(name, capability), encoding="ascii")
        written[str(capability)] = total
    return written
