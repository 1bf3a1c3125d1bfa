"""A whole training step as GPU kernels: forward, loss, backward and optimizer, with the bits of its operations."""

from __future__ import annotations

import numpy as np

import tracejit as tj
from tests.cuda.running import check
from tracejit import nn, optim
from tracejit.ir.graph import Graph
from tracejit.nn import functional
from tracejit.trace.compiled import region_of

CLASSES = 5


def _graph_of_a_step() -> Graph:
    tj.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.LayerNorm(24), nn.GELU(), nn.Linear(24, CLASSES))
    optimizer = optim.Adam(model.parameters(), lr=1e-2)

    @tj.compile
    def step(x: tj.Tensor, y: tj.Tensor) -> tj.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = tj.randn(17, 12), tj.randint(0, CLASSES, (17,))
    for _ in range(4):
        step(x, y)
    ((_, executable),) = region_of(step).executables()
    graph: Graph = executable.compiled.source()
    return graph


def test_a_training_step_needs_nothing_of_the_cpu() -> None:
    graph = _graph_of_a_step()
    rng = np.random.default_rng(1)
    arrays = []
    for node in graph.inputs:
        kind = node.dtype.np
        if kind.kind == "f":
            # Second moments among them, which are not negative.
            arrays.append(np.abs(rng.standard_normal(node.shape)).astype(kind))
        else:
            arrays.append(rng.integers(0, CLASSES, node.shape).astype(kind))
    scalars = tuple(0.5 if kind == "f" else 3 for kind in graph.scalars)
    execution = check(graph, arrays, scalars)
    assert execution.kernels
    batched = check(graph, arrays, scalars, together=True)
    # The updates of six parameters are two kernels or three, with and without what is new in a gradient.
    assert len(batched.kernels) <= len(execution.kernels) - 3
    families = {kernel.doc.split(":")[0] for kernel in execution.kernels}
    assert families >= {"Element by element", "Row by row", "Column by column", "Library"}
