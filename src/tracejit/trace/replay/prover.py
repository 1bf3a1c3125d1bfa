"""The prover of a region: decides when to try a proof, keeps the replays, and says what stands in the way."""

from __future__ import annotations

from collections.abc import Hashable, Set
from typing import Any

from tracejit.runtime.blocks import BLOCKS
from tracejit.runtime.collection import without_collections
from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import Executable
from tracejit.trace.expected import evaluate, likeness, reads_in
from tracejit.trace.follower import Follower
from tracejit.trace.matcher import MISS
from tracejit.trace.pace import Met, sizes_of
from tracejit.trace.replay.guards import READERS, Guard
from tracejit.trace.replay.landed import Landed, check_leaves, check_result, handed_out
from tracejit.trace.replay.program import Replay
from tracejit.trace.replay.proof import Proof, prove
from tracejit.trace.replay.symbols import Later, Midway, Unproven
from tracejit.trace.replay.world import COUNTERS, Hint, hint
from tracejit.trace.tape import TapePlan
from tracejit.trace.tree import Segment, Stop
from tracejit.trace.uncut import Uncut, UncutFollower

TRIES = 24
"""Proofs that may come to nothing in a region."""
JOINED_FROM = 8
"""Followed calls from which on one that reads in its middle may be recorded and proven as a whole: that takes one more
program."""
WAYS = 4
"""Ways through a function, told apart by values, that are recorded as wholes."""
PATIENCE = 6
"""Proofs that may fail until calls are no longer recorded as wholes."""
REFUSALS = 8
"""Long programs may refuse so often, and one in so many calls, until calls are no longer proven as wholes."""
REPLAYS = 256
"""Replays that a region keeps; the one that was used longest ago goes first."""
NEAR = 8
"""Replays up to which all are tried: of more, as many of those whose arguments had the sizes of the call's. Sizes then
have a proof when they come for the second time."""


class Prover:
    """Proofs and replays of one region."""

    def __init__(self, region: Any) -> None:
        self.region = region
        self.replays: list[Replay] = []
        self._first: Any = None
        """The replay that was used last."""
        self._by_sizes: dict[Hashable, list[Replay]] = {}
        self._met = Met()
        self.changing: dict[Any, Any] = {}
        self.hints: frozenset[Hint] = COUNTERS
        self.obstacles: list[tuple[str, str, str]] = []
        self.tries = 0
        self.failures = 0
        self.wait = 1
        self.uncut: list[Uncut] = []
        self.joins = True
        """Whether calls that read in their middle may still be proven as a whole."""
        self.refusals = 0
        self.refused = False
        self.wanted: Uncut | None = None
        self._before: tuple[int, ...] = ()

    # --- replaying ----------------------------------------------------------------------------------------------------

    def replay(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call by replay, or `MISS`."""
        self.refused = False
        tried = self.replays
        if len(tried) > NEAR:
            tried = self._by_sizes.get(sizes_of((args, kwargs)), [])[:NEAR]
        # What the last one used, such as gradients, is taken over, or let go, before another one runs.
        tried = [self._first, *(replay for replay in tried if replay is not self._first)]
        for replay in tried:
            # One that was tried before all others need not refuse again.
            out = MISS if replay.refused else replay.run(args, kwargs)
            if replay.refused:
                replay.refused = False
                self._refuse(replay)
            if out is not MISS:
                replay.used = self.region.calls.replayed
                if replay is not self._first:
                    self._put_first(replay)
                self.region.calls.replayed += 1
                return out
            # The next one may take them over.
            replay.grads.let_go()
        for replay in tried:
            failed, replay.watch.failed = replay.watch.failed, None
            if failed is not None and self._changes(failed):
                self._keep([other for other in self.replays if other is not replay])
                break
        return MISS

    def _refuse(self, replay: Replay) -> None:
        """A program refused what a call found. Where long ones often do, running them is in vain."""
        if replay.uncut is None:
            return
        self.refused = True
        self.refusals += 1
        often = self.refusals >= REFUSALS and self.refusals * REFUSALS > self.region.calls.replayed
        if often and replay.executable.compiled.releases:
            self._part("values that decide the way through the function change too often")

    def _part(self, reason: str) -> None:
        """No call is proven as a whole from here on."""
        self.joins = False
        self.uncut.clear()
        self._keep([replay for replay in self.replays if replay.uncut is None])
        self._note([("?", Unproven(reason, Later.fix))])

    def let_go(self) -> None:
        """A call is made without a replay: the gradients that they gave are the tensors' alone, which may drop them."""
        for replay in self.replays:
            replay.grads.let_go()

    def clear(self) -> None:
        """Forget all replays."""
        self._keep([])

    def _keep(self, replays: list[Replay]) -> None:
        """These are all replays, the first of them the newest."""
        self.replays = replays
        self._by_sizes = {}
        for replay in replays:
            self._by_sizes.setdefault(replay.sizes, []).append(replay)
        if self._first not in replays:
            self._put_first(replays[0] if replays else None)

    def _put_first(self, replay: Replay | None) -> None:
        """Let calls try a replay before anything else; with `verify=` the region looks first what is due."""
        region = self.region
        self._first = replay
        first = replay if region.verify is None else None
        native = None if first is None else first.straight
        region.first_replay = None if first is None else first.run
        region.straight = None if native is None else native.run(region.free, region.calls)

    def _changes(self, guard: Guard) -> bool:
        """Note a place whose number, tensor or list changed: the next proof loads it in each call."""
        value = guard.now()
        place = (id(guard.container), guard.kind, guard.key)
        if (
            guard.kind in ("item", "slot", "cell")
            and type(value) is type(guard.expected)
            and isinstance(value, (int, float, Tensor, list, tuple))
            and not isinstance(value, bool)
            and place not in self.changing
        ):
            self.changing[place] = guard.container
            self.wait = 1
            return True
        return False

    def forget(self, tape: TapePlan | None) -> None:
        """Give up the replays that leave a tape: their program is out of date."""
        self.let_go()
        self._keep([replay for replay in self.replays if replay.executable.tape is not tape])
        self.wait = 1

    # --- proving ------------------------------------------------------------------------------------------------------

    def take_wanted(self) -> Uncut | None:
        """The segment that this call is to be recorded in, if it is."""
        wanted, self.wanted = self.wanted, None
        return wanted

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Follower, Trial] | None:
        """Before a call is followed: what it is to be followed with if a proof is to be tried, as calls have settled.

        The call may have to be recorded for one: see `take_wanted`.

        Raises: RuntimeError in the mode "replay" if there is none, with every reason.
        """
        region = self.region
        now = (region.calls.side_exits, region.compiles, region.generation, region.replans)
        calm = now == self._before
        self._before = now
        demanded = region.mode == "replay"
        if not calm or (self.tries >= TRIES and not demanded):
            return None
        self.wait -= 1
        if self.wait > 0 and not demanded:
            return None
        many = len(self.replays) >= NEAR and not demanded
        if many and not self._met.again(sizes_of((args, kwargs))):
            return None
        self.tries += 1
        proof, obstacles = self._prove(region.root, args, kwargs)
        if proof is not None:
            return self._try(proof, Follower(region, region.root.root), sizes_of((args, kwargs)))
        if self._may_join(obstacles):
            if region.calls.followed < JOINED_FROM and not demanded:
                self.wait = JOINED_FROM - region.calls.followed
                self._tell(obstacles)
                return None
            found = self._join(args, kwargs, obstacles)
            if found is not None:
                return found
            if self.wanted is not None:
                return None
        else:
            self._note(obstacles)
        if demanded:
            raise RuntimeError(self._refusal())
        return None

    def _try(self, proof: Proof, follower: Follower, sizes: Hashable) -> tuple[Follower, Trial]:
        trial = Trial(self, proof, sizes)
        # The other way round there would be a circle.
        follower.witness = trial.witness
        return follower, trial

    def _prove(
        self, segment: Segment, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Proof | None, list[tuple[str, Unproven]]]:
        call = self.region.function, segment.root, args, kwargs
        uncut = segment if isinstance(segment, Uncut) else None
        before = self.changing.copy()
        with without_collections():
            proof, obstacles = prove(*call, self.changing, self.hints, uncut)
            if proof is None and self.hints and not self._may_join(obstacles):
                # They may be of another function's numbers, with which this one decides something.
                self.hints = frozenset()
                self.changing = before
                proof, obstacles = prove(*call, self.changing, uncut=uncut)
        return proof, obstacles

    def _may_join(self, obstacles: list[tuple[str, Unproven]]) -> bool:
        """Whether nothing but reads in its middle stands between a call and a proof."""
        region = self.region
        plain = region.verify is None and region.max_compiles is None and not region.background
        return self.joins and plain and all(isinstance(e, Midway) for _, e in obstacles)

    def _join(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], obstacles: list[tuple[str, Unproven]]
    ) -> tuple[Follower, Trial] | None:
        """Prove a call as a whole, or have it recorded so."""
        used = [replay.uncut for replay in self.replays]
        waiting = [uncut for uncut in self.uncut if uncut not in used]
        if not waiting:
            if len(self.uncut) < WAYS and (not self.uncut or self.refused):
                self.wanted = Uncut(self.region)
                self.uncut.append(self.wanted)
                self.wait = 1
            else:
                self._note(obstacles)
            return None
        uncut = waiting[-1]
        if uncut.obstacle is not None:
            self._part(uncut.obstacle)
            return None
        proof, found = self._prove_whole(uncut, args, kwargs)
        if proof is None:
            self._note(found)
            if self.failures >= PATIENCE:
                self.joins = False
            return None
        end = proof.segment().place.end
        assert end is not None
        reads, expected = tuple(dict.fromkeys(proof.looks.values())), tuple(proof.session.expected)
        if (end.reads, end.expected) != (reads, expected):
            end.reads, end.expected = reads, expected
            end.programs.clear()
        follower = UncutFollower(uncut, [value for _, value in proof.session.given.values()])
        return self._try(proof, follower, sizes_of((args, kwargs)))

    def _prove_whole(
        self, uncut: Uncut, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Proof | None, list[tuple[str, Unproven]]]:
        """A proof of a whole call. Where it does something else than what was recorded, a number that changes may have
        decided otherwise then than it seems now.
        """
        known = uncut.outcomes.copy()
        while True:
            uncut.guessed = {}
            proof, obstacles = self._prove(uncut, args, kwargs)
            if proof is not None or not uncut.guessed:
                break
            last, outcome = uncut.guessed.popitem()
            uncut.outcomes[last] = not outcome
        if proof is None:
            uncut.outcomes = known
        return proof, obstacles

    def _note(self, obstacles: list[tuple[str, Unproven]]) -> None:
        self.failures += 1
        self.wait = 2**self.failures
        self._tell(obstacles)

    def _tell(self, obstacles: list[tuple[str, Unproven]]) -> None:
        self.obstacles = [(line, e.reason, e.fix) for line, e in obstacles]

    def _refusal(self) -> str:
        reasons = [f"\n  {line}: {reason}" + (f" ({fix})" if fix else "") for line, reason, fix in self.obstacles]
        return f"{self.region.name} cannot be replayed, which mode='replay' demands:{''.join(reasons)}"

    def enter(
        self,
        proof: Proof,
        sizes: Hashable,
        landed: list[Landed],
        out: Any,
        generators: dict[int, tuple[int, int]],
    ) -> None:
        """After the call, whose arguments had these sizes: keep a replay if it did what the proof says."""
        try:
            with without_collections():
                one = check_result(proof, landed)
                proof.expect(out, {slot: t() for slot, t in one.alive.items()}, generators)
                passing = one.alive.keys() - handed_out(proof)
                # Alive at a look at memory, but not handed out: dead when the call is done, or the proof is wrong.
                if any(one.alive[slot]() is not None for slot in passing):
                    raise Unproven("a tensor stays alive where the bytecode does not show it")
                one = self._without(one, passing)
                check_leaves(one)
                replay = Replay(proof, one)
        except Unproven as e:
            if proof.session.uncut is None:
                self._note([("?", e)])
            else:
                # A value may have decided otherwise than when the call was recorded: a later one may be like it, and
                # not always the next but one.
                self._tell([("?", e)])
                self.wait = 1 + self.tries % 3
                self._learn(proof)
            return
        self.obstacles = []
        self.hints |= {
            told
            for (_, kind, key), container in self.changing.items()
            if type(READERS[kind](container, key)) in (int, float) and (told := hint(kind, container, key)) is not None
        }
        self.tries -= 1
        replay.sizes, replay.used = sizes, self.region.calls.replayed
        replays = [replay, *self.replays]
        if len(replays) > REPLAYS:
            replays.remove(min(replays, key=lambda one: one.used))
        else:
            # There may be more of them to find, one for each size.
            self.region.proven = self.region.calls.followed
        self._keep(replays)
        self._put_first(replay)
        # Replays have no use for what operations left, one by one.
        BLOCKS.release()

    def _learn(self, proof: Proof) -> None:
        """A whole call was refused that did what was recorded: the numbers that it decides with change, or decide
        otherwise than it seemed.
        """
        session = proof.session
        uncut = session.uncut
        if uncut is None or uncut.left:
            return
        for guard in list(proof.world.guards.values()):
            if guard.kind in READERS and not guard.holds():
                self._changes(guard)
        for form, _ in session.expected:
            if all(slot in uncut.latest for slot in reads_in(form)):
                uncut.outcomes[likeness(form)] = bool(evaluate(form, uncut.latest, session.given_now()))

    def _without(self, one: Landed, passing: Set[int]) -> Landed:
        """The segment with a program that does not give the tensors that nobody gets from a replay."""
        region = self.region
        if not passing or one.executable.gpu or region.max_compiles is not None or region.background:
            return one
        alive = tuple(slot for slot in one.alive if slot not in passing)
        executable = one.stop.programs.get(alive)
        if executable is None or executable.generation != region.generation:
            executable = one.stop.programs[alive] = region.compile(one.stop, alive)
        if executable.obstacle is not None:
            return one
        return one.with_program(executable, alive)


class Trial:
    """A followed call that a proof has foretold."""

    def __init__(self, prover: Prover, proof: Proof, sizes: Hashable) -> None:
        self.prover = prover
        self.proof = proof
        self.sizes = sizes
        self.landed: list[Landed] = []
        self.generators = {
            key: (generator.seed_, generator.offset) for key, (generator, _) in proof.session.drawn.items()
        }

    def witness(self, follower: Follower, stop: Stop, executable: Executable, alive: tuple[int, ...]) -> None:
        """A segment was run."""
        self.landed.append(Landed(stop, follower.last, executable, follower.values, alive))

    def postpone(self) -> None:
        """The call met a segment without a program: it shows nothing, and a later one is as good."""
        self.prover.tries -= 1
        self.prover.wait = 1

    def end(self, out: Any) -> None:
        """The call is done."""
        self.prover.enter(self.proof, self.sizes, self.landed, out, self.generators)
