"""Slices of elementwise results become results of slices, so that whoever reads a slice can compute it.

In: a graph. Out: what some nodes become, with the same bits; no element is computed more often than before.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, make
from tracejit.ir.rewrite import Turn
from tracejit.ops.record import Op, ops

Region = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Start, length and step of a slice."""


def _is_elementwise(node: Node) -> bool:
    return node.family == "elementwise"


def slice_operands(graph: Graph) -> dict[Node, Turn]:
    """Takes slices of operands where elementwise results are read in slices alone, each by elementwise operations.

    The gates of an LSTM, which are parts of one sum, so come into the kernel that goes on with them.
    """
    if not any(node.op is ops.slice and _is_elementwise(node.args[0]) for node in graph.nodes()):
        return {}
    wanted = _wanted(graph)
    parts = _Parts(wanted)
    turns: dict[Node, Turn] = {}
    for node in wanted:
        if node.op is ops.slice:
            turns[node] = parts.looking(node)
            continue
        turns[node] = parts.making(node)
        for user in graph.readers()[node]:
            if user.op is ops.slice and user not in wanted:
                turns[user] = parts.taking(user)
    return turns


def _wanted(graph: Graph) -> dict[Node, dict[Region, None]]:
    """The regions in which elementwise results are wanted alone, of those that are not wanted as a whole; and of slices
    that are wanted in parts in their turn.
    """
    readers, outputs = graph.readers(), set(graph.roots)
    wanted: dict[Node, dict[Region, None]] = {}

    def regions_by(user: Node, node: Node) -> list[Region] | None:
        """What a reader wants of a node; None if that is all of it, or not for elementwise operations."""
        known = wanted.get(user)
        if user.op is not ops.slice:
            return None if known is None or not node.shape else [_region_of(node, region) for region in known]
        if known is not None:
            return [_within(user, region) for region in known]
        if user in outputs or node.op is ops.slice or not all(map(_is_elementwise, readers.get(user, ()))):
            return None
        return [user.attrs]  # type: ignore[list-item]

    # From the end: all that reads a node has been seen.
    for node in reversed(graph.nodes()):
        if node in outputs or not (_is_elementwise(node) or node.op is ops.slice):
            continue
        found: dict[Region, None] = {}
        for user in readers[node]:
            regions = regions_by(user, node)
            if regions is None:
                break
            found.update(dict.fromkeys(regions))
        else:
            if sum(prod(length) for _, length, _ in found) <= prod(node.shape):
                wanted[node] = found
    return wanted


class _Parts:
    """Makes parts of elementwise results of parts of their operands, which were made before."""

    def __init__(self, wanted: dict[Node, dict[Region, None]]) -> None:
        self._wanted = wanted
        self._made: dict[tuple[Node, Region], Node] = {}
        self._source: dict[Node, Node] = {}
        """What has become of what a slice is one of."""

    def looking(self, cut: Node) -> Turn:
        """Takes note of what a slice is one of, for its parts."""

        def turn(new: Node, settle: Callable[[Node], Node]) -> Node:
            self._source[cut] = new.args[0]
            return new

        return turn

    def making(self, node: Node) -> Turn:
        """Makes the parts of a node, which nobody reads any more."""

        def turn(new: Node, settle: Callable[[Node], Node]) -> Node:
            assert isinstance(node.op, Op)
            for region in self._wanted[node]:
                args = [self._part(a, b, region, settle) for a, b in zip(node.args, new.args, strict=True)]
                self._made[node, region] = settle(make(node.op, tuple(args), node.attrs))
            return new

        return turn

    def taking(self, user: Node) -> Turn:
        """A slice becomes the part that it is."""
        return lambda new, settle: self._made[user.args[0], user.attrs]  # type: ignore[index]

    def _part(self, x: Node, now: Node, region: Region, settle: Callable[[Node], Node]) -> Node:
        """What a region of a result needs of an operand that is broadcast to it, which has become another node."""
        if x.is_number or not x.shape:
            return now
        region = _region_of(x, region)
        while x in self._wanted and x.op is ops.slice:
            region, x, now = _within(x, region), x.args[0], self._source[x]
        made = self._made.get((x, region))
        return settle(make(ops.slice, (now,), region)) if made is None else made


def _region_of(x: Node, region: Region) -> Region:
    """The region of an operand that is broadcast to a result of which that one is asked for."""
    start, length, step = region
    lead = len(start) - len(x.shape)
    whole = [size == 1 for size in x.shape]
    return (
        tuple([0 if one else start[lead + d] for d, one in enumerate(whole)]),
        tuple([1 if one else length[lead + d] for d, one in enumerate(whole)]),
        tuple([1 if one else step[lead + d] for d, one in enumerate(whole)]),
    )


def _within(cut: Node, region: Region) -> Region:
    """A region of a slice as one of what it is a slice of."""
    (first, _, stride), (start, length, step) = cut.attrs, region
    return (
        tuple([a + b * s for a, b, s in zip(first, start, stride, strict=True)]),
        length,
        tuple([s * t for s, t in zip(stride, step, strict=True)]),
    )
