"""`tracejit.cuda` and what goes to a GPU as a whole: memory, events, modules, state, files, processes, threads."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tracejit as tj
from tests.cuda.libcuda import Library
from tests.cuda.standin import stand_in
from tracejit.tools import doctor


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Library]:
    with stand_in(Library(memory=1 << 20)) as library:
        yield library


def test_what_there_is_of_a_gpu() -> None:
    assert tj.cuda.is_available()
    assert (tj.cuda.device_count(), tj.cuda.current_device()) == (1, 0)
    assert tj.cuda.get_device_name() == tj.cuda.get_device_name("cuda:0") == "PTX machine"
    assert tj.cuda.get_device_capability(0) == (9, 0)
    found = tj.cuda.get_device_properties(tj.device("cuda"))
    assert (found.major, found.total_memory, found.multi_processor_count) == (9, 1 << 20, 7)
    tj.cuda.set_device(0)
    tj.cuda.set_device("cuda:0")
    with tj.cuda.device(0):
        assert tj.ones(1).is_cpu
    for wrong in (1, "cuda:1"):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            tj.cuda.set_device(wrong)
    with pytest.raises(ValueError, match="Expected a cuda device"):
        tj.cuda.synchronize("cpu")


def test_a_gpu_that_is_not_fit_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    library = Library(managed=False)
    with stand_in(library):
        assert not tj.cuda.is_available()
        with pytest.raises(RuntimeError, match="not available"):
            tj.ones(1, device="cuda")
        monkeypatch.setattr(doctor, "driver", lambda: doctor.Driver(library))
        doctor.main()
    assert "not for tensors: the host cannot use its memory while it works" in capsys.readouterr().out


def test_memory_is_counted(gpu: Library) -> None:
    assert tj.cuda.memory_allocated() == 0
    x = tj.zeros(1000, device="cuda")
    tj.cuda.synchronize()
    assert tj.cuda.is_initialized()
    before = tj.cuda.memory_allocated()
    y = x.clone()
    assert tj.cuda.memory_allocated() >= before + 4000
    peak = tj.cuda.max_memory_allocated()
    assert y.is_cuda
    del y
    assert tj.cuda.memory_allocated() <= peak - 4000
    assert tj.cuda.max_memory_allocated() == peak
    tj.cuda.reset_peak_memory_stats()
    assert tj.cuda.max_memory_allocated() == tj.cuda.memory_allocated()
    reserved = tj.cuda.memory_reserved()
    tj.cuda.empty_cache()
    assert tj.cuda.memory_reserved() < reserved <= tj.cuda.max_memory_reserved()
    free, total = tj.cuda.mem_get_info()
    assert free + tj.cuda.memory_reserved() == total == 1 << 20
    with pytest.raises(tj.cuda.OutOfMemoryError, match="use smaller batches"):
        tj.zeros(1 << 19, device="cuda")
    assert x.sum().item() == 0


def test_events_and_streams(gpu: Library) -> None:
    x = tj.ones(4, device="cuda")
    start, end = (tj.cuda.Event(enable_timing=True) for _ in range(2))
    assert start.query()
    start.record()
    with tj.cuda.stream(tj.cuda.Stream()):
        y = x * 2
    end.record(tj.cuda.current_stream())
    assert not end.query()
    assert not tj.cuda.current_stream().query()
    end.synchronize()
    assert end.query()
    assert start.elapsed_time(end) == 1.0
    tj.cuda.current_stream().wait_event(end)
    tj.cuda.current_stream().wait_stream(tj.cuda.Stream())
    assert tj.cuda.current_stream() == tj.cuda.default_stream()
    event = tj.cuda.current_stream().record_event()
    with pytest.raises(ValueError, match="enable_timing=True"):
        start.elapsed_time(event)
    tj.cuda.synchronize()
    assert not gpu.queue
    assert y.tolist() == [2.0] * 4


def test_seeds_and_states() -> None:
    tj.cuda.manual_seed_all(5)
    state = tj.cuda.get_rng_state()
    first = tj.rand(3, device="cuda").tolist()
    tj.cuda.set_rng_state(state)
    assert tj.rand(3, device="cuda").tolist() == first
    tj.manual_seed(5)
    assert tj.rand(3).tolist() == first
    tj.cuda.seed_all()
    assert tj.rand(3).tolist() != first


def test_modules_and_optimizers_move() -> None:
    model = tj.nn.Sequential(tj.nn.Linear(2, 2), tj.nn.BatchNorm1d(2))
    model(tj.ones(3, 2)).sum().backward()
    model.to("cuda")
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    assert all(t is not None and t.is_cuda for t in tensors)
    assert model.double().cpu()[0].weight.dtype is tj.float64
    assert all(p.is_cpu for p in model.parameters())
    other = tj.nn.Linear(2, 2, device="cuda")
    assert other.weight.is_cuda
    other.load_state_dict(tj.nn.Linear(2, 2).state_dict())
    assert other.weight.is_cuda
    for make in (tj.nn.init.orthogonal_, tj.nn.init.eye_, tj.nn.init.kaiming_uniform_):
        make(other.weight)
    optimizer = tj.optim.Adam(other.parameters())
    other(tj.ones(1, 2, device="cuda")).sum().backward()
    optimizer.step()
    copy = tj.optim.Adam(tj.nn.Linear(2, 2).parameters())
    copy.load_state_dict(optimizer.state_dict())
    assert all(v.is_cpu for s in copy.state.values() for v in s.values() if isinstance(v, tj.Tensor))
    assert all(v.is_cuda for s in optimizer.state.values() for v in s.values() if isinstance(v, tj.Tensor))


def test_files_keep_devices_and_shared_memory(tmp_path: Path) -> None:
    whole = tj.arange(6.0, device="cuda")
    held = {"whole": whole, "part": whole[2:4], "turned": whole.reshape(2, 3).T, "cpu": tj.ones(1)}
    tj.save(held, tmp_path / "x.tj")
    found = tj.load(tmp_path / "x.tj")
    assert [t.device.type for t in found.values()] == ["cuda", "cuda", "cuda", "cpu"]
    found["part"].fill_(9)
    assert found["whole"].tolist() == [0, 1, 9, 9, 4, 5]
    assert found["turned"].tolist() == [[0, 9], [1, 4], [9, 5]]
    for where in ("cpu", {"cuda:0": "cpu"}, tj.device("cpu")):
        there = tj.load(tmp_path / "x.tj", map_location=where)
        assert all(t.is_cpu for t in there.values())
        there["part"].fill_(9)
        assert there["whole"].tolist() == [0, 1, 9, 9, 4, 5]
    assert all(t.is_cuda for t in tj.load(tmp_path / "x.tj", map_location="cuda").values())
    with stand_in(Library(devices=0)), pytest.raises(RuntimeError, match=r"map_location=tracejit\.device"):
        tj.load(tmp_path / "x.tj")
    file = io.BytesIO()
    tj.save(tj.nn.Parameter(whole), file)
    file.seek(0)
    loaded = tj.load(file)
    assert isinstance(loaded, tj.nn.Parameter)
    assert loaded.is_cuda


def test_loaders_pin_nothing_and_say_nothing() -> None:
    data = tj.data.TensorDataset(tj.arange(4.0))
    for (batch,) in tj.data.DataLoader(data, batch_size=2, pin_memory=True):
        assert batch.to("cuda", non_blocking=True).is_cuda
    x = tj.ones(2)
    assert x.pin_memory() is x
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        x.cuda().pin_memory()


def test_a_forked_process_is_told(tmp_path: Path) -> None:
    x = tj.ones(2, device="cuda")
    out = tmp_path / "said"
    child = os.fork()
    if not child:
        try:
            x + 1
        except RuntimeError as error:
            out.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert "Cannot re-initialize CUDA in forked subprocess" in out.read_text()
    assert (x + 1).tolist() == [2, 2]


def test_threads_ask_for_what_belongs_together_as_one() -> None:
    x = tj.arange(3.0, device="cuda")
    wrong: list[Any] = []

    def work(factor: float) -> None:
        for _ in range(20):
            if (x * factor).tolist() != [0, factor, 2 * factor]:
                wrong.append(factor)

    threads = [threading.Thread(target=work, args=(float(k),)) for k in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_script_for_pytorch_runs() -> None:
    torch: Any = tj
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(8, 2)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)) if hasattr(torch, "utils") else None
    loader = torch.data.DataLoader(data or torch.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)

    @torch.compile
    def step(inputs: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for _ in range(6):
        for inputs, targets in loader:
            losses.append(step(inputs.to(device), targets.to(device)).item())
    assert device.type == "cuda"
    assert losses[-1] < losses[0] / 4


def test_products_in_shorter_types() -> None:
    assert tj.cuda.is_bf16_supported()
    model = tj.nn.Linear(4, 3).cuda()
    x = tj.ones(2, 4, device="cuda")
    with tj.autocast("cuda", dtype=tj.bfloat16):
        assert model(x).dtype is tj.bfloat16
    assert model(x).dtype is tj.float32
