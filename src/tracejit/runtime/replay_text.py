"""The text of a native replay, for `entry.py`: a call of a region that looks, computes some numbers, runs one program,
makes one tensor, and lets versions and a count go up.

In: nothing. Out: a page of text, to stand behind those of `entry_text.py` and `object_text.py`, and where a replay's
table has what (trace/replay/straight.py lays it out).
Must not know: where objects keep what; `entry.py` fills that in.
"""

from __future__ import annotations

# Words of a replay's table: addresses, if nothing else is said.
READY = 0
"""1 if the words of HELD say everything there is to look at, else 0."""
STATE = 1
"""The state of the native functions."""
THREAD = 2
"""The object whose dict is the state of the thread; what must be in this dict follows."""
DICT = 3
"""The name of that dict."""
KEYS = 4
"""Three keys and what must stand there."""
HELD = 10
"""The words of memory that must be what they were."""
LOOK = 11
"""The table of the look at the arguments."""
ARGUMENTS = 12
"""How many arguments there must be."""
TEMPLATE = 13
"""What the tensor that is made is like, and the table for that."""
TEMPLATE_TABLE = 14
CONTROL = 15
"""A list that holds the program's control block."""
POINTERS = 16
SCALARS = 17
FREE = 18
"""A list that is empty while somebody is in the region."""
COUNT = 19
"""Where the address of the number of replayed calls stands."""
MISS = 20
"""What is given where something is not as before."""
KEPT = 21
"""A list that holds the words of the gradients which this replay gave and the next one may write into; 0 if it gives
none."""
DICTS = 22
"""A tuple of dicts that hold one count under a key, 0 if there is none; what is added to it in each call."""
COUNT_KEY = 23
COUNT_BY = 24
STEPS = 25
"""Steps of arithmetic, behind their number: what is done, where it goes, and two places it is done with."""
NUMBERS = 26
"""The numbers they are done with: the count before and after, constants, what steps gave."""
NODE = 27
"""The class of the step of the tape that made the tensor, 0 if there is none; the names of its position and of what
gives positions; where a tensor has it."""
POSITION = 28
NEXT_POSITION = 29
NODE_AT = 30
VERSIONS = 31
"""The table of the versions that go up, 0 if none does."""
REPLAY_WORDS = 32

MAX_ARGUMENTS = 8

EXACT = 1 << 53
"""Whole numbers below it are double precision numbers, too."""

ADD, SUBTRACT, MULTIPLY, DIVIDE, POWER, ROOT, PUT = range(7)
"""What a step of arithmetic does; the last one puts a number among the program's."""

REPLAYS = """
; Whether a dict has an object under a key. Keys are strings, which compare without error.
define internal i1 @has(ptr %dict, ptr %table, i64 %at) {
  %next = add i64 %at, 1
  %key_word = call i64 @word(ptr %table, i64 %at)
  %key = inttoptr i64 %key_word to ptr
  %wanted_word = call i64 @word(ptr %table, i64 %next)
  %wanted = inttoptr i64 %wanted_word to ptr
  %found = call ptr @PyDict_GetItemWithError(ptr %dict, ptr %key)
  %same = icmp eq ptr %found, %wanted
  ret i1 %same
}

; Whether a thread's state is what a replay wants; -1 with an exception set.
define internal i64 @thread_fits(ptr %table) {
  %thread_word = call i64 @word(ptr %table, i64 $replay_thread)
  %thread = inttoptr i64 %thread_word to ptr
  %name_word = call i64 @word(ptr %table, i64 $replay_dict)
  %name = inttoptr i64 %name_word to ptr
  %dict = call ptr @PyObject_GetAttr(ptr %thread, ptr %name)
  %none = icmp eq ptr %dict, null
  br i1 %none, label %failed, label %look
look:
  %first = call i1 @has(ptr %dict, ptr %table, i64 $replay_key_0)
  %second = call i1 @has(ptr %dict, ptr %table, i64 $replay_key_1)
  %third = call i1 @has(ptr %dict, ptr %table, i64 $replay_key_2)
  %two = and i1 %first, %second
  %three = and i1 %two, %third
  call void @Py_DecRef(ptr %dict)
  %fits = zext i1 %three to i64
  ret i64 %fits
failed:
  ret i64 -1
}

; The code of a program that is laid out for the present number of threads and whose team is there; -1 otherwise,
; with nothing done.
define internal i64 @run_ready(ptr %state, ptr %table) {
  %list_word = call i64 @word(ptr %table, i64 $replay_control)
  %list = inttoptr i64 %list_word to ptr
  %items_at = getelementptr i8, ptr %list, i64 $list_items
  %items = load ptr, ptr %items_at
  %control_object = load ptr, ptr %items
  %control = call i64 @data_of(ptr %control_object)
  %control_at = inttoptr i64 %control to ptr
  %threads = call i64 @word(ptr %state, i64 $threads)
  %planned = call i64 @word(ptr %control_at, i64 $program_threads)
  %fits = icmp eq i64 %threads, %planned
  %parallel = call i64 @word(ptr %control_at, i64 $parallel)
  %is_serial = icmp eq i64 %parallel, 0
  %team = call i64 @word(ptr %state, i64 $team)
  %has_team = icmp ne i64 %team, 0
  %started = or i1 %is_serial, %has_team
  %ready = and i1 %fits, %started
  br i1 %ready, label %go, label %not_so
not_so:
  ret i64 -1
go:
  %pointers = call i64 @word(ptr %table, i64 $replay_pointers)
  %scalars = call i64 @word(ptr %table, i64 $replay_scalars)
  %code = call i64 @run_job(ptr %state, i64 %control, i64 %pointers, i64 %scalars)
  ret i64 %code
}

; Adds one to the number whose address stands in a word; false with an exception set.
define internal i1 @count_one(ptr %at) {
  %old = load ptr, ptr %at
  %before = call i64 @PyLong_AsLongLong(ptr %old)
  %after = add i64 %before, 1
  %new = call ptr @PyLong_FromLongLong(i64 %after)
  %none = icmp eq ptr %new, null
  br i1 %none, label %failed, label %put
put:
  store ptr %new, ptr %at
  call void @Py_DecRef(ptr %old)
  ret i1 true
failed:
  ret i1 false
}

; The count that all dicts have under the key; -1 if they hold no one object, or no whole number that a float can be.
define internal i64 @common_count(ptr %state, ptr %dicts, ptr %key) {
  %dict = call ptr @PyTuple_GetItem(ptr %dicts, i64 0)
  %count = call ptr @PyDict_GetItemWithError(ptr %dict, ptr %key)
  %none = icmp eq ptr %count, null
  br i1 %none, label %no, label %compare
compare:
  %alike = call i64 @alike_all(ptr %dicts, ptr %key, ptr %count)
  %is_one = icmp sgt i64 %alike, 0
  %type = call ptr @type_of(ptr %count)
  %type_word = ptrtoint ptr %type to i64
  %int_word = call i64 @word(ptr %state, i64 $int_type)
  %is_int = icmp eq i64 %type_word, %int_word
  %fits = and i1 %is_one, %is_int
  br i1 %fits, label %number, label %no
number:
  %value = call i64 @PyLong_AsLongLong(ptr %count)
  %small = icmp ult i64 %value, $exact
  br i1 %small, label %yes, label %no
yes:
  ret i64 %value
no:
  call void @PyErr_Clear()
  ret i64 -1
}

; Does the steps of arithmetic; false where Python raises an error, or might.
define internal i1 @compute(ptr %table) {
entry:
  %steps_word = call i64 @word(ptr %table, i64 $replay_steps)
  %steps = inttoptr i64 %steps_word to ptr
  %numbers_word = call i64 @word(ptr %table, i64 $replay_numbers)
  %numbers = inttoptr i64 %numbers_word to ptr
  %scalars_word = call i64 @word(ptr %table, i64 $replay_scalars)
  %scalars = inttoptr i64 %scalars_word to ptr
  %count = load i64, ptr %steps
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %keep ], [ %next, %put ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %step, label %done
step:
  %next = add i64 %i, 1
  %first = mul i64 %i, 4
  %at = getelementptr i64, ptr %steps, i64 %first
  %kind = call i64 @word(ptr %at, i64 1)
  %to = call i64 @word(ptr %at, i64 2)
  %x_place = call i64 @word(ptr %at, i64 3)
  %y_place = call i64 @word(ptr %at, i64 4)
  %x_at = getelementptr double, ptr %numbers, i64 %x_place
  %y_at = getelementptr double, ptr %numbers, i64 %y_place
  %x = load double, ptr %x_at
  %y = load double, ptr %y_at
  switch i64 %kind, label %no [ i64 $add, label %add  i64 $subtract, label %subtract  i64 $multiply, label %multiply
                                i64 $divide, label %divide  i64 $power, label %power  i64 $root, label %root
                                i64 $put, label %put ]
add:
  %sum = fadd double %x, %y
  br label %keep
subtract:
  %difference = fsub double %x, %y
  br label %keep
multiply:
  %product = fmul double %x, %y
  br label %keep
divide:
  %by_zero = fcmp oeq double %y, 0.0
  %quotient = fdiv double %x, %y
  br i1 %by_zero, label %no, label %keep
power:
  ; Of other numbers Python makes complex ones or raises errors.
  %raised = call double @power_in_python(double %x, double %y)
  %positive = fcmp ogt double %x, 0.0
  %finite = fcmp olt double %raised, 0x7FF0000000000000
  %plain = and i1 %positive, %finite
  br i1 %plain, label %keep, label %no
root:
  %has_root = fcmp oge double %x, 0.0
  %rooted = call double @llvm.sqrt.f64(double %x)
  br i1 %has_root, label %keep, label %no
keep:
  %result = phi double [ %sum, %add ], [ %difference, %subtract ], [ %product, %multiply ], [ %quotient, %divide ],
                       [ %raised, %power ], [ %rooted, %root ]
  %to_at = getelementptr double, ptr %numbers, i64 %to
  store double %result, ptr %to_at
  br label %head
put:
  %scalar_at = getelementptr double, ptr %scalars, i64 %to
  store double %x, ptr %scalar_at
  br label %head
done:
  ret i1 true
no:
  ret i1 false
}

; Has a new step of the tape behind a tensor that was just made; false with an exception set.
define internal i1 @give_node(ptr %made, ptr %table, ptr %class) {
  %at = call i64 @word(ptr %table, i64 $replay_node_at)
  %name_word = call i64 @word(ptr %table, i64 $replay_position)
  %name = inttoptr i64 %name_word to ptr
  %giver_word = call i64 @word(ptr %table, i64 $replay_next_position)
  %giver = inttoptr i64 %giver_word to ptr
  %node = call ptr @PyType_GenericAlloc(ptr %class, i64 0)
  %none = icmp eq ptr %node, null
  br i1 %none, label %failed, label %place
place:
  %position = call ptr @PyObject_CallNoArgs(ptr %giver)
  %nowhere = icmp eq ptr %position, null
  br i1 %nowhere, label %drop, label %name_it
name_it:
  %error = call i32 @PyObject_SetAttr(ptr %node, ptr %name, ptr %position)
  call void @Py_DecRef(ptr %position)
  %fine = icmp eq i32 %error, 0
  br i1 %fine, label %put, label %drop
put:
  %slot = getelementptr i8, ptr %made, i64 %at
  %old = load ptr, ptr %slot
  store ptr %node, ptr %slot
  %empty = icmp eq ptr %old, null
  br i1 %empty, label %done, label %forget
forget:
  call void @Py_DecRef(ptr %old)
  br label %done
done:
  ret i1 true
drop:
  call void @Py_DecRef(ptr %node)
  br label %failed
failed:
  ret i1 false
}

define internal ptr @missed(ptr %table) {
  %miss_word = call i64 @word(ptr %table, i64 $replay_miss)
  %miss_object = inttoptr i64 %miss_word to ptr
  call void @Py_IncRef(ptr %miss_object)
  ret ptr %miss_object
}

; A call of a region with these arguments: its result, or what says that something is not as before, with nothing done.
; The tensor and its step of the tape are made first, as that may collect garbage: no Python code, which could enter the
; region, runs from then on.
define internal ptr @replay_given(ptr %table, ptr %objects, i64 %many) {
entry:
  %state_word = call i64 @word(ptr %table, i64 $replay_state)
  %state = inttoptr i64 %state_word to ptr
  %wanted = call i64 @word(ptr %table, i64 $replay_arguments)
  %as_many = icmp eq i64 %many, %wanted
  %ready_now = call i64 @word(ptr %table, i64 $replay_ready)
  %is_ready_now = icmp ne i64 %ready_now, 0
  %may_go = and i1 %as_many, %is_ready_now
  br i1 %may_go, label %thread, label %miss
failed:
  ret ptr null
thread:
  %thread_ok = call i64 @thread_fits(ptr %table)
  %thread_error = icmp slt i64 %thread_ok, 0
  br i1 %thread_error, label %failed, label %thread_known
thread_known:
  %is_free = icmp ne i64 %thread_ok, 0
  br i1 %is_free, label %make, label %miss
make:
  %template_word = call i64 @word(ptr %table, i64 $replay_template)
  %template = inttoptr i64 %template_word to ptr
  %template_table_word = call i64 @word(ptr %table, i64 $replay_template_table)
  %template_table = inttoptr i64 %template_table_word to ptr
  %made = call ptr @copy_with_array(ptr %state, ptr %template, ptr %template_table)
  %none_made = icmp eq ptr %made, null
  br i1 %none_made, label %failed, label %remember
remember:
  %class_word = call i64 @word(ptr %table, i64 $replay_node)
  %class = inttoptr i64 %class_word to ptr
  %has_node = icmp ne i64 %class_word, 0
  br i1 %has_node, label %node, label %enter
node:
  %given_node = call i1 @give_node(ptr %made, ptr %table, ptr %class)
  br i1 %given_node, label %enter, label %lost
enter:
  %ready = call i64 @word(ptr %table, i64 $replay_ready)
  %is_ready = icmp ne i64 %ready, 0
  %free_word = call i64 @word(ptr %table, i64 $replay_free)
  %free = inttoptr i64 %free_word to ptr
  %places = call i64 @PyList_Size(ptr %free)
  %is_open = icmp ne i64 %places, 0
  %may_enter = and i1 %is_ready, %is_open
  br i1 %may_enter, label %hold, label %drop
hold:
  %held_word = call i64 @word(ptr %table, i64 $replay_held)
  %held = inttoptr i64 %held_word to ptr
  %changed = call i64 @first_changed(ptr %held)
  %unchanged = icmp eq i64 %changed, 0
  br i1 %unchanged, label %gradients, label %drop
gradients:
  %kept_word = call i64 @word(ptr %table, i64 $replay_kept)
  %gives_none = icmp eq i64 %kept_word, 0
  br i1 %gives_none, label %look, label %keep
keep:
  %kept_list = inttoptr i64 %kept_word to ptr
  %kept_items_at = getelementptr i8, ptr %kept_list, i64 $list_items
  %kept_items = load ptr, ptr %kept_items_at
  %kept_array = load ptr, ptr %kept_items
  %kept_data = call i64 @data_of(ptr %kept_array)
  %kept = inttoptr i64 %kept_data to ptr
  %lost_some = call i64 @first_changed(ptr %kept)
  %has_all = icmp eq i64 %lost_some, 0
  br i1 %has_all, label %look, label %drop
look:
  %look_word = call i64 @word(ptr %table, i64 $replay_look)
  %look_table = inttoptr i64 %look_word to ptr
  %unlike = call i64 @look_at(ptr %state, ptr %look_table, ptr %objects, i64 %many)
  %alike = icmp eq i64 %unlike, 0
  br i1 %alike, label %counters, label %drop
counters:
  %dicts_word = call i64 @word(ptr %table, i64 $replay_dicts)
  %dicts = inttoptr i64 %dicts_word to ptr
  %key_word = call i64 @word(ptr %table, i64 $replay_count_key)
  %key = inttoptr i64 %key_word to ptr
  %counts = icmp ne i64 %dicts_word, 0
  br i1 %counts, label %count_up, label %arithmetic
count_up:
  %count_before = call i64 @common_count(ptr %state, ptr %dicts, ptr %key)
  %no_count = icmp slt i64 %count_before, 0
  br i1 %no_count, label %drop, label %counted_up
counted_up:
  %count_by = call i64 @word(ptr %table, i64 $replay_count_by)
  %count_after = add i64 %count_before, %count_by
  %numbers_word = call i64 @word(ptr %table, i64 $replay_numbers)
  %numbers = inttoptr i64 %numbers_word to ptr
  %number_before = sitofp i64 %count_before to double
  %number_after = sitofp i64 %count_after to double
  store double %number_before, ptr %numbers
  %after_at = getelementptr double, ptr %numbers, i64 1
  store double %number_after, ptr %after_at
  %new_count = call ptr @PyLong_FromLongLong(i64 %count_after)
  %no_new_count = icmp eq ptr %new_count, null
  br i1 %no_new_count, label %lost, label %arithmetic
arithmetic:
  %entered = phi ptr [ null, %counters ], [ %new_count, %counted_up ]
  %computed = call i1 @compute(ptr %table)
  br i1 %computed, label %run, label %uncount
run:
  %pointers_word = call i64 @word(ptr %table, i64 $replay_pointers)
  %pointers = inttoptr i64 %pointers_word to ptr
  call void @point_to(ptr %made, ptr %template_table, ptr %pointers)
  %code = call i64 @run_ready(ptr %state, ptr %table)
  %ran = icmp eq i64 %code, 0
  br i1 %ran, label %versions, label %uncount
uncount:
  %was_counted = icmp ne ptr %entered, null
  br i1 %was_counted, label %forget_count, label %drop
forget_count:
  call void @Py_DecRef(ptr %entered)
  br label %drop
versions:
  %versions_word = call i64 @word(ptr %table, i64 $replay_versions)
  %versions_table = inttoptr i64 %versions_word to ptr
  %has_versions = icmp ne i64 %versions_word, 0
  br i1 %has_versions, label %go_up, label %counts_go_in
go_up:
  call void @go_up(ptr %versions_table)
  br label %counts_go_in
counts_go_in:
  %has_count = icmp ne ptr %entered, null
  br i1 %has_count, label %enter_counts, label %count_call
enter_counts:
  %code_of_all = call i64 @enter_all(ptr %dicts, ptr %key, ptr %entered)
  call void @Py_DecRef(ptr %entered)
  %in_all = icmp sgt i64 %code_of_all, 0
  br i1 %in_all, label %count_call, label %lost
count_call:
  %count_word = call i64 @word(ptr %table, i64 $replay_count)
  %count_at = inttoptr i64 %count_word to ptr
  %counted = call i1 @count_one(ptr %count_at)
  br i1 %counted, label %done, label %lost
done:
  ret ptr %made
lost:
  call void @Py_DecRef(ptr %made)
  ret ptr null
drop:
  call void @Py_DecRef(ptr %made)
  br label %miss
miss:
  %nothing = call ptr @missed(ptr %table)
  ret ptr %nothing
}

; A replay of a tuple of arguments and a dict of named ones.
define ptr @replay_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %objects = alloca [$max_arguments x ptr]
  %table_object = call ptr @PyTuple_GetItem(ptr %self, i64 0)
  %table_word = call i64 @data_of(ptr %table_object)
  %table = inttoptr i64 %table_word to ptr
  %two = icmp eq i64 %count, 2
  br i1 %two, label %sizes, label %wrong
wrong:
  %state_word = call i64 @word(ptr %table, i64 $replay_state)
  %state = inttoptr i64 %state_word to ptr
  %refused = call ptr @refuse(ptr %state, ptr @replay_usage)
  ret ptr %refused
sizes:
  %given = load ptr, ptr %args
  %named_at = getelementptr ptr, ptr %args, i64 1
  %named = load ptr, ptr %named_at
  %many = call i64 @PyTuple_Size(ptr %given)
  %others = call i64 @PyDict_Size(ptr %named)
  %bad_types = or i64 %many, %others
  %bad = icmp slt i64 %bad_types, 0
  br i1 %bad, label %failed, label %types
failed:
  ret ptr null
types:
  %no_others = icmp eq i64 %others, 0
  %few = icmp sle i64 %many, $max_arguments
  %may_go = and i1 %no_others, %few
  br i1 %may_go, label %head, label %miss
head:
  %i = phi i64 [ 0, %types ], [ %next, %fill ]
  %more = icmp slt i64 %i, %many
  br i1 %more, label %fill, label %go
fill:
  %next = add i64 %i, 1
  %object = call ptr @PyTuple_GetItem(ptr %given, i64 %i)
  %object_at = getelementptr ptr, ptr %objects, i64 %i
  store ptr %object, ptr %object_at
  br label %head
go:
  %result = call ptr @replay_given(ptr %table, ptr %objects, i64 %many)
  ret ptr %result
miss:
  %nothing = call ptr @missed(ptr %table)
  ret ptr %nothing
}
"""
