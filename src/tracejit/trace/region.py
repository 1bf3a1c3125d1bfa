"""The region: one compiled function with its tree, its programs and its account of what happened."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import Executable, build
from tracejit.trace.follower import Follower
from tracejit.trace.matcher import MISS
from tracejit.trace.recorder import Recorder
from tracejit.trace.replay.prover import Prover
from tracejit.trace.source import user_line
from tracejit.trace.tree import Event, Number, Place, Segment, Stop, path, register_tensor

register_tensor(Tensor)

RECORDINGS = 64
"""Calls that may extend the tree; a region that still does not settle then runs eagerly where the tree ends."""
EVENTS = 50_000
"""Events of all branches together; beyond that the region runs eagerly where the tree ends."""


@dataclass(slots=True)
class Note:
    """Something that a user may want to know: what, where, why."""

    kind: str
    line: str
    reason: str
    call: int
    seconds: float = 0.0


@dataclass(slots=True)
class Calls:
    """How often the region ran in which way."""

    cold: int = 0
    recorded: int = 0
    followed: int = 0
    eager: int = 0
    side_exits: int = 0
    replayed: int = 0


class Region:
    """A function whose calls are recorded, then followed.

    Cost: the first call is plain eager, the second records, the next compiles; from then on Python runs and
    programs compute.
    """

    def __init__(self, function: Callable[..., Any], mode: str = "auto", max_compiles: int | None = None) -> None:
        self.function = function
        self.mode = mode
        self.max_compiles = max_compiles
        self.calls = Calls()
        self.notes: list[Note] = []
        self.generation = 0
        self.compiles = 0
        self.compile_seconds = 0.0
        self.recorded_events = 0
        self.runs = 0
        self.eager_segments = 0
        self.settled = False
        self.eager_units: dict[Any, str] = {}
        self.stops: list[tuple[Stop, Executable]] = []
        self.lock = threading.Lock()
        self.root = Segment(self, 0)
        self.first_replay: Callable[..., Any] | None = None
        self.prover: Prover | None = None if mode == "follow" else Prover(self)
        self.name = getattr(function, "__name__", type(function).__name__)

    # --- a call -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        if state.session is not None:
            return self.function(*args, **kwargs)
        if not self.lock.acquire(blocking=False):
            self.calls.eager += 1
            return self.function(*args, **kwargs)
        try:
            if self.calls.cold == 0:
                self.calls.cold = 1
                return self.function(*args, **kwargs)
            prover = self.prover
            if prover is not None:
                out = prover.replay(args, kwargs)
                if out is not MISS:
                    return out
            return self._run(args, kwargs)
        finally:
            self.lock.release()

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        root = self.root.root
        fresh = not root.events and root.cut is None and root.end is None
        session: Any = Recorder(self, root) if fresh else Follower(self, root)
        trial = None if self.prover is None or fresh else self.prover.begin(session, args, kwargs)
        if fresh:
            self.calls.recorded += 1
        else:
            self.calls.followed += 1
        state.session = session
        try:
            out = self.function(*args, **kwargs)
        except BaseException:
            self._abandon()
            raise
        try:
            state.session.finish()
        finally:
            state.session = None
        if trial is not None:
            trial.end(out)
        return out

    def _abandon(self) -> None:
        """An exception leaves the region: compute what was done up to here, so that it is as it would be eagerly."""
        session = state.session
        try:
            if isinstance(session, Follower):
                session.materialise()
        finally:
            state.session = None

    # --- compiling ----------------------------------------------------------------------------------------------------

    def compile(self, stop: Stop, alive: tuple[int, ...]) -> Executable:
        """Make the program of a segment."""
        begin = time.perf_counter()
        if self.max_compiles is not None and self.compiles >= self.max_compiles:
            raise RuntimeError(
                f"{self.name}: compiling once more would exceed max_compiles={self.max_compiles}; "
                + "; ".join(f"{n.line}: {n.reason}" for n in self.notes[-3:])
            )
        try:
            executable = build(stop, alive, self.generation, self.name)
        except NotImplementedError as e:
            executable = Executable(self.generation, str(e))
        seconds = time.perf_counter() - begin
        if executable.obstacle is not None:
            self.note("eager", stop.line, executable.obstacle)
        else:
            self.compiles += 1
            self.compile_seconds += seconds
            self.note("compile", stop.line, f"segment that ends because {stop.reason}", seconds)
        self.stops = [(s, e) for s, e in self.stops if s is not stop or e.generation == self.generation]
        self.stops.append((stop, executable))
        return executable

    # --- the account --------------------------------------------------------------------------------------------------

    def note(self, kind: str, line: str, reason: str, seconds: float = 0.0) -> None:
        """Write down what happened."""
        c = self.calls
        self.notes.append(Note(kind, line, reason, c.cold + c.recorded + c.followed, seconds))

    def promoted(self, number: Number, value: Any) -> None:
        """A number changed: programs that have it as a constant are out of date."""
        self.generation += 1
        change = f"a number changed from {number.value!r} to {value!r}: now a run-time number"
        self.note("promotion", user_line(), change)

    def side_exit(self, place: Place) -> bool:
        """A call left the tree: whether it may extend it."""
        self.calls.side_exits += 1
        if self.calls.recorded + self.calls.side_exits > RECORDINGS or self.recorded_events > EVENTS:
            if not self.settled:
                self.settled = True
                self.note(
                    "eager",
                    user_line(),
                    f"{RECORDINGS} calls took new ways through the function, so further ones are not recorded: "
                    "branches that depend on values or shapes change too often here",
                )
            return False
        expected = place.events[0] if place.events else None
        what = "the region ended here before" if expected is None else f"the tree has {expected.name} ({expected.line})"
        self.note("side exit", user_line(), f"Python did something new; {what}")
        return True

    def executables(self) -> list[tuple[Stop, Executable]]:
        """The programs in use with the ends of their segments."""
        return [(s, e) for s, e in self.stops if e.generation == self.generation]

    def events(self, stop: Stop) -> list[Event]:
        """The events of a segment."""
        return path(stop.last)


def compile(
    function: Any = None, *, mode: str = "auto", max_compiles: int | None = None
) -> Any:
    """Make a function, method or module run as native programs; its values, effects and exceptions stay the same.

    The decorated function's first call runs eagerly, the second is recorded, later ones follow the record and
    run compiled programs. In the mode "auto" calls that are proven to do nothing else are then replayed without
    Python; "follow" never does that, "replay" demands it. `explain(f)` says what happened and why.

    Edge: generator and coroutine functions are not supported.
    Raises: TypeError for something that cannot be called, RuntimeError at a call that needs more than `max_compiles`
    compilations, or that is not proven to be replayable in the mode "replay".

    >>> import tracejit as tj
    >>> @tj.compile
    ... def double(x):
    ...     return x + x
    >>> [double(tj.tensor(float(i))).item() for i in range(4)]
    [0.0, 2.0, 4.0, 6.0]
    """
    if function is None:
        return functools.partial(compile, mode=mode, max_compiles=max_compiles)
    if mode not in ("auto", "follow", "replay"):
        raise ValueError(f"mode must be 'auto', 'follow' or 'replay', got {mode!r}")
    if not callable(function):
        raise TypeError(f"compile() needs something that can be called, got {type(function).__name__}")
    if hasattr(function, "_compile_in_place"):
        return function._compile_in_place(lambda call: Region(call, mode, max_compiles))
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise NotImplementedError(
            "compile() does not support generator and coroutine functions; compile the functions that they call"
        )
    if inspect.ismethod(function):
        return BoundRegion(Region(function, mode, max_compiles))
    return CompiledFunction(function, mode, max_compiles)


class CompiledFunction:
    """A function with a region; as a method it has a region for each instance."""

    def __init__(self, function: Callable[..., Any], mode: str, max_compiles: int | None) -> None:
        self._region = Region(function, mode, max_compiles)
        self._mode, self._max_compiles = mode, max_compiles
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function through its region."""
        region = self._region
        replay = region.first_replay
        # The shortest way: what `Region.__call__` does, without another Python call.
        if replay is not None and state.session is None and region.lock.acquire(False):
            try:
                out = replay(args, kwargs)
            finally:
                region.lock.release()
            if out is not MISS:
                region.calls.replayed += 1
                return out
        return region(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind as a method: the region belongs to the instance."""
        if instance is None:
            return self
        name = f"_compiled_{self.__name__}"  # type: ignore[attr-defined]
        bound = instance.__dict__.get(name)
        if bound is None:
            method = functools.partial(self._region.function, instance)
            region = Region(method, self._mode, self._max_compiles)
            region.name = self.__name__  # type: ignore[attr-defined]
            bound = BoundRegion(region)
            instance.__dict__[name] = bound
        return bound

    def __reduce__(self) -> Any:
        return self._region.function.__qualname__


class BoundRegion:
    """A compiled method of one instance; copies and pickles of the instance leave it out."""

    def __init__(self, region: Region) -> None:
        self._region = region

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method through its region."""
        return self._region(*args, **kwargs)


def region_of(compiled: Any) -> Region:
    """The region of what `compile` returned.

    Raises: TypeError for something that was not compiled.
    """
    region = getattr(compiled, "_region", None)
    if not isinstance(region, Region):
        raise TypeError(f"{compiled!r} was not made by compile()")
    return region
