"""The PTX of every family of kernels, for all compute capabilities, and what an assembler says if there is one."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cuda.running import kernels_of
from tests.programs import graph_of, make
from tests.test_compiler import layer_norm, softmax
from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.codegen.cuda.generate import generate
from tracejit.codegen.cuda.text import HEAD, CudaBatch, CudaText, batched
from tracejit.errors import KernelBuildError
from tracejit.gpu_compiler import plan_for_gpu
from tracejit.ir import node as nodes
from tracejit.ir.graph import Graph
from tracejit.runtime import ptx
from tracejit.runtime.cache import PTX, Store
from tracejit.symbols import Trail, present


def _chain(kind: str) -> Graph:
    x = np.ones(1000, dtypes.BY_NAME[kind].np)
    return graph_of(lambda x, y: make("add", make("mul", make("tanh", x), y), 1.5), x, x)


def _graphs() -> dict[str, Graph]:
    wide, tall, long = np.ones((4, 1000), np.float32), np.ones((700, 40), np.float32), np.ones((2, 9000), np.float32)
    row = wide[0]
    return {
        "float32": _chain("float32"),
        "float64": _chain("float64"),
        "float16": _chain("float16"),
        "bfloat16": _chain("bfloat16"),
        "broadcast": graph_of(lambda x, y: make("add", x, y), wide, row),
        "random": graph_of(lambda s, o: make("uniform", s, o, shape=(64,), dtype=dtypes.float32), scalars="ii"),
        "softmax": graph_of(softmax, wide),
        "layer norm": graph_of(layer_norm, wide, row, row),
        "blocks": graph_of(lambda x: make("sum", x, dim=1), long),
        "columns": graph_of(lambda x: make("amax", make("exp", x), dim=0), tall),
    }


GRAPHS = _graphs()


@functools.cache
def kernels(name: str) -> list[CudaText]:
    """The GPU kernels of a graph."""
    return kernels_of(GRAPHS[name])


def texts(name: str, capability: int = 90) -> str:
    """Their PTX."""
    return "\n".join(ptx.translate(kernel, capability) for kernel in kernels(name))


@pytest.mark.parametrize("capability", ptx.CAPABILITIES)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_family_has_ptx(name: str, capability: int, tmp_path: Path) -> None:
    assembler = shutil.which("ptxas")
    for kernel in kernels(name):
        text = ptx.translate(kernel, capability)
        assert f".target sm_{capability}" in text
        assert f".visible .entry {kernel.name}(" in text
        assert f".maxntid {kernel.threads}" in text
        # Neither calls that LLVM could not resolve, nor arrays that did not come into registers.
        assert ".extern" not in text
        assert ".local" not in text
        if assembler is not None and capability == 90:
            file = tmp_path / "kernel.ptx"
            file.write_text(text)
            command = [assembler, "-v", f"-arch=sm_{capability}", str(file), "-o", str(tmp_path / "cubin")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr


@pytest.mark.parametrize("name", GRAPHS)
def test_arithmetic_is_rounded_and_not_fused(name: str) -> None:
    text = texts(name)
    assert not re.search(r"\.approx|\.ftz|\.full", text)
    arithmetic = re.findall(r"^\s*(?:add|sub|mul|fma|div|sqrt|rcp)\.(\w+)\.f(?:16|32|64)", text, re.MULTILINE)
    assert set(arithmetic) <= {"rn"}


def test_a_product_and_a_sum_stay_two_operations() -> None:
    x = np.ones(64, np.float32)
    (kernel,) = kernels_of(graph_of(lambda x, y: make("add", make("mul", x, y), y), x, x))
    text = ptx.translate(kernel, 90)
    assert "mul.rn.f32" in text
    assert "add.rn.f32" in text
    assert "fma" not in text


def _accesses(text: str) -> list[str]:
    return re.findall(r"(?:ld|st)\.global\S*", text)


@pytest.mark.parametrize(
    ("name", "access"),
    [
        *(("float32", ".v4.b32"), ("float64", ".v2.b64"), ("float16", ".v4.b32"), ("bfloat16", ".v4.b32")),
        ("broadcast", ".v4.b32"),
    ],
)
def test_contiguous_elements_are_loaded_and_stored_16_bytes_at_a_time(name: str, access: str) -> None:
    found = _accesses(texts(name))
    assert sum(a.endswith(access) for a in found) == 3


@pytest.mark.parametrize("name", ["softmax", "layer norm"])
def test_a_row_is_read_once(name: str) -> None:
    found = _accesses(texts(name))
    assert all(access.endswith(".v4.b32") for access in found)
    # Two turns of four places each: the row, what is as long as a row, the result.
    assert len(found) == 2 * {"softmax": 2, "layer norm": 4}[name]


def test_buffers_that_begin_anywhere_are_read_element_by_element() -> None:
    (kernel,) = kernels_of(GRAPHS["float32"], vectors=False)
    assert not kernel.promises
    assert {a.split(".", 2)[2] for a in _accesses(ptx.translate(kernel, 90))} == {"b32"}


def test_what_a_launch_needs_is_known() -> None:
    (kernel,) = kernels("float32")
    # The argument block and the number of units, one after another.
    parameters = re.search(r"\.entry \w+\((.*?)\)", texts("float32"), re.DOTALL)
    assert parameters is not None
    assert f".b8 {kernel.name}_param_0[{8 * len(kernel.slots)}]" in parameters.group(1)
    assert f".u64 {kernel.name}_param_1" in parameters.group(1)
    assert {of for _, of in kernel.promises} == {16}
    assert kernel.units == 1000
    assert kernel.blocks * kernel.threads * 4 >= kernel.units


def test_launches_of_one_kernel_can_be_one() -> None:
    sizes = (1000, 7, 513)
    graph = graph_of(lambda *xs: tuple(make("mul", x, 2.0) for x in xs), *(np.ones(n, np.float32) for n in sizes))
    other = kernels("softmax")[0]
    batch, alone = batched([*kernels_of(graph), other])
    assert alone is other
    assert isinstance(batch, CudaBatch)
    assert batch.blocks == 2 + 1 + 2
    assert [(row[0], row[1]) for row in batch.rows] == [(0, 1000), (2, 7), (3, 513)]
    assert {len(row) for row in batch.rows} == {HEAD + len(batch.kernel.slots)}
    for capability in ptx.CAPABILITIES:
        text = ptx.translate(batch.kernel, capability, together=True)
        assert f".visible .entry {ptx.together_name(batch.kernel)}(" in text
        assert {a.split(".", 2)[2] for a in _accesses(text) if ".b32" in a} == {"v4.b32", "b32"}


def test_a_kernel_has_no_sizes_in_it() -> None:
    first, second = (
        kernels_of(graph_of(softmax, np.ones((rows, columns), np.float32)))[0]
        for rows, columns in ((4, 996), (9, 1000))
    )
    assert (first.text, first.promises) == (second.text, second.promises)
    assert first.slots != second.slots


def test_open_sizes_give_kernels_with_the_same_order() -> None:
    for rows, columns in ((5, 37), (5, 300), (3, 5000)):
        trail = Trail()
        shape = (trail.symbol(rows), trail.symbol(columns))
        x = nodes.input(0, Aval(shape, dtypes.float32), None)
        graph = Graph((x,), (), (make("sum", x, dim=1), make("sum", x, dim=0)), {})
        plan = plan_for_gpu(graph)[0]
        found = [k for group in plan.groups for stage in generate(group, plan) for k in stage]
        wanted = kernels_of(
            graph_of(lambda x: (make("sum", x, dim=1), make("sum", x, dim=0)), np.ones((rows, columns), np.float32))
        )
        assert [k.threads for k in found] == [k.threads for k in wanted]
        assert [(present(k.units), present(k.blocks)) for k in found] == [(k.units, k.blocks) for k in wanted]
        # A row whose threads would be others needs another kernel.
        evaluate = trail.function([k.units for k in found])
        assert evaluate([rows, columns + 1]) is not None
        assert evaluate([rows, 1000]) is None


def test_ptx_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, limit=1 << 20)
    monkeypatch.setattr(ptx, "STORE", store)
    (kernel,) = kernels("random")
    first = ptx.translate(kernel, 80)
    assert store.usage()[PTX][0] == 1
    monkeypatch.setattr(ptx, "assemble", None)
    assert ptx.translate(kernel, 80) == first
    with pytest.raises(TypeError):
        ptx.translate(kernel, 75)


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(KernelBuildError, match="compute capability 61"):
        ptx.translate(kernels("random")[0], 61)
    for line in ("return [x for x in ()]", "x = multiple(hi, 3)", "x = multiple(hi, lo)"):
        with pytest.raises(KernelBuildError, match="wrong"):
            ptx.translate(
                CudaText("wrong", f"def wrong(p, lo, hi):\n    {line}\n    return 0\n", "", (), 1, 1, 32, ()), 90
            )
