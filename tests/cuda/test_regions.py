"""Compiled regions on tensors of a GPU: bit for bit what they are eagerly there, with programs of the device."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.cuda.standin import machines, on
from tests.programs import same_bits
from tracejit.gpu_compiler import GpuCompiled
from tracejit.runtime.cuda.program import DeviceProgram
from tracejit.trace.compiled import region_of

F = tj.nn.functional


@pytest.fixture(scope="module", autouse=True, params=machines())
def gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    with on(request.param, 1 << 22):
        yield
    gc.collect()


def here(tensor: tj.Tensor) -> Any:
    assert tensor.is_cuda
    return tensor.detach().cpu().numpy()


def programs(function: Any) -> list[Any]:
    return [e for _, e in region_of(function).executables() if e.obstacle is None and e.built is not None]


def both(make: Callable[[], Callable[[int], Any]], calls: int = 5) -> Any:
    """Calls a function eagerly and compiled on equal state; asserts equal bits, gives the compiled function."""
    tj.manual_seed(2)
    plain = make()
    expected = [plain(k) for k in range(calls)]
    tj.manual_seed(2)
    function = tj.compile(make())
    for k, wanted in enumerate(expected):
        found = function(k)
        for a, b in zip(found, wanted, strict=True):
            assert a.device == b.device
            assert same_bits(a.detach().cpu().numpy(), b.detach().cpu().numpy()), k
    return function


class Dense(tj.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = tj.nn.Linear(4, 5)
        self.batch = tj.nn.BatchNorm1d(5)
        self.last = tj.nn.Linear(5, 3, bias=False)

    def forward(self, x: tj.Tensor) -> Any:
        return self.last(F.relu(self.batch(self.first(x))))


class Words(tj.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = tj.nn.Embedding(5, 4)
        self.last = tj.nn.Linear(4, 3)

    def forward(self, x: tj.Tensor) -> Any:
        return self.last(F.dropout(F.gelu(self.table(x)), 0.25))


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_training_step_is_one_program_of_the_device(kind: str) -> None:
    kept: list[Any] = []

    def make() -> Callable[[int], Any]:
        model = (Dense() if kind == "SGD" else Words()).cuda()
        assert all(t.is_cuda for t in (*model.parameters(), *model.buffers()))
        options = {"momentum": 0.9} if kind == "SGD" else {}
        optimizer = getattr(tj.optim, kind)(model.parameters(), lr=0.05, **options)
        x = tj.randn(4, 4, device="cuda") if kind == "SGD" else tj.tensor([0, 1, 2, 4], device="cuda")
        target = tj.tensor([0, 2, 1, 1]).to("cuda")

        def step(k: int) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), target)
            loss.backward()
            tj.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return (loss,)

        kept.append(model)
        return step

    function = both(make, 4)
    for a, b in zip(*(m.state_dict().values() for m in kept), strict=True):
        assert same_bits(here(a), here(b))
    assert len(programs(function)) == 1
    (program,) = programs(function)
    assert program.gpu
    assert "program 0 on cuda:0: " in str(tj.explain(function))
    with pytest.raises(NotImplementedError, match="run on cuda:0"):
        tj.profile(function, 0)


def test_other_sizes_get_programs_of_their_own() -> None:
    def make() -> Callable[[int], Any]:
        w = tj.randn(3, 2, device="cuda", requires_grad=True)

        def step(k: int) -> Any:
            x = tj.full((2 + k % 3, 3), 0.5 + k, device="cuda")
            out = (x @ w).tanh()
            w.grad = None
            out.mean().backward()
            return out, w.grad

        return step

    function = both(make, 7)
    assert region_of(function).calls.side_exits == 0
    assert all(p.gpu for p in programs(function))


def test_parts_that_move_are_no_other_programs() -> None:
    def make() -> Callable[[int], Any]:
        buffer, w = tj.zeros(7, 3, device="cuda"), tj.randn(7, 3, device="cuda").requires_grad_()

        def f(k: int) -> Any:
            i = k % 5
            w.grad = None
            buffer[i] = w[i + 1].detach() * 2
            buffer[i : i + 2, 1:] += 1
            (w[i : i + 2] * w[i]).sum().backward()
            return buffer * 1, w.grad, buffer[i] * 1

        return f

    function = both(make, 12)
    assert region_of(function).calls.side_exits == 0
    assert region_of(function).calls.resized == 0
    assert len(programs(function)) <= 6


def test_values_are_read_in_the_middle() -> None:
    def make() -> Callable[[int], Any]:
        w = tj.ones(4, device="cuda", requires_grad=True)

        def step(k: int) -> Any:
            loss = (w * w).sum()
            scale = loss.item()
            if scale > 1:
                loss = loss * 0.5
            w.grad = None
            loss.backward()
            with tj.no_grad():
                w.sub_(w.grad, alpha=0.25)
            return loss, w.clone()

        return step

    both(make, 6)


def test_a_batch_comes_to_the_device_inside() -> None:
    def make() -> Callable[[int], Any]:
        w = tj.ones(3, device="cuda", requires_grad=True)

        def step(k: int) -> Any:
            x = tj.arange(3.0) + k
            y = x * 2
            there = y.to("cuda") * w
            back = there.sum().cpu() + x.sum()
            return there, back

        return step

    function = both(make, 6)
    assert {p.gpu for p in programs(function)} == {True, False}


def test_devices_take_turns() -> None:
    def make() -> Callable[[int], Any]:
        w = tj.ones(3, device="cuda", requires_grad=True)
        v = tj.ones(2, requires_grad=True)

        def step(k: int) -> Any:
            w.grad = v.grad = None
            x = tj.ones(2) * k
            noise = tj.rand(3, device="cuda") * w
            y = x * v
            z = noise.sum()
            y = y + tj.rand(2)
            z.backward()
            y.sum().backward()
            x.add_(1)
            there = v.to("cuda").sum() + z.detach()
            there.backward()
            return w.grad, v.grad, x, y, there

        return step

    both(make, 6)


def test_another_device_is_another_program() -> None:
    @tj.compile
    def double(x: tj.Tensor) -> Any:
        return (x + x).exp()

    for _ in range(4):
        assert double(tj.ones(3)).is_cpu
    for _ in range(4):
        assert double(tj.ones(3, device="cuda")).is_cuda
    assert double(tj.ones(3)).is_cpu
    assert [p.gpu for p in programs(double)] == [False, True]


def test_numbers_without_dimensions_may_be_the_hosts() -> None:
    def make() -> Callable[[int], Any]:
        x = tj.arange(4.0, device="cuda")

        def step(k: int) -> Any:
            return (x * factors[k]).exp(), tj.where(x > 1, 1.0, 0.0)

        return step

    factors = [tj.tensor(0.5 * k) for k in range(6)]
    assert len(programs(both(make, 6))) == 1


def test_devices_do_not_meet_in_a_program_either() -> None:
    w = tj.ones(2, device="cuda")

    @tj.compile
    def step(x: tj.Tensor) -> Any:
        w.add_(1)
        return w + x

    for k in range(4):
        step(tj.ones(2, device="cuda"))
        assert here(w).tolist() == [2 + k] * 2
    with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu!"):
        step(tj.ones(2))
    assert here(w).tolist() == [6, 6]


def test_a_computed_index_out_of_range_changes_nothing() -> None:
    w = tj.arange(6.0, device="cuda").reshape(3, 2).contiguous().requires_grad_()
    other = tj.zeros(2, device="cuda")

    @tj.compile
    def step(index: tj.Tensor) -> Any:
        out = w[index + 1].sum()
        w.grad = None
        out.backward()
        with tj.no_grad():
            w.sub_(w.grad)
            other.add_(1)
        return out

    for k in range(5):
        step(tj.tensor([0, k % 2], device="cuda"))
    assert any(p.compiled.program.fails for p in programs(step))
    before = here(w), here(other)
    with pytest.raises(IndexError, match="out of bounds"):
        step(tj.tensor([0, 2], device="cuda"))
    assert here(w).tolist() == before[0].tolist()
    assert here(other).tolist() == before[1].tolist()
    step(tj.tensor([1, 1], device="cuda"))
    assert here(other).tolist() == (before[1] + 1).tolist()


def test_a_lookup_that_nothing_uses_is_looked_at() -> None:
    w, other = tj.arange(6.0, device="cuda").reshape(3, 2), tj.zeros(2, device="cuda")

    @tj.compile
    def step(index: tj.Tensor) -> None:
        w[index + 1]
        other.add_(1)

    for k in range(5):
        step(tj.tensor([0, k % 2], device="cuda"))
    assert any(p.compiled.program.fails for p in programs(step))
    with pytest.raises(IndexError, match="out of bounds"):
        step(tj.tensor([2], device="cuda"))
    assert here(other).tolist() == [5, 5]


def test_an_index_from_outside_raises_where_it_is_used() -> None:
    w = tj.arange(6.0, device="cuda").reshape(3, 2)

    @tj.compile
    def step(index: tj.Tensor) -> Any:
        return w[index] * 2

    for k in range(4):
        assert here(step(tj.tensor([k % 3], device="cuda"))).tolist() == [[4.0 * (k % 3), 4.0 * (k % 3) + 2]]
    with pytest.raises(IndexError, match="out of bounds"):
        step(tj.tensor([3], device="cuda"))


def test_results_of_a_program_are_not_written_by_the_next() -> None:
    x = tj.ones(3, device="cuda")

    @tj.compile
    def step(k: float) -> Any:
        return x * k

    found = [step(float(k)) for k in range(8)]
    assert [here(f).tolist() for f in found] == [[float(k)] * 3 for k in range(8)]


def test_programs_are_verified_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    w = tj.ones(3, 2, device="cuda")

    @tj.compile(verify=1)
    def step(x: tj.Tensor) -> Any:
        w.mul_(0.5)
        return (w.T * x).sum(1).exp()

    x = tj.arange(3.0, device="cuda")
    for k in range(4):
        assert here(step(x)).tolist() == pytest.approx([np.exp(3 * 0.5 ** (k + 1))] * 2)
    assert any(note.kind == "verification" for note in region_of(step).notes)
    run = GpuCompiled.run

    def faulty(self: GpuCompiled, pointers: Any, scalars: Any) -> int:
        code = run(self, pointers, scalars)
        machine = self.machine
        machine.context.clear(int(pointers[len(self.source.inputs)]), 4)
        return code

    monkeypatch.setattr(GpuCompiled, "run", faulty)
    with pytest.raises(tj.errors.VerificationError, match="computed other bits than eager"):
        step(x)
    assert here(w).tolist() == [[0.5**5] * 2] * 3


def test_calls_are_replayed() -> None:
    def make(is_compiled: bool) -> Callable[[int], Any]:
        w = tj.ones(4, 2, device="cuda", requires_grad=True)
        optimizer = tj.optim.SGD([w], lr=0.125, momentum=0.5)
        batches = [tj.randn(2, 4, device="cuda") for _ in range(7)]

        def inner(x: tj.Tensor) -> Any:
            optimizer.zero_grad()
            loss = F.dropout((x @ w).tanh(), 0.5).sum()
            loss.backward()
            optimizer.step()
            return loss

        run = tj.compile(inner) if is_compiled else inner
        regions.append(run)

        def step(k: int) -> Any:
            return run(batches[k]), w.detach().clone()

        return step

    regions: list[Any] = []
    results = []
    for is_compiled in (False, True):
        tj.manual_seed(4)
        step = make(is_compiled)
        results.append([[here(t) for t in step(k)] for k in range(7)])
    for one, other in zip(*results, strict=True):
        assert all(same_bits(a, b) for a, b in zip(one, other, strict=True))
    assert region_of(regions[1]).calls.replayed >= 1


def test_a_replay_finds_the_device_of_its_tensors_changed() -> None:
    @tj.compile
    def double(x: tj.Tensor) -> Any:
        return (x + x).exp()

    @tj.compile
    def made(k: float) -> Any:
        return tj.ones(2) * k

    for _ in range(8):
        assert double(tj.ones(2)).is_cpu
        assert made(2.0).is_cpu
    assert region_of(double).calls.replayed
    assert region_of(made).calls.replayed
    for where in ("cuda", "cpu", "cuda"):
        with tj.device(where):
            for _ in range(8):
                assert double(tj.ones(2)).device.type == where
                assert made(3.0).device.type == where
                assert made(3.0).tolist() == [3.0, 3.0]


def test_a_number_read_behind_the_program_is_waited_for() -> None:
    w = tj.ones(3, device="cuda")

    @tj.compile
    def step() -> Any:
        w.mul_(2)
        return w.sum().item()

    assert [step() for _ in range(9)] == [3.0 * 2**k for k in range(1, 10)]
    assert region_of(step).calls.replayed


def test_a_default_device_inside_of_a_region() -> None:
    @tj.compile
    def step() -> Any:
        with tj.device("cuda"):
            x = tj.ones(2)
        return x * 2, tj.ones(2)

    for _ in range(8):
        x, y = step()
        assert (x.device.type, y.device.type) == ("cuda", "cpu")
        assert x.tolist() == [2.0, 2.0]


def test_a_fault_names_the_program_and_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    @tj.compile
    def doubled(x: tj.Tensor) -> Any:
        return x * 2 + 1

    x = tj.arange(3.0, device="cuda")
    for _ in range(4):
        doubled(x)

    def broken(*of: Any, **more: Any) -> int:
        raise tj.errors.CudaError("cuGraphLaunch: CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(DeviceProgram, "run", broken)
    with pytest.raises(tj.errors.CudaError) as found:
        doubled(x)
    (note,) = found.value.__notes__
    assert re.search(r"the program of doubled was asked for, whose operations are of .*test_regions\.py:\d+", note)
