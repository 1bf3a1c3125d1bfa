"""Proofs: a call run abstractly before it is run for real, and compared with what it then did."""

from __future__ import annotations

import itertools
import re
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracejit import devices, dtypes
from tracejit.devices import get_default_device
from tracejit.runtime.bytecode import compile_text
from tracejit.tensor import products
from tracejit.tensor.composite import Composite
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor
from tracejit.trace.matcher import MISS
from tracejit.trace.replay.frames import Generator, Iteration
from tracejit.trace.replay.guards import ABSENT, READERS, unchanged
from tracejit.trace.replay.machine import Machine
from tracejit.trace.replay.session import Matched, Shadow
from tracejit.trace.replay.symbols import Later, Listing, Midway, Sym, Unproven
from tracejit.trace.replay.world import PLAIN, Hint, World
from tracejit.trace.tree import Place, same_number
from tracejit.trace.uncut import Uncut

FAILURE = "the prover itself failed"
ROUNDS = 4
"""How often a run may find that more places change from call to call, and start again."""


def inner(value: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """What is of some kinds in a value, in lists, tuples and dicts too, as often as it stands there."""
    if isinstance(value, kinds):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for e in value.values() if isinstance(value, dict) else value:
            yield from inner(e, kinds)


class Proof:
    """What an abstract run found: the text before the program, the segments it went through, what it would change."""

    def __init__(self, world: World, session: Shadow, result: Any, count: int, names: tuple[str, ...]) -> None:
        self.world = world
        self.session = session
        self.result = result
        self.count = count
        self.names = names
        self.grad = state.grad_enabled
        self.lengths = {id(x): len(x) for x, _ in world.appended}
        self.changes = [c for c in world.changes() if not self._idle(*c)]
        self.slots: dict[int, tuple[int, int]] = {
            id(t): (number, slot)
            for number, segment in enumerate(session.segments)
            for slot, t in enumerate(segment.values)
            if t is not None and world.is_fresh(t)
        }

    def _idle(self, kind: str, container: Any, key: Any, value: Any) -> bool:
        """Whether a change stores what is there; that it is there is then guarded."""
        if type(value) in (Sym, Later) or self.world.is_found(value):
            return False
        now = READERS[kind](container, key)
        if now is value and (isinstance(value, PLAIN) or not self.world.is_fresh(value)):
            self.world.guard(kind, container, key, value)
            return True
        return False

    def segment(self) -> Matched:
        """The one segment that computes.

        Raises: Unproven if several do.
        """
        busy = [s for s in self.session.segments if s.last is not None]
        if not busy:
            raise Unproven("the function computes nothing")
        if len(busy) > 1:
            raise Midway(
                "values are read in the middle of the function",
                "read values at the end of the function, or return the tensors",
            )
        return busy[0]

    @property
    def looks(self) -> dict[int, int]:
        """Of a call that was recorded as a whole: the slots of the values that leave it, by their numbers."""
        if self.session.uncut is None:
            return {}
        changed = [value for _, _, _, value in self.changes]
        leaving = (self.result, *changed, *(value for _, value in self.world.appended))
        wanted = {int(k) for later in inner(leaving, (Later,)) for k in re.findall(r"\br(\d+)\b", later.text)}
        return {k: self.session.reads[k][1] for k in sorted(wanted)}

    def rehearse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the text before the program on the world as it is: it must compute what the machine did.

        Raises: Unproven if it does not.
        """
        listing = self.world.listing
        names = [text for text, _ in listing.symbols]
        lines = [*listing.lines, f"return [{', '.join(names)}]"]
        text = "\n".join(["def rehearse(args, kwargs):", *(f"    {line}" for line in lines)])
        scope = {**listing.scope, "MISS": MISS, "same_number": same_number, "Tensor": Tensor}
        exec(compile_text(text, "<rehearsal of a replay>"), scope)
        found = scope["rehearse"](args, kwargs)
        if found is MISS or not all(
            same_number(value, then) for value, (_, then) in zip(found, listing.symbols, strict=True)
        ):
            raise Unproven("the text of the replay differs from what was run")

    # --- the real call ------------------------------------------------------------------------------------------------

    def expect(self, out: Any, made: dict[int, Any], generators: dict[int, tuple[int, int]]) -> None:
        """Compare with what the call did: its result, what it changed, and what it did not.

        `made` are the tensors of the segment by slot. Raises: Unproven where anything differs.
        """
        slot_of = {id(t): slot for slot, t in made.items()}
        if not self._like(self.result, out, slot_of):
            raise Unproven("the call returned something else than the bytecode says")
        for kind, container, key, value in self.changes:
            if not self._like(value, READERS[kind](container, key), slot_of):
                raise Unproven(f"the call left something else in '{key}' than the bytecode says")
        grown: dict[int, tuple[Any, list[Any]]] = {}
        for x, value in self.world.appended:
            grown.setdefault(id(x), (x, []))[1].append(value)
        for x, expected in grown.values():
            before, most = self.lengths[id(x)], getattr(x, "maxlen", None)
            # A deque that is full loses its first elements.
            wanted = expected if most is None else expected[max(0, len(expected) - most) :]
            length = before + len(expected) if most is None else min(most, before + len(expected))
            added = list(itertools.islice(x, max(0, len(x) - len(wanted)), None))
            if len(x) != length or not all(self._like(e, a, slot_of) for e, a in zip(wanted, added, strict=True)):
                raise Unproven("the call appended something else than the bytecode says")
        changed = {(id(container), kind, key) for kind, container, key, _ in self.changes}
        for place, guard in self.world.guards.items():
            if place not in changed and guard.kind in READERS and not guard.holds():
                raise Unproven(f"the call changed {guard.describe()} in a way that the bytecode does not show")
        for key, (generator, count) in self.session.drawn.items():
            if (generator.seed_, generator.offset - count) != generators.get(key):
                raise Unproven("the call drew other random numbers than the bytecode says")

    def _like(self, expected: Any, found: Any, slot_of: dict[int, int]) -> bool:
        kind = type(expected)
        if kind is Sym:
            return same_number(expected.value, found)
        if kind is Later:
            return type(found) in ((np.ndarray, list) if expected.kind == "array" else (int, float, bool))
        if expected is ABSENT or found is ABSENT:
            return expected is found
        if isinstance(expected, Tensor):
            if self.world.is_fresh(expected):
                # An assignment gives a tensor a second slot.
                slot, values = slot_of.get(id(found), -1), self.segment().values
                return 0 <= slot < len(values) and values[slot] is expected
            return expected is found
        if self.world.is_fresh(expected) and isinstance(expected, (list, tuple)):
            return (
                type(found) is kind
                and len(found) == len(expected)
                and all(self._like(e, x, slot_of) for e, x in zip(expected, found, strict=True))
            )
        if self.world.is_fresh(expected) and kind is dict:
            return (
                type(found) is dict
                and list(found) == list(expected)
                and all(self._like(e, found[k], slot_of) for k, e in expected.items())
            )
        if isinstance(expected, types.MethodType):
            return bool(expected == found)
        return unchanged(found, expected)

    def storable(self, value: Any) -> None:
        """Check that a value can be made anew in each call.

        Raises: Unproven for objects that the run made, other than lists, tuples and dicts.
        """
        if isinstance(value, (Sym, Later, *PLAIN, int, float)):
            return
        if value is ABSENT or isinstance(value, Tensor) or not self.world.is_fresh(value):
            return
        if isinstance(value, (list, tuple)):
            for e in value:
                self.storable(e)
        elif type(value) is dict:
            for e in value.values():
                self.storable(e)
        elif isinstance(value, (types.FunctionType, types.MethodType, Composite, Generator, Iteration)) or hasattr(
            value, "__dict__"
        ):
            raise Unproven(
                f"a new {type(value).__name__} leaves the function", "return tensors, numbers, lists, tuples and dicts"
            )


def prove(
    function: Any,
    place: Place,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    changing: dict[Any, Any],
    hints: frozenset[Hint] = frozenset(),
    uncut: Uncut | None = None,
) -> tuple[Proof | None, list[tuple[str, Unproven]]]:
    """Run a call abstractly, before it is made: a proof, or why there is none.

    `changing` are places whose numbers and tensors are not the same in each call; places that the function itself
    changes are added, and those whose numbers did change in another process, which `hints` tell. `uncut` is what was
    recorded if it is a whole call.
    """
    obstacles: list[tuple[str, Unproven]] = []
    for _ in range(ROUNDS):
        world = World(Listing(), changing, hints)
        session = Shadow(world, place, uncut)
        machine = Machine(world, session)
        grad, before = state.grad_enabled, state.session
        casting = state.autocast, state.autocast_defaults, state.autocast_depth, state.autocast_cache
        state.session = session
        try:
            if state.autocast is not None or state.autocast_depth:
                raise Unproven(
                    "an autocast block is around the call, and keeps casts of weights for the next one",
                    "enter it inside of the compiled function",
                )
            # What is made in the call may be of the default type.
            world.read("item", vars(dtypes), "_default")
            # And products of float32 as exact as is asked for.
            world.read("item", vars(products), "_precision")
            # And on the default device, which is the thread's own once anybody chose one.
            world.read("item", vars(devices), "_changed")
            if devices.was_chosen():
                get, where = world.listing.constant(get_default_device), world.listing.constant(get_default_device())
                world.listing.require(f"{get}() is {where}")
            positional = _arguments(world, args, kwargs)
            result = machine.call(function, positional, {k: _enter(world, kwargs[k], f"kwargs[{k!r}]") for k in kwargs})
            session.finish()
            if state.grad_enabled is not grad:
                raise Unproven("the grad mode is left changed", "use no_grad() as a context manager")
            if state.autocast_depth != casting[2]:
                raise Unproven("autocast is left on", "use autocast() as a context manager")
        except Unproven as e:
            return None, [*machine.obstacles, (getattr(e, "line", machine.line()), e.alone())]
        except RecursionError:
            return None, [*machine.obstacles, (machine.line(), Unproven("the calls are nested too deeply"))]
        except Exception as e:  # noqa: BLE001 - a proof that breaks must not break the call, which is followed then
            return None, [(machine.line(), Unproven(f"{FAILURE}: {type(e).__name__}: {e}", "report this as a bug"))]
        finally:
            state.grad_enabled, state.session = grad, before
            state.autocast, state.autocast_defaults, state.autocast_depth, state.autocast_cache = casting
            machine.close()
        obstacles = machine.obstacles
        if obstacles:
            return None, obstacles
        new = {place: c for place, c in world.read_and_written().items() if place not in changing}
        if not new:
            break
        changing.update(new)
    else:
        return None, [("?", Unproven("the places that the function changes do not settle"))]
    try:
        proof = Proof(world, session, result, len(args), tuple(kwargs))
        proof.segment()
        proof.storable(result)
        for _, _, _, value in proof.changes:
            proof.storable(value)
        for _, value in world.appended:
            proof.storable(value)
        proof.rehearse(args, kwargs)
    except Unproven as e:
        return None, [((session.lines or ["?"])[0], e.alone())]
    return proof, []


def _arguments(world: World, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    names = world.listing.unpack("args", len(args))
    if kwargs:
        world.listing.require(f"list(kwargs) == {list(kwargs)!r}")
    else:
        world.listing.require("not kwargs")
    return tuple(map(world.enter, args, names))


def _enter(world: World, value: Any, text: str) -> Any:
    return world.enter(value, world.listing.let(text))
