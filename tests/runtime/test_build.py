"""Kernels of text and of functions: content decides what is the same, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
import pytest
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tracejit.config import SETTINGS, thread_budget
from tracejit.eager import run_op
from tracejit.errors import KernelBuildError
from tracejit.kernels.memory import load_arg, store_i64
from tracejit.kernels.vectors import TARGET
from tracejit.ops import ops
from tracejit.runtime import build as build_module
from tracejit.runtime import cache, frontend, native
from tracejit.runtime.build import Kernel, _optimised, _request, begin, build, build_many, function_of, recall
from tracejit.runtime.team import launch

MULTIPLY_ADD = """
def multiply_add(p, lo, hi):
    for i in range(lo, hi):
        store_f32(load_arg(p, 2), i, load_f32(load_arg(p, 0), i) * load_f32(load_arg(p, 1), i) + float32(arg_f64(p, 3)))
    return 0
"""


def constant(value: int) -> Callable[..., int]:
    def answer(p, lo, hi):  # type: ignore[no-untyped-def]
        store_i64(load_arg(p, 0), 0, value)
        return 0

    return answer


def result_at(address: int) -> int:
    out = np.zeros(1, np.int64)
    assert launch(address, 1, 0.0, out) == 0
    return int(out[0])


def result_of(source: Callable[..., Any]) -> int:
    return result_at(build(source).address)


def test_equal_content_gives_the_same_kernel() -> None:
    first = build(MULTIPLY_ADD, "multiply_add")
    assert build("".join(MULTIPLY_ADD), "multiply_add") is first
    assert build(constant(3)) is build(constant(3))


def test_what_a_function_closes_over_is_part_of_its_content() -> None:
    assert build(constant(3)).digest != build(constant(4)).digest
    assert [result_of(constant(3)), result_of(constant(4))] == [3, 4]


def test_a_multiplication_and_an_addition_round_twice() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 1001)).astype(np.float32)
    out = np.zeros_like(x)
    assert launch(build(MULTIPLY_ADD, "multiply_add").address, x.size, 0.0, x, y, out, 0.1) == 0
    np.testing.assert_array_equal(out, x * y + np.float32(0.1))


def test_the_symbol_is_made_of_the_digest() -> None:
    kernel = build(MULTIPLY_ADD, "multiply_add")
    assert kernel.symbol == f"multiply_add_{kernel.digest[:16]}"
    assert f"@{kernel.symbol}(" in kernel.llvm_text()
    assert kernel.symbol in kernel.assembly()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(p, lo, hi):\n    return 0\n", "does not define a function 'kernel'"),
        ("def kernel(p, lo, hi):\n    return no_such_name(p)\n", "no_such_name"),
        ("def kernel(p, lo, hi):\n    return load_f32(load_arg(p, 0), 'a')\n", "must be integers"),
    ],
)
def test_text_that_is_no_kernel_is_refused(text: str, message: str) -> None:
    with pytest.raises(KernelBuildError, match=message):
        build(text, "kernel")
    with pytest.raises(KernelBuildError, match="needs the name"):
        build(text)


@intrinsic
def missing(typingctx: Any) -> Any:
    """Calls a native function that does not exist."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "no_such_native_function"), [])

    return types.int64(), codegen


def calls_missing(p, lo, hi):  # type: ignore[no-untyped-def]
    return missing()


def test_a_missing_native_function_is_an_error_and_not_the_end_of_the_process() -> None:
    with pytest.raises(KernelBuildError, match="no_such_native_function"):
        build(calls_missing)


def closes_over(value: object) -> Callable[..., int]:
    def kernel(p, lo, hi):  # type: ignore[no-untyped-def]
        value
        return 0

    return kernel


def test_a_value_without_content_is_refused() -> None:
    with pytest.raises(KernelBuildError, match="has no content"):
        build(closes_over(object()))


def numbered(number: int) -> tuple[str, str]:
    name = f"numbered_{number}"
    return f"def {name}(p, lo, hi):\n    store_i64(load_arg(p, 0), 0, {number})\n    return 0\n", name


def test_build_many_gives_the_kernels_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(cache.STORE, "directory", tmp_path)
    sources = [numbered(k) for k in range(100, 116)]
    kernels = build_many([*sources, sources[0]])
    assert [kernel.name for kernel in kernels] == [name for _, name in sources] + [sources[0][1]]
    out = np.zeros(1, np.int64)
    for number, kernel in zip(range(100, 116), kernels, strict=False):
        assert launch(kernel.address, 1, 0.0, out) == 0
        assert out[0] == number
    assert len(cache.entries()) == 16


STRIPS = """
def {name}(p, lo, hi):
    x, out = load_arg(p, 0), load_arg(p, 1)
    for j in range(lo, hi):
        store_f32_s(out, j, load_f32_s(x, j, 0, 2) * float32({factor}), 1, 2)
    tanh_strip_f32(out, hi - lo)
    return 0
"""
"""Kernels that share a function."""


def strips(*factors: int) -> list[tuple[str, str]]:
    return [(STRIPS.format(name=f"strips_{k}", factor=k), f"strips_{k}") for k in factors]


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this process know of no kernel."""
    for name in ("_built", "_by_source"):
        monkeypatch.setattr(build_module, name, {})
    monkeypatch.setattr(build_module, "_objects", set())


def check_strips(kernels: list[Kernel], factors: tuple[int, ...]) -> None:
    x = np.linspace(-1, 1, 37, dtype=np.float32)
    for kernel, factor in zip(kernels, factors, strict=True):
        out = np.zeros(64, np.float32)
        assert launch(kernel.address, x.size, 0.0, x, out) == 0
        np.testing.assert_array_equal(out[: x.size], run_op(ops.tanh, (x * np.float32(factor),), ()))


def test_kernels_that_are_compiled_together_share_their_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache.STORE, "directory", tmp_path)
    factors = (1, 2, 3, 4)
    forget(monkeypatch)
    check_strips(build_many(strips(*factors)), factors)
    alone = [native.object_code(_optimised(function_of(*source), *source)) for source in strips(*factors)]
    objects = cache.STORE.usage()[cache.OBJECT]
    if TARGET.free_masks:
        assert objects[0] == 1
        assert objects[1] < sum(map(len, alone)) / 2
    # Another process finds all of it.
    digests = [_request(source).digest for source in strips(*factors)]
    forget(monkeypatch)
    kernels = [recall(digest, None) for digest in digests]
    assert all(kernel is not None and kernel.cached for kernel in kernels)
    check_strips([kernel for kernel in kernels if kernel is not None], factors)
    # What is part of an object that is gone is made again.
    for path in tmp_path.glob(f"*/*.{cache.OBJECT}"):
        path.unlink()
    forget(monkeypatch)
    assert (recall(digests[0], None) is None) is TARGET.free_masks
    check_strips([build(*strips(3)[0])], (3,))


FOLDS = """
def {name}(p, lo, hi):
    x, out = load_arg(p, 0), load_arg(p, 1)
    n = load_arg(p, 2)
    for u in range(lo, hi):
        store_f32_s(out, u, fold_sum_f32(x + 4 * u * n, n){more}, 1, 2)
    return 0
"""


EXP = """
def {name}(p, lo, hi):
    x, out = load_arg(p, 0), load_arg(p, 1)
    for j in range(lo, hi):
        store_f32_s(out, j, exp_f32(load_f32_s(x, j, 0, 2)) + float32({factor}), 1, 2)
    return 0
"""


def code_of(module: Any, kernel: str) -> list[str]:
    """The instructions of a kernel, without the numbers of places and of functions that are its own."""
    text = native.assembly(str(module)).partition(f"\n{kernel}:")[2].partition(".Lfunc_end")[0]
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [re.sub(r"\.L\w+?\d+_\d+|(?<=_f32)\.\d+", "", line) for line in lines if line and not line.startswith(".")]


@pytest.mark.skipif(not TARGET.free_masks, reason="texts are compiled together where their loops are made of vectors")
def test_kernels_that_are_compiled_together_have_the_code_that_each_has_alone() -> None:
    twice = " + fold_sum_f32(x, n)"
    sources = [*strips(8, 9), *[(FOLDS.format(name=f"folds_{k}", more=twice * k), f"folds_{k}") for k in range(3)]]
    sources += [(EXP.format(name=f"exp_{k}", factor=k), f"exp_{k}") for k in (1, 2)]
    texts = {function_of(*source): source[0] for source in sources}
    lowered, left = frontend.lower_by_hand(texts, "together")
    assert not left
    together = native.parse(lowered.text)
    native.optimise(together, [function.__name__ for function in texts], by_hand=True)
    for function, text in texts.items():
        alone = _optimised(function, text, function.__name__)
        assert code_of(together, function.__name__) == code_of(alone, function.__name__) != []


def test_kernels_with_loops_for_llvm_are_compiled_by_themselves_beside_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache.STORE, "directory", tmp_path)
    forget(monkeypatch)
    one, *others = build_many([numbered(300), *strips(5, 6)])
    check_strips(others, (5, 6))
    assert result_at(one.address) == 300


def test_kernels_of_the_library_are_begun_before_the_others_are_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache.STORE, "directory", tmp_path)
    forget(monkeypatch)
    monkeypatch.setattr(build_module, "_limits", [2])
    functions = [constant(k) for k in range(400, 404)]
    monkeypatch.setattr(cache.STORE, "stats", cache.Stats(misses=1))
    begun = begin(functions)
    if thread_budget(SETTINGS, os.environ) < 2:
        assert begun is None
        return
    assert begun is not None
    assert len(begun.digests) == 4
    kernels = build_many([*functions, numbered(404), *strips(7)], begun)
    assert [result_at(kernel.address) for kernel in kernels[:5]] == [*range(400, 405)]
    check_strips(kernels[5:], (7,))
    assert begin(functions) is None


def test_processes_begin_with_the_kernels_that_take_longest() -> None:
    short, long = (MULTIPLY_ADD, "multiply_add"), (MULTIPLY_ADD + "    # and more\n", "multiply_add")
    requests = [_request(source) for source in (short, constant(3), long)]
    ordered = sorted(requests, key=lambda request: request.length, reverse=True)
    assert ordered == [requests[1], requests[2], requests[0]]


def test_build_many_reports_a_text_that_is_no_kernel() -> None:
    sources = [numbered(k) for k in range(200, 215)]
    with pytest.raises(KernelBuildError, match="broken"):
        build_many([*sources, ("def broken(p, lo, hi):\n    return nothing\n", "broken")])


def test_the_settings_decide_the_vector_width() -> None:
    script = (
        "from tracejit.runtime.build import build\n"
        f"kernel = build({MULTIPLY_ADD!r}, 'multiply_add')\n"
        "print(kernel.digest, 'zmm' in kernel.assembly())\n"
    )
    printed = []
    for bits in ("256", "512"):
        environment = {**os.environ, "TRACEJIT_VECTOR_BITS": bits, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script]
        printed.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    narrow, wide = (line.split() for line in printed)
    assert narrow[0] != wide[0]
    assert [narrow[1], wide[1]] == ["False", str(bool(llvm.get_host_cpu_features().get("avx512f")))]
