"""The tape: what eager operations leave behind for `backward`."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

from tracejit.ops.record import Op
from tracejit.ops.view import sum_to
from tracejit.tensor.tensor import Tensor, aval_of

_count = itertools.count()


def next_position() -> int:
    """A position on the tape after all that were given before."""
    return next(_count)


class TapeNode:
    """One recorded operation.

    `edges` has an entry for each operand: None, the leaf tensor, or (node, which of its results). `saved` are the
    values that the gradient rules asked for, with the version of their memory. `done` says that they were released.
    """

    __slots__ = (
        "__weakref__",
        "attrs",
        "avals",
        "done",
        "edges",
        "hooks",
        "label",
        "op",
        "outs",
        "results",
        "retain",
        "saved",
        "seq",
    )

    op: Op
    attrs: tuple[Any, ...]
    edges: tuple[Any, ...]
    saved: tuple[tuple[Tensor | None, int], ...]
    results: tuple[tuple[Tensor | None, int], ...]
    avals: tuple[Any, ...]
    outs: tuple[Any, ...]
    seq: int
    hooks: dict[int, Any] | None
    retain: dict[int, Any] | None
    done: bool
    label: str | None

    def name(self) -> str:
        """The step's name, as PyTorch shows it."""
        base = self.label or "".join(part.capitalize() for part in self.op.name.split("_"))
        return f"{base}Backward0"

    def __repr__(self) -> str:
        return f"<{self.name()}>"

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The steps that made the operands."""
        return tuple(e if isinstance(e, tuple) else (e, 0) for e in self.edges)


OWED: TapeNode = TapeNode.__new__(TapeNode)
"""Stands for the step that made a tensor whose value a compiled region still owes: such a tensor is no leaf."""


@cache
def _plan(op: Op, mask: tuple[bool, ...]) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Which operands and results the rules of the operands that need gradients ask for, and whether shapes."""
    params: set[int] = set()
    results: set[int] = set()
    avals = False
    for i, needed in enumerate(mask):
        rule = op.rules.get(op.params[0 if op.variadic else i])
        if needed and rule is not None:
            params.update(rule.saves_params)
            results.update(rule.saves_results)
            avals = avals or any(kind == "aval" for kind, _ in rule.needs)
    return tuple(sorted(params)), tuple(sorted(results)), avals


_NOTHING: tuple[Any, ...] = ()


def current(t: Tensor) -> Any:
    """The step that made the tensor; for a view whose memory was changed since, the view of the changed base."""
    node = t._node
    if t._base is None:
        return node
    cell = t._cell
    if cell is not None and t._seen != cell[0] and t._base._node is not None:
        rebuilt = t._base
        for op, attrs in t._view:
            rebuilt = op(rebuilt, **dict(zip(op.attrs, attrs, strict=True)))
        t._node, t._index, t._requires_grad = rebuilt._node, rebuilt._index, rebuilt._requires_grad
        t._seen = cell[0]
        return t._node
    return node


def enter(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], outs: tuple[Tensor, ...]) -> None:
    """Record a step that made `outs` from `args`, of which at least one requires gradients."""
    edges: list[Any] = []
    mask: list[bool] = []
    rules = op.rules
    params = op.params
    for i, a in enumerate(args):
        if isinstance(a, Tensor) and a._requires_grad and (op.variadic or params[i] in rules):
            source = a._node if a._base is None else current(a)
            edges.append(a if source is None else (source, a._index))
            mask.append(True)
        else:
            edges.append(None)
            mask.append(False)
    if True not in mask:
        return
    keep, keep_results, shapes = _plan(op, tuple(mask))
    node: TapeNode = TapeNode.__new__(TapeNode)
    node.op = op
    node.attrs = attrs
    node.edges = tuple(edges)
    if keep:
        saved: list[Any] = [None] * len(args)
        for i in keep:
            a = args[i]
            saved[i] = (a, a._version) if isinstance(a, Tensor) else (a, 0)
        node.saved = tuple(saved)
    else:
        node.saved = _NOTHING
    node.results = tuple((held(outs[i]), outs[i]._version) for i in keep_results) if keep_results else _NOTHING
    out_shape = outs[0]._shape
    if shapes or op.variadic or (op.family == "elementwise" and any(isinstance(a, Tensor) and a._shape != out_shape for a in args)):
        node.avals = tuple(aval_of(a) if isinstance(a, Tensor) else None for a in args)
    else:
        node.avals = _NOTHING
    node.outs = tuple(aval_of(o) for o in outs)
    node.seq = next_position()
    node.hooks = node.retain = node.label = None
    node.done = False
    for i, out in enumerate(outs):
        if out._dtype.is_floating_point:
            out._node = node
            out._index = i
            out._requires_grad = True


def held(out: Tensor) -> Tensor:
    """A result as its own step saves it: the same memory without the history, which would be a cycle."""
    t: Tensor = Tensor.__new__(Tensor)
    t._array = out._array
    if out._array is None:
        t._aval = out._aval
    t._dtype = out._dtype
    t._requires_grad = False
    t._cell = out._share()
    t._node = t._grad = t._base = t._hooks = None
    return t


def _unpack(entry: tuple[Any, int], node: TapeNode) -> Any:
    value, version = entry
    if isinstance(value, Tensor) and value._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{value._dtype} {list(value._shape)}], saved by {node.name()}, is at version {value._version}; "
            f"expected version {version} instead. Hint: change a clone of the tensor, or do the in-place operation "
            "before the tensor is used."
        )
    return value


def pull(node: TapeNode, cts: list[Tensor | None], create_graph: bool) -> list[Tensor | None]:
    """The gradients of a step's operands from those of its results."""
    op = node.op
    if node.done:
        raise RuntimeError(
            "Trying to backward through the graph a second time (or directly access saved tensors after they have "
            "already been freed). Saved intermediate values of the graph are freed when you call .backward() or "
            "autograd.grad(). Specify retain_graph=True if you need to backward through the graph a second time or "
            "if you need to access saved tensors after calling backward."
        )
    ct = cts[0]
    if ct is None:
        return [None] * len(node.edges)
    grads: list[Tensor | None] = []
    whole: Any = None
    for i, edge in enumerate(node.edges):
        if edge is None:
            grads.append(None)
            continue
        rule = op.rules[op.params[0 if op.variadic else i]]
        if op.variadic and whole is not None:
            grads.append(whole[i])
            continue
        given: list[Any] = []
        for kind, k in rule.needs:
            if kind == "ct":
                given.append(ct)
            elif kind == "param":
                given.append(_unpack(node.saved[k], node))
            elif kind == "result":
                given.append(_result(node, k, rule, create_graph))
            elif kind == "attr":
                given.append(node.attrs[k])
            else:
                given.append(node.avals if op.variadic else node.avals[k])
        g = rule.function(*given)
        if op.variadic:
            whole = g
            g = whole[i]
        elif op.family == "elementwise" and node.avals and g._shape != node.avals[i].shape:
            g = sum_to(g, g._shape, node.avals[i].shape)
        grads.append(g)
    return grads


def _result(node: TapeNode, k: int, rule: Any, create_graph: bool) -> Any:
    """A saved result, with its history if the gradient is to be differentiated again."""
    order = _plan(node.op, tuple(e is not None for e in node.edges))[1]
    saved = _unpack(node.results[order.index(k)], node)
    if create_graph and saved._dtype.is_floating_point:
        t = held(saved)
        t._node, t._index, t._requires_grad = node, k, True
        return t
    return saved


def release(node: TapeNode) -> None:
    """Let go of the saved values after a backward pass."""
    if node.saved or node.results:
        node.saved = node.results = _NOTHING
        node.done = True
