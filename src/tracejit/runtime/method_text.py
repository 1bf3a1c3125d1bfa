"""The text of the native methods of Python classes, for `entry.py`: grad modes, and the call of a compiled function.

In: nothing. Out: a page of text, to stand behind those of `entry_text.py`, `object_text.py` and `replay_text.py`.
Must not know: what the classes are; the words of the state say where their instances keep what is read here.

A method's descriptor has seen that `self` is an instance of its class before any of this runs.
"""

from __future__ import annotations

_ENTER = """
; Enters a grad mode: puts the thread's mode before what the object has kept, and the new one in its place.
define ptr @NAME_$digest(ptr %self, ptr %ignored) {
  %mode_word = call i64 @word(ptr @state, i64 MODE)
  %mode = inttoptr i64 %mode_word to ptr
  %dict = call ptr @dict_of_thread()
  %no_dict = icmp eq ptr %dict, null
  br i1 %no_dict, label %failed, label %read
read:
  %key_word = call i64 @word(ptr @state, i64 $mode_key)
  %key = inttoptr i64 %key_word to ptr
  %now = call ptr @PyDict_GetItemWithError(ptr %dict, ptr %key)
  %no_mode = icmp eq ptr %now, null
  br i1 %no_mode, label %strange, label %keep
strange:
  %refused = call ptr @refuse(ptr @state, ptr @mode_usage)
  br label %drop
keep:
  %at = call i64 @word(ptr @state, i64 $mode_at)
  %slot = getelementptr i8, ptr %self, i64 %at
  %rest = load ptr, ptr %slot
  ; An object that was made past its class has nothing there.
  %unset = icmp eq ptr %rest, null
  %none_word = call i64 @word(ptr @state, i64 $none)
  %none = inttoptr i64 %none_word to ptr
  %before = select i1 %unset, ptr %none, ptr %rest
  %kept = call ptr (i64, ...) @PyTuple_Pack(i64 2, ptr %before, ptr %now)
  %none_kept = icmp eq ptr %kept, null
  br i1 %none_kept, label %drop, label %put
put:
  %error = call i32 @PyDict_SetItem(ptr %dict, ptr %key, ptr %mode)
  %fine = icmp eq i32 %error, 0
  br i1 %fine, label %done, label %forget
forget:
  call void @Py_DecRef(ptr %kept)
  br label %drop
done:
  store ptr %kept, ptr %slot
  call void @Py_DecRef(ptr %rest)
  call void @Py_DecRef(ptr %dict)
  %nothing = call ptr @nothing()
  ret ptr %nothing
drop:
  call void @Py_DecRef(ptr %dict)
  br label %failed
failed:
  ret ptr null
}
"""


def _enter(name: str, mode: str) -> str:
    return _ENTER.replace("NAME", name).replace("MODE", mode)


METHODS = """
; What the functions share with Python. Functions of their own find it by the object they are bound to, methods by name.
@state = internal global [$state_words x i64] zeroinitializer

@mode_usage = internal constant $mode_usage
@leave_usage = internal constant $leave_usage

define ptr @state_$digest() {
  ret ptr @state
}

define internal ptr @nothing() {
  %none_word = call i64 @word(ptr @state, i64 $none)
  %none = inttoptr i64 %none_word to ptr
  call void @Py_IncRef(ptr %none)
  ret ptr %none
}

define internal ptr @dict_of_thread() {
  %thread_word = call i64 @word(ptr @state, i64 $mode_thread)
  %thread = inttoptr i64 %thread_word to ptr
  %name_word = call i64 @word(ptr @state, i64 $mode_dict)
  %name = inttoptr i64 %name_word to ptr
  %dict = call ptr @PyObject_GetAttr(ptr %thread, ptr %name)
  ret ptr %dict
}

; A grad mode that was not entered. What is not a class of modes alone is left to Python: functions that are decorated,
; and wrong arguments.
define ptr @new_mode_$digest(ptr %self, ptr %args, i64 %count, ptr %names) {
  %one = icmp eq i64 %count, 1
  %unnamed = icmp eq ptr %names, null
  %plain = and i1 %one, %unnamed
  br i1 %plain, label %look, label %python
look:
  %class = load ptr, ptr %args
  %meta = call ptr @type_of(ptr %class)
  %meta_word = ptrtoint ptr %meta to i64
  %type_word = call i64 @word(ptr @state, i64 $type_type)
  %is_class = icmp eq i64 %meta_word, %type_word
  br i1 %is_class, label %derived, label %python
derived:
  %base_word = call i64 @word(ptr @state, i64 $mode_class)
  %base = inttoptr i64 %base_word to ptr
  %subtype = call i32 @PyType_IsSubtype(ptr %class, ptr %base)
  %is_mode = icmp ne i32 %subtype, 0
  br i1 %is_mode, label %make, label %python
make:
  %made = call ptr @PyType_GenericAlloc(ptr %class, i64 0)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %done, label %fill
fill:
  %at = call i64 @word(ptr @state, i64 $mode_at)
  %slot = getelementptr i8, ptr %made, i64 %at
  %none = call ptr @nothing()
  store ptr %none, ptr %slot
  br label %done
done:
  ret ptr %made
python:
  %function_word = call i64 @word(ptr @state, i64 $mode_maker)
  %function = inttoptr i64 %function_word to ptr
  %result = call ptr @PyObject_Vectorcall(ptr %function, ptr %args, i64 %count, ptr %names)
  ret ptr %result
}

; Leaves a grad mode: what was kept last is the thread's again.
define ptr @leave_mode_$digest(ptr %self, ptr %args, i64 %count) {
  ; In a new thread this runs Python code, so what is kept is read after it.
  %dict = call ptr @dict_of_thread()
  %no_dict = icmp eq ptr %dict, null
  br i1 %no_dict, label %failed, label %begin
begin:
  %at = call i64 @word(ptr @state, i64 $mode_at)
  %slot = getelementptr i8, ptr %self, i64 %at
  %kept = load ptr, ptr %slot
  %unset = icmp eq ptr %kept, null
  br i1 %unset, label %strange, label %look
look:
  %type = call ptr @type_of(ptr %kept)
  %type_word = ptrtoint ptr %type to i64
  %tuple_word = call i64 @word(ptr @state, i64 $tuple_type)
  %entered = icmp eq i64 %type_word, %tuple_word
  br i1 %entered, label %read, label %strange
strange:
  call void @Py_DecRef(ptr %dict)
  %refused = call ptr @refuse(ptr @state, ptr @leave_usage)
  br label %failed
read:
  %rest = call ptr @PyTuple_GetItem(ptr %kept, i64 0)
  %mode = call ptr @PyTuple_GetItem(ptr %kept, i64 1)
  %spoilt = icmp eq ptr %mode, null
  br i1 %spoilt, label %drop, label %put
drop:
  call void @Py_DecRef(ptr %dict)
  br label %failed
put:
  %key_word = call i64 @word(ptr @state, i64 $mode_key)
  %key = inttoptr i64 %key_word to ptr
  %error = call i32 @PyDict_SetItem(ptr %dict, ptr %key, ptr %mode)
  call void @Py_DecRef(ptr %dict)
  %fine = icmp eq i32 %error, 0
  br i1 %fine, label %done, label %failed
done:
  call void @Py_IncRef(ptr %rest)
  store ptr %rest, ptr %slot
  call void @Py_DecRef(ptr %kept)
  %nothing = call ptr @nothing()
  ret ptr %nothing
failed:
  ret ptr null
}

; A call of a compiled function: its region's replay, if that is a native one and finds all as before. Anything else is
; left to a method of the same object.
define ptr @call_region_$digest(ptr %self, ptr %args, i64 %count, ptr %names) {
  %region_at = call i64 @word(ptr @state, i64 $region_at)
  %region_slot = getelementptr i8, ptr %self, i64 %region_at
  %region = load ptr, ptr %region_slot
  %unnamed = icmp eq ptr %names, null
  %has_region = icmp ne ptr %region, null
  %plain = and i1 %unnamed, %has_region
  br i1 %plain, label %class, label %python
class:
  %kind = call ptr @type_of(ptr %region)
  %kind_word = ptrtoint ptr %kind to i64
  %region_word = call i64 @word(ptr @state, i64 $region_class)
  %is_region = icmp eq i64 %kind_word, %region_word
  br i1 %is_region, label %look, label %python
look:
  %straight_at = call i64 @word(ptr @state, i64 $straight_at)
  %straight_slot = getelementptr i8, ptr %region, i64 %straight_at
  %straight = load ptr, ptr %straight_slot
  %unset = icmp eq ptr %straight, null
  br i1 %unset, label %python, label %native
native:
  %type = call ptr @type_of(ptr %straight)
  %type_word = ptrtoint ptr %type to i64
  %native_word = call i64 @word(ptr @state, i64 $native_type)
  %is_native = icmp eq i64 %type_word, %native_word
  br i1 %is_native, label %replay, label %python
replay:
  ; The region may drop it meanwhile, with its table.
  call void @Py_IncRef(ptr %straight)
  %holder = call ptr @PyCFunction_GetSelf(ptr %straight)
  %table_object = call ptr @PyTuple_GetItem(ptr %holder, i64 0)
  %table_word = call i64 @data_of(ptr %table_object)
  %table = inttoptr i64 %table_word to ptr
  %result = call ptr @replay_given(ptr %table, ptr %args, i64 %count)
  %result_word = ptrtoint ptr %result to i64
  %miss_word = call i64 @word(ptr %table, i64 $replay_miss)
  %missed = icmp eq i64 %result_word, %miss_word
  call void @Py_DecRef(ptr %straight)
  br i1 %missed, label %again, label %done
done:
  ret ptr %result
again:
  call void @Py_DecRef(ptr %result)
  br label %python
python:
  br i1 %unnamed, label %whole, label %named
named:
  %more = call i64 @PyTuple_Size(ptr %names)
  br label %whole
whole:
  %others = phi i64 [ 0, %python ], [ %more, %named ]
  %values = add i64 %count, %others
  %places = add i64 %values, 1
  %stack = alloca ptr, i64 %places
  store ptr %self, ptr %stack
  br label %head
head:
  %i = phi i64 [ 0, %whole ], [ %next, %fill ]
  %left = icmp slt i64 %i, %values
  br i1 %left, label %fill, label %call
fill:
  %next = add i64 %i, 1
  %from = getelementptr ptr, ptr %args, i64 %i
  %to = getelementptr ptr, ptr %stack, i64 %next
  %value = load ptr, ptr %from
  store ptr %value, ptr %to
  br label %head
call:
  %method_word = call i64 @word(ptr @state, i64 $region_method)
  %method = inttoptr i64 %method_word to ptr
  %given = add i64 %count, 1
  %answer = call ptr @PyObject_VectorcallMethod(ptr %method, ptr %stack, i64 %given, ptr %names)
  ret ptr %answer
}
"""

METHODS += _enter("enter_no_grad", "$false") + _enter("enter_grad", "$true")
