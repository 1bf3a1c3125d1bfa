"""The short way to what a backward pass finds outside of its segment.

Steps that a program left and that nobody has looked at are what their plan says: same plan, same structure. So after
the long way was gone once, a *route* says where in the batches everything lies, and only what can differ from call to
call is compared: versions, and which tensors are one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracejit.tensor.tape import TapeNode
from tracejit.trace.crossing import Crossing, Outside, is_stale
from tracejit.trace.deferred import Batch, Deferred, let_go
from tracejit.trace.tape import Part, Spent

Spot = tuple[int, str, int]
"""Where a tensor lies: number of the batch, list ("t" for tensors, "r" for results, "b" for a tensor's base), place."""


@dataclass(eq=False, slots=True)
class Route:
    """Where in the batches everything lies.

    `entries` and `links` lead to the batches: place of a step, and for a link the batch and the place there that it is
    held at. `steps` are the steps of each batch that the pass walks, `checked` the places in `versions` that must be up
    to date. `saved`, `leaves` and `numbers` are the values to take (batch -1: a number that is always the same),
    `views` the saved views with the place of their base in `saved`. `same` are spots that must hold the memory of a
    saved one, `one` those that must be a certain leaf. `targets` says where the chosen inputs are: None, a leaf, or
    batch, step and result. `freed` are for each batch the steps that are released, and what then goes.
    """

    parts: list[Part]
    entries: list[tuple[int, int]]
    links: list[tuple[int, int, int, int]]
    steps: list[frozenset[int]]
    checked: list[tuple[list[int], list[int]]]
    saved: list[Spot]
    leaves: list[Spot]
    numbers: list[tuple[int, Any]]
    views: list[tuple[Spot, int]]
    same: list[tuple[Spot, int]]
    one: list[tuple[Spot, int]]
    targets: list[Any]
    freed: list[Spent]


@dataclass(eq=False, slots=True)
class Short:
    """What a route led to."""

    saved: list[Any]
    leaves: list[Any]
    numbers: list[Any]
    views: list[Any]
    batches: list[Batch]
    route: Route

    def seen(self) -> list[Any]:
        """The views that steps saved."""
        return self.views

    def bare(self) -> set[int]:
        """Saved tensors, by their ids, that nobody but the batches holds: they have not the steps that made them."""
        found = set()
        for (k, which, place), t in zip(self.route.saved, self.saved, strict=True):
            if which == "t" and place in self.batches[k].bare and self.batches[k].tensors[place] is t:
                found.add(id(t))
        return found

    def release(self, crossing: Crossing) -> list[Callable[[], None]]:
        """Release what the recorded pass released; what puts it back."""
        return [
            let_go(batch, *freed)
            for batch, freed in zip(self.batches, self.route.freed, strict=True)
            if freed[0]
        ]


def gather(nodes: list[TapeNode]) -> list[Batch] | None:
    """The batches below some steps; None if one of the steps is real."""
    found: dict[Batch, None] = {}
    for node in nodes:
        if type(node) is not Deferred:
            return None
        found[node.batch] = None
    queue = list(found)
    for batch in queue:
        for node in batch.outer:
            if type(node) is Deferred and node.batch not in found:
                found[node.batch] = None
                queue.append(node.batch)
    return queue


def make_route(
    crossing: Crossing, found: Outside, entries: list[TapeNode], batches: list[Batch], made: list[list[TapeNode]]
) -> Route | None:
    """The route to what was found, in batches whose steps have just been made; None if it leads to other steps."""
    where = {node: (k, at) for k, nodes in enumerate(made) for at, node in enumerate(nodes)}
    if any(node not in where for node in found.nodes):
        return None
    count = len(batches)
    route = Route(
        [batch.part for batch in batches], [where[node] for node in entries], [], [], [([], []) for _ in batches],
        [], [], [], [], [], [], [], [],
    )  # fmt: skip
    spots: dict[int, Spot] = {}
    saved: list[tuple[Spot, Any]] = []
    links: dict[tuple[int, int, int, int], None] = {}
    for node in found.nodes:
        k, at = where[node]
        for edge in route.parts[k].edges[at]:
            if edge is not None and edge[0] == "outer":
                links[k, edge[1], *where[batches[k].outer[edge[1]]]] = None
            elif edge is not None and edge[0] == "leaf":
                leaf = batches[k].tensors[edge[1]]
                spots.setdefault(id(leaf), (k, "t", edge[1]))
                route.one.append(((k, "t", edge[1]), next(i for i, t in enumerate(found.leaves) if t is leaf)))
    for node in found.pulled:
        k, at = where[node]
        for entry in route.parts[k].saved[at]:
            if entry is not None and entry[0] == "tensor":
                saved.append(((k, "t", entry[1]), batches[k].tensor(entry[1])))
            elif entry is not None and entry[0] == "number":
                route.numbers.append((k, entry[1].index))
            elif entry is not None and type(entry[1]) is not bool:
                route.numbers.append((-1, entry[1]))
        for place, _ in route.parts[k].kept[at]:
            saved.append(((k, "r", place), batches[k].results[place]))
    for spot, t in dict(saved).items():
        spots.setdefault(id(t), spot)
        if t._base is not None:
            spots.setdefault(id(t._base), (spot[0], "b", spot[2]))
        route.checked[spot[0]][spot[1] == "r"].append(spot[2])
    if any(id(t) not in spots for t in (*found.saved, *found.leaves)):
        return None
    route.saved = [spots[id(t)] for t in found.saved]
    route.leaves = [spots[id(t)] for t in found.leaves]
    route.views = [(spots[id(t)], base) for t, base, _ in found.views]
    for spot, t in dict(saved).items():
        at = found.stands[id(t)]
        if at >= 0 and route.saved[at] != spot:
            route.same.append((spot, at))
    route.one = [(spot, i) for spot, i in dict.fromkeys(route.one) if route.leaves[i] != spot]
    for target in found.targets:
        route.targets.append((*where[found.nodes[target[0]]], target[1]) if type(target) is tuple else target)
    route.links = _in_order(list(links), {k for k, _ in route.entries})
    for k in range(count):
        mine = {at for owner, at in map(where.__getitem__, found.nodes) if owner == k}
        route.steps.append(frozenset(mine))
        gone = frozenset(at for i in crossing.released for owner, at in [where[found.nodes[i]]] if owner == k)
        route.freed.append(route.parts[k].spent(gone))
    return route


def _in_order(links: list[tuple[int, int, int, int]], known: set[int]) -> list[tuple[int, int, int, int]]:
    """The links such that each starts at a batch that is known by then."""
    out: list[tuple[int, int, int, int]] = []
    while links:
        ready = [link for link in links if link[0] in known]
        assert ready, "every step was reached from an entry"
        out += ready
        known = known | {link[2] for link in ready}
        links = [link for link in links if link not in ready]
    return out


def take_route(
    route: Route, crossing: Crossing, nodes: list[TapeNode], inputs: list[Any] | None
) -> Short | None:
    """What a pass finds outside, if it is what the route says."""
    batches: list[Any] = [None] * len(route.parts)
    for node, (k, at) in zip(nodes, route.entries, strict=True):
        if not _reach(route, batches, node, k, at):
            return None
    for source, place, k, at in route.links:
        if not _reach(route, batches, batches[source].outer[place], k, at):
            return None
    for batch, (tensors, results) in zip(batches, route.checked, strict=True):
        if batch is None:
            continue
        versions = batch.versions
        behind = len(batch.tensors)
        if any(batch.tensors[i]._version != versions[i] for i in tensors):
            return None
        if any(batch.results[i]._version != versions[behind + i] for i in results):
            return None
    saved = [_at(batches, spot) for spot in route.saved]
    leaves = [_at(batches, spot) for spot in route.leaves]
    for spot, at in route.same:
        if _at(batches, spot)._array is not saved[at]._array:
            return None
    if any(_at(batches, spot) is not leaves[i] for spot, i in route.one) or len(set(map(id, leaves))) < len(leaves):
        return None
    if any(leaf._hooks is not None for leaf in leaves):
        return None
    if inputs is not None and not _aims(route, batches, leaves, inputs):
        return None
    views = [_at(batches, spot) for spot, _ in route.views]
    for t, (_, base), (_, _, way) in zip(views, route.views, crossing.views, strict=True):
        if t._base is None or t._base._array is not saved[base]._array or (t._view is not way and t._view != way):
            return None
    numbers = [i if k < 0 else batches[k].numbers[i] for k, i in route.numbers]
    return Short(saved, leaves, numbers, views, batches, route)


def _aims(route: Route, batches: list[Any], leaves: list[Any], inputs: list[Any]) -> bool:
    """Whether the chosen inputs are where the recorded ones were."""
    for t, target in zip(inputs, route.targets, strict=True):
        if is_stale(t):
            return False
        node = t._node
        place: Any = None
        if node is None:
            place = next((i for i, leaf in enumerate(leaves) if leaf is t), None)
        elif type(node) is Deferred and node.batch in batches:
            k = batches.index(node.batch)
            place = (k, node.at, t._index) if node.at in route.steps[k] else None
        if place != target:
            return False
    return True


def _reach(route: Route, batches: list[Any], node: Any, k: int, at: int) -> bool:
    """Whether a step is the one at a place of a batch; the batch is then known."""
    if type(node) is not Deferred or node.at != at:
        return False
    batch = node.batch
    if batches[k] is None:
        if batch.part is not route.parts[k] or not batch.released.isdisjoint(route.steps[k]):
            return False
        batch.run.restore()
        batches[k] = batch
        return True
    return batches[k] is batch


def _at(batches: list[Any], spot: Spot) -> Any:
    k, which, place = spot
    if which == "r":
        return batches[k].results[place]
    t = batches[k].tensor(place)
    return t if which == "t" else t._base
