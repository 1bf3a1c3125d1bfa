"""What an operation meets with which a call leaves the tree and is no longer traced."""

from __future__ import annotations

from typing import Any

from tracejit.ops.record import Op
from tracejit.tensor.dispatch import compute, detached
from tracejit.tensor.inplace import write
from tracejit.tensor.tensor import Tensor, set_requires_grad


class Eager:
    """Does one operation as without a session, for a follower that has just gone."""

    def apply(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], rest: bool = False) -> Any:
        """Run a record."""
        return compute(op, args, attrs)

    def detach(self, t: Tensor) -> Tensor:
        """The same memory without history."""
        return detached(t)

    def require(self, t: Tensor, value: bool) -> None:
        """Let a leaf require gradients, or no longer."""
        set_requires_grad(t, value)

    def assign(self, target: Tensor, value: Tensor) -> None:
        """Change a tensor in place."""
        write(target, value)

    def composite(self, composite: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a composite."""
        return composite.run(args, kwargs)

    def backward(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Run a backward pass."""
        return function(*args)

    def host(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function."""
        return function(*args, **kwargs)

    def read(self, t: Tensor) -> Any:
        """The memory of a tensor."""
        return t._array

    def finish(self) -> None:
        """Nothing is left to do."""


EAGER = Eager()
