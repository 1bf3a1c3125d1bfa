"""The functions through which Python enters native code: objects that they make, entries that they compare and set."""

from __future__ import annotations

import gc
import re
import sys
import threading
import weakref
from pathlib import Path

import llvmlite.ir as ir
import numpy as np
import pytest

from tracejit.kernels import looks
from tracejit.kernels.emit import internal_function
from tracejit.kernels.vectors import LINE_BYTES
from tracejit.kernels.workspace import own_memory
from tracejit.runtime.arrays import SMALL_BYTES
from tracejit.runtime.build import build
from tracejit.runtime.entry import _ARRAY_FUNCTIONS, ENTRY, MAX_SLOTS, _definition
from tracejit.runtime.objects import make_call, slot_offset


class Holder:
    __slots__ = ("array", "name", "rest")


@pytest.mark.parametrize("name", _ARRAY_FUNCTIONS)
def test_the_place_in_numpys_interface_is_that_of_its_header(name):
    text = Path(np.get_include(), "numpy", "__multiarray_api.h").read_text(encoding="utf-8")
    found = re.search(rf"define {name} \\\s.*?PyArray_API\[(\d+)\]", text, re.DOTALL)
    assert found is not None
    assert int(found[1]) == _ARRAY_FUNCTIONS[name]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int8, np.bool_])
@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 0, 3), (1, 2, 3, 4), (33, 1, 65), (2000,)])
def test_make_gives_a_copy_with_an_array_of_its_own(kind, shape):
    like = Holder()
    like.name, like.rest = ["a"], None
    scope = {"pointers": np.zeros(3, np.int64)}
    dtype = np.dtype(kind)
    expression = make_call(like, Holder.__slots__, "array", (shape, dtype), 1, scope, "made")
    assert expression is not None
    one, two = eval(expression, scope), eval(expression, scope)
    pointers = scope["pointers"].tolist()
    # The slot has the array, and the call that counts.
    counted = sys.getrefcount(one.array)
    passing = eval(expression, scope)
    gone = weakref.ref(passing.array)
    del passing
    assert gone() is None
    assert type(one) is Holder
    assert one.name is like.name
    assert one.rest is None
    assert (one.array.shape, one.array.dtype, type(one.array)) == (shape, dtype, np.ndarray)
    flags, is_small = one.array.flags, one.array.nbytes < SMALL_BYTES
    assert (flags.c_contiguous, flags.writeable, flags.aligned) == (True,) * 3
    assert flags.f_contiguous == np.empty(shape, kind).flags.f_contiguous
    assert flags.owndata == is_small
    assert is_small or not one.array.ctypes.data % LINE_BYTES
    assert pointers == [0, two.array.ctypes.data, 0]
    assert not np.shares_memory(one.array, two.array)
    assert gc.is_tracked(one)
    one.array[...] = 1
    assert counted == 2


@pytest.mark.parametrize("shape", [(3, 4), (30, 40)])
def test_make_keeps_nothing(shape):
    # NumPy's own types may live for ever, and are then not counted.
    like, dtype = Holder(), np.dtype(np.float32, metadata={"own": True})
    like.name = ["a"]
    scope = {"pointers": np.zeros(1, np.int64)}
    expression = make_call(like, Holder.__slots__, "array", (shape, dtype), 0, scope, "made")
    before = sys.getrefcount(dtype), sys.getrefcount(like.name)
    made = [eval(expression, scope) for _ in range(10)]
    meanwhile = sys.getrefcount(dtype), sys.getrefcount(like.name)
    del made
    after = sys.getrefcount(dtype), sys.getrefcount(like.name)
    assert meanwhile == (before[0] + 10, before[1] + 10)
    assert after == before


def test_make_needs_slots_and_a_plain_type():
    like = Holder()
    like.rest = None
    assert make_call(like, Holder.__slots__, "missing", ((), np.dtype(np.int8)), 0, {}, "made") is None
    assert make_call(like, Holder.__slots__, "array", ((), np.dtype(object)), 0, {}, "made") is None


def test_entries_of_several_dicts():
    value, other = object(), object()
    dicts = ({"k": value}, {"j": 1, "k": value}, {"k": value})
    references = sys.getrefcount(value)
    assert ENTRY.alike(dicts, "k", value) == 1
    assert ENTRY.alike((), "k", value) == 1
    assert ENTRY.alike(dicts, "j", 1) == 0
    dicts[2]["k"] = other
    assert ENTRY.alike(dicts, "k", value) == 0
    ENTRY.enter(dicts, "k", other)
    assert [d["k"] for d in dicts] == [other] * 3
    assert dicts[1] == {"j": 1, "k": other}
    assert sys.getrefcount(value) == references - 3


@pytest.mark.parametrize(
    ("function", "arguments", "error"),
    [
        (ENTRY.alike, ({}, "k"), TypeError),
        (ENTRY.alike, ([{}], "k", 1), SystemError),
        (ENTRY.alike, (({"k": None}, 3), "k", None), SystemError),
        (ENTRY.alike, (({},), [], 1), TypeError),
        (ENTRY.enter, ({},), TypeError),
        (ENTRY.enter, (({}, 3), "k", 1), SystemError),
        (ENTRY.enter, (({},), [], 1), TypeError),
        (ENTRY.make, (Holder(), np.zeros(3, np.int64)), TypeError),
        (ENTRY.make, (Holder(), [1], np.zeros(3, np.int64)), TypeError),
        (ENTRY.run_on, (), TypeError),
        (ENTRY.run_on, (np.zeros(3, np.int64),), TypeError),
        (ENTRY.run_on, (np.zeros(3, np.int64), [1.0]), TypeError),
        (ENTRY.run_on, (np.zeros(3, np.int64), np.zeros(1), np.zeros(2), 7), TypeError),
        (ENTRY.run_on, (np.zeros(3, np.int64), np.zeros(1), *[np.zeros(2)] * (MAX_SLOTS + 1)), TypeError),
        (ENTRY.look, (), TypeError),
        (ENTRY.look, ([1], 2), TypeError),
    ],
)
def test_wrong_arguments(function, arguments, error):
    with pytest.raises(error):
        function(*arguments)


def spans_and_constants(look, constants, spans):
    """Tables of constants and written spans in a look's table; both must be kept."""
    starts, ends = [a for a, _ in spans], [b for _, b in spans]
    tables = np.array([len(constants), *sorted(constants)]), np.array([len(spans), *ends, *starts])
    look[looks.CONSTANTS], look[looks.SPANS] = (t.ctypes.data for t in tables)
    return tables


def test_look_compares_spans_and_constants():
    """Written memory and constants at every place around the searched ones."""
    pointers = np.zeros(1, np.int64)
    row = np.zeros(looks.ROW_WORDS + 2, np.int64)
    array = np.zeros(8, np.float32)
    holder = Holder()
    holder.array = array
    row[looks.LENGTH] = len(row)
    row[looks.CLASS], row[looks.ARRAY_CLASS] = id(Holder), id(np.ndarray)
    row[looks.MEMORY] = slot_offset(Holder, "array")
    row[looks.FLAGS] = looks.C_CONTIGUOUS | looks.WRITEABLE
    row[looks.DIMENSIONS], row[looks.NBYTES], row[looks.PLACES] = 1, 32, 1
    row[-2] = 8
    head = np.zeros(looks.ROWS, np.int64)
    head[looks.KERNEL] = build(looks.look_at_tensors).address
    head[looks.TENSORS], head[looks.READY] = 1, 1
    head[looks.POINTERS] = pointers.ctypes.data
    table = np.concatenate([head, row])
    low, high = array.ctypes.data, array.ctypes.data + 32
    far = [(k, k + 8) for k in (64, 128, 1 << 60, 1 << 61)]
    beside = [(low - 8, low), (high, high + 1)]
    for spans in ([], far, beside[:1], beside[1:], beside, [*far[:1], (high, high)]):
        kept = spans_and_constants(table, [], sorted(spans))
        pointers[0] = 0
        assert ENTRY.look(table, holder) == 0, spans
        assert pointers[0] == low
        del kept
    for span in ((low - 1, low + 1), (high - 1, high + 9), (low + 4, low + 8), (low - 9, high + 9)):
        for others in ([], far[:2], far[2:], far):
            kept = spans_and_constants(table, [], sorted([*others, span]))
            pointers[0] = 0
            assert ENTRY.look(table, holder) == 1
            assert pointers[0] == 0
            del kept
    here = id(holder)
    for constants in ([here], [here - 16, here], [here, here + 16], [here - 16, here, here + 16]):
        kept = spans_and_constants(table, constants, [])
        assert ENTRY.look(table, holder) == 1
    kept = spans_and_constants(table, [here - 16, here + 16], [])
    assert ENTRY.look(table, holder) == 0
    for wrong in ((), (holder, holder), (3,), (None,), (array,), (Holder(),)):
        assert ENTRY.look(table, *wrong) == 1
    for other in (np.zeros(9, np.float32), np.zeros((8, 1)), np.zeros(16)[::2], 5, None, np.broadcast_to(1.0, (8,))):
        changed = Holder()
        changed.array = other
        assert ENTRY.look(table, changed) == 1
    table[looks.READY] = 0
    assert ENTRY.look(table, holder) == 1
    del kept


KEEPS = """
def keeps(p, lo, hi):
    first = stack_i64(600)
    second = stack_i64({count})
    store_i64(load_arg(p, 0), 0, first)
    store_i64(load_arg(p, 0), 1, second)
    for i in range({count}):
        store_i64(second, i, i)
    for i in range(600):
        store_i64(first, i, -1)
    for i in range({count}):
        if load_i64(second, i) != i:
            return 1
    return 0
"""


def test_kernels_keep_what_they_need_in_the_workspace_of_their_thread() -> None:
    small, large = (build(KEEPS.format(count=count), "keeps").address for count in (1_000, 400_000))
    found: list[list[int]] = []

    def note(*kernels: int) -> None:
        for kernel in kernels:
            places = np.zeros(2, np.int64)
            assert ENTRY.launch(kernel, 1, -1.0, places) == 0
            found.append(places.tolist())

    note(small, small, large, small)
    # One that is too small makes room for a larger one.
    assert found[0] == found[1] != found[2] == found[3]
    assert all(place % 64 == 0 for places in found for place in places)
    thread = threading.Thread(target=note, args=(small, large))
    thread.start()
    thread.join()
    assert not {place for places in found[:4] for place in places} & {place for places in found[4:] for place in places}


def test_a_function_that_kernels_call_has_no_workspace_of_its_own() -> None:
    module = ir.Module()
    internal_function(module, "few", 1, lambda builder, _: own_memory(builder, 4096))
    with pytest.raises(AssertionError, match="many is no kernel"):
        internal_function(module, "many", 1, lambda builder, _: own_memory(builder, 4097))


def test_a_definition_outlives_whoever_made_it():
    made = weakref.ref(_definition("nothing", 0, 0))
    gc.collect()
    assert made() is not None
