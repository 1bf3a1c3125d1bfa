"""Views of a tensor that gets a gradient history by a change in place, beside PyTorch."""

from __future__ import annotations

import pytest

import tracejit as tj

torch = pytest.importorskip("torch")


def changed(m, how):
    """A view, taken before its base was changed with something that requires gradients; and that something."""
    base, w = m.zeros(2, 3), m.ones(2, 3, requires_grad=True)
    view = [base.unsqueeze(0), base[1], base.reshape(-1)[2:], base.transpose(0, 1)][how]
    base.copy_(w * 2) if how % 2 else base.add_(w)
    return view, w


@pytest.mark.parametrize("how", range(4))
def test_the_view_has_the_history_of_its_base(how):
    found = []
    for m in (tj, torch):
        view, w = changed(m, how)
        flags = (view.requires_grad, view.is_leaf, view.grad_fn is not None)
        view, w = changed(m, how)
        product = view * (view + 1)
        product.sum().backward()
        found.append((flags, product.requires_grad, w.grad.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("how", range(4))
def test_compiled(how):
    def run(x, w):
        view = [x.unsqueeze(0), x[1], x.reshape(-1)[2:], x.transpose(0, 1)][how]
        x.copy_(w * 2)
        return view * 3, view.requires_grad, view.is_leaf

    compiled = tj.compile(run)
    for i in range(8):
        outcomes = []
        for f in (run, compiled):
            w = tj.full((2, 3), float(i), requires_grad=True)
            product, *flags = f(tj.zeros(2, 3), w)
            product.sum().backward()
            outcomes.append((product.tolist(), flags, w.grad.tolist()))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("look", [tj.no_grad, tj.inference_mode])
def test_a_view_keeps_its_history_when_it_is_looked_at_without_gradients(look):
    def run(x):
        y = x * 2
        view = y.transpose(0, 1)
        y.mul_(3.0)
        with look():
            seen = view * 2
        weights = tj.arange(6.0).reshape(3, 2)
        (view * weights).sum().backward()
        return seen.requires_grad, seen.tolist(), view.requires_grad

    x = tj.ones(2, 3).requires_grad_()
    assert run(x) == (False, [[12.0] * 2] * 3, True)
    assert x.grad.tolist() == [[0.0, 12.0, 24.0], [6.0, 18.0, 30.0]]
    compiled, x = tj.compile(run), tj.ones(2, 3).requires_grad_()
    for _ in range(6):
        x.grad = None
        assert compiled(x) == (False, [[12.0] * 2] * 3, True)
        assert x.grad.tolist() == [[0.0, 12.0, 24.0], [6.0, 18.0, 30.0]]


@pytest.mark.parametrize(
    ("change", "first", "grad"),
    [
        (lambda old, other: other.copy_(old), 3.0, 24.0),
        (lambda old, other: old.zero_(), 0.0, 12.0),
        (lambda old, other: old.mul_(2.0), 6.0, 60.0),
    ],
)
def test_views_are_changed_after_their_base_got_a_history(change, first, grad):
    """PyTorch raises where such a view is changed before anybody looked at its history."""
    base, w = tj.ones(2, 3), tj.ones(3, requires_grad=True)
    old, other = base[0], tj.zeros(3)
    base.add_(w * 2)
    change(old, other)
    (base * base).sum().backward()
    assert old.requires_grad
    assert other.requires_grad is (first == 3.0)
    assert base.tolist() == [[first] * 3, [3.0] * 3]
    assert w.grad.tolist() == [grad] * 3


def test_windows_are_views():
    def run(m):
        x, w = m.arange(40.0).reshape(2, 4, 5), m.ones(2, 4, 1, 3, requires_grad=True)
        windows = x.unfold(2, 3, 2)
        # What several windows show is seen in each.
        x[:, :, 2] = -1.0
        x.unfold(1, 1, 3)[0].zero_()
        y = x * 2
        y.unfold(2, 3, 3).copy_(w)
        y.unfold(1, 2, 2).mul_(2.0)
        (y * y.unfold(2, 2, 1).sum()).sum().backward()
        return x.tolist(), windows.tolist(), y.tolist(), w.grad.tolist(), windows.stride()

    assert run(tj) == run(torch)
    compiled = tj.compile(run)
    for _ in range(5):
        assert compiled(tj) == run(torch)


def test_windows_that_have_elements_in_common_are_not_changed():
    x = tj.arange(6.0)
    windows = x.unfold(0, 3, 1)
    ones = tj.ones(4, 3)
    for change in (lambda t: t.zero_(), lambda t: t.add_(1.0), lambda t: t.copy_(ones), lambda t: t[0].zero_()):
        for f in (change, tj.compile(change)):
            for _ in range(4):
                with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
                    f(windows)
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    # They are as they lie in memory; a copy has memory of its own.
    assert windows.stride() == (1, 1)
    assert not windows.is_contiguous()
    windows.clone().zero_()
    assert windows.contiguous().stride() == (3, 1)
    assert x.sum().item() == 15.0


def test_diagonals_are_views_and_diag_is_none():
    def run(m):
        x, w = m.arange(24.0).reshape(2, 3, 4), m.ones(2, 3, requires_grad=True)
        x.diagonal(1, 2, 1).fill_(-1.0)
        y = x * 2
        y.transpose(1, 2)[:, 1:].diagonal(0, 1, 2).copy_(w)
        y[0].diag().zero_()
        (y * y.diagonal(0, 1, 2).sum()).sum().backward()
        return x.tolist(), y.tolist(), w.grad.tolist()

    assert run(tj) == run(torch)
    compiled = tj.compile(run)
    for _ in range(5):
        assert compiled(tj) == run(torch)
