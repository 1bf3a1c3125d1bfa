"""Processes that work beside this one: each job is done once, by one of them."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from pathlib import Path

import pytest

from tracejit.runtime.crew import Crew, Job


def note(directory: Path, number: int) -> None:
    """Leaves a file that says which process did a job, and fails if another one did it before."""
    with (directory / str(number)).open("x") as file:
        file.write(str(os.getpid()))


def jobs(directory: Path, first: int, count: int) -> list[Job]:
    return [functools.partial(note, directory, first + k) for k in range(count)]


def done_by(directory: Path) -> dict[int, int]:
    return {int(path.name): int(path.read_text()) for path in directory.iterdir()}


def test_a_process_alone_does_all_jobs(tmp_path: Path) -> None:
    crew = Crew(jobs(tmp_path, 0, 2))
    crew.add(jobs(tmp_path, 2, 2))
    crew.finish()
    assert done_by(tmp_path) == dict.fromkeys(range(4), os.getpid())


def test_what_is_taken_is_done_by_nobody_else(tmp_path: Path) -> None:
    crew = Crew(jobs(tmp_path, 0, 2))
    job = crew.take()
    assert job is not None
    crew.add(jobs(tmp_path, 2, 1))
    crew.hire(2)
    wait_for(tmp_path, 2)
    assert crew.take() is None
    crew.finish()
    assert sorted(done_by(tmp_path)) == [1, 2]
    job()
    assert done_by(tmp_path)[0] == os.getpid()


def test_jobs_may_be_added_again_and_again(tmp_path: Path) -> None:
    crew = Crew(())
    crew.hire(2)
    for first in (0, 3, 4):
        crew.add(jobs(tmp_path, first, 3 if first == 0 else 1))
        wait_for(tmp_path, first)
    crew.finish()
    found = done_by(tmp_path)
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert {found[0], found[3], found[4]} == {found[0]} != {os.getpid()}


def meet(directory: Path, number: int, other: int) -> None:
    """Does a job that is done when another one is begun: two processes must be at them."""
    note(directory, number)
    wait_for(directory, other)


def wait_for(directory: Path, number: int) -> None:
    end = time.monotonic() + 30
    while not (directory / str(number)).exists():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_another_process_begins_at_once_and_both_do_what_is_added(tmp_path: Path) -> None:
    crew = Crew(jobs(tmp_path, 0, 1))
    crew.hire(2)
    wait_for(tmp_path, 0)
    crew.add([functools.partial(meet, tmp_path, 1, 2), functools.partial(meet, tmp_path, 2, 1)])
    crew.finish()
    found = done_by(tmp_path)
    assert sorted(found) == [0, 1, 2]
    assert {found[1], found[2]} == {os.getpid(), found[0]}


def test_without_a_place_for_files_no_other_process_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise FileNotFoundError("no usable directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    crew = Crew(jobs(tmp_path, 0, 2))
    crew.hire(2)
    crew.add(jobs(tmp_path, 2, 1))
    crew.finish()
    assert done_by(tmp_path) == dict.fromkeys(range(3), os.getpid())


def test_jobs_that_nobody_has_begun_can_be_taken_back(tmp_path: Path) -> None:
    crew = Crew(jobs(tmp_path, 0, 3))
    crew.dismiss()
    assert done_by(tmp_path) == {}
    crew.dismiss()


def test_what_is_finished_stays_done(tmp_path: Path) -> None:
    crew = Crew(jobs(tmp_path, 0, 1))
    crew.finish()
    crew.dismiss()
    assert done_by(tmp_path) == {0: os.getpid()}


def test_a_process_that_fails_leaves_the_rest_to_the_others(tmp_path: Path) -> None:
    def fail() -> None:
        if os.getpid() != here:
            raise ValueError

    here = os.getpid()
    crew = Crew([fail])
    crew.hire(2)
    crew.add(jobs(tmp_path, 0, 3))
    crew.finish()
    assert sorted(done_by(tmp_path)) == [0, 1, 2]


def test_what_fails_here_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError("here")

    crew = Crew([fail])
    with pytest.raises(ValueError, match="here"):
        crew.finish()
