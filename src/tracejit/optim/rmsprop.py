"""RMSprop."""

from __future__ import annotations

from typing import Any

from tracejit.optim.optimizer import Optimizer, check_range, let_fade, negated, root_is_lost
from tracejit.tensor import Tensor, composite, sqrt

__all__ = ["RMSprop", "rmsprop_update"]


@composite(mutates=("params", "square_avgs", "grad_avgs", "buffers"))
def rmsprop_update(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    grad_avgs: list[Tensor],
    buffers: list[Tensor],
    *,
    lr: float,
    alpha: float,
    share: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    decays: bool,
    has_momentum: bool,
    centered: bool,
    maximize: bool,
    fades: bool,
) -> None:
    """One step of RMSprop. ``share`` is 1 - alpha; the mean of squares fades if it ``fades``, other means always."""
    for i, (param, grad) in enumerate(zip(params, negated(grads, maximize), strict=True)):
        if decays:
            grad = grad + param * weight_decay
        square_avg = square_avgs[i]
        let_fade(square_avg, square_avg * alpha + grad * grad * share, fades)
        if centered:
            mean = grad_avgs[i]
            let_fade(mean, mean + (grad - mean) * share)
            root = sqrt(square_avg - mean * mean) + eps
        else:
            root = sqrt(square_avg) + eps
        if has_momentum:
            buffer = buffers[i]
            let_fade(buffer, buffer * momentum + grad / root)
            param.sub_(buffer * lr)
        else:
            param.sub_(grad / root * lr)


class RMSprop(Optimizer):
    """Steps scaled by a running root mean square of the gradient.

    Raises: ValueError for options out of range. Source: Hinton 2012; ``centered`` as Graves 2013.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.RMSprop([w], lr=0.01).step()
    >>> round(w.item(), 4)
    0.9
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_range("lr", lr, what="learning rate")
        check_range("eps", eps, what="epsilon value")
        check_range("momentum", momentum, what="momentum value")
        check_range("weight_decay", weight_decay, what="weight_decay value")
        check_range("alpha", alpha, what="alpha value")
        if differentiable:
            raise NotImplementedError("RMSprop: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        has_momentum, centered = group["momentum"] > 0, group["centered"]
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["square_avg"] = self._filled(param)
                if has_momentum:
                    state["momentum_buffer"] = self._filled(param)
                if centered:
                    state["grad_avg"] = self._filled(param)
            state["step"] += 1
        # No number of the step depends on its count, so all parameters go together.
        rmsprop_update(
            params,
            [param.grad for param in params],
            self._tensors(params, "square_avg"),
            self._tensors(params, "grad_avg") if centered else [],
            self._tensors(params, "momentum_buffer") if has_momentum else [],
            lr=float(group["lr"]),
            alpha=float(group["alpha"]),
            share=1.0 - group["alpha"],
            eps=float(group["eps"]),
            weight_decay=float(group["weight_decay"]),
            momentum=float(group["momentum"]),
            decays=group["weight_decay"] != 0,
            has_momentum=has_momentum,
            centered=centered,
            maximize=group["maximize"],
            # The variance of a centered one could become negative.
            fades=not centered and root_is_lost(group["eps"]),
        )
