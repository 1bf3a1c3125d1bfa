"""Products of the GPU's library: which ones are, with which arguments, and in captured graphs, on a stand-in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tracejit as tj
from tests.cuda.libcublas import Blas
from tests.cuda.libcuda import Library
from tests.cuda.on_gpu import run_on
from tests.programs import graph_of, make
from tracejit.errors import CudaError
from tracejit.gpu_compiler import plan_for_gpu
from tracejit.ir.graph import Graph
from tracejit.kernels.cuda import blas
from tracejit.runtime.cuda import cublas
from tracejit.runtime.cuda.driver import Context, Driver
from tracejit.runtime.cuda.memory import Pool

RNG = np.random.default_rng(31)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Context, Pool, Blas]]:
    """A stand-in with cuBLAS, whose products are all calls."""
    monkeypatch.setattr(blas, "_LEAST_WORK", dict.fromkeys(blas.SHORTS, 1))
    monkeypatch.setattr(blas, "_LEAST_SIDE", 2)
    monkeypatch.setattr(cublas, "WORKSPACE_BYTES", 1 << 16)
    library = Library(memory=1 << 20)
    found = Blas(library)
    monkeypatch.setattr(cublas, "load", lambda: found)
    monkeypatch.setattr("tracejit.gpu_compiler.is_there", lambda context: True)
    driver = Driver(library)
    context = Context(driver, driver.devices()[0])
    yield context, Pool(context), found
    tj.set_float32_matmul_precision("highest")


def matrix(*shape: int, kind: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(kind)


def product(a: np.ndarray, b: np.ndarray) -> Graph:
    return graph_of(lambda a, b: make("matmul", a, b), a, b)


def near(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Asserts that a product is within 8 roundings of what is added up."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    allowed = 8 * np.finfo(result.dtype).eps * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64))
    assert (np.abs(result - exact) <= allowed).all()


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_layouts(machine: tuple[Context, Pool, Blas], kind: str) -> None:
    context, pool, library = machine
    lefts = [matrix(5, 7, kind=kind), np.asfortranarray(matrix(5, 7, kind=kind)), matrix(5, 9, kind=kind)[:, :7]]
    rights = [matrix(7, 4, kind=kind), np.asfortranarray(matrix(7, 4, kind=kind)), matrix(14, 8, kind=kind)[::2, ::2]]
    for a in lefts:
        for b in rights:
            (result,) = run_on(context, pool, product(a, b), [a, b])
            near(result, a, b)
    # Each is started twice: by itself, and as it is captured.
    assert library.calls["cublasGemmEx"] == 2 * len(lefts) * len(rights)
    assert library.calls["cublasCreate_v2"] == 1


def test_stacks(machine: tuple[Context, Pool, Blas]) -> None:
    context, pool, library = machine
    a, b = matrix(3, 5, 7), matrix(3, 4, 7).transpose(0, 2, 1)
    (result,) = run_on(context, pool, product(a, b), [a, b])
    near(result, a, b)
    assert library.calls["cublasGemmStridedBatchedEx"] == 2


def test_a_product_between_kernels(machine: tuple[Context, Pool, Blas]) -> None:
    context, pool, _ = machine
    a, b = matrix(5, 7), matrix(7, 4)
    graph = graph_of(lambda a, b: make("mul", make("matmul", make("mul", a, 2.0), b), 3.0), a, b)
    (result,) = run_on(context, pool, graph, [a, b])
    near(result / np.float32(6), a, b)


def test_tf32_is_used_where_it_is_allowed(machine: tuple[Context, Pool, Blas]) -> None:
    context, pool, library = machine
    a, b = matrix(5, 7), matrix(7, 4)
    run_on(context, pool, product(a, b), [a, b])
    assert set(library.compute) == {68}
    library.compute.clear()
    tj.set_float32_matmul_precision("high")
    assert tj.backends.cuda.matmul.allow_tf32
    run_on(context, pool, product(a, b), [a, b])
    run_on(context, pool, product(*(x.astype(np.float64) for x in (a, b))), [x.astype(np.float64) for x in (a, b)])
    assert set(library.compute) == {77, 70}
    tj.backends.cuda.matmul.allow_tf32 = False
    library.compute.clear()
    run_on(context, pool, product(a, b), [a, b])
    assert set(library.compute) == {68}


def test_products_are_calls_by_type_and_size() -> None:
    assert blas.is_call("float32", (512, 512), 512)
    assert blas.is_call("float16", (128, 128), 128)
    assert blas.is_call("float32", (64, 64, 64), 64)
    for dtype, shape, steps in (
        ("float32", (128, 128), 128),
        ("float32", (1 << 20, 8), 512),
        ("float32", (4096, 4096), 1),
        ("int32", (512, 512), 512),
    ):
        assert not blas.is_call(dtype, shape, steps)


def test_large_products_are_neither_turned_nor_added_up() -> None:
    a, b = np.empty((512, 64), np.float32), np.empty((64, 512), np.float32)

    def both(a: np.ndarray, b: np.ndarray) -> list[str]:
        graph = graph_of(lambda a, b: make("add", make("matmul", a, b), make("matmul", a, b)), a, b)
        turned = graph_of(lambda a, b: make("mul", make("permute", make("matmul", a, b), dims=(1, 0)), 2.0), a, b)
        found = []
        for one in (graph, turned):
            plan = plan_for_gpu(one, calls=True)[0]
            found += [g.members[0].reads[0].shape for g in plan.groups if g.kind == "call"]
        return found

    assert set(both(a, b)) == {(512, 64)}
    assert set(both(a[:32], b[:, :32])) == {(32, 64)}


def test_without_a_library_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublas, "_paths", lambda: ["libcublas.so.of-nobody"])
    cublas.load.cache_clear()
    driver = Driver(Library())
    context = Context(driver, driver.devices()[0])
    assert not cublas.is_there(context)
    with pytest.raises(CudaError, match="no cuBLAS"):
        cublas.handle_of(context)
    cublas.load.cache_clear()


def test_errors_have_the_functions_name(machine: tuple[Context, Pool, Blas]) -> None:
    context, _, library = machine
    handle = cublas.Cublas(context, library)
    assert handle.version == 130100
    gemm = blas.Gemm("f32", False, False, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0)
    with pytest.raises(CudaError, match="cublasGemmEx: error 7"):
        handle.product(gemm, 0, 0, 0)
