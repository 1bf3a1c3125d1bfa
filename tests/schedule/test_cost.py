"""The cost model: elementary functions are told apart by their work, and costs grow with what is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracejit import dtypes
from tracejit.ops import Op, elementary, ops
from tracejit.schedule import cost
from tracejit.schedule.values import ELEMENTWISE, INPUT, Read, Value

FUNCTIONS = sorted((op for op in vars(elementary).values() if isinstance(op, Op)), key=lambda op: op.name)


def value(op: Op, kind: dtypes.dtype = dtypes.float32) -> Value:
    source = Value(INPUT, None, (8,), kind)
    return Value(ELEMENTWISE, op, (8,), kind, tuple(Read(source, (8,), (1,)) for _ in op.params))


@pytest.mark.parametrize("op", FUNCTIONS, ids=lambda op: op.name)
def test_elementary_functions_are_known_by_their_work(op: Op) -> None:
    assert cost.is_elementary(value(op))


@pytest.mark.parametrize("op", [ops.add, ops.div, ops.sqrt, ops.where, ops.maximum], ids=lambda op: op.name)
def test_arithmetic_is_not_elementary(op: Op) -> None:
    assert not cost.is_elementary(value(op))


def test_costs_follow_work_width_and_memory() -> None:
    def of(op: Op, kind: dtypes.dtype = dtypes.float32, buffers: int = 2) -> float:
        member = value(op, kind)
        return cost.of_elements([member], [member] * buffers)

    assert of(ops.neg) < of(ops.div) < of(ops.exp) < of(ops.sin) < of(ops.pow)
    assert of(ops.neg, buffers=3) > of(ops.neg)
    assert of(ops.neg, dtypes.float64) == 2 * of(ops.neg)
    assert of(ops.exp, dtypes.float64) > 2 * of(ops.exp)


def test_the_last_cache_is_what_linux_says(tmp_path: Path) -> None:
    assert cost.last_cache(tmp_path / "nothing") == cost.USUAL_CACHE
    for index, (level, size) in enumerate([("1", "32K"), ("1", "64K"), ("3", "8192K"), ("2", "1M")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "level").write_text(level + "\n")
        (folder / "size").write_text(size + "\n")
    assert cost.last_cache(tmp_path) == 8 << 20
    (tmp_path / "index2" / "size").write_text("unknown\n")
    assert cost.last_cache(tmp_path) == 1 << 20
    (tmp_path / "index2" / "level").unlink()
    (tmp_path / "index2" / "size").write_text("8192K\n")
    assert cost.last_cache(tmp_path) == cost.USUAL_CACHE
