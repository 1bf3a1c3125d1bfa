"""Programs that eager calls run on arrays.

In: a graph. Out: `ArrayProgram`, a function from arrays to arrays.
Must not know: what the graph was made of.
"""

from __future__ import annotations

import numpy as np

from tracejit.compiler import compile_graph
from tracejit.ir.graph import Graph
from tracejit.runtime.arrays import SMALL_BYTES, empty
from tracejit.runtime.program import LENT
from tracejit.runtime.team import address_of

_BYTE = np.dtype(np.uint8)
NO_NUMBERS = np.zeros(1)


class ArrayProgram:
    """A compiled graph on arrays."""

    __slots__ = ("homes", "results", "run", "run_on", "scratch")

    def __init__(self, graph: Graph) -> None:
        # With memory for intermediate values of its own each unit would hold as much as its operands.
        compiled = compile_graph(graph, LENT)
        self.run, self.run_on = compiled.program.run, compiled.program.run_on
        self.scratch = max(compiled.arena_bytes, SMALL_BYTES) if compiled.arena_bytes else 0
        self.results = [(out.shape, out.dtype.np) for k, out in enumerate(graph.outputs) if k not in graph.homes]
        self.homes = list(graph.homes.values())

    def __call__(
        self, arrays: list[np.ndarray], numbers: np.ndarray = NO_NUMBERS, first: np.ndarray | None = None
    ) -> list[np.ndarray] | None:
        """The outputs that have memory of their own, which are the first, or None if the program refused.

        `first` are the addresses of inputs before `arrays`, if there are any.
        """
        outs = [empty(shape, kind) for shape, kind in self.results]
        written = [*arrays, *outs, *[arrays[k] for k in self.homes]]
        if self.scratch:
            written.append(empty((self.scratch,), _BYTE))
        if first is None:
            return None if self.run_on(numbers, *written) else outs
        pointers = np.concatenate((first, [address_of(a) for a in written]))
        return None if self.run(pointers, numbers) else outs
