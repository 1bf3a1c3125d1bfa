"""Programs of segments at open sizes: planned once, run for the sizes of each call.

In: the events of an opening. Out: `OpenExecutable`. Must not know: matching, how openings are made.
"""

from __future__ import annotations

from typing import Any

from tracejit.ir import node as ir
from tracejit.ir.graph import Graph
from tracejit.symbols import Size
from tracejit.template import Template
from tracejit.trace.executable import Executable, signed
from tracejit.trace.structure import Built, Structures, make_graph, outline, scalars_of
from tracejit.trace.tree import Derived


class OpenExecutable(Executable):
    """What a segment at open sizes became; `misfit` says that the last run's sizes want another plan."""

    __slots__ = ("misfit", "opening", "template")

    def __init__(self, generation: int, opening: Any) -> None:
        super().__init__(generation)
        self.opening = opening
        self.template: Template | None = None
        self.misfit = False

    def make(self, structures: Structures, *_: Any) -> None:
        """Plan for all sizes.

        Raises: NotImplementedError if that is not possible.
        """
        graph, derived = self._graph()
        template = self.template = Template(graph, self.opening.trail, 0, derived)
        if not template.runs:
            raise NotImplementedError("a kernel takes more operands than can be given to it at once")
        template.build_own()
        compiled = template.launches()
        new = [k.symbol for k in compiled.kernels if k.symbol not in structures.kernels]
        structures.kernels.update(new)
        self.built = Built(compiled, template.outputs, True, new, True)

    def _graph(self) -> tuple[Graph, list[Size]]:
        """The graph, and the numbers that follow from sizes: its last scalars."""
        structure = outline(self.events)
        count = len(scalars_of(self.events, self.ends))
        places: dict[Any, int] = {}
        derived: list[Any] = []
        values = list(structure.free)
        for k, value in enumerate(values):
            if type(value) is Derived:
                place = places.setdefault(value.key, len(places))
                if place == len(derived):
                    derived.append(value.size)
                values[k] = ir.scalar(count + place, value.kind)
        return make_graph(self.events, self.ends, structure, self.name, values), derived

    @property
    def graph(self) -> Graph | None:
        """The graph that the program computes."""
        return self._graph()[0] if self.events else None

    def run_at(self, sizes: list[Any], values: list[Any], numbers: list[Any]) -> list[tuple[int, Any]] | None:
        """Run at the sizes of a call: the arrays of the outputs by slot, or None if nothing was changed."""
        self.misfit = False
        if self.template is None:
            # It leaves nothing but views.
            return []
        moved = self.arrive(values)
        if moved and self.mutated and self.overlap(moved):
            self.last = [None] * len(self.inputs)
            return None
        given = [float(numbers[i]) if kind == "f" else signed(numbers[i]) for i, kind in self.numbers]
        found = self.template.run(sizes[: self.opening.symbols], [values[slot]._array for slot in self.inputs], given)
        self.leave(moved)
        self.misfit = found is None
        if found is None or found[1]:
            return None
        return [(slot, array) for (slot, _, _), array in zip(self.outputs, found[0], strict=False)]

