"""A tape in a few lines: records applied to NumPy arrays, and their gradient rules run backwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tracejit import dtypes
from tracejit.aval import Aval
from tracejit.ops import record
from tracejit.ops.record import GradientRule, Op, ops
from tracejit.ops.view import sum_to


class Variable:
    """An array that knows what it was computed from."""

    def __init__(self, value: Any) -> None:
        self.value = np.asarray(value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def aval(self) -> Aval:
        return Aval(self.value.shape, dtypes.from_numpy(self.value.dtype))


class Tape:
    """Calls of records in order, with what the gradient rules may ask for."""

    def __init__(self) -> None:
        self.entries: list[tuple[Op, tuple[Any, ...], tuple[Any, ...], tuple[Variable, ...]]] = []

    def dispatch(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        arrays = [a.value if isinstance(a, Variable) else a for a in args]
        avals = [a.aval if isinstance(a, Variable) else a for a in args]
        expected = op.infer(*avals, *attrs)
        result = op.on_arrays(tuple(arrays), attrs)
        results = tuple(Variable(r) for r in (result if len(op.results) > 1 else (result,)))
        expected = expected if len(op.results) > 1 else (expected,)
        assert tuple(r.aval for r in results) == expected, (op, avals, attrs)
        self.entries.append((op, args, attrs, results))
        return results if len(results) > 1 else results[0]

    def gradients(
        self, out: Variable, cotangent: Variable, wanted: Sequence[Variable], create_graph: bool = False
    ) -> list[Variable]:
        """The gradients of <out, cotangent>, computed by records that are on the tape themselves."""
        found: dict[Variable, Variable] = {out: cotangent}
        for op, args, attrs, results in reversed(tuple(self.entries)):
            if results[0] not in found:
                continue
            ct = found[results[0]]
            for name, rule in list(op.rules.items())[: 1 if op.joint else None]:
                position = op.params.index(name)
                targets = args if op.joint else (args[position],)
                if not any(isinstance(t, Variable) and t.value.dtype.kind == "f" for t in targets):
                    continue
                contribution = rule.function(*needed(rule, op, ct, args, attrs, results, create_graph))
                for target, part in zip(targets, contribution if op.joint else (contribution,), strict=True):
                    if isinstance(target, Variable) and part is not None:
                        if op.family == "elementwise":
                            part = sum_to(part, part.shape, target.shape)
                        assert part.aval == target.aval, (op, name, part.aval, target.aval)
                        found[target] = ops.add(found[target], part) if target in found else part
        return [found.get(w) or Variable(np.zeros_like(w.value)) for w in wanted]


def needed(
    rule: GradientRule, op: Op, ct: Any, args: tuple[Any, ...], attrs: tuple[Any, ...], results: tuple[Any, ...],
    create_graph: bool,
) -> Iterator[Any]:  # fmt: skip
    """What a gradient rule asks for, in its order."""
    for kind, i in rule.needs:
        if kind == "ct":
            yield ct
        elif kind == "result":
            yield results[i]
        elif kind == "param":
            yield args[i:] if op.variadic else args[i]
        elif kind == "aval":
            yield tuple(a.aval for a in args[i:]) if op.variadic else args[i].aval
        elif kind == "create_graph":
            yield create_graph
        else:
            yield attrs[i]


@contextmanager
def taping() -> Iterator[Tape]:
    """Calls of records go to a new tape."""
    tape, before = Tape(), record._dispatch
    record.install(tape.dispatch)
    try:
        with np.errstate(all="ignore"):
            yield tape
    finally:
        record.install(before)
