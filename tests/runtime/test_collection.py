"""The search for reference cycles is paused, and does not go through what was made meanwhile right after."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tracejit.runtime.collection import without_collections


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
    with without_collections():
        assert not gc.isenabled()
        made = [[] for _ in range(count)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
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
