"""Adadelta."""

from __future__ import annotations

from typing import Any

from tracejit.optim.optimizer import Optimizer, check_range, let_fade, negated
from tracejit.tensor import Tensor, composite, sqrt

__all__ = ["Adadelta", "adadelta_update"]


@composite(mutates=("params", "square_avgs", "acc_deltas"))
def adadelta_update(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    acc_deltas: list[Tensor],
    *,
    lr: float,
    rho: float,
    share: float,
    eps: float,
    weight_decay: float,
    decays: bool,
    maximize: bool,
    fades: bool,
) -> None:
    """One step of Adadelta. ``share`` is 1 - rho; both means fade if it ``fades``."""
    for i, (param, grad) in enumerate(zip(params, negated(grads, maximize), strict=True)):
        if decays:
            grad = grad + param * weight_decay
        square_avg, acc_delta = square_avgs[i], acc_deltas[i]
        let_fade(square_avg, square_avg * rho + grad * grad * share, fades)
        delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * grad
        let_fade(acc_delta, acc_delta * rho + delta * delta * share, fades)
        param.sub_(delta * lr)


class Adadelta(Optimizer):
    """Steps scaled by the ratio of the root mean squares of the steps and of the gradients so far.

    Raises: ValueError for options out of range. Source: Zeiler 2012.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.Adadelta([w]).step()
    >>> round(w.item(), 4)
    0.9968
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_range("lr", lr, what="learning rate")
        check_range("rho", rho, what="rho value")
        if rho > 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        check_range("eps", eps, what="epsilon value")
        check_range("weight_decay", weight_decay, what="weight_decay value")
        if differentiable:
            raise NotImplementedError("Adadelta: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "capturable": capturable,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["square_avg"] = self._filled(param)
                state["acc_delta"] = self._filled(param)
            state["step"] += 1
        # No number of the step depends on its count, so all parameters go together.
        adadelta_update(
            params,
            [param.grad for param in params],
            self._tensors(params, "square_avg"),
            self._tensors(params, "acc_delta"),
            lr=float(group["lr"]),
            rho=float(group["rho"]),
            share=1.0 - group["rho"],
            eps=float(group["eps"]),
            weight_decay=float(group["weight_decay"]),
            decays=group["weight_decay"] != 0,
            maximize=group["maximize"],
            # A subnormal float32 that is added to so large a number is lost.
            fades=group["eps"] >= 2.0**-100,
        )
