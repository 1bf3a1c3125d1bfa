"""Trees on disk: another process follows what this one recorded, and is not misled by what does not fit."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import tracejit as tj
from programs import programs
from test_random_programs import bits, compare
from tracejit import nn, optim
from tracejit.ops import ops
from tracejit.runtime.cache import TREE
from tracejit.trace import kept
from tracejit.trace.compiled import region_of
from tracejit.trace.region import Region
from tracejit.trace.replay import proof

SCRIPT = '''
import sys
import tracejit as tj

tj.manual_seed(3)
model = tj.nn.Sequential(tj.nn.Linear(5, 8), tj.nn.Dropout(0.2), tj.nn.Tanh(), tj.nn.Linear(8, 2))
opt = tj.optim.{optimizer}


@tj.compile
def step(x, y):
    opt.zero_grad()
    loss = tj.nn.functional.mse_loss(model(x), y)
    loss.backward()
    opt.step()
    return loss


for _ in range(9):
    print(step(tj.randn(4, 5), tj.randn(4, 2)).item().hex())
print([p.sum().item().hex() for p in model.parameters()])
c = step._region.calls
print(c.cold, c.recorded, c.side_exits, c.followed, c.replayed, file=sys.stderr)
'''


def run(script: Path, folder: Path) -> tuple[str, list[int]]:
    """What a script prints in a process of its own, and how its calls were made."""
    environment = {**os.environ, "TRACEJIT_TREES": "1", "TRACEJIT_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout, [int(n) for n in done.stderr.split()]


@pytest.mark.parametrize(
    ("optimizer", "first"), [("Adam(model.parameters())", True), ("SGD(model.parameters(), 0.1, momentum=0.9)", False)]
)
def test_another_process_follows_at_once(tmp_path, optimizer, first):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(optimizer=optimizer), encoding="utf-8")
    printed, calls = run(script, tmp_path / "cache")
    assert calls[:3] == [1, 1, 0]
    again, calls = run(script, tmp_path / "cache")
    assert again == printed
    # Momentum begins in the first step: that is as it is without a tree, and nothing of it is recorded.
    assert calls[:3] == [0, 0, 0 if first else 1]
    assert calls[4] >= 5
    assert run(script, tmp_path / "cache")[1] == calls
    # Other text is another program, even if it is the same but for a comment.
    script.write_text("# changed\n" + script.read_text(encoding="utf-8"), encoding="utf-8")
    changed, calls = run(script, tmp_path / "cache")
    assert changed == printed
    assert calls[:3] == [1, 1, 0]


def calls_of(function: Any, *arguments: Any, times: int = 8) -> tuple[list[Any], Region]:
    """What a function gives in a region of its own, as in another process."""
    compiled = tj.compile(function)
    return [bits(compiled(*arguments)) for _ in range(times)], region_of(compiled)


def compiled_again(function: Any, *arguments: Any) -> Any:
    """A compiled function after its first call, for which there is a tree."""
    compiled = tj.compile(function)
    compiled(*arguments)
    return compiled


def trees(folder: Path) -> list[Path]:
    """The trees that are on disk."""
    return sorted(folder.glob(f"*/*.{TREE}"))


def test_a_tree_is_taken_once_it_is_there(kept_trees):
    def f(x):
        return (x.exp() + 1).sum()

    x = tj.arange(6.0)
    before, region = calls_of(f, x)
    assert (region.calls.cold, region.calls.recorded) == (1, 1)
    assert len(trees(kept_trees)) == 1
    after, region = calls_of(f, x)
    assert after == before
    assert (region.calls.cold, region.calls.recorded, region.calls.side_exits) == (0, 0, 0)
    assert region.compiles == 1
    assert region.calls.replayed >= 5
    assert "found on disk" in str(tj.explain(compiled_again(f, x)))
    # Other shapes are other programs.
    _, region = calls_of(f, tj.arange(7.0))
    assert region.calls.cold == 1
    assert len(trees(kept_trees)) == 2


def test_what_moves_is_kept(kept_trees):
    def f(x, i):
        x[i] = x[i + 1] * 2
        return x[i : i + 2].sum(0)

    def rows(compiled):
        x = tj.arange(21.0).reshape(7, 3) * 1
        return [bits((compiled(x, 3 * k % 5), x)) for k in range(30)]

    expected = rows(f)
    for found in (False, True, True):
        compiled = tj.compile(f)
        assert rows(compiled) == expected
        calls = region_of(compiled).calls
        assert (calls.cold == 0) is found
        assert (calls.side_exits, calls.resized) == (0, 0)
        assert calls.replayed >= 10


def test_a_program_is_explained_as_it_was_when_its_numbers_are_not_what_they_were(kept_trees):
    def f(x, p):
        return x * p

    x = tj.arange(6.0)
    regions = [calls_of(f, x, 0.3)[1] for _ in range(2)]
    for region in regions:
        ((_, executable),) = region.executables()
        for number in [a for event in executable.events for a in event.numbers]:
            number.fix(0.3)
        assert executable.compiled.graph.scalars == ("f",)
        assert [g.ops for g in executable.compiled.groups] == [("mul",)]


def test_what_a_program_was_can_still_be_explained(kept_trees):
    def f(x):
        y = (x * 2).tanh()
        if y.sum() > 0:
            y = y + 1
        return y

    x = tj.arange(6.0)
    _, first = calls_of(f, x)
    _, second = calls_of(f, x)
    for region in (first, second):
        assert [n.kind for n in region.notes if n.kind == "cut"] == ["cut"]
    kernels = [
        sorted(k.name for _, e in region.executables() for k in e.compiled.kernels) for region in (first, second)
    ]
    assert kernels[0] == kernels[1]
    for (_, a), (_, b) in zip(first.executables(), second.executables(), strict=True):
        assert [g.ops for g in a.compiled.groups] == [g.ops for g in b.compiled.groups]
    cuts = [[n.count for n in region.notes if n.kind == "cut"] for region in (first, second)]
    # The second region followed its first call, too.
    assert cuts == [[7], [8]]


def test_a_tree_that_does_not_fit_costs_nothing_but_time(kept_trees):
    box = [2]

    def f(x):
        # Numbers do not count in a fingerprint, so all of these are taken for one function.
        for _ in range(box[0]):
            x = x * 1.5 + 1
        return x

    x = tj.arange(4.0)
    for n in (2, 3, 1, 3, 2):
        box[0] = n
        expected = bits(f(x))
        values, region = calls_of(f, x)
        assert values == [expected] * 8
        assert region.calls.cold + region.calls.side_exits <= 2
    assert len(trees(kept_trees)) == 1


def test_the_first_call_is_not_recorded_where_it_does_not_fit(kept_trees):
    made: list[Any] = []

    def f(x):
        if not made:
            made.append(tj.ones(3) * x.sum())
        return x * made[0]

    x = tj.arange(3.0)
    _, region = calls_of(f, x)
    events = region.recorded_events
    made.clear()
    _, region = calls_of(f, x)
    assert region.calls.side_exits == 1
    assert region.calls.recorded == 0
    assert region.recorded_events == events


def test_branches_that_no_call_met_are_not_put_back(kept_trees):
    box = [1]

    def f(x):
        return x + 1 if box[0] == 1 else x * 2 if box[0] == 2 else x - 3

    x = tj.arange(3.0)
    calls_of(f, x)
    for n in (2, 3):
        box[0] = n
        _, region = calls_of(f, x)
        assert region.recorded_events == 2
    _, region = calls_of(f, x)
    assert region.recorded_events == 1


def test_segments_of_both_arms_keep_their_numbers(kept_trees):
    def f(x):
        y = x.exp() if x.sum() > 0 else x.cos()
        return y * 2 if y.sum() > 1 else y

    def numbers(region: Region) -> list[int]:
        found, todo = [], [region.root]
        while todo:
            segment = todo.pop()
            found.append(segment.number)
            places = [segment.root]
            for place in places:
                places += [e.next for e in place.events]
                if place.cut is not None:
                    todo.append(place.cut.next)
        return sorted(found)

    compiled = tj.compile(f)
    given = [tj.arange(3.0) * s for s in (1.0, -1.0)]
    for _ in range(8):
        for x in given:
            assert bits(compiled(x)) == bits(f(x))
    again = tj.compile(f)
    for x in given:
        assert bits(again(x)) == bits(f(x))
    assert region_of(again).calls.recorded == 0
    assert numbers(region_of(again)) == numbers(region_of(compiled))


def test_exceptions_of_the_first_call(kept_trees):
    def f(x, i):
        return x[i] + x.sum()

    x = tj.arange(3.0)
    calls_of(f, x, 1)
    compiled = tj.compile(f)
    with pytest.raises(IndexError):
        compiled(x, 5)
    assert bits(compiled(x, 1)) == bits(f(x, 1))
    assert not region_of(compiled).keeper.trying


def training(rate: float) -> Any:
    tj.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    opt = optim.AdamW(model.parameters(), lr=rate)
    scheduler = optim.lr_scheduler.StepLR(opt, 3)

    def step(x):
        opt.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        opt.step()
        scheduler.step()
        return loss

    return step


def losses(function: Any) -> list[Any]:
    x = tj.from_numpy(np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4))
    return [bits(function(x)) for _ in range(12)]


def test_a_proof_knows_which_numbers_change(kept_trees, monkeypatch):
    rounds: list[int] = []
    machine = proof.Machine

    def counted(*args: Any) -> Any:
        rounds.append(1)
        return machine(*args)

    monkeypatch.setattr(proof, "Machine", counted)
    expected = losses(training(0.1))
    seen = []
    for _ in range(2):
        rounds.clear()
        compiled = tj.compile(training(0.1))
        assert losses(compiled) == expected
        assert region_of(compiled).calls.replayed > 0
        seen.append(len(rounds))
    assert seen[1] < seen[0]


def test_hints_that_mislead_are_forgotten(kept_trees):
    def make(decides: bool) -> Any:
        world = {"step": 0}

        def f(x):
            if decides:
                return x * 2 if world["step"] == 0 else x
            world["step"] += 1
            return x * world["step"]

        return f

    x = tj.arange(3.0)
    values = []
    for decides in (False, True, False):
        f, g = make(decides), make(decides)
        compiled = tj.compile(g)
        for _ in range(9):
            assert bits(compiled(x)) == bits(f(x))
        values.append(region_of(compiled).calls.replayed)
    assert all(n > 0 for n in values)


class Own(NamedTuple):
    """A class of the program's."""

    x: Any


@pytest.mark.parametrize("value", [tj.Generator(), tj.ones(1), lambda x: x, Own, Own(1), os.getenv])
def test_what_another_process_cannot_have_is_not_kept(value):
    with pytest.raises((pickle.PicklingError, TypeError)):
        kept._Pickler(io.BytesIO()).dump([value])


def test_what_any_process_has_is_itself():
    out = io.BytesIO()
    values = [tj.default_generator, ops.exp, tj.float32, tj.nn.functional.softmax, None, ..., slice(1, 2)]
    kept._Pickler(out).dump(values)
    found = kept._Unpickler(io.BytesIO(out.getvalue())).load()
    assert all(a is b or a == b for a, b in zip(values, found, strict=True))
    assert found[:4] == values[:4]


def test_a_damaged_tree_is_made_again(kept_trees):
    def f(x):
        return x.cos()

    x = tj.arange(3.0)
    before, _ = calls_of(f, x)
    (file,) = trees(kept_trees)
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    after, region = calls_of(f, x)
    assert after == before
    assert region.calls.cold == 1
    assert trees(kept_trees) == [file]


def test_nothing_but_trees_is_read(kept_trees):
    class Evil:
        def __reduce__(self) -> Any:
            return os.getenv, ("HOME",)

    for value in (Evil(), print, np.load):
        kept.STORE.put("ab", "f", "", pickle.dumps(({}, value, frozenset())), TREE)
        assert kept.recall("ab", None) is None
    # By way of what a module of the package imports.
    for path in ("os.getenv", "pickle.loads"):
        text = b"\x80\x04" + b"".join(
            b"\x8c" + bytes([len(name)]) + name.encode() for name in ("tracejit.trace.kept", path)
        )
        text += b"\x93."
        with pytest.raises(pickle.UnpicklingError):
            kept._Unpickler(io.BytesIO(text)).load()
    plain = [np.float32(1.5), np.arange(3), np.dtype("i4"), np.int64]
    found = kept._Unpickler(io.BytesIO(pickle.dumps(plain, protocol=5))).load()
    assert str(found) == str(plain)


@settings(
    max_examples=int(os.environ.get("TRACEJIT_RANDOM_PROGRAMS", "300")) // 6, suppress_health_check=list(HealthCheck)
)
@given(programs)
def test_random_programs_from_disk(kept_trees, program: Any) -> None:
    # Many of them have one fingerprint, so the second also meets trees of others.
    compare(program)
    compare(program)
