"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from tracejit.optim.optimizer import Optimizer, check_range, let_fade, negated
from tracejit.tensor import Tensor, composite, empty_like

__all__ = ["SGD", "sgd_update"]


@composite(mutates=("params", "buffers"))
def sgd_update(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    fresh_share: float,
    decays: bool,
    has_momentum: bool,
    first: bool,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step of SGD. ``fresh_share`` is 1 - dampening; ``first`` says that the buffers hold nothing yet."""
    for i, (param, grad) in enumerate(zip(params, negated(grads, maximize), strict=True)):
        if decays:
            grad = grad + param * weight_decay
        if has_momentum:
            buffer = buffers[i]
            if first:
                buffer.copy_(grad)
            else:
                let_fade(buffer, buffer * momentum + grad * fresh_share)
            grad = grad + buffer * momentum if nesterov else buffer
        param.sub_(grad * lr)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Raises: ValueError for options out of range or ``nesterov`` without momentum or with dampening.
    Source: Sutskever et al. 2013, with the learning rate outside the momentum.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.SGD([w], lr=0.5).step()
    >>> w.item()
    0.5
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_range("lr", lr, what="learning rate")
        check_range("momentum", momentum, what="momentum value")
        check_range("weight_decay", weight_decay, what="weight_decay value")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        if differentiable:
            raise NotImplementedError("SGD: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        has_momentum = group["momentum"] != 0
        parts = [(False, params)]
        if has_momentum:
            fresh = [param for param in params if self.state[param].get("momentum_buffer") is None]
            if fresh:
                new = {id(param) for param in fresh}
                parts = [(True, fresh), (False, [param for param in params if id(param) not in new])]
                for param in fresh:
                    self.state[param]["momentum_buffer"] = empty_like(param)
        for first, members in parts:
            if members:
                sgd_update(
                    members,
                    [param.grad for param in members],
                    self._tensors(members, "momentum_buffer") if has_momentum else [],
                    lr=float(group["lr"]),
                    weight_decay=float(group["weight_decay"]),
                    momentum=float(group["momentum"]),
                    fresh_share=1.0 - group["dampening"],
                    decays=group["weight_decay"] != 0,
                    has_momentum=has_momentum,
                    first=first,
                    nesterov=group["nesterov"],
                    maximize=group["maximize"],
                )
