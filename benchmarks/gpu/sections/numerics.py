"""Whether the device's bits are the CPU's: single operations, tracejit's formulas, Philox, subnormal numbers."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.sections import reference
from benchmarks.gpu.session import Session, here

COUNT = 1 << 20
THREADS = 256
EXACT = ("add", "sub", "mul", "div", "sqrt", "multiply then add")
FORMULAS = ("exp", "tanh", "sigmoid", "log")
NAMES = (*EXACT, *FORMULAS)
DTYPES: dict[str, Any] = {"f32": np.float32, "f64": np.float64}
SEED, OFFSET = 0x1234_5678_9ABC_DEF0, 77


def inputs(label: str, kind: str) -> tuple[Any, Any]:
    """Two arrays: of any bits, or of numbers of everyday size."""
    words = np.random.Generator(np.random.PCG64(7)).integers(0, 2**64, 2 * COUNT, dtype=np.uint64)
    dtype = DTYPES[label]
    if kind == "any bits":
        bits = words if label == "f64" else (words >> np.uint64(32)).astype(np.uint32)
        values = bits.view(dtype)
    else:
        values = ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53 * 40 - 20).astype(dtype)
    return values[:COUNT].copy(), values[COUNT:].copy()


def canonical(values: Any) -> Any:
    """The bits, with one pattern for all nan."""
    kept = values.copy()
    kept[np.isnan(kept)] = np.nan
    return kept.view(np.uint32 if kept.itemsize == 4 else np.uint64)


def digest(values: Any) -> str:
    """A digest of the canonical bits."""
    return hashlib.sha256(canonical(values).tobytes()).hexdigest()


def _by_numpy(name: str, x: Any, y: Any) -> Any:
    with np.errstate(all="ignore"):
        return {
            "add": lambda: x + y,
            "sub": lambda: x - y,
            "mul": lambda: x * y,
            "div": lambda: x / y,
            "sqrt": lambda: np.sqrt(x),
            "multiply then add": lambda: x * y + x,
        }[name]()


def expected_of_formulas() -> dict[str, str]:
    """Digests of what tracejit's CPU kernels give, and of Philox's words."""
    # Only here: where the file of digests is at hand, tracejit need not be.
    tj = importlib.import_module("tracejit")
    found = {}
    for label in DTYPES:
        for kind in ("any bits", "everyday"):
            x, _ = inputs(label, kind)
            found[f"input {label} {kind}"] = digest(x)
            for name in FORMULAS:
                with np.errstate(all="ignore"):
                    found[f"{name} {label} {kind}"] = digest(getattr(tj, name)(tj.tensor(x)).numpy())
    for kind in ("any bits", "everyday"):
        x, y = (tj.tensor(a) for a in inputs("f32", kind))
        found[f"text kernel {kind}"] = digest(tj.exp(tj.tanh(x * y + 1) * tj.sigmoid(x) - y / 2).numpy())
    words = reference.philox_words(SEED, OFFSET, COUNT)
    found["philox"] = hashlib.sha256(words.tobytes()).hexdigest()
    return found


def _divisions(session: Session) -> None:
    """Whether quick divisions are the rounded ones: 1 / x for every significand, x / (x + 1) for every x < 2**30."""
    count = 1 << 23
    cases = {"reciprocal": (-125, -100, -60, -20, *range(-2, 4), 10, 29, 60, 100, 125), "quotient": range(-127, 30)}
    for name, exponents in cases.items():
        differ = {}
        for exponent in exponents:
            bits = torch.arange(count, dtype=torch.int32, device="cuda") + ((exponent + 127) << 23)
            x = bits.view(torch.float32)
            results = []
            for way in ("exact", "quick"):
                out = torch.zeros(count, device="cuda")
                session.launch(f"{name}_{way}", count // THREADS, [x, x, out, count])(here())
                results.append(out.view(torch.int32))
            differ[exponent] = int((results[0] != results[1]).sum())
        wrong = {exponent: number for exponent, number in differ.items() if number}
        session.note(f"quick {name}s that differ", {"binades": len(differ), "with differences": wrong})


def run(session: Session, expected: Path | None = None) -> None:
    """Compares them; `expected` is a file that `probe.py --expected` wrote, else tracejit computes here."""
    wanted = expected_of_formulas() if expected is None else json.loads(expected.read_text(encoding="utf-8"))
    blocks = -(-COUNT // THREADS)
    for label, dtype in DTYPES.items():
        for kind in ("any bits", "everyday"):
            x, y = inputs(label, kind)
            session.note(f"input {label} {kind} as expected", digest(x) == wanted[f"input {label} {kind}"])
            given = [torch.from_numpy(a).cuda() for a in (x, y)]
            for index, name in enumerate(NAMES):
                out = torch.full((COUNT,), 12345.0, dtype=given[0].dtype, device="cuda")
                session.launch(f"point_{index}_{label}", blocks, [*given, out, COUNT])(here())
                torch.cuda.synchronize()
                result = out.cpu().numpy()
                tiny = float(np.sum((result != 0) & (np.abs(result) < np.finfo(dtype).tiny)))
                if name in EXACT:
                    differ = int((canonical(result) != canonical(_by_numpy(name, x, y))).sum())
                    session.note(f"{name} {label} {kind}", {"elements that differ": differ, "subnormal results": tiny})
                else:
                    same = digest(result) == wanted[f"{name} {label} {kind}"]
                    session.note(f"{name} {label} {kind}", {"all bits equal": same, "subnormal results": tiny})
                    if not same:
                        np.save(session.folder / f"differs-{name}-{label}-{kind.replace(' ', '-')}.npy", result)
    for kind in ("any bits", "everyday"):
        given = [torch.from_numpy(a).cuda() for a in inputs("f32", kind)]
        out = torch.full((COUNT,), 12345.0, device="cuda")
        block = (ctypes.c_int64 * 3)(*(t.data_ptr() for t in (*given, out)))
        session.launch("text_kernel", blocks, [block, COUNT])(here())
        torch.cuda.synchronize()
        result = out.cpu().numpy()
        same = digest(result) == wanted[f"text kernel {kind}"]
        session.note(f"a CPU kernel's text, the chain, f32 {kind}", {"all bits equal": same})
        if not same:
            np.save(session.folder / f"differs-text-{kind.replace(' ', '-')}.npy", result)
    _divisions(session)
    words = torch.zeros(COUNT, dtype=torch.int32, device="cuda")
    session.launch("philox", blocks, [words, SEED, OFFSET, COUNT])(here())
    torch.cuda.synchronize()
    same = hashlib.sha256(words.cpu().numpy().tobytes()).hexdigest() == wanted["philox"]
    session.note("philox words", {"all bits equal": same})
