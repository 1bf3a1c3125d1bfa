"""Adamax."""

from __future__ import annotations

from typing import Any

from tracejit.optim.optimizer import Optimizer, check_means, let_fade, negated
from tracejit.tensor import Tensor, abs, composite, maximum

__all__ = ["Adamax", "adamax_update"]


@composite(mutates=("params", "exp_avgs", "exp_infs"))
def adamax_update(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_infs: list[Tensor],
    *,
    step_size: float,
    share1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decays: bool,
    maximize: bool,
) -> None:
    """One step of Adamax. ``share1`` is 1 - beta1, ``step_size`` the learning rate over 1 - beta1 ** step."""
    for i, (param, grad) in enumerate(zip(params, negated(grads, maximize), strict=True)):
        if decays:
            grad = grad + param * weight_decay
        exp_avg, exp_inf = exp_avgs[i], exp_infs[i]
        let_fade(exp_avg, exp_avg + (grad - exp_avg) * share1)
        # At least eps, so it never fades.
        exp_inf.copy_(maximum(exp_inf * beta2, abs(grad) + eps))
        param.sub_(exp_avg / exp_inf * step_size)


class Adamax(Optimizer):
    """Adam with a running maximum of the gradient's size in the place of its root mean square.

    Raises: ValueError for options out of range. Source: Kingma and Ba 2014.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.Adamax([w], lr=0.5).step()
    >>> round(w.item(), 6)
    0.5
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_means(lr, betas, eps, weight_decay)
        if differentiable:
            raise NotImplementedError("Adamax: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
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
                state["exp_avg"] = self._filled(param)
                state["exp_inf"] = self._filled(param)
        beta1, beta2 = group["betas"]
        for step, members, states in self._advance(params):
            adamax_update(
                members,
                [param.grad for param in members],
                [state["exp_avg"] for state in states],
                [state["exp_inf"] for state in states],
                step_size=group["lr"] / (1.0 - beta1**step),
                share1=1.0 - beta1,
                beta2=float(beta2),
                eps=float(group["eps"]),
                weight_decay=float(group["weight_decay"]),
                decays=group["weight_decay"] != 0,
                maximize=group["maximize"],
            )
