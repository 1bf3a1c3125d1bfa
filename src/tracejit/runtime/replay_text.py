"""The text of a native replay, for `entry.py`: a call of a region that looks, runs one program and makes one tensor.

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
REPLAY_WORDS = 21

MAX_ARGUMENTS = 8

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

; A call of a region: its result, or what says that something is not as before, with nothing done. The tensor is made
; first, as that may collect garbage: no Python code, which could enter the region, runs from then on.
define ptr @replay_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %objects = alloca [$max_arguments x ptr]
  %table_object = call ptr @PyTuple_GetItem(ptr %self, i64 0)
  %table_word = call i64 @data_of(ptr %table_object)
  %table = inttoptr i64 %table_word to ptr
  %state_word = call i64 @word(ptr %table, i64 $replay_state)
  %state = inttoptr i64 %state_word to ptr
  %two = icmp eq i64 %count, 2
  br i1 %two, label %sizes, label %wrong
wrong:
  %refused = call ptr @refuse(ptr %state, ptr @replay_usage)
  ret ptr %refused
sizes:
  %given = load ptr, ptr %args
  %named_at = getelementptr ptr, ptr %args, i64 1
  %named = load ptr, ptr %named_at
  %many = call i64 @PyTuple_Size(ptr %given)
  %wanted = call i64 @word(ptr %table, i64 $replay_arguments)
  %as_many = icmp eq i64 %many, %wanted
  %others = call i64 @PyDict_Size(ptr %named)
  %bad_types = or i64 %many, %others
  %bad = icmp slt i64 %bad_types, 0
  br i1 %bad, label %failed, label %types
failed:
  ret ptr null
types:
  %no_others = icmp eq i64 %others, 0
  %plain = and i1 %as_many, %no_others
  %ready_now = call i64 @word(ptr %table, i64 $replay_ready)
  %is_ready_now = icmp ne i64 %ready_now, 0
  %may_go = and i1 %plain, %is_ready_now
  br i1 %may_go, label %thread, label %miss
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
  br i1 %none_made, label %failed, label %enter
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
  br i1 %unchanged, label %head, label %drop
head:
  %i = phi i64 [ 0, %hold ], [ %next, %fill ]
  %more = icmp slt i64 %i, %many
  br i1 %more, label %fill, label %look
fill:
  %next = add i64 %i, 1
  %object = call ptr @PyTuple_GetItem(ptr %given, i64 %i)
  %object_at = getelementptr ptr, ptr %objects, i64 %i
  store ptr %object, ptr %object_at
  br label %head
look:
  %look_word = call i64 @word(ptr %table, i64 $replay_look)
  %look_table = inttoptr i64 %look_word to ptr
  %unlike = call i64 @look_at(ptr %state, ptr %look_table, ptr %objects, i64 %many)
  %alike = icmp eq i64 %unlike, 0
  br i1 %alike, label %run, label %drop
run:
  %pointers_word = call i64 @word(ptr %table, i64 $replay_pointers)
  %pointers = inttoptr i64 %pointers_word to ptr
  call void @point_to(ptr %made, ptr %template_table, ptr %pointers)
  %code = call i64 @run_ready(ptr %state, ptr %table)
  %ran = icmp eq i64 %code, 0
  br i1 %ran, label %count_call, label %drop
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
  %miss_word = call i64 @word(ptr %table, i64 $replay_miss)
  %miss_object = inttoptr i64 %miss_word to ptr
  call void @Py_IncRef(ptr %miss_object)
  ret ptr %miss_object
}
"""
