"""Slices of elementwise results become results of slices, so that whoever reads a slice can compute it.

In: a graph. Out: what some nodes become, with the same bits; no element is computed more often than before.
"""

from __future__ import annotations

from math import prod

from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, make
from tracejit.ir.rewrite import Turn
from tracejit.ops.record import Op, ops


def _is_elementwise(node: Node) -> bool:
    return isinstance(node.op, Op) and node.op.family == "elementwise"


def slice_operands(graph: Graph) -> dict[Node, Turn]:
    """Takes slices of operands where elementwise results are read in slices alone, each by elementwise operations.

    The gates of an LSTM, which are parts of one sum, so come into the kernel that goes on with them.
    """
    sliced = {node.args[0] for node in graph.nodes() if node.op is ops.slice and _is_elementwise(node.args[0])}
    if not sliced:
        return {}
    readers, outputs = graph.readers(), set(graph.outputs)

    def wanted(node: Node) -> bool:
        users = readers[node]
        if node in outputs:
            return False
        if any(user.op is not ops.slice or user in outputs for user in users):
            return False
        if sum(prod(user.shape) for user in users) > prod(node.shape):
            return False
        return all(_is_elementwise(reader) for user in users for reader in readers.get(user, []))

    through = filter(wanted, sliced)
    return {user: _turned for node in through for user in readers[node]}


def _turned(node: Node) -> Node:
    inner, (start, length, step) = node.args[0], node.attrs
    assert isinstance(inner.op, Op)
    return make(inner.op, tuple(_part(a, start, length, step) for a in inner.args), inner.attrs)


def _part(x: Node, start: tuple[int, ...], length: tuple[int, ...], step: tuple[int, ...]) -> Node:
    """What a slice of a result needs of an operand that is broadcast to it."""
    if x.is_number or not x.shape:
        return x
    lead = len(start) - len(x.shape)
    whole = [size == 1 for size in x.shape]
    return apply(
        ops.slice,
        x,
        start=tuple(0 if one else start[lead + d] for d, one in enumerate(whole)),
        length=tuple(1 if one else length[lead + d] for d, one in enumerate(whole)),
        step=tuple(1 if one else step[lead + d] for d, one in enumerate(whole)),
    )
