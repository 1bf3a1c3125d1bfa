"""The part of one or several images that a band of result pixels looks at, laid out so that no tap needs a mask.

What tap (channel, row, column) sees from a pixel lies at `place of the pixel + offset of the tap` in a window, whatever
stride, padding and dilation are; both are looked up in tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tracejit.kernels.code import Code, Word
from tracejit.kernels.conv_vectors import add_padded, add_zeros
from tracejit.kernels.vectors import TARGET, Lane

DIRECT, PADDED, GATHERED = range(3)
"""What a window is: the image itself, where no tap leaves it; a copy with zeros round it; or, where the pixels that a
tap sees lie too far apart for that, rows of pixels gathered one by one for each tap."""

MAX_TAPS = 256
"""The longest side of a kernel."""

MAX_RUN, MAX_PIXELS = 1024, 1024
"""The most taps (of all channels) and the most pixels that are looked up in a window."""

WINDOW_BYTES = 160 << 10
PLANE_GAP = 64
"""Bytes of a window; bytes between its channels, without which those of many images would share cache sets."""

SPARE = 32
"""Entries of a table behind its end: its last tile, or panel, may look up that many."""


class Axis:
    """Along one axis: which taps meet a grid of pixels, where they look in the source, and a pixel's step there."""

    def __init__(self, code: Code, backward: Word, taps: Word, stride: Word, pad: Word, dilation: Word) -> None:
        self.taps, self.shifts = code.buffer(8 * MAX_TAPS), code.buffer(8 * MAX_TAPS)
        self.step = backward.choose(1, stride)
        self._count, self._low, self._high = code.cell(0), code.cell(0), code.cell(0)
        self._geometry = backward, taps, stride, pad, dilation

    @property
    def count(self) -> Word:
        return self._count.now

    @property
    def low(self) -> Word:
        """The least shift."""
        return self._low.now

    @property
    def span(self) -> Word:
        """From the least shift to the greatest."""
        return self._high.now - self._low.now

    def find(self, code: Code, phase: Word) -> None:
        """Looks for the taps that meet the grid at `phase`."""
        backward, taps, stride, pad, dilation = self._geometry
        self._count.set(code.word(0))
        with code.loop(0, taps) as tap:
            ahead = tap * dilation - pad
            behind = phase - ahead
            with code.when(backward.choose((behind % stride).equals(0).number(), 1).differs(0)):
                shift = backward.choose(behind // stride, ahead)
                first = self.count.equals(0)
                self._low.set(first.choose(shift, self._low.now.least(shift)))
                self._high.set(first.choose(shift, self._high.now.most(shift)))
                code.store(self.taps, self.count, tap)
                code.store(self.shifts, self.count, shift)
                self._count.set(self.count + 1)


class _Memo:
    """Numbers that a table was made for."""

    def __init__(self, code: Code, count: int) -> None:
        self._cells = [code.cell(-1) for _ in range(count)]

    @contextmanager
    def renewed(self, code: Code, *words: Word) -> Iterator[None]:
        """The block runs if a number differs from that of the last time."""
        differs = code.word(0).differs(0)
        for cell, word in zip(self._cells, words, strict=True):
            differs = differs | cell.now.differs(word)
        with code.when(differs):
            for cell, word in zip(self._cells, words, strict=True):
                cell.set(word)
            yield


@dataclass(frozen=True, slots=True)
class Band:
    """Neighbouring pixels of a grid: rows from `y` and columns from `x` on, in each of so many `images`; and the steps
    of their window.
    """

    y: Word
    x: Word
    rows: Word
    columns: Word
    images: Word
    height: Word
    row_step: Word
    plane: Word
    image_step: Word

    @property
    def of_image(self) -> Word:
        """Pixels of one image."""
        return self.rows * self.columns

    @property
    def pixels(self) -> Word:
        return self.images * self.of_image


class Window:
    """The windows of one thread, one after another in one place.

    Images of `rows` times `columns` pixels lie `apart` elements apart; a padded window has room for `block` channels.
    """

    def __init__(
        self,
        code: Code,
        lane: Lane,
        mode: Word,
        vertical: Axis,
        horizontal: Axis,
        rows: Word,
        columns: Word,
        apart: Word,
        block: Word,
    ) -> None:
        self.lane, self.mode, self.vertical, self.horizontal = lane, mode, vertical, horizontal
        self.rows, self.columns, self.apart, self.block = rows, columns, apart, block
        self.offsets = code.buffer(8 * (MAX_RUN + SPARE))
        self.places = code.buffer(8 * (MAX_PIXELS + SPARE))
        self._buffer = code.buffer(WINDOW_BYTES + TARGET.vector_bytes)
        self._known_offsets, self._known_places = _Memo(code, 6), _Memo(code, 7)

    @property
    def taps(self) -> Word:
        """Taps of a channel."""
        return self.vertical.count * self.horizontal.count

    def band(self, y: Word, x: Word, rows: Word, columns: Word, images: Word) -> Band:
        """A band of pixels, whose taps the axes have found."""
        direct, gathered = self.mode.equals(DIRECT), self.mode.equals(GATHERED)
        height = (rows - 1) * self.vertical.step + self.vertical.span + 1
        width = (columns - 1) * self.horizontal.step + self.horizontal.span + 1
        # Rows that fit a vector follow each other: what is copied behind one are zeros, and the next row comes later.
        row_step = (width <= self.lane.count).choose(width, width.ceil_div(self.lane.count) * self.lane.count)
        plane = height * row_step + PLANE_GAP // self.lane.size
        image_step = direct.choose(self.apart, gathered.choose(rows * columns, self.block * plane))
        row_step = direct.choose(self.columns, row_step)
        plane = direct.choose(self.rows * self.columns, gathered.choose(images * rows * columns, plane))
        return Band(y, x, rows, columns, images, height, row_step, plane, image_step)

    def look_up_offsets(self, code: Code, band: Band, low: Word, high: Word) -> None:
        """Fills the table of taps low..high of all channels."""
        gathered = self.mode.equals(GATHERED)
        # Between the taps that meet a grid there are the same steps, wherever it starts.
        counts = self.vertical.count, self.horizontal.count
        with self._known_offsets.renewed(code, *counts, low, high, band.plane, band.row_step):
            code.either(
                gathered,
                lambda: self._offsets_in_rows(code, band, low, high),
                lambda: self._offsets_in_planes(code, band, low, high),
            )
            self._pad(code, self.offsets, high - low)

    def look_up_places(self, code: Code, band: Band, width: int = 1) -> None:
        """Fills the table of the pixels of a band, or of groups of `width` pixels of a row.

        The last group of a row ends with it, if the row is that wide.
        """
        gathered = self.mode.equals(GATHERED)
        across = gathered.choose(1, self.horizontal.step)
        down = gathered.choose(band.columns, self.vertical.step * band.row_step)
        groups, last = band.columns.ceil_div(width), (band.columns - width).most(0)
        sizes = band.images, band.rows, band.columns
        with self._known_places.renewed(code, *sizes, across, down, band.plane, band.image_step):
            with code.loop(0, band.images) as n, code.loop(0, band.rows) as y, code.loop(0, groups) as x:
                place = (n * band.image_step + y * down + (x * width).least(last) * across) * self.lane.size
                code.store(self.places, (n * band.rows + y) * groups + x, place)
            self._pad(code, self.places, band.images * band.rows * groups)

    @staticmethod
    def _pad(code: Code, table: Word, count: Word) -> None:
        """What tiles look up behind the end of a table must be in the window as well."""
        with code.loop(count, count + SPARE) as spare:
            code.store(table, spare, code.word(0))

    def _offsets_in_rows(self, code: Code, band: Band, low: Word, high: Word) -> None:
        with code.loop(0, high - low) as k:
            code.store(self.offsets, k, k * band.plane * self.lane.size)

    def _offsets_in_planes(self, code: Code, band: Band, low: Word, high: Word) -> None:
        # A grid may have no taps at all.
        first = low.quotient(self.taps.most(1))
        tap = low - first * self.taps
        row = tap.quotient(self.horizontal.count.most(1))
        base, i, j = code.cell(0), code.cell(row), code.cell(tap - row * self.horizontal.count)
        with code.loop(0, high - low) as k:
            down = code.load(self.vertical.shifts, i.now) - self.vertical.low
            across = code.load(self.horizontal.shifts, j.now) - self.horizontal.low
            code.store(self.offsets, k, (base.now + down * band.row_step + across) * self.lane.size)
            j.set(j.now + 1)
            with code.when(j.now.equals(self.horizontal.count)):
                j.set(code.word(0))
                i.set(i.now + 1)
                with code.when(i.now.equals(self.vertical.count)):
                    i.set(code.word(0))
                    base.set(base.now + band.plane)

    def fill(self, code: Code, band: Band, image: Word, low: Word, high: Word) -> Word:
        """Puts what taps low..high see of the images from an address on into the window; gives the window's address."""
        direct = self.mode.equals(DIRECT)
        top = band.y * self.vertical.step + self.vertical.low
        left = band.x * self.horizontal.step + self.horizontal.low
        first = low.quotient(self.taps.most(1))
        start = image + ((first * self.rows + top) * self.columns + left) * self.lane.size
        # One image after another: zeros behind the last row of one are where the next begins.
        with code.loop(0, band.images) as n:
            ahead, to = n * self.apart * self.lane.size, self._buffer + n * band.image_step * self.lane.size
            with code.when(self.mode.equals(PADDED) & (low < high)):
                self._copy(code, band, start + ahead, to, top, left, high.ceil_div(self.taps.most(1)) - first)
            with code.when(self.mode.equals(GATHERED)):
                self._gather(code, band, image + ahead, to, low, high)
        return direct.choose(start, self._buffer)

    def _copy(self, code: Code, band: Band, start: Word, to: Word, top: Word, left: Word, channels: Word) -> None:
        size, zeros = self.lane.size, add_zeros(code.module, self.lane)
        above = (-top).most(0).least(band.height)
        below = (self.rows - top).most(above).least(band.height)
        with code.when((above > 0) | (below < band.height)), code.loop(0, channels) as c:
            plane = to + c * band.plane * size
            code.call(zeros, plane, (above * band.row_step).ceil_div(self.lane.count))
            rest = ((band.height - below) * band.row_step).ceil_div(self.lane.count)
            code.call(zeros, plane + below * band.row_step * size, rest)
        code.call(
            add_padded(code.module, self.lane),
            start + above * self.columns * size,
            self.columns,
            self.rows * self.columns,
            to + above * band.row_step * size,
            band.row_step,
            band.plane,
            below - above,
            channels,
            -left,
            (self.columns - left).least(band.row_step),
            band.row_step.ceil_div(self.lane.count),
        )

    def _gather(self, code: Code, band: Band, image: Word, to: Word, low: Word, high: Word) -> None:
        with code.loop(low, high) as k:
            channel = k.quotient(self.taps)
            tap = k - channel * self.taps
            i = tap.quotient(self.horizontal.count)
            down = code.load(self.vertical.shifts, i)
            across = code.load(self.horizontal.shifts, tap - i * self.horizontal.count)
            out = to + (k - low) * band.plane * self.lane.size
            with code.loop(0, band.rows) as y, code.loop(0, band.columns) as x:
                row = (band.y + y) * self.vertical.step + down
                column = (band.x + x) * self.horizontal.step + across
                at = y * band.columns + x
                inside = (row >= 0) & (row < self.rows) & (column >= 0) & (column < self.columns)
                code.store(out, at, code.word(0, self.lane.kind))
                with code.when(inside):
                    place = (channel * self.rows + row) * self.columns + column
                    code.store(out, at, code.load(image, place, self.lane.kind))


def window_bytes(rows: int, columns: int, size: int) -> int:
    """Bytes of one channel of a padded window."""
    lanes = TARGET.vector_bytes // size
    step = columns if columns <= lanes else -(-columns // lanes) * lanes
    return rows * step * size + PLANE_GAP
