"""The benchmark's table, losing cases first, and the comparison with an earlier run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracejit.tools import table

Result = Mapping[str, Any]
NOISE = 0.05
PEERS = ("torch", "torch-compile", "jax")
HEADER = (
    "vs best peer",
    "target",
    "of floor",
    "MiB / torch",
    "cold",
    "warm",
    "kernels",
    "launches",
    "break-even",
)


def _ours(frameworks: Result) -> Result:
    found: Result = frameworks.get("compiled") or frameworks.get("eager") or {}
    return found


def ratio(frameworks: Result) -> float | None:
    """How many times faster tracejit is than the best peer that ran; None without a peer.

    >>> ratio({"compiled": {"median": 1.0}, "torch": {"median": 3.0}, "jax": {"median": 2.0}})
    2.0
    """
    ours = _ours(frameworks)
    peers = [frameworks[name]["median"] for name in PEERS if "median" in frameworks.get(name, {})]
    if "median" not in ours or not peers:
        return None
    return float(min(peers) / ours["median"])


def _cell(found: Result | None) -> str:
    if found is None:
        return "-"
    if "median" not in found:
        return "failed"
    spread = (found["high"] - found["low"]) / (2 * found["median"])
    return f"{table.seconds(found['median'])} ±{spread:.0%}"


def of_floor(workload: Result) -> float | None:
    """How near the steps come to the floor, each round beside what the machine could do in it: the median of rounds.

    >>> of_floor({"frameworks": {"compiled": {"rounds": [2.0, 5.0, 4.0]}}, "floors": [1.0, 4.0, 1.0]})
    0.5
    """
    rounds, floors = _ours(workload["frameworks"]).get("rounds", ()), workload.get("floors", ())
    shares = [floor / spent for floor, spent in zip(floors, rounds, strict=False)]
    return statistics.median(shares) if shares else None


def _target(workload: Result) -> str:
    """How many times faster than the best peer the workload is to be, and whether it is."""
    times, wanted = ratio(workload["frameworks"]), workload.get("target")
    if wanted is None or times is None:
        return "-"
    return f"{wanted:g}x {'met' if times >= wanted else 'missed'}"


def _memory(frameworks: Result) -> str:
    """The memory of compiled steps beside PyTorch's."""
    ours, theirs = (frameworks.get(name, {}).get("step_mib") for name in ("compiled", "torch"))
    return "-" if ours is None or theirs is None else f"{ours:.0f} / {theirs:.0f}"


def _row(name: str, workload: Result, columns: list[str]) -> list[str]:
    frameworks = workload["frameworks"]
    times = ratio(frameworks)
    compiled = frameworks.get("compiled", {})
    even, share = compiled.get("break_even"), of_floor(workload)
    return [
        name,
        *(_cell(frameworks.get(column)) for column in columns),
        "-" if times is None else f"{times:.2f}x",
        _target(workload),
        "-" if share is None else f"{share:.0%}",
        _memory(frameworks),
        *(table.seconds(compiled[key]) if key in compiled else "-" for key in ("cold", "warm")),
        *(str(compiled[key]) if key in compiled else "-" for key in ("kernels", "launches")),
        "-" if "break_even" not in compiled else "never" if even is None else str(even),
    ]


def line(name: str, workload: Result) -> str:
    """A workload in few words, for who watches a run; a run that is stopped has said what it found.

    >>> line("sum", {"frameworks": {"compiled": {"median": 1e-3}, "torch": {"median": 3e-3}}, "target": 2.0})
    'sum: compiled 1 ms, torch 3 ms; 3.00x, 2x met'
    """
    frameworks = workload["frameworks"]
    shown = ", ".join(f"{f} {table.seconds(found['median'])}" for f, found in frameworks.items() if "median" in found)
    times, target = ratio(frameworks), _target(workload)
    return f"{name}: {shown}" + ("" if times is None else f"; {times:.2f}x") + ("" if target == "-" else f", {target}")


def rows(result: Result) -> tuple[list[str], list[list[str]]]:
    """The table's header and its rows, sorted so that what tracejit loses stands on top."""
    workloads = result["workloads"]
    columns = [f for f in ("eager", "compiled", *PEERS) if any(f in w["frameworks"] for w in workloads.values())]
    return ["workload", *columns, *HEADER], [_row(name, workloads[name], columns) for name in _order(result)]


def _order(result: Result) -> list[str]:
    workloads = result["workloads"]
    return sorted(workloads, key=lambda name: ratio(workloads[name]["frameworks"]) or float("inf"))


def head(result: Result) -> list[str]:
    """What the table's figures belong to: the machine, the versions, what it can do at best, and what is slower."""
    losing = [name for name in _order(result) if (ratio(result["workloads"][name]["frameworks"]) or 1) < 1]
    return [
        f"{result['machine']['processor']}, {result['threads']} threads, median of {result['rounds']} rounds "
        f"± half the interquartile range; {', '.join(f'{k} {v}' for k, v in result['versions'].items())}",
        f"slower than a peer: {', '.join(losing) or 'none'}",
        *([_rates(result["rates"])] if "rates" in result else []),
        *_moments([rates for workload in result["workloads"].values() for rates in workload.get("rates", ())]),
    ]


def text(result: Result) -> str:
    """The table with what it belongs to, and below it what differs or failed."""
    found = problems(result)
    return "\n".join([*head(result), "", table.render(*rows(result)), *(["", *found] if found else [])])


def _rates(rates: Mapping[str, float]) -> str:
    return (
        f"the machine's best: {rates['gflops']:.0f} GFLOP/s; copy {rates['copy_4M']:.0f} and triad "
        f"{rates['triad_4M']:.0f} GB/s (16 MiB arrays), {rates['copy_32M']:.0f} and {rates['triad_32M']:.0f} GB/s "
        "(128 MiB arrays)"
    )


def _moments(moments: Sequence[Mapping[str, float]]) -> list[str]:
    """Between what the machine's rates were in the rounds."""
    if not moments:
        return []
    low, high = ({name: pick(m[name] for m in moments) for name in moments[0]} for pick in (min, max))
    return [
        f"during the rounds: {low['gflops']:.0f} to {high['gflops']:.0f} GFLOP/s, copies {low['copy']:.0f} to "
        f"{high['copy']:.0f}, triads {low['triad']:.0f} to {high['triad']:.0f} GB/s (128 MiB arrays)"
    ]


def problems(result: Result) -> list[str]:
    """One line for each framework that failed or whose results differ."""
    return [
        f"{name}: {framework} {what}: {found[key]}"
        for name, workload in result["workloads"].items()
        for framework, found in workload["frameworks"].items()
        for key, what in (("error", "failed"), ("differs", "differs"))
        if found.get(key)
    ]


def wrong(result: Result) -> bool:
    """Whether tracejit itself failed, or compiled is not eager bit for bit, or a peer that ran computes otherwise."""
    return any(
        found.get("differs") or (framework in ("eager", "compiled") and found.get("error"))
        for workload in result["workloads"].values()
        for framework, found in workload["frameworks"].items()
    )


def _changes(now: Result, before: Result) -> Iterator[tuple[str, str, float, float, str]]:
    for name, workload in now["workloads"].items():
        for framework in ("eager", "compiled"):
            new = workload["frameworks"].get(framework, {})
            old = before["workloads"].get(name, {}).get("frameworks", {}).get(framework, {})
            if "median" not in new or "median" not in old:
                continue
            change = new["median"] / old["median"] - 1
            apart = new["low"] > old["high"] or new["high"] < old["low"]
            verdict = "same" if not apart or abs(change) <= NOISE else "slower" if change > 0 else "faster"
            yield name, framework, old["median"], new["median"], verdict


def comparison(now: Result, before: Result) -> tuple[str, bool]:
    """A table of what changed since an earlier run, and whether anything got slower.

    A change counts when the ranges between the quartiles do not meet and the medians are more than 5 % apart.
    """
    rows = list(_changes(now, before))
    shown = [
        [name, framework, table.seconds(old), table.seconds(new), f"{new / old - 1:+.1%}", verdict]
        for name, framework, old, new, verdict in rows
    ]
    body = table.render(["workload", "", "before", "now", "change", "verdict"], shown, left=2)
    return body, any(verdict == "slower" for *_, verdict in rows)
