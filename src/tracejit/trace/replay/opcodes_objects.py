"""What the instructions of CPython 3.11 to 3.13 do on the machine: attributes, items, containers and calls."""

from __future__ import annotations

import sys
import types
from typing import Any

from tracejit.tensor.tensor import Size, Tensor
from tracejit.trace.replay.builtin import text_of
from tracejit.trace.replay.frames import NULL, Frame, Instruction
from tracejit.trace.replay.guards import ABSENT
from tracejit.trace.replay.opcodes import OPCODES, opcode
from tracejit.trace.replay.symbols import Sym, Unproven

# --- attributes and items ---------------------------------------------------------------------------------------------


@opcode("LOAD_ATTR", "LOAD_METHOD")
def _load_attr(m: Any, f: Frame, i: Instruction) -> None:
    method = i.name == "LOAD_METHOD" or (sys.version_info >= (3, 12) and i.arg & 1)
    found = m.attributes.load(f.stack.pop(), i.value)
    if method:
        f.stack.append(NULL)
    f.stack.append(found)


@opcode("LOAD_SUPER_ATTR")
def _load_super_attr(m: Any, f: Frame, i: Instruction) -> None:
    made, cls, instance = f.pop_many(3)
    if made is not super:
        raise Unproven("super is another function here")
    found = m.attributes.load(m.world.make_fresh(super(cls, instance)), i.value)
    if i.arg & 1:
        f.stack.append(NULL)
    f.stack.append(found)


@opcode("STORE_ATTR")
def _store_attr(m: Any, f: Frame, i: Instruction) -> None:
    x = f.stack.pop()
    m.attributes.store(x, i.value, f.stack.pop())


@opcode("DELETE_ATTR")
def _delete_attr(m: Any, f: Frame, i: Instruction) -> None:
    m.attributes.store(f.stack.pop(), i.value, ABSENT)


def subscript(m: Any, x: Any, key: Any) -> Any:
    """`x[key]`."""
    world = m.world
    if isinstance(x, Tensor):
        return m.calls.native(type(x).__getitem__, (x, _chosen(m, key)), {})
    if m.usual(x, dict, "__getitem__"):
        found = world.item(x, key)
        if found is ABSENT:
            raise Unproven(f"KeyError: {world.fix(key)!r}")
        return found
    if isinstance(x, Size) or m.usual(x, list, "__getitem__") or m.usual(x, tuple, "__getitem__"):
        key = world.fix(key)
        try:
            if isinstance(key, slice):
                part = world.elements(x)[key]
                return world.make_fresh(part if isinstance(x, list) else tuple(part))
            return world.element(x, key)
        except (IndexError, TypeError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None
    if isinstance(x, (str, bytes, range)):
        try:
            return x[world.fix(key)]
        except (IndexError, TypeError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None
    if isinstance(m.special(x, "__getitem__"), types.FunctionType):
        return m.call(m.attributes.load(x, "__getitem__"), (key,), {})
    if isinstance(x, type) and hasattr(x, "__class_getitem__"):
        return world.keep(x.__class_getitem__(world.fix(key)))
    raise Unproven(f"a {type(x).__name__} is subscripted")


def _chosen(m: Any, key: Any) -> Any:
    """A subscript of a tensor: whole numbers may be where something begins, all others are structure."""
    if isinstance(key, tuple):
        return m.world.make_fresh(tuple([_chosen(m, k) for k in m.world.elements(key)]))
    if type(key) is slice or (type(key) is Sym and type(key.value) is int):
        return key
    return m.world.fix(key)


@opcode("BINARY_SUBSCR")
def _subscript(m: Any, f: Frame, i: Instruction) -> None:
    key = f.stack.pop()
    f.stack.append(subscript(m, f.stack.pop(), key))


@opcode("BINARY_SLICE")
def _slice(m: Any, f: Frame, i: Instruction) -> None:
    x, low, high = f.pop_many(3)
    f.stack.append(subscript(m, x, slice(low, high)))


@opcode("STORE_SUBSCR")
def _store_subscript(m: Any, f: Frame, i: Instruction) -> None:
    value, x, key = f.pop_many(3)
    _assign(m, x, key, value)


@opcode("STORE_SLICE")
def _store_slice(m: Any, f: Frame, i: Instruction) -> None:
    value, x, low, high = f.pop_many(4)
    _assign(m, x, slice(low, high), value)


def _assign(m: Any, x: Any, key: Any, value: Any) -> None:
    world = m.world
    if isinstance(x, Tensor):
        m.calls.native(type(x).__setitem__, (x, _chosen(m, key), value), {})
    elif m.usual(x, dict, "__setitem__"):
        world.pin(key)
        world.write("item", x, world.fix(key), value)
    elif isinstance(x, list) and world.is_fresh(x):
        key = world.fix(key)
        try:
            x[key] = list(m.iterate(value)) if isinstance(key, slice) else value
        except (IndexError, ValueError, TypeError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None
    elif isinstance(m.special(x, "__setitem__"), types.FunctionType):
        m.call(m.attributes.load(x, "__setitem__"), (key, value), {})
    else:
        raise Unproven(
            f"an item of a {type(x).__name__} from outside is set", "keep the value in an attribute or in a dict"
        )


@opcode("DELETE_SUBSCR")
def _delete_subscript(m: Any, f: Frame, i: Instruction) -> None:
    x, key = f.pop_many(2)
    if m.usual(x, dict, "__delitem__") and m.world.item(x, key) is not ABSENT:
        m.world.write("item", x, m.world.fix(key), ABSENT)
    elif isinstance(x, list) and m.world.is_fresh(x):
        del x[m.world.fix(key)]
    else:
        raise Unproven(f"an item of a {type(x).__name__} is deleted")


# --- building ---------------------------------------------------------------------------------------------------------


@opcode("BUILD_TUPLE")
def _build_tuple(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(m.world.make_fresh(tuple(f.pop_many(i.arg))))


@opcode("BUILD_LIST")
def _build_list(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(m.world.make_fresh(f.pop_many(i.arg)))


@opcode("BUILD_SET")
def _build_set(m: Any, f: Frame, i: Instruction) -> None:
    items = f.pop_many(i.arg)
    for x in items:
        m.world.pin(x)
    f.stack.append(m.world.make_fresh({m.world.fix(x) for x in items}))


@opcode("BUILD_MAP")
def _build_map(m: Any, f: Frame, i: Instruction) -> None:
    flat = f.pop_many(2 * i.arg)
    f.stack.append(m.world.make_fresh({m.world.fix(k): v for k, v in zip(flat[::2], flat[1::2], strict=True)}))


@opcode("BUILD_CONST_KEY_MAP")
def _build_const_key_map(m: Any, f: Frame, i: Instruction) -> None:
    keys = f.stack.pop()
    f.stack.append(m.world.make_fresh(dict(zip(keys, f.pop_many(i.arg), strict=True))))


@opcode("BUILD_SLICE")
def _build_slice(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(slice(*f.pop_many(i.arg)))


@opcode("BUILD_STRING")
def _build_string(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append("".join(f.pop_many(i.arg)))


@opcode("FORMAT_VALUE")
def _format_value(m: Any, f: Frame, i: Instruction) -> None:
    spec = f.stack.pop() if i.arg & 4 else ""
    convert = (None, str, repr, ascii)[i.arg & 3]
    f.stack.append(text_of(m, lambda x, s: format(x if convert is None else convert(x), s), (f.stack.pop(), spec)))


@opcode("CONVERT_VALUE")
def _convert_value(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(text_of(m, (None, str, repr, ascii)[i.arg], (f.stack.pop(),)))


@opcode("FORMAT_SIMPLE")
def _format_simple(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(text_of(m, format, (f.stack.pop(),)))


@opcode("FORMAT_WITH_SPEC")
def _format_with_spec(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(text_of(m, format, tuple(f.pop_many(2))))


@opcode("LIST_APPEND")
def _list_append(m: Any, f: Frame, i: Instruction) -> None:
    value = f.stack.pop()
    f.stack[-i.arg].append(value)


@opcode("SET_ADD")
def _set_add(m: Any, f: Frame, i: Instruction) -> None:
    value = f.stack.pop()
    m.world.pin(value)
    f.stack[-i.arg].add(m.world.fix(value))


@opcode("MAP_ADD")
def _map_add(m: Any, f: Frame, i: Instruction) -> None:
    key, value = f.pop_many(2)
    m.world.pin(key)
    f.stack[-i.arg][m.world.fix(key)] = value


@opcode("LIST_EXTEND")
def _list_extend(m: Any, f: Frame, i: Instruction) -> None:
    values = list(m.iterate(f.stack.pop()))
    f.stack[-i.arg].extend(values)


@opcode("SET_UPDATE")
def _set_update(m: Any, f: Frame, i: Instruction) -> None:
    values = [m.world.fix(x) for x in m.iterate(f.stack.pop())]
    f.stack[-i.arg].update(values)


@opcode("DICT_UPDATE", "DICT_MERGE")
def _dict_update(m: Any, f: Frame, i: Instruction) -> None:
    source = f.stack.pop()
    if not isinstance(source, dict):
        raise Unproven(f"a {type(source).__name__} is unpacked as a mapping")
    f.stack[-i.arg].update(m.world.pairs(source))


@opcode("LIST_TO_TUPLE")
def _list_to_tuple(m: Any, f: Frame, i: Instruction) -> None:
    f.stack[-1] = m.world.make_fresh(tuple(f.stack[-1]))


@opcode("CALL_INTRINSIC_1")
def _intrinsic(m: Any, f: Frame, i: Instruction) -> None:
    if i.text == "INTRINSIC_LIST_TO_TUPLE":
        _list_to_tuple(m, f, i)
    elif i.text == "INTRINSIC_UNARY_POSITIVE":
        OPCODES["UNARY_POSITIVE"](m, f, i)
    else:
        raise Unproven(f"the instruction {i.text} is not supported")


@opcode("UNPACK_SEQUENCE")
def _unpack(m: Any, f: Frame, i: Instruction) -> None:
    values = list(m.iterate(f.stack.pop()))
    if len(values) != i.arg:
        raise Unproven(f"ValueError: {len(values)} values to unpack into {i.arg}")
    f.stack.extend(reversed(values))


@opcode("UNPACK_EX")
def _unpack_ex(m: Any, f: Frame, i: Instruction) -> None:
    values = list(m.iterate(f.stack.pop()))
    before, after = i.arg & 0xFF, i.arg >> 8
    if len(values) < before + after:
        raise Unproven("ValueError: not enough values to unpack")
    middle = m.world.make_fresh(values[before : len(values) - after])
    f.stack.extend(reversed([*values[:before], middle, *values[len(values) - after :]]))


@opcode("GET_LEN")
def _get_len(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(m.length(f.stack[-1]))


@opcode("MATCH_SEQUENCE")
def _match_sequence(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(isinstance(f.stack[-1], (list, tuple)))


@opcode("MATCH_MAPPING")
def _match_mapping(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(isinstance(f.stack[-1], dict))


# --- calls ------------------------------------------------------------------------------------------------------------


@opcode("KW_NAMES")
def _kw_names(m: Any, f: Frame, i: Instruction) -> None:
    f.keywords = i.value if isinstance(i.value, tuple) else f.code.co_consts[i.arg]


def _invoke(m: Any, f: Frame, count: int, names: tuple[str, ...]) -> None:
    given = f.pop_many(count)
    upper = f.stack.pop()
    lower = f.stack.pop()
    # An empty place beside the callable; else the two are a callable and its first argument.
    if lower is NULL:
        target = upper
    else:
        target = lower
        if upper is not NULL:
            given.insert(0, upper)
    split = len(given) - len(names)
    kwargs = dict(zip(names, given[split:], strict=True))
    f.stack.append(m.call(target, tuple(given[:split]), kwargs))


@opcode("CALL")
def _call(m: Any, f: Frame, i: Instruction) -> None:
    names, f.keywords = f.keywords, ()
    _invoke(m, f, i.arg, names)


@opcode("CALL_KW")
def _call_kw(m: Any, f: Frame, i: Instruction) -> None:
    names = f.stack.pop()
    _invoke(m, f, i.arg, names)


@opcode("CALL_FUNCTION_EX")
def _call_ex(m: Any, f: Frame, i: Instruction) -> None:
    kwargs = f.stack.pop() if i.arg & 1 else {}
    args = f.stack.pop()
    upper = f.stack.pop()
    lower = f.stack.pop()
    target = upper if lower is NULL else lower
    if not isinstance(kwargs, dict):
        raise Unproven(f"a {type(kwargs).__name__} is unpacked as keyword arguments")
    named = dict(m.world.pairs(kwargs)) if kwargs else {}
    f.stack.append(m.call(target, tuple(m.iterate(args)), named))


@opcode("MAKE_FUNCTION")
def _make_function(m: Any, f: Frame, i: Instruction) -> None:
    code = f.stack.pop()
    flags = i.arg if sys.version_info < (3, 13) else 0
    names = code.co_freevars
    # From 3.13 on, the closure is set by the next instruction.
    closure = f.stack.pop() if flags & 8 else tuple(types.CellType() for _ in names) or None
    if flags & 4:
        f.stack.pop()
    keyword = f.stack.pop() if flags & 2 else None
    defaults = f.stack.pop() if flags & 1 else None
    made = types.FunctionType(code, f.globals, code.co_name, defaults, closure)
    made.__kwdefaults__ = keyword
    f.stack.append(m.world.make_fresh(made))


@opcode("SET_FUNCTION_ATTRIBUTE")
def _set_function_attribute(m: Any, f: Frame, i: Instruction) -> None:
    function = f.stack.pop()
    value = f.stack.pop()
    if i.arg == 1:
        function.__defaults__ = value
    elif i.arg == 2:
        function.__kwdefaults__ = value
    elif i.arg == 8:
        made = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, value
        )
        made.__kwdefaults__ = function.__kwdefaults__
        function = m.world.make_fresh(made)
    f.stack.append(function)


@opcode("BEFORE_WITH")
def _before_with(m: Any, f: Frame, i: Instruction) -> None:
    manager = f.stack.pop()
    f.stack.append(m.attributes.load(manager, "__exit__"))
    f.stack.append(m.call(m.attributes.load(manager, "__enter__"), (), {}))


@opcode("IMPORT_NAME")
def _import_name(m: Any, f: Frame, i: Instruction) -> None:
    level, names = f.pop_many(2)
    found = m.world.read("item", sys.modules, i.value) if level == 0 else ABSENT
    if found is ABSENT:
        raise Unproven(f"{i.value} is imported", "import at the top of the file")
    if not names and "." in i.value:
        found = m.world.read("item", sys.modules, i.value.partition(".")[0])
    f.stack.append(found)


@opcode("IMPORT_FROM")
def _import_from(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(m.attributes.load(f.stack[-1], i.value))


@opcode("LOAD_ASSERTION_ERROR")
def _assertion_error(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(AssertionError)


@opcode("RAISE_VARARGS")
def _raise(m: Any, f: Frame, i: Instruction) -> None:
    error = f.stack[-1] if i.arg else None
    name = getattr(error, "__name__", type(error).__name__)
    raise Unproven(f"an exception is raised ({name})", "let the function return where nothing goes wrong")
