"""The text of a loop over vectors: turns of whole vectors, and turns for what they leave.

What they leave is a vector whose lanes are masked, or elements, of which a loop is there already.

In: the text of a body, each line as it is and with masks. Out: lines of text.
Must not know: what a body computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COPY, TURN, INDEX, PAST, MASK = "@@", "@TURN@", "%INDEX%", "%PAST%", "%MASK%"
"""Where a line names one of the copies of a body, or what is one for all in a turn; the index of the first lane, how
many elements earlier copies have, and the mask of the lanes.
"""
_LONG = 48
"""Lines of a body that is so long that a mask in every turn takes little beside it (2 % of a uniform number's time),
while the same body once more, without masks, takes LLVM up to 10 ms."""

Line = tuple[str | None, str | None]
"""A line as it is and with masks; None where there is none."""


@dataclass(frozen=True, slots=True)
class Elements:
    """A loop over the same elements one by one, whose `body` goes on where `counter` is, if it is below the end."""

    body: str
    counter: str


@dataclass(frozen=True, slots=True)
class Turns:
    """A loop over `width` lanes from `start` to below `stop`, after which `done` comes.

    Its names begin with `stem`; `mark` is the metadata of what jumps back. What whole vectors leave is for the loop
    over `elements`; without one it is a vector whose lanes are masked.
    """

    stem: str
    width: int
    start: str
    stop: str
    done: str
    mark: str
    elements: Elements | None

    def lines(self, before: Sequence[str], body: Sequence[Line], copies: int) -> list[str]:
        """The loop, whose turns have so many vectors side by side; `before` is done once, if there is any turn."""
        if self.elements is not None:
            return self._with_elements(before, body, copies, self.elements)
        w = self.stem
        opening = [
            f"{w}.some = icmp slt i64 {self.start}, {self.stop}",
            f"br i1 {w}.some, label {w}.before, label {self.done}",
            f"{w[1:]}.before:",
            *before,
        ]
        if copies == 1 and len(body) >= _LONG:
            first = f"[ {self.start}, {w}.before ]"
            return [*opening, f"br label {w}.part", *self._masked(body, first, alone=True, repeats=True)]
        first = f"[ {w}.m.end, {w}.m.rest ]"
        return [
            *opening,
            *self._whole(body, copies, "m", self.start, "before", "part"),
            *self._masked(body, first, alone=False, repeats=copies > 1),
        ]

    def _with_elements(self, before: Sequence[str], body: Sequence[Line], copies: int, rest: Elements) -> list[str]:
        """Turns of whole vectors, then of one each, then of elements, which are all there is to a short loop."""
        w = self.stem
        last = "m" if copies == 1 else "s"
        lines = [
            f"{w}.all = sub i64 {self.stop}, {self.start}",
            f"{w}.fits = icmp sge i64 {w}.all, {self.width}",
            f"br i1 {w}.fits, label {w}.before, label {w}.short",
            f"{w[1:]}.short:",
            f"{w}.some = icmp slt i64 {self.start}, {self.stop}",
            f"br i1 {w}.some, label {rest.body}, label {self.done}",
            f"{w[1:]}.before:",
            *before,
            *self._whole(body, copies, "m", self.start, "before", "one" if copies > 1 else "elements"),
        ]
        if copies > 1:
            lines += [f"{w[1:]}.one:", *self._whole(body, 1, "s", f"{w}.m.end", "one", "elements")]
        goes_on = f"store i64 {w}.{last}.end, ptr {rest.counter}"
        return [*lines, f"{w[1:]}.elements:", goes_on, f"br label {rest.body}"]

    def _turn(self, body: Sequence[Line], copies: int, tag: str, index: str, *, masked: bool) -> list[str]:
        """The body, line by line for so many vectors."""
        lines = []
        for pair in body:
            text = pair[masked]
            if text is not None:
                text = text.replace(MASK, f"{self.stem}.mask").replace(TURN, tag)
                for k in range(copies if COPY in text else 1):
                    at = index if k == 0 else f"{index}.{k}"
                    text_of_copy = text.replace(COPY, f"{tag}{k}").replace(INDEX, at)
                    lines.append(text_of_copy.replace(PAST, str(k * self.width)))
        return lines

    def _whole(
        self, body: Sequence[Line], copies: int, tag: str, start: str, origin: str, following: str
    ) -> list[str]:
        """Turns of so many whole vectors from `start` on, behind the block `origin`, and the way to what they leave."""
        w, t, step = self.stem, f"{self.stem}.{tag}", self.width * copies
        return [
            f"{t}.count = sub i64 {self.stop}, {start}",
            f"{t}.whole = and i64 {t}.count, {-step}",
            f"{t}.end = add i64 {start}, {t}.whole",
            f"{t}.few = icmp eq i64 {t}.whole, 0",
            f"br i1 {t}.few, label {t}.rest, label {t}.turn",
            f"{t[1:]}.turn:",
            f"{t}.j = phi i64 [ {start}, {w}.{origin} ], [ {t}.next, {t}.turn ]",
            *(f"{t}.j.{k} = add nsw i64 {t}.j, {k * self.width}" for k in range(1, copies)),
            *self._turn(body, copies, tag, f"{t}.j", masked=False),
            f"{t}.next = add nsw i64 {t}.j, {step}",
            f"{t}.more = icmp slt i64 {t}.next, {t}.end",
            f"br i1 {t}.more, label {t}.turn, label {t}.rest{self.mark}",
            f"{t[1:]}.rest:",
            f"{t}.left = icmp slt i64 {t}.end, {self.stop}",
            f"br i1 {t}.left, label {w}.{following}, label {self.done}",
        ]

    def _masked(self, body: Sequence[Line], first: str, *, alone: bool, repeats: bool) -> list[str]:
        """Turns of one vector each from `first` on, for all of the loop if `alone`, or for what whole vectors left."""
        w, numbers = self.stem, f"<{self.width} x i32>"
        iota = ", ".join(f"i32 {k}" for k in range(self.width))
        lack = [f"{w}.lack = sub i64 {self.stop}, {w}.i"]
        if alone:
            # There may be more than 32 bits hold.
            lack = [
                f"{w}.all = sub i64 {self.stop}, {w}.i",
                f"{w}.many = icmp sgt i64 {w}.all, {self.width}",
                f"{w}.lack = select i1 {w}.many, i64 {self.width}, i64 {w}.all",
            ]
        return [
            f"{w[1:]}.part:",
            f"{w}.i = phi i64 {first}, [ {w}.beyond, {w}.part ]",
            *lack,
            f"{w}.lanes = trunc i64 {w}.lack to i32",
            f"{w}.one = insertelement {numbers} undef, i32 {w}.lanes, i32 0",
            f"{w}.each = shufflevector {numbers} {w}.one, {numbers} undef, {numbers} zeroinitializer",
            f"{w}.mask = icmp ugt {numbers} {w}.each, <{iota}>",
            *self._turn(body, 1, "t", f"{w}.i", masked=True),
            f"{w}.beyond = add nsw i64 {w}.i, {self.width}",
            f"{w}.again = icmp slt i64 {w}.beyond, {self.stop}" if repeats else f"{w}.again = icmp ne i64 0, 0",
            f"br i1 {w}.again, label {w}.part, label {self.done}{self.mark}",
        ]
