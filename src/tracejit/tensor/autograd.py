"""Gradients: the engine that walks the tape back, hooks and the functions users call."""

from __future__ import annotations

import heapq
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from tracejit.ops.record import ops
from tracejit.runtime.arrays import placed
from tracejit.tensor.dispatch import beside, detached, wrap
from tracejit.tensor.host import shown
from tracejit.tensor.modes import set_grad_enabled
from tracejit.tensor.state import state
from tracejit.tensor.summing import Cut, GradientSum, as_tensor, summed
from tracejit.tensor.tape import OWED, TapeNode, current, pull
from tracejit.tensor.tensor import Tensor, method
from tracejit.tensor.whole_tape import Pass, pass_over

_SLICE = ops.slice


def _root_gradient(root: Tensor, given: Tensor | None, create_graph: bool) -> Tensor:
    if given is None:
        if root.numel() != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        return beside(root, ops.full, (1,), (root._shape, root._dtype))  # type: ignore[no-any-return]
    if given._shape != root._shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output[0] has a shape of {list(given._shape)} and output[0] has a shape of "
            f"{list(root._shape)}."
        )
    return given


def _reaches(roots: list[TapeNode], targets: set[Any]) -> set[TapeNode]:
    """The steps between the roots and the targets (leaf tensors, or (step, result))."""
    order: list[TapeNode] = []
    seen: set[TapeNode] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            order.append(node)
            stack.extend(e[0] for e in node.edges if type(e) is tuple)
    needed: set[TapeNode] = set()
    for node in sorted(order, key=lambda n: n.seq):
        for e in node.edges:
            if type(e) is tuple:
                hit = e in targets or e[0] in needed
            else:
                hit = e is not None and ("leaf", id(e)) in targets
            if hit:
                needed.add(node)
                break
    return needed


SlotOf = Callable[[Any], tuple[list[Any], int]]
"""Where the gradients of an edge are added up: a list, and a place in it."""
Send = Callable[[Any, Tensor], None]
"""Adds a gradient to those of an edge."""


def run_backward(
    roots: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor] | None,
    accumulate: bool,
) -> list[Tensor | None]:
    """Walk the tape back from the roots.

    With `accumulate` the gradients are added to `.grad` of the leaves (or of `inputs`), else those of `inputs` are
    returned.
    """
    with set_grad_enabled(create_graph):
        return _walk(roots, cotangents, retain_graph, create_graph, inputs, accumulate)


def _walk(
    roots: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor] | None,
    accumulate: bool,
) -> list[Tensor | None]:
    pending: dict[TapeNode, list[Any]] = {}
    leaves: dict[int, list[Any]] = {}
    heap: list[tuple[int, TapeNode]] = []

    # Sums without a history that no session has to see are made in place.
    in_place = not create_graph and state.session is None

    def slot_of(edge: Any) -> tuple[list[Any], int]:
        slots: list[Any] | None
        if type(edge) is tuple:
            node, index = edge
            slots = pending.get(node)
            if slots is None:
                pending[node] = slots = [None] * node.outs
                heapq.heappush(heap, (-node.seq, node))
        else:
            index = 1
            slots = leaves.get(id(edge))
            if slots is None:
                leaves[id(edge)] = slots = [edge, None]
        return slots, index

    def send(edge: Any, ct: Tensor, cut: Cut | None = None) -> None:
        slots, index = slot_of(edge)
        total = slots[index]
        if total is None and cut is None:
            slots[index] = ct
        else:
            slots[index] = summed(total, ct, cut) if in_place else ops.add(total, ct)

    wanted: dict[Any, Tensor | None] = {}
    keys: list[Any] = []
    root_nodes = []
    for root, given in zip(roots, cotangents, strict=True):
        node = current(root)
        edge = root if node is None else (node, root._index)
        if node is not None:
            root_nodes.append(node)
        send(edge, _root_gradient(root, given, create_graph))
    if inputs is not None:
        for t in inputs:
            node = current(t)
            keys.append(("leaf", id(t)) if node is None else (node, t._index))
        wanted = dict.fromkeys(keys)
        needed = _reaches(root_nodes, set(keys))
    visited: list[Any] = []
    while heap:
        _, node = heapq.heappop(heap)
        if node not in pending:
            # It was walked back together with others.
            continue
        if node.deferred and in_place and inputs is None:
            walked = node.push_all(pending, slot_of, send)  # type: ignore[attr-defined]
            if walked is not None:
                visited.append(walked)
                continue
        cts = [as_tensor(total) for total in pending.pop(node)]
        if node.hooks:
            for index, hooks in node.hooks.items():
                if cts[index] is not None:
                    cts[index] = _run_hooks(hooks, cts[index])  # type: ignore[arg-type]
        if node.retain:
            for index, ref in node.retain.items():
                target = ref()
                if target is not None and cts[index] is not None:
                    target._grad = cts[index] if create_graph else _owned(cts[index])
        if inputs is not None:
            for index, ct in enumerate(cts):
                if (node, index) in wanted and ct is not None:
                    wanted[node, index] = ct
            if node not in needed:
                continue
        visited.append(node)
        if node.fused and in_place and inputs is None and node.push(cts[0], slot_of, send):  # type: ignore[attr-defined]
            continue
        if in_place and node.op is _SLICE:
            start, _, step = node.attrs
            send(node.edges[0], cts[0], (node.avals[0].shape, start, step))
            continue
        found = node.pull(cts) if node.custom else pull(node, cts, create_graph)  # type: ignore[attr-defined]
        for edge, g in zip(node.edges, found, strict=True):
            if g is not None and edge is not None:
                send(edge, g)
    if not retain_graph:
        for node in visited:
            node.release()
    for entry in leaves.values():
        leaf, total = entry
        # What a leaf keeps may be a copy: the gradients behind it are not held beside all copies.
        entry[1] = None
        ct = _at_leaf(leaf, as_tensor(total))
        if ("leaf", id(leaf)) in wanted:
            wanted["leaf", id(leaf)] = ct
        if accumulate and inputs is None:
            # A hook may have kept what it was given.
            accumulate_grad(leaf, ct, create_graph, own=type(total) is GradientSum and leaf._hooks is None)
    if inputs is None:
        return []
    if accumulate:
        for t, key in zip(inputs, keys, strict=True):
            if wanted[key] is not None:
                accumulate_grad(t, wanted[key], create_graph)
        return []
    return [wanted[key] for key in keys]


def _at_leaf(leaf: Tensor, ct: Tensor) -> Tensor:
    """A gradient that has arrived, as the leaf's hooks leave it."""
    return _run_hooks(leaf._hooks, ct) if leaf._hooks else ct


def _walk_whole(found: Pass, retain_graph: bool) -> bool:
    """Walk the tape back by its program, if it has one. Whether that was done."""
    arrived = found.run()
    if arrived is None:
        return False
    ends, steps = arrived
    with set_grad_enabled(False):
        if not retain_graph:
            for node in steps:
                node.release()
        for leaf, array in ends:
            accumulate_grad(leaf, _at_leaf(leaf, wrap(array)), False, own=leaf._hooks is None)
    return True


def _owned(ct: Any) -> Any:
    """A gradient in memory of its own."""
    return ops.copy(ct)


def accumulate_grad(leaf: Tensor, ct: Any, create_graph: bool, *, own: bool = False) -> None:
    """Add a gradient to a leaf's `.grad`; `own` says that nobody else has its memory."""
    grad = leaf._grad
    if grad is None:
        leaf._grad = ct if create_graph else wrap(placed(ct._array)) if own else _owned(ct)
    elif create_graph:
        leaf._grad = ops.add(grad, ct)
    else:
        grad.add_(ct)
    if leaf._hooks is not None and leaf._hooks.after:
        for hook in list(leaf._hooks.after.values()):
            hook(leaf)


class Hooks:
    """The hooks of one tensor: `before` get its gradient, `after` run when `.grad` has it."""

    __slots__ = ("after", "before", "count")

    def __init__(self) -> None:
        self.before: dict[int, Callable[[Tensor], Tensor | None]] = {}
        self.after: dict[int, Callable[[Tensor], None]] = {}
        self.count = 0


class RemovableHandle:
    """Takes a hook away again with `remove()`, or at the end of a `with` block."""

    def __init__(self, table: dict[int, Any], key: int, leaf: Tensor | None = None) -> None:
        self._table, self._key = table, key
        self._leaf = None if leaf is None else weakref.ref(leaf)
        self.id = key

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        self._table.pop(self._key, None)
        leaf = None if self._leaf is None else self._leaf()
        if leaf is not None and leaf._hooks is not None and not (leaf._hooks.before or leaf._hooks.after):
            # A leaf without hooks may be part of a compiled backward pass again.
            leaf._hooks = None

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def _run_hooks(hooks: Hooks, ct: Tensor) -> Tensor:
    for hook in list(hooks.before.values()):
        changed = hook(ct)
        if changed is not None:
            if not isinstance(changed, Tensor) or changed._shape != ct._shape:
                raise RuntimeError(f"a gradient hook must return None or a tensor of shape {list(ct._shape)}")
            ct = changed
    return ct


@method()
def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `hook(grad)` whenever a gradient of the tensor is computed; what it returns replaces the gradient.

    Raises: RuntimeError if the tensor does not require gradients.
    """
    if not self._requires_grad:
        raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
    return outside(_register, self, hook, "before")


@method()
def register_post_accumulate_grad_hook(self: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `hook(tensor)` after `.grad` of a leaf was accumulated.

    Raises: RuntimeError if the tensor is not a leaf.
    """
    if self._node is not None:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    return outside(_register, self, hook, "after")


def outside(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that touches the tape itself: in a compiled region on real memory."""
    session = state.session
    return function(*args) if session is None else session.host(function, args, {})


@shown("a hook")
def _register(t: Tensor, hook: Callable[..., Any], when: str) -> RemovableHandle:
    hooks = _hooks_of(t)
    table = hooks.before if when == "before" else hooks.after
    hooks.count += 1
    table[hooks.count] = hook
    return RemovableHandle(table, hooks.count, t if t._hooks is hooks else None)


def _hooks_of(t: Tensor) -> Hooks:
    node = current(t)
    if node is None:
        if t._hooks is None:
            t._hooks = Hooks()
        return t._hooks  # type: ignore[no-any-return]
    if node.hooks is None:
        node.hooks = {}
    return node.hooks.setdefault(t._index, Hooks())  # type: ignore[no-any-return]


@method()
def retain_grad(self: Tensor) -> None:
    """Keep the gradient of a tensor that is not a leaf in its `.grad`."""
    if not self._requires_grad:
        raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
    outside(_retain, self)


@shown("retain_grad")
def _retain(t: Tensor) -> None:
    node = current(t)
    if node is not None:
        if node.retain is None:
            node.retain = {}
        node.retain[t._index] = weakref.ref(t)


@method()
def backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Add the gradient of the tensor to `.grad` of the leaves it was computed from.

    Raises: RuntimeError if nothing was recorded, if the tensor has more than one element and `gradient` is missing,
    or if the recorded values were released by an earlier call.
    """
    run(([self], [gradient]), retain_graph, create_graph, None if inputs is None else list(inputs), True)


def run(
    start: tuple[list[Tensor], list[Tensor | None]],
    retain_graph: bool | None,
    create_graph: bool,
    inputs: list[Tensor] | None,
    accumulate: bool,
) -> list[Tensor | None]:
    """Check the arguments of a backward pass and run it, in a compiled region as one unit of the trace."""
    roots, cotangents = start
    for root in roots:
        if not root._requires_grad:
            raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    for t in inputs or ():
        if not t._requires_grad:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    for root, given in zip(roots, cotangents, strict=True):
        if given is None and root.numel() != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        if given is not None and given._shape != root._shape:
            _root_gradient(root, given, create_graph)
    keep = create_graph if retain_graph is None else retain_graph
    args = (roots, cotangents, keep, create_graph, inputs, accumulate)
    if state.session is not None:
        return state.session.backward(run_backward, args)  # type: ignore[no-any-return]
    whole = pass_over(roots, cotangents) if accumulate and inputs is None and not create_graph else None
    if whole is None:
        return run_backward(*args)
    if not _walk_whole(whole, keep):
        run_backward(*args)
        whole.took()
    return []


def _as_list(x: Any) -> list[Any]:
    return [x] if isinstance(x, Tensor) or x is None else list(x)


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` with respect to `inputs`, without touching `.grad`.

    Edge: `only_inputs` changes nothing, as in PyTorch.
    Raises: RuntimeError if an input was not used and `allow_unused` is not set, ValueError if zeros are asked for and
    it is False, NotImplementedError for stacks of `grad_outputs`.

    >>> import tracejit as tj
    >>> x = tj.tensor(3.0, requires_grad=True)
    >>> tj.autograd.grad(x * x, x)
    (tensor(6.),)
    """
    if is_grads_batched:
        raise NotImplementedError("grad(): is_grads_batched=True is not there; call grad() for each of grad_outputs")
    if not only_inputs:
        warnings.warn(
            "only_inputs argument is deprecated and is ignored now (defaults to True). To accumulate gradient for "
            "other parts of the graph, please use autograd.backward.",
            FutureWarning,
            stacklevel=2,
        )
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: False.")
    roots, targets = _as_list(outputs), _as_list(inputs)
    given = [None] * len(roots) if grad_outputs is None else _as_list(grad_outputs)
    found = run((roots, given), retain_graph, create_graph, targets, False)
    out: list[Tensor | None] = []
    for t, g in zip(targets, found, strict=True):
        if g is None and materialize_grads:
            g = beside(t, ops.full, (0,), (t._shape, t._dtype))
        elif g is None and not allow_unused:
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior."
            )
        out.append(g)
    return tuple(out)


@method()
def detach(self: Tensor) -> Tensor:
    """The same memory without history: a tensor that does not require gradients."""
    session = state.session
    if session is not None:
        return session.detach(self)  # type: ignore[no-any-return]
    return detached(self)


@method()
def detach_(self: Tensor) -> Tensor:
    """Forget the history in place.

    Raises: RuntimeError for a view.
    """
    if self._requires_grad or self._base is not None:
        outside(_forget, self)
    return self


@shown("detach_")
def _forget(t: Tensor) -> None:
    if t._base is not None:
        raise RuntimeError("Can't detach views in-place. Use detach() instead.")
    t._node = None
    t._requires_grad = False


def _grad_fn(self: Tensor) -> Any:
    """The step that made the tensor, or None for a leaf."""
    if self._node is OWED:
        self._data()
    elif self._base is not None and self._base._node is OWED:
        self._base._data()
    return current(self)


Tensor.grad_fn = property(_grad_fn)  # type: ignore[attr-defined]
