"""The text of a loop over vectors: turns of whole vectors, and turns of vectors whose lanes are masked.

In: the text of a body, each line as it is and with masks. Out: lines of text.
Must not know: what a body computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COPY, INDEX, MASK = "@@", "%INDEX%", "%MASK%"
"""Where a line names one of the copies of a body, the index of its first lane, and the mask of its lanes."""
_LONG = 48
"""Lines of a body that is so long that a mask in every turn takes little beside it (2 % of a uniform number's time),
while the same body once more, without masks, takes LLVM up to 10 ms."""

Line = tuple[str | None, str | None]
"""A line as it is and with masks; None where there is none."""


@dataclass(frozen=True, slots=True)
class Turns:
    """A loop over `width` lanes from `start` to below `stop`, after which `done` comes.

    Its names begin with `stem`; `mark` is the metadata of what jumps back.
    """

    stem: str
    width: int
    start: str
    stop: str
    done: str
    mark: str

    def lines(self, before: Sequence[str], body: Sequence[Line], copies: int) -> list[str]:
        """The loop, whose turns have so many vectors side by side; `before` is done once, if there is any turn."""
        w = self.stem
        opening = [
            f"{w}.some = icmp slt i64 {self.start}, {self.stop}",
            f"br i1 {w}.some, label {w}.before, label {self.done}",
            f"{w[1:]}.before:",
            *before,
        ]
        if copies == 1 and len(body) >= _LONG:
            return [*opening, f"br label {w}.part", *self._masked(body, alone=True, repeats=True)]
        return [*opening, *self._whole(body, copies), *self._masked(body, alone=False, repeats=copies > 1)]

    def _turn(self, body: Sequence[Line], copies: int, tag: str, index: str, *, masked: bool) -> list[str]:
        """The body, line by line for so many vectors."""
        lines = []
        for pair in body:
            text = pair[masked]
            if text is not None:
                text = text.replace(MASK, f"{self.stem}.mask")
                for k in range(copies):
                    at = index if k == 0 else f"{index}.{k}"
                    lines.append(text.replace(COPY, f"{tag}{k}").replace(INDEX, at))
        return lines

    def _whole(self, body: Sequence[Line], copies: int) -> list[str]:
        w, step = self.stem, self.width * copies
        return [
            f"{w}.count = sub i64 {self.stop}, {self.start}",
            f"{w}.whole = and i64 {w}.count, {-step}",
            f"{w}.end = add i64 {self.start}, {w}.whole",
            f"{w}.few = icmp eq i64 {w}.whole, 0",
            f"br i1 {w}.few, label {w}.rest, label {w}.turn",
            f"{w[1:]}.turn:",
            f"{w}.j = phi i64 [ {self.start}, {w}.before ], [ {w}.next, {w}.turn ]",
            *(f"{w}.j.{k} = add nsw i64 {w}.j, {k * self.width}" for k in range(1, copies)),
            *self._turn(body, copies, "m", f"{w}.j", masked=False),
            f"{w}.next = add nsw i64 {w}.j, {step}",
            f"{w}.more = icmp slt i64 {w}.next, {w}.end",
            f"br i1 {w}.more, label {w}.turn, label {w}.rest{self.mark}",
            f"{w[1:]}.rest:",
            f"{w}.left = icmp slt i64 {w}.end, {self.stop}",
            f"br i1 {w}.left, label {w}.part, label {self.done}",
        ]

    def _masked(self, body: Sequence[Line], *, alone: bool, repeats: bool) -> list[str]:
        """Turns of one vector each, for all of the loop or, unless they are `alone`, for what whole vectors left."""
        w, numbers = self.stem, f"<{self.width} x i32>"
        iota = ", ".join(f"i32 {k}" for k in range(self.width))
        first, lack = f"[ {w}.end, {w}.rest ]", [f"{w}.lack = sub i64 {self.stop}, {w}.i"]
        if alone:
            # There may be more than 32 bits hold.
            first = f"[ {self.start}, {w}.before ]"
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
