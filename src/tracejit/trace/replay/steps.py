"""The text that puts steps on the tape which hold nothing.

In: a tape whose ways back are all refused, and what its leaves are to the replay. Out: lines, and the steps' names.
Must not know: the rest of the text.
"""

from __future__ import annotations

from typing import Any

from tracejit.tensor.tape import TapeNode
from tracejit.trace.tape import NodePlan, TapePlan, saved_plain


def write_steps(tape: TapePlan, values: list[Any], world: Any, listing: Any, out: list[str]) -> dict[NodePlan, str]:
    """Write what makes the steps; their names."""
    named: dict[NodePlan, str] = {}
    for k, step in enumerate(tape.order):
        named[step] = f"n{k}"
        edges = _edges(tape.edges_of(step), values, world, named)
        # What all such steps have in common stands on a class of their own.
        fields = {"op": step.op, "attrs": step.attrs, "avals": step.avals, "outs": step.outs, "label": step.label}
        fields |= {"saved": tuple(map(saved_plain, step.saved)), "done": step.done}
        cls = type("TapeNode", (TapeNode,), {**fields, "edges": () if type(edges) is str else edges})
        out.append(f"    n{k} = make_object({listing.constant(world.keep(cls))})")
        out.append(f"    n{k}.seq = next_position()")
        if type(edges) is str:
            out.append(f"    n{k}.edges = {edges}")
    return named


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
