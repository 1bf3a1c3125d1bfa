"""The region: one compiled function with its tree, its programs and its account of what happened."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from tracejit.config import SETTINGS
from tracejit.errors import CompileLimitError, VerificationError
from tracejit.ops.record import Op
from tracejit.runtime.ahead import AHEAD
from tracejit.runtime.collection import only_new, without_collections
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor
from tracejit.trace.account import Account, Note, Obstacle
from tracejit.trace.background import WORKER, Elsewhere, Job, Pending
from tracejit.trace.difference import call_difference, compile_difference
from tracejit.trace.executable import Executable, Waiting, build, leanness
from tracejit.trace.follower import Follower
from tracejit.trace.foresight import foreseen
from tracejit.trace.growth import alike
from tracejit.trace.keeper import Keeper
from tracejit.trace.matcher import MISS
from tracejit.trace.open_program import OpenExecutable
from tracejit.trace.pace import FAILED, FOLLOWED, FOLLOWED_IN_VAIN, SIZES, Contest, Pace, sizes_of
from tracejit.trace.recorder import Recorder
from tracejit.trace.repeat import materialise
from tracejit.trace.replay.prover import Prover
from tracejit.trace.source import user_line
from tracejit.trace.structure import Exceeded, Structures
from tracejit.trace.tree import Event, Number, Place, Segment, Stop, path, register_tensor
from tracejit.trace.uncut import UncutRecorder
from tracejit.trace.verify import Mismatch, Verified, is_due

register_tensor(Tensor)

RECORDINGS = 64
"""Calls that may extend the tree; a region that still does not settle then runs eagerly where the tree ends."""
IN_A_ROW = 24
"""Calls one after another that may extend the tree."""
EVENTS = 50_000
"""Events of all branches together; beyond that the region runs eagerly where the tree ends."""
UNSETTLED = (
    "most calls bring sizes that were not met before, and to plan for those takes longer than to run them eagerly"
)
SLOWER = "calls that follow the tree take longer here than eager ones"
NOTES = 64
"""Notes about new sizes: further ones are only counted."""


WAITS = "the mode 'replay' promises a replay at the first settled call"
"""Why the programs of a region are not compiled by another process."""


class Region:
    """A function whose calls are recorded, then followed.

    Cost: the first call is plain eager, the second records, the next compiles; from then on Python runs and
    programs compute.
    """

    # The call of a compiled function, which is native, looks for the replay in its slot.
    __slots__ = ("__dict__", "__weakref__", "straight")

    straight: Callable[[Any, Any], Any] | None

    def __init__(
        self,
        function: Callable[..., Any],
        mode: str = "auto",
        max_compiles: int | None = None,
        verify: str | int | None = None,
        background: bool | None = None,
    ) -> None:
        self.function = function
        self.mode = mode
        self.max_compiles = max_compiles
        self.verify = verify
        self.background = SETTINGS.background if background is None else background
        plain = verify is None and max_compiles is None and not self.background
        self.compares, self.opens = plain and mode == "auto", plain and mode != "replay"
        self.waiting: list[tuple[Stop, Waiting]] = []
        self.waits = self.idle = False
        self.background_seconds = 0.0
        self.failure: Mismatch | None = None
        self.account = Account()
        self.calls = self.account.calls
        self.change = ""
        self.promotion: Note | None = None
        self.generation = 0
        self.leans = 0
        self.compiles = 0
        self.compile_seconds = 0.0
        self.recorded_events = 0
        self.runs = 0
        self.eager_segments = 0
        self.settled = False
        self.proven = 0
        """How many calls were followed when the last new replay was found."""
        self.branches = 0
        self.known: set[Any] = set()
        self.moving: dict[tuple[Op, int, str], tuple[int, ...]] = {}
        self.first_roots: dict[int, Place] = {}
        self.replans = 0
        self.structures = Structures()
        self.eager_units: dict[Any, str] = {}
        self.stops: list[tuple[Stop, Executable]] = []
        # Whoever takes the entry is in the region: that is atomic, at a third of a lock's cost.
        self.free = [None]
        self.root = Segment(self, 0)
        self.begun = False
        self.keeper = Keeper(self)
        self.pace = Pace()
        self.contest = Contest()
        self.given: tuple[Any, ...] = ()
        self.in_a_row = 0
        self.first_replay: Callable[..., Any] | None = None
        self.straight = None
        self.prover: Prover | None = None if mode == "follow" else Prover(self)
        self.name = getattr(function, "__name__", type(function).__name__)

    # --- a call -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        straight = self.straight
        if straight is not None:
            out = straight(args, kwargs)
            if out is not MISS:
                return out
        if state.session is not None:
            return self.function(*args, **kwargs)
        try:
            self.free.pop()
        except IndexError:
            self.calls.eager += 1
            return self.function(*args, **kwargs)
        try:
            if not self.begun:
                self.begun = True
                if not self.keeper.recall(args, kwargs):
                    self.calls.cold = 1
                    with AHEAD.expecting(functools.partial(foreseen, self.function, args, kwargs)):
                        return self.function(*args, **kwargs)
            prover = self.prover
            if prover is not None and prover.replays:
                if is_due(self.verify, self.calls, 1):
                    # A proof is there: this call need not try one.
                    prover = None
                else:
                    out = prover.replay(args, kwargs)
                    if out is not MISS:
                        return out
            return self._run(args, kwargs, prover)
        finally:
            self.free.append(None)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], prover: Prover | None) -> Any:
        AHEAD.look()
        if self.prover is not None:
            self.prover.let_go()
        root = self.root.root
        fresh = not root.events and root.cut is None and root.end is None
        trial = None
        runs = self.runs
        begin, exits = time.perf_counter(), self.calls.side_exits
        since = self.calls.followed - self.proven
        in_vain = prover is not None and prover.failures >= FAILED
        compared = self.compares and since >= (min(FOLLOWED, FOLLOWED_IN_VAIN) if in_vain else FOLLOWED)
        if fresh:
            session: Any = Recorder(self, root)
            self.calls.recorded += 1
        elif self.waiting and self._only_waits():
            return self._wait_eagerly(args, kwargs)
        elif compared and self.contest.goes_eagerly():
            return self._run_eagerly(args, kwargs)
        else:
            begun = None if prover is None else prover.begin(args, kwargs)
            wanted = None if prover is None else prover.take_wanted()
            if wanted is not None:
                session = UncutRecorder(self, wanted)
                self.calls.recorded += 1
            else:
                session, trial = (Follower(self, root), None) if begun is None else begun
                begun = None
                self.calls.followed += 1
        self.change = ""
        self.waits = False
        self.given = args, kwargs
        state.session = session
        try:
            if fresh:
                with only_new():
                    out = self.function(*args, **kwargs)
            else:
                out = self.function(*args, **kwargs)
            try:
                if state.session is not None:
                    state.session.finish()
            except CompileLimitError:
                raise
            except BaseException:
                state.session = None
                raise
        except BaseException as e:
            self._abandon()
            if self.failure is not None and isinstance(e, Exception):
                raise self._failed() from e
            raise
        finally:
            state.session = state.exposed = None
            self.keeper.trying = False
            self.account.end_call()
            self.given = ()
            seconds = time.perf_counter() - begin
            if compared and (self.pace.opened or not self.pace.new):
                # A branch takes longer once.
                self.contest.end(seconds)
            self.calls.opened += self.pace.opened
            self.pace.end(seconds)
            self.calls.waited += self.waits
            self.idle = self.waits and self.runs == runs
        if self.failure is not None:
            raise self._failed()
        if self.calls.side_exits == exits:
            self.in_a_row = 0
        if trial is not None:
            if self.waits:
                trial.postpone()
            else:
                trial.end(out)
        self.keeper.end_call()
        return out

    def _only_waits(self) -> bool:
        """Whether a call has no program to run: the one before had none, and none is done since."""
        WORKER.look()
        return self.idle and not any(waiting.job.done for _, waiting in self.waiting)

    def _run_eagerly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that is not to follow the tree, as that would take longer."""
        self.calls.eager += 1
        begin = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            seconds = time.perf_counter() - begin
            self.contest.end(seconds)
            code = getattr(self.function, "__code__", None)
            line = user_line() if code is None else f"{code.co_filename}:{code.co_firstlineno}"
            self.note("eager", line, SLOWER, seconds)

    def _wait_eagerly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that need not follow the tree, as no program would come of it."""
        stop, waiting = self.waiting[0]
        self.calls.eager += 1
        self.calls.waited += 1
        with self.account.timed(waiting.kind, stop.line, str(waiting.obstacle)):
            return self.function(*args, **kwargs)

    def _failed(self) -> VerificationError:
        """What verification found in this call; the next one begins anew."""
        failure, self.failure = self.failure, None
        assert failure is not None
        if self.prover is not None:
            # A replay may have the wrong program.
            self.prover.clear()
        return failure.error()

    def _abandon(self) -> None:
        """An exception leaves the region: compute what was done up to here, so that it is as it would be eagerly."""
        session = state.session
        try:
            if isinstance(session, Follower):
                session = materialise(session)
            if isinstance(session, Recorder):
                session.rest()
        finally:
            state.session = None

    # --- compiling ----------------------------------------------------------------------------------------------------

    def compile(self, stop: Stop, alive: tuple[int, ...]) -> Executable:
        """Make the program of a segment, or have another process make it while this call goes on eagerly."""
        begin = time.perf_counter()
        asked = None
        former = stop.programs.get(alive)
        if isinstance(former, Waiting):
            if former.asked == self.generation:
                if not former.job.done:
                    self.waits = True
                    return former
                asked = former.job
            del stop.programs[alive]
            self.waiting = [(s, w) for s, w in self.waiting if w is not former]
        executable = self._build(stop, alive, asked)
        seconds = time.perf_counter() - begin
        # The note has the time that its segment takes to run; this is not part of it.
        stop.note.seconds -= seconds
        if isinstance(executable, Waiting):
            self.waits = True
            self.waiting.append((stop, executable))
            return executable
        if executable.obstacle is None:
            self._count(executable, stop, alive, seconds)
        self.stops = [(s, e) for s, e in self.stops if s is not stop or e.generation == self.generation]
        self.stops.append((stop, executable))
        return executable

    def _build(self, stop: Stop, alive: tuple[int, ...], asked: Job | None) -> Executable:
        """The program of a segment, for which another process may have done a job before."""
        structures = self.structures
        structures.closed = self.max_compiles is not None and self.compiles + len(self.waiting) >= self.max_compiles
        kind: Callable[[int], Executable] = Executable if self.verify is None else Verified
        if stop.opening is not None:
            kind = functools.partial(OpenExecutable, opening=stop.opening)
        elsewhere = None
        if self.background and not structures.closed:
            elsewhere = Elsewhere(asked, WAITS if self.mode == "replay" else "")
        begin = time.perf_counter()
        try:
            with without_collections():
                executable = build(stop, alive, self.generation, self.name, kind, structures, elsewhere)
        except Exceeded:
            count = self.compiles + len(self.waiting) + 1
            raise CompileLimitError(
                f"{self.name}: compile {count} would exceed max_compiles={self.max_compiles}: "
                + compile_difference(stop, alive, self.promotion)
            ) from None
        except NotImplementedError as e:
            executable = Executable(self.generation, str(e))
        except Pending as e:
            return Waiting(self.generation, e.job)
        finally:
            if asked is not None and asked.error is None:
                self.background_seconds += asked.seconds
                self.note("background", stop.line, "compiled by another process", asked.seconds)
        if elsewhere is not None and elsewhere.reason:
            reason = f"compiled while the call waited: {elsewhere.reason}"
            self.note("background", stop.line, reason, time.perf_counter() - begin)
        if isinstance(executable, Verified):
            executable.watch(self, stop)
        elif executable.tape is not None and self.max_compiles is None and not self.background and not stop.reads:
            executable.tape.ask = functools.partial(self._lean, stop, alive, executable)
        return executable

    def _lean(self, stop: Stop, alive: tuple[int, ...], executable: Executable, reads: frozenset[int] | None) -> bool:
        """Whether further runs of a program leave another tape, for gradients that read some slots as they lie.

        None stands for gradients that read all of them.
        """
        if reads is not None and (alive in stop.lean or leanness(stop, alive, reads) is None):
            return False
        stop.lean[alive] = reads
        self.leans += 1
        stop.kept.pop(alive, None)
        if stop.programs.get(alive) is executable:
            del stop.programs[alive]
        self.stops = [(s, e) for s, e in self.stops if e is not executable]
        if self.prover is not None:
            self.prover.forget(executable.tape)
        return True

    def _count(self, executable: Executable, stop: Stop, alive: tuple[int, ...], seconds: float) -> None:
        """Enter a program: as a compilation, or as one more layout of a structure and of kernels that were there."""
        built = executable.built
        self.compile_seconds += seconds
        if built is not None and not built.new_structure and not built.new_kernels:
            self.replans += 1
            if self.replans <= NOTES:
                self.note("replan", stop.line, "the same program for other sizes or numbers: no new kernel", seconds)
            return
        self.compiles += 1
        again = ""
        if self.leans and alive in stop.lean:
            again = ": again, as its tape " + ("is looked at" if stop.lean[alive] is None else "is walked by a program")
        elif alive in stop.programs:
            again = ": again, as a number changed"
            if self.promotion is not None:
                self.promotion.seconds += seconds
        elif stop.programs:
            again = ": again, as Python keeps other values"
        elif built is not None and not built.new_structure:
            again = f": other sizes or numbers need {len(built.new_kernels)} more kernels"
        self.note("compile", stop.line, f"segment that ends because {stop.reason}{again}", seconds)

    # --- branches -----------------------------------------------------------------------------------------------------

    def may_grow(self, tensors: list[Any], numbers: list[Any]) -> bool:
        """Whether the tree may get more of a branch for other sizes."""
        if self.recorded_events > EVENTS:
            return False
        if self.verify is not None or self.background:
            return True
        return self.pace.grows((sizes_of(self.given), sizes_of(tensors), tuple(numbers)))

    def may_open(self, tensors: list[Any], numbers: list[Any]) -> bool:
        """Whether the call had better take a branch for all sizes."""
        return self.opens and self.pace.opens((sizes_of(self.given), sizes_of(tensors), tuple(numbers)))

    def resizing(self, follower: Follower, call: tuple[Any, ...]) -> str:
        """A call may begin a branch for other sizes; what it does that the tree does not know."""
        return call_difference(follower, call) if self.calls.resized < NOTES else ""

    def resized(self, change: str) -> None:
        """A branch for other sizes began."""
        if change:
            self.note("resize", user_line(), f"other sizes or numbers; {change}")

    def enter(self, place: Place, event: Event) -> None:
        """A new event stands at a place: if it repeats another at other sizes, so does what comes behind it."""
        self.known.add((event.kind, event.function))
        event.next.grown = place.grown
        model = next((e for e in place.models() if alike(e, event)), None)
        if model is None:
            return
        root = model.next.model or model.next
        event.next.model, event.next.grown = root, True
        root.peers.add(event.next)
        repeats = [e for e in place.events if e.next is root or e.next.model is root]
        if not repeats:
            return
        # A branch begins here: behind it, events are beside those of the branch that it repeats.
        self.calls.resized += 1
        if len(repeats) > SIZES:
            self._drop(place, next(e for e in reversed(repeats) if e.next is not root))

    def _drop(self, place: Place, event: Event) -> None:
        """Forget a branch with its programs."""
        place.events.remove(event)
        stops: set[int] = set()
        places: set[Place] = set()
        todo = [event]
        while todo:
            e = todo.pop()
            self.recorded_events -= 1
            cells = e.parent.segment.cells
            for cell in e.cells:
                if cells.get(id(cell[0])) is cell:
                    del cells[id(cell[0])]
            todo += e.next.events
            places.add(e.next)
            for stop in (e.next.cut, e.next.end):
                if stop is not None:
                    stops.add(id(stop))
                    if stop.next is not None:
                        todo += stop.next.root.events
                        places.add(stop.next.root)
                        stops.update(id(s) for s in (stop.next.root.cut, stop.next.root.end) if s is not None)
        stops.update(id(s) for s, _ in self.stops if s.opening is not None and s.opening.place in places)
        self.stops = [(s, x) for s, x in self.stops if id(s) not in stops]
        self.waiting = [(s, x) for s, x in self.waiting if id(s) not in stops]

    # --- the account --------------------------------------------------------------------------------------------------

    @property
    def obstacles(self) -> list[Obstacle]:
        """What stands between the function and running without Python, as the last proof found it."""
        return [] if self.prover is None else [Obstacle(*found) for found in self.prover.obstacles]

    @property
    def notes(self) -> list[Note]:
        """What happened, equal things once."""
        return self.account.notes

    def note(self, kind: str, line: str, reason: str, seconds: float = 0.0) -> Note:
        """Write down what happened."""
        return self.account.note(kind, line, reason, seconds)

    def promoted(self, number: Number, value: Any) -> None:
        """A number changed: programs that have it as a constant are out of date."""
        self.generation += 1
        change = f"a number changed from {number.value!r} to {value!r}: now a run-time number"
        self.promotion = self.note("promotion", user_line(), change)

    def leaving(self, follower: Follower, call: tuple[Any, ...]) -> str:
        """A call is about to leave the tree; what it does that the tree does not know."""
        self.account.start_exit()
        return "" if self.settled or self.pace.eager else call_difference(follower, call)

    def side_exit(self, change: str) -> bool:
        """A call left the tree: whether it may extend it."""
        if self.pace.eager:
            self.account.enter_exit("eager", user_line(), UNSETTLED)
            return False
        self.calls.side_exits += 1
        if self.keeper.trying:
            # As without a tree from disk: the first call makes what the second finds, and no other call is like it.
            self.account.enter_exit("side exit", user_line(), f"the first call, which is not recorded; {change}")
            return False
        in_all = self.calls.recorded + self.branches
        if in_all >= RECORDINGS or self.in_a_row >= IN_A_ROW or self.recorded_events > EVENTS:
            self.settled = True
            self.account.enter_exit(
                "eager",
                user_line(),
                f"{RECORDINGS} calls took new ways through the function, or {IN_A_ROW} in a row, so further ones are "
                "not recorded: branches that depend on values or shapes change too often here",
            )
            return False
        self.branches += 1
        self.in_a_row += 1
        self.change = change
        self.account.enter_exit("side exit", user_line(), f"Python did something new; {change}")
        return True

    def executables(self) -> list[tuple[Stop, Executable]]:
        """The programs in use with the ends of their segments."""
        return [(s, e) for s, e in self.stops if e.generation == self.generation]

    def events(self, stop: Stop) -> list[Event]:
        """The events of a segment."""
        return path(stop.last)
