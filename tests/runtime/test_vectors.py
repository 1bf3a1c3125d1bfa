"""Loops made of vectors: the bits of loops through numba, nothing beyond their ends, and what is left to LLVM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.runtime.lowering_ways import directly, through_numba
from tracejit.kernels.vectors import TARGET
from tracejit.runtime import frontend, vectors
from tracejit.runtime.build import build, function_of
from tracejit.runtime.team import launch

LENGTHS = (0, 1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 200)
KINDS = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "i8": np.int8, "i16": np.int16, "i32": np.int32,
    "i64": np.int64, "u8": np.uint8, "b1": np.bool_,
}  # fmt: skip
GUARD = 80

scales_only = pytest.mark.skipif(not TARGET.free_masks, reason="few CPUs have an instruction that scales by a float")


@pytest.fixture(autouse=True, params=["masks", "elements", "narrow"])
def masks(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether what whole vectors leave is done with masks, on a CPU that need not find them free, or by elements, also
    behind the narrowest vectors.
    """
    free: bool = request.param == "masks"
    width = 16 if request.param == "narrow" else TARGET.vector_bytes
    monkeypatch.setattr(vectors, "TARGET", replace(TARGET, vector_bytes=width, free_masks=free))
    return free


def kernel(*body: str, head: tuple[str, ...] = (), loop: str = "for j in range(lo, hi):") -> str:
    """A kernel over two operands and a result with a loop over `body`."""
    lines = ["a = load_arg(p, 0)", "b = load_arg(p, 1)", "out = load_arg(p, 2)", *head, loop]
    lines += [*(f"    {line}" for line in body), "return 0"]
    return "def kernel(p, lo, hi):\n" + "".join(f"    {line}\n" for line in lines)


def lowered(text: str) -> str:
    return frontend.lower_directly(function_of(text, "kernel"), text).text


def turns(text: str) -> int:
    """How many loops over vectors a kernel has."""
    return lowered(text).count(".before:")


def values(kind: Any, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind is np.bool_:
        return rng.integers(0, 2, count).astype(np.bool_)
    if np.dtype(kind).kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max, count, dtype=kind, endpoint=True)
    made = rng.standard_normal(count).astype(kind)
    made[::5] = rng.choice(np.array([0.0, -0.0, np.inf, -np.inf, 1e-40], kind), made[::5].shape)
    return made


def outcomes(text: str, a: np.ndarray, b: np.ndarray, result: Any, count: int) -> list[np.ndarray]:
    """All memory of the result after a kernel of both ways; it has nothing but guards beyond `count` elements."""
    found = []
    for way in (directly, through_numba):
        memory = np.full(count * np.dtype(result).itemsize + 2 * GUARD, 0xA5, np.uint8)
        out = memory[GUARD : len(memory) - GUARD].view(result)
        with way():
            assert launch(build(text, "kernel").address, count, 1.0, a, b, out) == 0
        assert (memory[:GUARD] == 0xA5).all()
        assert (memory[len(memory) - GUARD :] == 0xA5).all()
        found.append(memory)
    return found


def same(text: str, kind: Any, result: Any, lengths: tuple[int, ...] = LENGTHS) -> None:
    for count in lengths:
        a, b = values(kind, count + 3, count), values(kind, count + 3, count + 1)
        direct, through = outcomes(text, a, b, result, count)
        assert direct.tobytes() == through.tobytes(), count


BODIES = {
    "f32": ("x + y * x", "f32"),
    "f64": ("x / y - x", "f64"),
    "f16": ("x * y", "f16"),
    "i8": ("int8(x + y)", "i8"),
    "i16": ("int16(x * y)", "i16"),
    "i32": ("int32((x ^ y) + (x << 3))", "i32"),
    "i64": ("x * y + j", "i64"),
    "u8": ("uint8((x & y) | 5)", "u8"),
    "b1": ("x < y", "b1"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_elements_in_descending_order_are_those_of_the_loop_over_elements(kind: str) -> None:
    value, result = BODIES[kind]
    body = [f"x = load_{kind}_s(a, hi - 1 - (j), 0, 3)", f"y = load_{kind}_s(b, 2 + j, 1, 3)"]
    text = kernel(*body, f"store_{result}_s(out, j, {value}, 2, 3)")
    assert turns(text) == 1
    same(text, KINDS[kind], KINDS[result])


@pytest.mark.parametrize("kind", KINDS)
def test_every_element_type_has_the_bits_of_the_loop_over_elements(kind: str) -> None:
    value, result = BODIES[kind]
    body = [f"x = load_{kind}_s(a, j, 0, 3)", f"y = load_{kind}_s(b, j + 3 - 2 - 1, 1, 3)"]
    text = kernel(*body, f"store_{result}_s(out, j, {value}, 2, 3)")
    assert turns(text) == 1
    same(text, KINDS[kind], KINDS[result])


MIXED = {
    "a choice": ["v = select(x < y, x, float32(2.0))", "store_f32_s(out, j, v, 2, 3)"],
    "the index": ["store_f32_s(out, j, x + float32(j - lo), 2, 3)"],
    "an integer": ["store_f32_s(out, j, float32(int32(float32(3.5))) * y, 2, 3)"],
    "functions": ["interleave(4)", "store_f32_s(out, j, exp_f32(x) + sqrt_f32(y * y), 2, 3)"],
    "one element": ["store_f32_s(out, j, x * load_f32_s(b, 1, 1, 3), 2, 3)"],
    "in place": ["store_f32_s(out, j, x, 2, 3)", "store_f32_s(out, j, load_f32_s(out, j, 2, 3) + y, 2, 3)"],
    "many steps": ["v0 = x", *(f"v{k} = v{k - 1} * y + x" for k in range(1, 41)), "store_f32_s(out, j, v40, 2, 3)"],
    "the index less, twice": ["store_f32_s(out, j, x + float32(hi - (9 - (5 - j))), 2, 3)"],
    "moved on": ["store_f32_s(out, j, load_f32_s(a, j + 2, 0, 3) - load_f32_s(b, 1 + j, 1, 3), 2, 3)"],
}


@pytest.mark.parametrize("what", MIXED)
def test_bodies_have_the_bits_of_the_loop_over_elements(what: str) -> None:
    text = kernel("x = load_f32_s(a, j, 0, 3)", "y = load_f32_s(b, j, 1, 3)", *MIXED[what])
    assert turns(text) == 1
    same(text, np.float32, np.float32)


@pytest.mark.parametrize("steps", [3, 12, 30])
def test_a_body_is_written_several_times_if_it_is_short(steps: int, masks: bool) -> None:
    """Several side by side, one, and masked lanes or an element; a long one is all masked, or an element besides."""
    body = ["v0 = load_f32_s(a, j, 0, 3)", *(f"v{k} = v{k - 1} * v{k - 1} + v0" for k in range(1, steps + 1))]
    found = lowered(kernel(*body, f"store_f32_s(out, j, v{steps}, 2, 3)"))
    assert found.count(".before:") == 1
    of_vectors = {3: 4 + 1, 12: 2 if masks else 1, 30: 1}[steps]
    assert found.count("= fmul <") == steps * of_vectors
    assert found.count("= fmul float") == (0 if masks else steps)


def test_float64_and_bool_beside_float32() -> None:
    body = ["x = load_f32_s(a, j, 0, 3)", "v = float64(x) * 1.1", "store_f32_s(out, j, float32(v), 2, 3)"]
    same(kernel(*body), np.float32, np.float32)
    body = ["x = load_f32_s(a, j, 0, 3)", "store_b1_s(out, j, x > load_f32_s(b, j, 1, 3), 2, 3)"]
    assert turns(kernel(*body)) == 1
    same(kernel(*body), np.float32, np.bool_)


def test_a_loop_beside_a_fold_that_masks_the_same_vectors() -> None:
    body = ["x = load_f16_s(a, j, 0, 3)", "y = select(x < x, int8(7), load_i8_s(b, j, 1, 3))"]
    end = "store_i8(out, lo, fold_amax_i8(b, hi))\n    return 0"
    text = kernel(*body, "store_i8_s(out, j, y, 2, 3)").replace("return 0", end)
    assert turns(text) == 1
    frontend.lower_directly(function_of(text, "kernel"), text)


def test_memory_of_the_kernel_s_own_is_written_by_whole_vectors(masks: bool) -> None:
    """A load waits long for what a masked store has just written."""
    first = ["x = load_f32_s(a, j, 0, 4)", "store_f32_s(kept, j, exp_f32(x), 3, 4)"]
    second = "store_f32_s(out, j, load_f32_s(kept, j, 3, 4) + load_f32_s(b, j, 1, 4), 2, 4)"
    text = kernel(*first, head=("kept = stack_i64(256)",))
    text = text.replace("return 0", f"for j in range(lo, hi):\n        {second}\n    return 0")
    assert turns(text) == 2
    assert lowered(text).count('call void @"llvm.masked.store') == masks
    # The last vector ends behind the memory that was asked for: 512 elements.
    same(text, np.float32, np.float32, (1, 10, 16, 100, 511, 512))


def test_a_variable_of_a_loop_is_what_the_last_turn_left() -> None:
    text = kernel(
        "store_i64_s(out, j, load_i64_s(a, j, 0, 3), 2, 3)",
        head=("j = 7",),
    ).replace("return 0", "store_i64(b, 0, j)\n    return 0")
    assert turns(text) == 1
    a, out = np.arange(70), np.zeros(70, np.int64)
    for count in (0, 1, 16, 70):
        b = np.zeros(1, np.int64)
        with directly():
            # No part of the range is another call's: the variable is what the whole of it left.
            launch(build(text, "kernel").address, count, 0.0, a, b, out)
        assert b[0] == (count - 1 if count else 0)


@pytest.mark.parametrize("index", ["i64", "i32"])
@pytest.mark.parametrize("kind", ["f32", "f64", "i32", "i64"])
def test_words_anywhere(kind: str, index: str, masks: bool) -> None:
    place = f"load_{index}_s(b, j, 1, 3)"
    text = kernel(f"store_{kind}_s(out, j, load_{kind}_s(a, 3 + {place} * hi, 0, 3), 2, 3)")
    assert turns(text) == masks
    for count in LENGTHS:
        a = values(KINDS[kind], 3 * count + 4, count)
        # One past the end is for lanes that are none: it is nowhere.
        b = np.append(values(np.uint8, count, 1) % 4, [1 << 30] * 80).astype(KINDS[index])
        direct, through = outcomes(text, a, b, KINDS[kind], count)
        assert direct.tobytes() == through.tobytes(), count


LEFT = {
    "a division that lanes beyond the end would do": "store_i64_s(out, j, load_i64_s(a, j, 0, 3) // 3, 2, 3)",
    "bytes anywhere": "store_i8_s(out, j, load_i8_s(a, load_i64_s(b, j, 1, 3), 0, 3), 2, 3)",
    "a scatter": "store_i64_s(out, load_i64_s(b, j, 1, 3), load_i64_s(a, j, 0, 3), 2, 3)",
    "every other element": "store_i64_s(out, j, load_i64_s(a, 2 * j, 0, 3), 2, 3)",
    "what another turn writes": "store_i64_s(out, j, load_i64_s(out, j - 1, 2, 3), 2, 3)",
    "one place for all": "store_i64_s(out, 0, load_i64_s(a, j, 0, 3), 2, 3)",
    "memory that may be any": "store_i64(out, j, load_i64(a, j))",
}


@pytest.mark.parametrize("what", LEFT)
def test_loops_that_are_left_to_llvm(what: str) -> None:
    text = kernel(LEFT[what])
    assert turns(text) == 0
    assert not frontend.lower_directly(function_of(text, "kernel"), text).by_hand


def test_sums_and_other_steps_are_left() -> None:
    total = kernel("t = t + load_i64_s(a, j, 0, 3)", "store_i64_s(out, j, t, 2, 3)", head=("t = 0",))
    apart = kernel("store_i64_s(out, j, load_i64_s(a, j, 0, 3), 2, 3)", loop="for j in range(lo, hi, 2):")
    branch = kernel("if j > 3:", "    store_i64_s(out, j, load_i64_s(a, j, 0, 3), 2, 3)")
    assert [turns(text) for text in (total, apart, branch)] == [0, 0, 0]


def test_a_kernel_is_done_if_all_its_loops_are() -> None:
    move = "store_f32_s(out, j, load_f32_s(a, j, 0, 3), 2, 3)"
    one = kernel(move)
    rows = kernel("for j in range(lo, hi):", f"    {move}", loop="for u in range(lo, hi):")
    folded = kernel("store_f32_s(out, u, fold_sum_f32(a, hi), 2, 3)", loop="for u in range(lo, hi):")
    beside = one.replace("return 0", "for k in range(lo, hi):\n        store_f32(b, k * 2, 0.0)\n    return 0")
    none = "def kernel(p, lo, hi):\n    return 0\n"
    texts = (one, rows, folded, beside, none)
    assert ["!tracejit.by_hand =" in lowered(text) for text in texts] == [True, True, True, False, False]


def test_kernels_for_another_machine_have_no_vectors() -> None:
    text = kernel("store_f32_s(out, j, load_f32_s(a, j, 0, 3), 2, 3)")
    assert " x float>" not in frontend.lower_directly(function_of(text, "kernel"), text, vectors=False).text


@scales_only
@pytest.mark.parametrize("kept", ["f16", "f32", "f64"])
@pytest.mark.parametrize("name", ["exp", "exp2", "sigmoid"])
def test_powers_of_two_by_an_instruction_have_the_bits_of_products(name: str, kept: str) -> None:
    """Results that are subnormal, overflow or vanish, and of elements that are shorter than what is computed."""
    wide = "f64" if kept == "f64" else "f32"
    text = kernel(f"store_{kept}_s(out, j, {name}_{wide}(load_{kept}_s(a, j, 0, 3)), 2, 3)")
    assert turns(text) == 1
    assert "mask.scalef" in lowered(text)
    kind = KINDS[kept]
    limit = 800.0 if kept == "f64" else 160.0
    a = np.linspace(-limit, limit, 5000).astype(kind)
    a[:9] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, 88.72284, -87.33655, -103.97208]
    for count in (5000, 17):
        direct, other = outcomes(text, a[:count], a[:count], kind, count)
        assert direct.tobytes() == other.tobytes()


def test_code_for_another_machine_has_no_instruction_of_this_one() -> None:
    text = kernel("store_f32_s(out, j, exp_f32(load_f32_s(a, j, 0, 3)), 2, 3)")
    other = frontend.lower_directly(function_of(text, "kernel"), text, vectors=False).text
    assert "scalef" not in other
    assert "ldexp" not in other
