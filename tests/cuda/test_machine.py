"""The PTX machine notices what a kernel must not do, and its arithmetic rounds as IEEE 754 says."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.cuda.instructions import UnknownInstruction, compute, fused, fused_double, raw_type
from tests.cuda.machine import Device, Fault, launch, parse
from tracejit.codegen.cuda.text import CudaText
from tracejit.runtime import ptx


def run(body: str, *, units: int = 32, room: int = 256, threads: int = 64, edit: tuple[str, str] = ("", "")) -> bytes:
    """Runs a kernel of one block over a buffer of `room` bytes, which are 0, 1, 2, ... at first."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    text = f"def trial(p, lo, hi):\n    a = load_arg(p, 0)\n    t = thread()\n{lines}\n    return 0\n"
    module = ptx.translate(CudaText("trial", text, "", (0,), units, 1, threads, ()), 90)
    if edit[0]:
        assert edit[0] in module
        module = module.replace(*edit)
    device = Device(1 << 12)
    address = device.room(room)
    device.put(address, bytes(k % 256 for k in range(room)))
    launch(device, parse(module), 1, np.array([address, units], np.int64).tobytes())
    return device.get(address, room)


COPY = "if t < hi:\n    store_i32_g(a, t, load_i32_g(a, t, 0, 1) + int32(1), 0, 1)"


def test_a_kernel_runs() -> None:
    found = np.frombuffer(run(COPY), np.int32)
    before = np.frombuffer(bytes(range(256)), np.int32)
    assert (found[:32] == before[:32] + 1).all()
    assert (found[32:] == before[32:]).all()


FAULTS = {
    "outside of a buffer": ("store_i32_g(a, t + 1, int32(0), 0, 1)", {}),
    "no multiple": ("store_i64_g(a + 4, 0, int64(0), 0, 1)", {}),
    "two threads write": ("store_i32_g(a, t // 2, int32(t), 0, 1)", {}),
    "another thread": ("store_i32_g(a, t, load_i32_g(a, 63 - t, 0, 1), 0, 1)", {}),
    "never come": ("if t < 40:\n    barrier()\n    store_i32_g(a, t, int32(0), 0, 1)", {}),
    "bytes of parameters": (COPY, {"edit": (".param .u64 trial_param_1", ".param .u64 trial_param_1, .param .u64 q")}),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults(message: str) -> None:
    body, options = FAULTS[message]
    with pytest.raises(Fault, match=message):
        run(body, **options)


TURN = """m = shared(0, 32)
store_i32_b(m, t, int32(t), 0, 1)
barrier()
store_i32_g(a, t, load_i32_b(m, 63 - t, 0, 1), 0, 1)"""
SHARED_FAULTS = {
    "without a meeting": ("bar.sync", "// "),
    "outside of shared memory": ("shared0[256]", "shared0[240]"),
    "never written": ("st.shared.b32", "//"),
}


@pytest.mark.parametrize("message", SHARED_FAULTS)
def test_faults_with_shared_memory(message: str) -> None:
    with pytest.raises(Fault, match=message):
        run(TURN, edit=SHARED_FAULTS[message])


def test_a_barrier_parts_what_threads_write_and_read() -> None:
    assert np.frombuffer(run(TURN), np.int32).tolist() == list(range(63, -1, -1))


def test_shuffles() -> None:
    down = np.frombuffer(run("store_i32_g(a, t, down_i32(int32(t), 8), 0, 1)"), np.int32)
    lanes = np.arange(64) % 32
    assert (down == np.where(lanes < 24, np.arange(64) + 8, np.arange(64))).all()
    first = np.frombuffer(run("store_f64_g(a, t, first_f64(float64(t) + 0.5), 0, 1)", room=512), np.float64)
    assert (first == np.arange(64) // 32 * 32 + 0.5).all()
    with pytest.raises(Fault, match="never come"):
        run("if t < 8:\n    store_i32_g(a, t, down_i32(int32(t), 1), 0, 1)")


def test_arithmetic_that_a_gpu_may_do_otherwise_is_refused() -> None:
    body = "store_f32_g(a, t, load_f32_g(a, t, 0, 1) * load_f32_g(a, t, 0, 1) + float32(1), 0, 1)"
    for edit in (("mul.rn.f32", "mul.f32"), ("add.rn.f32", "add.ftz.f32")):
        with pytest.raises(UnknownInstruction):
            run(body, edit=edit)
    with pytest.raises(UnknownInstruction, match=r"lg2"):
        run(body, edit=("add.rn.f32", "lg2.f32"))


def _rounded(exact: Fraction, kind: type) -> float:
    """The nearest number of a type, ties to even, by search among its neighbours."""
    guess = kind(float(exact))
    near = [np.nextafter(guess, kind(-np.inf)), guess, np.nextafter(guess, kind(np.inf))]
    near = [n for n in near if np.isfinite(n)]
    best = min(near, key=lambda n: (abs(Fraction(float(n)) - exact), int(np.array(n).view(f"u{guess.itemsize}")) & 1))
    return float(best)


@pytest.mark.parametrize(("kind", "function"), [(np.float32, fused), (np.float64, fused_double)])
def test_a_fused_product_and_sum_is_rounded_once(kind: type, function: object) -> None:
    rng = np.random.default_rng(1)
    bits = np.dtype(kind).itemsize * 8
    x, y = (rng.standard_normal(400).astype(kind) for _ in range(2))
    # Sums that cancel, that are halfway between two numbers, and that are subnormal.
    z = np.concatenate([-(x * y)[:100], rng.standard_normal(100).astype(kind) * kind(2.0 ** -(bits // 3)), x[200:]])
    x[300:] *= kind(2.0**-120 if bits == 32 else 2.0**-1000)
    z[300:] = x[300:] * kind(0.5)
    y[350:] = kind(2.0**-24)
    found = function(x, y, z)  # type: ignore[operator]
    for k in range(len(x)):
        exact = Fraction(float(x[k])) * Fraction(float(y[k])) + Fraction(float(z[k]))
        assert float(found[k]) == _rounded(exact, kind), k


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_fields_of_bits(kind: str) -> None:
    numbers = [0, 1, 0x8000_0000, 0x1234_5678, -1, 5 << 27]
    width = int(kind[1:])
    x = np.array([n & (1 << width) - 1 for n in numbers], f"u{width // 8}").view(raw_type(kind))
    for start, count in ((0, 1), (6, 1), (31, 1), (4, 20)):
        given = {"x": x, "start": np.full(len(x), start, np.uint32), "count": np.full(len(x), count, np.uint32)}
        found = compute(["bfe", kind], list(given), lambda name, _, given=given: given[name])
        for n, field in zip(numbers, found.tolist(), strict=True):
            bits = (n & (1 << width) - 1) >> start & (1 << count) - 1
            assert field == (bits - (1 << count) if kind[0] == "s" and bits >> count - 1 else bits)
