"""Adam and AdamW."""

from __future__ import annotations

import math
from typing import Any

from tracejit.optim.optimizer import Optimizer, check_means, let_fade, negated, root_is_lost
from tracejit.tensor import Tensor, composite, maximum, sqrt

__all__ = ["Adam", "AdamW", "adam_update"]


@composite(mutates=("params", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs"))
def adam_update(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    *,
    step_size: float,
    correction: float,
    share1: float,
    beta2: float,
    share2: float,
    eps: float,
    weight_decay: float,
    keep: float,
    decays: bool,
    decoupled: bool,
    amsgrad: bool,
    maximize: bool,
    fades: bool,
) -> None:
    """One step of Adam.

    ``share1`` and ``share2`` are 1 - beta1 and 1 - beta2, ``correction`` is 1 over the root of 1 - beta2 ** step,
    ``step_size`` the learning rate over 1 - beta1 ** step, ``keep`` what decoupled weight decay leaves of a parameter.
    Means of squares fade if it ``fades``, those of gradients always.
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
        if amsgrad:
            largest = max_exp_avg_sqs[i]
            largest.copy_(maximum(largest, exp_avg_sq))
            denominator = sqrt(largest) * correction + eps
        else:
            denominator = sqrt(exp_avg_sq) * correction + eps
        param.sub_(exp_avg / denominator * step_size)


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square.

    Raises: ValueError for options out of range; TypeError for options that are tensors.
    Source: Kingma and Ba 2014; ``amsgrad`` as Reddi et al. 2018.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.Adam([w], lr=0.5).step()
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
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_means(lr, betas, eps, weight_decay)
        if differentiable:
            raise NotImplementedError(f"{type(self).__name__}: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        amsgrad = group["amsgrad"]
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["exp_avg"] = self._filled(param)
                state["exp_avg_sq"] = self._filled(param)
                if amsgrad:
                    state["max_exp_avg_sq"] = self._filled(param)
        beta1, beta2 = group["betas"]
        lr, weight_decay = group["lr"], group["weight_decay"]
        fades = root_is_lost(group["eps"], 1.0 / math.sqrt(1.0 - beta2))
        for step, members, states in self._advance(params):
            adam_update(
                members,
                [param.grad for param in members],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [state["max_exp_avg_sq"] for state in states] if amsgrad else [],
                step_size=lr / (1.0 - beta1**step),
                correction=1.0 / math.sqrt(1.0 - beta2**step),
                share1=1.0 - beta1,
                beta2=float(beta2),
                share2=1.0 - beta2,
                eps=float(group["eps"]),
                weight_decay=float(weight_decay),
                keep=1.0 - lr * weight_decay,
                decays=weight_decay != 0,
                decoupled=group["decoupled_weight_decay"],
                amsgrad=amsgrad,
                maximize=group["maximize"],
                fades=fades,
            )


class AdamW(Adam):
    """Adam whose weight decay acts on the parameters directly.

    Source: Loshchilov and Hutter 2017.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
