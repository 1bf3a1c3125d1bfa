"""NAdam."""

from __future__ import annotations

import math
from typing import Any

from tracejit.optim.optimizer import Optimizer, alike, check_means, check_range, let_fade, negated, root_is_lost
from tracejit.tensor import Tensor, composite, sqrt

__all__ = ["NAdam", "nadam_update"]


@composite(mutates=("params", "exp_avgs", "exp_avg_sqs"))
def nadam_update(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    *,
    grad_size: float,
    mean_size: float,
    correction: float,
    share1: float,
    beta2: float,
    share2: float,
    eps: float,
    weight_decay: float,
    keep: float,
    decays: bool,
    decoupled: bool,
    maximize: bool,
    fades: bool,
) -> None:
    """One step of NAdam: along the gradient by ``grad_size`` and along its running mean by ``mean_size``.

    ``share1`` and ``share2`` are 1 - beta1 and 1 - beta2, ``correction`` is 1 over the root of 1 - beta2 ** step,
    ``keep`` what decoupled weight decay leaves of a parameter. Means of squares fade if it ``fades``.
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
        denominator = sqrt(exp_avg_sq) * correction + eps
        param.sub_(grad / denominator * grad_size)
        param.sub_(exp_avg / denominator * mean_size)


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, which grows by a schedule.

    Raises: ValueError for options out of range. Source: Dozat 2016.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.NAdam([w], lr=0.5).step()
    >>> round(w.item(), 4)
    0.4718
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_means(lr, betas, eps, weight_decay)
        check_range("momentum_decay", momentum_decay, what="momentum_decay value")
        if differentiable:
            raise NotImplementedError("NAdam: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                # The product of the momenta of all steps so far.
                state["mu_product"] = 1.0
                state["exp_avg"] = self._filled(param)
                state["exp_avg_sq"] = self._filled(param)
        beta1, beta2 = group["betas"]
        lr, weight_decay, decay = group["lr"], group["weight_decay"], group["momentum_decay"]
        fades = root_is_lost(group["eps"], 1.0 / math.sqrt(1.0 - beta2))
        for step, same_step, their_states in self._advance(params):
            mu = beta1 * (1.0 - 0.5 * 0.96 ** (step * decay))
            mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((step + 1) * decay))
            for members, states in alike(same_step, their_states, "mu_product"):
                product = states[0]["mu_product"] * mu
                for state in states:
                    state["mu_product"] = product
                nadam_update(
                    members,
                    [param.grad for param in members],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    grad_size=lr * (1.0 - mu) / (1.0 - product),
                    mean_size=lr * mu_next / (1.0 - product * mu_next),
                    correction=1.0 / math.sqrt(1.0 - beta2**step),
                    share1=1.0 - beta1,
                    beta2=float(beta2),
                    share2=1.0 - beta2,
                    eps=float(group["eps"]),
                    weight_decay=float(weight_decay),
                    keep=1.0 - lr * weight_decay,
                    decays=weight_decay != 0,
                    decoupled=group["decoupled_weight_decay"],
                    maximize=group["maximize"],
                    fades=fades,
                )
