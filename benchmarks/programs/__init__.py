"""Training steps as PyTorch's users write them, one for each kind of model; the framework is an argument where a
program has an import.

In: PyTorch or tracejit. Out: by name, functions that give the parts with parameters, and a step that gives a loss.
Must not know: how steps are run, compared and timed (`__main__.py`, and the tests of soundness).
"""

from __future__ import annotations

from benchmarks.programs import control, generative, graphs, sequences, vision
from benchmarks.programs.changing import CHANGING
from benchmarks.programs.parts import Program

PROGRAMS: dict[str, Program] = {
    **vision.PROGRAMS,
    **generative.PROGRAMS,
    **sequences.PROGRAMS,
    **graphs.PROGRAMS,
    **control.PROGRAMS,
}

__all__ = ["CHANGING", "PROGRAMS"]
