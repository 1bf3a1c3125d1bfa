"""Running events for real: what a follower does with what it has matched when its call leaves the tree.

In: a follower. Out: values in the tensors that Python holds, and a recorder that stands behind its last event.
Must not know: matching, programs.
"""

from __future__ import annotations

from typing import Any

from tracejit.tensor.autograd import run_backward
from tracejit.tensor.casting import uncast
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Tensor, set_requires_grad
from tracejit.trace.backward import arguments_of, take_views
from tracejit.trace.closing import close
from tracejit.trace.crossing import explore, put_back, put_numbers
from tracejit.trace.recorder import Recorder
from tracejit.trace.structure import computes_on_gpu
from tracejit.trace.tree import Event, path, rebuild


def materialise(follower: Any) -> Recorder:
    """Run the matched events eagerly, in order, into the tensors that Python already has.

    Returns a recorder that stands at this place of the tree and knows the same slots.
    """
    close(follower)
    recorder = Recorder(follower.region, follower.place.segment.root)
    values = follower.values
    events = path(follower.last)
    for t, node, requires_grad in reversed(follower.rebased):
        t._node, t._requires_grad = node, requires_grad
    for back in reversed(follower.released):
        back()
    owed = {slot: values[slot] for slot in follower.owed}
    grads = {id(values[leaf]): (values[leaf], values[leaf]._grad) for e in events for leaf, _, _ in e.leaves}
    generators: dict[int, tuple[Any, Any]] = {}
    for event in events:
        for draw in event.draws:
            generators.setdefault(id(draw[0]), (draw[0], (draw[0].seed_, draw[0].offset)))
    mode = state.grad_enabled
    state.session = recorder
    recorder.replaying = True
    try:
        for event in events:
            state.grad_enabled = event.grad
            try:
                repeat(follower, event, recorder, owed)
            except Exception as e:
                e.add_note(f"raised by {event.name}, called at {event.line} in a compiled region")
                undone = events[events.index(event) :]
                _undo_gradients(follower, undone)
                grads.clear()
                for behind, generator, position in reversed(follower.drawn):
                    if behind in undone:
                        generators[id(generator)] = generator, position
                raise
    finally:
        state.grad_enabled = mode
        recorder.replaying = False
        for leaf, grad in grads.values():
            leaf._grad = grad
        for generator, position in generators.values():
            generator.seed_, generator.offset = position
        state.session = follower
    recorder.place = follower.place
    recorder.last = follower.last
    recorder.gpu = computes_on_gpu(events) if events else None
    return recorder


def _undo_gradients(follower: Any, events: list[Event]) -> None:
    """After an exception: the backward passes from there on have not happened."""
    values = follower.values
    for event in reversed(events):
        for leaf, before, _ in event.leaves:
            values[leaf]._grad = None if before is None else values[before]


@uncast
def repeat(follower: Any, event: Event, recorder: Any, owed: dict[int, Any]) -> None:
    """Run one event for real; what it makes goes into the tensors that Python holds."""
    values = follower.values
    tensors = [values[slot] for slot in event.operands]
    numbers = [Scalar(follower.numbers[n.index], n) for n in event.numbers]
    if event.draws:
        generator, seed, offset, _ = event.draws[0]
        generator.seed_, generator.offset = follower.numbers[seed.index], follower.numbers[offset.index]
    for leaf, before, _ in event.leaves:
        values[leaf]._grad = None if before is None else values[before]
    out: Any
    made: list[Any] = []
    unit = recorder.open(event, tensors)
    if event.kind == "op":
        left, right = iter(tensors), iter(numbers)
        args = [
            next(left) if k is Tensor else next(right) if k in ("f", "i") and type(k) is str else k
            for k in event.key[1]
        ]
        out = recorder.step(unit, event.function, tuple(args), event.key[0])
        made = list(out) if type(out) is tuple else [out]
    elif event.kind == "detach":
        made = [recorder.detach(tensors[0])]
    elif event.kind == "assign":
        recorder.assign(tensors[0], tensors[1])
    elif event.kind == "require":
        set_requires_grad(tensors[0], True)
    elif event.kind == "composite":
        out = event.function.function(
            *rebuild(event.layout[0], tensors, numbers), **rebuild(event.layout[1], tensors, numbers)
        )
        _collect(out, made)
    else:
        call: Any = arguments_of(event.key, tensors)
        stand_ins: list[Any] = []
        if event.crossing is not None:
            found = explore(follower.crossed[event], call[4], call[3])
            take_views(recorder, found, unit)
            stand_ins = put_numbers(found, numbers)
        try:
            _collect(run_backward(*call), made)
        finally:
            put_back(stand_ins)
            recorder.stands = {}
        made += [
            values[leaf]._grad for leaf, before, after in event.leaves if after is not None and after != before
        ]
    recorder.close(event)
    for result, t in zip(event.results, made, strict=True):
        held = owed.get(result.slot)
        if held is None or held is t:
            continue
        if held._array is None:
            _transplant(t, held)
        recorder.name(held, result.slot)
    for leaf, before, after in event.leaves:
        if after is not None and after != before:
            values[leaf]._grad = values[after]


def _collect(out: Any, made: list[Any]) -> None:
    if isinstance(out, Tensor):
        made.append(out)
    elif isinstance(out, (list, tuple)):
        for o in out:
            _collect(o, made)


def _transplant(source: Tensor, target: Tensor) -> None:
    """Let the tensor that Python holds be the one that was computed."""
    target._array = source._array
    target._cell = source._share()
    if source._node is not None:
        target._index = source._index
    target._node = source._node
    target._requires_grad = source._requires_grad
    target._base = source._base
    if source._base is not None:
        target._view, target._seen = source._view, source._seen
