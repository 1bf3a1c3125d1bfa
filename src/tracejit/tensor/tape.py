"""The tape: what eager operations leave behind for `backward`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

from tracejit.ops.record import Op
from tracejit.ops.view import sum_to
from tracejit.runtime.cuda.array import DeviceArray
from tracejit.tensor.state import state, untraced
from tracejit.tensor.tensor import Tensor, aval_of, on_gpu

_count = itertools.count()

_VIEWS = 1 << 20
"""Steps of views that fit between two places of the tape."""
next_position: Callable[[], int] = _count.__next__
"""A position on the tape after all that were given before."""


def next_positions(count: int) -> list[int]:
    """The next positions on the tape."""
    return list(itertools.islice(_count, count))


class TapeNode:
    """One recorded operation.

    `edges` has an entry for each operand: None, the leaf tensor, or (node, which of its results). `saved` are the
    values that the gradient rules asked for, with the version of their memory. `done` says that tensors were released.
    `seq` is the place on the tape, and `shown` how many steps of views stand right behind it (see `current`).
    """

    # Defaults on the class: most steps set five fields, and a step is made for every operation.
    op: Op
    attrs: tuple[Any, ...]
    edges: tuple[Any, ...]
    seq: float
    saved: tuple[Any, ...] = ()
    results: tuple[Any, ...] = ()
    avals: tuple[Any, ...] = ()
    outs: int = 1
    hooks: dict[int, Any] | None = None
    retain: dict[int, Any] | None = None
    done: bool = False
    label: str | None = None
    shown: int = 0
    fused: ClassVar[bool] = False
    deferred: ClassVar[bool] = False
    custom: ClassVar[bool] = False

    def name(self) -> str:
        """The step's name, as PyTorch shows it."""
        base = self.label or "".join(part.capitalize() for part in (self.op.plain or self.op).name.split("_"))
        return f"{base}Backward0"

    def __repr__(self) -> str:
        return f"<{self.name()}>"

    def release(self) -> None:
        """Let go of the saved tensors after a backward pass; a step that keeps none can be walked back again."""
        if not self.results:
            for entry in self.saved:
                if entry is not None and isinstance(entry[0], Tensor):
                    break
            else:
                return
        self.saved = self.results = ()
        self.done = True

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """The steps that made the operands."""
        return tuple(e if isinstance(e, tuple) else (e, 0) for e in self.edges)


OWED: TapeNode = TapeNode.__new__(TapeNode)
"""Stands for the step that made a tensor whose value a compiled region still owes: such a tensor is no leaf."""


class _Plan:
    """What a step keeps if the operands of a mask require gradients.

    `wanted` are the operands that get one, `params` and `results` the values their rules ask for, `shapes` whether
    they ask for shapes.
    """

    __slots__ = ("params", "results", "shapes", "wanted")

    def __init__(self, op: Op, mask: int) -> None:
        params: set[int] = set()
        results: set[int] = set()
        self.shapes = op.variadic
        wanted = []
        for i in range(mask.bit_length()):
            rule = op.rules.get(op.params[0 if op.variadic else i])
            if mask >> i & 1 and rule is not None:
                wanted.append(i)
                params.update(rule.saves_params)
                results.update(rule.saves_results)
                self.shapes = self.shapes or any(kind == "aval" for kind, _ in rule.needs)
        self.wanted = tuple(wanted)
        self.params = tuple(sorted(params))
        self.results = tuple(sorted(results))


_plans: dict[tuple[Op, int], _Plan] = {}


def _plan(op: Op, mask: int) -> _Plan:
    key = (op, mask)
    found = _plans.get(key)
    if found is None:
        found = _plans[key] = _Plan(op, mask)
    return found


def current(t: Tensor) -> Any:
    """The step that made the tensor; for a view whose memory was changed since, the view of the changed base."""
    node = t._node
    if t._base is None:
        return node
    cell = t._cell
    if cell is not None and t._seen != cell[0] and t._base._node is not None:
        rebuilt = t._base
        # It is the view that was taken already: nothing that a compiled region should see, and no matter of who looks.
        grad, state.grad_enabled = state.grad_enabled, True
        try:
            with untraced():
                for op, step in t._view:
                    args, attrs = op.of_step(rebuilt, step)
                    rebuilt = op(*args, **dict(zip(op.attrs, attrs, strict=True)))
        finally:
            state.grad_enabled = grad
        t._index, t._node, t._requires_grad = rebuilt._index, rebuilt._node, rebuilt._requires_grad
        _place_behind(t._base._node, t._node)
        t._seen = cell[0]
        return t._node
    return node


def is_recorded(t: Tensor) -> bool:
    """Whether what is made of a tensor now is put on the tape."""
    if t._base is not None:
        current(t)
    return t._requires_grad and state.grad_enabled


def _place_behind(base: TapeNode, node: TapeNode) -> None:
    """Let the steps of a view, of which `node` is the last, stand right behind its base's.

    Gradients are added up in the order of the tape, which shall not depend on when somebody looked at the view.
    """
    steps = []
    while node is not base:
        steps.append(node)
        node = node.edges[0][0]
    for step in reversed(steps):
        base.shown += 1
        step.seq = base.seq + base.shown / _VIEWS


def enter(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], outs: tuple[Tensor, ...], mask: int) -> None:
    """Record a step that made `outs` from `args`; the bits of `mask` say which operands require gradients."""
    plan = _plans.get((op, mask)) or _plan(op, mask)
    if not plan.wanted:
        return
    node: TapeNode = TapeNode.__new__(TapeNode)
    edges: list[Any] = [None] * len(args)
    for i in plan.wanted:
        a = args[i]
        source = a._node if a._base is None else current(a)
        edges[i] = a if source is None else (source, a._index)
    node.op = op
    node.attrs = attrs
    node.edges = tuple(edges)
    node.seq = next(_count)
    if plan.params:
        saved: list[Any] = [None] * len(args)
        for i in plan.params:
            a = args[i]
            saved[i] = (a, a._version) if isinstance(a, Tensor) else (a, 0)
        node.saved = tuple(saved)
    if plan.results:
        node.results = tuple([(held(outs[i]), outs[i]._version) for i in plan.results])
    if plan.shapes:
        node.avals = tuple([aval_of(a) if isinstance(a, Tensor) else None for a in args])
    elif op.family == "elementwise":
        array = outs[0]._array
        # Without one nobody has values, and which sizes are equal is not asked for more than needed.
        shape = None if array is None else array.shape
        for i in plan.wanted:
            if shape is None or args[i]._array.shape != shape:
                node.avals = tuple([aval_of(a) if isinstance(a, Tensor) else None for a in args])
                break
    if len(outs) == 1:
        out = outs[0]
        if out._dtype.is_floating_point:
            # The place before the step: an interrupt between the two leaves a leaf.
            out._index = 0
            out._node = node
            out._requires_grad = True
        return
    node.outs = len(outs)
    for i, out in enumerate(outs):
        if out._dtype.is_floating_point:
            out._index = i
            out._node = node
            out._requires_grad = True


def held(out: Tensor) -> Tensor:
    """A result as its own step saves it: the same memory without the history, which would be a cycle."""
    t: Tensor = Tensor.__new__(Tensor)
    t._array = out._array
    if out._array is None:
        t._aval, t._strides = out._aval, out._strides
    t._dtype = out._dtype
    t._requires_grad = False
    t._cell = out._share()
    t._node = t._grad = t._base = t._hooks = None
    return t


def unpack(entry: tuple[Any, int], node: TapeNode) -> Any:
    """A saved value. Raises: RuntimeError if it was changed in place since."""
    value, version = entry
    if isinstance(value, Tensor) and value._version != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{value._dtype} {list(value._shape)}], saved by {node.name()}, is at version {value._version}; "
            f"expected version {version} instead. Hint: change a clone of the tensor, or do the in-place operation "
            "before the tensor is used."
        )
    return value


def refuse_released(node: TapeNode) -> None:
    """Raises: RuntimeError if a step has let go of what it saved."""
    if node.done:
        raise RuntimeError(
            "Trying to backward through the graph a second time (or directly access saved tensors after they have "
            "already been freed). Saved intermediate values of the graph are freed when you call .backward() or "
            "autograd.grad(). Specify retain_graph=True if you need to backward through the graph a second time or "
            "if you need to access saved tensors after calling backward."
        )


def pull(node: TapeNode, cts: list[Tensor | None], create_graph: bool) -> list[Tensor | None]:
    """The gradients of a step's operands from those of its results."""
    op = node.op
    refuse_released(node)
    ct = cts[0]
    if ct is None:
        return [None] * len(node.edges)
    if DeviceArray.used and on_gpu(ct) is not state.gradients_on_gpu:
        state.gradients_on_gpu = not state.gradients_on_gpu
        try:
            return pull(node, cts, create_graph)
        finally:
            state.gradients_on_gpu = not state.gradients_on_gpu
    grads: list[Tensor | None] = []
    whole: Any = None
    for i, edge in enumerate(node.edges):
        if edge is None:
            grads.append(None)
            continue
        rule = op.rules[op.params[0 if op.variadic else i]]
        if op.joint and whole is not None:
            grads.append(whole[i])
            continue
        given: list[Any] = []
        for kind, k in rule.needs:
            if kind == "ct":
                given.append(ct)
            elif kind == "param":
                given.append(unpack(node.saved[k], node))
            elif kind == "result":
                given.append(_result(node, k, rule, create_graph))
            elif kind == "attr":
                given.append(node.attrs[k])
            elif kind == "create_graph":
                given.append(create_graph)
            else:
                given.append(node.avals if op.variadic else node.avals[k])
        g = rule.function(*given)
        if op.joint:
            whole = g
            g = whole[i]
        elif op.family == "elementwise" and node.avals and g._shape != node.avals[i].shape:
            g = sum_to(g, g._shape, node.avals[i].shape)
        grads.append(g)
    return grads


def _result(node: TapeNode, k: int, rule: Any, create_graph: bool) -> Any:
    """A saved result, with its history if the gradient is to be differentiated again."""
    saved = unpack(node.results[kept_results(node).index(k)], node)
    if create_graph and saved._dtype.is_floating_point:
        t = held(saved)
        t._index, t._node, t._requires_grad = k, node, True
        return t
    return saved


def kept_results(node: TapeNode) -> tuple[int, ...]:
    """Which of its results a step saves."""
    return _plan(node.op, sum(1 << i for i, e in enumerate(node.edges) if e is not None)).results
