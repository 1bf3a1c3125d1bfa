"""Optimizer: groups of parameters with their options and state."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from tracejit.tensor import Tensor, enable_grad, flush_denormal, full_like, no_grad
from tracejit.tensor.state import untraced

__all__ = ["Optimizer", "alike", "check_means", "check_range", "let_fade", "negated", "root_is_lost"]


class Optimizer:
    """Base class of all optimizers.

    ``step`` of a subclass makes missing state, computes the step's numbers in Python and then calls one composite
    for each group of parameters that are at the same step; the composite holds the tensor operations.

    Raises: TypeError for parameters that are no tensors; ValueError for an empty list, a parameter that is no leaf or
    is in two groups.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                f"but got {type(params).__name__}"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        # Schedulers look at it: a scheduler's step before any optimizer's step is a mistake to warn of.
        # A subclass with a step of its own does not tell, so it counts as having stepped.
        self._opt_called = type(self).step is not Optimizer.step
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; options that are not given are the defaults.

        Raises: TypeError, ValueError.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        group = dict(param_group)
        params = group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in "
                "sets will change between runs. Please use a list instead."
            )
        params = list(params)
        if params and isinstance(params[0], tuple):
            group["param_names"] = [name for name, _ in params]
            params = [param for _, param in params]
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(param).__name__}")
            if not param.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        for name, default in self.defaults.items():
            group.setdefault(name, default)
        if len({id(param) for param in params}) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; each step will update them more "
                "than once",
                UserWarning,
                stacklevel=3,
            )
        known = {id(param) for other in self.param_groups for param in other["params"]}
        if any(id(param) in known for param in params):
            raise ValueError("some parameters appear in more than one parameter group")
        names_given = [("param_names" in other) for other in self.param_groups]
        if names_given and names_given[0] != ("param_names" in group):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with' if 'param_names' in group else 'without'} names to the optimizer"
            )
        # "params" comes first, as in a group that a user wrote.
        self.param_groups.append({"params": params, **{k: v for k, v in group.items() if k != "params"}})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or set them to zero with ``set_to_none=False``."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                if set_to_none:
                    param.grad = None
                else:
                    param.grad.detach_().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; returns what ``closure``, run first with gradients, gave."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._opt_called = True
        with no_grad():
            for group in self.param_groups:
                params = [param for param in group["params"] if param.grad is not None]
                if params:
                    self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        raise NotImplementedError

    def _advance(self, params: list[Tensor]) -> Iterable[tuple[int, list[Tensor], list[dict[str, Any]]]]:
        """Count one more step for each parameter: (step, parameters that are at it now, their states)."""
        table = self.state
        states = [table[param] for param in params]
        step = states[0]["step"] + 1
        # Nearly always all are at one step; this runs at every step of every loop.
        for state in states:
            if state["step"] + 1 != step:
                break
        else:
            for state in states:
                state["step"] = step
            return ((step, params, states),)
        by_step: dict[int, tuple[list[Tensor], list[dict[str, Any]]]] = {}
        for param, state in zip(params, states, strict=True):
            state["step"] += 1
            members, theirs = by_step.setdefault(state["step"], ([], []))
            members.append(param)
            theirs.append(state)
        return [(step, *both) for step, both in by_step.items()]

    @staticmethod
    def _filled(param: Tensor, value: float = 0.0) -> Tensor:
        """State that begins with one value: a compiled step finds it, in the step that makes it as in those after."""
        with untraced():
            return full_like(param, value)

    def _tensors(self, params: list[Tensor], name: str) -> list[Tensor]:
        return [self.state[param][name] for param in params]

    def state_dict(self) -> dict[str, Any]:
        """State and groups, with numbers in the place of parameters.

        Edge: the tensors share memory with the optimizer's.
        """
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                numbers[id(param)] = len(numbers)
            packed = {name: value for name, value in group.items() if name != "params"}
            packed["params"] = [numbers[id(param)] for param in group["params"]]
            groups.append(packed)
        state = {numbers[id(p)] if isinstance(p, Tensor) else p: value for p, value in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take state and options from a ``state_dict``, whose parameters are this optimizer's in order.

        DType: state of a floating-point parameter takes its dtype. Edge: nothing changes where an error is raised.
        Raises: ValueError where the groups or their sizes differ.
        """
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        for mine, other in zip(self.param_groups, saved, strict=True):
            if len(mine["params"]) != len(other["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
                )
        params = dict(
            zip(
                chain.from_iterable(group["params"] for group in saved),
                chain.from_iterable(group["params"] for group in self.param_groups),
                strict=True,
            )
        )
        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for number, value in state_dict["state"].items():
            if number in params:
                state[params[number]] = _like(value, params[number])
            else:
                state[number] = copy.deepcopy(value)
        groups = []
        for mine, other in zip(self.param_groups, saved, strict=True):
            group = {"params": mine["params"]}
            group.update({name: copy.deepcopy(value) for name, value in other.items() if name != "params"})
            if "param_names" in mine and "param_names" not in group:
                group["param_names"] = mine["param_names"]
            groups.append(group)
        self.state = state
        self.param_groups = groups

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for number, group in enumerate(self.param_groups):
            text += f"\nParameter Group {number}\n"
            for name in sorted(group):
                if name != "params":
                    text += f"    {name}: {group[name]}\n"
        return text + ")"


# State that is a number; PyTorch keeps it as a tensor, which is read where it is loaded.
_NUMBERS: dict[str, Callable[[Any], Any]] = {"step": int, "eta": float, "mu": float, "mu_product": float}


def _like(value: Any, param: Tensor) -> Any:
    """A copy of loaded state; tensors take the parameter's device, and its dtype if both are floating point."""
    if isinstance(value, Tensor):
        fresh = value.detach().to(param.device, copy=True)
        return fresh.to(param.dtype) if param.is_floating_point() and fresh.is_floating_point() else fresh
    if isinstance(value, dict):
        return {
            name: _NUMBERS[name](part.item()) if name in _NUMBERS and isinstance(part, Tensor) else _like(part, param)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_like(part, param) for part in value)
    return copy.deepcopy(value)


def alike(
    params: list[Tensor], states: list[dict[str, Any]], *names: str
) -> Iterable[tuple[list[Tensor], list[dict[str, Any]]]]:
    """Parameters and their states, together where the states have the same numbers of these names.

    Nearly always all are alike; parameters that missed steps while an option changed are not.
    """
    for name in names:
        number = states[0][name]
        for state in states:
            if state[name] != number:
                return _by_numbers(params, states, names)
    return ((params, states),)


def _by_numbers(
    params: list[Tensor], states: list[dict[str, Any]], names: tuple[str, ...]
) -> Iterable[tuple[list[Tensor], list[dict[str, Any]]]]:
    found: dict[tuple[Any, ...], tuple[list[Tensor], list[dict[str, Any]]]] = {}
    for param, state in zip(params, states, strict=True):
        members, theirs = found.setdefault(tuple(state[name] for name in names), ([], []))
        members.append(param)
        theirs.append(state)
    return list(found.values())


def negated(grads: list[Tensor], maximize: bool) -> list[Tensor]:
    """The gradients to go down along: negated where the objective is to grow."""
    return [-grad for grad in grads] if maximize else grads


def check_range(name: str, value: Any, *, below: float | None = None, what: str | None = None) -> None:
    """Refuse a hyper-parameter that is negative, or not below a limit, or a tensor.

    Raises: TypeError for a tensor: the options of an optimizer are Python numbers; ValueError.
    """
    if isinstance(value, Tensor):
        raise TypeError(f"{what or name} must be a Python number: tensors as optimizer options are not supported")
    if not value >= 0.0 or (below is not None and not value < below):
        raise ValueError(f"Invalid {what or name}: {value}")


def check_means(lr: Any, betas: tuple[float, float], eps: Any, weight_decay: Any) -> None:
    """Check what optimizers with running means of gradients and of their squares have in common.

    Raises: ValueError for options out of range; TypeError for tensors.
    """
    check_range("lr", lr, what="learning rate")
    check_range("eps", eps, what="epsilon value")
    for position, beta in enumerate(betas):
        check_range("betas", beta, below=1.0, what=f"beta parameter at index {position}")
    check_range("weight_decay", weight_decay, what="weight_decay value")


def let_fade(mean: Tensor, value: Tensor, fades: bool = True) -> None:
    """Set a running mean: to 0 where it has become subnormal, if it `fades`.

    A mean that shrinks by a share at every step ends among subnormal numbers, where rounding holds it for ever, and
    many CPUs compute with those many times slower.
    """
    mean.copy_(flush_denormal(value) if fades else value)


def root_is_lost(eps: float, correction: float = 1.0) -> bool:
    """Whether `eps` stays the same number if the root of a subnormal float32, times at most `correction`, is added.

    Only then may a mean of squares fade without a trace in what is divided by its root.
    """
    return eps >= correction * 2.0**-38
