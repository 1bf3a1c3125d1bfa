"""Columns that would fill no vector: folded in variables, with the bits of columns that are folded in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.programs import check, graph_of, make
from tests.runtime.lowering_ways import directly
from tracejit import compiler
from tracejit.ir.node import Node
from tracejit.schedule import cost

RNG = np.random.default_rng(11)

FOLDS: dict[str, Callable[[Node], Node | tuple[Node, ...]]] = {
    "sum": lambda x: make("sum", x, dim=0),
    "prod": lambda x: make("prod", x, dim=0),
    "largest": lambda x: make("amax", x, dim=0),
    "smallest": lambda x: make("amin", x, dim=0),
    "of squares": lambda x: make("sum", make("mul", x, x), dim=0),
    "beside what it adds up": lambda x: (make("mul", x, 3), make("sum", make("mul", x, 3), dim=0)),
    "two": lambda x: (make("sum", x, dim=0), make("amax", make("neg", x), dim=0)),
    "inner": lambda x: make("sum", make("reshape", x, shape=(4, x.shape[0] // 4, x.shape[1])), dim=1),
    "turned": lambda x: make("sum", make("flip", x, dims=(1,)), dim=0),
}


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.float16, np.uint8])
@pytest.mark.parametrize("shape", [(1024, 2), (1300, 3), (5000, 7), (2052, 16), (1024, 17), (1020, 3)])
def test_bits_do_not_depend_on_where_sums_are(
    name: str, dtype: type, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (RNG.standard_normal(shape) * 2).astype(dtype)
    graph = graph_of(FOLDS[name], x)
    with directly():
        few = check(graph, [x])
    monkeypatch.setattr(cost, "FEW_COLUMNS", 0)
    usual = compiler.version()
    monkeypatch.setattr(compiler, "version", lambda: f"{usual} no columns are few")
    many = check(graph, [x])
    differ = shape[0] >= cost.FEW_COLUMNS_ROWS and shape[1] <= 16
    assert ([k.text for k in few.kernels] != [k.text for k in many.kernels]) is differ


def test_dear_elements_are_written_out_for_fewer_columns() -> None:
    def texts(columns: int) -> str:
        x = np.zeros((2000, columns), np.float32)
        return check(graph_of(lambda x: make("sum", make("exp", x), dim=0), x), [x]).kernels[0].text

    assert texts(8).count("exp_f32") == 8
    assert texts(9).count("exp_f32") == 1
