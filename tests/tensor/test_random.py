"""Random tensors: streams repeat, moments and ranges fit, wrong arguments raise what PyTorch raises."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracejit as tj
from tests.tensor.parity import check, draw
from tracejit.eager import run_op
from tracejit.ops.random import philox
from tracejit.ops.record import Op, ops
from tracejit.tensor import random
from tracejit.trace.compiled import region_of

DRAWS: dict[str, Callable[[], Any]] = {
    "rand": lambda: tj.rand(50),
    "randn": lambda: tj.randn(50),
    "randint": lambda: tj.randint(0, 100, (50,)),
    "randperm": lambda: tj.randperm(50),
    "bernoulli": lambda: tj.bernoulli(tj.full((50,), 0.5)),
    "normal": lambda: tj.normal(0.0, tj.ones(50)),
    "multinomial": lambda: tj.multinomial(tj.ones(50), 20),
    "uniform_": lambda: tj.zeros(50).uniform_(),
    "normal_": lambda: tj.zeros(50).normal_(),
    "bernoulli_": lambda: tj.zeros(50).bernoulli_(0.5),
    "exponential_": lambda: tj.zeros(50).exponential_(),
    "random_": lambda: tj.zeros(50).random_(0, 1000),
    "rand_like": lambda: tj.rand_like(tj.zeros(50)),
    "randn_like": lambda: tj.randn_like(tj.zeros(50)),
    "randint_like": lambda: tj.randint_like(tj.zeros(50), 9),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_repeats_its_stream_and_the_stream_goes_on(name: str) -> None:
    tj.manual_seed(5)
    first, second = DRAWS[name]().tolist(), DRAWS[name]().tolist()
    tj.manual_seed(5)
    assert DRAWS[name]().tolist() == first
    assert DRAWS[name]().tolist() == second != first
    tj.manual_seed(6)
    assert DRAWS[name]().tolist() != first


def test_generators_have_streams_of_their_own() -> None:
    a, b = tj.Generator().manual_seed(1), tj.Generator().manual_seed(1)
    tj.manual_seed(1)
    before = tj.get_rng_state().tolist()
    assert tj.randn(5, generator=a).tolist() == tj.randn(5, generator=b).tolist()
    assert tj.get_rng_state().tolist() == before


def test_state_goes_back_and_survives_pickling() -> None:
    g = tj.Generator().manual_seed(2**64 - 1)
    tj.rand(3, generator=g)
    place = g.get_state()
    twin = pickle.loads(pickle.dumps(g))
    first = tj.rand(4, generator=g).tolist()
    assert tj.rand(4, generator=g.set_state(place)).tolist() == first == tj.rand(4, generator=twin).tolist()
    assert g.initial_seed() == 2**64 - 1
    tj.set_rng_state(place)
    assert tj.rand(4).tolist() == first
    with pytest.raises(RuntimeError, match="wrong size"):
        g.set_state(tj.zeros(3, dtype=tj.uint8))
    with pytest.raises(TypeError):
        g.set_state(tj.zeros(16))


def test_seeds() -> None:
    assert tj.Generator().manual_seed(-1).initial_seed() == 2**64 - 1
    assert tj.seed() == tj.initial_seed()
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="Overflow"):
            tj.manual_seed(seed)


@pytest.mark.parametrize("dtype", [tj.float16, tj.float32, tj.float64])
def test_moments(dtype: Any) -> None:
    tj.manual_seed(0)
    n = 100_000
    u, z = tj.rand(n, dtype=dtype).numpy().astype(float), tj.randn(n, dtype=dtype).numpy().astype(float)
    assert u.min() >= 0
    assert u.max() <= 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(u.var() - 1 / 12) < 0.002
    assert abs(z.mean()) < 0.015
    assert abs(z.std() - 1) < 0.01
    assert abs((z**3).mean()) < 0.05
    assert abs((z**4).mean() - 3) < 0.15


def test_numbers_of_neighbouring_draws_do_not_correlate() -> None:
    tj.manual_seed(0)
    a, b = tj.randn(50_000).numpy(), tj.randn(50_000).numpy()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("count", [0, 1, 2, 3, 64, 65, 1000, 65_537, 300_000])
def test_orders_are_those_of_keys_of_64_bits(count: int) -> None:
    for seed, offset in ((0, 0), (7, 3), (2**64 - 5, 2**40)):
        low, high = philox(seed, offset, count)
        expected = np.argsort(low | (high << np.uint64(32)), kind="stable")
        found = random._order(count, (seed, offset))
        assert found.dtype == np.int64
        assert np.array_equal(found, expected)


def test_an_order_looks_at_all_bits_where_leading_ones_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> np.ndarray:
        return np.full(attrs[0], 0.25) if op is ops.uniform else run_op(op, args, attrs)

    for count in (0, 1, 1000, random._FEW, random._FEW + 1):
        expected = np.argsort(random._keys(count, (1, 2)), kind="stable")
        assert np.array_equal(random._order(count, (1, 2)), expected)
        with monkeypatch.context() as patched:
            patched.setattr(random, "is_rare", lambda key, work: False)
            assert np.array_equal(random._order(count, (1, 2)), expected)
            patched.setattr(random, "run_op", equal)
            assert np.array_equal(random._order(count, (1, 2)), expected)


def test_ranges() -> None:
    tj.manual_seed(0)
    assert set(tj.randint(-2, 3, (500,)).tolist()) == {-2, -1, 0, 1, 2}
    assert sorted(tj.randperm(100).tolist()) == list(range(100))
    wide = tj.zeros(1000).uniform_(-3.0, 5.0).numpy()
    assert -3 <= wide.min() < -2.9
    assert 4.9 < wide.max() <= 5
    shifted = tj.zeros(20_000).normal_(2.0, 0.5).numpy()
    assert abs(shifted.mean() - 2) < 0.02
    assert abs(shifted.std() - 0.5) < 0.02
    waits = tj.zeros(20_000).exponential_(4.0).numpy()
    assert waits.min() >= 0
    assert abs(waits.mean() - 0.25) < 0.01
    assert abs(tj.bernoulli(tj.full((20_000,), 0.2)).numpy().mean() - 0.2) < 0.02
    assert tj.bernoulli(tj.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert 0 <= int(tj.randint(0, 2**62, ())) < 2**62


def test_multinomial_draws_in_proportion() -> None:
    tj.manual_seed(0)
    weights = tj.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 1.0]])
    drawn = tj.multinomial(weights, 20_000, replacement=True).numpy()
    shares = np.stack([(drawn == k).mean(1) for k in range(3)], 1)
    np.testing.assert_allclose(shares, [[0.25, 0, 0.75], [0, 0.5, 0.5]], atol=0.02)
    assert sorted(tj.multinomial(tj.tensor([1.0, 2.0, 0.0]), 2).tolist()) == [0, 1]


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_multinomial_draws_the_same_compiled(shape: tuple[int, ...], replacement: bool, dtype: str) -> None:
    weights = tj.rand(*shape).relu().to(getattr(tj, dtype)) + 0.125
    count = 1 if shape[-1] == 1 else 2

    def drawn(x: Any) -> Any:
        return tj.multinomial(x, count, replacement), tj.multinomial(x / x.sum(-1, keepdim=True), 1)

    compiled = tj.compile(drawn)
    for seed in range(6):
        tj.manual_seed(seed)
        expected = [t.tolist() for t in drawn(weights)]
        tj.manual_seed(seed)
        assert [t.tolist() for t in compiled(weights)] == expected
    assert region_of(compiled).calls.replayed


def test_multinomial_looks_at_weights_in_programs() -> None:
    compiled = tj.compile(lambda x: tj.multinomial(x * 2, 2))
    good = tj.tensor([[1.0, 2.0, 0.5]])
    for _ in range(5):
        compiled(good)
    for bad, why in (
        ([1.0, -1.0, 1.0], "element < 0"),
        ([1.0, float("nan"), 1.0], "element < 0"),
        ([1.0, float("inf"), 1.0], "element < 0"),
        ([0.0, 0.0, 0.0], "sum of probabilities"),
        ([0.0, 1.0, 0.0], "without replacement"),
    ):
        for draw_from in (compiled, lambda x: tj.multinomial(x * 2, 2)):
            before = tj.get_rng_state()
            with pytest.raises(RuntimeError, match=why):
                draw_from(tj.tensor([bad]))
            assert tj.equal(before, tj.get_rng_state())


def test_many_draws_from_many_classes_look_for_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tj.rand(2, 9)
    weights[:, -2:] = 0
    tj.manual_seed(1)
    compared = tj.multinomial(weights, 50, replacement=True)
    monkeypatch.setattr(random, "_LOOKS", 0)
    tj.manual_seed(1)
    assert tj.equal(tj.multinomial(weights, 50, replacement=True), compared)


WRONG = """m.rand(-1)|m.rand(2, dtype=m.int64)|m.randn("a")|m.randint(5, 5, (2,))|m.randint(3, 1, (2,))
m.randperm(-1)|m.bernoulli(x.long())|m.normal(0.0, -1.0, (2,))|m.multinomial(x, 2)|m.multinomial(x.abs(), 9)
m.multinomial(x * 0, 1)|m.multinomial(x.abs(), 0)|x.detach().uniform_(2.0, 1.0)|x.detach().normal_(0.0, -1.0)
x.detach().exponential_(-1.0)|x.detach().bernoulli_(1.5)|x.long().uniform_()|x.long().normal_()|x.uniform_()
m.randint(2, (3,), generator=5)|m.get_rng_state().dtype|m.rand(2, 3).shape|m.rand((2, 3)).dtype|m.randn(0).shape
m.randint(5, (2,)).dtype|m.randperm(3).dtype|m.randn(2, requires_grad=True).requires_grad
m.rand(2, device="cpu").shape|m.randint(0, 5, (2,), dtype=m.float32).dtype"""


@pytest.mark.parametrize("text", WRONG.replace("\n", "|").split("|"))
def test_types_and_wrong_arguments(text: str) -> None:
    check(text, [draw((4,)) - 10])
