"""A step of Adam over many small tensors and over one large one, in one launch, beside PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.session import Session, device_us, error_of, here, host_us

CASES: dict[str, list[tuple[int, ...]]] = {
    "100 tensors of 64x64": [(64, 64)] * 100,
    "one of 50,000,000": [(50_000_000,)],
}
CHUNK = 4096
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


def _tensors(shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    torch.manual_seed(1)
    found = [torch.randn(shape, device="cuda", requires_grad=True) for shape in shapes]
    for tensor in found:
        tensor.grad = torch.randn_like(tensor)
    return found


def _own(session: Session, shapes: list[tuple[int, ...]]) -> tuple[Any, list[torch.Tensor], list[torch.Tensor]]:
    parameters = _tensors(shapes)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    rows = []
    for p, (m, v) in zip(parameters, moments, strict=True):
        assert p.grad is not None
        for start in range(0, p.numel(), CHUNK):
            addresses = [t.data_ptr() + 4 * start for t in (p, p.grad, m, v)]
            rows.append([*addresses, min(CHUNK, p.numel() - start)])
    table = torch.from_numpy(np.array(rows, dtype=np.int64)).cuda()
    values = [RATE / (1 - BETA1), (1 - BETA2) ** -0.5, BETA1, BETA2, EPSILON]
    scalars = torch.tensor(values, device="cuda")
    launch = session.launch("adam", len(rows), [table, scalars])
    kept = [table, scalars, *(t for pair in moments for t in pair)]
    return launch, parameters, kept


def _reference(shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    found = [p.detach().double().requires_grad_() for p in _tensors(shapes)]
    for p, source in zip(found, _tensors(shapes), strict=True):
        assert source.grad is not None
        p.grad = source.grad.double()
    torch.optim.Adam(found, lr=RATE).step()
    return found


def _peer(shapes: list[tuple[int, ...]], way: str) -> Any:
    parameters = _tensors(shapes)
    fused = way == "fused"
    optimizer = torch.optim.Adam(parameters, lr=RATE, fused=fused, foreach=not fused, capturable=True)
    if way != "torch.compile":
        return optimizer.step
    return torch.compile(optimizer.step)


def compile_all() -> None:
    """Compiles PyTorch's step once for each case, so that its cache on disk has it."""
    for shapes in CASES.values():
        _peer(shapes, "torch.compile")()
        torch.compiler.reset()


def _measure_own(session: Session, name: str, shapes: list[tuple[int, ...]], elements: int) -> None:
    launch, parameters, kept = _own(session, shapes)
    before = torch.cat([p.detach().double().flatten() for p in parameters])
    launch(here())
    torch.cuda.synchronize()
    wanted = torch.cat([p.detach().flatten() for p in _reference(shapes)]) - before
    error = error_of(torch.cat([p.detach().double().flatten() for p in parameters]) - before, wanted)
    us = device_us(lambda: launch(here()))
    session.note(
        f"{name}, one launch",
        {
            "us": us,
            "GB/s": 28 * elements / us * 1e-3,
            "host us": host_us(launch, 50, 9),
            "error of the step": error,
            "tensors kept for it": len(kept),
        },
    )


def run(session: Session) -> None:
    """Measures them."""
    for name, shapes in CASES.items():
        elements = sum(int(np.prod(shape)) for shape in shapes)
        with session.part(name):
            _measure_own(session, name, shapes, elements)
        for way in ("fused", "foreach", "torch.compile"):
            with session.part(f"{name}, {way}"):
                step = _peer(shapes, way)
                for _ in range(3):
                    step()
                us = device_us(step, 5)
                session.note(
                    f"{name}, torch {way}",
                    {"us": us, "GB/s": 28 * elements / us * 1e-3, "host us": host_us(step, 5, 5)},
                )
        torch.cuda.empty_cache()
