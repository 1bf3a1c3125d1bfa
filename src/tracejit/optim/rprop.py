"""Rprop."""

from __future__ import annotations

from typing import Any

from tracejit.optim.optimizer import Optimizer, check_range, negated
from tracejit.tensor import Tensor, clamp, composite, sign, where

__all__ = ["Rprop", "rprop_update"]


@composite(mutates=("params", "prevs", "step_sizes"))
def rprop_update(
    params: list[Tensor],
    grads: list[Tensor],
    prevs: list[Tensor],
    step_sizes: list[Tensor],
    *,
    least: float,
    most: float,
    shrink: float,
    grow: float,
    maximize: bool,
) -> None:
    """One step of Rprop: each element's own size grows while its gradient keeps its sign, and shrinks when it turns."""
    for i, (param, grad) in enumerate(zip(params, negated(grads, maximize), strict=True)):
        prev, step_size = prevs[i], step_sizes[i]
        agreement = grad * prev
        turned = agreement < 0
        factor = where(agreement > 0, grow, where(turned, shrink, 1.0))
        step_size.copy_(clamp(step_size * factor, least, most))
        # An element whose gradient has turned waits for one step.
        prev.copy_(where(turned, 0.0, grad))
        param.sub_(sign(prev) * step_size)


class Rprop(Optimizer):
    """Steps along the signs of the gradient alone, with a size for each element.

    Raises: ValueError for options out of range. Source: Riedmiller and Braun 1993.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.full((1,), 9.0)
    >>> tj.optim.Rprop([w], lr=0.5).step()
    >>> w.item()
    0.5
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_range("lr", lr, what="learning rate")
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        if differentiable:
            raise NotImplementedError("Rprop: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "etas": etas,
                "step_sizes": step_sizes,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["prev"] = self._filled(param)
                state["step_size"] = self._filled(param, group["lr"])
            state["step"] += 1
        shrink, grow = group["etas"]
        least, most = group["step_sizes"]
        # No number of the step depends on its count, so all parameters go together.
        rprop_update(
            params,
            [param.grad for param in params],
            self._tensors(params, "prev"),
            self._tensors(params, "step_size"),
            least=float(least),
            most=float(most),
            shrink=float(shrink),
            grow=float(grow),
            maximize=group["maximize"],
        )
