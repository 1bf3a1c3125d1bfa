"""The text that puts steps on the tape which hold no tensors.

In: a tape whose ways back are all refused, and what its leaves are to the replay. Out: lines, and the steps' names.
Must not know: the rest of the text.
"""

from __future__ import annotations

from typing import Any

from tracejit.tensor.tape import TapeNode
from tracejit.trace.tape import NodePlan, TapePlan


def write_steps(
    tape: TapePlan, values: list[Any], numbers: list[str], world: Any, listing: Any, out: list[str]
) -> dict[NodePlan, str]:
    """Write what makes the steps; their names. `numbers` are the texts of the call's numbers."""
    named: dict[NodePlan, str] = {}
    for k, step in enumerate(tape.order):
        named[step] = f"n{k}"
        edges = _edges(tape.edges_of(step), values, world, named)
        saved = _saved(step, numbers, listing)
        # What all such steps have in common stands on a class of their own.
        fields = {"op": step.op, "attrs": step.attrs, "avals": step.avals, "outs": step.outs, "label": step.label}
        fields |= {name: v for name, v in (("edges", edges), ("saved", saved)) if type(v) is tuple}
        cls = type("TapeNode", (TapeNode,), {**fields, "done": step.done})
        out.append(f"    n{k} = make_object({listing.constant(cls)})")
        out.append(f"    n{k}.seq = next_position()")
        out += [f"    n{k}.{name} = {v}" for name, v in (("edges", edges), ("saved", saved)) if type(v) is str]
    return named


def _saved(step: NodePlan, numbers: list[str], listing: Any) -> tuple[Any, ...] | str:
    """What a step saved: itself if it is the same in each call, otherwise the text that makes it."""
    if not any(e is not None and e[0] == "number" for e in step.saved):
        return tuple([(None if e is None else e[1], 0) for e in step.saved])
    texts = [
        "(None, 0)"
        if e is None
        else f"({numbers[e[1].index] if e[0] == 'number' else listing.constant(e[1])}, 0)"
        for e in step.saved
    ]
    return f"({''.join(f'{text}, ' for text in texts)})"


def _edges(edges: tuple[Any, ...], values: list[Any], world: Any, named: dict[NodePlan, str]) -> tuple[Any, ...] | str:
    """The edges of a step: themselves if they are the same in each call, otherwise the text that makes them."""
    texts = []
    stay = True
    for e in edges:
        if e is None:
            texts.append("None")
        elif e[0] == "leaf":
            texts.append(world.text_of(values[e[1]]))
            stay = stay and not world.is_found(values[e[1]])
        else:
            texts.append(f"({named[e[1]]}, {e[2]})")
            stay = False
    if stay:
        return tuple([None if e is None else values[e[1]] for e in edges])
    return f"({''.join(f'{text}, ' for text in texts)})"
