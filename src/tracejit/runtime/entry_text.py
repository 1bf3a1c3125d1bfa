"""The text of the functions of `entry.py` that run kernels: LLVM's language, with places for numbers.

In: nothing. Out: a page of text, which declares what the page of `object_text.py` calls, too.
Must not know: where objects keep what; `entry.py` fills that in.
"""

from __future__ import annotations

KERNELS = """
declare ptr @PyCFunction_GetSelf(ptr)
declare ptr @PyDict_GetItemWithError(ptr, ptr)
declare i32 @PyDict_SetItem(ptr, ptr, ptr)
declare i64 @PyDict_Size(ptr)
declare void @PyErr_Clear()
declare ptr @PyErr_Occurred()
declare void @PyErr_SetString(ptr, ptr)
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyEval_SaveThread()
declare double @PyFloat_AsDouble(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare i64 @PyList_Size(ptr)
declare ptr @PyObject_CallNoArgs(ptr)
declare ptr @PyObject_GetAttr(ptr, ptr)
declare i32 @PyObject_SetAttr(ptr, ptr, ptr)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare ptr @PyObject_VectorcallMethod(ptr, ptr, i64, ptr)
declare void @Py_DecRef(ptr)
declare void @Py_FatalError(ptr)
declare void @Py_IncRef(ptr)
declare ptr @PyType_GenericAlloc(ptr, i64)
declare ptr @PyTuple_GetItem(ptr, i64)
declare ptr @PyTuple_Pack(i64, ...)
declare i64 @PyTuple_Size(ptr)
declare i32 @PyType_IsSubtype(ptr, ptr)
declare ptr @PyArray_NewFromDescr(ptr, ptr, i32, ptr, ptr, ptr, i32, ptr)
declare i32 @PyArray_SetBaseObject(ptr, ptr)
declare i32 @pthread_key_create(ptr, ptr)
declare ptr @pthread_getspecific(i64)
declare i32 @pthread_setspecific(i64, ptr)
declare ptr @aligned_alloc(i64, i64)
declare void @free(ptr)
declare double @power_in_python(double, double)
declare double @llvm.sqrt.f64(double)

@launch_usage = internal constant $launch_usage
@run_usage = internal constant $run_usage
@run_on_usage = internal constant $run_on_usage
@address_usage = internal constant $address_usage
@hold_usage = internal constant $hold_usage
@stamp_usage = internal constant $stamp_usage
@new_usage = internal constant $new_usage
@look_usage = internal constant $look_usage
@entries_usage = internal constant $entries_usage
@replay_usage = internal constant $replay_usage

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

; Sets a TypeError that says how a function is to be called; gives null.
define internal ptr @refuse(ptr %state, ptr %usage) {
  %type_error = call i64 @word(ptr %state, i64 $type_error)
  %exception = inttoptr i64 %type_error to ptr
  call void @PyErr_SetString(ptr %exception, ptr %usage)
  ret ptr null
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
  %refused = call ptr @refuse(ptr %state, ptr @launch_usage)
  ret ptr %refused
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

; Runs a program that is laid out for the team, and gives its code.
define internal i64 @run_job(ptr %state, i64 %control, i64 %pointers, i64 %scalars) {
  %job = alloca [4 x i64]
  %team = call i64 @word(ptr %state, i64 $team)
  store i64 %team, ptr %job
  %job_1 = getelementptr i64, ptr %job, i64 1
  store i64 %control, ptr %job_1
  %job_2 = getelementptr i64, ptr %job, i64 2
  store i64 %pointers, ptr %job_2
  %job_3 = getelementptr i64, ptr %job, i64 3
  store i64 %scalars, ptr %job_3
  %runner = call i64 @word(ptr %state, i64 $run_program)
  %code = call i64 @call_kernel(i64 %runner, ptr %job, i64 1)
  ret i64 %code
}

; The code of a run of a program, as an object; null with an exception set.
define internal ptr @run_control(ptr %state, i64 %control, i64 %pointers, i64 %scalars) {
entry:
  %control_at = inttoptr i64 %control to ptr
  %threads = call i64 @word(ptr %state, i64 $threads)
  %planned = call i64 @word(ptr %control_at, i64 $program_threads)
  %fits = icmp eq i64 %threads, %planned
  br i1 %fits, label %weigh, label %other
other:
  %other_object = call ptr @PyLong_FromLongLong(i64 $other_threads)
  ret ptr %other_object
weigh:
  %parallel = call i64 @word(ptr %control_at, i64 $parallel)
  %is_serial = icmp eq i64 %parallel, 0
  br i1 %is_serial, label %prepared, label %prepare
prepare:
  %is_ready = call i1 @ready(ptr %state)
  br i1 %is_ready, label %prepared, label %failed
failed:
  ret ptr null
prepared:
  %release = call i64 @word(ptr %control_at, i64 $release)
  %keep = icmp eq i64 %release, 0
  br i1 %keep, label %locked, label %unlocked
locked:
  %short_code = call i64 @run_job(ptr %state, i64 %control, i64 %pointers, i64 %scalars)
  br label %done
unlocked:
  %python = call ptr @PyEval_SaveThread()
  %long_code = call i64 @run_job(ptr %state, i64 %control, i64 %pointers, i64 %scalars)
  call void @PyEval_RestoreThread(ptr %python)
  br label %done
done:
  %code = phi i64 [ %short_code, %locked ], [ %long_code, %unlocked ]
  %object = call ptr @PyLong_FromLongLong(i64 %code)
  ret ptr %object
}

define ptr @run_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %three = icmp eq i64 %count, 3
  br i1 %three, label %look, label %usage
usage:
  %refused = call ptr @refuse(ptr %state, ptr @run_usage)
  ret ptr %refused
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
  %result = call ptr @run_control(ptr %state, i64 %control, i64 %pointers, i64 %scalars)
  ret ptr %result
}

; `run` with the scalars before the arrays, whose addresses are the pointers.
define ptr @run_on_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %block = alloca [$max_slots x i64], align 64
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %many = sub i64 %count, 2
  %wrong = icmp ugt i64 %many, $max_slots
  br i1 %wrong, label %usage, label %head
usage:
  %refused = call ptr @refuse(ptr %state, ptr @run_on_usage)
  ret ptr %refused
head:
  %k = phi i64 [ 0, %entry ], [ %next, %fill ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %look, label %go
look:
  %object_at = getelementptr ptr, ptr %args, i64 %k
  %object = load ptr, ptr %object_at
  %is = call i1 @is_array(ptr %object, ptr %state)
  br i1 %is, label %fill, label %usage
fill:
  ; The first two are no pointers, and written over by those that are.
  %behind = icmp sge i64 %k, 2
  %less = sub i64 %k, 2
  %place = select i1 %behind, i64 %less, i64 0
  %data = call i64 @data_of(ptr %object)
  %slot = getelementptr i64, ptr %block, i64 %place
  store i64 %data, ptr %slot
  %next = add i64 %k, 1
  br label %head
go:
  %control_object = load ptr, ptr %args
  %control = call i64 @data_of(ptr %control_object)
  %scalars_at = getelementptr ptr, ptr %args, i64 1
  %scalars_object = load ptr, ptr %scalars_at
  %scalars = call i64 @data_of(ptr %scalars_object)
  %pointers = ptrtoint ptr %block to i64
  %result = call ptr @run_control(ptr %state, i64 %control, i64 %pointers, i64 %scalars)
  ret ptr %result
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
  %refused = call ptr @refuse(ptr %state, ptr @address_usage)
  ret ptr %refused
}

; As wide as the widest type of a key.
@workspace_key = internal global i64 0
@no_workspace = internal constant $no_workspace

; Makes the key under which each thread keeps its workspace, which is freed when the thread ends.
define i32 @open_workspaces_$digest() {
  %error = call i32 @pthread_key_create(ptr @workspace_key, ptr @free)
  ret i32 %error
}

; The address of at least so many bytes of the calling thread. In front of them it says how many there are.
define i64 @workspace_$digest(i64 %wanted) {
  %key = load i64, ptr @workspace_key
  %old = call ptr @pthread_getspecific(i64 %key)
  %none = icmp eq ptr %old, null
  br i1 %none, label %make, label %look
look:
  %room = load i64, ptr %old
  %enough = icmp uge i64 %room, %wanted
  br i1 %enough, label %done, label %drop
drop:
  call void @free(ptr %old)
  br label %make
make:
  %few = icmp ult i64 %wanted, $workspace_bytes
  %size = select i1 %few, i64 $workspace_bytes, i64 %wanted
  %whole = add i64 %size, $line_bytes
  %new = call ptr @aligned_alloc(i64 $line_bytes, i64 %whole)
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %end, label %keep
keep:
  store i64 %size, ptr %new
  %error = call i32 @pthread_setspecific(i64 %key, ptr %new)
  %refused = icmp ne i32 %error, 0
  br i1 %refused, label %end, label %done
end:
  call void @Py_FatalError(ptr @no_workspace)
  unreachable
done:
  %block = phi ptr [ %old, %look ], [ %new, %keep ]
  %first = getelementptr i8, ptr %block, i64 $line_bytes
  %address = ptrtoint ptr %first to i64
  ret i64 %address
}

; What a thread made by pthread_create runs: the kernel whose address is the first slot of its block.
define ptr @thread_main_$digest(ptr %block) {
  %kernel = load i64, ptr %block
  %ignored = call i64 @call_kernel(i64 %kernel, ptr %block, i64 0)
  ret ptr null
}
"""
