"""Replays: a proven call as straight-line text that checks, loads, runs the program and stores what it changed."""

from __future__ import annotations

import weakref
from typing import Any

from tracejit.tensor.state import state
from tracejit.tensor.tape import OWED
from tracejit.tensor.tensor import Tensor, pending
from tracejit.trace.executable import Executable
from tracejit.trace.follower import Follower
from tracejit.trace.matcher import MISS
from tracejit.trace.ranges import in_range
from tracejit.trace.replay.guards import ABSENT, Guard
from tracejit.trace.replay.proof import Proof
from tracejit.trace.replay.session import Matched
from tracejit.trace.replay.symbols import Later, Sym, Unproven
from tracejit.trace.tree import External, path, same_number

_ERRORS = "(ArithmeticError, LookupError, TypeError, ValueError, AttributeError)"


class Landed:
    """What a followed segment did: its end, the program that ran, and the tensors that lived on, by slot."""

    def __init__(self, stop: Any, last: Any, executable: Executable, values: list[Any], alive: tuple[int, ...]) -> None:
        self.stop = stop
        self.last = last
        self.executable = executable
        self.alive = {slot: weakref.ref(values[slot]) for slot in alive}


def external_of(t: Tensor) -> External:
    """What a tensor from outside is like now."""
    array = t._array
    contiguous = bool(array.flags.c_contiguous)
    return External(
        array.shape,
        t._dtype,
        t._requires_grad,
        t._node is None,
        None if contiguous else array.strides,
        array.flags.writeable,
    )


class Replay:
    """A call of a region without its Python; called with the arguments, it gives `MISS` or the result.

    Everything that may miss comes before the program, and the program changes nothing where it refuses.
    """

    def __init__(self, proof: Proof, landed: Landed) -> None:
        self.proof = proof
        self.executable = landed.executable
        self.segment: Matched = proof.segment()
        self.world = proof.world
        self.listing = proof.world.listing
        self.guards: list[Guard] = list(proof.world.guards.values())
        self.failed: Guard | None = None
        self._gather(landed)
        self.text = self._write(landed)
        scope = self.listing.scope
        scope.update(
            MISS=MISS, state=state, same_number=same_number, in_range=in_range, Tensor=Tensor, replay_self=self
        )
        exec(compile(self.text, "<replay>", "exec"), scope)
        self.run = scope["replay"]

    # --- what is checked ----------------------------------------------------------------------------------------------

    def _gather(self, landed: Landed) -> None:
        """Sort the tensors from outside into those that stay and those that each call finds."""
        world, segment = self.world, self.segment
        externals: dict[int, External] = {}
        for event in path(segment.last):
            externals.update(event.binds)
        self.constants: list[tuple[Tensor, External]] = []
        self.found: list[tuple[str, Tensor, External]] = []
        for t in world.tensors.values():
            slot = segment.externals.get(id(t))
            external = externals[slot] if slot is not None else external_of(t)
            text = world.found.get(id(t))
            if text is None:
                self.constants.append((t, external))
            else:
                self.found.append((text, t, external))
        self.leaves = [segment.values[leaf] for event in path(segment.last) for leaf, _, _ in event.leaves]
        self.ranges = [
            (segment.values[slot], low, high) for event in path(segment.last) for slot, low, high in event.ranges
        ]

    def holds(self) -> bool:
        """Whether the world is as the proof found it; else `failed` is the first guard that does not hold."""
        for guard in self.guards:
            if not guard.holds():
                self.failed = guard
                return False
        self.failed = None
        if any(not external.admits(t) for t, external in self.constants):
            return False
        return all(t._hooks is None for t in self.leaves if not self.world.is_found(t))

    def admits(self, *found: Any) -> bool:
        """Whether the tensors that this call found fit their slots: they are like the former ones, and no two are one."""
        seen = {id(t) for t, _ in self.constants}
        for t, (_, _, external) in zip(found, self.found, strict=True):
            if id(t) in seen or t._array is None or not external.admits(t) or t._hooks is not None:
                return False
            seen.add(id(t))
        return True

    # --- the program --------------------------------------------------------------------------------------------------

    def compute(self, found: tuple[Any, ...], numbers: list[Any]) -> Any:
        """Run the program: the values by slot, or None where it refused and changed nothing."""
        follower = Follower.__new__(Follower)
        follower.values = values = [None] * len(self.segment.values)
        follower.numbers = numbers
        follower.rebased = []
        for slot, t in self.fixed:
            values[slot] = t
        for slots, t in zip(self.taken, found, strict=True):
            for slot in slots:
                values[slot] = t
        for slot, aval, requires_grad, strides, source in self.made:
            t = values[slot]
            if t is None:
                t = pending(aval, requires_grad, strides, OWED if requires_grad else None)
                for other in self.again[slot]:
                    values[other] = t
                if source is not None:
                    base = values[source]
                    t._base = base if base._base is None else base._base
        arrays = self.executable.run(values, numbers)
        if arrays is None:
            return None
        follower.land(self.executable, arrays)
        return values

    # --- text ---------------------------------------------------------------------------------------------------------

    def _write(self, landed: Landed) -> str:
        proof, world, listing, segment = self.proof, self.world, self.listing, self.segment
        found_at = {id(t): i for i, (_, t, _) in enumerate(self.found)}
        results = {r.slot: r for event in path(segment.last) for r in event.results}
        slots: dict[int, list[int]] = {}
        for slot, t in enumerate(segment.values):
            if t is not None:
                slots.setdefault(id(t), []).append(slot)
        alive = set(landed.alive)
        self.fixed: list[tuple[int, Any]] = []
        self.taken: list[list[int]] = [[] for _ in self.found]
        self.made: list[tuple[int, Any, bool, Any, Any]] = []
        self.again: dict[int, list[int]] = {}
        for slot, t in enumerate(segment.values):
            if t is None:
                continue
            if not world.is_fresh(t):
                if id(t) in found_at:
                    self.taken[found_at[id(t)]].append(slot)
                else:
                    self.fixed.append((slot, t))
            elif slot in alive and slot in results:
                r = results[slot]
                self.made.append((slot, r.aval, r.requires_grad, r.strides, r.source))
                self.again[slot] = slots[id(t)]
        self.slots = slots
        self._check_escapes(alive)

        head = ["def replay(args, kwargs):", f"    if state.grad_enabled is not {proof.grad}: return MISS"]
        head += ["    if not replay_self.holds(): return MISS", "    try:"]
        head += [f"        {line}" for line in listing.lines]
        head += ["        pass", f"    except {_ERRORS}:", "        return MISS"]
        found = "".join(f"{text}, " for text, _, _ in self.found)
        if self.found:
            head.append(f"    if not replay_self.admits({found}): return MISS")
        for t, low, high in self.ranges:
            head.append(f"    if not in_range({self._tensor_text(t)}, {low}, {high}): return MISS")
        numbers = ", ".join(text or listing.constant(value) for value, text in segment.numbers)
        body = [f"    v = replay_self.compute(({found}), [{numbers}])", "    if v is None: return MISS"]
        body += self._stores()
        lines: list[str] = []
        result = self._build(proof.result, lines)
        return "\n".join([*head, *body, *lines, f"    return {result}"])

    def _check_escapes(self, alive: set[int]) -> None:
        """See that every tensor that lives on is one that the text hands out.

        Raises: Unproven for a tensor that Python keeps where the run did not see it.
        """
        known: set[int] = set()
        self._tensors_in(self.proof.result, known)
        for _, _, _, value in self.proof.changes:
            self._tensors_in(value, known)
        for _, slot, _ in self.proof.session.reads:
            known.add(slot)
        if not alive <= known:
            self.extra = alive - known
        else:
            self.extra = set()

    def _tensors_in(self, value: Any, known: set[int]) -> None:
        if isinstance(value, Tensor):
            known.update(self.slots.get(id(value), ()))
        elif isinstance(value, (list, tuple)):
            for e in value:
                self._tensors_in(e, known)
        elif isinstance(value, dict):
            for e in value.values():
                self._tensors_in(e, known)

    def escaped(self, landed: Landed) -> bool:
        """Whether a tensor that the text does not hand out is still alive after the call."""
        return any(landed.alive[slot]() is not None for slot in self.extra)

    def _stores(self) -> list[str]:
        listing = self.listing
        out: list[str] = []
        self.built: dict[int, str] = {}
        for kind, container, key, value in self.proof.changes:
            name = listing.constant(container)
            made = self._build(value, out)
            if kind == "item":
                place = f"{name}[{key!r}]" if type(key) is str else f"{name}[{listing.constant(key)}]"
                out.append(f"    del {place}" if value is ABSENT else f"    {place} = {made}")
            elif kind == "cell":
                out.append(f"    {name}.cell_contents = {made}")
            elif value is ABSENT:
                out.append(f"    del {name}.{key}")
            else:
                out.append(f"    {name}.{key} = {made}")
        for generator, count in self.proof.session.drawn.values():
            name = listing.constant(generator)
            out.append(f"    {name}.offset += {count}")
        return out

    def _tensor_text(self, t: Any) -> str:
        if self.world.is_fresh(t):
            return f"v[{self.slots[id(t)][0]}]"
        return self.world.text_of(t)

    def _build(self, value: Any, lines: list[str]) -> str:
        """The expression of a value that leaves the call; containers that the call makes are made once."""
        kind = type(value)
        if kind is Sym:
            return str(value.text)
        if kind is Later:
            _, slot, t = self.proof.session.reads[value.position]
            return f"v[{self.slots[id(t)][0]}]._array.item()"
        if value is ABSENT:
            return "None"
        if isinstance(value, Tensor):
            return self._tensor_text(value)
        if not self.world.is_fresh(value):
            return self.world.found.get(id(value)) or self.listing.constant(value)
        if isinstance(value, (list, tuple, dict)):
            known = self.built.get(id(value))
            if known is not None:
                return known
            if kind is dict:
                items = ", ".join(f"{self._key(k)}: {self._build(e, lines)}" for k, e in value.items())
                made = f"{{{items}}}"
            else:
                items = "".join(f"{self._build(e, lines)}, " for e in value)
                made = f"[{items}]" if kind is list else f"({items})"
                if kind not in (list, tuple):
                    made = f"tuple.__new__({self.listing.constant(kind)}, {made})"
            name = f"b{len(self.built)}"
            self.built[id(value)] = name
            lines.append(f"    {name} = {made}")
            return name
        return self.listing.constant(value)

    def _key(self, key: Any) -> str:
        return repr(key) if type(key) in (str, int, bool) else self.listing.constant(key)


def check_result(proof: Proof, landed: list[Landed]) -> Landed:
    """The one segment that ran, if it is the proof's.

    Raises: Unproven if the call took another way.
    """
    segment = proof.segment()
    if len(landed) != 1 or landed[0].stop is not segment.stop or landed[0].last is not segment.last:
        raise Unproven("the call took another way than the bytecode says")
    return landed[0]
