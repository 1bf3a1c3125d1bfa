"""Layout: products are computed the way round in which they are read, and added up where they are computed.

In: a graph. Out: a graph with the same bits. Each element of a product is one chain of multiply-adds along the inner
dimension, so B'A' has the bits of (AB)' - and the gradient of a linear layer's weight is such a transposed product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from tracejit import dtypes
from tracejit.ir.graph import Graph
from tracejit.ir.node import CONST, Node, apply, const_value, make
from tracejit.ir.rewrite import rewrite_at, rewrite_together
from tracejit.ops import Op, ops
from tracejit.ops.contraction import LONGEST_ADDED, PRODUCTS
from tracejit.schedule import cost

_KINDS = (dtypes.float32, dtypes.float64)
_LOOKED_AT = 16
"""Operations that are looked at for one that takes long."""


_GATED = frozenset((ops.mul, ops.where, ops.add))
"""What a product that goes through a gate looks like."""


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
        outputs = set(graph.roots)
        swapped = {node.args[0] for node in graph.nodes() if _is_swap(node) and node.args[0].op in PRODUCTS}
        swaps = {
            user
            for node in swapped
            if node not in outputs and all(map(_is_swap, graph.readers()[node])) and movable(node)
            for user in graph.readers()[node]
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
    but their own: products, if they are `movable`, are added to those before as they are computed, several in one
    operation.
    """
    outputs = set(graph.roots)
    sums: set[Node] = set()
    for node in graph.nodes():
        if node.op is not ops.add or not _is_short_product(node.args[1]):
            continue
        first, second = node.args
        if not (first.op is ops.matmul or first in sums) or any(a.aval != node.aval for a in node.args):
            continue
        alone = all(len(graph.readers()[a]) == 1 and a not in outputs for a in node.args)
        if alone and movable(second):
            sums.add(node)
    return rewrite_at(graph, sums, _accumulated) if sums else graph


def _is_short_product(node: Node) -> bool:
    if node.op is not ops.matmul or len(node.shape) != 2 or node.dtype not in _KINDS:
        return False
    return min(node.shape) > 1 and 0 < node.args[0].shape[1] <= LONGEST_ADDED


def _accumulated(node: Node) -> Node:
    total, product = node.args
    # Who else reads the total is no sum of this kind.
    goes_on = total.op is ops.matmul_add and len(total.args) < 1 + 2 * cost.CHAIN
    return make(ops.matmul_add, (*(total.args if goes_on else (total,)), *product.args))


def share_factors(graph: Graph) -> Graph:
    """Computes two sums of products with the same first factors as one operation, if neither needs the other: the
    gradients of a cell's two matrices, which both read those of its gates.
    """
    found: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.nodes():
        if node.op is ops.matmul_add:
            found.setdefault((node.shape, node.dtype, *node.args[1::2]), []).append(node)
    pairs = [pair for alike in found.values() for pair in zip(alike[::2], alike[1::2], strict=False)]
    return rewrite_together(graph, pairs, _both) if pairs else graph


def _both(first: Node, second: Node) -> Node:
    factors = zip(first.args[1::2], first.args[2::2], second.args[2::2], strict=True)
    return make(ops.matmul_add_both, (first.args[0], second.args[0], *chain.from_iterable(factors)))


def end_products(graph: Graph) -> Graph:
    """What reads a product alone is done by it, while its result is in a cache: a bias and a relu, or a derivative that
    it is multiplied by or that makes it 0.
    """
    outputs = set(graph.roots)

    def is_read_once(node: Node) -> bool:
        return len(graph.readers()[node]) == 1 and node not in outputs

    found = set()
    for node in graph.nodes():
        if node.op is ops.relu and node.args[0].op is ops.add and is_read_once(node.args[0]):
            product, bias = node.args[0].args
            if _takes_bias(product, bias) and is_read_once(product):
                found.add(node)
        way = _gate_of(node) if node.op in _GATED else None
        if way is not None:
            op, whole, product, gate = way
            if is_read_once(whole) and is_read_once(product):
                readers = graph.readers()
                if _ends_up_in_memory(node, readers) if op is ops.matmul_bias else _is_kept(gate, readers):
                    found.add(node)
    return rewrite_at(graph, found, _ended)


def _takes_bias(product: Node, bias: Node) -> bool:
    if product.is_number or bias.is_number or product.op is not ops.matmul or product.dtype not in _KINDS:
        return False
    # The product with one column may be computed as a row.
    return len(product.shape) == 2 and product.shape[1] > 1 and bias.shape == product.shape[1:]


def _gate_of(node: Node) -> tuple[Op, Node, Node, Node] | None:
    """The operation that a node is if it is a product, perhaps in another shape, that goes through a gate; what goes
    through it, the product, the gate.
    """
    ways: list[tuple[Op, Node, Node]] = []
    if node.op is ops.mul:
        x, y = node.args
        ways = [(ops.matmul_mul, x, y), (ops.matmul_mul, y, x)]
    elif node.op is ops.where and node.args[0].op is ops.le:
        (gate, bound), (_, zero, whole) = node.args[0].args, node.args
        if _is_zero(bound) and _is_zero(zero):
            ways = [(ops.matmul_mask, whole, gate)]
    elif node.op is ops.add:
        x, y = node.args
        ways = [(ops.matmul_bias, x, y), (ops.matmul_bias, y, x)]
    found = []
    for op, whole, gate in ways:
        product = whole.args[0] if whole.op is ops.reshape else whole
        if _takes_gate(product) and not gate.is_number and gate.dtype is node.dtype and whole.shape == node.shape:
            if gate.shape == (product.shape[1:] if op is ops.matmul_bias else node.shape):
                found.append((op, whole, product, gate))
    # Of two products either could be the gate.
    return found[0] if len(found) == 1 else None


def _is_zero(node: Node) -> bool:
    return node.op == CONST and repr(float(const_value(node))) == "0.0"


def _takes_gate(product: Node) -> bool:
    """Whether a product is one by panels."""
    if product.op is not ops.matmul or len(product.shape) != 2 or product.dtype not in _KINDS:
        return False
    rows, columns = product.shape
    return isinstance(rows, int) and isinstance(columns, int) and rows >= cost.GATED_ROWS and columns > 1


def _readers_behind_views(node: Node, readers: Mapping[Node, Iterable[Node]]) -> Iterator[Node]:
    """What reads a node, perhaps through views."""
    for reader in readers.get(node, ()):
        if reader.op in (ops.reshape, ops.permute, ops.slice):
            yield from _readers_behind_views(reader, readers)
        else:
            yield reader


def _ends_up_in_memory(node: Node, readers: Mapping[Node, Iterable[Node]]) -> bool:
    """Whether nothing computes anything with a node on its way to memory."""
    return all(reader.family == "library" for reader in _readers_behind_views(node, readers))


def _is_kept(gate: Node, readers: Mapping[Node, Iterable[Node]]) -> bool:
    """Whether a gate is in memory anyway: a library operation reads it, or it takes long to compute from what is."""

    def is_in_memory(node: Node) -> bool:
        return any(reader.family == "library" for reader in _readers_behind_views(node, readers))

    while gate.op is ops.reshape:
        gate = gate.args[0]
    if is_in_memory(gate):
        return True
    rest, seen = [gate], set[Node]()
    while rest and len(seen) < _LOOKED_AT:
        node = rest.pop()
        if node in seen or not isinstance(node.op, Op) or node.op.family != "elementwise":
            continue
        if node.op.work >= cost.ELEMENTARY:
            return True
        seen.add(node)
        rest += [arg for arg in node.args if not is_in_memory(arg)]
    return False


def _ended(node: Node) -> Node:
    way = _gate_of(node)
    if way is None:
        product, bias = node.args[0].args
        return make(ops.matmul_relu, (*product.args, bias))
    op, _, product, gate = way
    flat = gate if op is ops.matmul_bias else apply(ops.reshape, gate, shape=product.shape)
    return apply(ops.reshape, make(op, (*product.args, flat)), shape=node.shape)


def arrange_products(
    graph: Graph, panel_columns: Callable[[str], int] | None, movable: Callable[[Node], bool] = _any
) -> Graph:
    """All of these, in the order in which one opens the way for another; without panels, and without what products end
    with, if panels have no columns.

    Products that are not `movable` are computed as they are asked for: turned or added up they would have other bits.
    """
    graph = accumulate_products(write_out_products(turn_products(graph, movable)), movable)
    return graph if panel_columns is None else share_factors(end_products(share_panels(graph, panel_columns)))
