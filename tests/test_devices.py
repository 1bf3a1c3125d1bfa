"""Devices, and the names of `tracejit.cuda`, `amp` and `backends`: PyTorch's without a GPU."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tracejit as tj

pytestmark = pytest.mark.usefixtures("no_gpu")

NAMES = """
m.device('cpu')|m.device('cuda')|m.device('cuda:1')|m.device('cuda', 1)|m.device('cpu:0')|m.device(type='cpu', index=0)
m.device(m.device('cpu'))|str(m.device('cuda', 1))|m.device('cpu').index|m.device('cpu') == 'cpu'
m.device('cpu') == m.device('cpu:0')|m.device('cuda:1') == m.device('cuda', 1)|m.device('foo')|m.device('cuda:x')
m.device('cuda:-1')|m.device('cuda:01')|m.device('cuda', -1)|m.device('cpu', index=True)|m.device(3.5)|m.device(0)
m.device('cuda:0', 1)|m.ones(1).device|m.ones(1).to('cpu:0').device|m.ones(1, device='cpu:1').device
m.ones(1).to('foo')|m.ones(1).to(0)|m.ones(1).is_cpu|m.ones(1).is_cuda|m.ones(1).get_device()|m.ones(1).is_pinned()
m.ones(1).pin_memory()|m.Generator().device|m.get_default_device()|m.zeros(2, device=m.device('cpu')).device
m.ones(1).to(m.device('cpu'), non_blocking=True).device|m.nn.Linear(2, 2, device='cpu').weight.device
m.nn.Linear(2, 2).to(m.device('cpu')).weight.device|m.ones(1).cpu().device
m.cuda.is_available()|m.cuda.device_count()|m.cuda.is_initialized()|m.cuda.empty_cache()|m.cuda.memory_allocated()
m.cuda.max_memory_allocated()|m.cuda.memory_reserved()|m.cuda.manual_seed_all(1)|m.cuda.manual_seed(1)
m.cuda.is_bf16_supported()|m.backends.cudnn.is_available()|m.backends.cudnn.benchmark|m.backends.cudnn.deterministic
m.backends.cudnn.enabled|m.backends.cudnn.allow_tf32|m.backends.cudnn.version()|m.backends.mps.is_available()
m.backends.mps.is_built()|m.backends.cuda.is_built()|m.backends.cuda.matmul.allow_tf32
m.amp.GradScaler('cuda', enabled=False).state_dict()|m.amp.GradScaler('cuda', enabled=False).get_scale()
m.amp.GradScaler('cuda', enabled=False).is_enabled()|m.amp.GradScaler('cuda', enabled=False).update()
m.amp.GradScaler('cuda', enabled=False).unscale_(None)|m.autocast('foo')"""
CASES = [case for line in NAMES.split("\n") for case in line.split("|") if case]


@pytest.mark.parametrize("text", CASES)
def test_names_mean_what_they_mean_in_torch(text: str) -> None:
    torch = pytest.importorskip("torch")

    def outcome(m: Any) -> str:
        try:
            return repr(eval(text, {"m": m}))
        except Exception as error:
            return type(error).__name__

    assert outcome(tj) == outcome(torch)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tj.ones(2).to("cuda"),
        lambda: tj.ones(2).to(tj.device("cuda", 0)),
        lambda: tj.ones(2).cuda(),
        lambda: tj.ones(2).cuda(1),
        lambda: tj.zeros(2, device="cuda:0"),
        lambda: tj.tensor([1.0], device=tj.device("mps")),
        lambda: tj.rand(2, device="cuda"),
        lambda: tj.Generator(device="cuda"),
        lambda: tj.nn.Linear(2, 2, device="cuda"),
        lambda: tj.nn.Linear(2, 2).cuda(),
        lambda: tj.nn.Linear(2, 2).to("cuda"),
        lambda: tj.set_default_device("cuda"),
        lambda: tj.device("cuda").__enter__(),
    ],
)
def test_a_device_that_is_not_there_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"not available|accelerator"):
        make()


@pytest.mark.parametrize(
    "name", ["current_device", "synchronize", "current_stream", "get_device_name", "get_device_capability",
             "get_device_properties", "mem_get_info", "Stream", "Event"]
)  # fmt: skip
def test_what_needs_a_gpu_says_so(name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"tracejit\.cuda\.{name}.* needs a GPU"):
        getattr(tj.cuda, name)()
    with pytest.raises(RuntimeError, match="set_device"):
        tj.cuda.set_device(0)


def test_cuda_exports_what_it_defines() -> None:
    assert all(hasattr(tj.cuda, name) for name in tj.cuda.__all__)


def test_a_device_is_one_object_that_cannot_be_changed() -> None:
    one = tj.device("cuda:1")
    assert copy.deepcopy(one) is one
    assert pickle.loads(pickle.dumps(one)) is one
    assert {tj.device("cuda", 1): "here"}[one] == "here"
    with pytest.raises(AttributeError):
        one.index = 2
    with pytest.raises(AttributeError):
        del one.type
    with tj.device("cpu") as where:
        assert tj.ones(1).device is where


def test_arguments_that_do_not_exist_are_refused() -> None:
    with pytest.raises(TypeError):
        tj.ones(1).to("cpu", blocking=True)


def test_files_are_loaded_onto_the_cpu_alone(tmp_path: Path) -> None:
    tj.save({"w": tj.ones(2)}, tmp_path / "w.pt")
    for where in ("cpu", tj.device("cpu"), {"cuda:0": "cpu"}, None):
        assert tj.load(tmp_path / "w.pt", map_location=where)["w"].tolist() == [1.0, 1.0]
    for where in ("cuda", {"cpu": "cuda:0"}):
        with pytest.raises(RuntimeError, match="not available"):
            tj.load(tmp_path / "w.pt", map_location=where)
    with pytest.raises(NotImplementedError, match="function"):
        tj.load(tmp_path / "w.pt", map_location=lambda storage, where: storage)


def test_mixed_precision_is_off_as_in_torch_without_a_gpu() -> None:
    with pytest.warns(UserWarning, match="Disabling autocast"):
        tj.autocast("cuda")
    with pytest.warns(UserWarning, match="Disabling GradScaler"):
        scaler = tj.amp.GradScaler("cuda")
    assert not scaler.is_enabled()

    @tj.autocast("cuda", enabled=False)
    def twice(x: tj.Tensor) -> tj.Tensor:
        return x + x

    assert twice(tj.ones(1)).item() == 2.0


def script(compiled: bool) -> list[float]:
    """A training loop as it is written for PyTorch, with everything that asks for a GPU."""
    tj.manual_seed(0)
    tj.cuda.manual_seed_all(0)
    tj.backends.cudnn.benchmark = False
    device = tj.device("cuda" if tj.cuda.is_available() else "cpu")
    use_amp = device.type == "cuda"
    model = tj.nn.Sequential(tj.nn.Linear(4, 8), tj.nn.Tanh(), tj.nn.Linear(8, 1)).to(device)
    optimizer = tj.optim.Adam(model.parameters(), lr=0.1)
    scaler = tj.amp.GradScaler("cuda", enabled=use_amp)

    def step(x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        x, y = x.to(device, non_blocking=True), y.to(device)
        optimizer.zero_grad()
        with tj.autocast(device_type=device.type, enabled=use_amp):
            loss = tj.nn.functional.mse_loss(model(x) + tj.zeros(1, device=x.device), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    run = tj.compile(step, mode="replay") if compiled else step
    x, y = tj.randn(16, 4), tj.randn(16, 1)
    return [run(x, y).item() for _ in range(12)]


def test_a_script_for_a_gpu_runs_on_the_cpu_and_is_replayed() -> None:
    assert script(compiled=True) == script(compiled=False)


def test_tf32_and_the_precision_of_products_are_one_switch() -> None:
    torch = pytest.importorskip("torch")
    found = []
    for t in (torch, tj):
        before = t.get_float32_matmul_precision()
        seen = []
        for allowed in (True, False):
            t.backends.cuda.matmul.allow_tf32 = allowed
            seen.append((t.get_float32_matmul_precision(), t.backends.cuda.matmul.allow_tf32))
        for precision in ("medium", "high", "highest"):
            t.set_float32_matmul_precision(precision)
            seen.append((t.get_float32_matmul_precision(), t.backends.cuda.matmul.allow_tf32))
        t.set_float32_matmul_precision(before)
        found.append(seen)
    assert found[0] == found[1]
