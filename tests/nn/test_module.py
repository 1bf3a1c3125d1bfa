"""Module: attributes, walking, state, hooks, text."""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

import tracejit as tj


class Net(tj.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = tj.nn.Linear(3, 4)
        self.act = tj.nn.ReLU()
        self.norm = tj.nn.BatchNorm1d(4)
        self.second = tj.nn.Linear(4, 2, bias=False)
        self.register_buffer("scratch", tj.zeros(2), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.second(self.norm(self.act(self.first(x))))


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.act = torch.nn.ReLU()
        self.norm = torch.nn.BatchNorm1d(4)
        self.second = torch.nn.Linear(4, 2, bias=False)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_walks_as_pytorch_does() -> None:
    mine, theirs = Net(), TorchNet()
    assert [n for n, _ in mine.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in mine.named_buffers()] == [n for n, _ in theirs.named_buffers()]
    assert [n for n, _ in mine.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert [n for n, _ in mine.named_children()] == [n for n, _ in theirs.named_children()]
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert repr(mine) == repr(theirs).replace("TorchNet", "Net")


def test_a_shared_parameter_comes_once() -> None:
    net = tj.nn.Sequential(tj.nn.Linear(2, 2), tj.nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    both = tj.nn.Sequential(net[0], net[0])
    assert [n for n, _ in both.named_modules()] == ["", "0"]
    assert [n for n, _ in both.named_children()] == ["0"]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("weight", "text", TypeError),
        ("weight", lambda nn, zeros: zeros(2), TypeError),
        ("child", lambda nn, zeros: zeros(2), TypeError),
        ("buffer", 3, TypeError),
    ],
)
def test_wrong_assignments_raise_as_in_pytorch(name: str, value: Any, error: type[Exception]) -> None:
    for module, nn, zeros in ((tj.nn.Linear(2, 2), tj.nn, tj.zeros), (torch.nn.Linear(2, 2), torch.nn, torch.zeros)):
        module.child = nn.ReLU()
        module.register_buffer("buffer", zeros(1))
        with pytest.raises(error, match=f"'{name}'"):
            setattr(module, name, value(nn, zeros) if callable(value) else value)


def test_assignment_before_init_raises() -> None:
    class Early(tj.nn.Module):
        def __init__(self, value: Any) -> None:
            self.part = value

    with pytest.raises(AttributeError, match="cannot assign parameters before Module"):
        Early(tj.nn.Parameter(tj.zeros(1)))
    with pytest.raises(AttributeError, match="cannot assign module before Module"):
        Early(tj.nn.ReLU())


def test_attributes_move_between_tables() -> None:
    net = tj.nn.Module()
    net.part = tj.zeros(2)
    assert not list(net.parameters())
    net.part = tj.nn.Parameter(tj.zeros(2))
    assert [n for n, _ in net.named_parameters()] == ["part"]
    assert "part" not in net.__dict__
    net.part = None
    assert net.part is None
    assert not list(net.parameters())
    del net.part
    with pytest.raises(AttributeError, match="'Module' object has no attribute 'part'"):
        net.part
    net.part = tj.nn.ReLU()
    net.part = tj.nn.Parameter(tj.zeros(1))
    assert not list(net.children())


def test_registering_checks_names() -> None:
    net = tj.nn.Linear(2, 2)
    for register, value in (
        (net.register_parameter, tj.nn.Parameter(tj.zeros(1))),
        (net.register_buffer, tj.zeros(1)),
        (net.add_module, tj.nn.ReLU()),
    ):
        for name in ("", "a.b", "forward"):
            with pytest.raises(KeyError):
                register(name, value)
        with pytest.raises(TypeError):
            register(3, value)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            register("fresh", "text")  # type: ignore[arg-type]
    w = tj.nn.Parameter(tj.ones(2))
    with pytest.raises(TypeError):
        net.register_parameter("product", w * 2)


def test_getting_by_path() -> None:
    net = Net()
    assert net.get_submodule("") is net
    assert net.get_parameter("first.weight") is net.first.weight
    assert net.get_buffer("norm.running_mean") is net.norm.running_mean
    for path in ("missing", "first.weight"):
        with pytest.raises(AttributeError, match=path.split(".")[-1]):
            net.get_submodule(path)
    with pytest.raises(AttributeError, match=r"not an nn\.Parameter"):
        net.get_parameter("norm.running_mean")


def test_modes_and_gradients() -> None:
    net = Net()
    assert not net.eval().training
    assert not net.norm.training
    assert net.train().norm.training
    with pytest.raises(ValueError, match="boolean"):
        net.train("yes")  # type: ignore[arg-type]
    net(tj.ones(5, 3)).sum().backward()
    assert net.first.weight.grad is not None
    net.zero_grad(set_to_none=False)
    assert float(net.first.weight.grad.abs().sum()) == 0
    net.zero_grad()
    assert net.first.weight.grad is None
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())


def test_dtype_changes_in_place() -> None:
    net = Net()
    weight = net.first.weight
    assert net.double() is net
    assert net.first.weight is weight
    assert weight.dtype == tj.float64
    assert net.norm.num_batches_tracked.dtype == tj.int64
    assert net(tj.ones(2, 3, dtype=tj.float64)).dtype == tj.float64
    assert net.to("cpu").to(tj.float32).first.weight.dtype == tj.float32
    assert net.to(tj.zeros(1, dtype=tj.float64)).first.weight.dtype == tj.float64
    with pytest.raises(TypeError, match="floating point"):
        net.to(tj.int64)
    with pytest.raises(RuntimeError):
        net.to("cuda")


def test_state_dict_is_shared_memory_and_loads_back() -> None:
    net, other = Net(), Net()
    state = net.state_dict()
    assert not state["first.weight"].requires_grad
    weight = other.first.weight
    assert repr(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert other.first.weight is weight
    assert weight.tolist() == net.first.weight.tolist()
    with tj.no_grad():
        net.first.weight.fill_(7.0)
    assert state["first.weight"][0, 0].item() == 7.0
    other.load_state_dict(state, assign=True)
    assert isinstance(other.first.weight, tj.nn.Parameter)
    with tj.no_grad():
        net.first.weight.fill_(8.0)
    assert other.first.weight[0, 0].item() == 8.0


def test_loading_tells_what_does_not_fit_and_changes_nothing() -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = {name: value.clone() + 1 for name, value in before.items()}
    state["first.weight"] = tj.zeros(3, 3)
    state["extra"] = tj.zeros(1)
    del state["second.weight"]
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    text = str(caught.value)
    assert 'Missing key(s) in state_dict: "second.weight"' in text
    assert 'Unexpected key(s) in state_dict: "extra"' in text
    assert "size mismatch for first.weight" in text
    for name, value in net.state_dict().items():
        assert value.tolist() == before[name].tolist()
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    del state["first.weight"]
    keys = net.load_state_dict(state, strict=False)
    assert keys.missing_keys == ["first.weight", "second.weight"]
    assert keys.unexpected_keys == ["extra"]
    with pytest.raises(TypeError, match="dict-like"):
        net.load_state_dict([1])  # type: ignore[arg-type]


def test_extra_state() -> None:
    class Counting(tj.nn.Module):
        count = 0

        def get_extra_state(self) -> Any:
            return {"count": self.count}

        def set_extra_state(self, state: Any) -> None:
            self.count = state["count"]

    net = tj.nn.Sequential(Counting())
    net[0].count = 5
    state = net.state_dict()
    assert list(state) == ["0._extra_state"]
    other = tj.nn.Sequential(Counting())
    other.load_state_dict(state)
    assert other[0].count == 5


def test_forward_hooks() -> None:
    net = tj.nn.Linear(2, 2)
    seen: list[str] = []
    x = tj.ones(1, 2)

    def before(module: Any, args: Any) -> Any:
        seen.append("before")
        return (args[0] * 2,)

    def after(module: Any, args: Any, out: Any) -> Any:
        seen.append(f"after {args[0].tolist()}")
        return out + 1

    plain = net(x * 2) + 1
    handles = [net.register_forward_pre_hook(before), net.register_forward_hook(after)]
    assert net(x).tolist() == plain.tolist()
    assert seen == ["before", "after [[2.0, 2.0]]"]
    for handle in handles:
        handle.remove()
        handle.remove()
    assert net(x).tolist() != plain.tolist()
    assert len(seen) == 2

    order: list[int] = []
    net.register_forward_hook(lambda *_: order.append(1))
    net.register_forward_hook(lambda *_: order.append(0), prepend=True)
    net.register_forward_pre_hook(lambda m, a, k: (a, {}), with_kwargs=True)
    net(x, unknown=3)
    assert order == [0, 1]


def test_a_hook_that_always_runs() -> None:
    class Broken(tj.nn.Module):
        def forward(self) -> Any:
            raise ValueError("broken")

    seen: list[Any] = []
    net = Broken()
    net.register_forward_hook(lambda m, a, out: seen.append(out), always_call=True)
    net.register_forward_hook(lambda m, a, out: seen.append("not this"))
    with pytest.raises(ValueError, match="broken"):
        net()
    assert seen == [None]


def test_what_is_not_supported_says_so() -> None:
    with pytest.raises(NotImplementedError, match="register_hook"):
        tj.nn.ReLU().register_full_backward_hook(lambda *_: None)
    with pytest.raises(NotImplementedError, match='missing the required "forward"'):
        tj.nn.Module()(1)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_whole_and_their_own(clone: Any) -> None:
    net = Net()
    net.first.weight.requires_grad_(False)
    net.tied = net.first
    net.register_forward_hook(_nothing)
    twin = clone(net)
    assert repr(twin) == repr(net)
    assert twin.tied is twin.first
    assert isinstance(twin.first.weight, tj.nn.Parameter)
    assert not twin.first.weight.requires_grad
    assert twin.second.weight.requires_grad
    for (name, a), (_, b) in zip(net.state_dict().items(), twin.state_dict().items(), strict=True):
        assert a.tolist() == b.tolist(), name
    with tj.no_grad():
        twin.second.weight.fill_(3.0)
    assert net.second.weight[0, 0].item() != 3.0
    x = tj.ones(4, 3)
    assert twin.eval()(x).shape == net.eval()(x).shape


def _nothing(module: Any, args: Any, out: Any) -> None:
    return None


def test_apply_visits_children_first() -> None:
    seen: list[str] = []
    Net().apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Linear", "ReLU", "BatchNorm1d", "Linear", "Net"]


def test_parameter() -> None:
    data = tj.ones(2)
    parameter = tj.nn.Parameter(data)
    assert isinstance(parameter, tj.Tensor)
    assert parameter.is_leaf
    assert re.fullmatch(r"Parameter containing:\ntensor\(\[1\., 1\.\], requires_grad=True\)", repr(parameter))
    assert type(parameter * 2) is not tj.nn.Parameter
    with tj.no_grad():
        parameter.fill_(4.0)
    assert data.tolist() == [4.0, 4.0]
    assert tuple(tj.nn.Parameter().shape) == (0,)
    with pytest.raises(TypeError):
        tj.nn.Parameter([1.0])  # type: ignore[arg-type]


CONTAINERS = {
    "sequential": lambda nn: nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Tanh())),
    "named": lambda nn: nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.ReLU())),
    "list": lambda nn: nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Tanh())]),
    "dict": lambda nn: nn.ModuleDict({"x": nn.ReLU(), "y": nn.ModuleList()}),
    "empty": lambda nn: nn.Sequential(),
    "slice": lambda nn: nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())[1:],
    "sum": lambda nn: nn.Sequential(nn.ReLU()) + nn.Sequential(nn.Tanh()),
    "inserted": lambda nn: nn.Sequential(nn.ReLU(), nn.Tanh()).insert(1, nn.Sigmoid()).append(nn.GELU()),
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_read_as_pytorchs(make: Any) -> None:
    assert repr(make(tj.nn)) == repr(make(torch.nn))


def test_sequential_edits() -> None:
    for nn in (tj.nn, torch.nn):
        net = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
        del net[0]
        assert list(dict(net.named_children())) == ["0", "1"]
        net[-1] = nn.GELU()
        assert isinstance(net[1], nn.GELU)
        assert isinstance(net.pop(0), nn.Tanh)
        assert len(net) == 1
        with pytest.raises(IndexError):
            net[1]
        with pytest.raises(TypeError):
            net.append(3)


def test_module_list_and_dict_edits() -> None:
    for nn in (tj.nn, torch.nn):
        modules = nn.ModuleList([nn.ReLU(), nn.Tanh()])
        modules += [nn.GELU()]
        modules.insert(0, nn.Sigmoid())
        assert [type(m).__name__ for m in modules] == ["Sigmoid", "ReLU", "Tanh", "GELU"]
        del modules[1:3]
        assert list(dict(modules.named_children())) == ["0", "1"]
        assert isinstance(modules[-1], nn.GELU)
        assert len(modules[:1]) == 1
        with pytest.raises(IndexError):
            modules[2]
        table = nn.ModuleDict([("a", nn.ReLU())])
        table.update({"b": nn.Tanh()})
        assert list(table.keys()) == ["a", "b"]
        assert "a" in table
        assert isinstance(table.pop("a"), nn.ReLU)
        del table["b"]
        assert len(table) == 0
        with pytest.raises(NotImplementedError):
            table(1)


def test_parameter_list() -> None:
    parameters = tj.nn.ParameterList([tj.ones(2), tj.nn.Parameter(tj.zeros(3))])
    parameters.append(tj.ones(1))
    assert [n for n, _ in parameters.named_parameters()] == ["0", "1", "2"]
    assert tuple(parameters[-1].shape) == (1,)
    parameters[0] = tj.zeros(4)
    assert tuple(parameters[0].shape) == (4,)
    assert len(parameters[1:]) == 2
    assert "(1): Parameter containing: [" in repr(parameters)
    with pytest.raises(IndexError):
        parameters[3]
    with pytest.raises(RuntimeError):
        parameters(1)
    total = sum(float(np.prod(tuple(p.shape))) for p in parameters)
    assert total == 8


@pytest.mark.parametrize("lib", [tj, torch], ids=["tracejit", "torch"])
def test_parameter_dict(lib: Any) -> None:
    held = lib.nn.ParameterDict({"b": lib.ones(2), "a": lib.nn.Parameter(lib.zeros(3)), "word": "text"})
    assert list(held) == list(held.keys()) == ["a", "b", "word"]
    assert list(reversed(held)) == ["word", "b", "a"]
    assert [name for name, _ in held.named_parameters()] == ["a", "b"]
    assert isinstance(held["b"], lib.nn.Parameter)
    assert len(held) == 3
    assert "a" in held
    assert "c" not in held
    assert held.get("c", 5) == 5
    assert held.get("a") is held["a"]
    assert held.pop("word") == "text"
    assert held.setdefault("c", lib.ones(1)) is held["c"]
    assert held.popitem()[0] == "c"
    assert held.setdefault("c") is None
    del held["c"]
    other = held | lib.nn.ParameterDict([("d", lib.ones(1))])
    assert list(other.state_dict()) == ["a", "b", "d"]
    assert other["a"] is held["a"]
    assert list(held) == ["a", "b"]
    held |= {"z": lib.ones(1), "y": 2}
    assert [name for name, _ in held.items()] == ["a", "b", "y", "z"]
    assert [type(value) for value in held.values()][2] is int
    assert list(held.fromkeys(["p", "q"], 1)) == ["p", "q"]
    other.load_state_dict({name: value + 1 for name, value in other.state_dict().items()})
    assert held["b"].tolist() == [2.0, 2.0]
    other.clear()
    assert not list(other.parameters())
    for error, call in (
        (TypeError, lambda: held.update(3)),
        (TypeError, lambda: held.update([3])),
        (ValueError, lambda: held.update([(1, 2, 3)])),
        (TypeError, lambda: held.__setitem__(3, 4)),
        (RuntimeError, lambda: held(3)),
        (KeyError, other.popitem),
    ):
        with pytest.raises(error):
            call()


def test_parameter_dict_shows_what_it_holds() -> None:
    held = tj.nn.ParameterDict({"a": tj.ones(2, 3), "word": "text"})
    assert repr(held) == (
        "ParameterDict(\n  (a): Parameter containing: [tracejit.float32 of size 2x3]\n  (word): Object of type: str\n)"
    )
    assert repr(tj.nn.ParameterDict()) == "ParameterDict()"
