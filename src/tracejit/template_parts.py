"""The launches of a template, and the function that makes them one after another.

In: launches whose arguments are expressions of symbols. Out: `run_function`, plain Python that computes the arguments
and launches: what is looked up, taken apart or filled in while it runs takes longer than the kernels of few elements.
Must not know: graphs, how launches are planned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracejit.compiler import library_slots
from tracejit.ops import Op
from tracejit.runtime.arrays import empty
from tracejit.runtime.build import Kernel, build
from tracejit.runtime.entry import ENTRY, MAX_SLOTS
from tracejit.runtime.team import launch
from tracejit.schedule.lower import Layout
from tracejit.schedule.memory import ALIGNMENT
from tracejit.schedule.plan import scratch_bytes
from tracejit.symbols import At, Trail, Wanted

_BYTE = np.dtype(np.uint8)
_KNOWN = 512
"""Sizes of a library operation for which its launches are remembered: those of one dimension come again where those of
all together do not."""


@dataclass(slots=True)
class Generated:
    """Launches of a generated kernel, given by text and name: slots that hold a number, and those that hold one that
    depends on sizes (with where it is found), an address (with buffer and offset), a run-time number (with its place).
    """

    source: tuple[str, str]
    slots: list[Any]
    open: list[tuple[int, int]]
    addresses: list[tuple[int, int, Any]]
    numbers: list[tuple[int, int]]
    units: Any
    unit_cost: Any
    stage: int
    doc: str


@dataclass(slots=True)
class Call:
    """A library operation: planned anew unless its sizes are the same in all programs.

    `present` are the layouts and attributes that `launches` are for. `scratch` is the number of the arena's buffer that
    the launches share, -1 if they need none.
    """

    op: Op
    layouts: tuple[Any, ...]
    attrs: tuple[Any, ...]
    operands: list[tuple[int, Any]]
    launches: tuple[Any, ...]
    present: tuple[tuple[Layout, ...], tuple[Any, ...]]
    fixed: bool
    scratch: int
    stage: int
    doc: str


@dataclass(slots=True)
class Buffers:
    """The arrays of a template: how many it is given, shapes and types of those that it gives, which of these are
    written over one that is given; bytes of those in between, with the stages between which they are in use.
    """

    inputs: int
    outputs: list[tuple[Any, np.dtype[Any]]]
    homes: Mapping[int, int]
    arena: list[tuple[Any, int, int]]


class _Planned:
    """The launches of a library operation, remembered for the sizes that were met."""

    def __init__(self, call: Call, plan: Callable[[Call, Any, Any], tuple[Any, ...] | None]) -> None:
        self.call, self.plan = call, plan
        self.known: dict[Any, tuple[list[Any], int] | None] = {}

    def __call__(self, layouts: Any, attrs: Any) -> tuple[list[Any], int] | None:
        """The address of each launch's function beside the launch, and the bytes of their scratch memory; None if these
        sizes need another plan.
        """
        key = layouts, attrs
        try:
            return self.known[key]
        except KeyError:
            if len(self.known) >= _KNOWN:
                self.known.clear()
            found = self.known[key] = self._plan(layouts, attrs)
            return found

    def _plan(self, layouts: Any, attrs: Any) -> tuple[list[Any], int] | None:
        launches = self.plan(self.call, tuple([Layout(*layout) for layout in layouts]), attrs)
        if launches is None or any(len(one.slots) > MAX_SLOTS for one in launches):
            return None
        return [(build(one.function).address, one) for one in launches], scratch_bytes(launches)


class _Text:
    """Lines of Python, with the objects that they name."""

    def __init__(self, **scope: Any) -> None:
        self.scope = scope
        self.lines: list[str] = []

    def of(self, x: Any) -> str:
        """What stands for a value that may have wanted ones in it."""
        if type(x) is At:
            return f"v{x.index}"
        if type(x) is tuple:
            return f"({''.join([f'{self.of(item)}, ' for item in x])})"
        return repr(x) if type(x) is int else self.name(x)

    def name(self, x: Any) -> str:
        """The name of an object."""
        name = f"x{len(self.scope)}"
        self.scope[name] = x
        return name

    def put(self, *lines: str) -> None:
        """Add lines."""
        self.lines += [f"    {line}" for line in lines]


def run_function(
    trail: Trail,
    wanted: Wanted,
    buffers: Buffers,
    order: Sequence[tuple[int, int, int]],
    items: Sequence[Generated | Call],
    kernels: Mapping[tuple[str, str], Kernel],
    numbers: Sequence[str],
    plan: Callable[[Call, Any, Any], tuple[Any, ...] | None],
) -> Callable[..., tuple[list[np.ndarray], int] | None]:
    """A function of the symbols' values, arrays and numbers that gives new arrays and the code of the launch that
    failed or 0; None if these sizes need another plan.

    `order` has the stage of each launch, the number of its item, and which of the item's launches it is; `numbers` says
    in Python what each run-time number is.
    """
    text = _Text(
        empty=empty, launch=launch, address_of=ENTRY.address_of, library_slots=library_slots, byte=_BYTE,
        none=empty((ALIGNMENT,), _BYTE),
    )  # fmt: skip
    text.put(*trail.beginning(), *[f"v{k} = {expression}" for k, expression in enumerate(wanted.texts)])
    inputs = [f"a{k}" for k in range(buffers.inputs)]
    outs = [f"a{buffers.homes[k]}" if k in buffers.homes else f"o{k}" for k in range(len(buffers.outputs))]
    names = [*inputs, *outs, *[f"r{k}" for k in range(len(buffers.arena))], "none"]
    if inputs:
        text.put(f"{', '.join(inputs)}, = arrays")
    for k, (shape, kind) in enumerate(buffers.outputs):
        if k not in buffers.homes:
            text.put(f"o{k} = empty({text.of(shape)}, {text.name(kind)})")
    room = [text.of(nbytes) for nbytes, _, _ in buffers.arena]
    for k, item in enumerate(items):
        if isinstance(item, Call):
            planned = _Planned(item, plan)
            if item.fixed:
                text.put(f"found = {text.name(planned(item.layouts, item.attrs))}")
            else:
                text.put(f"found = {text.name(planned)}({text.of(item.layouts)}, {text.of(item.attrs)})")
            text.put("if found is None: return None", f"c{k}, n{k} = found")
            if item.scratch >= 0:
                room[item.scratch] = f"n{k}"
    # What comes into use at a stage, and what is not in use any more: later ones may have its memory.
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for k, (_, first, last) in enumerate(buffers.arena):
        if first <= last:
            begins.setdefault(first, []).append(k)
            ends.setdefault(last, []).append(k)

    def address(buffer: int, offset: Any) -> str:
        name = names[buffer]
        return name if type(offset) is int and not offset else f"address_of({name}) + {text.of(offset)}"

    results = f"[{', '.join(outs)}]"
    before = -1
    for stage, k, step in order:
        for at in range(before + 1, stage + 1) if stage > before else ():
            text.put(*[f"del r{n}" for n in ends.get(at - 1, ())])
            text.put(*[f"r{n} = empty(({room[n]},), byte)" for n in begins.get(at, ())])
        before = stage
        item = items[k]
        if isinstance(item, Call):
            operands = "".join([f"{address(buffer, offset)}, " for buffer, offset in item.operands])
            scratch = f"r{item.scratch}" if item.scratch >= 0 else "none"
            text.put(
                f"at, one = c{k}[{step}]",
                f"slots = library_slots(one, ({operands}), {scratch})",
                "code = launch(at, one.units, one.unit_cost, *slots)",
            )
        else:
            slots = list(map(text.of, item.slots))
            for at, which in item.open:
                slots[at] = f"v{which}"
            for at, buffer, offset in item.addresses:
                slots[at] = address(buffer, offset)
            for at, which in item.numbers:
                slots[at] = numbers[which]
            given = [repr(kernels[item.source].address), text.of(item.units), text.of(item.unit_cost), *slots]
            text.put(f"code = launch({', '.join(given)})")
        text.put(f"if code: return {results}, code")
    text.put(f"return {results}, 0")
    lines = "\n".join(["def run(given, arrays, numbers):", *text.lines])
    exec(compile(lines, "<launches>", "exec"), text.scope)
    return text.scope["run"]  # type: ignore[no-any-return]
