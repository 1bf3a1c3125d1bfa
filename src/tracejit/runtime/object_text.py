"""The text of the functions of `entry.py` that read and make objects: LLVM's language, with places for numbers.

In: nothing. Out: a page of text, to stand behind that of `entry_text.py`.
Must not know: where objects keep what; `entry.py` fills that in.
"""

from __future__ import annotations

_FOR_EACH_DICT = """
; ABOUT under a key: 1, or 0 where it ended before, -1 with an exception set.
define internal i64 @NAME_all(ptr %dicts, ptr %key, ptr %value) {
entry:
  %many = call i64 @PyTuple_Size(ptr %dicts)
  %bad = icmp slt i64 %many, 0
  br i1 %bad, label %failed, label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %each ]
  %more = icmp slt i64 %i, %many
  br i1 %more, label %each, label %done
each:
  %next = add i64 %i, 1
  %dict = call ptr @PyTuple_GetItem(ptr %dicts, i64 %i)
EACH
done:
  ret i64 1
failed:
  ret i64 -1
}

; The same for Python. Arguments: a tuple of dicts, the key, the object.
define ptr @NAME_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %three = icmp eq i64 %count, 3
  br i1 %three, label %begin, label %no
begin:
  %dicts = load ptr, ptr %args
  %key_at = getelementptr ptr, ptr %args, i64 1
  %key = load ptr, ptr %key_at
  %value_at = getelementptr ptr, ptr %args, i64 2
  %value = load ptr, ptr %value_at
  %code = call i64 @NAME_all(ptr %dicts, ptr %key, ptr %value)
  %bad = icmp slt i64 %code, 0
  br i1 %bad, label %failed, label %done
done:
  %result = call ptr @PyLong_FromLongLong(i64 %code)
  ret ptr %result
failed:
  ret ptr null
no:
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %refused = call ptr @refuse(ptr %state, ptr @entries_usage)
  ret ptr %refused
}
"""


def _for_each_dict(name: str, about: str, each: str) -> str:
    """A function over dicts: `each` goes on to `head`, or ends."""
    places = {"NAME": name, "ABOUT": about, "EACH": each.strip("\n")}
    text = _FOR_EACH_DICT
    for place, written in places.items():
        text = text.replace(place, written)
    return text


OBJECTS = """
; The place of the first pair of words (address, expected value) that does not hold, from 1 on; 0 if all hold.
; Pairs are looked at in order, so an address may depend on what a former pair holds.
define internal i64 @first_changed(ptr %data) {
entry:
  %count = load i64, ptr %data
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %look ]
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
  br i1 %equal, label %head, label %found
all:
  ret i64 0
found:
  ret i64 %next
}

define ptr @hold_$digest(ptr %self, ptr %pairs) {
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %is = call i1 @is_array(ptr %pairs, ptr %state)
  br i1 %is, label %begin, label %no
begin:
  %data_word = call i64 @data_of(ptr %pairs)
  %data = inttoptr i64 %data_word to ptr
  %result = call i64 @first_changed(ptr %data)
  %object = call ptr @PyLong_FromLongLong(i64 %result)
  ret ptr %object
no:
  %refused = call ptr @refuse(ptr %state, ptr @hold_usage)
  ret ptr %refused
}

; Adds to the number that each of some lists holds first. Pairs: the address of a list, what is added.
define internal void @go_up(ptr %data) {
entry:
  %count = load i64, ptr %data
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %put ]
  %before = phi ptr [ null, %entry ], [ %old, %put ]
  %before_by = phi i64 [ 0, %entry ], [ %by, %put ]
  %before_new = phi ptr [ null, %entry ], [ %new, %put ]
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
  ; Lists that held one number hold one number again. Nothing that was there before this call can lie where a number
  ; was freed since, so equal addresses are one object.
  %same_old = icmp eq ptr %old, %before
  %same_by = icmp eq i64 %by, %before_by
  %same = and i1 %same_old, %same_by
  br i1 %same, label %share, label %make
share:
  call void @Py_IncRef(ptr %before_new)
  br label %put
make:
  %number = call i64 @PyLong_AsLongLong(ptr %old)
  %sum = add i64 %number, %by
  %made = call ptr @PyLong_FromLongLong(i64 %sum)
  br label %put
put:
  %new = phi ptr [ %before_new, %share ], [ %made, %make ]
  store ptr %new, ptr %items
  call void @Py_DecRef(ptr %old)
  br label %head
done:
  ret void
}

define ptr @advance_$digest(ptr %self, ptr %pairs) {
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %is = call i1 @is_array(ptr %pairs, ptr %state)
  br i1 %is, label %begin, label %no
begin:
  %data_word = call i64 @data_of(ptr %pairs)
  %data = inttoptr i64 %data_word to ptr
  call void @go_up(ptr %data)
  %zero = call ptr @PyLong_FromLongLong(i64 0)
  ret ptr %zero
no:
  %refused = call ptr @refuse(ptr %state, ptr @hold_usage)
  ret ptr %refused
}

; A new object of the class of `template`, with what stands in its slots. The table: how many slots, where each is.
define internal ptr @copy_of(ptr %template, ptr %data) {
entry:
  %slots = load i64, ptr %data
  %type = call ptr @type_of(ptr %template)
  %made = call ptr @PyType_GenericAlloc(ptr %type, i64 0)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %done, label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %after ]
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
}

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
  %made = call ptr @copy_of(ptr %template, ptr %data)
  ret ptr %made
no:
  %refused = call ptr @refuse(ptr %state, ptr @stamp_usage)
  ret ptr %refused
}

; A new array, whose elements are not set. A table has the address of its element type, that of bytes, how many of these
; to ask for, so that the elements may begin with a line, or 0 if they may begin anywhere, and its shape.
define internal ptr @new_array(ptr %state, ptr %table) {
  %element_word = load i64, ptr %table
  %element = inttoptr i64 %element_word to ptr
  %byte_at = getelementptr i64, ptr %table, i64 1
  %byte_word = load i64, ptr %byte_at
  %byte = inttoptr i64 %byte_word to ptr
  %size_at = getelementptr i64, ptr %table, i64 2
  %size = load i64, ptr %size_at
  %rank_at = getelementptr i64, ptr %table, i64 3
  %rank = load i64, ptr %rank_at
  %rank_int = trunc i64 %rank to i32
  %shape = getelementptr i64, ptr %table, i64 4
  %class_word = call i64 @word(ptr %state, i64 $array_type)
  %class = inttoptr i64 %class_word to ptr
  %anywhere = icmp eq i64 %size, 0
  br i1 %anywhere, label %plain, label %placed
plain:
  ; The function takes a reference of the element type's over.
  call void @Py_IncRef(ptr %element)
  %new = call ptr @PyArray_NewFromDescr(ptr %class, ptr %element, i32 %rank_int, ptr %shape, ptr null, ptr null,
                                        i32 0, ptr null)
  ret ptr %new
placed:
  call void @Py_IncRef(ptr %byte)
  %memory = call ptr @PyArray_NewFromDescr(ptr %class, ptr %byte, i32 1, ptr %size_at, ptr null, ptr null,
                                           i32 0, ptr null)
  %none = icmp eq ptr %memory, null
  br i1 %none, label %nothing, label %inside
inside:
  %first = call i64 @data_of(ptr %memory)
  %past = add i64 %first, $line_mask
  %rest = and i64 %past, $line_mask
  %line_word = sub i64 %past, %rest
  %line = inttoptr i64 %line_word to ptr
  call void @Py_IncRef(ptr %element)
  %view = call ptr @PyArray_NewFromDescr(ptr %class, ptr %element, i32 %rank_int, ptr %shape, ptr null, ptr %line,
                                         i32 $own_flags, ptr null)
  %unseen = icmp eq ptr %view, null
  br i1 %unseen, label %drop, label %based
drop:
  call void @Py_DecRef(ptr %memory)
  br label %nothing
nothing:
  ret ptr null
based:
  ; Takes the reference of the memory's over.
  %refused = call i32 @PyArray_SetBaseObject(ptr %view, ptr %memory)
  %kept = icmp eq i32 %refused, 0
  br i1 %kept, label %whole, label %lost
lost:
  call void @Py_DecRef(ptr %view)
  br label %nothing
whole:
  ret ptr %view
}

; As `copy_of`, with a new array in one more slot. Behind the slots, the table has where the array goes, its place among
; pointers, and what `new_array` wants.
define internal ptr @copy_with_array(ptr %state, ptr %template, ptr %data) {
  %made = call ptr @copy_of(ptr %template, ptr %data)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %nothing, label %array
array:
  %slots = load i64, ptr %data
  %rest = getelementptr i64, ptr %data, i64 %slots
  %slot_at = getelementptr i64, ptr %rest, i64 1
  %slot = load i64, ptr %slot_at
  %array_table = getelementptr i64, ptr %rest, i64 3
  %new = call ptr @new_array(ptr %state, ptr %array_table)
  %none = icmp eq ptr %new, null
  br i1 %none, label %drop, label %put
drop:
  call void @Py_DecRef(ptr %made)
  br label %nothing
nothing:
  ret ptr null
put:
  %to = getelementptr i8, ptr %made, i64 %slot
  store ptr %new, ptr %to
  ret ptr %made
}

; Writes the address of the array's elements, of what `copy_with_array` gave by this table, to its place among pointers.
define internal void @point_to(ptr %made, ptr %data, ptr %pointers) {
  %slots = load i64, ptr %data
  %rest = getelementptr i64, ptr %data, i64 %slots
  %slot_at = getelementptr i64, ptr %rest, i64 1
  %slot = load i64, ptr %slot_at
  %place_at = getelementptr i64, ptr %rest, i64 2
  %place = load i64, ptr %place_at
  %array_at = getelementptr i8, ptr %made, i64 %slot
  %array = load ptr, ptr %array_at
  %address = call i64 @data_of(ptr %array)
  %pointer_at = getelementptr i64, ptr %pointers, i64 %place
  store i64 %address, ptr %pointer_at
  ret void
}

; As `stamp`, with a new array in one more slot, too, and the address of its elements among pointers.
define ptr @make_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %three = icmp eq i64 %count, 3
  br i1 %three, label %look, label %no
look:
  %template = load ptr, ptr %args
  %table_at = getelementptr ptr, ptr %args, i64 1
  %table = load ptr, ptr %table_at
  %pointers_at = getelementptr ptr, ptr %args, i64 2
  %pointers_object = load ptr, ptr %pointers_at
  %is_table = call i1 @is_array(ptr %table, ptr %state)
  %is_pointers = call i1 @is_array(ptr %pointers_object, ptr %state)
  %both = and i1 %is_table, %is_pointers
  br i1 %both, label %begin, label %no
begin:
  %data_word = call i64 @data_of(ptr %table)
  %data = inttoptr i64 %data_word to ptr
  %pointers_word = call i64 @data_of(ptr %pointers_object)
  %pointers = inttoptr i64 %pointers_word to ptr
  %made = call ptr @copy_with_array(ptr %state, ptr %template, ptr %data)
  %failed = icmp eq ptr %made, null
  br i1 %failed, label %done, label %point
point:
  call void @point_to(ptr %made, ptr %data, ptr %pointers)
  br label %done
done:
  ret ptr %made
no:
  %refused = call ptr @refuse(ptr %state, ptr @new_usage)
  ret ptr %refused
}

; Runs the kernel that a table names first over the table and objects; gives its code, 1 if there is no kernel yet.
define internal i64 @look_at(ptr %state, ptr %table, ptr %objects, i64 %count) {
  %block = alloca [4 x i64]
  %kernel = load i64, ptr %table
  %none_yet = icmp eq i64 %kernel, 0
  br i1 %none_yet, label %unknown, label %known
unknown:
  ret i64 1
known:
  %table_word = ptrtoint ptr %table to i64
  store i64 %table_word, ptr %block
  %block_1 = getelementptr i64, ptr %block, i64 1
  %objects_word = ptrtoint ptr %objects to i64
  store i64 %objects_word, ptr %block_1
  %block_2 = getelementptr i64, ptr %block, i64 2
  store i64 %count, ptr %block_2
  %block_3 = getelementptr i64, ptr %block, i64 3
  %none = call i64 @word(ptr %state, i64 $none)
  store i64 %none, ptr %block_3
  %code = call i64 @call_kernel(i64 %kernel, ptr %block, i64 1)
  ret i64 %code
}

; `look_at` for objects that a call only lends.
define ptr @look_$digest(ptr %self, ptr %args, i64 %count) {
entry:
  %state_word = call i64 @data_of(ptr %self)
  %state = inttoptr i64 %state_word to ptr
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %first, label %no
first:
  %table = load ptr, ptr %args
  %is = call i1 @is_array(ptr %table, ptr %state)
  br i1 %is, label %go, label %no
go:
  %data_word = call i64 @data_of(ptr %table)
  %data = inttoptr i64 %data_word to ptr
  %objects = getelementptr ptr, ptr %args, i64 1
  %objects_count = sub i64 %count, 1
  %code = call i64 @look_at(ptr %state, ptr %data, ptr %objects, i64 %objects_count)
  %object = call ptr @PyLong_FromLongLong(i64 %code)
  ret ptr %object
no:
  %refused = call ptr @refuse(ptr %state, ptr @look_usage)
  ret ptr %refused
}
"""

OBJECTS += _for_each_dict(
    "alike",
    "Whether each of some dicts holds one object",
    """
  %found = call ptr @PyDict_GetItemWithError(ptr %dict, ptr %key)
  %same = icmp eq ptr %found, %value
  br i1 %same, label %head, label %other
other:
  %error = call ptr @PyErr_Occurred()
  %raised = icmp ne ptr %error, null
  br i1 %raised, label %failed, label %unlike
unlike:
  ret i64 0
""",
)
OBJECTS += _for_each_dict(
    "enter",
    "Lets each of some dicts hold one object",
    """
  %error = call i32 @PyDict_SetItem(ptr %dict, ptr %key, ptr %value)
  %fine = icmp eq i32 %error, 0
  br i1 %fine, label %head, label %failed
""",
)
