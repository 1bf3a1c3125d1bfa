"""Hostile programs: each is run eagerly and compiled from the same state, and everything that can be seen is compared.

A program is a function `make` that builds its own world and returns a `Case`; it is called once for each way of
running, so that nothing is shared. `make` may take `jit`, which compiles in one way of running and does nothing in the
other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import numbers
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.garbage import small_heap
from tracejit.trace.compiled import region_of
from tracejit.trace.region import Region
from tracejit.trace.replay.proof import FAILURE

CALLS = 10
REPEATS = 7
DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "soundness.md").read_text(encoding="utf-8")
REFUSAL = "cannot be replayed"
KINDS = ("one program", "cut", "sizes", "branch", "eager")


@dataclasses.dataclass
class Case:
    """A function, the arguments of its calls (made anew for each; may also change the world), and what lives on."""

    function: Any
    args: Callable[[int], Any] = lambda i: ()
    state: Callable[[], Any] = lambda: None
    jitted: bool = False


@dataclasses.dataclass
class Program:
    """A case with what the tracer is expected to do with it; `collects` says that its calls collect garbage."""

    name: str
    make: Callable[..., Case]
    how: str
    calls: int
    known: str | None
    collects: bool = False


def arr(seed: int, *shape: int, dtype: Any = np.float32) -> tj.Tensor:
    """A tensor of normal numbers."""
    return tj.from_numpy(np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype))


def labels(i: int, n: int, classes: int) -> tj.Tensor:
    """Class numbers that differ from call to call."""
    return tj.tensor([(7 * i + 3 * j) % classes for j in range(n)])


def perceptron(*sizes: int) -> tj.nn.Sequential:
    """A small network of linear layers with tanh between them."""
    layers: list[tj.nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [tj.nn.Linear(a, b), tj.nn.Tanh()]
    return tj.nn.Sequential(*layers[:-1])


class Topic:
    """The programs of a file."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}

    def program(
        self, how: str, calls: int = CALLS, known: str | None = None, *, collects: bool = False
    ) -> Callable[..., Any]:
        """Enter a program; `how` is what the tracer does with it, `known` names a difference that is not mended."""

        assert how in KINDS, how

        def enter(make: Callable[..., Case]) -> Callable[..., Case]:
            assert make.__name__ not in self.programs
            self.programs[make.__name__] = Program(make.__name__, make, how, calls, known, collects)
            return make

        return enter

    def test(self) -> Any:
        """The test function that runs all of them in both modes."""
        given = [
            pytest.param(
                p,
                mode,
                id=f"{p.name}-{mode}",
                marks=[pytest.mark.xfail(strict=True, reason=p.known)] if p.known else [],
            )
            for p in self.programs.values()
            for mode in ("auto", "follow", "replay")
        ]

        @pytest.mark.parametrize(("program", "mode"), given)
        def test_program(program: Program, mode: str) -> None:
            compare(program, mode)

        return test_program


# --- what can be seen of a value --------------------------------------------------------------------------------------


class Look:
    """Takes values down in a form that compares bit for bit, with who is who and who shares memory with whom."""

    def __init__(self) -> None:
        self.tensors: list[tj.Tensor] = []
        self.objects: dict[int, int] = {}
        self.kept: list[Any] = []

    def tensor(self, x: tj.Tensor) -> Any:
        for k, other in enumerate(self.tensors):
            if other is x:
                return ("same tensor", k)
        self.tensors.append(x)
        a = x.detach()._data()
        shared = next((k for k, other in enumerate(self.tensors[:-1]) if _share(other, x)), None)
        content = np.array(a)
        if x.is_floating_point():
            content[np.isnan(content)] = np.nan
        grad = self(x.grad) if x.is_leaf else None
        step = None if x.grad_fn is None else x.grad_fn.name()
        flags = (x.requires_grad, x.is_leaf, step, type(x).__name__, bool(a.flags.writeable))
        return ("tensor", a.shape, x.dtype.name, content.tobytes(), x.stride(), flags, shared, grad)

    def __call__(self, x: Any) -> Any:
        if isinstance(x, tj.Tensor):
            return self.tensor(x)
        if x is None or isinstance(x, (bool, int, str, bytes, tj.dtype)):
            return (type(x).__name__, x)
        if isinstance(x, float):
            return (type(x).__name__, "nan" if x != x else struct.pack("<d", x))
        if isinstance(x, np.ndarray):
            return ("array", x.shape, x.dtype.str, x.tobytes())
        if isinstance(x, np.generic):
            return (type(x).__name__, x.tobytes())
        if isinstance(x, BaseException):
            return (type(x).__name__, str(x))
        if id(x) in self.objects:
            return ("same object", self.objects[id(x)])
        self.objects[id(x)] = len(self.objects)
        self.kept.append(x)
        if isinstance(x, (list, tuple)):
            return (type(x).__name__, [self(e) for e in x])
        if isinstance(x, Mapping):
            return (type(x).__name__, [(self(k), self(v)) for k, v in x.items()])
        if isinstance(x, (set, frozenset)):
            return (type(x).__name__, sorted(map(repr, x)))
        if isinstance(x, tj.Generator):
            return ("generator", self(x.get_state()))
        if isinstance(x, tj.nn.Module):
            named = [(n, self(p)) for n, p in x.named_parameters()] + [(n, self(b)) for n, b in x.named_buffers()]
            return (type(x).__name__, [m.training for m in x.modules()], list(x.state_dict()), named)
        if isinstance(x, tj.optim.Optimizer):
            return (type(x).__name__, self(x.state_dict()))
        if isinstance(x, tj.optim.lr_scheduler.LRScheduler):
            return (type(x).__name__, self(x.state_dict()))
        if dataclasses.is_dataclass(x):
            return (type(x).__name__, [(f.name, self(getattr(x, f.name))) for f in dataclasses.fields(x)])
        if callable(x):
            return ("callable", getattr(x, "__name__", type(x).__name__))
        if not hasattr(x, "__dict__"):
            return (type(x).__name__, str(x) if isinstance(x, numbers.Number) else "")
        return (type(x).__name__, self(vars(x)))


def _share(a: tj.Tensor, b: tj.Tensor) -> bool:
    x, y = a.detach()._data(), b.detach()._data()
    return bool(x.size and y.size and np.shares_memory(x, y))


# --- running ----------------------------------------------------------------------------------------------------------


def _take(made: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if type(made) is tuple and len(made) == 2 and type(made[0]) is tuple and type(made[1]) is dict:
        return made
    return (made if type(made) is tuple else (made,)), {}


def run(program: Program, jit: Any, refusable: bool = False) -> tuple[list[Any], Any]:
    """All calls of a program in one way of running: what was seen after each, and what was called.

    A program that is `refusable` ends where the mode "replay" refuses a call, which then has changed nothing.
    """
    with small_heap() if program.collects else contextlib.nullcontext():
        return _run(program, jit, refusable)


def _run(program: Program, jit: Any, refusable: bool) -> tuple[list[Any], Any]:
    tj.manual_seed(20)
    random.seed(21)
    np.random.seed(22)
    case = program.make(jit=jit) if inspect.signature(program.make).parameters else program.make()
    function = case.function if case.jitted else jit(case.function)
    seen: list[Any] = []
    results: list[Any] = []
    try:
        for call in range(program.calls):
            args, kwargs = _take(case.args(call))
            printed = io.StringIO()
            before = Look()([case.state(), args, kwargs]) if refusable else None
            with contextlib.redirect_stdout(printed):
                try:
                    outcome = ("returned", function(*args, **kwargs))
                except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit) as e:
                    outcome = ("raised", e)
            if refusable and REFUSAL in str(outcome[1] if outcome[0] == "raised" else ""):
                assert str(outcome[1]).count("\n  ") >= 1, "a refusal gives its reasons"
                assert Look()([case.state(), args, kwargs]) == before, "a refused call changed something"
                assert not printed.getvalue()
                break
            results.append(outcome)
            look = Look()
            seen.append(
                {
                    "outcome": look(outcome),
                    "printed": printed.getvalue(),
                    "arguments": look((args, kwargs)),
                    "state": look(case.state()),
                    "random": (tj.get_rng_state().tolist(), random.random(), float(np.random.rand())),
                    "modes": (tj.is_grad_enabled(), tj.get_default_dtype().name),
                }
            )
        seen.append({"outcome": Look()([r if r[0] == "returned" else None for r in results]), "again": True})
    finally:
        tj.set_grad_enabled(True)
        tj.set_default_dtype(tj.float32)
    return seen, function


def plain(f: Any = None, **_: Any) -> Any:
    """In place of `compile`: nothing."""
    return f if f is not None else plain


def kind_of(region: Region) -> str:
    """What the tracer did with the calls, in one word."""
    if region.runs == 0 or region.settled:
        return "eager"
    if region.calls.side_exits:
        return "branch"
    if region.calls.resized:
        return "sizes"
    return "cut" if any(n.kind == "cut" for n in region.notes) else "one program"


def late(program: Program) -> Program:
    """The program whose first call is repeated until calls like it are replayed, before any other is made."""

    def make(**given: Any) -> Case:
        case = program.make(**given)
        args = case.args
        case.args = lambda i: args(max(0, i - REPEATS))
        return case

    make.__signature__ = inspect.signature(program.make)  # type: ignore[attr-defined]
    return dataclasses.replace(program, make=make, how="", calls=program.calls + REPEATS)


def compare(program: Program, mode: str) -> None:
    """Assert that compiled is eager in everything that can be seen."""

    def jit(f: Any = None, **options: Any) -> Any:
        return tj.compile(f, **{"mode": mode, **options}) if f is not None else jit

    eager, _ = run(program, plain)
    compiled, function = run(program, jit, mode == "replay")
    refused = len(compiled) < len(eager)
    # The results of all calls, looked at once more, are only comparable if all calls were made.
    for call, (a, b) in enumerate(zip(eager, compiled[:-1] if refused else compiled, strict=not refused)):
        for what in a:
            assert a[what] == b[what], f"{what} after call {call}"
    if program.known is None and mode != "replay" and program.how:
        region = region_of(function)
        assert region.prover is None or not any(FAILURE in reason for _, reason, _ in region.prover.obstacles)
        assert kind_of(region) == program.how
        if mode == "auto" and f"`{program.name}`" in DOCUMENT:
            in_bold = f"**`{program.name}`**" in DOCUMENT
            assert (region.calls.replayed > 0) is in_bold, "docs/soundness.md has replayed programs in bold"
