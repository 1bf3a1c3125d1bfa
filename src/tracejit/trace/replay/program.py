"""Replays: a proven call as straight-line text that checks, loads, runs the program and stores what it changed."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import numpy as np

from tracejit.runtime.bytecode import compile_text
from tracejit.runtime.entry import ENTRY
from tracejit.tensor.state import state
from tracejit.tensor.tape import OWED, next_position
from tracejit.tensor.tensor import Tensor, pending
from tracejit.trace.executable import Executable, signed, without_detached
from tracejit.trace.follower import Follower
from tracejit.trace.landing import land
from tracejit.trace.matcher import MISS
from tracejit.trace.ranges import in_range
from tracejit.trace.replay.arrivals import clear
from tracejit.trace.replay.landed import Landed
from tracejit.trace.replay.proof import Proof
from tracejit.trace.replay.straight import straight
from tracejit.trace.replay.words import advance, hold
from tracejit.trace.replay.writing import Writing
from tracejit.trace.source import REPLAY
from tracejit.trace.tree import same_number


class Replay:
    """A call of a region without its Python; `run` takes the arguments and gives `MISS` or the result.

    Everything that may miss comes before the program, and the program changes nothing where it refuses.
    """

    def __init__(self, proof: Proof, landed: Landed) -> None:
        alive = set(landed.alive)
        self.uncut = proof.session.uncut
        self.refused = False
        """Whether the program refused what the last call found; whoever tries the next replay takes it back."""
        self.sizes: Hashable = ()
        """Those of the arguments for which it was proven."""
        self.used = 0
        """How many calls had been replayed when it was used last."""
        self.executable = self._own(landed.executable, alive)
        writing = Writing(proof, self.executable, alive)
        self.constants, self.found, self.fixed = writing.constants, writing.found, writing.fixed
        self.taken, self.made, self.input_of = writing.taken, writing.made, writing.input_of
        self.handed, self.grads, self.look = writing.handed, writing.grads, writing.look
        self.controls, self.text = writing.controls, writing.text
        self.watch = writing.watch()
        self.last_found: list[Any] = [None] * len(self.found)
        self.last_arrays: list[Any] = [None] * len(self.found)
        self._slots = len(writing.segment.values)
        self._held = writing.held
        self.scope = scope = writing.listing.scope
        scope.update(
            MISS=MISS,
            state=state,
            same_number=same_number,
            in_range=in_range,
            Tensor=Tensor,
            me=self,
            hold=hold,
            words=self.watch.tables,
            looks=self.watch.looks,
            F=self.last_found,
            A=self.last_arrays,
            E=self.executable,
            L=self.executable.last,
            clear=clear,
            constant_ids=writing.constant_ids,
            look=ENTRY.look,
            expected=None if self.look is None else self.look.table,
            pointers=self.executable.pointers,
            scalars=self.executable.scalars,
            P=self.executable.pointers.data,
            S=self.executable.scalars.data,
            W=self.executable.words.data,
            execute=self.executable.compiled.run,
            run=ENTRY.run,
            C=self.controls,
            signed=signed,
            address_of=ENTRY.address_of,
            empty=self.executable.empty,
            make_object=object.__new__,
            next_position=next_position,
            grads=self.grads,
            kept_as=self.grads.tables,
            advance=advance,
            alike=ENTRY.alike,
            enter=ENTRY.enter,
        )
        exec(compile_text(self.text, REPLAY), scope)
        self.run = scope["replay"]
        self.straight = straight(self.text, scope)

    def _own(self, executable: Executable, alive: set[int]) -> Executable:
        """The program with pointers and numbers that only this replay sets."""
        own = copy.copy(executable)
        own.pointers = executable.pointers.copy()
        own.scalars = executable.scalars.copy()
        own.words = own.scalars.view(np.int64)
        own.last = [None] * len(own.inputs)
        own.lows, own.highs = [], []
        own.outputs, own.views = without_detached(own, alive)
        return own

    # --- checks -------------------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        """Look at every guard; the words and the pointers to the memory of constants are then those of now."""
        if not self.watch.renew():
            return False
        self.grads.forget()
        exe = self.executable
        for slot, t in self.fixed:
            i = self.input_of.get(slot)
            if i is not None:
                exe.last[i] = t._array
                exe.pointers[i] = ENTRY.address_of(t._array)
        # All of them may have moved: the next tensors that are found are compared with them.
        self._forget_found()
        if self.straight is not None:
            self.straight.admit()
        if self.found:
            return True
        return not self._overlap(list(range(len(exe.last))))

    def admits(self, *found: Any) -> bool:
        """Whether the tensors that this call found fit: they are like the former ones, and no two are one."""
        seen = {id(t) for t, _ in self.constants}
        for t, (_, cls, external) in zip(found, self.found, strict=True):
            if type(t) is not cls or id(t) in seen or t._hooks is not None:
                return False
            if t._array is None or not external.admits(t):
                return False
            seen.add(id(t))
        exe = self.executable
        first = self.last_found[0] is None
        moved = list(range(len(exe.last))) if first else []
        for k, t in enumerate(found):
            for slot in self.taken[k]:
                i = self.input_of.get(slot)
                if i is not None and exe.last[i] is not t._array:
                    exe.last[i] = t._array
                    exe.pointers[i] = ENTRY.address_of(t._array)
                    moved.append(i)
        overlap = bool(moved) and self._overlap(moved)
        if overlap or self.look is not None:
            self._forget_found()
        if overlap:
            return False
        if self.look is None:
            self.last_found[:] = found
            self.last_arrays[:] = [t._array for t in found]
        else:
            self.look.admit(exe)
        return True

    def _forget_found(self) -> None:
        """The next tensors are looked at as if none had been found before."""
        self.last_found[:] = [None] * len(self.found)
        if self.look is not None:
            self.look.refuse()
            for slot in (slot for slots in self.taken for slot in slots if slot in self.input_of):
                self.executable.last[self.input_of[slot]] = None

    def again(self) -> bool:
        """Whether the program refuses, once more and by the long way: it may only be laid out for other threads."""
        compiled = self.executable.compiled
        refused = bool(compiled.run(self.executable.pointers, self.executable.scalars))
        self.controls[0] = compiled.program.control
        self.refused = refused
        return refused

    def _overlap(self, moved: list[int]) -> bool:
        exe = self.executable
        return bool(exe.mutated) and exe.overlap(moved)

    # --- values -------------------------------------------------------------------------------------------------------

    def land(self, found: tuple[Any, ...], numbers: list[Any], arrays: list[Any]) -> list[Any]:
        """Make the tensors that live on, in the general way: views, histories, changes in place."""
        follower = Follower.__new__(Follower)
        values: list[Any] = [None] * self._slots
        follower.values = values
        follower.numbers = numbers
        follower.rebased = []
        for slot, t in self.fixed:
            values[slot] = t
        for slots, t in zip(self.taken, found, strict=True):
            for slot in slots:
                values[slot] = t
        for r, slots in self.made:
            if values[r.slot] is None:
                t = pending(r.aval, r.requires_grad, r.strides, OWED if r.requires_grad else None)
                for other in slots:
                    values[other] = t
                if r.source is not None:
                    base = values[r.source]
                    t._base = base if base._base is None else base._base
        outputs = [slot for slot, _, _ in self.executable.outputs]
        if self.executable.block is not None:
            outputs.append(-1)
        land(follower, self.executable, list(zip(outputs, arrays, strict=True)))
        return values
