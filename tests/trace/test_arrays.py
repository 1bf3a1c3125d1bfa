"""Functions that make tensors of NumPy arrays, and arrays of tensors, are replayed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import tracejit as tj
from tests.trace.replaying import both, net
from tests.trace.values import bits
from tracejit.tensor.state import state
from tracejit.trace.compiled import region_of


def observation(i, *shape, kind=np.float32):
    return np.random.default_rng(i).standard_normal(shape or (4,)).astype(kind)


def frozen(x):
    """A value with arrays, in a form that compares bit for bit."""
    if isinstance(x, np.ndarray):
        return x.shape, x.dtype.str, x.tobytes()
    return [frozen(e) for e in x] if isinstance(x, tuple) else bits(x)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (tj.from_numpy, np.float32),
        (tj.as_tensor, np.float32),
        (lambda a: tj.as_tensor(a, dtype=tj.float32), np.float64),
        (lambda a: tj.tensor(a), np.float32),
        (lambda a: tj.tensor(a, dtype=tj.float32), np.float64),
        (lambda a: tj.from_numpy(a).float(), np.float64),
    ],
)
def test_a_policy_of_observations_that_are_arrays(make, kind):
    def program():
        policy = net(4, 16, 2)

        def act(array):
            with tj.no_grad():
                return int(policy(make(array).unsqueeze(0)).argmax(1).item())

        return act, lambda i: (observation(i, kind=kind),), list

    region = both(program, 12, 6)
    assert not region.prover.obstacles


def test_an_array_that_the_caller_changes_between_calls():
    def program():
        array, w = np.zeros(3, np.float32), tj.tensor([1.0, 2.0, 3.0])

        def f():
            return (tj.from_numpy(array) * w).sum()

        def args(i):
            array[:] = i
            return ()

        return f, args, list

    both(program, 12, 6)


def test_two_tensors_of_one_array_are_two():
    def program():
        def f(a):
            x, y = tj.from_numpy(a), tj.tensor(a)
            y.add_(1)
            return x * 2, y, x is y

        return f, lambda i: (observation(i),), list

    both(program, 12, 0)


def test_a_change_in_place_is_one_of_the_array():
    def program():
        seen = []

        def f(a):
            tj.from_numpy(a).mul_(2)

        def args(i):
            seen.append(observation(i))
            return (seen[-1],)

        return f, args, lambda: [s.tolist() for s in seen]

    both(program, 12, 0)


def test_arrays_of_other_sizes_types_and_layouts():
    layouts = [
        lambda a: a,
        lambda a: a[:, ::-1].copy()[:, :2],
        lambda a: a.astype(np.float64),
        lambda a: a[:2],
        lambda a: np.asfortranarray(a),
        lambda a: a,
        lambda a: a.view(type("Own", (np.ndarray,), {})),
    ]

    def program():
        def f(a):
            return tj.from_numpy(a) * 2 + 1

        return f, lambda i: (layouts[0 if i < 8 else i % 7](observation(i, 4, 3)),), list

    both(program, 40, 5)


@pytest.mark.parametrize("wrong", ["text", np.array(["a"]), [1.0], np.arange(4, dtype=">f4")])
def test_what_is_no_array_raises_as_eagerly(wrong):
    @tj.compile
    def f(a):
        return tj.from_numpy(a) * 2

    for i in range(8):
        f(observation(i))
    with pytest.raises((TypeError, ValueError)) as caught:
        f(wrong)
    with pytest.raises(caught.type) as expected:
        tj.from_numpy(wrong)
    assert str(caught.value) == str(expected.value)
    assert f(np.float32([1, 2, 3, 4])).tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize("read", ["numpy", "tolist"])
def test_arrays_and_lists_that_leave(read):
    def program(jit):
        policy = net(4, 16, 3)
        log = []

        def act(array):
            with tj.no_grad():
                out = policy(tj.from_numpy(array)).softmax(-1)
                total, same = out.sum(), out.cpu().detach()
            log.append(getattr(same, read)())
            return getattr(out, read)(), total

        return jit(act), log

    plain, expected = program(lambda f: f)
    compiled, found = program(tj.compile)
    for i in range(14):
        a, b = plain(observation(i)), compiled(observation(i))
        assert frozen(a) == frozen(b)
    assert [frozen(x) for x in found] == [frozen(x) for x in expected]
    assert region_of(compiled).calls.replayed >= 6


def test_an_array_shares_the_memory_of_its_tensor():
    @tj.compile
    def f(x):
        y = x * 2
        z = y.detach()
        return y, y.numpy(), z.numpy()

    for i in range(10):
        y, a, b = f(tj.full((3,), float(i)))
        a[0] = -1
        assert y.tolist() == [-1, 2 * i, 2 * i] == b.tolist()
        assert a.base is None or a.flags.writeable
    assert region_of(f).calls.replayed >= 3


def test_an_array_that_python_computes_with_is_followed():
    def program():
        def f(x):
            a = (x * 2).numpy()
            return float(a.sum()), a[0] > 0

        return f, lambda i: (tj.from_numpy(observation(i)),), list

    region = both(program, 10, 0)
    assert region.calls.replayed == 0


def test_counts_are_divided_by_whole_numbers():
    def program():
        model = net(4, 16, 3)
        batches = [(tj.from_numpy(observation(i, 8, 4)), tj.tensor([0, 1, 2, 0, 1, 2, 0, 1])) for i in range(3)]

        def evaluate():
            right = seen = 0
            with tj.no_grad():
                for x, y in batches:
                    right += (model(x).argmax(1) == y).sum().item()
                    seen += len(y)
            return right / seen

        return evaluate, lambda i: (), list

    both(program, 24, 6)


def of_the_argument(x):
    shown = x.numpy()
    x.mul_(3)
    return float(shown[0, 0])


def of_a_result(x):
    y = x * 2
    shown = y.numpy()
    y.mul_(3)
    return shown, float(shown[0, 0]), y + 1


def of_a_detached_tensor(x):
    shown = x.detach().numpy()
    x[0].mul_(3)
    return shown.sum()


def through_a_detached_tensor(x):
    other = x.detach()
    shown = np.asarray(x)[1]
    other.mul_(3)
    return shown.sum()


def twice(x):
    y = x * 2
    y.mul_(3)
    shown = y.numpy()
    y.add_(1)
    first = shown.copy()
    y[1].sub_(2)
    return first, shown.copy(), y * 2


def a_tensor_of_an_array(x):
    array = np.ones((2, 2), np.float32)
    y = tj.from_numpy(array)
    y.add_(x)
    return array.sum()


def a_part_of_an_array(x):
    array = np.ones((4, 2), np.float32)
    y = tj.from_numpy(array[:2])
    y.add_(x)
    return array.sum()


def an_array_that_nobody_has(x):
    y = tj.from_numpy(np.ones((2, 2), np.float32))
    y.mul_(3)
    y.add_(x)
    return y * 2


def let_go(x):
    largest = x.numpy().max()
    x.add_(1)
    return float(largest), x * 2


@pytest.mark.parametrize(
    "f",
    [of_the_argument, of_a_result, of_a_detached_tensor, through_a_detached_tensor, twice, a_tensor_of_an_array]
    + [a_part_of_an_array, an_array_that_nobody_has, let_go],
)
def test_an_array_shows_what_is_changed_in_place(f):
    compiled = tj.compile(f)
    for call in range(16):
        one, other = (tj.tensor(observation(call, 2, 2)) for _ in range(2))
        assert frozen(f(one)) == frozen(compiled(other)), call
        assert bits(one) == bits(other)
    cuts = [note.reason for note in region_of(compiled).notes if "NumPy" in note.reason]
    # An array that nobody has any more costs no cut.
    assert bool(cuts) is (f not in (an_array_that_nobody_has, let_go))


@pytest.mark.parametrize("mode", ["auto", "follow"])
@pytest.mark.parametrize(
    "x", [tj.zeros(0, 3), tj.ones(()), tj.arange(6).reshape(2, 3).t(), tj.ones(3).expand(2, 3), tj.ones(3) > 0]
)
def test_arrays_that_a_region_gives_away_are_like_others(x, mode):
    def f(x):
        y = x.detach()
        return y.numpy(), y.numpy()[..., :1] if y.ndim else y.numpy(), x.clone().numpy()

    compiled = tj.compile(f, mode=mode)
    for _ in range(6):
        for one, other in zip(f(x), compiled(x), strict=True):
            assert frozen(one) == frozen(other)
            assert one.flags.writeable is other.flags.writeable
            assert one.strides == other.strides or not one.size


def test_nothing_is_noted_of_arrays_behind_a_region(monkeypatch):
    def f(x):
        return x.numpy().sum() + (x * 2).numpy().sum()

    compiled = tj.compile(f)
    for call in range(8):
        compiled(tj.ones(3))
        assert state.exposed is None, call

    def fails(x):
        x.numpy()
        raise KeyError

    with pytest.raises(KeyError):
        tj.compile(fails)(tj.ones(3))
    assert state.exposed is None
    with monkeypatch.context() as patch:
        region = region_of(compiled)
        patch.setattr(type(region), "_only_waits", lambda self: True)
        patch.setattr(region, "waiting", [(SimpleNamespace(line=""), SimpleNamespace(kind="", obstacle=""))])
        patch.setattr(region, "prover", None)
        compiled(tj.ones(3))
    assert state.exposed is None


def test_an_optimizer_changes_what_an_array_shows():
    def train(model, opt, x):
        model.zero_grad()
        model(x).square().sum().backward()
        shown = model[0].weight.detach().numpy()
        before = shown.copy()
        opt.step()
        return before, shown.copy()

    def program(jit):
        tj.manual_seed(0)
        model = net(4, 8, 2)
        opt = tj.optim.Adam(model.parameters(), lr=0.1)
        step = jit(train)
        return [frozen(step(model, opt, tj.tensor(observation(i, 3, 4)))) for i in range(10)]

    assert program(lambda f: f) == program(tj.compile)
