"""What the instructions of CPython 3.11 to 3.13 do on the machine: the stack, variables, arithmetic and jumps."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

from tracejit.tensor.tensor import Tensor
from tracejit.trace.replay.frames import NULL, Frame, Generator, Instruction, Iteration
from tracejit.trace.replay.guards import ABSENT
from tracejit.trace.replay.symbols import Later, Sym, Unproven

Handler = Callable[[Any, Frame, Instruction], Any]
OPCODES: dict[str, Handler] = {}
_END = object()
_WRITES_AHEAD = frozenset(("RESUME", "NOP", "PRECALL", "COPY_FREE_VARS", "EXTENDED_ARG", "SETUP_ANNOTATIONS"))


def opcode(*names: str) -> Callable[[Handler], Handler]:
    """Enter the handler of instructions."""

    def enter(handler: Handler) -> Handler:
        for name in names:
            OPCODES[name] = handler
        return handler

    return enter


@opcode(*_WRITES_AHEAD)
def _nothing(m: Any, f: Frame, i: Instruction) -> None:
    pass


# --- the stack --------------------------------------------------------------------------------------------------------


@opcode("POP_TOP", "END_FOR", "POP_ITER")
def _pop(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.pop()


@opcode("PUSH_NULL")
def _push_null(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(NULL)


@opcode("SWAP")
def _swap(m: Any, f: Frame, i: Instruction) -> None:
    f.stack[-1], f.stack[-i.arg] = f.stack[-i.arg], f.stack[-1]


@opcode("COPY")
def _copy(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(f.stack[-i.arg])


@opcode("LOAD_CONST")
def _load_const(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(m.world.keep(i.value))


# --- variables --------------------------------------------------------------------------------------------------------


def _local(f: Frame, name: str) -> Any:
    # From 3.13 on, the cell of a variable is loaded like a variable.
    if name in f.cells:
        return f.cells[name]
    if name not in f.locals:
        raise Unproven(f"UnboundLocalError: {name}")
    return f.locals[name]


@opcode("LOAD_FAST", "LOAD_FAST_CHECK")
def _load_fast(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(_local(f, i.value))


@opcode("LOAD_FAST_AND_CLEAR")
def _load_fast_and_clear(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(f.locals.pop(i.value, NULL))


@opcode("LOAD_FAST_LOAD_FAST")
def _load_two(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.extend(_local(f, name) for name in i.value)


def _store(f: Frame, name: str, value: Any) -> None:
    if value is NULL:
        f.locals.pop(name, None)
    else:
        f.locals[name] = value


@opcode("STORE_FAST")
def _store_fast(m: Any, f: Frame, i: Instruction) -> None:
    _store(f, i.value, f.stack.pop())


@opcode("STORE_FAST_LOAD_FAST")
def _store_load(m: Any, f: Frame, i: Instruction) -> None:
    _store(f, i.value[0], f.stack.pop())
    f.stack.append(_local(f, i.value[1]))


@opcode("STORE_FAST_STORE_FAST")
def _store_two(m: Any, f: Frame, i: Instruction) -> None:
    for name in i.value:
        _store(f, name, f.stack.pop())


@opcode("DELETE_FAST")
def _delete_fast(m: Any, f: Frame, i: Instruction) -> None:
    f.locals.pop(i.value, None)


@opcode("MAKE_CELL")
def _make_cell(m: Any, f: Frame, i: Instruction) -> None:
    cell = types.CellType(f.locals.pop(i.value)) if i.value in f.locals else types.CellType()
    f.cells[i.value] = m.world.make_fresh(cell)


@opcode("LOAD_CLOSURE")
def _load_closure(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(f.cells[i.value])


@opcode("LOAD_DEREF")
def _load_deref(m: Any, f: Frame, i: Instruction) -> None:
    found = m.world.read("cell", f.cells[i.value], None)
    if found is ABSENT:
        raise Unproven(f"NameError: {i.value}")
    f.stack.append(found)


@opcode("STORE_DEREF")
def _store_deref(m: Any, f: Frame, i: Instruction) -> None:
    m.world.write("cell", f.cells[i.value], None, f.stack.pop())


@opcode("LOAD_GLOBAL")
def _load_global(m: Any, f: Frame, i: Instruction) -> None:
    found = m.world.read("item", f.globals, i.value)
    if found is ABSENT:
        found = m.world.read("item", f.builtins, i.value)
    if found is ABSENT:
        raise Unproven(f"NameError: {i.value}")
    if i.arg & 1:
        f.stack.append(NULL)
    f.stack.append(found)


@opcode("STORE_GLOBAL")
def _store_global(m: Any, f: Frame, i: Instruction) -> None:
    m.world.write("item", f.globals, i.value, f.stack.pop())


# --- arithmetic -------------------------------------------------------------------------------------------------------


@opcode("BINARY_OP")
def _binary(m: Any, f: Frame, i: Instruction) -> None:
    b = f.stack.pop()
    f.stack.append(m.binary(i.text, f.stack.pop(), b))


@opcode("COMPARE_OP")
def _compare(m: Any, f: Frame, i: Instruction) -> None:
    b = f.stack.pop()
    sign = i.text.removeprefix("bool(").removesuffix(")")
    found = m.compare(sign, f.stack.pop(), b)
    f.stack.append(m.truth(found) if i.text.startswith("bool(") else found)


@opcode("IS_OP")
def _is(m: Any, f: Frame, i: Instruction) -> None:
    b = f.stack.pop()
    f.stack.append(m.same(f.stack.pop(), b) is not bool(i.arg))


@opcode("CONTAINS_OP")
def _contains(m: Any, f: Frame, i: Instruction) -> None:
    container = f.stack.pop()
    f.stack.append(m.contains(f.stack.pop(), container) is not bool(i.arg))


def _unary(sign: str, function: str) -> Handler:
    def handler(m: Any, f: Frame, i: Instruction) -> None:
        x = f.stack.pop()
        if isinstance(x, Tensor):
            f.stack.append(m.calls.native(getattr(type(x), function), (x,), {}))
            return
        part = m.number(x)
        if part is None:
            raise Unproven(f"{sign} of a {type(x).__name__}", Later.fix)
        if sign == "~" and type(part[0]) is float:
            raise Unproven("TypeError: ~ of a float")
        value = {"-": lambda v: -v, "+": lambda v: +v, "~": lambda v: ~v}[sign](part[0])
        f.stack.append(m.symbolic(value, f"{sign}{part[1]}") if type(x) is Sym else value)

    return handler


OPCODES["UNARY_NEGATIVE"] = _unary("-", "__neg__")
OPCODES["UNARY_POSITIVE"] = _unary("+", "__pos__")
OPCODES["UNARY_INVERT"] = _unary("~", "__invert__")


@opcode("UNARY_NOT")
def _not(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(not m.truth(f.stack.pop()))


@opcode("TO_BOOL")
def _to_bool(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(m.truth(f.stack.pop()))


# --- jumps ------------------------------------------------------------------------------------------------------------


@opcode("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT")
def _jump(m: Any, f: Frame, i: Instruction) -> None:
    f.jump(i.value)


def _conditional(wanted: Callable[[Any, Any], bool]) -> Handler:
    def handler(m: Any, f: Frame, i: Instruction) -> None:
        if wanted(m, f.stack.pop()):
            f.jump(i.value)

    return handler


for _direction in ("POP_JUMP_", "POP_JUMP_FORWARD_", "POP_JUMP_BACKWARD_"):
    OPCODES[f"{_direction}IF_TRUE"] = _conditional(lambda m, x: m.truth(x))
    OPCODES[f"{_direction}IF_FALSE"] = _conditional(lambda m, x: not m.truth(x))
    OPCODES[f"{_direction}IF_NONE"] = _conditional(lambda m, x: m.same(x, None))
    OPCODES[f"{_direction}IF_NOT_NONE"] = _conditional(lambda m, x: not m.same(x, None))


@opcode("JUMP_IF_TRUE_OR_POP", "JUMP_IF_FALSE_OR_POP")
def _jump_or_pop(m: Any, f: Frame, i: Instruction) -> None:
    if m.truth(f.stack[-1]) is (i.name == "JUMP_IF_TRUE_OR_POP"):
        f.jump(i.value)
    else:
        f.stack.pop()


@opcode("GET_ITER")
def _get_iter(m: Any, f: Frame, i: Instruction) -> None:
    x = f.stack.pop()
    f.stack.append(x if isinstance(x, (Iteration, Generator)) else Iteration(iter(m.iterate(x))))


@opcode("GET_YIELD_FROM_ITER")
def _get_yield_from_iter(m: Any, f: Frame, i: Instruction) -> None:
    _get_iter(m, f, i)


@opcode("FOR_ITER")
def _for_iter(m: Any, f: Frame, i: Instruction) -> None:
    found = next(m.iterate(f.stack[-1]), _END)
    if found is not _END:
        f.stack.append(found)
        return
    f.stack.pop()
    f.jump(i.value)
    # From 3.12 on, the instructions at the end of the loop are for other ways of leaving it.
    while f.instructions[f.at].name == "END_FOR":
        f.at += 1
        if sys.version_info >= (3, 13) and f.instructions[f.at].name == "POP_TOP":
            f.at += 1


@opcode("RETURN_VALUE")
def _return(m: Any, f: Frame, i: Instruction) -> Any:
    return "return", f.stack.pop()


@opcode("RETURN_CONST")
def _return_const(m: Any, f: Frame, i: Instruction) -> Any:
    return "return", i.value


@opcode("RETURN_GENERATOR")
def _return_generator(m: Any, f: Frame, i: Instruction) -> None:
    f.stack.append(None)


@opcode("YIELD_VALUE")
def _yield(m: Any, f: Frame, i: Instruction) -> Any:
    return "yield", f.stack.pop()


@opcode("SEND")
def _send(m: Any, f: Frame, i: Instruction) -> None:
    if f.stack.pop() is not None:
        raise Unproven("a value is sent into a generator")
    source = f.stack[-1]
    result = None
    if isinstance(source, Generator) and not source.done:
        kind, found = m.resume(source.frame)
        if kind == "return":
            source.done = True
            result, found = found, _END
        else:
            source.frame.stack.append(None)
    else:
        found = next(m.iterate(source), _END)
    if found is not _END:
        f.stack.append(found)
        return
    if sys.version_info < (3, 12):
        f.stack.pop()
    f.stack.append(result)
    f.jump(i.value)


@opcode("END_SEND")
def _end_send(m: Any, f: Frame, i: Instruction) -> None:
    value = f.stack.pop()
    f.stack[-1] = value
