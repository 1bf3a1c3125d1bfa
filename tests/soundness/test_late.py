"""All programs again, in two ways more: their first call repeated until it is replayed, so that a replay must see what
changes after that; then as in another process, which finds on disk what this one recorded.
"""

from __future__ import annotations

import dataclasses

import pytest

import test_containers
import test_corners
import test_effects
import test_gradients
import test_memory_shared
import test_mixtures
import test_modules
import test_numbers
import test_optimizers
import test_randomness
import test_reads_in_loops
import test_reads_in_training
import test_shapes
import test_values
import test_world
from harness import Program, compare, late

MODULES = (
    test_containers, test_corners, test_effects, test_gradients, test_memory_shared, test_mixtures, test_modules,
    test_numbers, test_optimizers, test_randomness, test_reads_in_loops, test_reads_in_training, test_shapes,
    test_values, test_world,
)  # fmt: skip
PROGRAMS = [
    pytest.param(p, id=p.name, marks=[pytest.mark.xfail(reason=p.known, strict=True)] if p.known else [])
    for module in MODULES
    for p in module.topic.programs.values()
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.usefixtures("kept_trees")
def test_program_that_changes_late_and_from_disk(program: Program) -> None:
    compare(late(program), "auto")
    compare(dataclasses.replace(program, how=""), "auto")
