"""The functions through which Python enters native code, made without numba's dispatcher.

`launch(kernel, units, unit_cost, *slots)`, `run(control, pointers, scalars)` and `run_on(control, scalars, *arrays)`
compute, `address_of(array)` tells an address, `hold(pairs)` compares words of memory with what they were, `look(table,
*objects)` lets a kernel read objects, `advance(pairs)` counts versions up, `stamp(template, table)` copies an object
with its slots, and `make(template, table, pointers)` gives the copy an array, too. `alike(dicts, key, value)` looks at
an entry of several dicts, `enter(dicts, key, value)` sets it. They are built-in functions (CPython's vectorcall
convention) from pages of LLVM text (`entry_text.py`, `object_text.py`, `replay_text.py`), so that a call costs about
0.1 us. `replay(...)` makes one more of them, which does a whole call of a region by a table; `method(...)` makes a
method of a class, from `method_text.py`.
In: Python integers, floats and arrays. Out: error codes, addresses, objects.
Must not know: how a team works or what a program holds, beyond the few words that it reads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time
import types
from collections.abc import Callable
from string import Template
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tracejit.errors import KernelBuildError
from tracejit.kernels.threads import PARALLEL, PROGRAM_THREADS, RELEASE
from tracejit.kernels.vectors import LINE_BYTES
from tracejit.kernels.workspace import WORKSPACE
from tracejit.runtime import native, replay_text
from tracejit.runtime.build import environment
from tracejit.runtime.cache import STORE
from tracejit.runtime.entry_text import KERNELS
from tracejit.runtime.method_text import METHODS
from tracejit.runtime.object_text import OBJECTS
from tracejit.runtime.replay_text import REPLAYS

MAX_SLOTS = 64

# Words of the state that the functions share with runtime/team.py.
TEAM = 0
THREADS = 1
THRESHOLD = 2
STARTER = 3
LAUNCH_ON_TEAM = 4
RUN_PROGRAM = 5
INT_TYPE = 6
FLOAT_TYPE = 7
ARRAY_TYPE = 8
TYPE_ERROR = 9
NONE = 10
TYPE_TYPE = 11
NATIVE_TYPE = 12
FALSE = 13
TRUE = 14
# Of grad modes: the thread's state, the name of its dict and a mode's key there; the class, the slot of its instances,
# and the function that makes what is no plain instance.
MODE_THREAD = 15
MODE_DICT = 16
MODE_KEY = 17
MODE_CLASS = 18
MODE_AT = 19
MODE_MAKER = 20
# Of compiled functions: the slots of the region and of its replay, the method for other calls, the regions' class.
REGION_AT = 21
STRAIGHT_AT = 22
REGION_METHOD = 23
REGION_CLASS = 24
TUPLE_TYPE = 25
STATE_WORDS = 26

OTHER_THREADS = -2
"""What `run` gives, having done nothing, where a program is laid out for another number of threads."""

_WORKSPACE_BYTES = 1 << 20
"""A thread's workspace is so large from the beginning: what no kernel touches takes no memory."""

LIST_ITEMS = 24
"""Where a list keeps the address of its items."""

_ARRAY_FUNCTIONS = {"PyArray_NewFromDescr": 94, "PyArray_SetBaseObject": 282}
"""The places of functions in NumPy's binary interface, the same in all its versions."""

_OWN_FLAGS = 0x0001 | 0x0100 | 0x0400
"""NumPy's flags of an array in row-major order, aligned, that may be written."""

_METH_KEYWORDS = 0x0002
_METH_NOARGS = 0x0004
_METH_O = 0x0008
_METH_FASTCALL = 0x0080
_FUNCTIONS = {
    "launch": _METH_FASTCALL,
    "run": _METH_FASTCALL,
    "run_on": _METH_FASTCALL,
    "address_of": _METH_O,
    "hold": _METH_O,
    "advance": _METH_O,
    "stamp": _METH_FASTCALL,
    "make": _METH_FASTCALL,
    "look": _METH_FASTCALL,
    "alike": _METH_FASTCALL,
    "enter": _METH_FASTCALL,
}
_METHODS = {
    "new_mode": _METH_FASTCALL | _METH_KEYWORDS,
    "enter_no_grad": _METH_NOARGS,
    "enter_grad": _METH_NOARGS,
    "leave_mode": _METH_FASTCALL,
    "call_region": _METH_FASTCALL | _METH_KEYWORDS,
}
_OTHERS = ("replay", "thread_main", "open_workspaces", "workspace", "state")
_PYTHON_FUNCTIONS = (
    "PyCFunction_GetSelf",
    "PyDict_GetItemWithError",
    "PyDict_SetItem",
    "PyDict_Size",
    "PyErr_Clear",
    "PyErr_Occurred",
    "PyErr_SetString",
    "PyEval_RestoreThread",
    "PyEval_SaveThread",
    "PyFloat_AsDouble",
    "PyList_Size",
    "PyLong_AsLongLong",
    "PyLong_FromLongLong",
    "PyObject_CallNoArgs",
    "PyObject_GetAttr",
    "PyObject_SetAttr",
    "PyObject_Vectorcall",
    "PyObject_VectorcallMethod",
    "PyTuple_GetItem",
    "PyTuple_Pack",
    "PyTuple_Size",
    "PyType_IsSubtype",
    "PyType_GenericAlloc",
    "Py_DecRef",
    "Py_FatalError",
    "Py_IncRef",
)

def _c_string(text: str) -> str:
    return f'[{len(text) + 1} x i8] c"{text}\\00"'


def _module_text(digest: str) -> str:
    head = object.__basicsize__
    return Template(KERNELS + OBJECTS + REPLAYS + METHODS).substitute(
        digest=digest,
        head=head,
        type_field=head - ctypes.sizeof(ctypes.c_void_p),
        max_slots=MAX_SLOTS,
        team=TEAM,
        threads=THREADS,
        threshold=THRESHOLD,
        starter=STARTER,
        launch_on_team=LAUNCH_ON_TEAM,
        run_program=RUN_PROGRAM,
        int_type=INT_TYPE,
        float_type=FLOAT_TYPE,
        array_type=ARRAY_TYPE,
        line_bytes=LINE_BYTES,
        line_mask=LINE_BYTES - 1,
        own_flags=_OWN_FLAGS,
        type_error=TYPE_ERROR,
        list_items=LIST_ITEMS,
        none=NONE,
        type_type=TYPE_TYPE,
        native_type=NATIVE_TYPE,
        false=FALSE,
        true=TRUE,
        mode_thread=MODE_THREAD,
        mode_dict=MODE_DICT,
        mode_key=MODE_KEY,
        mode_class=MODE_CLASS,
        mode_at=MODE_AT,
        mode_maker=MODE_MAKER,
        region_at=REGION_AT,
        straight_at=STRAIGHT_AT,
        region_method=REGION_METHOD,
        region_class=REGION_CLASS,
        tuple_type=TUPLE_TYPE,
        state_words=STATE_WORDS,
        other_threads=OTHER_THREADS,
        program_threads=PROGRAM_THREADS,
        parallel=PARALLEL,
        release=RELEASE,
        workspace_bytes=_WORKSPACE_BYTES,
        no_workspace=_c_string("tracejit: there is no memory for what a kernel keeps while it runs"),
        launch_usage=_c_string(f"launch(kernel, units, unit_cost, *slots): expected 3 to {MAX_SLOTS + 3} arguments"),
        run_usage=_c_string("run(control, pointers, scalars): expected three arrays"),
        run_on_usage=_c_string(f"run_on(control, scalars, *arrays): expected 2 to {MAX_SLOTS + 2} arrays"),
        address_usage=_c_string("address_of(array): expected an array"),
        stamp_usage=_c_string("stamp(template, table): expected an object and an array"),
        new_usage=_c_string("make(template, table, pointers): expected an object and two arrays"),
        look_usage=_c_string("look(table, *objects): expected an array and objects"),
        entries_usage=_c_string("alike(dicts, key, value), enter(dicts, key, value): expected three arguments"),
        hold_usage=_c_string("hold(pairs), advance(pairs): expected an array"),
        mode_usage=_c_string("the thread's state has no grad mode"),
        leave_usage=_c_string("a grad mode was left that was not entered"),
        replay_usage=_c_string("a replay takes a tuple and a dict"),
        replay_ready=replay_text.READY,
        replay_state=replay_text.STATE,
        replay_thread=replay_text.THREAD,
        replay_dict=replay_text.DICT,
        replay_key_0=replay_text.KEYS,
        replay_key_1=replay_text.KEYS + 2,
        replay_key_2=replay_text.KEYS + 4,
        replay_held=replay_text.HELD,
        replay_look=replay_text.LOOK,
        replay_arguments=replay_text.ARGUMENTS,
        replay_template=replay_text.TEMPLATE,
        replay_template_table=replay_text.TEMPLATE_TABLE,
        replay_control=replay_text.CONTROL,
        replay_pointers=replay_text.POINTERS,
        replay_scalars=replay_text.SCALARS,
        replay_free=replay_text.FREE,
        replay_count=replay_text.COUNT,
        replay_miss=replay_text.MISS,
        replay_kept=replay_text.KEPT,
        replay_dicts=replay_text.DICTS,
        replay_count_key=replay_text.COUNT_KEY,
        replay_count_by=replay_text.COUNT_BY,
        replay_steps=replay_text.STEPS,
        replay_numbers=replay_text.NUMBERS,
        replay_node=replay_text.NODE,
        replay_position=replay_text.POSITION,
        replay_next_position=replay_text.NEXT_POSITION,
        replay_node_at=replay_text.NODE_AT,
        replay_versions=replay_text.VERSIONS,
        exact=replay_text.EXACT,
        add=replay_text.ADD,
        subtract=replay_text.SUBTRACT,
        multiply=replay_text.MULTIPLY,
        divide=replay_text.DIVIDE,
        power=replay_text.POWER,
        root=replay_text.ROOT,
        put=replay_text.PUT,
        max_arguments=replay_text.MAX_ARGUMENTS,
    )


def _array_function(index: int) -> int:
    """The address of a function of NumPy's binary interface, by its fixed place there."""
    read = ctypes.pythonapi.PyCapsule_GetPointer
    read.restype, read.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = read(np._core._multiarray_umath._ARRAY_API, None)  # type: ignore[attr-defined]
    address = ctypes.c_void_p.from_address(table + index * ctypes.sizeof(ctypes.c_void_p)).value
    assert address is not None
    return address


class _MethodDefinition(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def _definition(name: str, address: int, flags: int) -> _MethodDefinition:
    """A definition that lives as long as the process: a function reads it once more when it goes, which may be the last
    thing that an interpreter does.
    """
    made = _MethodDefinition(name.encode(), address, flags, None)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
    return made


def _built_in(definition: _MethodDefinition, own: Any) -> Callable[..., Any]:
    """A built-in function that gets an object of its own in each call."""
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    function: Callable[..., Any] = make(ctypes.addressof(definition), own, None)
    return function


def _words_at(address: int) -> np.ndarray:
    """The words of the state, which lie among the functions' own data."""
    return np.ctypeslib.as_array((ctypes.c_int64 * STATE_WORDS).from_address(address))


class Entry:
    """The native functions, bound to a state that `team.py` fills."""

    def __init__(self) -> None:
        for name in _PYTHON_FUNCTIONS:
            function = getattr(ctypes.pythonapi, name)
            llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
        for name, index in _ARRAY_FUNCTIONS.items():
            llvm.add_symbol(name, _array_function(index))
        # Under a name of its own, or LLVM might put something else in its place: Python computes powers with it.
        llvm.add_symbol("power_in_python", ctypes.cast(ctypes.CDLL(None).pow, ctypes.c_void_p).value)
        digest = hashlib.sha256(f"{environment()} {_module_text('')} {sys.version}".encode()).hexdigest()
        text = _module_text(digest[:16])
        symbols = {name: f"{name}_{digest[:16]}" for name in (*_FUNCTIONS, *_METHODS, *_OTHERS)}
        begin = time.perf_counter()
        code = STORE.get(digest)
        cached = code is not None
        if code is None:
            module = native.parse(text)
            # All passes take a tenth of a second, and gain nothing for straight lines and short loops.
            native.optimise(module, symbols.values(), by_hand=True)
            code = native.object_code(module)
            STORE.put(digest, "entry", text, code)
        native.load(code, symbols["launch"])
        STORE.count(cached, time.perf_counter() - begin)
        self.state = _words_at(ctypes.CFUNCTYPE(ctypes.c_void_p)(native.find(symbols["state"]))())
        self.know({INT_TYPE: int, FLOAT_TYPE: float, ARRAY_TYPE: np.ndarray, TYPE_ERROR: TypeError, NONE: None})
        self.know({TYPE_TYPE: type, TUPLE_TYPE: tuple, NATIVE_TYPE: types.BuiltinFunctionType})
        self.know({FALSE: False, TRUE: True})
        # Until a team is set up, every launch is light.
        self.state[THRESHOLD : THRESHOLD + 1].view(np.float64)[0] = np.inf
        self.thread_main = native.find(symbols["thread_main"])
        error = ctypes.CFUNCTYPE(ctypes.c_int)(native.find(symbols["open_workspaces"]))()
        if error:
            raise OSError(error, f"cannot make a key for the workspaces of threads: {os.strerror(error)}")
        llvm.add_symbol(WORKSPACE, native.find(symbols["workspace"]))
        self._replay = _definition("replay", native.find(symbols["replay"]), _METH_FASTCALL)
        self._methods = {name: native.find(symbols[name]) for name in _METHODS}
        bound = [self._bind(name, native.find(symbols[name]), flags) for name, flags in _FUNCTIONS.items()]
        self.launch, self.run, self.run_on, self.address_of, self.hold, self.advance, *makers = bound
        self.stamp, self.make, self.look, self.alike, self.enter = makers
        self._check()

    def _bind(self, name: str, address: int, flags: int) -> Callable[..., Any]:
        return _built_in(_definition(name, address, flags), self.state)

    def know(self, objects: dict[int, Any]) -> None:
        """Let words of the state be the addresses of objects, which live as long as the process from here on."""
        for word, x in objects.items():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(x))
            self.state[word] = id(x)

    def method(self, cls: type, name: str, native_name: str) -> Any:
        """A native method of a class, whose `self` is an instance of the class."""
        definition = _definition(name, self._methods[native_name], _METHODS[native_name])
        make = ctypes.pythonapi.PyDescr_NewMethod
        make.restype, make.argtypes = ctypes.py_object, (ctypes.py_object, ctypes.c_void_p)
        return make(cls, ctypes.addressof(definition))

    def static_method(self, name: str, native_name: str) -> Callable[..., Any]:
        """A native function that a class has under a name, and that gets what a static method gets."""
        return _built_in(_definition(name, self._methods[native_name], _METHODS[native_name]), None)

    def replay(self, table: np.ndarray, *kept: Any) -> Callable[[Any, Any], Any]:
        """A replay, a function of arguments and named arguments, by a table of `replay_text.REPLAY_WORDS` words.

        `kept` is what the table has the addresses of.
        """
        return _built_in(self._replay, (table, *kept))

    def _check(self) -> None:
        """The layout of Python's and NumPy's objects is read without their headers: see that it is as expected."""
        whole = np.arange(12.0).reshape(3, 4)
        for array in (whole, whole[1:, ::2], np.zeros(0, np.int8), np.ones(5, bool)[3:]):
            if self.address_of(array) != array.ctypes.data:
                raise KernelBuildError("arrays do not lie in memory as tracejit expects: unsupported Python or NumPy")


ENTRY = Entry()
