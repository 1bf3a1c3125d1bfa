"""A backward pass as one event: recorded once, then matched, also where it leads out of its segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracejit.runtime.cuda.array import DeviceArray
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tape import OWED, TapeNode, current
from tracejit.tensor.tensor import Tensor, on_gpu
from tracejit.trace.crossing import (
    Crossing,
    Outside,
    explore,
    is_stale,
    put_back,
    put_numbers,
    same,
)
from tracejit.trace.landing import node_before
from tracejit.trace.matcher import MISS
from tracejit.trace.route import Short, gather, make_route, take_route
from tracejit.trace.tape import Untraceable
from tracejit.trace.tree import Event, Result, Static, Step
from tracejit.trace.unit import Unit

ROUTES = 16
"""How often a backward pass may get a new short way to what it finds outside of its segment; it keeps the last four."""

Pair = tuple[TapeNode, int]


def _key(args: tuple[Any, ...]) -> Any:
    """All of a pass's arguments that are not tensors."""
    roots, cotangents, keep, create_graph, inputs, accumulate = args
    given = tuple(c is not None for c in cotangents)
    return (keep, create_graph, accumulate, len(roots), given, None if inputs is None else len(inputs))


def arguments_of(key: Any, tensors: list[Any]) -> tuple[Any, ...]:
    """The arguments of a pass, of whose event are the key and the operands."""
    keep, create_graph, accumulate, roots, given, inputs = key
    rest = iter(tensors)
    starts = [next(rest) for _ in range(roots)]
    cotangents = [next(rest) if g else None for g in given]
    targets = None if inputs is None else [next(rest) for _ in range(inputs)]
    return starts, cotangents, keep, create_graph, targets, accumulate


def _given(args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that a pass is called with."""
    roots, cotangents, _, _, inputs, _ = args
    return [*roots, *(c for c in cotangents if c is not None), *(inputs or ())]


# --- recording --------------------------------------------------------------------------------------------------------


def record_backward(recorder: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a backward pass and record it as one event."""
    roots, _, _, create_graph, inputs, accumulate = args
    gpu = any(map(on_gpu, roots))
    recorder.settle(gpu)
    try:
        leaves, pairs = reach(recorder, roots)
        found = explore([node for node, _ in pairs], inputs, create_graph)
        inner = list(leaves.values())
        for leaf in found.leaves:
            leaves[id(leaf)] = leaf
        touched = list((leaves if inputs is None else {id(t): t for t in inputs}).values()) if accumulate else []
        if any(t._hooks for t in leaves.values()) or any(t._hooks for t in touched):
            raise Untraceable("a gradient hook was registered")
        if "backward" in recorder.region.eager_units:
            raise Untraceable(recorder.region.eager_units["backward"])
    except Untraceable as e:
        return recorder.outside(str(e), "backward", function, args, {})
    tensors = [*_given(args), *found.saved, *touched, *(t._grad for t in touched if t._grad is not None)]
    if DeviceArray.used and any(map(on_gpu, tensors)) is not gpu:
        return recorder.outside("the gradient goes from device to device", "backward", function, args, {})
    if any(recorder.stale(t) for t in tensors):
        # What was inside of the segment is outside of the next.
        recorder.cut("memory was changed in place through another tensor that shares it", silent=True)
        return record_backward(recorder, function, args)
    operands, binds = recorder.take(tensors)
    entries = [(recorder.border.get((id(node), which)), found.place[node], which) for node, which in pairs]
    if any(slot is None for slot, _, _ in entries):
        reason = "the gradient leads to a step outside of the segment that no tensor in it stands for"
        return recorder.outside(reason, "backward", function, args, {})
    numbers = tuple(recorder.number(n) for n in found.numbers)
    before = [t._grad for t in touched]
    slots_before = [None if g is None else recorder.slot(g) for g in before]
    unit = Unit("backward")
    views = take_views(recorder, found, unit)
    stand_ins = put_numbers(found, [Scalar(n.value, n) for n in numbers])
    try:
        with recorder.inside(unit):
            out = function(*args)
    finally:
        put_back(stand_ins)
        recorder.stands = {}
    if unit.broken is not None:
        recorder.give_up("backward", unit.broken)
        return out
    changed = []
    for leaf, g, s in zip(touched, before, slots_before, strict=True):
        after = s if leaf._grad is g or leaf._grad is None else recorder.known(leaf._grad)
        changed.append((recorder.slot(leaf), s, after))
    results: list[Result] = []
    output = recorder.describe(out, results)
    for leaf, (_, s, after) in zip(touched, changed, strict=True):
        if after is not None and after != s and leaf._grad is not None:
            results.append(recorder.result(after, leaf._grad))
    recorder.emit(
        "backward", function, _key(args), operands, binds, numbers, None, unit, tuple(results), output, tuple(changed)
    )
    slots = {slot for slot, _, _ in changed}
    recorder.last.watched = tuple(s for s in map(recorder.exact, inner) if s is not None and s not in slots)
    if pairs:
        recorder.last.crossing = Crossing(
            tuple(entries),
            tuple(found.steps),
            tuple(found.targets),
            tuple((slot, base, way) for slot, (_, base, way) in zip(views, found.views, strict=True)),
            tuple(recorder.exact(t) for t in found.leaves),
            tuple(i for i, node in enumerate(found.nodes) if node.done),
        )
    return out


def reach(recorder: Any, roots: list[Tensor]) -> tuple[dict[int, Tensor], list[Pair]]:
    """The leaves that a pass reaches inside of the segment, and where it leads out.

    Raises: Untraceable if it cannot be part of the trace.
    """
    leaves: dict[int, Tensor] = {}
    border: dict[Pair, None] = {}
    seen: set[Any] = set()
    stack: list[Any] = []
    for root in roots:
        node = current(root)
        if node is None:
            leaves[id(root)] = root
        else:
            stack.append((node, root._index))
    while stack:
        node, which = stack.pop()
        if node.seq < recorder.first:
            border[node, which] = None
            continue
        if node in seen:
            continue
        seen.add(node)
        if node.hooks or node.retain:
            raise Untraceable("a gradient hook was registered")
        for edge in node.edges:
            if type(edge) is tuple:
                stack.append(edge)
            elif edge is not None:
                leaves[id(edge)] = edge
    return leaves, list(border)


def take_views(recorder: Any, found: Outside, unit: Unit) -> list[int]:
    """Let the recorder know what the pass finds outside of the segment; the slots of views that steps saved."""
    slots = [recorder.slot(t) for t in found.saved]
    views: list[int] = []
    for t, base, way in found.views:
        slot = slots[base] if base >= 0 else views[-1 - base]
        for op, step in way:
            source, slot = slot, recorder.new_slots(1)[0]
            args, attrs = op.of_step(source, step)
            unit.steps.append(Step(op, (source, *map(Static, args[1:])), attrs, (slot,), True))
        views.append(slot)
        if t._node is not None:
            recorder.outer[id(t._node)] = slot
            recorder.border[id(t._node), t._index] = slot
        recorder.named[id(t)] = (slot, t._version)
        recorder.by_slot[slot] = t
        recorder.kept.append(t)
    recorder.stands = {key: slots[at] for key, at in found.stands.items() if at >= 0}
    return views


# --- following --------------------------------------------------------------------------------------------------------


def follow_backward(follower: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Match a backward pass as one unit."""
    key = _key(args)
    tensors = _given(args)
    while True:
        events = follower.place.events
        if events and events[0].kind == "backward" and events[0].match is not None:
            out = events[0].match(follower, tensors, key)
            if out is not MISS:
                return out
        found = match_backward(follower, args, key, tensors)
        if found is not None:
            return follower.output(found.output, found)
        if follower.turns("backward", function, tensors, []):
            continue
        cut = follower.place.cut
        if cut is None or not cut.silent:
            break
        follower.cut(cut.reason)
    out = follower.eagerly("backward", function, args, {})
    if out is not MISS:
        return out
    found = follower.grow_backward(function, key, tensors, args)
    if found is not None:
        return follower.output(found.output, found)
    return follower.leave("backward", None, key, tensors, []).backward(function, args)


def match_backward(follower: Any, args: tuple[Any, ...], key: Any, tensors: list[Tensor]) -> Event | None:
    """The backward pass that a call is; the follower then stands behind it."""
    # The long way makes steps real, and the short way is for those that are not.
    for find in (_find_short, _find):
        for event in follower.place.events:
            if event.kind == "backward" and event.key == key and event.grad is state.grad_enabled:
                follower.unbind()
                if _enter(follower, event, tensors, args, find):
                    return event  # type: ignore[no-any-return]
    return None


def _enter(
    follower: Any, event: Event, tensors: list[Tensor], args: tuple[Any, ...], find: Callable[..., Any]
) -> bool:
    """Whether a pass is this event, with `find` for what is outside; the follower then stands behind it."""
    found: Any = None
    leaves: dict[int | None, Tensor] = {}
    saved: list[Tensor] = []
    crossing = event.crossing
    nodes = None
    if crossing is not None:
        nodes = _entries(follower, crossing, dict(zip(event.operands, tensors, strict=False)))
        found = None if nodes is None else find(crossing, nodes, args)
        if found is None:
            return False
        saved = found.saved
        if follower.mutators and any(follower.is_mutated(t) or follower.shows_mutated(t) for t in saved):
            return False
        leaves = dict(zip(crossing.leaves, found.leaves, strict=True))
    full = _with_leaves(follower, event, tensors, saved, leaves)
    numbers = [] if found is None else found.numbers
    values = follower.values
    if full is None or len(full) != len(event.operands):
        return False
    if found is not None:
        at = dict(zip(event.operands, full, strict=True))
        for slot, leaf in zip(crossing.leaves, found.leaves, strict=True):
            if slot is not None and (values[slot] if slot < len(values) else at.get(slot)) is not leaf:
                return False
    if not follower.fits(event, full):
        return False
    if not follower.admit(event, full, numbers, frozenset() if found is None else found.bare()):
        return False
    follower.enter(event, numbers)
    for target, _, after in event.leaves:
        if after is not None:
            values[target]._grad = values[after]
    if found is not None:
        follower.crossed[event] = nodes
        for (slot, _, _), t in zip(crossing.views, found.seen(), strict=True):
            values[slot] = t
        follower.released += found.release(crossing)
    return True


def _entries(follower: Any, crossing: Crossing, given: dict[int, Tensor]) -> list[TapeNode] | None:
    """The steps at which a pass leaves the segment, if they are where the recorded ones were."""
    values = follower.values
    nodes = []
    for slot, _, which in crossing.entries:
        t = values[slot] if slot < len(values) else given.get(slot)
        if t is None or is_stale(t):
            return None
        node = node_before(follower, t)
        if node is None or node is OWED or t._index != which:
            return None
        nodes.append(node)
    return nodes


def _find_short(crossing: Crossing, nodes: list[TapeNode], args: tuple[Any, ...]) -> Short | None:
    """What a pass finds outside of the segment, if a route leads to it."""
    for route in crossing.routes:
        found = take_route(route, crossing, nodes, args[4])
        if found is not None:
            return found
    return None


def _find(crossing: Crossing, nodes: list[TapeNode], args: tuple[Any, ...]) -> Outside | None:
    """What a pass finds outside of the segment, if it is like what was recorded."""
    _, _, _, create_graph, inputs, _ = args
    batches = None
    if not create_graph and crossing.made < ROUTES:
        batches = gather(nodes)
        made = [batch.make() for batch in batches or ()]
    try:
        found = explore(nodes, inputs, create_graph)
    except Untraceable:
        return None
    if any(found.place[node] != at for node, (_, at, _) in zip(nodes, crossing.entries, strict=True)):
        return None
    if not same(crossing, found):
        return None
    if batches is not None:
        crossing.made += 1
        route = make_route(crossing, found, nodes, batches, made)
        if route is not None:
            crossing.routes = [route, *crossing.routes[:3]]
    return found


def _with_leaves(
    follower: Any, event: Event, tensors: list[Tensor], saved: list[Tensor], outside: dict[int | None, Tensor]
) -> list[Tensor] | None:
    """The operands of a backward pass: what was given, what it finds outside, the leaves, and their gradients."""
    values = follower.values
    new = dict(zip(event.operands, tensors, strict=False))
    grads = []
    leaves = []
    for slot, before, _ in event.leaves:
        leaf = values[slot] if slot < len(values) else outside.get(slot, new.get(slot))
        if leaf is None or leaf._hooks is not None or (leaf._grad is None) != (before is None):
            return None
        leaves.append(leaf)
        if leaf._grad is not None:
            grads.append(leaf._grad)
    if any((values[slot] if slot < len(values) else new[slot])._hooks is not None for slot in event.watched):
        return None
    return [*tensors, *saved, *leaves, *grads]
