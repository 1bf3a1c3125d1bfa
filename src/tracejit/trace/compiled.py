"""What `compile` gives: functions, methods and modules whose calls go through a region.

In: a function and options. Out: an object that is called as the function. Must not know: what a region does in a call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tracejit.runtime.entry import ENTRY, REGION_AT, REGION_CLASS, REGION_METHOD, STRAIGHT_AT
from tracejit.runtime.objects import slot_place
from tracejit.trace.matcher import MISS
from tracejit.trace.region import Region


def compile(
    function: Any = None,
    *,
    mode: str = "auto",
    max_compiles: int | None = None,
    verify: str | int | None = None,
    background: bool | None = None,
) -> Any:
    """Make a function, method or module run as native programs; its values, effects and exceptions stay the same.

    The decorated function's first call runs eagerly, the second is recorded, later ones follow the record and
    run compiled programs. In a process that finds the record of another one on disk, the first call follows already
    (TRACEJIT_TREES=0 switches that off). In the mode "auto" calls that are proven to do nothing else are then replayed
    without Python; "follow" never does that, "replay" demands it. `explain(f)` says what happened and why.

    `verify="first"` computes the first run of each program eagerly as well, on copies, `verify=k` all programs of every
    k-th call, which is then followed, and compares every bit. `max_compiles` bounds the programs that are built.

    With `background=True`, or TRACEJIT_BACKGROUND=1 for all functions, calls do not wait for the compiler: what has no
    program yet is computed eagerly while another process compiles it, and a later call that finds it done runs it.
    Programs come over the cache on disk; without one, in the mode "replay", and where the other process fails, calls
    wait as they do otherwise, and `explain(f)` says why.

    Edge: generator and coroutine functions are not supported.
    Raises: TypeError for something that cannot be called, ValueError or TypeError for other values of the options; at a
    call: CompileLimitError, a RuntimeError that says what differs, if it needs more than `max_compiles` compilations,
    VerificationError if a program computed other bits than eager, RuntimeError in the mode "replay" for a call that is
    not proven to be replayable.

    >>> import tracejit as tj
    >>> @tj.compile
    ... def double(x):
    ...     return x + x
    >>> [double(tj.tensor(float(i))).item() for i in range(4)]
    [0.0, 2.0, 4.0, 6.0]
    """
    if function is None:
        return functools.partial(compile, mode=mode, max_compiles=max_compiles, verify=verify, background=background)
    if mode not in ("auto", "follow", "replay"):
        raise ValueError(f"mode must be 'auto', 'follow' or 'replay', got {mode!r}")
    _check_option("verify", verify, 1, ("first",))
    _check_option("max_compiles", max_compiles, 0, ())
    if background is not None and not isinstance(background, bool):
        raise TypeError(f"background must be True, False or None, got {background!r}")
    options = mode, max_compiles, verify, background
    if not callable(function):
        raise TypeError(f"compile() needs something that can be called, got {type(function).__name__}")
    if hasattr(function, "_compile_in_place"):
        return function._compile_in_place(lambda call: Region(call, *options))
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise NotImplementedError(
            "compile() does not support generator and coroutine functions; compile the functions that they call"
        )
    if inspect.ismethod(function):
        return BoundRegion(Region(function, *options))
    return CompiledFunction(function, options)


def _check_option(name: str, value: Any, least: int, words: tuple[str, ...]) -> None:
    """Refuse what is neither None, nor a whole number from `least` on, nor one of the words."""
    expected = " or ".join([*(f"'{w}'" for w in words), f"a whole number from {least} on", "None"])
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, str) if words else int)):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if (isinstance(value, int) and value < least) or (isinstance(value, str) and value not in words):
        raise ValueError(f"{name} must be {expected}, got {value!r}")


class _Callable:
    """Something that is called through its region."""

    __slots__ = ("__dict__", "__weakref__", "_region")

    def __init__(self, region: Region) -> None:
        self._region = region

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Call the function through its region: by a native replay, by `_call` where there is none or it misses."""


def _make_native() -> None:
    """Give compiled functions their call: it takes a fifth of a microsecond less than one in Python."""
    ENTRY.state[REGION_AT] = slot_place(_Callable, "_region")
    ENTRY.state[STRAIGHT_AT] = slot_place(Region, "straight")
    ENTRY.know({REGION_METHOD: "_call", REGION_CLASS: Region})
    _Callable.__call__ = ENTRY.method(_Callable, "__call__", "call_region")  # type: ignore[method-assign]


_make_native()


class CompiledFunction(_Callable):
    """A function with a region; as a method it has a region for each instance."""

    def __init__(self, function: Callable[..., Any], options: tuple[Any, ...]) -> None:
        self._options = options
        super().__init__(Region(function, *self._options))
        self._take, self._give_back = self._region.free.pop, self._region.free.append
        functools.update_wrapper(self, function)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        region = self._region
        # The shortest way: what `Region.__call__` does, without another Python call.
        replay = region.first_replay
        if replay is not None:
            try:
                self._take()
            except IndexError:
                return region(*args, **kwargs)
            try:
                out = replay(args, kwargs)
            finally:
                self._give_back(None)
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
            region = Region(method, *self._options)
            region.name = self.__name__  # type: ignore[attr-defined]
            bound = BoundRegion(region)
            instance.__dict__[name] = bound
        return bound

    def __reduce__(self) -> Any:
        return self._region.function.__qualname__


class BoundRegion(_Callable):
    """A compiled method of one instance; copies and pickles of the instance leave it out."""

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        return self._region(*args, **kwargs)


def region_of(compiled: Any) -> Region:
    """The region of what `compile` returned.

    Raises: TypeError for something that was not compiled.
    """
    region = getattr(compiled, "_region", None)
    if not isinstance(region, Region):
        raise TypeError(f"{compiled!r} was not made by compile()")
    return region
