"""Products of all steps of one tensor with the same matrix become one product.

In: a graph. Out: what some nodes become, with the same bits: an element of a product is added up in an order that
depends on the inner dimension alone, however many rows are computed together.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, make
from tracejit.ir.rewrite import Turn
from tracejit.ops.contraction import PRODUCTS
from tracejit.ops.record import Op, ops

Step = tuple[Node, int, int]
"""A tensor, one of its dimensions, and a place along it."""


def _step_of(node: Node) -> Step | None:
    """What `node` is a step of: all of a tensor at one place of a dimension that is not the last, without that
    dimension.
    """
    if node.op is not ops.reshape or node.args[0].op is not ops.slice:
        return None
    cut = node.args[0]
    x, (start, _, step) = cut.args[0], cut.attrs
    single = [d for d in range(len(x.shape)) if cut.shape[d] != x.shape[d]]
    if len(single) != 1 or cut.shape[single[0]] != 1 or single[0] == len(x.shape) - 1 or step[single[0]] != 1:
        return None
    dim = single[0]
    if node.shape != (*x.shape[:dim], *x.shape[dim + 1 :]) or len(node.shape) != 2:
        return None
    return x, dim, start[dim]


def join_products(graph: Graph) -> dict[Node, Turn]:
    """Computes the products of all steps of a tensor with one matrix at once: the inputs' part of a recurrent cell."""
    found: dict[tuple[Node, int, Node, Any, Any], dict[Node, int]] = {}
    for node in graph.nodes():
        step = _step_of(node.args[0]) if node.op in PRODUCTS and len(node.shape) == 2 else None
        if step is not None:
            x, dim, place = step
            found.setdefault((x, dim, node.args[1], node.op, node.attrs), {})[node] = place
    # Each step once: a product of steps that nobody wants would be work in vain.
    whole = [places for (x, dim, *_), places in found.items() if 1 < len(places) == x.shape[dim]]
    return {node: _part for places in whole for node in places}


def _part(node: Node, settle: Callable[[Node], Node]) -> Node:
    """The product of one step as a part of that of all steps."""
    step, matrix = _step_of(node.args[0]), node.args[1]
    if step is None:
        return node
    x, dim, place = step
    rows = apply(ops.reshape, x, shape=(prod(x.shape[:-1]), x.shape[-1]))
    assert isinstance(node.op, Op)
    product = make(node.op, (rows, matrix), node.attrs)
    whole = apply(ops.reshape, product, shape=(*x.shape[:-1], matrix.shape[-1]))
    start = tuple(place if d == dim else 0 for d in range(len(whole.shape)))
    length = tuple(1 if d == dim else size for d, size in enumerate(whole.shape))
    part = apply(ops.slice, whole, start=start, length=length, step=(1,) * len(start))
    return apply(ops.reshape, part, shape=node.shape)
