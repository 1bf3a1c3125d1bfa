"""Composites: functions over operations that a compiled region matches as one unit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from tracejit.config import PRODUCTS
from tracejit.tensor.casting import call_cast
from tracejit.tensor.fused import NO, call
from tracejit.tensor.state import state

_making = threading.Lock()


class Composite:
    """A function of tensors (also in lists and tuples), numbers and other plain values, with no other effect.

    It must depend on its arguments alone, and change nothing but tensors it was given. Python floats passed by
    keyword are run-time numbers of a program if the function uses them as operands only.
    Where operands are cast automatically, those of a composite are cast as `operands` says before it is called; inside
    nothing is. One that is `open` is then no unit, and each of its calls decides for itself.

    Outside of regions one runs as one program if it is called often. With composites in it these do instead, unless it
    is `deep`: how many calls make it worth a program, at least 2.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        mutates: tuple[str, ...] = (),
        operands: str | None = None,
        open: bool = False,
        deep: int = 0,
    ) -> None:
        self.function = function
        self.mutates = mutates
        self.operands = operands
        self.open = open
        self.deep = deep
        update_wrapper(self, function)
        self._name = function.__qualname__
        self._twin: Composite | None = None
        self.whole = deep > 0 or not open
        """Whether it may run as one program by itself."""
        self.refusals = 0
        """For how many kinds of operands it turned out not to be one, as long as there is none for which it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.autocast is not None:
            return self.function(*args, **kwargs) if self.open else call_cast(self.operands, self, args, kwargs)
        session = state.session
        if session is None:
            return self.run(args, kwargs)
        return session.composite(self.rounded if PRODUCTS.bfloat16 else self, args, kwargs)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it outside of regions, as one program if it is one."""
        around = state.composite
        if around is not None and not around.deep:
            around.whole = False
        if self.whole:
            found = call(self, args, kwargs)
            if found is not NO:
                return found
        state.composite = self
        try:
            return self.function(*args, **kwargs)
        finally:
            state.composite = around

    @property
    def rounded(self) -> Composite:
        """This composite where operands of float32 products are rounded to bfloat16: another unit of a region."""
        if self._twin is None:
            with _making:
                if self._twin is None:
                    twin = Composite(self.function, self.mutates, self.operands, self.open, self.deep)
                    twin._name, twin._twin = f"{self._name}.rounded", twin
                    self._twin = twin
        return self._twin

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind as a method of Tensor."""
        if instance is None:
            return self
        return Bound(self, instance)

    def __repr__(self) -> str:
        return f"<composite {self.function.__name__}>"

    def __reduce__(self) -> Any:
        return self._name


class Bound:
    """A composite as a method of one tensor."""

    __slots__ = ("composite", "instance")

    def __init__(self, composite: Composite, instance: Any) -> None:
        self.composite, self.instance = composite, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.composite(self.instance, *args, **kwargs)


def composite(
    function: Callable[..., Any] | None = None,
    *,
    mutates: tuple[str, ...] = (),
    operands: str | None = None,
    open: bool = False,
    deep: int = 0,
) -> Any:
    """Make a function a composite; `mutates` names the parameters whose tensors it changes in place."""
    if function is None:
        return lambda f: Composite(f, mutates, operands, open, deep)
    return Composite(function, mutates, operands, open, deep)
