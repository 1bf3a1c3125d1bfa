"""Layout: products are computed the way round in which they are read, and added up where they are computed.

In: a graph. Out: a graph with the same bits. Each element of a product is one chain of multiply-adds along the inner
dimension, so B'A' has the bits of (AB)' - and the gradient of a linear layer's weight is such a transposed product.
"""

from __future__ import annotations

from collections.abc import Callable

from tracejit import dtypes
from tracejit.ir.graph import Graph
from tracejit.ir.node import Node, apply, make
from tracejit.ir.rewrite import rewrite_at
from tracejit.ops import Op, ops
from tracejit.ops.contraction import LONGEST_ADDED, PRODUCTS
from tracejit.schedule import cost

_KINDS = (dtypes.float32, dtypes.float64)


def _is_swap(node: Node) -> bool:
    if node.op is not ops.permute:
        return False
    dims = node.attrs[0]
    return len(dims) >= 2 and dims == (*range(len(dims) - 2), len(dims) - 1, len(dims) - 2)


def _swapped(node: Node) -> Node:
    n = len(node.shape)
    return make(ops.permute, (node,), ((*range(n - 2), n - 1, n - 2),))


def _any(node: Node) -> bool:
    return True


def turn_products(graph: Graph, movable: Callable[[Node], bool] = _any) -> Graph:
    """Computes products transposed that are only read transposed, of those that are `movable`."""
    while True:
        outputs = set(graph.outputs)
        swaps = {
            user
            for node, users in graph.readers().items()
            if node.op in PRODUCTS and node not in outputs and all(map(_is_swap, users)) and movable(node)
            for user in users
        }
        if not swaps:
            return graph
        graph = rewrite_at(graph, swaps, _turn)


def _turn(node: Node) -> Node:
    product = node.args[0]
    a, b = product.args
    assert isinstance(product.op, Op)
    return make(product.op, (_swapped(b), _swapped(a)), product.attrs)


def write_out_products(graph: Graph) -> Graph:
    """Writes products along one element, such as a weight's gradient for a batch of one, as multiplications, which
    become part of what reads them; not so those of short rows, along which such a loop would have to go.
    """

    thin = {node for node in graph.nodes() if node.op is ops.matmul and _is_thin(node)}
    return rewrite_at(graph, thin, _written_out)


def _is_thin(node: Node) -> bool:
    if not node.dtype.is_floating_point or node.args[0].shape[-1] != 1:
        return False
    return not cost.is_short_row(node.shape[-1])


def _written_out(node: Node) -> Node:
    # The one multiply-add starts from 0.0, which -0.0 does not survive.
    return apply(ops.add, apply(ops.mul, *node.args), 0.0)


def share_panels(graph: Graph, panel_columns: Callable[[str], int]) -> Graph:
    """Packs a matrix that several small products are with, such as a recurrent cell's, once for all of them.

    `panel_columns` are the columns of a panel, by the name of the element type.
    """
    found: dict[Node, set[Node]] = {}
    for node in graph.nodes():
        if node.op is ops.matmul and len(node.shape) == 2 and node.dtype in _KINDS:
            rows, inner = node.args[0].shape
            if cost.shares(rows, inner, node.shape[1]):
                found.setdefault(node.args[1], set()).add(node)
    shared = {node for nodes in found.values() if len(nodes) >= cost.SHARED for node in nodes}
    if not shared:
        return graph

    def through_panels(node: Node) -> Node:
        a, b = node.args
        panels = apply(ops.pack_panels, b, columns=panel_columns(b.dtype.name))
        return apply(ops.matmul_panels, a, panels, size=node.shape[1])

    return rewrite_at(graph, shared, through_panels)


def accumulate_products(graph: Graph, movable: Callable[[Node], bool] = _any) -> Graph:
    """Sums of products that nobody else reads, such as a weight's gradient over the steps of a loop, take no memory
    but their own: each product, if it is `movable`, is added to those before as it is computed.
    """
    readers, outputs = graph.readers(), set(graph.outputs)
    sums: set[Node] = set()
    for node in graph.nodes():
        if node.op is not ops.add or any(a.is_number or a.aval != node.aval for a in node.args):
            continue
        first, second = node.args
        alone = all(len(readers[a]) == 1 and a not in outputs for a in node.args)
        if alone and _is_short_product(second) and movable(second) and (first.op is ops.matmul or first in sums):
            sums.add(node)
    return rewrite_at(graph, sums, _accumulated) if sums else graph


def _is_short_product(node: Node) -> bool:
    if node.op is not ops.matmul or len(node.shape) != 2 or node.dtype not in _KINDS:
        return False
    return min(node.shape) > 1 and 0 < node.args[0].shape[1] <= LONGEST_ADDED


def _accumulated(node: Node) -> Node:
    total, product = node.args
    return make(ops.matmul_add, (*product.args, total))


def end_products(graph: Graph) -> Graph:
    """A bias and what is not below 0 are taken care of by the product that nobody else reads, while its result is in a
    cache.
    """
    readers, outputs = graph.readers(), set(graph.outputs)

    def is_read_once(node: Node) -> bool:
        return len(readers[node]) == 1 and node not in outputs

    found = set()
    for node in graph.nodes():
        if node.op is ops.relu and node.args[0].op is ops.add and is_read_once(node.args[0]):
            product, bias = node.args[0].args
            if _takes_bias(product, bias) and is_read_once(product):
                found.add(node)
    return rewrite_at(graph, found, _ended)


def _takes_bias(product: Node, bias: Node) -> bool:
    if product.is_number or bias.is_number or product.op is not ops.matmul or product.dtype not in _KINDS:
        return False
    # The product with one column may be computed as a row.
    return len(product.shape) == 2 and product.shape[1] > 1 and bias.shape == product.shape[1:]


def _ended(node: Node) -> Node:
    product, bias = node.args[0].args
    return make(ops.matmul_relu, (*product.args, bias))


def arrange_products(
    graph: Graph, panel_columns: Callable[[str], int] | None, movable: Callable[[Node], bool] = _any
) -> Graph:
    """All of these, in the order in which one opens the way for another; without panels, and without a bias, if panels
    have no columns.

    Products that are not `movable` are computed as they are asked for: turned or added up they would have other bits.
    """
    graph = accumulate_products(write_out_products(turn_products(graph, movable)), movable)
    return graph if panel_columns is None else end_products(share_panels(graph, panel_columns))
