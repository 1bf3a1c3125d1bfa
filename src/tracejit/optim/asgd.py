"""ASGD."""

from __future__ import annotations

from typing import Any

from tracejit.optim.optimizer import Optimizer, alike, check_range, negated
from tracejit.tensor import Tensor, composite

__all__ = ["ASGD", "asgd_update"]


@composite(mutates=("params", "axs"))
def asgd_update(
    params: list[Tensor],
    grads: list[Tensor],
    axs: list[Tensor],
    *,
    eta: float,
    keep: float,
    mu: float,
    weight_decay: float,
    decays: bool,
    averages: bool,
    maximize: bool,
) -> None:
    """One step of ASGD by ``eta``; the averages move by ``mu`` if it ``averages``, else they are the parameters.

    ``keep`` is what the decay term leaves of a parameter.
    """
    for param, grad, ax in zip(params, negated(grads, maximize), axs, strict=True):
        if decays:
            grad = grad + param * weight_decay
        param.mul_(keep)
        param.sub_(grad * eta)
        if averages:
            ax.add_((param - ax) * mu)
        else:
            ax.copy_(param)


class ASGD(Optimizer):
    """Gradient descent whose rate decays, beside the average of the parameters from step ``t0`` on: state "ax".

    Raises: ValueError for options out of range. Source: Polyak and Juditsky 1992.

    >>> import tracejit as tj
    >>> w = tj.nn.Parameter(tj.ones(1))
    >>> w.grad = tj.ones(1)
    >>> tj.optim.ASGD([w], lr=0.5, lambd=0.0).step()
    >>> w.item()
    0.5
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_range("lr", lr, what="learning rate")
        check_range("weight_decay", weight_decay, what="weight_decay value")
        if differentiable:
            raise NotImplementedError("ASGD: differentiable=True is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, lambd = group["lr"], group["lambd"]
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["eta"] = float(lr)
                state["mu"] = 1.0
                state["ax"] = self._filled(param)
        for step, same_step, their_states in self._advance(params):
            next_eta = lr / (1.0 + lambd * lr * step) ** group["alpha"]
            late = step - group["t0"]
            next_mu = 1.0 / late if late > 1.0 else 1.0
            for members, states in alike(same_step, their_states, "eta", "mu"):
                eta, mu = states[0]["eta"], states[0]["mu"]
                for state in states:
                    state["eta"] = next_eta
                    state["mu"] = next_mu
                asgd_update(
                    members,
                    [param.grad for param in members],
                    [state["ax"] for state in states],
                    eta=eta,
                    keep=1.0 - lambd * eta,
                    mu=mu,
                    weight_decay=float(group["weight_decay"]),
                    decays=group["weight_decay"] != 0,
                    averages=mu != 1.0,
                    maximize=group["maximize"],
                )
