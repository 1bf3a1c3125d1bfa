"""What happened to a compiled function, and why."""

from __future__ import annotations

import html
from collections import Counter
from typing import Any

from tracejit.ir.text import print_graph
from tracejit.trace.executable import Executable
from tracejit.trace.region import Region, region_of
from tracejit.trace.tree import Place, Segment, Stop


class Explanation:
    """An account of a compiled function: text by `str`, data by `to_dict`, HTML in a notebook.

    `calls` says how often it ran in which way, `programs` has an entry for each compiled segment, `notes` are the
    promotions, side exits, looks at memory and eager stretches in order.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._executables: list[tuple[Stop, Executable]] = region.executables()
        c = region.calls
        self.calls = {
            "cold": c.cold,
            "recorded": c.recorded,
            "followed": c.followed,
            "eager": c.eager,
            "side exits": c.side_exits,
        }
        self.programs = [_program(stop, e, region) for stop, e in self._executables if e.obstacle is None]
        self.eager = [f"{stop.line}: {e.obstacle}" for stop, e in self._executables if e.obstacle is not None]
        self.notes = [
            {"kind": n.kind, "line": n.line, "reason": n.reason, "call": n.call, "seconds": n.seconds}
            for n in region.notes
        ]
        self.compiles = region.compiles
        self.compile_seconds = region.compile_seconds
        self.runs = region.runs

    @property
    def kernels(self) -> list[dict[str, Any]]:
        """The distinct kernels of all programs: name, what they compute, text."""
        found: dict[str, dict[str, Any]] = {}
        for p in self.programs:
            for k in p["kernels"]:
                found.setdefault(k["name"], k)
        return list(found.values())

    @property
    def launches(self) -> int:
        """Kernel launches of all programs together."""
        return sum(p["launches"] for p in self.programs)

    @property
    def tree(self) -> str:
        """The trace tree with the user's lines."""
        lines: list[str] = []
        _draw(self._region.root, lines, "")
        return "\n".join(lines)

    def kernel(self, name: str) -> str:
        """The text of the kernel whose name begins so.

        Raises: KeyError if there is none.
        """
        for k in self.kernels:
            if k["name"].startswith(name):
                return str(k["text"])
        raise KeyError(f"no kernel is named '{name}'; there are {[k['name'] for k in self.kernels]}")

    def graph(self, program: int = 0) -> str:
        """The graph of a program as Python."""
        return str(self.programs[program]["graph"])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "name": self._region.name,
            "calls": self.calls,
            "compiles": self.compiles,
            "compile_seconds": self.compile_seconds,
            "programs": self.programs,
            "eager": self.eager,
            "notes": self.notes,
            "tree": self.tree,
        }

    def __str__(self) -> str:
        out = [f"{self._region.name}: " + ", ".join(f"{v} {k}" for k, v in self.calls.items() if v)]
        out.append(
            f"  {len(self.programs)} program(s), {len(self.kernels)} kernels, {self.launches} launches, compiled in "
            f"{self.compile_seconds:.2f} s ({self.compiles} compilations)"
        )
        for i, p in enumerate(self.programs):
            ends = f"it ends because {p['ends']} ({p['line']})"
            out.append(f"program {i}: {p['events']} events from {p['units']}; {ends}")
            out.append(
                f"  {p['launches']} launches in {p['stages']} stages, {p['arena_bytes']} bytes of arena, "
                f"{len(p['kernels'])} kernels"
            )
            for g in p["groups"]:
                where = f"  [{', '.join(g['lines'])}]" if g["lines"] else ""
                out.append(f"  stage {g['stage']}: {g['kind']} {_brief(g['ops'])}{where}")
                out.extend(f"      not fused: {reason}" for reason in g["cuts"])
        if self.eager:
            out.append("runs eagerly:")
            out.extend(f"  {reason}" for reason in self.eager)
        for kind, title in (("promotion", "promotions"), ("side exit", "side exits"), ("cut", "looks at memory")):
            found = Counter(f"{n['line']}: {n['reason']}" for n in self.notes if n["kind"] == kind)
            if found:
                out.append(f"{title}:")
                out.extend(f"  {count}x {text}" if count > 1 else f"  {text}" for text, count in found.items())
        if self.kernels:
            out.append("kernels:")
            out.extend(f"  {k['name']}: {k['doc']}" for k in self.kernels)
            out.append("their text: explain(f).kernel(name)")
        return "\n".join(out)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = [f"<pre>{html.escape(str(self))}</pre>"]
        for k in self.kernels:
            parts.append(
                f"<details><summary><code>{html.escape(k['name'])}</code> {html.escape(k['doc'])}</summary>"
                f"<pre>{html.escape(k['text'])}</pre></details>"
            )
        return "".join(parts)


def _brief(ops: list[str]) -> str:
    counts = Counter(ops)
    return ", ".join(name if n == 1 else f"{name} x{n}" for name, n in counts.items())


def _program(stop: Stop, e: Executable, region: Region) -> dict[str, Any]:
    events = region.events(stop)
    compiled = e.compiled
    return {
        "events": len(events),
        "units": _brief([event.name for event in events]) or "nothing",
        "ends": stop.reason,
        "line": stop.line,
        "launches": compiled.launches,
        "stages": compiled.stages,
        "arena_bytes": compiled.arena_bytes,
        "seconds": dict(getattr(compiled, "seconds", {})),
        "groups": [
            {"kind": g.kind, "ops": list(g.ops), "stage": g.stage, "lines": list(g.lines), "cuts": list(g.cuts)}
            for g in getattr(compiled, "groups", ())
        ],
        "kernels": [{"name": k.name, "doc": k.doc, "text": k.text, "launches": k.launches} for k in compiled.kernels],
        "graph": "" if e.graph is None else print_graph(e.graph),
    }


def _draw(segment: Segment, lines: list[str], indent: str) -> None:
    """Write the events of a segment and of what follows it."""
    todo: list[tuple[Place, str]] = [(segment.root, indent)]
    while todo:
        place, margin = todo.pop()
        while True:
            if place.end is not None:
                lines.append(f"{margin}end")
            if place.cut is not None:
                lines.append(f"{margin}cut: {place.cut.reason} ({place.cut.line})")
                assert place.cut.next is not None
                todo.append((place.cut.next.root, margin))
            if not place.events:
                break
            first, *others = place.events
            for other in reversed(others):
                todo.append((other.next, margin + "| "))
                lines.append(f"{margin}or: {other.kind} {other.name} ({other.line})")
            lines.append(f"{margin}{first.kind} {first.name} ({first.line})")
            place = first.next


def explain(function: Any) -> Explanation:
    """What happened to a compiled function: calls, programs, fused groups, kernels, and why anything ran eagerly.

    Raises: TypeError for something that `compile` did not make.

    >>> import tracejit as tj
    >>> f = tj.compile(lambda x: x + 1)
    >>> explain(f).calls["cold"]
    0
    """
    return Explanation(region_of(function))
