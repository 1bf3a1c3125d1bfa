"""RAdam."""

from __future__ import annotations

import math
from typing import Any

from tracejit.optim.optimizer import Optimizer, check_means, let_fade, negated, root_is_lost
from tracejit.tensor import Tensor, composite, sqrt

__all__ = ["RAdam", "radam_update"]


@composite(mutates=("params", "exp_avgs", "exp_avg_sqs"))
def radam_update(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    *,
    step_size: float,
    share1: float,
    beta2: float,
    share2: float,
    eps: float,
    weight_decay: float,
    keep: float,
    decays: bool,
    decoupled: bool,
    adapts: bool,
    maximize: bool,
    fades: bool,
) -> None:
    """One step of RAdam: by ``step_size`` along the mean of the gradient, over the root mean square if it ``adapts``.

    ``share1`` and ``share2`` are 1 - beta1 and 1 - beta2, ``keep`` is what decoupled weight decay leaves of a
    parameter. Means of squares fade if it ``fades``, those of gradients always.
    """
    for i, (param, grad) in enumerate(zip(params, negated(grads, maximize), strict=True)):
        if decays:
            if decoupled:
                param.mul_(keep)
            else:
                grad = grad + param * weight_decay
        exp_avg, exp_avg_sq = exp_avgs[i], exp_avg_sqs[i]
        let_fade(exp_avg, exp_avg + (grad - exp_avg) * share1)
        let_fade(exp_avg_sq, exp_avg_sq * beta2 + grad * grad * share2, fades)
        direction = exp_avg / (sqrt(exp_avg_sq) + eps) if adapts else exp_avg
        param.sub_(direction * step_size)


class RAdam(Optimizer):
    """Adam that divides by the root mean square only once enough gradients were seen, and less so at first.

    Raises: ValueError for options out of range. Source: Liu et al. 2019.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.RAdam([w], lr=0.5).step()
    >>> round(w.item(), 6)
    0.5
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_means(lr, betas, eps, weight_decay)
        if differentiable:
            raise NotImplementedError("RAdam: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["exp_avg"] = self._filled(param)
                state["exp_avg_sq"] = self._filled(param)
        beta1, beta2 = group["betas"]
        lr, weight_decay = group["lr"], group["weight_decay"]
        # The longest and the present length of the average that beta2 stands for.
        longest = 2.0 / (1.0 - beta2) - 1.0
        for step, members, states in self._advance(params):
            square_share = 1.0 - beta2**step
            length = longest - 2.0 * step * beta2**step / square_share
            adapts = length > 5.0
            step_size = lr / (1.0 - beta1**step)
            if adapts:
                rectified = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
                step_size = step_size * math.sqrt(square_share) * math.sqrt(rectified)
            radam_update(
                members,
                [param.grad for param in members],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                step_size=step_size,
                share1=1.0 - beta1,
                beta2=float(beta2),
                share2=1.0 - beta2,
                eps=float(group["eps"]),
                weight_decay=float(weight_decay),
                keep=1.0 - lr * weight_decay,
                decays=weight_decay != 0,
                decoupled=group["decoupled_weight_decay"],
                adapts=adapts,
                maximize=group["maximize"],
                fades=root_is_lost(group["eps"]),
            )
