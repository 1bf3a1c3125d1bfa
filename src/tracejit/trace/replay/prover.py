"""The prover of a region: decides when to try a proof, keeps the replays, and says what stands in the way."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from tracejit.runtime.blocks import BLOCKS
from tracejit.runtime.collection import without_collections
from tracejit.tensor.tensor import Tensor
from tracejit.trace.executable import Executable
from tracejit.trace.follower import Follower
from tracejit.trace.matcher import MISS
from tracejit.trace.replay.guards import READERS, Guard
from tracejit.trace.replay.landed import Landed, check_leaves, check_result, handed_out
from tracejit.trace.replay.program import Replay
from tracejit.trace.replay.proof import Proof, prove
from tracejit.trace.replay.symbols import Unproven
from tracejit.trace.replay.world import COUNTERS, Hint, hint
from tracejit.trace.tape import TapePlan
from tracejit.trace.tree import Stop

TRIES = 24
"""Proofs that a region may try."""
REPLAYS = 8
"""Replays that a region keeps; the one that was used longest ago goes first."""


class Prover:
    """Proofs and replays of one region."""

    def __init__(self, region: Any) -> None:
        self.region = region
        self.replays: list[Replay] = []
        self.changing: dict[Any, Any] = {}
        self.hints: frozenset[Hint] = COUNTERS
        self.obstacles: list[tuple[str, str, str]] = []
        self.tries = 0
        self.failures = 0
        self.wait = 1
        self._before: tuple[int, ...] = ()

    # --- replaying ----------------------------------------------------------------------------------------------------

    def replay(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call by replay, or `MISS`."""
        replays = self.replays
        for k, replay in enumerate(replays):
            out = replay.run(args, kwargs)
            if out is not MISS:
                if k:
                    replays.insert(0, replays.pop(k))
                    self._put_first()
                self.region.calls.replayed += 1
                return out
            # The next one may take them over.
            replay.grads.let_go()
        for replay in replays:
            failed, replay.watch.failed = replay.watch.failed, None
            if failed is not None and self._changes(failed):
                replays.remove(replay)
                self._put_first()
                break
        return MISS

    def let_go(self) -> None:
        """A call is made without a replay: the gradients that they gave are the tensors' alone, which may drop them."""
        for replay in self.replays:
            replay.grads.let_go()

    def _put_first(self) -> None:
        """Let calls try the first replay before anything else; with `verify=` the region looks first what is due."""
        region = self.region
        first = self.replays[0] if self.replays and region.verify is None else None
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
        self.replays = [replay for replay in self.replays if replay.executable.tape is not tape]
        self.wait = 1
        self._put_first()

    # --- proving ------------------------------------------------------------------------------------------------------

    def begin(self, follower: Follower, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trial | None:
        """Before a followed call: try a proof if the calls have settled.

        Raises: RuntimeError in the mode "replay" if there is none, with every reason.
        """
        region = self.region
        now = (region.calls.side_exits, region.compiles, region.eager_segments, region.generation, region.replans)
        calm = now == self._before
        self._before = now
        demanded = region.mode == "replay"
        if not calm or (self.tries >= TRIES and not demanded):
            return None
        self.wait -= 1
        if self.wait > 0 and not demanded:
            return None
        self.tries += 1
        call = region.function, region.root.root, args, kwargs
        before = self.changing.copy()
        with without_collections():
            proof, obstacles = prove(*call, self.changing, self.hints)
            if proof is None and self.hints:
                # They may be of another function's numbers, with which this one decides something.
                self.hints = frozenset()
                self.changing = before
                proof, obstacles = prove(*call, self.changing)
        if proof is None:
            self._note(obstacles)
            if demanded:
                raise RuntimeError(self._refusal())
            return None
        return Trial(self, proof, follower)

    def _note(self, obstacles: list[tuple[str, Unproven]]) -> None:
        self.failures += 1
        self.wait = 2**self.failures
        self.obstacles = [(line, e.reason, e.fix) for line, e in obstacles]

    def _refusal(self) -> str:
        reasons = [f"\n  {line}: {reason}" + (f" ({fix})" if fix else "") for line, reason, fix in self.obstacles]
        return f"{self.region.name} cannot be replayed, which mode='replay' demands:{''.join(reasons)}"

    def enter(self, proof: Proof, landed: list[Landed], out: Any, generators: dict[int, tuple[int, int]]) -> None:
        """After the call: keep a replay if the call did what the proof says."""
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
            self._note([("?", e)])
            return
        self.obstacles = []
        self.hints |= {
            told
            for (_, kind, key), container in self.changing.items()
            if type(READERS[kind](container, key)) in (int, float) and (told := hint(kind, container, key)) is not None
        }
        self.replays.insert(0, replay)
        del self.replays[REPLAYS:]
        # Replays have no use for what operations left, one by one.
        BLOCKS.release()
        self._put_first()


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

    def __init__(self, prover: Prover, proof: Proof, follower: Follower) -> None:
        self.prover = prover
        self.proof = proof
        self.landed: list[Landed] = []
        self.generators = {
            key: (generator.seed_, generator.offset) for key, (generator, _) in proof.session.drawn.items()
        }
        follower.witness = self.witness

    def witness(self, follower: Follower, stop: Stop, executable: Executable, alive: tuple[int, ...]) -> None:
        """A segment was run."""
        self.landed.append(Landed(stop, follower.last, executable, follower.values, alive))

    def postpone(self) -> None:
        """The call met a segment without a program: it shows nothing, and a later one is as good."""
        self.prover.tries -= 1
        self.prover.wait = 1

    def end(self, out: Any) -> None:
        """The call is done."""
        self.prover.enter(self.proof, self.landed, out, self.generators)
