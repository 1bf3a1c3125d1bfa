"""The checker of graphs: every node is typed again, and what the record cannot say is checked here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracejit.aval import Aval
from tracejit.errors import TracejitError
from tracejit.ir.graph import Graph
from tracejit.ir.node import INPUT, ITEM, Node, make
from tracejit.ir.text import names_of, node_text, value_text
from tracejit.ops.record import Op

# The families whose operands may be numbers: the others compute on tensors alone.
_NUMBERS = ("elementwise", "create", "random")


class GraphError(TracejitError):
    """A graph that is not well formed: a fault in tracejit, never in the user's program."""


def _arity(node: Node, op: Op) -> str | None:
    fits = bool(node.args) if op.variadic else len(node.args) == len(op.params)
    return None if fits else f"{op.name} takes the operands {op.params}, got {len(node.args)}"


def _attributes(node: Node, op: Op) -> str | None:
    if len(node.attrs) != len(op.attrs):
        return f"{op.name} takes the attributes {op.attrs}, got {node.attrs}"
    for name, value in zip(op.attrs, node.attrs, strict=True):
        try:
            value_text(value)
        except TypeError as error:
            return f"attribute {name}: {error}"
    return None


def _operands(node: Node, op: Op) -> str | None:
    for i, a in enumerate(node.args):
        name = op.params[0] if op.variadic else op.params[i]
        if a.is_number and op.family not in _NUMBERS:
            return f"operand {name} is a number, which the family {op.family} does not take"
        if not a.is_number and not isinstance(a.aval, Aval):
            return f"operand {name} has several results: take one of them"
        if not a.is_number and op.family in ("create", "random"):
            return f"operand {name} is a tensor, which the family {op.family} does not take"
    return None


def _type(node: Node, op: Op) -> str | None:
    try:
        again = make(op, node.args, node.attrs)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        return f"its typing rule refuses it: {error}"
    if again is not node:
        return f"typed again it is {again.aval}, and not the node that its operands and attributes stand for"
    return None


# What is asked of every operation, in this order.
CHECKS: tuple[Callable[[Node, Op], str | None], ...] = (_arity, _attributes, _operands, _type)


def _homes(graph: Graph) -> str | None:
    taken: dict[int, int] = {}
    for o, k in graph.homes.items():
        if not 0 <= o < len(graph.outputs) or not 0 <= k < len(graph.inputs):
            return f"home {k} of output {o}: there are {len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        if k in taken:
            return f"outputs {taken[k]} and {o} have one home, input {k}"
        taken[k] = o
        if graph.outputs[o].aval != graph.inputs[k].aval or graph.inputs[k].attrs[1] is not None:
            return f"output {o} is {graph.outputs[o].aval}, its home, input {k}, is {graph.inputs[k].aval}"
    return None


def check(graph: Graph, context: str = "") -> None:
    """Nothing, if the graph is well formed.

    Raises: GraphError that says what is wrong, where in the user's source, and shows the lines around it. `context`
        stands before it.
    """
    wrong = _homes(graph)
    if wrong:
        raise GraphError(f"{context}graph {graph.name}: {wrong}")
    names = names_of(graph)
    nodes = graph.nodes()
    for i, node in enumerate(nodes):
        message = None
        if isinstance(node.op, Op):
            op = node.op
            message = next((m for one in CHECKS if (m := one(node, op))), None)
        elif node.op == ITEM and not isinstance(node.aval, Aval):
            message = "one of several results has no type"
        elif node.op == INPUT and node.attrs[1] is not None and len(node.attrs[1]) != node.tensor.ndim:
            message = f"its strides {node.attrs[1]} do not fit its shape {node.shape}"
        if message:
            raise GraphError(f"{context}{_where(graph, node)}{message}\n{_around(nodes, i, names)}")


def _where(graph: Graph, node: Node) -> str:
    line = graph.lines.get(node)
    return f"{line}: {node.name}: " if line else f"graph {graph.name}: {node.name}: "


def _around(nodes: Sequence[Node], at: int, names: dict[Node, str]) -> str:
    out = []
    for i in range(max(at - 3, 0), min(at + 2, len(nodes))):
        node = nodes[i]
        if isinstance(node.op, Op) or node.op == ITEM:
            out.append(f"{'>' if i == at else ' '} {names[node]} = {_expression(node, names)}  # {node.aval}")
    return "\n".join(out)


def _expression(node: Node, names: dict[Node, str]) -> str:
    try:
        return node_text(node, names)
    except (TypeError, ValueError):
        return f"{node.name}({', '.join(names[a] for a in node.args)}, attributes {node.attrs!r})"
