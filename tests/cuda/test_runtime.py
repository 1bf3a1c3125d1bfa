"""The device's side of the runtime, on a driver that is the PTX machine: memory, kernels, programs, graphs, errors."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest

from tests.cuda.libcuda import Library
from tests.cuda.on_gpu import run_on
from tests.cuda.orders import run_in_order
from tests.programs import graph_of, make, random_array, same_bits
from tests.test_compiler import softmax
from tracejit.errors import CudaError, CudaOutOfMemoryError
from tracejit.gpu_compiler import compile_for_gpu
from tracejit.ir.node import Node
from tracejit.kernels.gemm import panel_columns
from tracejit.runtime.cuda.driver import Context, Driver
from tracejit.runtime.cuda.memory import Block, Pool, room_for
from tracejit.runtime.cuda.program import BINDINGS, machine_code
from tracejit.tools import doctor


def context_on(library: Library) -> Context:
    driver = Driver(library)
    return Context(driver, driver.devices()[0])


def test_devices_are_described() -> None:
    driver = Driver(Library(memory=1 << 16, devices=2, capability=80))
    assert driver.version == 13000
    assert [(d.number, d.name, d.capability, d.memory) for d in driver.devices()] == [
        (0, "PTX machine", 80, 1 << 16),
        (1, "PTX machine", 80, 1 << 16),
    ]


def test_errors_have_the_drivers_names() -> None:
    with pytest.raises(CudaError, match="cuInit: CUDA_ERROR_NO_DEVICE"):
        Driver(Library(devices=0))
    context = context_on(Library())
    with pytest.raises(CudaError, match="cuMemFree_v2: CUDA_ERROR_INVALID_VALUE"):
        context.free(12345)
    with pytest.raises(CudaError, match="cuLinkAddData_v2: CUDA_ERROR_INVALID_PTX"):
        context.assemble(b"no PTX")


def test_memory_comes_back() -> None:
    context = context_on(Library())
    pool = Pool(context)
    data = np.arange(100, dtype=np.float32)
    one, two = pool.allocate(data.nbytes), pool.allocate(data.nbytes)
    context.put(one.address, data)
    context.copy(two.address, one.address, data.nbytes)
    found = np.zeros_like(data)
    context.take(found, two.address)
    assert found.tolist() == data.tolist()


def test_blocks_are_used_again() -> None:
    library = Library()
    pool = Pool(context_on(library))
    block = pool.allocate(700)
    address = block.address
    assert (pool.allocated, pool.reserved) == (1024, 1024)
    del block
    gc.collect()
    again = pool.allocate(1000)
    assert again.address == address
    assert library.calls["cuMemAllocManaged"] == 1
    other = pool.allocate(3000)
    assert (pool.allocated, pool.most_allocated, pool.reserved) == (1024 + 3072, 1024 + 3072, 1024 + 3072)
    del again, other
    pool.forget_peaks()
    assert (pool.allocated, pool.most_allocated, pool.most_reserved) == (0, 0, 4096)
    pool.empty()
    assert pool.reserved == 0
    assert not library.held


def test_what_is_kept_is_given_back_before_memory_is_said_to_be_short() -> None:
    library = Library(memory=64 << 10)
    pool = Pool(context_on(library))
    kept = [pool.allocate(20 << 10), pool.allocate(20 << 10)]
    del kept
    large = pool.allocate(50 << 10)
    assert list(library.held.values()) == [room_for(50 << 10)]
    with pytest.raises(CudaOutOfMemoryError, match=r"no 40,960 bytes: .* of 65,536 are free, .* hold 53,248"):
        pool.allocate(40 << 10)
    del large
    assert pool.allocate(40 << 10).nbytes == 40 << 10


@pytest.mark.parametrize("nbytes", [0, 1, 512, 513, 4097, 100_000, 1 << 20, (1 << 20) + 1])
def test_blocks_are_little_larger_than_what_they_hold(nbytes: int) -> None:
    size = room_for(nbytes)
    assert size % 512 == 0
    assert max(nbytes, 1) <= size <= nbytes * 9 / 8 + 512


RNG = np.random.default_rng(3)


def step(p: Node, g: Node, m: Node, rate: Node) -> tuple[Node, ...]:
    """An update with momentum of a parameter in place, its softmax, and the sum of all: several kernels."""
    moved = make("add", make("mul", m, 0.9), g)
    new = make("sub", p, make("mul", moved, rate))
    shares = softmax(new)
    return new, moved, shares, make("sum", make("reshape", shares, shape=(new.tensor.numel,)), dim=0)


class Case:
    """A graph's program on a device, and the addresses of its operands there."""

    def __init__(self, library: Library, shape: tuple[int, ...] = (5, 12), offset: int = 0) -> None:
        self.library = library
        self.context = context_on(library)
        self.pool = Pool(self.context)
        self.arrays = [RNG.standard_normal(shape).astype(np.float32) for _ in range(3)]
        self.graph = graph_of(step, *self.arrays, scalars="f", homes={0: 0, 1: 2})
        self.program = compile_for_gpu(self.graph, self.context, self.pool)
        self.blocks = [self.pool.allocate(a.nbytes + offset) for a in self.arrays]
        self.inputs = [b.address + offset for b in self.blocks]
        for address, array in zip(self.inputs, self.arrays, strict=True):
            self.context.put(address, array)

    def outputs(self) -> list[Block]:
        """Memory of the two outputs that have none of their own."""
        return [self.pool.allocate(self.arrays[0].nbytes), self.pool.allocate(4)]

    def run(self, rate: float, outputs: list[Block]) -> list[np.ndarray]:
        """A run; gives all outputs."""
        addresses = [self.inputs[0], self.inputs[2], outputs[0].address, outputs[1].address]
        self.program.run(self.inputs, addresses, np.array([rate]))
        results = [np.empty(node.shape, node.dtype.np) for node in self.graph.outputs]
        for result, address in zip(results, addresses, strict=True):
            self.context.take(result, address)
        return results

    def check(self, rate: float, outputs: list[Block]) -> None:
        """A run that gives what the operations give one by one, in the GPU's orders of sums."""
        expected = run_in_order(self.graph, [a.copy() for a in self.arrays], (rate,))
        for found, wanted in zip(self.run(rate, outputs), expected, strict=True):
            assert same_bits(found, np.asarray(wanted))
        self.arrays[0], self.arrays[2] = expected[0], expected[1]


def test_a_program_runs_its_kernels_on_any_addresses_and_numbers() -> None:
    case = Case(Library())
    for rate in (0.1, 0.25):
        # New memory each time: what came before is still held.
        held = [case.outputs() for _ in range(2)]
        for outputs in held:
            case.check(rate, outputs)
    assert case.library.calls["cuGraphLaunch"] == 0


def test_launches_on_addresses_that_come_again_are_one_graph() -> None:
    case = Case(Library())
    outputs = case.outputs()
    for k in range(5):
        case.check(0.1 * k, outputs)
    assert case.library.calls["cuStreamBeginCapture_v2"] == 1
    assert case.library.calls["cuGraphLaunch"] == 4
    launches = case.library.calls["cuLaunchKernel"]
    case.check(0.5, outputs)
    assert case.library.calls["cuLaunchKernel"] == launches


def test_few_graphs_are_kept() -> None:
    case = Case(Library())
    held = [case.outputs() for _ in range(BINDINGS + 3)]
    for outputs in held:
        case.check(0.1, outputs)
        case.check(0.2, outputs)
    assert case.library.calls["cuGraphExecDestroy"] == 3
    case.check(0.3, held[0])


def test_batches_that_are_elsewhere_each_time_need_no_capture_each() -> None:
    library = Library()
    context = context_on(library)
    pool = Pool(context)
    x, w = (RNG.standard_normal((4, 6)).astype(np.float32) for _ in range(2))
    graph = graph_of(lambda x, w: (make("add", w, x), make("mul", x, 2.0)), x, w, homes={0: 1})
    program = compile_for_gpu(graph, context, pool)
    weight, out = pool.allocate(w.nbytes), pool.allocate(x.nbytes)
    context.put(weight.address, w)
    batches = [pool.allocate(x.nbytes) for _ in range(2 * BINDINGS)]
    expected = w
    for k, batch in enumerate(batches):
        context.put(batch.address, x + np.float32(k))
        program.run([batch.address, weight.address], [weight.address, out.address], np.zeros(0, np.int64))
        expected = expected + (x + np.float32(k))
        found = np.empty_like(x)
        context.take(found, out.address)
        assert same_bits(found, (x + np.float32(k)) * 2)
        context.take(found, weight.address)
        assert same_bits(found, expected)
        context.take(found, batch.address)
        assert same_bits(found, x + np.float32(k))
    assert library.calls["cuStreamBeginCapture_v2"] == 1
    # The first of those that were copied was bound, the others are one request each.
    assert library.calls["cuGraphLaunch"] == BINDINGS - 1


def test_operands_that_lie_across_vectors_take_other_kernels() -> None:
    case = Case(Library(), offset=4)
    outputs = case.outputs()
    for _ in range(3):
        case.check(0.1, outputs)


def test_an_empty_program_does_nothing() -> None:
    case = Case(Library(), shape=(0, 4))
    case.program.run(case.inputs, [case.inputs[0], case.inputs[2], *[b.address for b in case.outputs()]], np.ones(1))


def test_scalars_are_counted() -> None:
    case = Case(Library())
    with pytest.raises(ValueError, match="1 scalars, got 16 bytes"):
        case.program.run(case.inputs, case.inputs, np.ones(2))


def test_machine_code_is_kept_on_disk() -> None:
    case = Case(Library())
    ((work, *_), *_) = case.program._stages
    code = machine_code(case.context, work.kernel)
    linked = case.library.calls["cuLinkComplete"]
    assert machine_code(case.context, work.kernel) == code
    assert case.library.calls["cuLinkComplete"] == linked
    other = Case(Library(capability=80))
    assert machine_code(other.context, work.kernel) != code


def test_old_devices_are_refused() -> None:
    case = Case(Library(capability=70))
    with pytest.raises(CudaError, match=r"compute capability 7\.0, 7\.5 is needed"):
        case.run(0.1, case.outputs())


def test_kernels_are_captured_without_being_run() -> None:
    case = Case(Library())
    outputs = case.outputs()
    case.check(0.1, outputs)
    before = [case.run(0.0, outputs)[k].copy() for k in (0, 1)]
    addresses = [case.inputs[0], case.inputs[2], *(b.address for b in outputs)]
    binding = case.program._bindings[(*case.inputs, *addresses)]
    graph = case.context.capture(lambda: case.program._launch(binding.parts[0]))
    after = [np.empty_like(a) for a in before]
    case.context.take(after[0], case.inputs[0])
    assert same_bits(after[0], before[0])
    case.context.drop(graph)


def test_library_operations_are_refused() -> None:
    context = context_on(Library())
    packed = graph_of(lambda x: make("pack_panels", x, columns=panel_columns("float32")), np.ones((3, 4), np.float32))
    with pytest.raises(NotImplementedError, match="'pack_panels'"):
        compile_for_gpu(packed, context, Pool(context))


def test_an_index_out_of_range_is_told() -> None:
    context = context_on(Library())
    x, index = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([1, 3])
    graph = graph_of(lambda x, i: make("mul", make("take", x, i, dim=0), 2.0), x, index)
    program = compile_for_gpu(graph, context, Pool(context))
    pool = Pool(context)
    blocks = [pool.allocate(a.nbytes) for a in (x, index)] + [pool.allocate(24)]
    context.put(blocks[0].address, x)
    for indices, code in (([1, 3], 0), ([0, 4], 1), ([2, 2], 0), ([-1, 0], 1), ([3, 0], 0)):
        context.put(blocks[1].address, np.array(indices))
        program.run([blocks[0].address, blocks[1].address], [blocks[2].address], np.zeros(0))
        assert (program.error() != 0) == (code != 0)
        if not code:
            found = np.empty((2, 3), np.float32)
            context.take(found, blocks[2].address)
            assert found.tolist() == (2 * x[indices]).tolist()


def test_the_doctor_runs_kernels_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(devices=2)
    monkeypatch.setattr(doctor, "driver", lambda: Driver(library))
    out = str(list(doctor.gpus()))
    described = "PTX machine, compute capability 9.0, 0.0 GiB, CUDA 13.0; "
    assert out.count(described + "tensors can be on it") == 1
    assert out.count(described + "not for tensors: they are on the first GPU") == 1
    assert out.count("kernels built and run: the bits of the CPU") == 2
    assert library.calls["cuGraphLaunch"] == 2


def test_the_doctor_tells_of_a_gpu_that_computes_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Library()
    driver = Driver(library)
    take = Context.take

    def faulty(self: Context, array: np.ndarray, address: int) -> None:
        take(self, array, address)
        array.flat[3] += 1

    monkeypatch.setattr(Context, "take", faulty)
    assert "element 3 is" in str(doctor.gpu_test(driver, driver.devices()[0]))
    monkeypatch.setattr(doctor, "driver", lambda: driver)
    assert doctor.main() == 1
    assert "FAILED: element 3 is" in capsys.readouterr().out
    monkeypatch.setattr(library, "capability", 61)
    assert "7.5 is needed" in str(doctor.gpu_test(driver, driver.devices()[0]))


def test_without_a_driver_the_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "driver", lambda: None)
    assert list(doctor.gpus()) == [("gpu", "no NVIDIA driver, or no GPU that it can use")]


def test_what_vanishes_in_a_product_keeps_its_sign() -> None:
    """Fewer steps of k than a turn's: no product with zeros is added, which would make 0.0 of -0.0."""
    context = context_on(Library())
    a, b = np.full((1, 17), -1e-30, np.float32), np.full((17, 1), 1e-30, np.float32)
    (found,) = run_on(context, Pool(context), graph_of(lambda a, b: make("matmul", a, b), a, b), [a, b])
    assert np.signbit(found).all()


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "reversed", "broadcast"])
def test_operands_may_lie_anyhow(layout: str, vectors: bool) -> None:
    context = context_on(Library())
    x = random_array(random.Random(4), (6, 8), "float32", layout)
    graph = graph_of(lambda x: (make("exp", x), make("sum", x, dim=1)), x)
    expected = run_in_order(graph, [x.copy()])
    for found, wanted in zip(run_on(context, Pool(context), graph, [x], vectors=vectors), expected, strict=True):
        assert same_bits(found, np.asarray(wanted))


def test_updates_of_many_parameters_are_one_launch() -> None:
    library = Library()
    context = context_on(library)
    arrays = [RNG.standard_normal(n).astype(np.float32) for n in (40, 7, 40, 129)]

    def step(*nodes: Node) -> tuple[Node, ...]:
        return tuple(make("sub", x, make("mul", x, 0.5)) for x in nodes)

    graph = graph_of(step, *arrays, homes={k: k for k in range(4)})
    for found, array in zip(run_on(context, Pool(context), graph, arrays), arrays, strict=True):
        assert same_bits(found, array - array * np.float32(0.5))
    assert library.calls["cuLaunchKernel"] == 1


def test_kernels_of_one_name_and_other_sizes_are_others() -> None:
    context = context_on(Library())
    arrays = [RNG.standard_normal((2, n)).astype(np.float32) for n in (40, 700)]
    graph = graph_of(lambda *nodes: tuple(make("argmax", x, dim=1) for x in nodes), *arrays)
    for found, array in zip(run_on(context, Pool(context), graph, arrays), arrays, strict=True):
        assert found.tolist() == array.argmax(1).tolist()
