"""Operations of the user's own: a forward and a backward function of Python.

In: a class with both. Out: results with a step on the tape that calls the latter.
Must not know: regions; one that is compiled runs such operations between two segments.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

from tracejit.aval import Aval
from tracejit.ops.record import ops
from tracejit.ops.view import sum_to
from tracejit.shapes import broadcast
from tracejit.tensor.autograd import outside
from tracejit.tensor.dispatch import beside, detached
from tracejit.tensor.host import shown
from tracejit.tensor.modes import no_grad
from tracejit.tensor.promote import to_dtype
from tracejit.tensor.state import state
from tracejit.tensor.tape import TapeNode, current, held, next_position, refuse_released, unpack
from tracejit.tensor.tensor import Tensor, aval_of


class FunctionCtx:
    """What a forward function leaves for its backward function; attributes of any name may be set."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._to_save: tuple[Tensor | None, ...] = ()
        self._fixed: frozenset[int] = frozenset()
        self._materialize = True
        self._step: Callable[[], FunctionStep | None] = lambda: None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `backward`, which finds them in `saved_tensors`, and is refused if they were changed.

        Raises: TypeError for what is no tensor.
        """
        for i, t in enumerate(tensors):
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(
                    f"save_for_backward can only save variables, but argument {i} is of type {type(t).__name__}"
                )
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was kept.

        Raises: RuntimeError if it was released, or changed in place since.
        """
        step = self._step()
        return self._to_save if step is None else step.saved_tensors()

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Say of results that they require no gradients."""
        self._fixed = frozenset(map(id, outputs))

    def mark_dirty(self, *inputs: Tensor) -> None:
        """Raises: NotImplementedError, as operands that change in place are not supported."""
        raise NotImplementedError("mark_dirty() is not supported: let forward() return a new tensor")

    def set_materialize_grads(self, value: bool) -> None:
        """Whether `backward` gets zeros for results that no gradient came to, or None."""
        self._materialize = value


class Function:
    """An operation of the user's own, with `forward(ctx, *args)` and `backward(ctx, *gradients)` as static methods.

    `apply(*args)` calls it. With `setup_context(ctx, inputs, output)` the forward function gets no `ctx`.

    Edge: gradients of gradients go through what `backward` does. In a compiled region it runs between two segments.
    Raises: RuntimeError if `backward` gives another number of gradients than `forward` has operands, or one of another
        shape; NotImplementedError for what has no `backward`.

    >>> import tracejit as tj
    >>> class Reversed(tj.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return x.view_as(x)
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         return -grad
    >>> x = tj.ones(2, requires_grad=True)
    >>> (Reversed.apply(x) * 3).sum().backward()
    >>> x.grad
    tensor([-3., -3.])
    """

    @staticmethod
    def forward(*args: Any) -> Any:
        """The operation."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what `backward` needs."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradients of the operands from those of the results."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom autograd.Function to use it with "
            "backward mode AD."
        )

    vjp = backward

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Call the operation."""
        return outside(_user_function, cls, args)


class FunctionStep(TapeNode):
    """The step of an operation of the user's own.

    `function` is its class and `ctx` what forward left. `given` and `made` are the types of operands and results, None
    for what is no tensor; `own` says which result a saved one is.
    """

    custom = True
    op = None  # type: ignore[assignment]
    attrs = ()
    function: type[Function]
    ctx: FunctionCtx
    given: list[Aval | None]
    made: list[Aval | None]
    own: dict[int, int]

    def name(self) -> str:
        """The step's name, as PyTorch shows it."""
        return f"{self.function.__name__}Backward"

    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What the operation kept."""
        refuse_released(self)
        out: list[Tensor | None] = []
        for k, entry in enumerate(self.saved):
            t = None if entry is None else unpack(entry, self)
            if t is not None and k in self.own:
                t = held(t)
                t._index, t._node, t._requires_grad = self.own[k], self, True
            out.append(t)
        return tuple(out)

    def pull(self, cts: list[Tensor | None]) -> list[Tensor | None]:
        """The gradients of the operands from those of the results."""
        refuse_released(self)
        if self.ctx._materialize:
            one = next(ct for ct in cts if ct is not None)
            cts = [
                beside(one, ops.full, (0,), aval) if ct is None and aval is not None else ct
                for ct, aval in zip(cts, self.made, strict=True)
            ]
        function = self.function
        found = (function.backward if function.vjp is Function.vjp else function.vjp)(self.ctx, *cts)
        grads = list(found) if isinstance(found, tuple) else [found]
        count = len(self.edges)
        while len(grads) > count and grads[-1] is None:
            grads.pop()
        if len(grads) != count:
            raise RuntimeError(
                f"function {self.name()} returned an incorrect number of gradients (expected {count}, got {len(grads)})"
            )
        return [self._fitted(i, g) for i, g in enumerate(grads)]

    def _fitted(self, i: int, g: Any) -> Tensor | None:
        """A gradient of operand `i`, in its shape and type."""
        aval = self.given[i]
        if g is None:
            return None
        if aval is None:
            raise RuntimeError(
                f"function {self.name()} returned a gradient different from None at position {i + 1}, but the "
                "corresponding forward input was not a Variable"
            )
        if not isinstance(g, Tensor):
            raise RuntimeError(f"expected Variable or None (got {type(g).__name__})")
        if self.edges[i] is None:
            return None
        if g._shape != aval.shape:
            try:
                fits = broadcast(aval.shape, g._shape) == g._shape
            except RuntimeError:
                fits = False
            if not fits:
                raise RuntimeError(
                    f"Function {self.name()} returned an invalid gradient at index {i} - got {list(g._shape)} but "
                    f"expected shape compatible with {list(aval.shape)}"
                )
            g = sum_to(g, g._shape, aval.shape)
        return to_dtype(g, aval.dtype)  # type: ignore[no-any-return]


@shown("an autograd.Function")
def _user_function(function: type[Function], args: tuple[Any, ...]) -> Any:
    """Run an operation of the user's own and enter it on the tape."""
    ctx = FunctionCtx(tuple([isinstance(a, Tensor) and a.requires_grad for a in args]))
    with no_grad():
        if function.setup_context is Function.setup_context:
            made = function.forward(ctx, *args)
        else:
            made = function.forward(*args)
            function.setup_context(ctx, args, made)
    outs = list(made) if isinstance(made, tuple) else [made]
    # What forward returns of its operands, or shows of them, is another tensor on the same memory.
    given = {id(a) for a in args}
    for i, o in enumerate(outs):
        if isinstance(o, Tensor) and (id(o) in given or o._base is not None or o._node is not None):
            outs[i] = detached(o)
            if id(o) in ctx._fixed:
                ctx._fixed |= {id(outs[i])}
    if state.grad_enabled and any(ctx.needs_input_grad):
        _enter(function, ctx, args, outs)
    return tuple(outs) if isinstance(made, tuple) else outs[0]


def _enter(function: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], outs: list[Any]) -> None:
    step: FunctionStep = FunctionStep.__new__(FunctionStep)
    edges: list[Any] = [None] * len(args)
    for i, (a, needed) in enumerate(zip(args, ctx.needs_input_grad, strict=True)):
        if needed:
            source = current(a)
            edges[i] = a if source is None else (source, a._index)
    step.function, step.ctx = function, ctx
    step.edges, step.seq, step.outs = tuple(edges), next_position(), len(outs)
    step.given, step.made = ([aval_of(x) if isinstance(x, Tensor) else None for x in xs] for xs in (args, outs))
    at = {id(o): i for i, o in enumerate(outs)}
    # Its own results, as its own step would be a cycle.
    step.own = {k: at[id(t)] for k, t in enumerate(ctx._to_save) if id(t) in at}
    step.saved = tuple(
        [None if t is None else (held(t) if k in step.own else t, t._version) for k, t in enumerate(ctx._to_save)]
    )
    ctx._to_save, ctx._step = (), weakref.ref(step)
    for i, o in enumerate(outs):
        if isinstance(o, Tensor) and o._dtype.is_floating_point and id(o) not in ctx._fixed:
            o._index, o._node, o._requires_grad = i, step, True


class _Once(Function):
    """Gradients that are not differentiated again."""

    @staticmethod
    def forward(ctx: FunctionCtx, *gradients: Any) -> Any:
        return gradients

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A `backward` of a `Function` whose operations are not recorded: its gradients cannot be differentiated again."""

    @wraps(backward)
    def wrapped(ctx: FunctionCtx, *gradients: Any) -> Any:
        with no_grad():
            found = backward(ctx, *gradients)
        if not state.grad_enabled or not any(isinstance(g, Tensor) and g.requires_grad for g in gradients):
            return found
        grads = found if isinstance(found, tuple) else (found,)
        kept = [g.detach().requires_grad_() if isinstance(g, Tensor) else g for g in grads]
        marked = _Once.apply(*kept)
        return marked if isinstance(found, tuple) else marked[0]

    return wrapped
