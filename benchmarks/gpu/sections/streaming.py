"""Kernels bound by memory beside PyTorch eager and compiled (and JAX), in parts of what the memory can do."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import torch

from benchmarks.gpu import peers
from benchmarks.gpu.driver import Launch
from benchmarks.gpu.session import Session, device_us, here

N = peers.LARGE
FULL_SUM_BLOCKS = 1056
VECTORS = ("scalar_1_256", "vector_1_256", "vector_2_256", "vector_4_256", "vector_1_128", "vector_1_512")
PARTS = 65536 // 128


def _elementwise(session: Session, kind: str, label: str, inputs: Any, out: torch.Tensor) -> dict[str, list[Launch]]:
    found = {}
    narrow = label != "f32"
    for shape in VECTORS[:2] if narrow else VECTORS:
        form, vectors, threads = shape.split("_")
        lanes = 1 if form == "scalar" else 8 if narrow else 4
        blocks = -(-N // (lanes * int(vectors) * int(threads)))
        found[f"{kind} {shape}"] = [session.launch(f"{kind}_{label}_{shape}", blocks, [*inputs, out, N // lanes])]
    return found


def _quick(session: Session, label: str, inputs: Any, out: torch.Tensor) -> dict[str, list[Launch]]:
    """The exact chain whose divisions avoid the slow path."""
    lanes = 4 if label == "f32" else 8
    return {
        f"quick vector_1_{threads}": [
            session.launch(f"quick_{label}_vector_1_{threads}", -(-N // (lanes * threads)), [*inputs, out, N // lanes])
        ]
        for threads in ((128, 256) if label == "f32" else (256,))
    }


def _own(session: Session, name: str, inputs: Any, out: torch.Tensor, scratch: torch.Tensor) -> dict[str, list[Launch]]:
    """The trial kernels of a case: one launch or two in a row for each way."""
    kind, _, rest = name.partition(" ")
    if kind == "chain" and rest == "f32":
        block = (ctypes.c_int64 * 3)(*(t.data_ptr() for t in (*inputs, out)))
        text = {"the text of a CPU kernel": [session.launch("text_kernel", N // 256, [block, N])]}
        exact = _elementwise(session, "exact", rest, inputs, out)
        exact |= _quick(session, rest, inputs, out)
        return text | exact | _elementwise(session, "hardware", rest, inputs, out)
    if kind == "chain":
        exact = _elementwise(session, "exact", rest, inputs, out)
        if rest == "bf16":
            exact |= _quick(session, rest, inputs, out)
        return exact | _elementwise(session, "hardware", rest, inputs, out)
    if kind == "triad":
        return _elementwise(session, "triad", rest, inputs, out)
    if kind == "transposed_sum":
        return {way: [session.launch(f"transposed_{way}", (256, 256), [*inputs, out, 8192])] for way in ("sum", "pair")}
    if kind == "column_sums":
        first = session.launch("column_parts", PARTS, [*inputs, scratch])
        return {"two stages": [first, session.launch("column_combine", 32, [scratch, out])]}
    if kind == "full_sum":
        first = session.launch("sum_parts", FULL_SUM_BLOCKS, [*inputs, scratch, N // 4])
        return {"two stages": [first, session.launch("sum_combine", 1, [scratch, out])]}
    rows = peers.ROWS[int(rest)]
    ways = {"1000": ["block", "warp"], "4096": ["block", "block512"]}[rest]
    if name == "softmax 1000":
        ways.append("hardware")
    return {
        way: [session.launch(f"{kind}_{rest}_{way}", rows // 4 if way == "warp" else rows, [*inputs, out])]
        for way in ways
    }


def _errors(result: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    difference = (result.double() - reference).abs()
    return {
        "error": float(difference.norm() / reference.norm()),
        "largest relative": float((difference / reference.abs().clamp_min(1e-30)).max()),
    }


def _case(session: Session, name: str) -> None:
    function, inputs, size = peers.case(name)
    reference = function(*(a.double() for a in inputs))

    def report(way: str, us: float, result: torch.Tensor) -> None:
        session.note(f"{name}, {way}", {"us": us, "GB/s": size / us * 1e-3} | _errors(result, reference))

    report("torch eager", device_us(lambda: function(*inputs), 3), function(*inputs))
    compiled = torch.compile(function)
    try:
        result = compiled(*inputs)
        report("torch.compile", device_us(lambda: compiled(*inputs), 5), result)
    except Exception as error:  # noqa: BLE001
        session.note(f"{name}, torch.compile failed", str(error)[:300])
    out = torch.empty_like(reference, dtype=inputs[0].dtype)
    scratch = torch.empty(PARTS * 1024, device="cuda")
    for way, launches in _own(session, name, inputs, out, scratch).items():
        out.fill_(float("nan"))

        def work(launches: list[Launch] = launches) -> None:
            stream = here()
            for launch in launches:
                launch(stream)

        us = device_us(work, 5)
        report(way, us, out)


def _jax(session: Session) -> None:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax
    from jax import numpy as jnp

    def chain(x: Any, y: Any) -> Any:
        return jnp.exp(jnp.tanh(x * y + 1) * jax.nn.sigmoid(x) - y / 2)

    def norm(a: Any) -> Any:
        centred = a - a.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    key = jax.random.key(0)
    flat = jax.random.normal(key, (N,))
    rows = jax.random.normal(key, (peers.ROWS[1000], 1000))
    cases = {
        "chain f32": (chain, (flat, flat + 1), 3 * flat.nbytes),
        "softmax 1000": (jax.nn.softmax, (rows,), 2 * rows.nbytes),
        "layer_norm 1000": (norm, (rows,), 2 * rows.nbytes),
        "full_sum": (lambda a: a.sum(), (flat,), flat.nbytes),
    }
    for name, (function, inputs, size) in cases.items():
        compiled = jax.jit(function)
        compiled(*inputs).block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10):
                result = compiled(*inputs)
            result.block_until_ready()
            times.append((time.perf_counter() - start) * 1e5)
        us = sorted(times)[2]
        session.note(f"{name}, jax.jit (host clock, 10 in a row)", {"us": us, "GB/s": size / us * 1e-3})


def run(session: Session) -> None:
    """Measures them."""
    for name in peers.CASES:
        with session.part(name):
            _case(session, name)
        torch.cuda.empty_cache()
    with session.part("jax"):
        _jax(session)
