"""The templates for a GPU: a group becomes the text of a kernel.

In: a group and its plan. Out: `CudaText`s, one for each launch.
Must not know: how they are compiled or run.
"""

from __future__ import annotations

from tracejit.codegen.cuda.columns import combine_columns, write_column
from tracejit.codegen.cuda.library import library_texts
from tracejit.codegen.cuda.loops import write_loop
from tracejit.codegen.cuda.rows import combine_blocks, write_blocks, write_row
from tracejit.codegen.cuda.text import CudaCall, CudaText
from tracejit.schedule.plan import Plan, launches_of
from tracejit.schedule.spaces import BLOCKS, CALL, COLUMN, LOOP, ROW, Group

_NAMED = 3
"""Operations that a kernel's name says at most."""
_KINDS = {LOOP: "Element by element", ROW: "Row by row", BLOCKS: "Blocks of long rows", COLUMN: "Column by column"}


def generate(group: Group, plan: Plan, vectors: bool = True) -> list[list[CudaText | CudaCall]]:
    """The kernels of a group: a list for each of its stages.

    With `vectors`, kernels may promise that buffers begin at multiples of 16 bytes.
    """
    if group.kind == CALL:
        return [[text] for text in library_texts(group.members[0], plan, vectors)]
    group = plan.unfolded(group)
    names = list(dict.fromkeys(v.name for v in group.members if v.op is not None)) or ["copy"]
    stem = "_".join([group.kind, *names[:_NAMED]])
    doc = f"{_KINDS[group.kind]}: {', '.join(v.name for v in group.members)}."
    if group.kind == LOOP:
        return [[write_loop(group, plan, vectors, stem, doc)]]
    if group.kind == ROW:
        return [[write_row(group, plan, vectors, stem, doc)]]
    if group.kind == BLOCKS:
        stages: list[list[CudaText | CudaCall]] = [[write_blocks(group, plan, vectors, stem, doc)]]
        stages.append([combine_blocks(group, plan, v) for v in group.reductions])
        return stages
    stages = [[write_column(group, plan, stem, doc)]]
    if launches_of(group) > 1:
        stages.append([combine_columns(group, plan, v) for v in group.reductions if v in plan.partials])
    return stages
