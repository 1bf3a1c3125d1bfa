"""The HTML page of an explanation, as notebooks show it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from tracejit.tools.outline import short
from tracejit.tools.table import seconds


def _cell(value: Any, tag: str = "td") -> str:
    return f'<{tag} style="text-align:left">{html.escape(str(value))}</{tag}>'


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(_cell(h, "th") for h in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


def _text(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def page(told: Any) -> str:
    """The account of a compiled function: tables of calls, events, programs; the tree and kernels folded away."""
    parts = [
        f"<h4>{html.escape(told.name)}: {told.total} calls</h4>",
        _table(list(told.calls), [list(told.calls.values())]),
    ]
    for title, notes in told.sections():
        events = [(short(n["line"]), n["reason"], n["count"], n["cost"], n["fix"]) for n in notes]
        parts.append(f"<h5>{html.escape(title)}</h5>")
        parts.append(_table(("line", "reason", "count", "cost", "fix"), events))
    parts.append(f"<h5>what stands between this function and replay</h5><p>{html.escape(told.replay)}</p>")
    if told.obstacles:
        obstacles = [(short(o["line"]), o["reason"], o["fix"]) for o in told.obstacles]
        parts.append(_table(("line", "reason", "fix"), obstacles))
    parts += ["<h5>programs</h5>", _table(_PROGRAM, [_program(i, p) for i, p in enumerate(told.programs)])]
    for i, p in enumerate(told.programs):
        parts.append(_folded(f"groups of program {i}", _table(_GROUP, map(_group, p["groups"]))))
    parts.append(_folded("tree", _text(told.tree)))
    for k in told.kernels:
        parts.append(_folded(f"<code>{html.escape(k['name'])}</code> {html.escape(k['doc'])}", _text(k["text"])))
    return "".join(parts)


_PROGRAM = ("program", "events", "launches", "stages", "kernels", "arena bytes", "compiled in", "ends because")
_GROUP = ("stage", "kind", "operations", "lines", "not fused")


def _program(index: int, p: dict[str, Any]) -> tuple[Any, ...]:
    ends = f"{p['ends']} ({short(p['line'])})"
    kernels, took = len(p["kernels"]), seconds(p["compile_seconds"])
    return index, p["units"], p["launches"], p["stages"], kernels, p["arena_bytes"], took, ends


def _group(g: dict[str, Any]) -> tuple[Any, ...]:
    return g["stage"], g["kind"], ", ".join(g["ops"]), ", ".join(map(short, g["lines"])), "; ".join(g["cuts"])
