"""Optimizers beside PyTorch's over many steps, and their groups, state and errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.8, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.02, "amsgrad": True}),
    ("Adam", {"lr": 0.02, "maximize": True}),
    ("AdamW", {"lr": 0.02}),
    ("AdamW", {"lr": 0.02, "amsgrad": True, "weight_decay": 0.3, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.005, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.005, "alpha": 0.9, "centered": True, "maximize": True}),
    ("Adagrad", {"lr": 0.05}),
    ("Adagrad", {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("Adagrad", {"lr": 0.05, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.3, "rho": 0.7, "eps": 1e-4, "weight_decay": 0.1, "maximize": True}),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.02, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.1), "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lr": 0.05, "lambd": 0.01, "alpha": 0.5, "t0": 10, "weight_decay": 0.1, "maximize": True}),
]
NAMES = sorted({name for name, _ in OPTIMIZERS})
SHAPES = ((3, 4), (5,), ())


def parameters(lib: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    return [lib.nn.Parameter(lib.tensor(value.tolist())) for value in values]


def give_gradients(lib: Any, params: list[Any], step: int) -> None:
    rng = np.random.default_rng(100 + step)
    for position, param in enumerate(params):
        grad = rng.standard_normal(tuple(param.shape)).astype(np.float32)
        # One parameter has no gradient at times: its own count of steps falls behind.
        param.grad = None if position == 1 and step % 3 == 1 else lib.tensor(grad.tolist())


def values(params: list[Any]) -> list[np.ndarray]:
    return [param.detach().numpy() for param in params]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=str)
def test_fifty_steps_as_pytorch(name: str, options: dict[str, Any]) -> None:
    mine, theirs = parameters(tj), parameters(torch)
    a, b = getattr(tj.optim, name)(mine, **options), getattr(torch.optim, name)(theirs, **options, foreach=False)
    for step in range(50):
        give_gradients(tj, mine, step)
        give_gradients(torch, theirs, step)
        a.step()
        b.step()
        if step == 20:
            for group in (*a.param_groups, *b.param_groups):
                group["lr"] *= 0.5
    for x, y in zip(values(mine), values(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6)
    for mine_state, their_state in zip(a.state.values(), b.state.values(), strict=True):
        assert set(mine_state) == {key for key, value in their_state.items() if value is not None}
        for key, value in mine_state.items():
            # Numbers here are Python's, PyTorch's are tensors.
            theirs_too = value.numpy() if isinstance(value, tj.Tensor) else value
            np.testing.assert_allclose(theirs_too, their_state[key].numpy(), rtol=1e-4, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_reads_as_pytorchs(name: str) -> None:
    mine, theirs = getattr(tj.optim, name)(parameters(tj)), getattr(torch.optim, name)(parameters(torch))
    assert repr(mine) == repr(theirs)
    assert mine.defaults == theirs.defaults
    assert list(mine.param_groups[0]) == list(theirs.param_groups[0])
    assert mine.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=str)
@pytest.mark.parametrize("way", ["state_dict", "pickle", "save"])
def test_going_on_from_saved_state(name: str, options: dict[str, Any], way: str, tmp_path: Any) -> None:
    first = parameters(tj)
    optimizer = getattr(tj.optim, name)(first, **options)
    for step in range(4):
        give_gradients(tj, first, step)
        optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    if way == "pickle":
        state = pickle.loads(pickle.dumps(state))
    if way == "save":
        tj.save(state, tmp_path / "state")
        state = tj.load(tmp_path / "state")
    second = [tj.nn.Parameter(param.detach().clone()) for param in first]
    other = getattr(tj.optim, name)(second, lr=0.7)
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for step in range(4, 8):
        for params, opt in ((first, optimizer), (second, other)):
            give_gradients(tj, params, step)
            opt.step()
    for x, y in zip(values(first), values(second), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SGD"])
def test_pytorchs_state_can_be_loaded(name: str) -> None:
    theirs = parameters(torch)
    b = getattr(torch.optim, name)(theirs, lr=0.02)
    for step in range(3):
        give_gradients(torch, theirs, step)
        b.step()
    state = b.state_dict()
    state["state"] = {
        number: {key: tj.from_numpy(value.numpy().copy()) for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    mine = [tj.nn.Parameter(tj.from_numpy(value.copy())) for value in values(theirs)]
    a = getattr(tj.optim, name)(mine)
    a.load_state_dict(state)
    for step in range(3, 6):
        give_gradients(tj, mine, step)
        give_gradients(torch, theirs, step)
        a.step()
        b.step()
    for x, y in zip(values(mine), values(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_groups() -> None:
    for lib in (tj, torch):
        params = parameters(lib)
        optimizer = lib.optim.SGD([{"params": params[0]}, {"params": params[1:2], "lr": 0.5}], lr=0.1)
        optimizer.add_param_group({"params": params[2], "momentum": 0.9})
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5, 0.1]
        assert [group["momentum"] for group in optimizer.param_groups] == [0, 0, 0.9]
        before = [param.tolist() for param in params]
        for param in params:
            param.grad = lib.ones_like(param)
        optimizer.step()
        moved = [np.array(old) - np.array(param.tolist()) for old, param in zip(before, params, strict=True)]
        for step, expected in zip(moved, (0.1, 0.5, 0.1), strict=True):
            np.testing.assert_allclose(step, expected, rtol=1e-5)


def test_named_parameters() -> None:
    for lib in (tj, torch):
        net = lib.nn.Linear(2, 2)
        optimizer = lib.optim.SGD(net.named_parameters(), lr=0.1)
        assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
        with pytest.raises(ValueError, match="names"):
            optimizer.add_param_group({"params": [lib.nn.Parameter(lib.ones(1))]})


def test_zero_grad_and_closure() -> None:
    for lib in (tj, torch):
        (w, *_) = parameters(lib)
        optimizer = lib.optim.SGD([w], lr=0.1)

        def closure(w: Any = w, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = (w * w).sum()
            loss.backward()
            return loss

        with lib.no_grad():
            first = optimizer.step(closure)
        assert optimizer.step(closure).item() < first.item()
        assert w.grad is not None
        optimizer.zero_grad(set_to_none=False)
        assert float(w.grad.abs().sum()) == 0
        optimizer.zero_grad()
        assert w.grad is None
        assert optimizer.step() is None


@pytest.mark.parametrize("lib", [tj, torch], ids=["tracejit", "torch"])
def test_wrong_options(lib: Any) -> None:
    w = lib.nn.Parameter(lib.ones(2))
    for name, options in (
        ("SGD", {"lr": -1.0}),
        ("SGD", {"momentum": -0.1}),
        ("SGD", {"weight_decay": -0.1}),
        ("SGD", {"nesterov": True}),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        ("Adam", {"lr": -1.0}),
        ("Adam", {"betas": (1.0, 0.9)}),
        ("AdamW", {"betas": (0.9, -0.1)}),
        ("Adam", {"eps": -1e-8}),
        ("RMSprop", {"alpha": -0.1}),
        ("Adagrad", {"lr_decay": -0.1}),
        ("Adamax", {"betas": (0.9, 1.0)}),
        ("NAdam", {"momentum_decay": -0.1}),
        ("RAdam", {"eps": -0.1}),
        ("Adadelta", {"rho": 1.5}),
        ("Adadelta", {"rho": -0.5}),
        ("Rprop", {"etas": (1.1, 1.2)}),
        ("Rprop", {"etas": (0.5, 0.9)}),
        ("ASGD", {"weight_decay": -0.1}),
    ):
        with pytest.raises(ValueError):
            getattr(lib.optim, name)([w], **options)
    for error, params in (
        (TypeError, w),
        (ValueError, []),
        (TypeError, [1.0]),
        (ValueError, [w * 2]),
        (ValueError, [{"params": [w]}, {"params": [w]}]),
        (TypeError, [{"params": {w}}]),
    ):
        with pytest.raises(error):
            lib.optim.Adam(params)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        lib.optim.Adam([w, w])
    optimizer = lib.optim.Adam([w])
    with pytest.raises(TypeError):
        optimizer.add_param_group([w])
    before = optimizer.state_dict()
    with pytest.raises(ValueError):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError):
        optimizer.load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]})
    assert optimizer.state_dict() == before


@pytest.mark.parametrize(("name", "option"), [("NAdam", "momentum_decay"), ("ASGD", "lr")])
def test_parameters_with_other_pasts_take_other_steps(name: str, option: str) -> None:
    """Two parameters at the same count of steps, one of which took its own under another option."""
    results = []
    for lib in (tj, torch):
        params = [lib.nn.Parameter(lib.ones(2)) for _ in range(2)]
        optimizer = getattr(lib.optim, name)(params)
        for step in range(8):
            for position, param in enumerate(params):
                param.grad = lib.full((2,), 0.5 + step % 3) if position == step // 3 or step > 5 else None
            optimizer.param_groups[0][option] = 0.3 if step < 3 else 0.01
            optimizer.step()
        results.append([param.detach().numpy() for param in params])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_options_that_are_not_supported() -> None:
    w = tj.nn.Parameter(tj.ones(2))
    with pytest.raises(TypeError, match="Python number"):
        tj.optim.Adam([w], lr=tj.tensor(0.1))
    for name in NAMES:
        with pytest.raises(NotImplementedError):
            getattr(tj.optim, name)([w], differentiable=True)


FADING = [
    ("SGD", {"lr": 0.05, "momentum": 0.9}, {"momentum_buffer": True}),
    ("Adam", {}, {"exp_avg": True, "exp_avg_sq": True}),
    ("AdamW", {"amsgrad": True}, {"exp_avg": True, "exp_avg_sq": True}),
    ("Adam", {"eps": 1e-12}, {"exp_avg": True, "exp_avg_sq": False}),
    ("RMSprop", {"momentum": 0.9}, {"square_avg": True, "momentum_buffer": True}),
    ("RMSprop", {"centered": True}, {"square_avg": False, "grad_avg": True}),
    ("RMSprop", {"eps": 1e-13}, {"square_avg": False}),
    ("Adamax", {}, {"exp_avg": True}),
    ("NAdam", {}, {"exp_avg": True, "exp_avg_sq": True}),
    ("NAdam", {"eps": 1e-12}, {"exp_avg": True, "exp_avg_sq": False}),
    ("RAdam", {}, {"exp_avg": True, "exp_avg_sq": True}),
    ("RAdam", {"eps": 1e-13}, {"exp_avg": True, "exp_avg_sq": False}),
    ("Adadelta", {}, {"square_avg": True, "acc_delta": True}),
    ("Adadelta", {"eps": 1e-31}, {"square_avg": False, "acc_delta": False}),
]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("name", "options", "means"), FADING, ids=str)
def test_means_of_what_gets_no_gradient_fade(
    name: str, options: dict[str, Any], means: dict[str, bool], compiled: bool
) -> None:
    """Subnormal numbers in the state would stay there and slow every step; PyTorch keeps them."""
    mine, theirs = tj.nn.Parameter(tj.ones(20)), torch.nn.Parameter(torch.ones(20))
    a, b = getattr(tj.optim, name)([mine], **options), getattr(torch.optim, name)([theirs], **options, foreach=False)

    def step(grad: tj.Tensor) -> None:
        mine.grad = grad
        a.step()

    run = tj.compile(step) if compiled else step
    for position in range(12):
        if position == 5:
            for key in means:
                a.state[mine][key].copy_(tj.linspace(1.15e-38, 1.18e-38, 20))
                b.state[theirs][key].copy_(torch.linspace(1.15e-38, 1.18e-38, 20))
        size = 1.0 if position < 5 else 0.0
        run(tj.full((20,), size))
        theirs.grad = torch.full((20,), size)
        b.step()
    for key, fades in means.items():
        assert a.state[mine][key].any().item() is not fades, key
        assert b.state[theirs][key].all().item()
    # The parameters do not tell the difference.
    np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), rtol=1e-6)


def test_updates_do_not_record_gradients() -> None:
    w = tj.nn.Parameter(tj.ones(2))
    for name, options in OPTIMIZERS:
        optimizer = getattr(tj.optim, name)([w], **options)
        w.grad = tj.ones(2)
        optimizer.step()
        assert w.is_leaf
        assert not w.grad.requires_grad
        for state in optimizer.state.values():
            assert not any(value.requires_grad for value in state.values() if isinstance(value, tj.Tensor))
    (w * 2).sum().backward()


def test_an_optimizer_of_ones_own() -> None:
    class Halving(tj.optim.Optimizer):
        def step(self, closure: Any = None) -> Any:
            with tj.no_grad():
                for group in self.param_groups:
                    for param in group["params"]:
                        param.mul_(0.5)

    w = tj.nn.Parameter(tj.ones(2))
    optimizer = Halving([w], {"lr": 1.0})
    optimizer.step()
    tj.optim.lr_scheduler.StepLR(optimizer, 1).step()
    assert w.tolist() == [0.5, 0.5]
