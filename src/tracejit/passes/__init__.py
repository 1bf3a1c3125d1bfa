"""Passes: graphs that compute the same with less.

In: a graph. Out: a graph with the same inputs and outputs, and a report of what each pass did.
Must not know: how anything is scheduled, generated or run; a pass is a pure function.
"""

from tracejit.passes.pipeline import PASSES, Making, PassRun, Report, run_passes

__all__ = ["PASSES", "Making", "PassRun", "Report", "run_passes"]
