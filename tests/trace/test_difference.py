"""What a call did differently is said in one sentence: by side exits, and where `max_compiles` is exceeded."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tracejit as tj
from tracejit.errors import CompileLimitError
from tracejit.nn import functional as F
from tracejit.trace import difference, pace
from tracejit.trace.compiled import region_of


def arr(seed, *shape):
    return tj.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def line(function, text):
    """File and line of the one line of a function that holds a text."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [first + k for k, one in enumerate(lines) if text in one]
    return f"{__file__}:{found}"


def changes(function, first, other, **options):
    """The texts of side exits and new sizes when calls with the first arguments are followed by one with others."""
    f = tj.compile(function, **options)
    for _ in range(4):
        f(*first)
    f(*other)
    return [n.reason.split("; ", 1)[1] for n in region_of(f).notes if n.kind in ("side exit", "resize")]


def test_shapes_and_types():
    def f(x, y):
        return x + y

    here = line(f, "x + y")
    (told,) = changes(f, (arr(0, 64, 10), arr(1, 64, 10)), (arr(0, 37, 10), arr(1, 37, 10)))
    assert told == (
        f"argument 1 of add ({here}) was float32[64, 10], now float32[37, 10]; "
        f"argument 2 of add ({here}) was float32[64, 10], now float32[37, 10]"
    )
    (told,) = changes(f, (arr(0, 3), arr(1, 3)), (arr(0, 3).double(), arr(1, 3).double()))
    assert f"argument 2 of add ({here}) was float32[3], now float64[3]" in told


def test_gradients_layout_and_memory():
    def f(x):
        return x * 2

    here = line(f, "x * 2")
    start = f"argument 1 of mul ({here})"
    x = arr(0, 3, 3)
    assert changes(f, (x,), (arr(1, 3, 3).requires_grad_(),)) == [f"{start} required no gradients, now it does"]
    w = arr(0, 3, 3).requires_grad_()
    assert changes(f, (w,), (w.exp(),)) == [f"{start} was a leaf, now it has a gradient history"]
    assert changes(f, (w.exp(),), (w,)) == [f"{start} had a gradient history, now it is one"]
    assert changes(f, (x,), (x.T,)) == [f"{start} was contiguous, now it has strides of (4, 12) bytes"]
    assert changes(f, (x.T,), (x,)) == [f"{start} had strides of (4, 12) bytes, now it is contiguous"]


def test_numbers_attributes_and_other_operations():
    def f(x, k):
        return x.sum(k) if k < 3 else x.exp()

    (told,) = changes(f, (arr(0, 3, 4), 0), (arr(0, 3, 4), 1))
    assert told == f"attribute dim of sum ({line(f, 'x.sum')}) was 0, now 1"
    (told,) = changes(f, (arr(0, 3, 4), 0), (arr(0, 3, 4), 3))
    assert told == f"the tree has sum ({line(f, 'x.sum')}), now exp ({line(f, 'x.sum')})"

    def g(x, s):
        return x * s

    (told,) = changes(g, (arr(0, 3), 2.0), (arr(0, 3), 3))
    assert told == f"argument 2 of mul ({line(g, 'x * s')}) was a float (2.0), now a whole number (3)"
    (told,) = changes(g, (arr(0, 3), 2.0), (arr(0, 3), tj.ones(3)))
    assert f"argument 2 of mul ({line(g, 'x * s')}) was a float, now a tensor" in told


def test_arguments_of_units_have_their_names():
    def f(x, y, kind, smoothing):
        return F.cross_entropy(x, y, reduction=kind, label_smoothing=smoothing)

    y = tj.tensor([0, 1, 2])
    (told,) = changes(f, (arr(0, 3, 4), y, "mean", 0.0), (arr(0, 3, 4), y, "sum", 0.0))
    assert told == f"argument reduction of cross_entropy ({line(f, 'F.cross')}) was 'mean', now 'sum'"
    (told,) = changes(f, (arr(0, 3, 4), y, "mean", 0.0), (arr(0, 3, 5), y, "mean", 0.0))
    assert told == f"argument input of cross_entropy ({line(f, 'F.cross')}) was float32[3, 4], now float32[3, 5]"
    (told,) = changes(f, (arr(0, 3, 4), y, "mean", 0.0), (arr(0, 3, 4), y, "mean", 0.125))
    assert told.startswith(f"argument label_smoothing of cross_entropy ({line(f, 'F.cross')}) was 0.0, now 0.125")


def test_grad_mode_and_gradients_of_leaves():
    w = arr(0, 3).requires_grad_()

    def f(x, on):
        with tj.set_grad_enabled(on):
            return (x * w).sum()

    (told,) = changes(f, (arr(0, 3), True), (arr(0, 3), False))
    assert told == f"at mul ({line(f, 'x * w')}) gradients were recorded, now they are not recorded"

    def g(x, zero):
        if zero:
            w.grad = None
        (x * w).sum().backward()

    (told,) = changes(g, (arr(0, 3), True), (arr(0, 3), False))
    assert told == f".grad of the leaf float32[3] of backward ({line(g, 'backward')}) was None, now it is there"


def test_which_tensor_it_is():
    def f(x, y, swap):
        a, b = x.exp(), y.sin()
        if swap:
            return b - a
        return a - b

    (told,) = changes(f, (arr(0, 3), arr(1, 3), False), (arr(0, 3), arr(1, 3), True))
    made = line(f, "x.exp()")
    start = f"argument 1 of sub ({line(f, 'a - b')})"
    assert told.startswith(f"{start} was the result of exp ({made}), now the result of sin ({made})")
    assert told.endswith(f"({line(f, 'b - a')})")

    def g(x, y):
        return x + y

    x = arr(0, 3)
    (told,) = changes(g, (x, arr(1, 3)), (x, x))
    told = told.removeprefix(f"argument 2 of add ({line(g, 'x + y')}) ")
    assert told == "was another tensor than the other arguments, now one of them"


def test_where_the_region_ended_or_looked_at_memory():
    def f(x, how):
        y = x * 2
        if how == "more":
            y = y.exp()
        if how == "read":
            y.sum().item()
        if how == "less":
            return x
        return y

    (told,) = changes(f, (arr(0, 3), ""), (arr(0, 3), "more"))
    assert told == f"the region ended here before, now exp ({line(f, 'y.exp')})"
    (told,) = changes(f, (arr(0, 3), "read"), (arr(0, 3), "less"))
    assert told.startswith(f"the tree has sum ({line(f, 'y.sum')}), now the region ends")

    def g(x, read):
        y = x * 2
        if read:
            y.item()
        return y.exp()

    (told,) = changes(g, (arr(0), True), (arr(0), False))
    assert told == f"here a value was read before ({line(g, 'y.item')}), now exp ({line(g, 'y.exp')})"
    (told,) = changes(g, (arr(0), False), (arr(0), True))
    assert told == f"the tree has exp ({line(g, 'y.exp')}), now a value is read ({line(g, 'y.item')})"


def test_an_index_out_of_range():
    def f(x, i):
        return x.index_select(0, i)

    g = tj.compile(f)
    for _ in range(4):
        g(arr(0, 3), tj.tensor([0, 2]))
    with pytest.raises(IndexError):
        g(arr(0, 3), tj.tensor([0, 3]))
    (note,) = [n for n in region_of(g).notes if n.kind == "side exit"]
    assert "lies from 0 to 2, now from 0 to 3" in note.reason


def test_max_compiles_says_what_differs_and_leaves_what_eager_leaves():
    w = tj.zeros(10)

    def step(x, y):
        z = x + y
        w.add_(z.sum(0))
        return z * 2

    f = tj.compile(step, max_compiles=1)
    for n in [64, 64, 64, 32, 32, 37]:
        f(tj.ones(n, 10), tj.ones(n, 10))
    f(tj.ones(37, 10).double(), tj.ones(37, 10).double())
    before = w.tolist()
    here = line(step, "x + y")
    with pytest.raises(CompileLimitError) as caught:
        f(tj.ones(37, 10).double(), tj.ones(37, 10).double())
    told = str(caught.value)
    assert told.startswith("step: compile 2 would exceed max_compiles=1: ")
    assert f"argument 2 of add ({here}) was float32[" in told
    assert told.endswith("now float64[37, 10]")
    assert isinstance(caught.value, RuntimeError)
    assert w.tolist() == [v + 2 * 37 for v in before]
    assert f(tj.ones(64, 10), tj.ones(64, 10)).tolist() == [[4.0] * 10] * 64
    assert w.tolist() == [v + 2 * 37 + 2 * 64 for v in before]


def test_a_number_that_changes_is_no_compilation():
    f = tj.compile(lambda x, s: x * s, max_compiles=1)
    for s in (0.5, 0.5, 0.5, 0.25, 1.0):
        assert f(tj.ones(3), s).tolist() == [s] * 3


def test_max_compiles_names_values_that_python_keeps():
    kept = []

    def step(x, keep):
        y = x.exp()
        if keep:
            kept.append(y)
        return y * 2

    f = tj.compile(step, max_compiles=1)
    for _ in range(3):
        f(arr(0, 3), False)
    told = rf"other values that Python keeps: now also the result of exp \({line(step, 'x.exp')}\)"
    with pytest.raises(CompileLimitError, match=told):
        f(arr(0, 3), True)
    assert kept[0].tolist() == arr(0, 3).exp().tolist()


def test_max_compiles_in_the_middle_of_a_call():
    log = []

    def step(x):
        log.append((x * 2).sum().item())
        return x.exp()

    f = tj.compile(step, max_compiles=1)
    f(arr(0, 3)), f(arr(0, 3))
    with pytest.raises(CompileLimitError, match=r"the segment that ends at .* has no program so far"):
        f(arr(0, 3))
    assert len(log) == 3
    assert log[2] == log[0]


@pytest.mark.parametrize(
    ("value", "error"), [("many", TypeError), (-1, ValueError), (True, TypeError), (2.0, TypeError)]
)
def test_wrong_values_of_max_compiles(value, error):
    with pytest.raises(error, match="max_compiles must be a whole number from 0 on or None"):
        tj.compile(lambda x: x, max_compiles=value)


def test_a_call_is_compared_with_a_few_events(monkeypatch):
    compared = []
    usual = difference._differences
    monkeypatch.setattr(difference, "_differences", lambda *a: compared.append(a[1]) or usual(*a))
    f = tj.compile(lambda x: x * 2 + 1)
    monkeypatch.setattr(pace, "FIRST", 64)
    for n in (3, 3, 3, *range(4, 40)):
        f(arr(0, n))
    assert region_of(f).calls.resized > 16
    assert max(map(compared.count, compared)) <= difference.COMPARED
