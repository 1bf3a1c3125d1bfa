"""Programs that another process compiles while eager goes on: results, how they are taken, and what may go wrong."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import tracejit as tj
from test_random_programs import bits
from tracejit import compiler, nn
from tracejit.config import SETTINGS
from tracejit.errors import CompileLimitError
from tracejit.nn import functional as F
from tracejit.optim import Adam
from tracejit.runtime import build, process
from tracejit.runtime.cache import Store
from tracejit.trace import background, region
from tracejit.trace.background import Worker
from tracejit.trace.compiled import region_of
from tracejit.trace.region import Region

SECONDS = 120.0
"""How long a test waits for another process."""


def use(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all regions ask this worker."""
    for module in (background, region):
        monkeypatch.setattr(module, "WORKER", worker)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A cache and a worker of this test's own, in a process that has built nothing yet."""
    store = Store(tmp_path / "kernels", limit=1 << 30)
    for module in (compiler, build, background):
        monkeypatch.setattr(module, "STORE", store)
    monkeypatch.setattr(build, "_built", {})
    monkeypatch.setattr(build, "_by_source", {})
    worker = Worker()
    use(worker, monkeypatch)
    yield store
    worker.stop()


class Training:
    """A network with dropout, its optimizer, and one step."""

    def __init__(self, width: int = 12) -> None:
        tj.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Dropout(0.3), nn.Linear(width, 2))
        self.optimizer = Adam(self.model.parameters(), lr=0.01)
        self.best = float("inf")

    def step(self, x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def step_with_read(self, x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.model(x), y)
        if loss.item() < self.best:
            self.best = loss.item()
        (loss * 2).backward()
        self.optimizer.step()
        return loss

    def state(self) -> Any:
        grads = [p.grad for p in self.model.parameters()]
        return bits([list(self.model.parameters()), grads, self.best, tj.get_rng_state()])


class Twins:
    """The same training eagerly and compiled, a call of both at a time."""

    def __init__(self, name: str = "step", **options: Any) -> None:
        self.eager = Training()
        self.position = tj.get_rng_state()
        self.traced = Training()
        self.plain = getattr(self.eager, name)
        self.compiled = tj.compile(getattr(self.traced, name), background=True, **options)
        self.region: Region = region_of(self.compiled)
        self.count = 0

    def call(self, rows: int = 16) -> None:
        """One call of both, which must agree."""
        rng = tj.Generator().manual_seed(self.count)
        x, y = tj.randn(rows, 8, generator=rng), tj.randn(rows, 2, generator=rng)
        tj.set_rng_state(self.position)
        a = bits(self.plain(x, y)), self.eager.state()
        tj.set_rng_state(self.position)
        b = bits(self.compiled(x, y)), self.traced.state()
        assert a == b, f"call {self.count}"
        self.position = tj.get_rng_state()
        self.count += 1

    def call_until(self, done: Callable[[], bool], rows: int = 16) -> None:
        """Calls until something is so."""
        deadline = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < deadline, tj.explain(self.compiled)
            self.call(rows)

    def call_until_asked(self) -> None:
        """Calls until another process is at work for this function."""
        self.call_until(lambda: bool(self.region.waiting))

    def count_of(self, reason: str) -> int:
        """How often something happened, at all lines together."""
        return sum(n.count for n in self.region.notes if n.kind == "background" and n.reason == reason)

    def reasons(self) -> list[str]:
        """What the account says of the background."""
        return [n.reason for n in self.region.notes if n.kind == "background"]


def fork_with(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the other process be a fork that does something else."""
    monkeypatch.setattr(background, "may_fork", lambda: True)
    monkeypatch.setattr(background, "_work", work)


def hang(requests: Any, answers: int) -> None:
    """In the place of the work of the other process."""
    while True:
        time.sleep(60)


def is_gone(pid: int) -> bool:
    """Whether a child has ended and was waited for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


# --- the way it goes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fork"), [("step", True), ("step_with_read", True), ("step", False)])
def test_calls_go_on_eagerly_and_take_the_program_when_it_is_done(
    name: str, fork: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "may_fork", lambda: fork)
    twins = Twins(name)
    twins.call_until_asked()
    pid = background.WORKER.pid
    assert pid is not None
    twins.call_until(lambda: twins.region.runs > 0 and not twins.region.waiting)
    assert background.WORKER.pid is None
    assert is_gone(pid)
    calls = twins.region.calls
    assert calls.waited > 0
    eager = twins.region.eager_segments
    for _ in range(4):
        twins.call()
    assert twins.region.eager_segments == eager
    assert twins.region.prover is not None
    assert calls.replayed > 0 or name != "step"
    assert twins.region.prover.failures == 0 or name != "step"
    assert twins.region.background_seconds > 0
    told = tj.explain(twins.compiled)
    assert told.calls["while compiling"] == calls.waited
    assert f"while {calls.waited} calls went on eagerly; 0 segment(s) to come" in str(told)
    assert told.to_dict()["background_seconds"] == twins.region.background_seconds
    segments = 1 if name == "step" else 2
    assert twins.count_of("compiled by another process") == told.compiles == segments
    assert twins.count_of("computed eagerly while another process compiles its program") >= calls.waited


def test_what_is_on_disk_is_not_waited_for(store: Store) -> None:
    twins = Twins()
    twins.call_until(lambda: twins.region.runs > 0)
    build._built.clear()
    build._by_source.clear()
    again = Twins()
    again.call_until(lambda: again.region.runs > 0)
    assert again.count == 3
    assert again.region.calls.waited == 0
    assert again.reasons() == []


def test_other_sizes_are_compiled_in_the_background_too(monkeypatch: pytest.MonkeyPatch) -> None:
    twins = Twins()
    twins.call_until(lambda: twins.region.runs > 0)
    asked: list[str] = []
    worker = background.WORKER
    ask = worker._ask

    def note(job: background.Job) -> background.Job:
        asked.append(job.kind)
        return ask(job)

    monkeypatch.setattr(worker, "_ask", note)
    waited = twins.region.calls.waited
    runs = twins.region.runs
    twins.call_until(lambda: twins.region.runs > runs and not twins.region.waiting, rows=24)
    assert twins.region.calls.waited > waited
    assert asked == [background.KERNELS]
    waited = twins.region.calls.waited
    # From the third size on there is nothing left to compile.
    for rows in (33, 47):
        runs = twins.region.runs
        twins.call(rows)
        assert twins.region.runs == runs + 1
    assert twins.region.calls.waited == waited


def test_a_number_that_changes_makes_the_program_another_one() -> None:
    twins = Twins()
    twins.call_until_asked()
    for training in (twins.eager, twins.traced):
        training.model[2].p = 0.4
    twins.call_until(lambda: twins.region.runs > 0)
    runs = twins.region.runs
    for training in (twins.eager, twins.traced):
        training.model[2].p = 0.2
    twins.call()
    # The number is a run-time number now: the program needs no other.
    assert twins.region.runs == runs + 1


def test_regions_share_a_job() -> None:
    one, other = Twins(), Twins()
    one.call_until_asked()
    other.call_until_asked()
    ((_, first),), ((_, second),) = one.region.waiting, other.region.waiting
    assert first.job is second.job
    one.call_until(lambda: one.region.runs > 0)
    other.call_until(lambda: other.region.runs > 0)


# --- beside other options ---------------------------------------------------------------------------------------------


def test_the_setting_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: tj.Tensor) -> tj.Tensor:
        return x + 1

    assert not region_of(tj.compile(function)).background
    monkeypatch.setattr(region, "SETTINGS", dataclasses.replace(SETTINGS, background=True))
    assert region_of(tj.compile(function)).background
    assert not region_of(tj.compile(function, background=False)).background
    assert region_of(tj.compile(background=True)(nn.Linear(2, 2))).background
    with pytest.raises(TypeError, match="background must be True, False or None, got 1"):
        tj.compile(function, background=1)


def test_the_mode_replay_waits() -> None:
    twins = Twins(mode="replay")
    twins.call_until(lambda: twins.region.calls.replayed > 0)
    assert twins.region.calls.waited == 0
    assert twins.reasons() == [f"compiled while the call waited: {region.WAITS}"]


def test_programs_are_verified_when_they_are_taken() -> None:
    twins = Twins(verify="first")
    twins.call_until(lambda: twins.region.runs > 0)
    assert twins.region.calls.waited > 0
    assert [n.count for n in twins.region.notes if n.kind == "verification"] == [1]


def test_programs_to_come_count_as_compilations() -> None:
    with pytest.raises(CompileLimitError, match="compile 2 would exceed max_compiles=1"):
        Twins("step_with_read", max_compiles=1).call_until(lambda: False)
    twins = Twins("step_with_read", max_compiles=2)
    twins.call_until(lambda: twins.region.runs > 0 and not twins.region.waiting)
    assert twins.region.compiles == 2


# --- what may go wrong ------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_is_no_loss(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fork_with(hang, monkeypatch)
    twins = Twins()
    twins.call_until_asked()
    twins.call()
    assert twins.region.runs == 0
    pid = background.WORKER.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    twins.call_until(lambda: twins.region.runs > 0)
    assert is_gone(pid)
    reason = f"the process that compiled it ended with status {-signal.SIGKILL}"
    assert f"compiled while the call waited: {reason}" in twins.reasons()
    assert reason in caplog.text
    # The next program is asked for all the same.
    assert background.WORKER.obstacle is None


def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_with(hang, monkeypatch)
    monkeypatch.setattr(background, "_JOB_SECONDS", 0.2)
    twins = Twins()
    twins.call_until_asked()
    pid = background.WORKER.pid
    assert pid is not None
    twins.call_until(lambda: twins.region.runs > 0)
    assert is_gone(pid)
    assert "compiled while the call waited: it took longer than 0 s" in twins.reasons()


def test_an_error_of_the_other_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(key: str, content: str) -> None:
        raise MemoryError("no room")

    fork_with(background._work, monkeypatch)
    monkeypatch.setattr(background, "compile_text", broken)
    twins = Twins()
    twins.call_until(lambda: twins.region.runs > 0)
    assert "compiled while the call waited: MemoryError: no room" in twins.reasons()


def test_a_process_that_cannot_be_started_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(requests: Any, answers: int) -> NoReturn:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(background, "_fork", refuse)
    monkeypatch.setattr(background, "may_fork", lambda: True)
    for _ in range(2):
        twins = Twins()
        for _ in range(3):
            twins.call()
        assert twins.region.runs == 1
        assert background.WORKER.obstacle == "no process could be started: no more processes"
        build._built.clear()
        build._by_source.clear()


def test_an_interpreter_that_does_not_begin_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "may_fork", lambda: False)
    monkeypatch.setattr(background, "_START", "raise SystemExit(7)  # {path}")
    twins = Twins()
    twins.call_until(lambda: twins.region.runs > 0)
    assert background.WORKER.obstacle == "the process that compiled it ended with status 7"


def test_a_new_interpreter_compiles_where_a_fork_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> NoReturn:
        raise AssertionError("a fork beside another thread")

    monkeypatch.setattr(os, "fork", forbidden)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        twins = Twins()
        twins.call_until(lambda: twins.region.runs > 0)
    finally:
        end.set()
        thread.join()
    assert twins.region.calls.waited > 0
    assert "compiled by another process" in twins.reasons()
    assert not any("while the call waited" in reason for reason in twins.reasons())


def test_a_process_with_much_memory_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FORK_BYTES", 0)
    assert not background.may_fork()
    monkeypatch.setattr(process, "FORK_BYTES", 1 << 60)
    assert background.may_fork() == (threading.active_count() == 1 and sys.platform != "darwin")


def test_without_a_cache_calls_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (compiler, build, background):
        monkeypatch.setattr(module, "STORE", Store(tmp_path / "none", limit=1, enabled=False))
    twins = Twins()
    twins.call_until(lambda: twins.region.runs > 0)
    assert twins.count == 3
    (reason,) = twins.reasons()
    assert reason.startswith("compiled while the call waited: the cache on disk")
    (told,) = [n for n in tj.explain(twins.compiled).notes if n["kind"] == "background"]
    assert told["fix"].startswith("switch it on")


def test_what_is_lost_from_disk_is_compiled_by_the_call(store: Store) -> None:
    twins = Twins()
    twins.call_until_asked()
    ((_, waiting),) = twins.region.waiting
    deadline = time.monotonic() + SECONDS
    while not waiting.job.done:
        assert time.monotonic() < deadline
        background.WORKER.look()
        time.sleep(0.01)
    store.clear()
    twins.call()
    assert twins.region.runs == 1
    assert "compiled while the call waited: what another process made is not on disk any more" in twins.reasons()


def test_a_forked_child_does_not_wait_for_its_parents_process(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_with(hang, monkeypatch)
    worker = background.WORKER
    os.register_at_fork(after_in_child=worker.forget)
    twins = Twins()
    twins.call_until_asked()
    pid = worker.pid
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert worker.pid is None
            twins.call()
            assert twins.region.runs == 1
            assert "compiled while the call waited: it was asked for before a fork" in twins.reasons()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # The parent's goes on.
    assert worker.pid == pid
    twins.call()
    assert twins.region.runs == 0
    assert not is_gone(pid or 0)


QUITS = """
import atexit, signal, sys, time
import tracejit as tj
from tracejit.trace import background

def work(requests, answers):
    print("lost", flush=True)
    print("lost", file=sys.stderr, flush=True)
    time.sleep(600)

background.may_fork = lambda: True
background._work = work
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
print("before", end=" ")

@tj.compile(background=True)
def step(x):
    return (x * 2).exp()

for _ in range(4):
    step(tj.ones(3))
atexit.register(print, "the end", background.WORKER.pid)
"""


def test_an_interpreter_that_ends_does_not_wait(tmp_path: Path) -> None:
    environment = {**os.environ, "TRACEJIT_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", QUITS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=SECONDS)
    start, _, pid = done.stdout.partition(" the end ")
    assert start == "before"
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
