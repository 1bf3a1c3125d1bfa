"""What happened to a compiled function, and why."""

from __future__ import annotations

from typing import Any

from tracejit.ir.text import print_graph
from tracejit.tools.advice import fix
from tracejit.tools.explanation_page import page
from tracejit.tools.outline import brief, draw, short
from tracejit.tools.table import seconds
from tracejit.trace.account import Note
from tracejit.trace.compiled import region_of
from tracejit.trace.executable import Executable
from tracejit.trace.region import Region
from tracejit.trace.tree import Stop

SECTIONS = (
    ("verification", "verification"),
    ("eager", "runs eagerly"),
    ("kept", "found on disk"),
    ("promotion", "promotions"),
    ("side exit", "side exits"),
    ("resize", "other sizes"),
    ("replan", "layouts"),
    ("cut", "looks at memory"),
    ("compile", "compilations"),
    ("background", "compiled in the background"),
)
"""The kinds of events in the order in which they are told, with their titles."""
SHOWN = 100
"""Lines of the tree that the text shows."""


class Explanation:
    """An account of a compiled function: text by `str`, data by `to_dict`, HTML in a notebook.

    `calls` says how often it ran in which way, `programs` has an entry for each compiled segment. `notes` are the
    traces found on disk, promotions, side exits, looks at memory, eager stretches, compilations and comparisons with
    eager: each with the user's line, the reason, how often, what it cost in seconds, and a fix. `obstacles` is what
    stands between the function and running without Python. Calls "while compiling" are those of the others that
    computed a segment eagerly while another process compiled it, which took `background_seconds` there.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._executables: list[tuple[Stop, Executable]] = region.executables()
        c = region.calls
        self.name = region.name
        self.calls = {
            "cold": c.cold,
            "recorded": c.recorded,
            "followed": c.followed,
            "replayed": c.replayed,
            "eager": c.eager,
            "side exits": c.side_exits,
            "other sizes": c.resized,
            "at open sizes": c.opened,
            "while compiling": c.waited,
        }
        self.total = c.total
        self.programs = [_program(stop, e, region) for stop, e in self._executables if e.obstacle is None]
        self.eager = [f"{stop.line}: {e.obstacle}" for stop, e in self._executables if e.obstacle is not None]
        self.notes = [_entry(n) for n in region.notes]
        self.obstacles = [
            {"line": o.line, "reason": o.reason, "fix": o.fix or fix("obstacle", o.reason)} for o in region.obstacles
        ]
        self.compiles = region.compiles
        self.compile_seconds = region.compile_seconds
        self.background_seconds = region.background_seconds
        self.runs = region.runs

    @property
    def replay(self) -> str:
        """How it stands with running without Python, in one sentence."""
        if self.obstacles:
            return f"{len(self.obstacles)} thing(s) stand between this function and replay"
        if self.calls["replayed"]:
            return f"nothing: {self.calls['replayed']} call(s) were replayed"
        return "mode='follow' does not ask for it" if self._region.mode == "follow" else "not tried yet"

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
        """The trace tree with the user's lines; repeated lines are folded."""
        return draw(self._region.root)

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
        """Everything as plain data, which JSON can hold."""
        return {
            "name": self.name,
            "calls": self.calls,
            "compiles": self.compiles,
            "compile_seconds": self.compile_seconds,
            "background_seconds": self.background_seconds,
            "programs": self.programs,
            "eager": self.eager,
            "notes": self.notes,
            "replay": self.replay,
            "obstacles": self.obstacles,
            "tree": self.tree,
        }

    def __str__(self) -> str:
        ways = ", ".join(f"{v} {k}" for k, v in self.calls.items() if v)
        out = [f"{self.name}: {self.total} calls" + (f": {ways}" if ways else "")]
        out.append(
            f"  {len(self.programs)} program(s), {len(self.kernels)} kernels, {self.launches} launches, compiled in "
            f"{self.compile_seconds:.2f} s ({self.compiles} compilations, {self._region.replans} other layouts)"
        )
        if self.calls["while compiling"]:
            out.append(
                f"  in the background: {self.background_seconds:.2f} s of another process, while "
                f"{self.calls['while compiling']} calls went on eagerly; {len(self._region.waiting)} segment(s) to come"
            )
        for i, p in enumerate(self.programs):
            ends = f"it ends because {p['ends']} ({short(p['line'])})"
            device = "" if p["device"] == "cpu" else f" on {p['device']}"
            out.append(f"program {i}{device}: {p['events']} events from {p['units']}; {ends}")
            out.append(
                f"  {p['launches']} launches in {p['stages']} stages, {p['arena_bytes']} bytes of arena, "
                f"{len(p['kernels'])} kernels, compiled in {seconds(p['compile_seconds'])}"
            )
            for g in p["groups"]:
                where = f"  [{', '.join(map(short, g['lines']))}]" if g["lines"] else ""
                out.append(f"  stage {g['stage']}: {g['kind']} {brief(g['ops'])}{where}")
                if g["block"]:
                    part = f"{g['block']} of {g['parts']} parts"
                    out.append(f"      {part} at a time, while a cache has what the stage before made of them")
                out.extend(f"      not fused: {reason}" for reason in g["cuts"])
        for title, notes in self.sections():
            out.append(f"{title}:")
            for n in notes:
                out.append(f"  {short(n['line'])}: {n['reason']}")
                out.append(f"      {n['cost']}; fix: {n['fix']}")
        out.append("what stands between this function and replay:")
        out.append(f"  {self.replay}")
        for o in self.obstacles:
            out += [f"  {short(o['line'])}: {o['reason']}", f"      fix: {o['fix']}"]
        lines = self.tree.splitlines()
        if lines:
            out.append("tree:")
            out.extend(f"  {line}" for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            out.append(f"  ... {len(lines) - SHOWN} more lines: explain(f).tree")
        if self.kernels:
            out.append("kernels:")
            out.extend(f"  {k['name']}: {k['doc']}" for k in self.kernels)
            out.append("their text: explain(f).kernel(name)")
        return "\n".join(out)

    __repr__ = __str__

    def sections(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """The notes by kind, each with a title; an operation that runs eagerly behind a cut counts as eager."""
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for n in self.notes:
            by_kind.setdefault("eager" if n["eager"] else n["kind"], []).append(n)
        return [(title, by_kind[kind]) for kind, title in SECTIONS if kind in by_kind]

    def _repr_html_(self) -> str:
        return page(self)


def _entry(n: Note) -> dict[str, Any]:
    """A note as plain data, with its cost as text and a fix."""
    cost = "once" if n.count == 1 else f"{n.count} times"
    if n.seconds > 0:
        cost += f", {seconds(n.seconds)}" + (" together" if n.count > 1 else "")
    return {
        "kind": n.kind,
        "line": n.line,
        "reason": n.reason,
        "call": n.call,
        "count": n.count,
        "seconds": n.seconds,
        "eager": n.eager,
        "cost": cost,
        "fix": fix(n.kind, n.reason),
    }


def _program(stop: Stop, e: Executable, region: Region) -> dict[str, Any]:
    events = region.events(stop)
    compiled = e.compiled
    return {
        "events": len(events),
        "device": "cuda:0" if e.gpu else "cpu",
        "units": brief([event.name for event in events]) or "nothing",
        "ends": stop.reason,
        "line": stop.line,
        "launches": compiled.launches,
        "stages": compiled.stages,
        "arena_bytes": compiled.arena_bytes,
        "seconds": dict(getattr(compiled, "seconds", {})),
        "compile_seconds": sum(getattr(compiled, "seconds", {}).values()),
        "groups": [
            {
                "kind": g.kind,
                "ops": list(g.ops),
                "stage": g.stage,
                "lines": list(g.lines),
                "cuts": list(g.cuts),
                "block": g.block,
                "parts": g.parts,
            }
            for g in getattr(compiled, "groups", ())
        ],
        "kernels": [{"name": k.name, "doc": k.doc, "text": k.text, "launches": k.launches} for k in compiled.kernels],
        "graph": "" if e.graph is None else print_graph(e.graph),
    }


def explain(function: Any) -> Explanation:
    """What happened to a compiled function: calls, programs, kernels, its tree, and what cost time, why, and the fix.

    Raises: TypeError for something that `compile` did not make.

    >>> import tracejit as tj
    >>> f = tj.compile(lambda x: x + 1)
    >>> explain(f).calls["cold"]
    0
    """
    return Explanation(region_of(function))
