"""The part of the gradient tape that a backward pass walks outside of its segment.

Steps made before a cut are real by the time a later segment walks back into them: they hang on the tensors that the
cut left behind. What a backward pass does with them is decided by their structure (operations, attributes, edges); what
it computes with are the tensors and numbers they saved. So the recorder takes the structure down, the saved tensors
become operands of the backward pass like any tensor from outside, and the saved numbers become its numbers. A later
call looks at the steps that it finds there: with the same structure, the recorded pass is theirs too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tracejit.tensor.scalar import Scalar
from tracejit.tensor.tape import TapeNode, held, kept_results
from tracejit.tensor.tensor import Tensor
from tracejit.trace.tape import Untraceable, is_behind
from tracejit.trace.tree import same_value


@dataclass(eq=False, slots=True)
class Crossing:
    """What a backward pass is like outside of its segment.

    `entries` are where it leaves the segment: the slot of a tensor from outside, the place of the step that made it in
    `steps`, and which of the step's results it is. `steps` is the structure, newest step first. `targets` says where
    the tensors are whose gradients were asked for. `leaves` are the slots of the leaves that the walk found, None for
    one that the pass does not touch. `views` are the views that steps saved: slot, place of the base, operations.
    `released` are the steps that let go of what they saved. `routes` are short ways to all that (`trace/route.py`),
    `made` how many there have been.
    """

    entries: tuple[tuple[int, int, int], ...]
    steps: tuple[Any, ...]
    targets: tuple[Any, ...]
    views: tuple[tuple[int, int, Any], ...]
    leaves: tuple[int | None, ...]
    released: tuple[int, ...]
    routes: list[Any] = field(default_factory=list)
    made: int = 0


@dataclass(eq=False, slots=True)
class Outside:
    """What a walk found: the steps, newest first, with their structure, and the values that the pass needs."""

    nodes: list[TapeNode]
    place: dict[TapeNode, int]
    steps: list[Any] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    saved: list[Tensor] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    numbers: list[Any] = field(default_factory=list)
    # Views that steps saved: the tensor, the place of its base in `saved`, and the operations that lead to it.
    views: list[tuple[Tensor, int, Any]] = field(default_factory=list)
    # The leaves by the ids of their arrays.
    owners: dict[int, Tensor] = field(default_factory=dict)
    # The steps that the pass really walks: those on the way to an input, if inputs were chosen.
    pulled: list[TapeNode] = field(default_factory=list)
    # By the id of a tensor or an array, and for what a step makes of its result: which of `saved` stands for it, or
    # below zero which of `views`.
    stands: dict[Any, int] = field(default_factory=dict)

    def seen(self) -> list[Tensor]:
        """The views that steps saved."""
        return [t for t, _, _ in self.views]

    def bare(self) -> set[int]:
        """Saved tensors, by their ids, without the steps that made them: none."""
        return set()

    def release(self, crossing: Crossing) -> list[Callable[[], None]]:
        """Release what the recorded pass released; what puts it back."""
        out: list[Callable[[], None]] = []
        for i in crossing.released:
            node = self.nodes[i]
            out.append(partial(_take_back, node, node.saved, node.results))
            node.release()
        return out


def explore(entries: list[TapeNode], inputs: list[Tensor] | None, create_graph: bool) -> Outside:
    """Walk the tape below some steps.

    Raises: Untraceable if a trace cannot hold what happens there.
    """
    seen: set[TapeNode] = set()
    stack = list(entries)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        if node.hooks or node.retain:
            raise Untraceable("a gradient hook was registered")
        if node.custom:
            raise Untraceable(f"{node.name()} is Python's")
        if node.done:
            raise Untraceable("the values that a gradient needs were released")
        seen.add(node)
        for edge in node.edges:
            if type(edge) is tuple:
                stack.append(edge[0])
    nodes = sorted(seen, key=_position, reverse=True)
    found = Outside(nodes, {node: i for i, node in enumerate(nodes)})
    leaves: dict[int, int] = {}
    edges = [tuple([_edge(e, found, leaves) for e in node.edges]) for node in nodes]
    needed = _aim(found, edges, leaves, inputs)
    for i, node in enumerate(nodes):
        values = None
        if needed is None or needed[i]:
            found.pulled.append(node)
            values = _values(found, node, create_graph) if node.saved or node.results else ()
        found.steps.append((node.op, node.attrs, node.avals, node.outs, edges[i], values))
    return found


def _position(node: TapeNode) -> float:
    return node.seq


def _edge(edge: Any, found: Outside, leaves: dict[int, int]) -> Any:
    if edge is None:
        return None
    if type(edge) is tuple:
        return found.place[edge[0]], edge[1]
    index = leaves.get(id(edge))
    if index is None:
        if edge._hooks is not None:
            raise Untraceable("a gradient hook was registered")
        index = leaves[id(edge)] = len(found.leaves)
        found.leaves.append(edge)
        found.owners.setdefault(id(edge._array), edge)
    return index


def _aim(
    found: Outside, edges: list[Any], leaves: dict[int, int], inputs: list[Tensor] | None
) -> list[bool] | None:
    """Note where the inputs are, and which steps lead to one; None if all gradients are wanted."""
    if inputs is None:
        return None
    for t in inputs:
        if is_stale(t):
            raise Untraceable("a gradient is asked for of a view whose memory was changed")
        if t._node is None:
            found.targets.append(leaves.get(id(t)))
        else:
            at = found.place.get(t._node)
            found.targets.append(None if at is None else (at, t._index))
    wanted = {t for t in found.targets if t is not None}
    needed = [False] * len(edges)
    for i in range(len(edges) - 1, -1, -1):
        needed[i] = any(
            e is not None and (e in wanted or (type(e) is tuple and needed[e[0]])) for e in edges[i]
        )
    return needed


def _values(found: Outside, node: TapeNode, create_graph: bool) -> tuple[Any, ...]:
    """What a step saved, as places in the lists of what was found."""
    out: list[Any] = []
    for entry in node.saved:
        if entry is None or entry[0] is None:
            out.append(None)
            continue
        value, version = entry
        if isinstance(value, Tensor):
            _check(value, version)
            out.append(_stand(found, value, create_graph))
        elif type(value) in (float, int, Scalar):
            found.numbers.append(value.value if type(value) is Scalar else value)
            out.append("i" if isinstance(found.numbers[-1], int) else "f")
        elif type(value) is bool:
            out.append((value,))
        else:
            raise Untraceable(f"{node.name()} saved a {type(value).__name__}")
    if node.results:
        for which, (value, version) in zip(kept_results(node), node.results, strict=True):
            _check(value, version)
            if create_graph and value._dtype.is_floating_point:
                made = held(value)
                made._index, made._node, made._requires_grad = which, node, True
                out.append(_stand(found, made, create_graph))
                found.stands[id(made._array), id(node)] = found.stands[id(made)]
            else:
                out.append(_stand(found, value, create_graph))
    return tuple(out)


def _check(t: Tensor, version: int) -> None:
    if t._version != version:
        raise Untraceable("a value that a gradient needs was changed in place")
    if t._array is None:
        raise Untraceable("a value that a gradient needs is pending in another region")
    if is_stale(t):
        raise Untraceable("a gradient needs a view whose memory was changed")


def is_stale(t: Tensor) -> bool:
    """Whether the history of a view is not that of its memory."""
    return t._base is not None and t._base._node is not None and is_behind(t)


def _stand(found: Outside, t: Tensor, create_graph: bool) -> int:
    """The place of a tensor in `saved`, or below zero that of a view in `views`."""
    at = found.stands.get(id(t))
    if at is not None:
        return at
    if t._base is not None:
        # The memory is the base's, which the segment may change in place later on.
        found.views.append((t, _stand(found, t._base, create_graph), t._view))
        at = -len(found.views)
    elif create_graph:
        # What is made from it has its history.
        found.saved.append(t)
        at = len(found.saved) - 1
    else:
        # Only the memory matters, so each is one operand, and that of a leaf is the leaf.
        array = id(t._array)
        at = found.stands.get(array)
        if at is None:
            at = found.stands[array] = len(found.saved)
            found.saved.append(found.owners.get(array, t))
    found.stands[id(t)] = at
    return at


def same(crossing: Crossing, found: Outside) -> bool:
    """Whether what was found has the recorded structure."""
    if len(crossing.leaves) != len(found.leaves) or crossing.targets != tuple(found.targets):
        return False
    if len(crossing.steps) != len(found.steps) or len(crossing.views) != len(found.views):
        return False
    for (_, base, way), (_, other, taken) in zip(crossing.views, found.views, strict=True):
        if base != other or (way is not taken and not _same(way, taken)):
            return False
    for a, b in zip(crossing.steps, found.steps, strict=True):
        # What was restored from a plan shares attributes and types with what was recorded.
        if a[0] is not b[0] or (a[1] is not b[1] and not _same(a[1], b[1])) or a[2:] != b[2:]:
            return False
    return True


def _same(a: Any, b: Any) -> bool:
    """Whether two values are the same by type and bits, also inside of tuples."""
    if type(a) is tuple and type(b) is tuple:
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or same_value(a, b)


def put_numbers(found: Outside, numbers: list[Scalar]) -> list[tuple[TapeNode, Any]]:
    """Let stand-ins take the places of the numbers that steps saved; what was there, to be put back."""
    before: list[tuple[TapeNode, Any]] = []
    left = iter(numbers)
    for node in found.pulled:
        if any(e is not None and type(e[0]) in (float, int, Scalar) for e in node.saved):
            before.append((node, node.saved))
            node.saved = tuple(
                (next(left), 0) if e is not None and type(e[0]) in (float, int, Scalar) else e for e in node.saved
            )
    return before


def put_back(before: list[tuple[TapeNode, Any]]) -> None:
    """Undo `put_numbers` for steps that still hold something."""
    for node, saved in before:
        if not node.done:
            node.saved = saved


def _take_back(node: TapeNode, saved: Any, results: Any) -> None:
    node.saved, node.results, node.done = saved, results, False
