"""The demo's table and its plot."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from tracejit.tools import table, timing
from tracejit.tools.demo.training import Run, same_bits

HEADER = (
    "model",
    "eager",
    "compiled",
    "speedup",
    "cold compile",
    "break-even",
    "kernels",
    "launches",
    "accuracy eager",
    "compiled",
    "curves equal",
)


def row(name: str, eager: Run, compiled: Run) -> list[str]:
    """One model's line of the table."""
    even = timing.break_even(eager.step_seconds, eager.cold_seconds, compiled.step_seconds, compiled.cold_seconds)
    return [
        name,
        f"{eager.step_seconds * 1e3:.3f} ms",
        f"{compiled.step_seconds * 1e3:.3f} ms",
        f"{eager.step_seconds / compiled.step_seconds:.2f}x",
        f"{compiled.cold_seconds:.2f} s",
        "never" if even is None else f"step {even}",
        str(compiled.counts["kernels"]),
        str(compiled.counts["launches"]),
        f"{eager.accuracy:.2%}",
        f"{compiled.accuracy:.2%}",
        "yes" if same_bits(eager, compiled) else "NO",
    ]


def text(runs: dict[str, tuple[Run, Run]]) -> str:
    """The whole table."""
    return table.render(HEADER, [row(name, *pair) for name, pair in runs.items()])


def plot(runs: dict[str, tuple[Run, Run]], path: Path) -> None:
    """Both loss curves of each model, above the time that each step took, as a picture file."""
    figure = Figure(figsize=(4.5 * len(runs), 6.5), layout="tight")
    axes = figure.subplots(2, len(runs), squeeze=False)
    for column, (name, (eager, compiled)) in enumerate(runs.items()):
        losses, times = axes[0][column], axes[1][column]
        losses.plot(eager.losses, color="tab:orange", linewidth=3, label="eager")
        losses.plot(compiled.losses, color="tab:blue", linewidth=1, label="compiled")
        equal = "equal bit for bit" if same_bits(eager, compiled) else "NOT EQUAL"
        losses.set(title=f"{name}: {equal}", xlabel="step", ylabel="loss", yscale="log")
        losses.legend()
        times.plot([s * 1e3 for s in eager.seconds], color="tab:orange", linewidth=0.8, label="eager")
        times.plot([s * 1e3 for s in compiled.seconds], color="tab:blue", linewidth=0.8, label="compiled")
        times.set(xlabel="step", ylabel="ms", yscale="log")
        times.legend()
    figure.savefig(path, dpi=110)
