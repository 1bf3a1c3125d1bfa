"""Kernels of text and of functions: content decides what is the same, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
import pytest
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tracejit.errors import KernelBuildError
from tracejit.kernels.memory import load_arg, store_i64
from tracejit.runtime import cache
from tracejit.runtime.build import _request, build, build_many
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


def result_of(source: Callable[..., Any]) -> int:
    out = np.zeros(1, np.int64)
    assert launch(build(source).address, 1, 0.0, out) == 0
    return int(out[0])


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
