"""The process that builds ahead: what it builds is on disk, each kernel is compiled once, nothing is left behind."""

from __future__ import annotations

import errno
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tracejit.runtime import ahead, build, process
from tracejit.runtime.ahead import Ahead, Job
from tracejit.runtime.cache import Store

SECONDS = 30.0
DIGESTS = [f"{k:x}".ljust(64, "0") for k in range(8)]


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ahead]:
    """A place for a process that builds ahead, of this test alone; the test's own threads do no harm."""
    monkeypatch.setattr(ahead, "may_fork", lambda: True)
    mine = Ahead()
    yield mine
    mine.kill()


def begin(mine: Ahead, jobs: list[Job]) -> None:
    with mine.expecting(lambda: jobs):
        assert mine.is_expecting
        assert mine.open()
        mine.begin()
    assert not mine.is_expecting


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def wait_for_its_end(mine: Ahead) -> None:
    def has_ended() -> bool:
        mine.look()
        return mine._process is None

    wait_for(has_ended)


def wait_until_through(mine: Ahead, *numbers: int) -> None:
    """Waits until some files are made, and lets the process end."""
    wait_for(lambda: {*numbers} <= {number for number in range(len(DIGESTS)) if mine.has_made(DIGESTS[number])})
    mine.end()
    wait_for_its_end(mine)


def make(mine: Ahead, directory: Path, number: int) -> None:
    """Makes a file as a kernel is compiled: if nobody else does."""
    with mine.claim(DIGESTS[number]):
        if not (directory / str(number)).exists():
            (directory / str(number)).write_text(str(os.getpid()))
            mine.tell(DIGESTS[number])


def note(directory: Path, number: int) -> None:
    (directory / str(number)).write_text(str(os.getpid()))


def meet(directory: Path, number: int, other: int) -> None:
    """Does a job that is done when another one is begun: two processes must be at them."""
    note(directory, number)
    wait_for((directory / str(other)).exists)


def jobs(mine: Ahead, directory: Path) -> list[Job]:
    return [functools.partial(make, mine, directory, number) for number in range(len(DIGESTS))]


def makers(directory: Path) -> dict[int, int]:
    return {int(path.name): int(path.read_text()) for path in directory.iterdir() if path.name.isdecimal()}


def test_another_process_does_the_jobs_and_tells_what_it_made(mine: Ahead, tmp_path: Path) -> None:
    begin(mine, jobs(mine, tmp_path))
    wait_until_through(mine, *range(len(DIGESTS)))
    assert sorted(makers(tmp_path)) == list(range(len(DIGESTS)))
    assert os.getpid() not in makers(tmp_path).values()
    assert all(mine.has_made(digest) for digest in DIGESTS)
    assert not mine.has_made("f" * 64)


def test_what_is_claimed_here_is_left_alone_there(mine: Ahead, tmp_path: Path) -> None:
    with mine.expecting(lambda: jobs(mine, tmp_path)):
        assert mine.open()
        with mine.claim(DIGESTS[2]) as shared:
            assert shared
            mine.begin()
            wait_until_through(mine, 0, 1, 3, 4, 5, 6, 7)
    assert sorted(makers(tmp_path)) == [0, 1, 3, 4, 5, 6, 7]


def test_this_process_waits_for_what_is_begun_there(mine: Ahead, tmp_path: Path) -> None:
    def slow() -> None:
        with mine.claim(DIGESTS[0]):
            (tmp_path / "begun").touch()
            time.sleep(0.2)
            (tmp_path / "0").write_text(str(os.getpid()))

    begin(mine, [slow, *jobs(mine, tmp_path)[1:]])
    wait_for((tmp_path / "begun").exists)
    make(mine, tmp_path, 0)
    # The others may be half written by now.
    assert int((tmp_path / "0").read_text()) != os.getpid()


def test_where_nothing_can_be_locked_this_process_compiles(
    mine: Ahead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "no locks")

    begin(mine, [lambda: wait_for((tmp_path / "go").exists), *jobs(mine, tmp_path)])
    with monkeypatch.context() as patch:
        patch.setattr(ahead.fcntl, "lockf", refuse)
        make(mine, tmp_path, 0)
    assert makers(tmp_path) == {0: os.getpid()}


def test_what_a_process_had_that_died_can_be_claimed(mine: Ahead, tmp_path: Path) -> None:
    def die() -> NoReturn:
        with mine.claim(DIGESTS[0]):
            (tmp_path / "begun").touch()
            time.sleep(0.2)
            os._exit(1)

    begin(mine, [die, *jobs(mine, tmp_path)[1:]])
    wait_for((tmp_path / "begun").exists)
    make(mine, tmp_path, 0)
    # Those that nobody was at were made while this process waited.
    assert makers(tmp_path) == dict.fromkeys(range(len(DIGESTS)), os.getpid())
    wait_for_its_end(mine)


def test_this_process_does_other_jobs_while_it_waits(mine: Ahead, tmp_path: Path) -> None:
    def slow() -> None:
        with mine.claim(DIGESTS[0]):
            (tmp_path / "begun").touch()
            wait_for((tmp_path / "2").exists)
            note(tmp_path, 0)

    def fail() -> NoReturn:
        note(tmp_path, 1)
        raise NotImplementedError("no kernel")

    begin(mine, [slow, fail, *jobs(mine, tmp_path)[2:5]])
    wait_for((tmp_path / "begun").exists)
    make(mine, tmp_path, 0)
    made = makers(tmp_path)
    assert made[0] != os.getpid()
    assert made[1] == made[2] == os.getpid()
    wait_until_through(mine, *(number for number in (3, 4) if made.get(number) != os.getpid()))
    assert sorted(makers(tmp_path)) == [0, 1, 2, 3, 4]


def test_a_job_that_fails_is_nobodys_trouble(mine: Ahead, tmp_path: Path) -> None:
    def fail() -> NoReturn:
        raise NotImplementedError("no kernel")

    begin(mine, [fail, *jobs(mine, tmp_path)])
    wait_until_through(mine, *range(len(DIGESTS)))
    assert len(makers(tmp_path)) == len(DIGESTS)


def test_it_ends_after_the_job_that_it_is_at(mine: Ahead, tmp_path: Path) -> None:
    def wait() -> None:
        (tmp_path / "begun").touch()
        wait_for((tmp_path / "go").exists)

    begin(mine, [wait, *jobs(mine, tmp_path)])
    wait_for((tmp_path / "begun").exists)
    mine.end()
    (tmp_path / "go").touch()
    wait_for_its_end(mine)
    assert makers(tmp_path) == {}


def test_a_few_jobs_are_not_worth_a_process(mine: Ahead, tmp_path: Path) -> None:
    few = jobs(mine, tmp_path)[:3]
    with mine.expecting(lambda: few):
        assert mine.open()
        mine.begin()
    assert mine._process is None


def test_a_block_that_is_left_expects_nothing(mine: Ahead) -> None:
    with pytest.raises(ValueError, match="inside"), mine.expecting(list):
        raise ValueError("inside")
    assert not mine.is_expecting


def test_there_is_one_process_at_a_time_which_gets_more_to_do(mine: Ahead, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    begin(mine, [lambda: wait_for((tmp_path / "go").exists), *jobs(mine, tmp_path)])
    assert mine._process is not None
    pid = mine._process.pid
    notes = [functools.partial(note, tmp_path / "more", number) for number in range(4)]
    for more in (notes[:2], notes[2:]):
        with mine.expecting(lambda more=more: more):
            assert not mine.open()
            assert not mine.is_expecting
    (tmp_path / "go").touch()
    wait_for(lambda: len(list((tmp_path / "more").iterdir())) == 4)
    wait_until_through(mine, *range(len(DIGESTS)))
    assert makers(tmp_path / "more") == dict.fromkeys(range(4), pid)


def test_who_asks_for_it_gets_a_process_for_few_jobs(mine: Ahead, tmp_path: Path) -> None:
    with mine.expecting(lambda: jobs(mine, tmp_path)):
        with mine.expecting(lambda: jobs(mine, tmp_path)[:1], fewest=1):
            assert mine.open()
            mine.begin()
            assert mine._process is not None
            assert not mine.is_expecting
        # What is expected outside has not begun.
        assert mine.is_expecting
    wait_until_through(mine, 0)
    assert list(makers(tmp_path)) == [0]


def test_without_a_place_for_files_or_another_process_there_is_none(
    mine: Ahead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EAGAIN, "no more")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refuse)
        with mine.expecting(lambda: jobs(mine, tmp_path)):
            assert not mine.open()
    with monkeypatch.context() as patch:
        patch.setattr(ahead, "fork", refuse)
        begin(mine, jobs(mine, tmp_path))
    assert mine._process is None
    make(mine, tmp_path, 0)
    assert makers(tmp_path) == {0: os.getpid()}


def test_beside_other_threads_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = Ahead()
    monkeypatch.setattr(process, "FORK_BYTES", 0)
    with mine.expecting(lambda: jobs(mine, tmp_path)):
        assert not mine.open()


def test_a_forked_child_leaves_the_process_to_its_parent(mine: Ahead, tmp_path: Path) -> None:
    begin(mine, [lambda: wait_for((tmp_path / "go").exists), *jobs(mine, tmp_path)])
    child = os.fork()
    if child == 0:
        mine.forget()
        mine.kill()
        os._exit(0 if mine._process is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert mine._process is not None
    assert not mine._process.has_ended()
    (tmp_path / "go").touch()
    wait_until_through(mine, *range(len(DIGESTS)))


def test_the_process_is_one_of_a_crew_when_it_is_through(mine: Ahead, tmp_path: Path) -> None:
    (tmp_path / "crew").mkdir()
    begin(mine, jobs(mine, tmp_path))
    wait_for(lambda: mine.has_made(DIGESTS[-1]))
    crew = mine.hand_over()
    assert crew is not None
    # There is one crew.
    assert mine.hand_over() is None
    crew.add([functools.partial(meet, tmp_path / "crew", 0, 1), functools.partial(meet, tmp_path / "crew", 1, 0)])
    crew.hire(2)
    crew.finish()
    assert sorted(makers(tmp_path / "crew")) == [0, 1]
    assert set(makers(tmp_path / "crew").values()) == {os.getpid(), makers(tmp_path)[0]}
    mine.look()
    assert mine._process is None


def test_a_crew_takes_the_process_from_jobs_that_it_has_not_begun(mine: Ahead, tmp_path: Path) -> None:
    def wait() -> None:
        (tmp_path / "begun").touch()
        wait_for((tmp_path / "go").exists)

    begin(mine, [wait, *jobs(mine, tmp_path)])
    wait_for((tmp_path / "begun").exists)
    crew = mine.hand_over()
    assert crew is not None
    (tmp_path / "go").touch()
    crew.add([functools.partial(note, tmp_path, 9)])
    crew.finish()
    assert list(makers(tmp_path)) == [9]


def test_a_process_that_died_is_missed_by_no_crew(mine: Ahead, tmp_path: Path) -> None:
    def die() -> NoReturn:
        (tmp_path / "begun").touch()
        wait_for((tmp_path / "go").exists)
        os._exit(1)

    begin(mine, [die, *jobs(mine, tmp_path)])
    wait_for((tmp_path / "begun").exists)
    crew = mine.hand_over()
    assert crew is not None
    (tmp_path / "go").touch()
    crew.add([functools.partial(note, tmp_path, number) for number in range(2)])
    crew.finish()
    assert makers(tmp_path) == dict.fromkeys(range(2), os.getpid())
    assert mine.hand_over() is None


TEXT = "def {name}(p, lo, hi):\n    store_i64(load_arg(p, 0), 0, {number})\n    return 0\n"


def test_kernels_that_it_compiled_count_as_compiled_by_this_process(
    mine: Ahead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = Store(tmp_path / "kernels", limit=1 << 30)
    monkeypatch.setattr(build, "AHEAD", mine)
    monkeypatch.setattr(build, "STORE", store)
    monkeypatch.setattr(build, "_workers", lambda kernels: 2)
    names = [f"ahead_{number}" for number in range(5)]
    texts = {name: TEXT.format(name=name, number=number) for number, name in enumerate(names)}
    todo = [functools.partial(build.build, texts[name], name) for name in names]
    with mine.expecting(lambda: todo):
        first = build.build(texts[names[0]], names[0])
    wait_for(lambda: mine.has_made("") or len(mine._made) == 4)
    mine.end()
    wait_for_its_end(mine)
    others = [build.build(texts[name], name) for name in names[1:]]
    assert not mine.has_made(first.digest)
    assert all(mine.has_made(kernel.digest) and not kernel.cached for kernel in others)
    assert (store.stats.hits, store.stats.misses) == (0, 5)


def test_many_kernels_are_compiled_with_the_process_that_is_there(
    mine: Ahead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "AHEAD", mine)
    monkeypatch.setattr(build, "STORE", Store(tmp_path / "kernels", limit=1 << 30))
    # As few as these would not be worth a fork.
    monkeypatch.setattr(build, "_workers", lambda kernels: 1)
    pid = begun_pid(mine, jobs(mine, tmp_path))
    made: list[int] = []
    welcome = build.Crew.add
    monkeypatch.setattr(build.Crew, "add", lambda crew, jobs: (made.append(crew._children[0][0]), welcome(crew, jobs)))
    names = [f"with_it_{number}" for number in range(4)]
    kernels = build.build_many([(TEXT.format(name=name, number=k + 70), name) for k, name in enumerate(names)])
    assert [kernel.name for kernel in kernels] == names
    assert not any(kernel.cached for kernel in kernels)
    assert made == [pid]
    assert mine.hand_over() is None


def begun_pid(mine: Ahead, jobs: list[Job]) -> int:
    begin(mine, jobs)
    assert mine._process is not None
    return mine._process.pid
