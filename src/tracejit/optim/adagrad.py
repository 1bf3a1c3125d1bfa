"""Adagrad."""

from __future__ import annotations

from typing import Any

from tracejit.optim.optimizer import Optimizer, check_range, negated
from tracejit.tensor import Tensor, composite, sqrt

__all__ = ["Adagrad", "adagrad_update"]


@composite(mutates=("params", "sums"))
def adagrad_update(
    params: list[Tensor],
    grads: list[Tensor],
    sums: list[Tensor],
    *,
    rate: float,
    eps: float,
    weight_decay: float,
    decays: bool,
    maximize: bool,
) -> None:
    """One step of Adagrad. ``rate`` is the learning rate after its own decay."""
    for param, grad, total in zip(params, negated(grads, maximize), sums, strict=True):
        if decays:
            grad = grad + param * weight_decay
        total.add_(grad * grad)
        param.sub_(grad / (sqrt(total) + eps) * rate)


class Adagrad(Optimizer):
    """Steps scaled by the root of the sum of all squared gradients so far.

    Raises: ValueError for options out of range. Source: Duchi et al. 2011.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.Adagrad([w], lr=0.5).step()
    >>> w.item()
    0.5
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_range("lr", lr, what="learning rate")
        check_range("lr_decay", lr_decay, what="lr_decay value")
        check_range("weight_decay", weight_decay, what="weight_decay value")
        check_range("initial_accumulator_value", initial_accumulator_value, what="initial_accumulator_value value")
        check_range("eps", eps, what="epsilon value")
        if differentiable:
            raise NotImplementedError("Adagrad: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
        )
        # Unlike the others' state, this exists before the first step, as in PyTorch.
        for group in self.param_groups:
            for param in group["params"]:
                self._start(group, param)

    def _start(self, group: dict[str, Any], param: Tensor) -> None:
        self.state[param]["step"] = 0
        self.state[param]["sum"] = self._filled(param, group["initial_accumulator_value"])

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            if not self.state[param]:
                self._start(group, param)
        for step, members, states in self._advance(params):
            adagrad_update(
                members,
                [param.grad for param in members],
                [state["sum"] for state in states],
                rate=group["lr"] / (1 + (step - 1) * group["lr_decay"]),
                eps=float(group["eps"]),
                weight_decay=float(group["weight_decay"]),
                decays=group["weight_decay"] != 0,
                maximize=group["maximize"],
            )
