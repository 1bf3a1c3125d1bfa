"""Matchers: for an event that is met again and again, a Python function that is its guard and its effect.

The text of a matcher is straight-line: every check returns `MISS` before anything is changed, then the follower is
moved on behind the event. What a matcher does is what `Follower.admit` and `Follower.enter` do, with all that is
known about the event written in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from tracejit.aval import Aval
from tracejit.dtypes import get_default_dtype
from tracejit.runtime.bytecode import compile_text
from tracejit.runtime.objects import copy_call
from tracejit.symbols import is_open, sizes_in
from tracejit.tensor.state import state
from tracejit.tensor.tape import OWED
from tracejit.tensor.tensor import FIELDS, Tensor, pending
from tracejit.trace.ranges import in_range
from tracejit.trace.tree import Event, Leaf, Mapping, Number, Sequence, Static, same_value

MISS = object()
"""What a matcher gives for a call that is not its event."""
_STAND_IN = 1 << 100
"""From here on numbers in a text stand for indices: no other number in it is as large."""


class _Writer:
    """Writes the text of one matcher."""

    def __init__(self, event: Event) -> None:
        self.event = event
        self.checks: list[str] = []
        self.effects: list[str] = []
        self.scope: dict[str, Any] = {
            "MISS": MISS,
            "state": state,
            "Tensor": Tensor,
            "EVENT": event,
            "NEXT": event.next,
            "get_default_dtype": get_default_dtype,
            "in_range": in_range,
            "same_value": same_value,
        }
        before = event.before
        self.slots = before.slots if before is not None else 0
        self.numbers = before.count if before is not None else 0
        self.locals: dict[int, str] = {}
        # Of an event at open sizes: the texts of those of tensors and of those of the key.
        self.dims: list[str] = []
        self.given_sizes: list[str] = []
        self.places: dict[tuple[str, int], str] = {}

    def place(self, array: str, index: int) -> str:
        """The text of an index into the values `v` or numbers `n`: a stand-in, so that equal events have one text."""
        return self.places.setdefault((array, index), str(_STAND_IN + len(self.places)))

    def value(self, slot: int) -> str:
        """The text of the value in a slot."""
        return f"v[{self.place('v', slot)}]"

    def given(self, number: Number) -> str:
        """The text of a number's value."""
        return f"n[{self.place('n', number.index)}]"

    def known(self, slot: int) -> str:
        """The text of what stands in a slot, by its local name if it has one."""
        return self.locals.get(slot) or self.value(slot)

    def constant(self, value: Any) -> str:
        """A name for a value."""
        name = f"K{len(self.scope)}"
        self.scope[name] = value
        return name

    def check(self, condition: str) -> None:
        """Miss if the condition holds."""
        self.checks.append(f"    if {condition}: return MISS")

    def tensor(self, expression: str, position: int) -> None:
        """Check the operand at a position."""
        self.operand(expression, self.event.operands[position])

    def operand(self, expression: str, slot: int) -> None:
        """Check a tensor that must stand in a slot."""
        if slot < self.slots:
            self.check(f"{expression} is not {self.value(slot)}")
            return
        if slot in self.locals:
            self.check(f"{expression} is not {self.locals[slot]}")
            return
        name = f"t{len(self.locals)}"
        self.locals[slot] = name
        external = self.event.binds[slot]
        # No tensor is `MISS`, while an argument may be None.
        self.event.cells.append([MISS, MISS, 0])
        cell = self.constant(self.event.cells[-1])
        self.checks.append(f"    {name} = {expression}")
        node = f"{name}._node is not None" if external.leaf else f"{name}._node is None"
        self.checks.append(
            f"    if {name} is not {cell}[0] or {name}._array is not {cell}[1] or {node} "
            f"or {name}._requires_grad is not {external.requires_grad} or (f.bound and id({name}) in f.bound):"
        )
        self.checks.append(f"        if not f.first({self.constant(external)}, {name}, {cell}): return MISS")
        self.check(f"f.mutators and f.is_mutated({name})")
        self.checks.append(f"    f.externals.append({name})")
        self.effects.append(f"    {self.value(slot)} = {name}")
        if self.event.fit is not None:
            self.dims += [f"{name}._array.shape[{d}]" for d, n in enumerate(external.shape) if is_open(n)]
            size = external.dtype.itemsize
            steps = [d for d, n in enumerate(external.strides or ()) if is_open(n)]
            self.dims += [f"{name}._array.strides[{d}] // {size}" for d in steps]

    def size(self, expression: str) -> None:
        """Take a size that is open here."""
        self.check(f"type({expression}) is not int")
        self.given_sizes.append(expression)

    def plain(self, expression: str, value: Any) -> None:
        """Check a value that may have open sizes in it."""
        if is_open(value):
            self.size(expression)
        elif isinstance(value, tuple) and any(True for _ in sizes_in(value)):
            kind = self.constant(type(value))
            self.check(f"type({expression}) is not {kind} or len({expression}) != {len(value)}")
            for k, item in enumerate(value):
                self.plain(f"{expression}[{k}]", item)
        else:
            self.check(f"{expression} != {self.constant(value)}")

    def number(self, expression: str, number: Number) -> None:
        """Check a number."""
        self.check(f"type({expression}) is not {'float' if number.kind == 'f' else 'int'}")
        if number.fixed or not number.varies:
            if number.value == 0 or number.value != number.value:
                self.check(f"not {self.constant(number)}.admits({expression})")
            else:
                self.check(f"{expression} != {self.constant(number.value)}")
        elif number.kind == "i":
            self.check(f"not {number.low} <= {expression} <= {number.high}")
        self.effects.append(f"    {self.given(number)} = {expression}")

    def layout(self, expression: str, layout: Any) -> None:
        """Check an argument against its layout."""
        kind = type(layout)
        if kind is Leaf:
            if layout.kind == "tensor":
                self.tensor(expression, layout.index)
            else:
                self.number(expression, self.event.numbers[layout.index])
        elif kind is Static:
            value = layout.value
            if self.event.fit is not None and any(True for _ in sizes_in(value)):
                self.plain(expression, value)
            elif value is None or isinstance(value, bool):
                self.check(f"{expression} is not {value}")
            elif type(value) in (int, str):
                self.check(f"type({expression}) is not {type(value).__name__} or {expression} != {value!r}")
            else:
                # A value of an unknown class may be equal to one that the recorded call would have taken otherwise.
                self.check(f"not same_value({expression}, {self.constant(value)})")
        elif kind is Sequence:
            self.check(
                f"type({expression}) is not {self.constant(layout.kind)} or len({expression}) != {len(layout.items)}"
            )
            self.unpack(expression, layout.items)
        else:
            self.mapping(expression, layout)

    def unpack(self, expression: str, items: tuple[Any, ...]) -> None:
        """Check the items of a sequence."""
        if not items:
            return
        base = len(self.scope)
        self.scope[f"_{base}"] = None
        names = [f"e{base}_{i}" for i in range(len(items))]
        self.checks.append(f"    ({', '.join(names)},) = {expression}")
        for name, item in zip(names, items, strict=True):
            self.layout(name, item)

    def mapping(self, expression: str, layout: Mapping) -> None:
        """Check the values of a dict."""
        self.check(f"len({expression}) != {len(layout.items)}")
        for i, (key, item) in enumerate(layout.items):
            name = f"m{len(self.scope)}_{i}"
            self.checks.append(f"    {name} = {expression}.get({self.constant(key)}, MISS)")
            self.check(f"{name} is MISS")
            self.layout(name, item)

    def finish(self) -> str:
        """What Python gets from the event; the expression of the call's value."""
        event = self.event
        blank = event.slots - self.slots
        head = []
        if blank:
            head.append(f"    v += {self.constant((None,) * blank)}")
        if event.count > self.numbers:
            head.append(f"    f.numbers += {self.constant((None,) * (event.count - self.numbers))}")
        if event.numbers or event.draws:
            head.append("    n = f.numbers")
        self.effects[:0] = head
        for k, (generator, seed, offset, count) in enumerate(event.draws):
            drawn = f"{self.constant(generator)}, {count if event.fit is None else f'found[2][{k}]'}"
            self.effects.append(f"    {self.given(seed)}, {self.given(offset)} = f.draw({drawn})")
        for k, result in enumerate(event.results):
            slot = result.slot
            if slot < self.slots or slot in event.binds:
                continue
            p = f"p{len(self.effects)}"
            node = OWED if result.requires_grad else None
            if event.fit is None:
                template = pending(result.aval, result.requires_grad, result.strides, node)
                made = copy_call(template, FIELDS, self.scope, f"made{len(self.effects)}")
            else:
                self.scope.update(pending=pending, Aval=Aval)
                aval = f"Aval(found[0][{k}][0], {self.constant(result.aval.dtype)})"
                made = f"pending({aval}, {result.requires_grad}, found[0][{k}][1], {self.constant(node)})"
            owed = f"    f.owed.append({self.place('v', slot)})"
            self.effects += [f"    {p} = {self.value(slot)} = {made}", owed]
            if result.source is not None:
                self.effects.append(f"    {p}._base = f.base_of({self.place('v', result.source)})")
        self.effects += [f"    {self.value(new)} = {self.value(old)}" for old, new in event.renewed]
        for target, new, history in event.assigned:
            self.effects.append(f"    a = {self.value(new)} = {self.value(target)}")
            if history is not None:
                self.effects.append(f"    if a is not None: f.rebase(a, {history})")
        for slot, base in event.shown:
            self.effects.append(f"    f.outdate({self.value(slot)}, {self.value(base)})")
        if event.assigned or event.renewed:
            self.effects.append("    f.mutators.append(EVENT)")
        if event.kind == "require":
            self.effects.append(f"    f.flag({self.value(event.operands[0])})")
        for leaf, before, after in event.leaves:
            if after is not None and after != before:
                self.effects.append(f"    {self.value(leaf)}._grad = {self.value(after)}")
        self.effects += ["    f.last = EVENT", "    f.place = NEXT"]
        if event.kind in ("op", "detach"):
            values = [self.value(r.slot) for r in event.results]
            return values[0] if len(values) == 1 else f"({', '.join(values)},)"
        if event.kind in ("assign", "require"):
            return "None"
        return self.output(event.output)

    def output(self, layout: Any) -> str:
        """The expression of what a unit returned."""
        kind = layout[0]
        if kind == "result":
            return self.value(self.event.results[layout[1]].slot)
        if kind == "value":
            return self.constant(layout[1])
        items = ", ".join(self.output(item) for item in layout[2])
        if layout[1] is list:
            return f"[{items}]"
        return f"({items},)" if layout[1] is tuple and layout[2] else f"{self.constant(layout[1])}({items})"

    def function(self, parameters: str) -> Callable[..., Any]:
        """The matcher."""
        if self.event.fit is not None:
            sizes = ", ".join([*self.dims, *self.given_sizes])
            self.checks.append(f"    found = {self.constant(self.event.fit)}(f.sizes, [{sizes}])")
            self.check("found is None")
        for k, (slot, low, high) in enumerate(self.event.ranges):
            bounds = f"{low}, {high}" if self.event.fit is None else f"*found[1][{k}]"
            self.check(f"not in_range({self.known(slot)}, {bounds})")
        value = self.finish()
        text = "\n".join(
            [
                f"def match(f, {parameters}):",
                f"    if state.grad_enabled is not {self.event.grad}: return MISS",
                *(["    if state.exposed is not None: return MISS"] if self.event.assigned else []),
                "    v = f.values",
                *self.checks,
                *self.effects,
                f"    return {value}",
            ]
        )
        code = _compiled(text, self.event.name)
        indices = [index for _, index in self.places]
        stand_ins = range(_STAND_IN, _STAND_IN + len(indices))
        constants = tuple(
            [indices[c - _STAND_IN] if type(c) is int and c in stand_ins else c for c in code.co_consts]
        )
        return FunctionType(code.replace(co_consts=constants), self.scope, "match")


@functools.lru_cache(maxsize=1024)
def _compiled(text: str, name: str) -> CodeType:
    """The code of a matcher: events that differ in sizes and places have the same text."""
    constants = compile_text(text, f"<matcher of {name}>").co_consts
    return next(c for c in constants if isinstance(c, CodeType))


def matcher(event: Event) -> Callable[..., Any]:
    """The matcher of an event.

    Called with the follower and: for an operation the record's arguments and attributes, for a composite
    its positional and keyword arguments, for an assignment target and value, for a detachment the tensor, for a
    backward pass the roots, given gradients and targets, then the key of everything else.
    """
    w = _Writer(event)
    if event.kind == "op":
        attrs, shape = event.key
        if attrs:
            w.plain("attrs", attrs)
        w.check(f"len(args) != {len(shape)}")
        tensors = iter(range(len(event.operands)))
        numbers = iter(event.numbers)
        if shape:
            names = [f"x{i}" for i in range(len(shape))]
            w.checks.append(f"    ({', '.join(names)},) = args")
            for name, what in zip(names, shape, strict=True):
                if what is Tensor:
                    w.tensor(name, next(tensors))
                elif type(what) is bool:
                    w.check(f"{name} is not {what}")
                else:
                    w.number(name, next(numbers))
        return w.function("args, attrs")
    if event.kind == "composite":
        positional, keywords = event.layout
        # What is made inside may be of the default type.
        w.check(f"get_default_dtype() is not {w.constant(event.key[0])}")
        w.check(f"len(args) != {len(positional.items)}")
        w.unpack("args", positional.items)
        w.mapping("kwargs", keywords)
        return w.function("args, kwargs")
    if event.kind == "assign":
        w.tensor("target", 0)
        w.tensor("value", 1)
        return w.function("target, value")
    if event.kind in ("detach", "require"):
        w.tensor("x", 0)
        return w.function("x")
    w.check(f"key != {w.constant(event.key)}")
    given = len(event.operands) - len(event.leaves) - sum(before is not None for _, before, _ in event.leaves)
    w.check(f"len(tensors) != {given}")
    names = [f"x{i}" for i in range(given)]
    w.checks.append(f"    ({', '.join(names)},) = tensors")
    for i, name in enumerate(names):
        w.tensor(name, i)
    for leaf, before, _ in event.leaves:
        name = w.known(leaf)
        w.check(f"{name}._hooks is not None")
        if before is None:
            w.check(f"{name}._grad is not None")
        else:
            w.check(f"{name}._grad is None")
            w.operand(f"{name}._grad", before)
    for leaf in event.watched:
        w.check(f"{w.known(leaf)}._hooks is not None")
    return w.function("tensors, key")
