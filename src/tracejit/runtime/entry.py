"""The functions through which Python enters native code, made without numba's dispatcher.

`launch(kernel, units, unit_cost, *slots)` and `run(control, pointers, scalars)` compute, `address_of(array)` tells an
address, `hold(pairs)` compares words of memory with what they were, `advance(pairs)` counts versions up, and
`stamp(template, table)` copies an object with its slots. They are built-in functions (CPython's vectorcall convention)
from a page of LLVM text, so that a call costs about 0.1 us.
In: Python integers, floats and arrays. Out: error codes, addresses, objects.
Must not know: how a team works or what a program holds, beyond the few words that it reads.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import time
from collections.abc import Callable
from string import Template
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tracejit.errors import KernelBuildError
from tracejit.kernels.threads import PARALLEL, RELEASE
from tracejit.runtime import native
from tracejit.runtime.build import environment
from tracejit.runtime.cache import STORE

MAX_SLOTS = 29

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
STATE_WORDS = 10

LIST_ITEMS = 24
"""Where a list keeps the address of its items."""

_METH_O = 0x0008
_METH_FASTCALL = 0x0080
_PYTHON_FUNCTIONS = (
    "PyErr_Occurred",
    "PyErr_SetString",
    "PyEval_RestoreThread",
    "PyEval_SaveThread",
    "PyFloat_AsDouble",
    "PyLong_AsLongLong",
    "PyLong_FromLongLong",
    "PyObject_CallNoArgs",
    "PyType_IsSubtype",
    "PyType_GenericAlloc",
    "Py_DecRef",
    "Py_IncRef",
)

_TEXT = Template("""
declare ptr @PyErr_Occurred()
declare void @PyErr_SetString(ptr, ptr)
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyEval_SaveThread()
declare double @PyFloat_AsDouble(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyObject_CallNoArgs(ptr)
declare void @Py_DecRef(ptr)
declare void @Py_IncRef(ptr)
declare ptr @PyType_GenericAlloc(ptr, i64)
declare i32 @PyType_IsSubtype(ptr, ptr)

@launch_usage = internal constant $launch_usage
@run_usage = internal constant $run_usage
@address_usage = internal constant $address_usage
@hold_usage = internal constant $hold_usage
@stamp_usage = internal constant $stamp_usage

; The address of an array's elements: the first field after the object's head.
define internal i64 @data_of(ptr %array) alwaysinline {
  %field = getelementptr i8, ptr %array, i64 $head
  %data = load i64, ptr %field
  ret i64 %data
}

define internal ptr @type_of(ptr %object) alwaysinline {
  %field = getelementptr i8, ptr %object, i64 $type_field
  %type = load ptr, ptr %field
  ret ptr %type
}

define internal i64 @word(ptr %state, i64 %index) alwaysinline {
  %at = getelementptr i64, ptr %state, i64 %index
  %value = load i64, ptr %at
  ret i64 %value
}

define internal i1 @is_array(ptr %object, ptr %state) {
  %type = call ptr @type_of(ptr %object)
  %array_word = call i64 @word(ptr %state, i64 $array_type)
  %array = inttoptr i64 %array_word to ptr
  %exact = icmp eq ptr %type, %array
  br i1 %exact, label %yes, label %derived
derived:
  %subtype = call i32 @PyType_IsSubtype(ptr %type, ptr %array)
  %is = icmp ne i32 %subtype, 0
  ret i1 %is
yes:
  ret i1 true
}

; An argument slot of a Python value: an integer, the bits of a float, or the address of an array's elements.
define internal i64 @slot_of(ptr %object, ptr %state) {
  %type = call ptr @type_of(ptr %object)
  %type_word = ptrtoint ptr %type to i64
  %array_word = call i64 @word(ptr %state, i64 $array_type)
  %is_array = icmp eq i64 %type_word, %array_word
  br i1 %is_array, label %array, label %maybe_int
array:
  %data = call i64 @data_of(ptr %object)
  ret i64 %data
maybe_int:
  %int_word = call i64 @word(ptr %state, i64 $int_type)
  %is_int = icmp eq i64 %type_word, %int_word
  br i1 %is_int, label %int, label %maybe_float
int:
  %integer = call i64 @PyLong_AsLongLong(ptr %object)
  ret i64 %integer
maybe_float:
  %float_word = call i64 @word(ptr %state, i64 $float_type)
  %float_type = inttoptr i64 %float_word to ptr
  %subfloat = call i32 @PyType_IsSubtype(ptr %type, ptr %float_type)
  %is_float = icmp ne i32 %subfloat, 0
  br i1 %is_float, label %float, label %maybe_subarray
float:
  %number = call double @PyFloat_AsDouble(ptr %object)
  %bits = bitcast double %number to i64
  ret i64 %bits
maybe_subarray:
  %is_subarray = call i1 @is_array(ptr %object, ptr %state)
  br i1 %is_subarray, label %array, label %int
}

; Starts the team if there is none and more than one thread may compute; false with an exception set.
define internal i1 @ready(ptr %state) {
  %team = call i64 @word(ptr %state, i64 $team)
  %threads = call i64 @word(ptr %state, i64 $threads)
  %none = icmp eq i64 %team, 0
  %several = icmp sgt i64 %threads, 1
  %start = and i1 %none, %several
  br i1 %start, label %call, label %done
call:
  %starter_word = call i64 @word(ptr %state, i64 $starter)
  %starter = inttoptr i64 %starter_word to ptr
  %result = call ptr @PyObject_CallNoArgs(ptr %starter)
  %failed = icmp eq ptr %result, null
  br i1 %failed, label %error, label %drop
drop:
  call void @Py_DecRef(ptr %result)
  br label %done
error:
  ret i1 false
done:
  ret i1 true
}

; A kernel's error code; -1 where its compiled code raised.
define internal i64 @call_kernel(i64 %address, ptr %block, i64 %units) {
  %result = alloca i64
  %raised = alloca ptr
  %kernel = inttoptr i64 %address to ptr
  %status = call i32 %kernel(ptr %result, ptr %raised, ptr %block, i64 0, i64 %units)
  %ok = icmp eq i32 %status, 0
  %code = load i64, ptr %result
  %error = select i1 %ok, i64 %code, i64 -1
  ret i64 %error
}

define ptr @launch_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %block = alloca [$max_slots x i64], align 64
  %job = alloca [4 x i64]
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %slots = sub i64 %count, 3
  %wrong = icmp ugt i64 %slots, $max_slots
  br i1 %wrong, label %usage, label %head
usage:
  %type_error = call i64 @word(ptr %state, i64 $type_error)
  %exception = inttoptr i64 %type_error to ptr
  call void @PyErr_SetString(ptr %exception, ptr @launch_usage)
  ret ptr null
head:
  %kernel_object = load ptr, ptr %args
  %kernel = call i64 @PyLong_AsLongLong(ptr %kernel_object)
  %units_at = getelementptr ptr, ptr %args, i64 1
  %units_object = load ptr, ptr %units_at
  %units = call i64 @PyLong_AsLongLong(ptr %units_object)
  %cost_at = getelementptr ptr, ptr %args, i64 2
  %cost_object = load ptr, ptr %cost_at
  %unit_cost = call double @PyFloat_AsDouble(ptr %cost_object)
  %rest = getelementptr ptr, ptr %args, i64 3
  br label %next
next:
  %k = phi i64 [ 0, %head ], [ %following, %fill ]
  %more = icmp slt i64 %k, %slots
  br i1 %more, label %fill, label %filled
fill:
  %object_at = getelementptr ptr, ptr %rest, i64 %k
  %object = load ptr, ptr %object_at
  %value = call i64 @slot_of(ptr %object, ptr %state)
  %slot_at = getelementptr i64, ptr %block, i64 %k
  store i64 %value, ptr %slot_at
  %following = add i64 %k, 1
  br label %next
filled:
  %error = call ptr @PyErr_Occurred()
  %bad = icmp ne ptr %error, null
  br i1 %bad, label %failed, label %check
failed:
  ret ptr null
check:
  %some = icmp sgt i64 %units, 0
  br i1 %some, label %weigh, label %nothing
nothing:
  %zero = call ptr @PyLong_FromLongLong(i64 0)
  ret ptr %zero
weigh:
  %units_float = sitofp i64 %units to double
  %cost = fmul double %units_float, %unit_cost
  %threshold_bits = call i64 @word(ptr %state, i64 $threshold)
  %threshold = bitcast i64 %threshold_bits to double
  %light = fcmp olt double %cost, %threshold
  br i1 %light, label %direct, label %heavy
direct:
  %direct_code = call i64 @call_kernel(i64 %kernel, ptr %block, i64 %units)
  %direct_object = call ptr @PyLong_FromLongLong(i64 %direct_code)
  ret ptr %direct_object
heavy:
  %is_ready = call i1 @ready(ptr %state)
  br i1 %is_ready, label %together, label %failed
together:
  %team = call i64 @word(ptr %state, i64 $team)
  store i64 %team, ptr %job
  %job_1 = getelementptr i64, ptr %job, i64 1
  store i64 %kernel, ptr %job_1
  %job_2 = getelementptr i64, ptr %job, i64 2
  %block_word = ptrtoint ptr %block to i64
  store i64 %block_word, ptr %job_2
  %job_3 = getelementptr i64, ptr %job, i64 3
  store i64 %units, ptr %job_3
  %launcher = call i64 @word(ptr %state, i64 $launch_on_team)
  %python = call ptr @PyEval_SaveThread()
  %code = call i64 @call_kernel(i64 %launcher, ptr %job, i64 1)
  call void @PyEval_RestoreThread(ptr %python)
  %code_object = call ptr @PyLong_FromLongLong(i64 %code)
  ret ptr %code_object
}

define ptr @run_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %job = alloca [4 x i64]
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %three = icmp eq i64 %count, 3
  br i1 %three, label %look, label %usage
usage:
  %type_error = call i64 @word(ptr %state, i64 $type_error)
  %exception = inttoptr i64 %type_error to ptr
  call void @PyErr_SetString(ptr %exception, ptr @run_usage)
  ret ptr null
look:
  %control_object = load ptr, ptr %args
  %pointers_at = getelementptr ptr, ptr %args, i64 1
  %pointers_object = load ptr, ptr %pointers_at
  %scalars_at = getelementptr ptr, ptr %args, i64 2
  %scalars_object = load ptr, ptr %scalars_at
  %is_control = call i1 @is_array(ptr %control_object, ptr %state)
  %is_pointers = call i1 @is_array(ptr %pointers_object, ptr %state)
  %is_scalars = call i1 @is_array(ptr %scalars_object, ptr %state)
  %two_arrays = and i1 %is_control, %is_pointers
  %three_arrays = and i1 %two_arrays, %is_scalars
  br i1 %three_arrays, label %go, label %usage
go:
  %control = call i64 @data_of(ptr %control_object)
  %pointers = call i64 @data_of(ptr %pointers_object)
  %scalars = call i64 @data_of(ptr %scalars_object)
  %control_at = inttoptr i64 %control to ptr
  %parallel = call i64 @word(ptr %control_at, i64 $parallel)
  %is_serial = icmp eq i64 %parallel, 0
  br i1 %is_serial, label %prepared, label %prepare
prepare:
  %is_ready = call i1 @ready(ptr %state)
  br i1 %is_ready, label %prepared, label %failed
failed:
  ret ptr null
prepared:
  %team = call i64 @word(ptr %state, i64 $team)
  store i64 %team, ptr %job
  %job_1 = getelementptr i64, ptr %job, i64 1
  store i64 %control, ptr %job_1
  %job_2 = getelementptr i64, ptr %job, i64 2
  store i64 %pointers, ptr %job_2
  %job_3 = getelementptr i64, ptr %job, i64 3
  store i64 %scalars, ptr %job_3
  %runner = call i64 @word(ptr %state, i64 $run_program)
  %release = call i64 @word(ptr %control_at, i64 $release)
  %keep = icmp eq i64 %release, 0
  br i1 %keep, label %locked, label %unlocked
locked:
  %short_code = call i64 @call_kernel(i64 %runner, ptr %job, i64 1)
  br label %done
unlocked:
  %python = call ptr @PyEval_SaveThread()
  %long_code = call i64 @call_kernel(i64 %runner, ptr %job, i64 1)
  call void @PyEval_RestoreThread(ptr %python)
  br label %done
done:
  %code = phi i64 [ %short_code, %locked ], [ %long_code, %unlocked ]
  %object = call ptr @PyLong_FromLongLong(i64 %code)
  ret ptr %object
}

define ptr @address_of_$digest(ptr %self, ptr %array) {
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %is = call i1 @is_array(ptr %array, ptr %state)
  br i1 %is, label %yes, label %no
yes:
  %data = call i64 @data_of(ptr %array)
  %object = call ptr @PyLong_FromLongLong(i64 %data)
  ret ptr %object
no:
  %type_error = call i64 @word(ptr %state, i64 $type_error)
  %exception = inttoptr i64 %type_error to ptr
  call void @PyErr_SetString(ptr %exception, ptr @address_usage)
  ret ptr null
}

; The place of the first pair of words (address, expected value) that does not hold, from 1 on; 0 if all hold.
; Pairs are looked at in order, so an address may depend on what a former pair holds.
define ptr @hold_$digest(ptr %self, ptr %pairs) {
entry:
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %is = call i1 @is_array(ptr %pairs, ptr %state)
  br i1 %is, label %begin, label %no
begin:
  %data_word = call i64 @data_of(ptr %pairs)
  %data = inttoptr i64 %data_word to ptr
  %count = load i64, ptr %data
  br label %head
head:
  %i = phi i64 [ 0, %begin ], [ %next, %same ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %look, label %all
look:
  %next = add i64 %i, 1
  %twice = shl i64 %i, 1
  %at = getelementptr i64, ptr %data, i64 %twice
  %address_at = getelementptr i64, ptr %at, i64 1
  %expected_at = getelementptr i64, ptr %at, i64 2
  %address_word = load i64, ptr %address_at
  %expected = load i64, ptr %expected_at
  %address = inttoptr i64 %address_word to ptr
  %now = load i64, ptr %address
  %equal = icmp eq i64 %now, %expected
  br i1 %equal, label %same, label %found
same:
  br label %head
all:
  br label %done
found:
  br label %done
done:
  %result = phi i64 [ 0, %all ], [ %next, %found ]
  %object = call ptr @PyLong_FromLongLong(i64 %result)
  ret ptr %object
no:
  %type_error = call i64 @word(ptr %state, i64 $type_error)
  %exception = inttoptr i64 %type_error to ptr
  call void @PyErr_SetString(ptr %exception, ptr @hold_usage)
  ret ptr null
}

; Adds to the number that each of some lists holds first. Pairs: the address of a list, what is added.
define ptr @advance_$digest(ptr %self, ptr %pairs) {
entry:
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %is = call i1 @is_array(ptr %pairs, ptr %state)
  br i1 %is, label %begin, label %no
begin:
  %data_word = call i64 @data_of(ptr %pairs)
  %data = inttoptr i64 %data_word to ptr
  %count = load i64, ptr %data
  br label %head
head:
  %i = phi i64 [ 0, %begin ], [ %next, %add ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %add, label %done
add:
  %next = add i64 %i, 1
  %twice = shl i64 %i, 1
  %at = getelementptr i64, ptr %data, i64 %twice
  %list_at = getelementptr i64, ptr %at, i64 1
  %by_at = getelementptr i64, ptr %at, i64 2
  %list_word = load i64, ptr %list_at
  %by = load i64, ptr %by_at
  %list = inttoptr i64 %list_word to ptr
  %items_at = getelementptr i8, ptr %list, i64 $list_items
  %items = load ptr, ptr %items_at
  %old = load ptr, ptr %items
  %number = call i64 @PyLong_AsLongLong(ptr %old)
  %sum = add i64 %number, %by
  %new = call ptr @PyLong_FromLongLong(i64 %sum)
  store ptr %new, ptr %items
  call void @Py_DecRef(ptr %old)
  br label %head
done:
  %zero = call ptr @PyLong_FromLongLong(i64 0)
  ret ptr %zero
no:
  %type_error = call i64 @word(ptr %state, i64 $type_error)
  %exception = inttoptr i64 %type_error to ptr
  call void @PyErr_SetString(ptr %exception, ptr @hold_usage)
  ret ptr null
}

; A new object of the class of `template`, with what stands in its slots. The table: how many slots, where each is.
define ptr @stamp_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %two = icmp eq i64 %count, 2
  br i1 %two, label %look, label %no
look:
  %table_at = getelementptr ptr, ptr %args, i64 1
  %template = load ptr, ptr %args
  %table = load ptr, ptr %table_at
  %is = call i1 @is_array(ptr %table, ptr %state)
  br i1 %is, label %begin, label %no
begin:
  %data_word = call i64 @data_of(ptr %table)
  %data = inttoptr i64 %data_word to ptr
  %slots = load i64, ptr %data
  %type = call ptr @type_of(ptr %template)
  %made = call ptr @PyType_GenericAlloc(ptr %type, i64 0)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %done, label %head
head:
  %i = phi i64 [ 0, %begin ], [ %next, %after ]
  %more = icmp ult i64 %i, %slots
  br i1 %more, label %copy, label %done
copy:
  %next = add i64 %i, 1
  %offset_at = getelementptr i64, ptr %data, i64 %next
  %offset = load i64, ptr %offset_at
  %from = getelementptr i8, ptr %template, i64 %offset
  %to = getelementptr i8, ptr %made, i64 %offset
  %value = load ptr, ptr %from
  %empty = icmp eq ptr %value, null
  br i1 %empty, label %after, label %share
share:
  call void @Py_IncRef(ptr %value)
  store ptr %value, ptr %to
  br label %after
after:
  br label %head
done:
  ret ptr %made
no:
  %type_error = call i64 @word(ptr %state, i64 $type_error)
  %exception = inttoptr i64 %type_error to ptr
  call void @PyErr_SetString(ptr %exception, ptr @stamp_usage)
  ret ptr null
}

; What a thread made by pthread_create runs: the kernel whose address is the first slot of its block.
define ptr @thread_main_$digest(ptr %block) {
  %kernel = load i64, ptr %block
  %ignored = call i64 @call_kernel(i64 %kernel, ptr %block, i64 0)
  ret ptr null
}
""")


def _c_string(text: str) -> str:
    return f'[{len(text) + 1} x i8] c"{text}\\00"'


def _module_text(digest: str) -> str:
    head = object.__basicsize__
    return _TEXT.substitute(
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
        type_error=TYPE_ERROR,
        list_items=LIST_ITEMS,
        parallel=PARALLEL,
        release=RELEASE,
        launch_usage=_c_string(f"launch(kernel, units, unit_cost, *slots): expected 3 to {MAX_SLOTS + 3} arguments"),
        run_usage=_c_string("run(control, pointers, scalars): expected three arrays"),
        address_usage=_c_string("address_of(array): expected an array"),
        stamp_usage=_c_string("stamp(template, table): expected an object and an array"),
        hold_usage=_c_string("hold(pairs), advance(pairs): expected an array"),
    )


class _MethodDefinition(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class Entry:
    """The native functions, bound to a state that `team.py` fills."""

    def __init__(self) -> None:
        self.state = np.zeros(STATE_WORDS, np.int64)
        self.state[[INT_TYPE, FLOAT_TYPE, ARRAY_TYPE, TYPE_ERROR]] = [id(int), id(float), id(np.ndarray), id(TypeError)]
        # Until a team is set up, every launch is light.
        self.state[THRESHOLD : THRESHOLD + 1].view(np.float64)[0] = np.inf
        self._definitions: list[_MethodDefinition] = []
        for name in _PYTHON_FUNCTIONS:
            function = getattr(ctypes.pythonapi, name)
            llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
        digest = hashlib.sha256(f"{environment()} {_module_text('')} {sys.version}".encode()).hexdigest()
        text = _module_text(digest[:16])
        names = ("launch", "run", "address_of", "hold", "advance", "stamp", "thread_main")
        symbols = {name: f"{name}_{digest[:16]}" for name in names}
        begin = time.perf_counter()
        code = STORE.get(digest)
        cached = code is not None
        if code is None:
            module = native.parse(text)
            native.optimise(module, symbols.values())
            code = native.object_code(module)
            STORE.put(digest, "entry", text, code)
        native.load(code, symbols["launch"])
        STORE.count(cached, time.perf_counter() - begin)
        self.thread_main = native.find(symbols["thread_main"])
        self.launch = self._bind("launch", native.find(symbols["launch"]), _METH_FASTCALL)
        self.run = self._bind("run", native.find(symbols["run"]), _METH_FASTCALL)
        self.address_of = self._bind("address_of", native.find(symbols["address_of"]), _METH_O)
        self.hold = self._bind("hold", native.find(symbols["hold"]), _METH_O)
        self.advance = self._bind("advance", native.find(symbols["advance"]), _METH_O)
        self.stamp = self._bind("stamp", native.find(symbols["stamp"]), _METH_FASTCALL)
        self._check()

    def _bind(self, name: str, address: int, flags: int) -> Callable[..., Any]:
        definition = _MethodDefinition(name.encode(), address, flags, None)
        self._definitions.append(definition)
        make = ctypes.pythonapi.PyCFunction_NewEx
        make.restype = ctypes.py_object
        make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        function: Callable[..., Any] = make(ctypes.addressof(definition), self.state, None)
        return function

    def _check(self) -> None:
        """The layout of Python's and NumPy's objects is read without their headers: see that it is as expected."""
        whole = np.arange(12.0).reshape(3, 4)
        for array in (whole, whole[1:, ::2], np.zeros(0, np.int8), np.ones(5, bool)[3:]):
            if self.address_of(array) != array.ctypes.data:
                raise KernelBuildError("arrays do not lie in memory as tracejit expects: unsupported Python or NumPy")


ENTRY = Entry()
