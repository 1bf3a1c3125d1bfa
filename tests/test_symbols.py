"""Sizes that stay open calculate like whole numbers, and say when a decision would be another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracejit.symbols import Size, Trail, present

LETTERS = "+-*/%"


def calculate(program, values):
    """Run a list of instructions over a pool of numbers; the pool and what was decided."""
    pool, decided = list(values), []
    for letter, i, j, k in program:
        a, b = pool[i % len(pool)], pool[j % len(pool)]
        if letter == "+":
            pool.append(a + b)
        elif letter == "-":
            pool.append(a - b + k)
        elif letter == "*":
            pool.append(a * k + b)
        elif letter == "/":
            pool.append((a * b + k) // (k or 1))
        else:
            pool.append((a + k) % (k or 1))
        decided.append((bool(a < b), bool(a == 1), bool(pool[-1] != 0), bool(b <= k)))
    return pool, decided


programs = st.lists(
    st.tuples(st.sampled_from(LETTERS), st.integers(0, 9), st.integers(0, 9), st.integers(1, 7)), max_size=8
)
sizes = st.tuples(st.integers(0, 30), st.integers(0, 30))


@given(programs, sizes, sizes)
def test_other_values_give_what_calculating_with_them_gives_or_nothing(program, first, second):
    trail = Trail()
    pool, decided = calculate(program, [trail.symbol(v) for v in first])
    expected, plain = calculate(program, list(first))
    assert list(map(present, pool)) == expected
    assert decided == plain
    function = trail.function(pool)
    assert function(first) == expected
    again, others = calculate(program, list(second))
    found = function(second)
    if found is not None:
        assert found == again
    if others == decided:
        assert found is not None


def test_an_inequality_that_holds_no_more_is_no_condition():
    trail = Trail()
    n = trail.symbol(7)
    assert n != 128
    function = trail.function([n])
    assert function([128]) == [128]


def test_one_and_nothing_are_conditions():
    for special in (0, 1):
        trail = Trail()
        n = trail.symbol(7)
        assert n != special
        assert trail.function([n])([special]) is None


def test_what_needs_an_int_fixes_the_size():
    trail = Trail()
    n = trail.symbol(3)
    assert list(range(n)) == [0, 1, 2]
    function = trail.function([n])
    assert function([3]) == [3]
    assert function([4]) is None


def test_exact_quotients_stay_products():
    trail = Trail()
    n, m = trail.symbol(6), trail.symbol(4)
    quotient = (n * m * 8) // (m * 2)
    assert isinstance(quotient, Size)
    assert quotient == n * 4
    assert (n * m) % m == 0
    assert len(trail.atoms) == 2
