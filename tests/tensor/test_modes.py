"""Grad modes: what a block does to the thread that enters it, and what is refused."""

from __future__ import annotations

import copy
import gc
import sys
import threading

import pytest

import tracejit as tj
from tracejit.tensor.state import state

MODES = [(tj.no_grad, False), (tj.enable_grad, True), (tj.inference_mode, False)]


def now() -> bool:
    return tj.is_grad_enabled()


@pytest.mark.parametrize(("mode", "inside"), MODES)
@pytest.mark.parametrize("outside", [True, False])
def test_a_block_has_its_mode_and_gives_the_former_one_back(mode, inside, outside):
    with tj.set_grad_enabled(outside):
        with mode() as given:
            assert now() is inside
        assert given is None
        assert now() is outside
        with pytest.raises(KeyError, match="raised inside"), mode():
            raise KeyError("raised inside")
        assert now() is outside
    assert now() is True


@pytest.mark.parametrize(("mode", "inside"), MODES)
def test_one_object_may_be_entered_several_times(mode, inside):
    block = mode()
    with block, tj.set_grad_enabled(not inside), block:
        assert now() is inside
    assert now() is True
    with block:
        assert now() is inside
    assert now() is True


def test_blocks_that_are_left_out_of_order_give_back_what_each_found():
    first, second = tj.no_grad(), tj.enable_grad()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert now() is True
    second.__exit__(None, None, None)
    assert now() is False
    tj.set_grad_enabled(True)


@pytest.mark.parametrize(("mode", "inside"), MODES)
def test_functions_run_in_the_mode_that_decorates_them(mode, inside):
    def seen(x: int, *, y: int = 0) -> tuple[bool, int]:
        """What it sees."""
        return now(), x + y

    for decorated in (mode(seen), mode()(seen)):
        with tj.set_grad_enabled(not inside):
            assert decorated(1, y=2) == (inside, 3)
            assert now() is not inside
        assert (decorated.__name__, decorated.__doc__) == ("seen", "What it sees.")
    tj.set_grad_enabled(True)


def test_inference_mode_may_be_off():
    with tj.no_grad():
        with tj.inference_mode(False):
            assert now() is True
        with tj.inference_mode(mode=True):
            assert now() is False
    assert now() is True


def test_each_thread_has_its_own_mode():
    shared, seen = tj.no_grad(), []

    def other() -> None:
        seen.append(now())
        with shared:
            seen.append(now())
        seen.append(now())

    with tj.no_grad():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert now() is False
    assert seen == [True, False, True]


def test_what_is_no_mode_is_refused():
    base = tj.no_grad.__mro__[1]
    for wrong in ((int,), ("no_grad",), (), (base, 1, 2)):
        with pytest.raises(TypeError, match=r"_decorated\(\)"):
            base.__new__(*wrong)
    with pytest.raises(TypeError, match="doesn't apply to a 'int' object"):
        tj.no_grad.__enter__(1)
    with pytest.raises(TypeError, match="doesn't apply to a 'str' object"):
        tj.no_grad.__exit__("", None, None, None)
    with pytest.raises(TypeError, match="was left that was not entered"):
        tj.no_grad().__exit__(None, None, None)
    assert now() is True


def test_what_a_block_keeps_may_be_spoilt():
    made = object.__new__(tj.no_grad)
    with made:
        assert now() is False
    assert now() is True
    unset = object.__new__(tj.no_grad)
    for spoilt in (5, (), (None,), [None, True]):
        block = tj.no_grad()
        block._before = spoilt
        with pytest.raises((TypeError, IndexError)):
            block.__exit__(None, None, None)
    with pytest.raises(TypeError, match="was left that was not entered"):
        unset.__exit__(None, None, None)
    assert now() is True


def test_a_state_without_a_mode_is_told():
    del state.__dict__["grad_enabled"]
    try:
        with pytest.raises(TypeError, match="has no grad mode"):
            tj.no_grad().__enter__()
    finally:
        state.grad_enabled = True


def test_copies_and_classes_of_ones_own():
    class Mine(tj.no_grad):
        def __init__(self) -> None:
            self.name = "mine"

    with Mine() as _, copy.copy(Mine()):
        assert now() is False
    assert Mine().name == "mine"
    assert now() is True


def test_nothing_is_kept_but_what_is_entered():
    def counts() -> list[int]:
        return [sys.getrefcount(x) for x in (None, tj.no_grad, state.__dict__)]

    def blocks() -> None:
        mode = tj.no_grad()
        for _ in range(1000):
            with mode, tj.enable_grad(), tj.no_grad():
                pass

    blocks()
    gc.collect()
    before = counts()
    blocks()
    gc.collect()
    # Of None others may hold some more meanwhile; one lost in each of 3,000 blocks would be seen.
    assert all(abs(a - b) < 100 for a, b in zip(counts(), before, strict=True))
