"""What a call does that the tree does not know: how it differs from the nearest event, in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, on_gpu
from tracejit.trace.account import Note
from tracejit.trace.source import user_line
from tracejit.trace.tree import (
    Event,
    External,
    Leaf,
    Mapping,
    Number,
    Place,
    Sequence,
    Static,
    Stop,
    path,
    same_number,
    same_value,
)

SHOWN = 3
"""Differences that a sentence lists; further ones are counted."""
COMPARED = 8
"""How many events, those that were met last, a call is compared with: there may be hundreds, one for each size."""

_BACKWARD = ("retain_graph", "create_graph", "accumulation", "number of roots", "given gradients", "number of inputs")
_NAMES = {"assign": "a change in place", "read": "a value is read", "end": "the region ends", "detach": "detach"}


def call_difference(follower: Any, call: tuple[Any, ...]) -> str:
    """How a call that follows differs from what the tree has at its place.

    `call` is what `Follower.match` was given, and the layout of a composite's arguments.
    """
    place: Place = follower.place
    kind, function, key, tensors, numbers, *layout = call or ("something else", None, (), [], [])
    here = user_line()
    now = _name(kind, function, key)
    if not place.events:
        if place.cut is not None:
            return f"here {place.cut.reason} before ({place.cut.line}), now {now} ({here})"
        return f"the region ended here before, now {now} ({here})"
    alike = [e for e in place.events if e.kind == kind and (e.function is function or kind == "backward")]
    if not alike:
        there = [f"{e.name} ({e.line})" for e in place.events[:SHOWN]]
        if len(place.events) > SHOWN:
            there.append(f"{len(place.events) - SHOWN} more")
        return f"the tree has {' or '.join(there)}, now {now} ({here})"
    alike = alike[:COMPARED]
    found = [list(_differences(follower, e, key, tensors, numbers, *layout)) for e in alike]
    best = min(range(len(alike)), key=lambda k: (not found[k], len(found[k])))
    event, differences = alike[best], found[best]
    if not differences:
        differences = [f"{event.name} ({event.line}) has its operands in other places of the tree"]
    sentence = "; ".join(differences[:SHOWN])
    if len(differences) > SHOWN:
        sentence += f"; {len(differences) - SHOWN} more"
    return sentence if here == event.line else f"{sentence} ({here})"


def compile_difference(stop: Stop, alive: tuple[int, ...], promotion: Note | None) -> str:
    """Why a segment needs a program that it does not have, with what its nearest program was made for."""
    where = f"the segment that ends at {stop.line}"
    if alive in stop.programs:
        change = "" if promotion is None else f"; {promotion.line}: {promotion.reason}"
        return f"{where} has a program for other numbers{change}"
    if stop.programs:
        nearest = min(stop.programs, key=lambda other: len(set(other) ^ set(alive)))
        changes = [f"now also {_origin(s, stop.last)}" for s in alive if s not in nearest]
        changes += [f"no longer {_origin(s, stop.last)}" for s in nearest if s not in alive]
        more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        return f"{where} has a program for other values that Python keeps: {', '.join(changes[:SHOWN])}{more}"
    return stop.cause or f"{where} has no program so far"


def _name(kind: str, function: Any, key: Any) -> str:
    if kind == "op":
        return str(function.name)
    if kind == "composite":
        return str(function.function.__name__)
    return f"{key} looks at memory" if kind == "host" else _NAMES.get(kind, kind)


def _differences(
    follower: Any, event: Event, key: Any, tensors: list[Any], numbers: list[Any], layout: Any = None
) -> Iterator[str]:
    """What keeps a call of the same function from being this event, a phrase each."""
    of = f"of {event.name} ({event.line})"
    if event.grad is not state.grad_enabled:
        was, now = ("recorded", "not recorded") if event.grad else ("not recorded", "recorded")
        yield f"at {event.name} ({event.line}) gradients were {was}, now they are {now}"
    names, number_names = _argument_names(event)
    if event.kind == "backward":
        yield from _backward_differences(follower, event, key, of)
    elif event.kind == "composite":
        yield from _layout_differences(event, key, layout, of)
    elif event.kind == "op":
        yield from _op_differences(event, key, of)
    given = event.operands[: len(tensors)] if event.kind == "backward" else event.operands
    if len(tensors) != len(given):
        yield f"{event.name} ({event.line}) had {len(given)} tensors, now {len(tensors)}"
        return
    new: dict[int, Any] = {}
    for slot, t, name in zip(given, tensors, names, strict=False):
        yield from (f"{name} {of} {change}" for change in _operand(follower, event, slot, t, new))
        new.setdefault(slot, t)
    for slot, low, high in event.ranges:
        t = new.get(slot)
        if t is not None and t._array is not None and t._array.size:
            array = t._array.wait() if on_gpu(t) else t._array
            least, most = int(array.min()), int(array.max())
            if least < low or most >= high:
                yield f"an index {of} lies from {low} to {high - 1}, now from {least} to {most}"
    for number, value, name in zip(event.numbers, numbers, number_names, strict=False):
        change = _number(number, value)
        if change:
            yield f"{name} {of} {change}"


def _operand(follower: Any, event: Event, slot: int, t: Any, new: dict[int, Any]) -> Iterator[str]:
    """How a tensor differs from what must stand in a slot."""
    values = follower.values
    last = follower.last
    mine = next((s for s in reversed(range(len(values))) if values[s] is t), None)
    if slot < len(values) or slot in new:
        expected = new[slot] if slot in new else values[slot]
        if expected is not t:
            before = "the same tensor as another argument" if slot in new else _origin(slot, last)
            now = _described(t) if mine is None else _origin(mine, last)
            yield f"was {before}, now {'another: ' if slot in new else ''}{now}"
        return
    external = event.binds.get(slot)
    if external is None:
        return
    if mine is not None:
        yield f"was a tensor from outside, now {_origin(mine, last)}"
    elif any(t is other for other in new.values()):
        yield "was another tensor than the other arguments, now one of them"
    elif t._array is None:
        yield "was a tensor from outside, now one whose value is pending"
    elif not external.admits(t):
        yield from _external(external, t)
    elif follower.is_mutated(t):
        yield "now shares memory with a tensor that this part of the function changes in place"


def _external(external: External, t: Any) -> Iterator[str]:
    """How a tensor from outside differs from the one that was there."""
    array = t._array
    was, now = _type(external.dtype, external.shape), _described(t)
    if was != now:
        yield f"was {was}, now {now}"
    if external.gpu is not on_gpu(t):
        yield "was on the GPU, now it is on the CPU" if external.gpu else "was on the CPU, now it is on the GPU"
    if t._requires_grad is not external.requires_grad:
        yield "required gradients, now it does not" if external.requires_grad else "required no gradients, now it does"
    elif (t._node is None) is not external.leaf:
        yield "was a leaf, now it has a gradient history" if external.leaf else "had a gradient history, now it is one"
    if array.flags.writeable is not external.writeable:
        yield "was writeable, now it is read-only" if external.writeable else "was read-only, now it is writeable"
    strides = None if array.flags.c_contiguous else array.strides
    if was == now and strides != external.strides:
        old = "was contiguous" if external.strides is None else f"had strides of {external.strides} bytes"
        new = "is contiguous" if strides is None else f"has strides of {strides} bytes"
        yield f"{old}, now it {new}"


def _number(number: Number, value: Any) -> str:
    """How a number differs from those that an event takes; empty if it does not."""
    kind = "f" if isinstance(value, float) else "i"
    if kind != number.kind:
        names = {"f": "a float", "i": "a whole number"}
        return f"was {names[number.kind]} ({number.value!r}), now {names[kind]} ({value!r})"
    if kind == "i" and not number.low <= value <= number.high:
        return f"was {number.value!r}, now {value!r}, which its type does not hold"
    if number.fixed and not same_number(number.value, value):
        return f"was {number.value!r}, now {value!r}, and Python computed with it"
    return ""


def _op_differences(event: Event, key: Any, of: str) -> Iterator[str]:
    attrs, shape = key
    old_attrs, old_shape = event.key
    names = event.function.attrs
    for k, (was, now) in enumerate(zip(old_attrs, attrs, strict=False)):
        if was != now:
            yield f"attribute {names[k] if k < len(names) else k} {of} was {was!r}, now {now!r}"
    if len(shape) != len(old_shape):
        yield f"{event.name} ({event.line}) had {len(old_shape)} arguments, now {len(shape)}"
        return
    for k, (was, now) in enumerate(zip(old_shape, shape, strict=True)):
        # That a number is of another kind is said with its value.
        if was != now and not (was in ("f", "i") and now in ("f", "i")):
            yield f"argument {k + 1} {of} was {_kind(was)}, now {_kind(now)}"


def _kind(what: Any) -> str:
    if what is Tensor:
        return "a tensor"
    return {"f": "a float", "i": "a whole number"}[what] if isinstance(what, str) else repr(what)


def _backward_differences(follower: Any, event: Event, key: Any, of: str) -> Iterator[str]:
    for name, was, now in zip(_BACKWARD, event.key, key, strict=False):
        if was != now:
            yield f"{name} {of} was {was!r}, now {now!r}"
    for slot, before, _ in event.leaves:
        leaf = follower.values[slot] if slot < len(follower.values) else None
        if leaf is None:
            continue
        if leaf._hooks is not None:
            yield f"a gradient hook was registered on the leaf {_described(leaf)} {of}"
        if (leaf._grad is None) != (before is None):
            was, now = ("None", "there") if before is None else ("there", "None")
            yield f".grad of the leaf {_described(leaf)} {of} was {was}, now it is {now}"


def _layout_differences(event: Event, key: Any, layout: Any, of: str) -> Iterator[str]:
    if key[0] is not event.key[0]:
        yield f"at {event.name} ({event.line}) the default type was {event.key[0].name}, now {key[0].name}"
    if layout is None:
        return
    (args, kwargs), (new_args, new_kwargs) = event.layout, layout
    if len(args.items) != len(new_args.items):
        yield f"{event.name} ({event.line}) had {len(args.items)} positional arguments, now {len(new_args.items)}"
    names = _parameters(event.function.function)
    for k, (old, new) in enumerate(zip(args.items, new_args.items, strict=False)):
        yield from _walk(old, new, f"argument {names(k)}", of)
    before, now = dict(kwargs.items), dict(new_kwargs.items)
    if tuple(before) != tuple(now):
        yield f"{event.name} ({event.line}) had the keywords {list(before)}, now {list(now)}"
    for name in [n for n in before if n in now]:
        yield from _walk(before[name], now[name], f"argument {name}", of)


def _walk(old: Any, new: Any, name: str, of: str) -> Iterator[str]:
    """How one argument of a composite differs, looked at from outside in."""
    if type(old) is not type(new) or (type(old) is Leaf and old.kind != new.kind):
        yield f"{name} {of} was {_what(old)}, now {_what(new)}"
    elif type(old) is Static:
        if not same_value(old.value, new.value):
            yield f"{name} {of} was {_what(old)}, now {_what(new)}"
    elif type(old) is Sequence:
        if old.kind is not new.kind or len(old.items) != len(new.items):
            yield f"{name} {of} was {_what(old)}, now {_what(new)}"
        else:
            for k, (a, b) in enumerate(zip(old.items, new.items, strict=True)):
                yield from _walk(a, b, f"{name}[{k}]", of)
    elif type(old) is Mapping:
        a, b = dict(old.items), dict(new.items)
        if tuple(a) != tuple(b):
            yield f"{name} {of} had the keys {list(a)}, now {list(b)}"
        for k in [k for k in a if k in b]:
            yield from _walk(a[k], b[k], f"{name}[{k!r}]", of)


def _what(layout: Any) -> str:
    if type(layout) is Leaf:
        return f"a {layout.kind}"
    if type(layout) is Static:
        value = layout.value
        return f"a NumPy array {_type(value.dtype, value.shape)}" if isinstance(value, np.ndarray) else repr(value)
    if type(layout) is Sequence:
        return f"a {getattr(layout.kind, '__name__', 'sequence')} of {len(layout.items)}"
    return f"a dict of {len(layout.items)}"


def _parameters(function: Callable[..., Any]) -> Callable[[int], str]:
    """The names of a function's positional arguments by position."""
    names = [
        p.name for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    return lambda k: names[k] if k < len(names) else str(k + 1)


def _argument_names(event: Event) -> tuple[list[str], list[str]]:
    """What to call the tensors of an event, and its numbers."""
    if event.kind == "op":
        tensors: list[str] = []
        numbers: list[str] = []
        for k, what in enumerate(event.key[1]):
            (tensors if what is Tensor else numbers).append(f"argument {k + 1}")
        return tensors, [n for n, what in zip(numbers, _not_tensors(event), strict=True) if isinstance(what, str)]
    if event.kind == "composite":
        found: tuple[dict[int, str], dict[int, str]] = {}, {}
        args, kwargs = event.layout
        names = _parameters(event.function.function)
        for k, item in enumerate(args.items):
            _leaf_names(item, f"argument {names(k)}", found)
        for name, item in kwargs.items:
            _leaf_names(item, f"argument {name}", found)
        return [found[0][k] for k in sorted(found[0])], [found[1][k] for k in sorted(found[1])]
    if event.kind == "assign":
        return ["the tensor", "the new value"], []
    if event.kind == "backward":
        _, _, _, roots, given, inputs = event.key
        return [
            *(f"root {k + 1}" for k in range(roots)),
            *(f"gradient {k + 1}" for k in range(sum(given))),
            *(f"input {k + 1}" for k in range(inputs or 0)),
        ], []
    return [f"argument {k + 1}" for k in range(len(event.operands))], []


def _not_tensors(event: Event) -> list[Any]:
    return [what for what in event.key[1] if what is not Tensor]


def _leaf_names(layout: Any, name: str, found: tuple[dict[int, str], dict[int, str]]) -> None:
    if type(layout) is Leaf:
        found[layout.kind == "number"][layout.index] = name
    elif type(layout) is Sequence:
        for k, item in enumerate(layout.items):
            _leaf_names(item, f"{name}[{k}]", found)
    elif type(layout) is Mapping:
        for key, item in layout.items:
            _leaf_names(item, f"{name}[{key!r}]", found)


def _origin(slot: int, last: Event | None) -> str:
    """Where the tensor of a slot comes from, among the events up to and with the last."""
    for event in path(last):
        if slot in event.binds:
            external = event.binds[slot]
            return f"the tensor {_type(external.dtype, external.shape)} that {event.name} ({event.line}) took first"
        if any(slot == new for _, new in event.renewed):
            return f"the view that {event.name} ({event.line}) takes again of what was changed"
        if any(slot == new for _, new, _ in event.assigned):
            return f"the tensor changed in place at {event.line}"
        if any(slot == r.slot for r in event.results):
            return f"the result of {event.name} ({event.line})"
    return "a tensor made inside of an operation"


def _type(dtype: Any, shape: Any) -> str:
    return f"{dtype.name}{list(shape)}"


def _described(t: Any) -> str:
    return _type(t._dtype, t._shape)
