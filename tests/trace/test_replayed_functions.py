"""Functions and subscripts as bodies of regions, called until they are replayed, with other operands each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import draw, flat
from tests.tensor.test_compiled import CALLS
from tests.tensor.test_indexing import CHANGES, READS
from tracejit.trace.compiled import region_of

CUBE = draw((2, 3, 4))
SUBSCRIPTS = READS.replace("\n", "|").split("|")
WRITES = [text for text in CHANGES.replace("\n", "|").split("|") if "y" in text]


def function(body: str, *names: str) -> Any:
    """A function of its own code, as a user writes it."""
    space: dict[str, Any] = {"m": tj, "F": tj.nn.functional, "np": np}
    lines = body.split("\n")
    exec("\n".join([f"def f({', '.join(names)}):", *(f"    {line}" for line in lines)]), space)
    return space["f"]


def outcome(f: Any, arrays: list[Any]) -> list[Any]:
    """Results as bits, or what was raised."""
    try:
        out = flat(f(*[tj.tensor(a) for a in arrays]))
    except Exception as e:
        return [type(e), str(e)]
    return [(o.dtype, o.shape, o.detach().numpy().tobytes()) if isinstance(o, tj.Tensor) else o for o in out]


def compared(f: Any, arrays: list[Any]) -> None:
    region = tj.compile(f)
    for k in range(9):
        given = [a * np.float32(1 + k % 3) if a.dtype == np.float32 else a for a in arrays]
        assert outcome(region, given) == outcome(f, given), f"call {k}"
    # A proof that breaks off with something else than a reason is a bug.
    assert region_of(region).failure is None


@pytest.mark.parametrize(("text", "arrays"), [pytest.param(*call, id=call[0]) for call in CALLS])
def test_functions(text: str, arrays: list[Any]) -> None:
    compared(function(f"return {text}", *"xyz"[: len(arrays)]), arrays)


@pytest.mark.parametrize("text", SUBSCRIPTS)
def test_subscripts(text: str) -> None:
    compared(function(f"x = x * 1\nreturn {text}", "x"), [CUBE])


@pytest.mark.parametrize("text", WRITES)
def test_writes(text: str) -> None:
    compared(function(f"y = x * 1\n{text}\nreturn y", "x"), [CUBE])
