"""The patches of an image that a convolution multiplies: which pixels each tap sees, gathered into rows.

A patch row is a (channel, tap row, tap column); its elements are the pixels that the tap sees from each pixel of a
grid, 0 where it looks outside the image.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracejit.kernels.conv_vectors import add_gather, add_masks, add_segments, add_zeros
from tracejit.kernels.gemm_code import I32, Cell, Code, Word
from tracejit.kernels.gemm_kernels import TILE_VECTORS
from tracejit.kernels.gemm_vectors import Lane

MAX_TAPS = 256
"""The longest side of a kernel."""

WIDEST, FLAT_TAPS = 1024, 128
"""The widest grid of pixels for which their columns are kept in a table, the most taps of a channel for which masks
are."""


class Axis:
    """Along one axis: which taps meet a grid of pixels, where they look in the source, and a pixel's step there."""

    def __init__(self, code: Code, backward: Word, taps: Word, stride: Word, pad: Word, dilation: Word) -> None:
        self.taps, self.shifts = code.buffer(8 * MAX_TAPS), code.buffer(8 * MAX_TAPS)
        self.step = backward.choose(1, stride)
        self._count = code.cell(0)
        self._geometry = backward, taps, stride, pad, dilation

    @property
    def count(self) -> Word:
        return self._count.now

    def find(self, code: Code, phase: Word) -> None:
        """Looks for the taps that meet the grid at `phase`."""
        backward, taps, stride, pad, dilation = self._geometry
        self._count.set(code.word(0))
        with code.loop(0, taps) as tap:
            ahead = tap * dilation - pad
            behind = phase - ahead
            with code.when(backward.choose((behind % stride).equals(0).number(), 1).differs(0)):
                code.store(self.taps, self.count, tap)
                code.store(self.shifts, self.count, backward.choose(behind // stride, ahead))
                self._count.set(self.count + 1)


@dataclass(frozen=True, slots=True)
class Flat:
    """Tables for a source as wide as the grid, where the patch rows of a tap are the source shifted.

    `offsets` holds the shift of each tap in bytes, `masks` which pixels do not wrap round or leave the image.
    """

    lane: Lane
    possible: Word
    taps: Word
    plane: Word
    offsets: Word
    masks: Word

    def prepare(self, code: Code, patches: Patches, positions: Positions, begin: Word, count: int, masks: Word) -> None:
        """Fills the tables for `count` grid pixels from `begin` on."""
        find = add_masks(code.module, self.lane, TILE_VECTORS)
        groups = -(-count // (TILE_VECTORS * self.lane.count))
        vertical, horizontal = patches.vertical, patches.horizontal
        with code.loop(0, vertical.count) as i, code.loop(0, horizontal.count) as j:
            tap = i * horizontal.count + j
            across = code.load(horizontal.shifts, j)
            shift = code.load(vertical.shifts, i) * patches.columns + across
            code.store(self.offsets, tap, shift * self.lane.size)
            at = begin + shift
            of_tap, step = masks + tap * (4 * TILE_VECTORS), self.taps * (4 * TILE_VECTORS)
            code.call(find, positions.at(begin), across, patches.columns, -at, self.plane - at, groups, of_tap, step)


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches of an image: its address and sizes, the two axes, the width of the grid of output pixels."""

    lane: Lane
    source: Word
    rows: Word
    columns: Word
    vertical: Axis
    horizontal: Axis
    width: Word

    def flat(self, code: Code, offsets: Word, masks: Word) -> Flat:
        """The tables, if they are of use: `possible` says so."""
        taps = self.vertical.count * self.horizontal.count
        single = self.vertical.step.equals(1) & self.horizontal.step.equals(1) & self.width.equals(self.columns)
        possible = single & (self.width <= WIDEST) & (taps <= FLAT_TAPS) & (taps > 0)
        return Flat(self.lane, possible, taps, self.rows * self.columns, offsets, masks)

    def gather(
        self,
        code: Code,
        flat: Flat,
        masks: Word,
        begin: Word,
        end: Word,
        low: Word,
        high: Word,
        out: Word,
        out_step: int,
    ) -> None:
        """Patch rows low..high (channel, tap row, tap column) at the grid pixels begin..end; outside is 0.

        Writes whole vectors.
        """
        columns = TILE_VECTORS * self.lane.count

        def shift() -> None:
            gather = add_gather(code.module, self.lane, TILE_VECTORS)
            groups = (end - begin).ceil_div(columns)
            source = self.source + begin * self.lane.size
            code.call(gather, source, flat.plane, out, out_step, low, high, flat.taps, flat.offsets, masks, groups)

        code.either(flat.possible, shift, lambda: self._copy(code, begin, end, low, high, out, out_step))

    def _copy(self, code: Code, begin: Word, end: Word, low: Word, high: Word, out: Word, out_step: int) -> None:
        """Any other case: the runs of pixels that a tap sees in one row of the image."""
        size = self.lane.size
        horizontal, step = self.horizontal, self.horizontal.step
        taps = self.vertical.count * horizontal.count
        plane = self.rows * self.columns
        code.call(add_zeros(code.module, self.lane), out, ((high - low) * out_step).quotient(self.lane.count))
        top = begin.quotient(self.width)
        with code.loop(top, (end + self.width - 1).quotient(self.width)) as y:
            start = y * self.width
            first, last = (begin - start).most(0), (end - start).least(self.width)
            with code.loop(0, self.vertical.count) as i:
                row = y * self.vertical.step + code.load(self.vertical.shifts, i)
                with code.when((row >= 0) & (row < self.rows)), code.loop(0, horizontal.count) as j:
                    tap = i * horizontal.count + j
                    shift = code.load(horizontal.shifts, j)
                    x0 = first.most((-shift).ceil_div(step))
                    x1 = last.least((self.columns - shift).ceil_div(step))
                    channel = (low - tap).ceil_div(taps)
                    count = (high - tap).ceil_div(taps) - channel
                    with code.when((x0 < x1) & (count > 0)):
                        at = self.source + (channel * plane + row * self.columns + x0 * step + shift) * size
                        to = out + ((channel * taps + tap - low) * out_step + start - begin + x0) * size
                        self._copy_run(code, at, to, taps * out_step, count, x1 - x0)

    def _copy_run(self, code: Code, at: Word, to: Word, out_step: Word, count: Word, length: Word) -> None:
        plane, step = self.rows * self.columns, self.horizontal.step

        def single() -> None:
            code.call(add_segments(code.module, self.lane), at, plane, to, out_step, count, length)

        def apart() -> None:
            with code.loop(0, count) as c, code.loop(0, length) as x:
                code.store(to, c * out_step + x, code.load(at, c * plane + x * step, self.lane.kind))

        code.either(step.equals(1), single, apart)


@dataclass(frozen=True, slots=True)
class Positions:
    """A table of the columns of the pixels of a grid, from its first pixel on, made anew when the width changes."""

    table: Word
    count: int
    width: Cell

    def update(self, code: Code, width: Word) -> None:
        with code.when(self.width.now.differs(width) & (width <= WIDEST)):
            x = code.cell(0)
            with code.loop(0, width + self.count) as pixel:
                code.store(self.table, pixel, x.now.narrowed(I32))
                following = x.now + 1
                x.set(following.equals(width).choose(0, following))
            self.width.set(width)

    def at(self, pixel: Word) -> Word:
        """The part of the table that `count` pixels from `pixel` on need."""
        return self.table + (pixel - pixel.quotient(self.width.now) * self.width.now) * 4


def make_positions(code: Code, count: int) -> Positions:
    """A table for `count` pixels, not yet filled."""
    # No width yet: a number that differs from all and that one can divide by.
    return Positions(code.buffer(4 * (count + WIDEST)), count, code.cell(-1))
