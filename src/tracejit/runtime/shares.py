"""Shares: what each thread does of a program's stages and strands, and in which chunks.

In: the launches' units, costs, stages. Out: segments, between which the threads meet.
Must not know: kernels, arguments, memory.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tracejit.kernels.threads import GRAIN

_SNAP_NS = 500.0
"""A cut between threads moves to the edge of a launch that is nearer than this."""
_AWAKE, _WAKE_NS = 0.4, 20_000.0
"""In a program that shares at least _WAKE_NS of work the threads are awake, so a stage is worth sharing from this part
of `parallel_us` on. In others a stage is shared as a single launch is."""
_CHUNK_NS, _CHUNKS, _LAST_NS = 40_000.0, 8, 5_000.0
"""The first chunks of a share are equal, of at least so much and at most so many: each begins anew with what a kernel
prepares. Each later one is half of what is left, down to _LAST_NS: whoever is through first finds little to wait for.
"""
_LEAST_CHUNKS = 4
"""So many chunks of a long share there are even if that parts units which had better stay together."""
_EVEN = 4
"""Parts of a strand for each thread from which on it does not matter if some have one more."""


class Launched(Protocol):
    """What is to be known of a launch; see `ProgramBuilder.add_launch`."""

    @property
    def units(self) -> int: ...

    @property
    def unit_cost(self) -> float: ...

    @property
    def cost(self) -> float: ...

    @property
    def stage(self) -> int: ...

    @property
    def strand(self) -> int: ...

    @property
    def parts(self) -> int: ...

    @property
    def grain(self) -> int: ...

    @property
    def block(self) -> int: ...


class Task(NamedTuple):
    """A part of a launch: its units [low, high), done by one thread."""

    launch: int
    low: int
    high: int


Chunk = tuple[Task, ...]
Segment = tuple[tuple[Chunk, ...], ...]
"""For each thread, its share of what lies between two points at which all work is done: chunks that one thread does."""


def _cut(launch: Launched, position: float) -> int:
    """The unit of a launch at which a cut, `position` nanoseconds into it, is made."""
    if position <= _SNAP_NS:
        return 0
    if position >= launch.cost - _SNAP_NS:
        return launch.units
    grain = GRAIN if launch.units >= GRAIN * GRAIN else 1
    return min(launch.units, grain * round(position / (launch.unit_cost * grain)))


def _portions(cost: float, least: float) -> list[float]:
    """What the chunks of a share cost, each at least `least`."""
    most = max(cost / _CHUNKS, _CHUNK_NS, least)
    portions, rest = [], cost
    while rest >= 2 * max(_LAST_NS, least):
        portions.append(min(most, rest / 2))
        rest -= portions[-1]
    return [*portions, rest]


def _cut_up(launches: Sequence[tuple[int, Launched]], portions: Sequence[float]) -> list[Chunk]:
    """The work of one stage in pieces of these costs, in order; some may be empty."""
    pieces = len(portions)
    chunks: list[list[Task]] = [[] for _ in range(pieces)]
    ends = list(itertools.accumulate(launch.cost for _, launch in launches))
    bounds = list(itertools.accumulate(portions[:-1]))
    for (index, launch), end in zip(launches, ends, strict=True):
        begin = end - launch.cost
        low = 0
        for piece in range(bisect.bisect_right(bounds, begin + _SNAP_NS), pieces):
            last = piece == pieces - 1
            high = launch.units if last else max(low, _cut(launch, bounds[piece] - begin))
            if high > low:
                chunks[piece].append(Task(index, low, high))
            low = high
            if low == launch.units:
                break
    return [tuple(chunk) for chunk in chunks]


def split(launches: Sequence[tuple[int, Launched]], threads: int, threshold: float) -> Segment:
    """What each thread does of one stage: equal shares of its cost, in order, or all on the first if it is light.

    A long share is several chunks, so that others can help a thread that falls behind.
    """
    total = sum(launch.cost for _, launch in launches)
    takers = int(min(threads, 2 * total / threshold)) if threshold > 0 else threads
    if total < threshold or takers <= 1:
        alone = tuple(Task(index, 0, launch.units) for index, launch in launches if launch.units)
        return ((alone,) if alone else (), *[()] * (threads - 1))
    share = total / takers
    grain = max([launch.unit_cost * launch.grain for _, launch in launches if launch.grain > 1], default=0.0)
    portions = _portions(share, min(grain, share / _LEAST_CHUNKS))
    each = len(portions)
    chunks = _cut_up(launches, portions * takers)
    shares = [tuple(c for c in chunks[each * k : each * (k + 1)] if c) for k in range(takers)]
    return (*shares, *[()] * (threads - takers))


def sharing_threshold(launches: Sequence[Launched], single: float) -> float:
    """What a stage of a program must cost to be shared, where a launch by itself is shared from `single` on."""
    costs: dict[int, float] = {}
    for launch in launches:
        costs[launch.stage] = costs.get(launch.stage, 0.0) + launch.cost
    threshold = single * _AWAKE
    return threshold if sum(c for c in costs.values() if c >= threshold) >= min(_WAKE_NS, 2 * single) else single


def part(launches: Sequence[tuple[int, Launched]], threads: int, threshold: float) -> Segment | None:
    """What each thread does of a strand, one part of all launches; None if it is light or has too few parts."""
    parts = launches[0][1].parts
    total = sum(launch.cost for _, launch in launches)
    if threads < 2 or total < threshold or (parts % threads and parts < _EVEN * threads):
        return None
    bounds = [parts * thread // threads for thread in range(threads + 1)]
    return tuple(
        (tuple(Task(k, launch.units * low // parts, launch.units * high // parts) for k, launch in launches),)
        for low, high in itertools.pairwise(bounds)
    )


def blocks(launches: Sequence[tuple[int, Launched]], threads: int, threshold: float) -> Segment | None:
    """What each thread does of stages of a strand that go block by block, each block a chunk that others may do; None
    if parts do not go up evenly among the threads.
    """
    parts, block = launches[0][1].parts, launches[0][1].block
    takers = threads if sum(launch.cost for _, launch in launches) >= threshold else 1
    if parts % takers and parts < _EVEN * takers:
        return None
    bounds = [parts * taker // takers for taker in range(takers + 1)]
    shares = [
        tuple(
            [
                tuple([Task(k, one.units * at // parts, one.units * end // parts) for k, one in launches])
                for at, end in itertools.pairwise([*range(low, high, block), high])
            ]
        )
        for low, high in itertools.pairwise(bounds)
    ]
    return (*shares, *[()] * (threads - takers))


def segment(launches: Sequence[Launched], threads: int, threshold: float) -> list[Segment]:
    """A program's segments: its strands and other stages, where neighbours that the first thread does alone are one
    segment."""
    found: list[Segment] = []
    numbered = sorted(enumerate(launches), key=lambda pair: pair[1].stage)
    for strand, group in itertools.groupby(numbered, key=lambda pair: pair[1].strand):
        there = [pair for pair in group if pair[1].units]
        for block, together in itertools.groupby(there, key=lambda pair: pair[1].block):
            members = list(together)
            parted = (blocks if block else part)(members, threads, threshold) if strand else None
            if parted is not None:
                found.append(parted)
                continue
            stages = itertools.groupby(members, key=lambda pair: pair[1].stage)
            found += filter(any, [split(list(stage), threads, threshold) for _, stage in stages])
    segments: list[Segment] = []
    for alone, neighbours in itertools.groupby(found, key=lambda shares: not any(shares[1:])):
        first, *others = neighbours
        if alone and others:
            tasks = itertools.chain.from_iterable([chunk for shares in (first, *others) for chunk in shares[0]])
            segments.append(((tuple(tasks),), *first[1:]))
        else:
            segments += (first, *others)
    return segments
