"""The text of a replay: a proven call in straight lines, and what its names stand for.

In: a proof, what the call left behind, the program. Out: the text with its names, and what is what among the tensors.
Must not know: how a replay runs. What the proof kept of the world goes with the writer: a replay has what it needs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from typing import Any

import numpy as np

from tracejit.runtime.arrays import in_blocks
from tracejit.runtime.entry import ENTRY
from tracejit.runtime.objects import copy_call, make_call
from tracejit.tensor.tensor import FIELDS, Tensor, on_gpu, pending
from tracejit.trace.executable import Executable, signed
from tracejit.trace.ranges import may_refuse
from tracejit.trace.replay.arrivals import Found, native_look, short_look
from tracejit.trace.replay.gradients import Gradients
from tracejit.trace.replay.guards import ABSENT
from tracejit.trace.replay.landed import external_of, leaving
from tracejit.trace.replay.proof import Proof
from tracejit.trace.replay.shortcuts import joined_counters, without_loads
from tracejit.trace.replay.steps import write_steps
from tracejit.trace.replay.symbols import Later, Sym
from tracejit.trace.replay.watch import Watch
from tracejit.trace.replay.words import count_up
from tracejit.trace.structure import READ
from tracejit.trace.tree import External, path

_ERRORS = "(ArithmeticError, LookupError, TypeError, ValueError, AttributeError)"


class Writing:
    """Writes the text of one replay; `alive` are the slots of what lived on after the call."""

    def __init__(self, proof: Proof, executable: Executable, alive: set[int]) -> None:
        self.proof = proof
        self.world = proof.world
        self.listing = proof.world.listing
        self.segment = proof.segment()
        self.events = path(self.segment.last)
        self.executable = executable
        self.alive = alive
        self._sort_tensors()
        self._sort_slots()
        self.constant_ids = frozenset([id(t) for t, _ in self.constants])
        self.look = native_look(self.found, self.taken, self.input_of, executable, self.constant_ids)
        # A GPU's program is started by Python.
        program = None if executable.gpu else getattr(executable.compiled, "program", None)
        self.controls = [] if program is None else [program.control]
        self.held: list[Any] = []
        """What the text has by its address alone."""
        self.text = self._write()

    def watch(self) -> Watch:
        """What must hold before the text runs."""
        own = frozenset(id(c) for kind, c, _, _ in self.proof.changes if kind == "item")
        slots = {leaf for event in self.events for leaf in (*(slot for slot, _, _ in event.leaves), *event.watched)}
        leaves = {id(self.segment.values[leaf]) for leaf in slots}
        return Watch(list(self.world.guards.values()), self.constants, leaves, own)

    # --- what is what -------------------------------------------------------------------------------------------------

    def _sort_tensors(self) -> None:
        """Sort the tensors from outside into those that stay and those that each call finds."""
        externals: dict[int, External] = {}
        for event in self.events:
            externals.update(event.binds)
        self.constants: list[tuple[Tensor, External]] = []
        self.found: list[Found] = []
        arriving: list[Tensor] = []
        for t in self.world.tensors.values():
            slot = self.segment.externals.get(id(t))
            external = externals[slot] if slot is not None else external_of(t)
            text = self.world.found.get(id(t))
            if text is None:
                self.constants.append((t, external))
            else:
                self.found.append((text, type(t), external))
                arriving.append(t)
        self.place_of = {id(t): i for i, t in enumerate(arriving)}

    def _sort_slots(self) -> None:
        """Sort the slots into constants, found tensors and those that the program makes."""
        self.results = {r.slot: r for event in self.events for r in event.results}
        self.slots: dict[int, list[int]] = {}
        self.fixed: list[tuple[int, Any]] = []
        self.taken: list[list[int]] = [[] for _ in self.found]
        made: list[Any] = []
        for slot, t in enumerate(self.segment.values):
            if t is None:
                continue
            self.slots.setdefault(id(t), []).append(slot)
            if self.world.is_fresh(t):
                if slot in self.alive and slot in self.results:
                    made.append(self.results[slot])
            elif id(t) in self.place_of:
                self.taken[self.place_of[id(t)]].append(slot)
            else:
                self.fixed.append((slot, t))
        # With each result all slots of its tensor: an assignment gives it a second one.
        self.made = [(r, self.slots[id(self.segment.values[r.slot])]) for r in made]
        self.input_of = {slot: i for i, slot in enumerate(self.executable.inputs)}

    # --- text ---------------------------------------------------------------------------------------------------------

    def _write(self) -> str:
        proof, listing, exe = self.proof, self.listing, self.executable
        self.simple = self._is_simple()
        self.handed: list[tuple[Any, int, Any]] = self._handed() if self.simple else []
        self.grads = Gradients(
            exe, [(leaf, at, self.results[slot].aval, self._changes(slot)) for leaf, at, (slot, _, _) in self.handed]
        )
        # Other threads run while a long program does.
        taken = bool(self.handed) and exe.compiled.releases
        # In another region's call this one is nothing but its function.
        out = ["def replay(args, kwargs):", "    here = state.__dict__"]
        mode = f"here['grad_enabled'] is not {proof.grad} or here['autocast'] is not None"
        out += [f"    if here['session'] is not None or {mode}: return MISS"]
        out += ["    if hold(words[0]) and not me.renew(): return MISS"]
        out += ["    if looks and not looks[0]() and not me.renew(): return MISS"]
        # The type of a tensor that is found is looked at where it is not the former one.
        known = {f"if not (type({text}) is {listing.constant(cls)}): return MISS" for text, cls, _ in self.found}
        lines, of_grads = self._without_grads([line for line in listing.lines if line not in known])
        lines = joined_counters(lines, self._named(), self._dicts)
        out += ["    try:"]
        if self.handed:
            out.append("        kept = not hold(kept_as[0]) or grads.adopt()")
        if of_grads:
            out += ["        if not kept:", *(f"            {line}" for line in of_grads)]
        out += [*(f"        {line}" for line in lines), "        pass"]
        out += [f"    except {_ERRORS}:", "        return MISS"]
        found = "".join(f"{text}, " for text, _, _ in self.found)
        if self.look is not None:
            these = found.rstrip(", ")
            out.append(f"    if look(expected, {these}) and not me.admits({these}): return MISS")
        elif self.found:
            other = " or ".join(
                f"{text} is not F[{i}] or {text}._array is not A[{i}] or {text}._hooks is not None "
                f"or {text}._node is {'not ' if external.leaf else ''}None "
                f"or {text}._requires_grad is not {external.requires_grad}"
                for i, (text, _, external) in enumerate(self.found)
            )
            look = short_look(self.found, self.taken, self.input_of, exe, listing)
            out.append(f"    if {other}:")
            if look is None:
                out.append(f"        if not me.admits({found.rstrip(', ')}): return MISS")
            else:
                setting, condition = look
                out += [f"        if {condition}:", *(f"            {line}" for line in setting)]
                out.append(f"        elif not me.admits({found.rstrip(', ')}): return MISS")
        for event in self.events:
            for slot, low, high in event.ranges:
                text = self.world.text_of(self.segment.values[slot])
                out.append(f"    if not in_range({text}, {low}, {high}): return MISS")
        numbers = [text or listing.constant(value) for value, text in self.segment.numbers]
        for i, (index, kind) in enumerate(exe.numbers):
            value, number = self.segment.numbers[index]
            if number is None and kind == "f":
                exe.scalars[i] = value
            elif number is None:
                exe.words[i] = signed(value)
            elif kind == "f":
                out.append(f"    S[{i}] = {numbers[index]}")
            else:
                out.append(f"    W[{i}] = signed({numbers[index]})")
        if taken:
            out.append("    kept = kept and grads.take()")
        if self.handed:
            out.append("    if not kept: grads.renew()")
        given = {at for _, at, _ in self.handed}
        whole: set[int] = set()
        made_here = [(at, *output) for at, output in enumerate(exe.outputs) if at not in given and output[0] != READ]
        have_blocks = in_blocks([math.prod(shape) * np.dtype(kind).itemsize for _, _, shape, kind in made_here])
        for (at, slot, shape, kind), has_block in zip(made_here, have_blocks, strict=True):
            array, place = (shape, np.dtype(kind)), len(exe.inputs) + at
            made = None
            # Native code has no blocks.
            if self.simple and not exe.gpu and not has_block:
                like = self._like(slot)
                made = make_call(like, FIELDS, "_array", array, place, listing.scope, f"made{slot}")
            if made is not None:
                whole.add(at)
                out += [f"    t{slot} = {made}"]
                continue
            out += [f"    o{at} = empty({shape!r}, {listing.constant(array[1])})"]
            out += [f"    P[{place}] = address_of(o{at})"]
        if exe.block is not None:
            offsets, nbytes = exe.block
            places = exe.pointers[exe.homes - len(offsets) : exe.homes]
            add, begins, ends, byte = map(listing.constant, (np.add, offsets, places, np.dtype(np.uint8)))
            out += [f"    block = empty(({nbytes},), {byte})"]
            out += [f"    {add}({begins}, address_of(block), {ends})"]
        runs = "run(C[0], pointers, scalars) and me.again()" if self.controls else "execute(pointers, scalars)"
        out += [f"    if {runs}: return kept and grads.give() or MISS" if taken else f"    if {runs}: return MISS"]
        out += self._land(found, numbers, given, whole)
        if taken or self.grads.changing:
            out.append("    grads.give()")
        elif self.handed:
            out.append("    if not kept: grads.give()")
        out += self._stores()
        lines = []
        result = self._build(proof.result, lines)
        if self.handed:
            lines.append("    if not kept: grads.watch()")
        return "\n".join([*out, *lines, f"    return {result}"])

    def _is_simple(self) -> bool:
        """Whether what lives on has neither views nor histories that can be walked back."""
        exe = self.executable
        made = {r.slot for r, _ in self.made}
        outputs = [slot for slot, _, _ in exe.outputs if slot != READ]
        return (
            not exe.views
            and all(slot in made for slot in outputs)
            and all(self._whole(r) for r, _ in self.made)
            and len(made) == len(outputs)
            and (exe.tape is None or (exe.tape.is_spent() and not any(map(self._is_fresh, exe.tape.leaves()))))
            and all(not r.requires_grad or (exe.tape is not None and r.slot in exe.tape.roots) for r, _ in self.made)
            and all(slot in made for slot in (exe.tape.roots if exe.tape is not None else ()))
        )

    def _is_fresh(self, slot: int) -> bool:
        """Whether the tensor of a slot is one that the call makes."""
        return self.world.is_fresh(self.segment.values[slot])

    def _whole(self, r: Any) -> bool:
        """Whether a result is contiguous memory of its own, with the history that it got when it was made."""
        t = self.segment.values[r.slot]
        return r.strides is None and self.slots[id(t)][0] == r.slot and t._requires_grad is r.requires_grad

    def _handed(self) -> list[tuple[Any, int, Any]]:
        """The gradients of the host that go to their tensors and nowhere else: (tensor, output, what it is)."""
        if self.executable.gpu or any(
            text.endswith("._grad") or self.listing.definition(text).endswith("._grad")
            for i, (text, _, _) in enumerate(self.found)
            if any(slot in self.input_of for slot in self.taken[i])
        ):
            return []
        uses = Counter(id(t) for t in leaving(self.proof, Tensor))
        whole = self.proof.session.uncut is not None
        reads = set() if whole else {slot for _, slot, _, _ in self.proof.session.reads}
        out = []
        at = {slot: i for i, (slot, _, _) in enumerate(self.executable.outputs)}
        refuses, first = may_refuse(self.events) or whole, len(self.executable.inputs)
        for kind, container, key, value in self.proof.changes:
            if kind == "slot" and key == "_grad" and isinstance(value, Tensor) and self.world.is_fresh(value):
                slot = self.slots[id(value)][0]
                if (
                    uses[id(value)] == 1
                    and slot not in reads
                    and slot in at
                    and not self.results[slot].requires_grad
                    and not self.world.is_found(container)
                    # Where the program refuses, the gradients of the call before are still there.
                    and not (refuses and not self.executable.compiled.program.written_last(first + at[slot]))
                ):
                    out.append((container, at[slot], self.executable.outputs[at[slot]]))
        return out

    def _changes(self, slot: int) -> int:
        """How often the tensor of a slot, which the program makes, is changed in place."""
        slots = self.slots[id(self.segment.values[slot])]
        return sum(times for other, times in self.executable.bumps if other in slots)

    def _without_grads(self, lines: list[str]) -> tuple[list[str], list[str]]:
        """Apart: what only looks at gradients that this replay gave itself, where they are still the ones it gave."""
        loads = {f"{self.listing.constant(leaf)}._grad" for leaf, _, _ in self.handed}
        return without_loads(lines, loads, {text for text, _, _ in self.found})

    def _named(self) -> set[str]:
        """The names that stand outside of the listing: numbers, tensors that are found, what leaves."""
        named = {text for text, _, _ in self.found} | {text for _, text in self.segment.numbers if text is not None}
        for value in leaving(self.proof, Sym, Later):
            named.update(re.findall(r"\bv\d+\b", value.text))
        return named | set(self.world.found.values())

    def _like(self, slot: int) -> Tensor:
        """What a tensor that the program makes is like, but for its memory and its step of the tape."""
        roots = self.executable.tape.roots if self.executable.tape is not None else {}
        made = pending(self.results[slot].aval, slot in roots, None, None)
        if slot in roots:
            made._index = roots[slot][1]
        return made

    def _land(self, found: str, numbers: list[str], given: set[int], whole: set[int]) -> list[str]:
        """The text that makes tensors of the program's outputs; those of `whole` are there."""
        exe, listing = self.executable, self.listing
        arrays = "".join("None, " if slot == READ else f"o{at}, " for at, (slot, _, _) in enumerate(exe.outputs))
        if not self.simple:
            block = "" if exe.block is None else "block, "
            return [f"    v = me.land(({found}), [{', '.join(numbers)}], ({arrays}{block}))"]
        out: list[str] = []
        roots = exe.tape.roots if exe.tape is not None else {}
        values = self.segment.values
        named = {} if exe.tape is None else write_steps(exe.tape, values, numbers, self.world, listing, out)
        for at, (slot, _, _) in enumerate(exe.outputs):
            if at in given or slot == READ:
                continue
            if at not in whole:
                out.append(f"    t{slot} = {copy_call(self._like(slot), FIELDS, listing.scope, f'made{slot}')}")
                out.append(f"    t{slot}._array = o{at}")
            if slot in roots:
                out.append(f"    t{slot}._node = {named[roots[slot][0]]}")
        cells: list[tuple[list[int], int]] = []
        handed = {id(self.segment.values[slot]) for _, _, (slot, _, _) in self.handed}
        for slot, times in exe.bumps:
            t = self.segment.values[slot]
            if id(t) in handed:
                continue
            if self.world.is_fresh(t):
                out.append(f"    t{self.slots[id(t)][0]}._share()[0] += {times}")
            elif self.world.is_found(t):
                out.append(f"    {self.world.text_of(t)}._share()[0] += {times}")
            else:
                # The watch sees when a constant gets another cell.
                cells.append((t._share(), times))
        self.held += [cell for cell, _ in cells]
        counts = count_up(cells)
        if counts is not None:
            out += [f"    advance({listing.constant(counts)})"] if cells else []
        else:
            out += [f"    {listing.constant(cell)}[0] += {times}" for cell, times in cells]
        return out

    def _stores(self) -> list[str]:
        listing = self.listing
        out: list[str] = []
        self.built: dict[int, str] = {}
        handed = {id(container): k for k, (container, _, _) in enumerate(self.handed)}
        reads = self.proof.session.reads
        for position, array in self._looks().items():
            out.append(f"    r{position} = {listing.constant(array)}.{reads[position][-1]}()")
        for position, (_, _, t, how) in enumerate(reads if self.proof.session.uncut is None else ()):
            # What a GPU computed is waited for.
            memory = "" if on_gpu(t) or how != "item" else "_array."
            out.append(f"    r{position} = {self._tensor_text(t)}.{memory}{how}()")
        changes = [c for c in self.proof.changes if not (c[0] == "slot" and c[2] == "_grad" and id(c[1]) in handed)]
        # What several dicts hold under one key is stored by one call: the counters of an optimizer.
        for alike, group in itertools.groupby(changes, self._entry):
            among = list(group)
            dicts = self._dicts([self.world.text_of(c[1]) for c in among]) if alike and len(among) > 1 else None
            if alike and dicts:
                out.append(f"    enter({dicts}, {alike[0]!r}, {alike[1]})")
                continue
            for change in among:
                self._store(*change, out)
        for x, value in self.world.appended:
            made = self._build(value, out)
            out.append(f"    {listing.constant(x)}.append({made})")
        for generator, count in self.proof.session.drawn.values():
            name = listing.constant(generator)
            out.append(f"    {name}.offset += {count}")
        return out

    def _looks(self) -> dict[int, np.ndarray]:
        """What the program of a whole call writes the values to that Python read, which it does in each call anew."""
        exe = self.executable
        arrays: dict[int, np.ndarray] = {}
        for at, (key, slot) in enumerate(exe.ends.outputs):
            if key == READ:
                _, shape, kind = exe.outputs[at]
                arrays[slot] = np.empty(shape, kind)
                exe.pointers[len(exe.inputs) + at] = ENTRY.address_of(arrays[slot])
        return {position: arrays[slot] for position, slot in self.proof.looks.items()}

    def _store(self, kind: str, container: Any, key: Any, value: Any, out: list[str]) -> None:
        name = self.world.text_of(container)
        made = self._build(value, out)
        if kind == "item":
            place = f"{name}[{key!r}]" if type(key) is str else f"{name}[{self.listing.constant(key)}]"
            out.append(f"    del {place}" if value is ABSENT else f"    {place} = {made}")
        elif kind == "cell":
            out.append(f"    {name}.cell_contents = {made}")
        elif value is ABSENT:
            out.append(f"    del {name}.{key}")
        else:
            out.append(f"    {name}.{key} = {made}")

    @staticmethod
    def _entry(change: tuple[str, Any, Any, Any]) -> tuple[str, str] | None:
        """The key and the text of a number that is stored in a dict, None for other changes."""
        kind, _, key, value = change
        return (key, value.text) if kind == "item" and type(key) is str and type(value) is Sym else None

    def _dicts(self, names: list[str]) -> str | None:
        """A name for the plain dicts of some names as a tuple, None if one is no such dict."""
        found = tuple([self.listing.scope.get(name) for name in names])
        return self.listing.constant(found) if all(type(d) is dict for d in found) else None

    def _tensor_text(self, t: Any) -> str:
        if not self.world.is_fresh(t):
            return self.world.text_of(t)
        slot = self.slots[id(t)][0]
        return f"t{slot}" if self.simple else f"v[{slot}]"

    def _build(self, value: Any, lines: list[str]) -> str:
        """The expression of a value that leaves the call; containers that the call makes are made once."""
        kind = type(value)
        if kind is Sym:
            return str(value.text)
        if kind is Later:
            return str(value.text)
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
            if isinstance(value, dict):
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
