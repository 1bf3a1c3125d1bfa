"""The op record and the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tracejit.aval import Aval
from tracejit.dtypes import FROM_NUMPY, bfloat16

Dispatcher = Callable[["Op", tuple[Any, ...], tuple[Any, ...]], Any]


def _no_dispatcher(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    raise RuntimeError(f"no dispatcher is installed, so '{op.name}' cannot be applied")


_dispatch: Dispatcher = _no_dispatcher


def install(dispatcher: Dispatcher) -> None:
    """Say what calling a record does; the tensor package installs its dispatcher here."""
    global _dispatch  # noqa: PLW0603 - the one switch of who applies records
    _dispatch = dispatcher


class Op:
    """One primitive operation.

    `params` are the operands (tensors, or Python numbers where the family allows them), `attrs` the
    static attributes in order. `infer(*operand_avals, *attrs)` types a call; a Python number stands
    for itself among the avals. `numpy(*arrays, *attrs)` is the oracle of the tests and, if `exact`,
    what eager runs. `vjp` maps a parameter to its gradient rule, whose own parameter names say what
    it needs: `ct`, a result's name (`out`), a parameter (its value is saved), `<parameter>_aval`, an
    attribute, `create_graph` (whether the gradient will be differentiated again); `nograd` says why there is none.
    A rule that is `joint` gives the gradients of all operands at once, None where one has none. `expr` is the scalar
    text of an elementwise operation, `work` what one element of float32 takes, in additions. `kinds` are the types that
    the operation is for: b(ool), i(nteger), f(loat). Of bfloat16 the NumPy function computes in float32 what is rounded
    once (`on_arrays`), unless it is `stepwise` and rounds each of its steps; a number beside it is rounded to bfloat16,
    too, unless `wide_numbers` says that it stays a float32, as PyTorch has it.
    Tests draw operands from `sample`; `smooth` is whether the value has a slope everywhere in it. What
    `looks_at` the values of an operand may refuse them: it is done even if nobody wants its result.
    `twin` is the record of the same operation on another device, of one whose operands do not say where it is done;
    `origin` is what it is the twin of. `plain` is the record that graphs have in the place of one that only tensors
    tell from it.
    """

    __slots__ = (
        "attrs",
        "defaults",
        "doc",
        "exact",
        "expr",
        "family",
        "infer",
        "joint",
        "kinds",
        "looks_at",
        "name",
        "nograd",
        "numpy",
        "origin",
        "params",
        "plain",
        "results",
        "rules",
        "sample",
        "smooth",
        "stepwise",
        "twin",
        "variadic",
        "wide_numbers",
        "work",
    )

    def __init__(
        self,
        signature: Callable[..., Any],
        family: str,
        infer: Callable[..., Any],
        numpy: Callable[..., Any],
        *,
        exact: bool = False,
        expr: str | dict[str, str] | None = None,
        vjp: dict[str, Callable[..., Any]] | None = None,
        results: tuple[str, ...] = ("out",),
        kinds: str = "bif",
        sample: tuple[float, float] = (-3.0, 3.0),
        smooth: bool = True,
        nograd: str = "",
        joint: bool = False,
        work: float = 1.0,
        stepwise: bool = False,
        wide_numbers: bool = False,
        looks_at: str = "",
        plain: Op | None = None,
    ) -> None:
        parameters = inspect.signature(signature).parameters.values()
        self.name = signature.__name__
        self.doc = inspect.getdoc(signature) or ""
        self.family = family
        self.params = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.joint = joint or self.variadic
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.attrs = tuple(p.name for p in keywords)
        self.defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        self.infer = infer
        self.numpy = numpy
        self.exact = exact
        self.expr = expr
        self.results = results
        self.kinds = kinds
        self.sample = sample
        self.smooth = smooth
        self.nograd = nograd
        self.work = work
        self.stepwise = stepwise or family == "view"
        self.wide_numbers = wide_numbers
        self.looks_at = looks_at
        self.plain = plain
        self.rules = {name: GradientRule(self, name, rule) for name, rule in (vjp or {}).items()}
        self.twin: Op | None = None
        self.origin: Op | None = None

    def elsewhere(self) -> Op:
        """The twin of a record that makes tensors out of numbers; it is not in the registry."""
        twin: Op = object.__new__(Op)
        for name in Op.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.origin, self.twin = self, twin
        return twin

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        return _dispatch(self, args, self.pack(attrs))

    def pack(self, attrs: dict[str, Any]) -> tuple[Any, ...]:
        """Attributes by keyword as the record's tuple."""
        if not self.attrs:
            if attrs:
                raise TypeError(f"{self.name}() got unexpected attributes {sorted(attrs)}")
            return ()
        values = {**self.defaults, **attrs}
        if len(values) != len(self.attrs):
            raise TypeError(f"{self.name}() takes the attributes {self.attrs}, got {sorted(values)}")
        return tuple(values[name] for name in self.attrs)

    def on_arrays(self, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """What the NumPy function gives, in the types that the typing rule says."""
        if not bfloat16.loaded or self.stepwise:
            return self.numpy(*args, *attrs)
        kind = bfloat16.np
        if not any(isinstance(a, np.ndarray) and a.dtype == kind for a in args):
            return self.numpy(*args, *attrs)
        given: list[Any] = []
        for a in args:
            if isinstance(a, np.ndarray):
                given.append(a.astype(np.float32) if a.dtype == kind else a)
            elif self.wide_numbers:
                given.append(a)
            else:
                given.append(float(np.asarray(a).astype(kind)))
        known = (Aval(a.shape, FROM_NUMPY[a.dtype]) if isinstance(a, np.ndarray) else a for a in args)
        avals = self.infer(*known, *attrs)
        found = self.numpy(*given, *attrs)
        if isinstance(avals, Aval):
            return np.asarray(found).astype(avals.dtype.np, copy=False)
        return tuple(np.asarray(x).astype(a.dtype.np, copy=False) for x, a in zip(found, avals, strict=True))

    def of_step(self, x: Any, step: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Operands and attributes of a step that leads to a view: it has numbers of the run before the attributes."""
        numbers = len(self.params) - 1
        return ((x, *step[:numbers]), step[numbers:]) if numbers else ((x,), step)

    @property
    def differentiable(self) -> bool:
        """Whether any operand has a gradient rule."""
        return bool(self.rules)

    @property
    def compiled(self) -> bool:
        """Whether kernels can compute it element by element, inside others."""
        return self.expr is not None

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_by_name, (self.name, self.origin is not None))


class GradientRule:
    """The gradient of one operand, with what it needs read off its parameter names.

    `needs` lists, in the order of the function's parameters, pairs of a kind (`ct`, `result`, `param`,
    `aval`, `attr`, `create_graph`) and an index.
    """

    __slots__ = ("function", "needs", "saves_params", "saves_results")

    def __init__(self, op: Op, param: str, function: Callable[..., Any]) -> None:
        self.function = function
        needs: list[tuple[str, int]] = []
        for name in inspect.signature(function).parameters:
            if name in ("ct", "create_graph"):
                needs.append((name, 0))
            elif name in op.results:
                needs.append(("result", op.results.index(name)))
            elif name in op.params:
                needs.append(("param", op.params.index(name)))
            elif name.endswith("_aval") and name[:-5] in op.params:
                needs.append(("aval", op.params.index(name[:-5])))
            elif name in op.attrs:
                needs.append(("attr", op.attrs.index(name)))
            else:
                raise TypeError(f"gradient rule of {op.name} for {param}: unknown name '{name}'")
        self.needs = tuple(needs)
        self.saves_params = tuple(i for kind, i in needs if kind == "param")
        self.saves_results = tuple(i for kind, i in needs if kind == "result")


class Registry:
    """All records by name: `ops.exp` is the record of `exp`. Rules refer to other records through it."""

    def __init__(self) -> None:
        self._records: dict[str, Op] = {}

    def enter(self, op: Op) -> Op:
        """Enter a record.

        Raises: ValueError if the name is taken.
        """
        if op.name in self._records:
            raise ValueError(f"operation '{op.name}' is defined twice")
        self._records[op.name] = op
        # As an attribute too: `ops.add` is read at every step of every loop, and `__getattr__` costs 0.4 us.
        setattr(self, op.name, op)
        return op

    def __getattr__(self, name: str) -> Op:
        try:
            return self._records[name]
        except KeyError:
            raise AttributeError(f"no operation is named '{name}'") from None

    def __iter__(self) -> Iterator[Op]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def family(self, *names: str) -> list[Op]:
        """The records of some families, in order of definition."""
        return [op for op in self._records.values() if op.family in names]


ops = Registry()


def _by_name(name: str, twin: bool) -> Op | None:
    found = getattr(ops, name)
    return found.twin if twin else found


def record(**facets: Any) -> Callable[[Callable[..., Any]], Op]:
    """Make the decorated signature a record of the registry."""

    def enter(signature: Callable[..., Any]) -> Op:
        return ops.enter(Op(signature, **facets))

    return enter


def same(x: Aval, *rest: Any) -> Aval:
    """The typing rule of an operation that keeps shape and type."""
    return x
