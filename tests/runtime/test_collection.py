"""Cycles are searched not at all, or less often and among few; what was made is not gone through right after."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from tracejit.runtime.collection import only_new, without_collections


@pytest.fixture
def searching() -> Iterator[None]:
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def is_young(it: object) -> bool:
    return any(other is it for generation in (0, 1) for other in gc.get_objects(generation))


@pytest.mark.usefixtures("searching")
@pytest.mark.parametrize(("count", "young"), [(50_000, False), (100, True)])
def test_much_that_was_made_meanwhile_is_old(count: int, young: bool) -> None:
    gc.collect()
    # A search of Python 3.12 leaves some of its own.
    frozen = gc.get_freeze_count()
    with without_collections():
        assert not gc.isenabled()
        made = [[] for _ in range(count)]
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen
    assert is_young(made[-1]) is young


@pytest.mark.usefixtures("searching")
def test_what_is_frozen_stays_so() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with without_collections():
        made = [[] for _ in range(50_000)]
    assert len(made) > 0
    # A few that were frozen may have died since, in another thread.
    assert gc.get_freeze_count() > frozen // 2 > 0


def test_who_searches_for_nothing_does_not_do_so_afterwards() -> None:
    gc.disable()
    try:
        with without_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_all_are_searched_a_tenth_as_often() -> None:
    young, middle, old = before = gc.get_threshold()
    with only_new():
        assert gc.get_threshold() == (young, middle, 10 * old)
    assert gc.get_threshold() == before


class Knot:
    """An object in a cycle of its own."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.usefixtures("searching")
def test_only_what_is_new_is_searched() -> None:
    gc.collect()
    frozen = gc.get_freeze_count()
    old = weakref.ref(Knot())
    with only_new():
        new = weakref.ref(Knot())
        gc.collect()
        assert old() is not None
        assert new() is None
    gc.collect()
    assert old() is None
    assert gc.get_freeze_count() <= frozen


@pytest.mark.usefixtures("searching")
def test_what_was_frozen_before_is_so_afterwards() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with only_new():
        pass
    assert gc.get_freeze_count() > frozen // 2 > 0


def test_what_is_set_meanwhile_stays() -> None:
    before = gc.get_threshold()
    try:
        with only_new():
            gc.set_threshold(1234, 5, 6)
        assert gc.get_threshold()[:2] == (1234, 5)
    finally:
        gc.set_threshold(*before)
