"""Kernel text to LLVM in one walk over its syntax, for the small language in which kernels are written.

In: a function `kernel(p, lo, hi)`, its text, and how an intrinsic is called. Out: an LLVM module that defines it.
Must not know: numba's compiler, machine code, what a kernel computes.

The language: assignments to names, also `a, b = x, y`; `if`, `while`, `for` over `range`, `break`, `continue`,
`return`, `pass`; numbers; arithmetic, comparisons of two operands, `and`, `or`, `not`, `a if c else b`; `min` and `max`
of int64; casts such as `float32(x)`; calls of intrinsics, and of Python functions written in the same language, which
are written out where they are called. A name has one type wherever it is assigned. Everything else is `Unsupported`,
and so is what numba may type in another way.

numba's front half accepts much more and takes ten to a hundred times as long; what both accept means the same.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import llvmlite.ir as ir
from numba.core import types
from numba.core.errors import NumbaError

from tracejit.kernels.emit import OWN, SHARED, leave_loop, name_loop, new_function
from tracejit.kernels.memory import ARGS, BY_HAND, OF_THIS_CPU, WISH
from tracejit.kernels.workspace import mark_called
from tracejit.runtime import scalars, syntax
from tracejit.runtime.scalars import I64, NOTHING, Unsupported, Value
from tracejit.runtime.vectors import Loop, Loops

_I32 = ir.IntType(32)
_I8P = ir.IntType(8).as_pointer()
_ERROR = ir.LiteralStructType([_I8P, _I32, _I8P, _I8P, _I32]).as_pointer()
KERNEL_TYPE = ir.FunctionType(_I32, [I64.as_pointer(), _ERROR.as_pointer(), I64.as_pointer(), I64, I64])
"""The type of a kernel's native function, which is numba's: it gives a status, and its result through a pointer."""
_DEEPEST_CALL = 16
_ARITHMETIC = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.BitAnd: "&",
    ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_UNARY: dict[type[ast.unaryop], str] = {ast.USub: "-", ast.Invert: "~", ast.Not: "not"}
_EXTREMES = {min: "<", max: ">"}
CallIntrinsic = Callable[[Any, Any, list[Value]], Value | None]
"""Calls a callable of kernel text with a builder; None if it is no intrinsic."""


@dataclass(slots=True)
class _Variable:
    kind: Any
    place: Any
    is_value: bool = False
    """Whether `place` is the value itself, since there is no other."""


@dataclass(slots=True)
class _Loop:
    following: Any
    done: Any
    left: bool = False
    """Whether a `break` leads out of it."""
    wish: list[Any] | None = None
    """What the text asks LLVM to do with it."""


@dataclass(slots=True)
class _Frame:
    """A function while its text is walked: its names, the loops around the place, where its result goes."""

    function: FunctionType
    settled: frozenset[str]
    depth: int = 0
    variables: dict[str, _Variable] = field(default_factory=dict)
    loops: list[_Loop] = field(default_factory=list)
    result: _Variable | None = None
    gives_nothing: bool = False
    done: Any = None
    """Where a return goes; None in the kernel itself."""

    def outside(self, name: str) -> Any:
        """What a name stands for that the function does not assign."""
        code, cells = self.function.__code__, self.function.__closure__ or ()
        if name in code.co_freevars:
            return cells[code.co_freevars.index(name)].cell_contents
        if name in self.function.__globals__:
            return self.function.__globals__[name]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise Unsupported(f"the name {name!r}")


def lower(
    kernels: Mapping[FunctionType, str], symbol: str, call_intrinsic: CallIntrinsic, *, vectors: bool = True
) -> ir.Module:
    """An LLVM module of kernels, each under its name, that their texts define; with `vectors` made of this CPU's.

    The `SHARED` functions that they call are in the module once.

    Raises: Unsupported if a text is outside of the language.
    """
    module = _module(symbol, vectors)
    made: dict[FunctionType, _Shared] = {}
    done = [_lower(module, *kernel, call_intrinsic, vectors, made) for kernel in kernels.items()]
    if all(done) and not made:
        module.add_named_metadata(BY_HAND)
    return module


def _module(symbol: str, vectors: bool) -> ir.Module:
    module = ir.Module(symbol)
    if vectors:
        module.add_named_metadata(OF_THIS_CPU)
    return module


def lower_by_hand(
    kernels: Mapping[FunctionType, str], symbol: str, call_intrinsic: CallIntrinsic
) -> tuple[ir.Module, list[FunctionType]]:
    """An LLVM module of kernels of which no loop is left to LLVM, with what they share once; and the other kernels.

    One that leaves a function with such a loop behind may be followed by others that are not taken for its sake.
    """
    module = _module(symbol, True)
    left = []
    for number, (function, text) in enumerate(kernels.items()):
        setattr(module, OWN, f".{number}")
        made: dict[FunctionType, _Shared] = {}
        try:
            done = _lower(module, function, text, call_intrinsic, True, made) and not made
        except (Unsupported, NumbaError):
            done = False
        if not done:
            left.append(function)
            module.globals.pop(function.__name__, None)
    module.add_named_metadata(BY_HAND)
    return module, left


def _lower(
    module: ir.Module,
    function: FunctionType,
    text: str,
    call_intrinsic: CallIntrinsic,
    vectors: bool,
    made: dict[FunctionType, _Shared],
) -> bool:
    """Writes a kernel; gives whether no loop is left of which LLVM might make vectors."""
    definition = syntax.definition(text)
    names = syntax.parameters(definition)
    if len(names) != len((ARGS, types.int64, types.int64)):
        raise Unsupported("a kernel takes (p, lo, hi)")
    native = new_function(module, KERNEL_TYPE, function.__name__)
    for pointer in native.args[:2]:
        pointer.add_attribute("noalias")
    frame = _Frame(function, syntax.settled(definition))
    walk = _Walk(native, call_intrinsic, frame, vectors, made)
    for name, kind, argument in zip(names, (ARGS, types.int64, types.int64), native.args[2:], strict=True):
        walk.assign(name, Value(kind, argument))
    walk.statements(definition.body)
    if not walk.builder.block.is_terminated:
        raise Unsupported("a kernel that may end without a return")
    walk.mark_loops()
    return walk.is_done()


@dataclass(slots=True)
class _Shared:
    """A function that the kernels of a module call: its native function, and whether it gives no value."""

    native: Any
    gives_nothing: bool


class _Walk:
    """Writes the instructions of one native function at its builder's place."""

    def __init__(
        self,
        native: Any,
        call_intrinsic: CallIntrinsic,
        frame: _Frame,
        vectors: bool,
        made: dict[FunctionType, _Shared],
    ) -> None:
        entry, body = native.append_basic_block("entry"), native.append_basic_block("body")
        ir.IRBuilder(entry).branch(body)
        self.builder = ir.IRBuilder(body)
        self._native = native
        self._call_intrinsic = call_intrinsic
        self._frame = frame
        self._vectors = vectors
        self._made = made
        self._back: list[tuple[Any, _Loop]] = []
        self._wish: list[Any] | None = None
        # What the kernels before wished for is not for this one.
        self._wishes = len(wishes.operands) if (wishes := native.module.namedmetadata.get(WISH)) else 0
        self._loops = Loops(vectors)
        self._blocks = len(native.blocks)

    def mark_loops(self) -> None:
        """Passes the wishes of the text on to the loops that they stand in, or to all loops."""
        for jump, loop in self._back:
            wish = self._wish if loop.wish is None else loop.wish
            if wish is not None:
                name_loop(jump, wish)

    def _note_wish(self) -> None:
        found = self.builder.module.namedmetadata.get(WISH)
        if found is None or len(found.operands) == self._wishes:
            return
        self._wishes, wish = len(found.operands), list(found.operands[-1].operands)
        if self._frame.loops:
            self._frame.loops[-1].wish = wish
        else:
            self._wish = wish

    def is_done(self) -> bool:
        """Whether no loop is left of which LLVM might make vectors."""
        return self._loops.done(self._native, self._blocks)

    def _new_block(self, name: str) -> Any:
        self._blocks += 1
        return self._native.append_basic_block(name)

    def _new_place(self, kind: Any) -> Any:
        with self.builder.goto_entry_block():
            return self.builder.alloca(scalars.llvm_type(kind))

    # --- statements ---------------------------------------------------------------------------------------------------

    def statements(self, body: list[ast.stmt]) -> None:
        """Writes statements, up to the first behind which nothing is reached."""
        for statement in body:
            if self.builder.block.is_terminated:
                return
            write = _STATEMENTS.get(type(statement))
            if write is None:
                raise Unsupported(f"the statement {ast.unparse(statement)!r}")
            write(self, statement)

    def assign(self, name: str, value: Value) -> None:
        """Sets a name to a value, which must be of the type that the name has had."""
        variables = self._frame.variables
        if name in self._frame.settled:
            variables[name] = _Variable(value.kind, value.value, is_value=True)
            return
        variable = variables.get(name)
        if variable is None:
            variable = variables[name] = _Variable(value.kind, self._new_place(value.kind))
        if variable.kind != value.kind:
            raise Unsupported(f"{name} as {variable.kind} and as {value.kind}")
        self.builder.store(value.value, variable.place)

    def _assign(self, node: ast.Assign) -> None:
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            targets, parts = target.elts, value.elts
        else:
            targets, parts = [target], [value]
        values = [self._value(part) for part in parts]
        for name, found in zip(targets, values, strict=True):
            if len(node.targets) != 1 or not isinstance(name, ast.Name):
                raise Unsupported("an assignment to other than names")
            self.assign(name.id, found)

    def _augmented(self, node: ast.AugAssign) -> None:
        if not isinstance(node.target, ast.Name):
            raise Unsupported("an assignment to other than a name")
        left = self._value(ast.Name(node.target.id, ast.Load()))
        self.assign(node.target.id, self._arithmetic(node.op, left, self._value(node.value)))

    def _expression_statement(self, node: ast.Expr) -> None:
        if not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
            self._evaluate(node.value)

    def _pass(self, node: ast.Pass) -> None:
        pass

    def _return(self, node: ast.Return) -> None:
        value = NOTHING if node.value is None else self._value(node.value)
        frame = self._frame
        if frame.done is not None:
            self._set_result(value)
            self.builder.branch(frame.done)
            return
        if value.kind != types.int64:
            raise Unsupported(f"a kernel that returns {value.kind}")
        self.builder.store(value.value, self._native.args[0])
        self.builder.ret(_I32(0))

    def _set_result(self, value: Value) -> None:
        frame = self._frame
        if value.kind == types.none:
            frame.gives_nothing = True
        else:
            if frame.result is None:
                frame.result = _Variable(value.kind, self._new_place(value.kind))
            if frame.result.kind != value.kind:
                raise Unsupported(f"results of type {frame.result.kind} and {value.kind}")
            self.builder.store(value.value, frame.result.place)
        if frame.gives_nothing and frame.result is not None:
            raise Unsupported("a function that gives a value or nothing")

    def _if(self, node: ast.If) -> None:
        then, otherwise, done = self._new_block("then"), self._new_block("else"), self._new_block("endif")
        self.builder.cbranch(self._truth(node.test), then, otherwise)
        reached = False
        for block, body in ((then, node.body), (otherwise, node.orelse)):
            self.builder.position_at_end(block)
            self.statements(body)
            if not self.builder.block.is_terminated:
                self.builder.branch(done)
                reached = True
        self.builder.position_at_end(done)
        if not reached:
            self.builder.unreachable()

    def _loop(self, body: list[ast.stmt], following: Any, done: Any) -> _Loop:
        """Writes the body of a loop, at whose end `following` comes."""
        loop = _Loop(following, done)
        self._frame.loops.append(loop)
        self.statements(body)
        self._frame.loops.pop()
        return loop

    def _jump(self, block: Any, loop: _Loop) -> None:
        """A jump that may go back."""
        self._back.append((self.builder.branch(block), loop))

    def _while(self, node: ast.While) -> None:
        if node.orelse:
            raise Unsupported("a loop with `else`")
        head, body, done = self._new_block("head"), self._new_block("body"), self._new_block("done")
        number = self._loops.begin()
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(self._truth(node.test), body, done)
        self.builder.position_at_end(body)
        loop = self._loop(node.body, head, done)
        self._loops.end(number, self.builder.block)
        if not self.builder.block.is_terminated:
            self._jump(head, loop)
        self.builder.position_at_end(done)
        if isinstance(node.test, ast.Constant) and node.test.value is True and not loop.left:
            self.builder.unreachable()

    def _for(self, node: ast.For) -> None:
        if node.orelse or not isinstance(node.target, ast.Name):
            raise Unsupported("a loop with `else` or over several names")
        start, stop, step = self._range(node.iter)
        head, body = self._new_block("head"), self._new_block("body")
        following, done = self._new_block("next"), self._new_block("done")
        number = self._loops.begin()
        counter = self._new_place(types.int64)
        self.builder.store(start, counter)
        self.builder.branch(head)
        self.builder.position_at_end(head)
        index = self.builder.load(counter)
        self.builder.cbranch(self.builder.icmp_signed("<" if step > 0 else ">", index, stop), body, done)
        self.builder.position_at_end(body)
        self.assign(node.target.id, Value(types.int64, index))
        loop = self._loop(node.body, following, done)
        elements = Loop(head, body, following, done, index, counter, start, stop, step, loop.wish or self._wish)
        again = self._loops.widen(number, elements, self.builder.block)
        if again is None:
            self.builder.position_at_end(done)
            return
        if again is head:
            self._loops.end(number, self.builder.block)
        self.builder.position_at_end(self.builder.block)  # the body may begin with its index now
        if not self.builder.block.is_terminated:
            self.builder.branch(following)
        self.builder.position_at_end(following)
        after = self.builder.add(index, I64(step), flags=["nsw"])
        self.builder.store(after, counter)
        if again is head:
            self._jump(head, loop)
        else:
            leave_loop(self.builder.cbranch(self.builder.icmp_signed("<", after, stop), again, done))
        self.builder.position_at_end(done)

    def _range(self, node: ast.expr) -> tuple[Any, Any, int]:
        """Start, stop and step of a call of `range`; it ends a step's length before the end of int64 or earlier."""
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords):
            raise Unsupported("a loop over other than a range")
        if node.func.id in self._frame.variables or self._frame.outside(node.func.id) is not range:
            raise Unsupported("a loop over other than a range")
        given = [self._value(argument) for argument in node.args]
        if not 1 <= len(given) <= 3 or any(value.kind != types.int64 for value in given):
            raise Unsupported("a range of other than int64")
        start, stop = (given[0].value, given[1].value) if len(given) > 1 else (I64(0), given[0].value)
        step = given[2].literal if len(given) > 2 else 1
        if not step:
            raise Unsupported("a range whose step is no number in the text")
        return start, stop, step

    def _break(self, node: ast.Break) -> None:
        loop = self._frame.loops[-1]
        loop.left = True
        self.builder.branch(loop.done)

    def _continue(self, node: ast.Continue) -> None:
        loop = self._frame.loops[-1]
        self._jump(loop.following, loop)

    # --- expressions --------------------------------------------------------------------------------------------------

    def _evaluate(self, node: ast.expr) -> Value:
        write = _EXPRESSIONS.get(type(node))
        if write is None:
            raise Unsupported(f"the expression {ast.unparse(node)!r}")
        value: Value = write(self, node)
        return value

    def _value(self, node: ast.expr) -> Value:
        value = self._evaluate(node)
        if value.kind == types.none:
            raise Unsupported(f"the value of {ast.unparse(node)!r}")
        return value

    def _truth(self, node: ast.expr) -> Any:
        return scalars.truth(self.builder, self._value(node))

    def _constant(self, node: ast.Constant) -> Value:
        return self._number(node.value)

    def _number(self, number: Any) -> Value:
        if type(number) not in (bool, int, float):
            raise Unsupported(f"the constant {number!r}")
        return scalars.constant(number)

    def _name(self, node: ast.Name) -> Value:
        variable = self._frame.variables.get(node.id)
        if variable is not None:
            return Value(variable.kind, variable.place if variable.is_value else self.builder.load(variable.place))
        if node.id in self._frame.function.__code__.co_varnames:
            raise Unsupported(f"{node.id} before it is assigned")
        return self._number(self._frame.outside(node.id))

    def _binary(self, node: ast.BinOp) -> Value:
        return self._arithmetic(node.op, self._value(node.left), self._value(node.right))

    def _arithmetic(self, operator: ast.operator, left: Value, right: Value) -> Value:
        sign = _ARITHMETIC.get(type(operator))
        if sign is None:
            raise Unsupported(f"the operator {type(operator).__name__}")
        return scalars.binary(self.builder, sign, left, right)

    def _unary(self, node: ast.UnaryOp) -> Value:
        operand, sign = node.operand, _UNARY.get(type(node.op))
        if sign is None:
            raise Unsupported(f"the expression {ast.unparse(node)!r}")
        if sign == "-" and isinstance(operand, ast.Constant):
            number: Any = operand.value
            if type(number) in (int, float):
                return self._number(-number)
        return scalars.unary(self.builder, sign, self._value(operand))

    def _compare(self, node: ast.Compare) -> Value:
        sign = _COMPARISONS.get(type(node.ops[0]))
        if sign is None or len(node.ops) != 1:
            raise Unsupported(f"the comparison {ast.unparse(node)!r}")
        return scalars.compare(self.builder, sign, self._value(node.left), self._value(node.comparators[0]))

    def _junction(self, node: ast.BoolOp) -> Value:
        """`and` and `or` of bools: what comes later is looked at only if it matters."""
        done, settled = self._new_block("settled"), isinstance(node.op, ast.Or)
        ends = []
        for position, operand in enumerate(node.values):
            value = self._value(operand)
            if value.kind != types.boolean:
                raise Unsupported("`and` or `or` of other than bools")
            ends.append((value.value, self.builder.block))
            if position == len(node.values) - 1:
                self.builder.branch(done)
            else:
                more = self._new_block("more")
                targets = (done, more) if settled else (more, done)
                self.builder.cbranch(value.value, *targets)
                self.builder.position_at_end(more)
        return self._meet(done, types.boolean, ends)

    def _choice(self, node: ast.IfExp) -> Value:
        then, otherwise, done = self._new_block("then"), self._new_block("else"), self._new_block("chosen")
        self.builder.cbranch(self._truth(node.test), then, otherwise)
        ends, kinds = [], []
        for block, part in ((then, node.body), (otherwise, node.orelse)):
            self.builder.position_at_end(block)
            value = self._value(part)
            ends.append((value.value, self.builder.block))
            kinds.append(value.kind)
            self.builder.branch(done)
        if kinds[0] != kinds[1]:
            raise Unsupported(f"a choice between {kinds[0]} and {kinds[1]}")
        return self._meet(done, kinds[0], ends)

    def _meet(self, block: Any, kind: Any, ends: list[tuple[Any, Any]]) -> Value:
        self.builder.position_at_end(block)
        phi = self.builder.phi(scalars.llvm_type(kind))
        for value, source in ends:
            phi.add_incoming(value, source)
        return Value(kind, phi)

    # --- calls --------------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Value:
        if node.keywords or not isinstance(node.func, ast.Name) or node.func.id in self._frame.variables:
            raise Unsupported(f"the call {ast.unparse(node)!r}")
        callee = self._frame.outside(node.func.id)
        arguments = [self._value(argument) for argument in node.args]
        if isinstance(callee, types.NumberClass | types.Number) and len(arguments) == 1:
            kind = callee.dtype if isinstance(callee, types.NumberClass) else callee
            return Value(kind, scalars.cast(self.builder, arguments[0], kind))
        if isinstance(callee, FunctionType):
            return (self._call_shared if callee in SHARED else self._write_out)(callee, arguments)
        if callee in _EXTREMES:
            return scalars.extreme(self.builder, _EXTREMES[callee], arguments)
        value = self._call_intrinsic(self.builder, callee, arguments)
        if value is None:
            raise Unsupported(f"the call {ast.unparse(node)!r}")
        self._note_wish()
        return value

    def _call_shared(self, function: FunctionType, arguments: list[Value]) -> Value:
        """Calls a function that the module has once."""
        if any(argument.kind != types.int64 for argument in arguments):
            raise Unsupported(f"{function.__name__} of other than int64")
        shared = self._made.get(function)
        if shared is None:
            shared = self._made[function] = self._share(function, len(arguments))
        result = self.builder.call(shared.native, [argument.value for argument in arguments])
        return NOTHING if shared.gives_nothing else Value(types.int64, result)

    def _share(self, function: FunctionType, count: int) -> _Shared:
        name = f"{function.__module__}.{function.__qualname__}"
        if name in self._native.module.globals:
            raise Unsupported(f"{function.__name__}, which calls itself")
        native = new_function(self._native.module, ir.FunctionType(I64, [I64] * count), name)
        native.linkage = "internal"
        mark_called(native)
        native.attributes.add("nounwind")
        frame = _Frame(function, frozenset(), self._frame.depth)
        walk = _Walk(native, self._call_intrinsic, frame, self._vectors, self._made)
        result = walk._write_out(function, [Value(types.int64, argument) for argument in native.args])
        if result.kind not in (types.int64, types.none):
            raise Unsupported(f"{function.__name__}, which gives other than int64")
        walk.builder.ret(I64(0) if result.kind == types.none else result.value)
        walk.mark_loops()
        return _Shared(native, result.kind == types.none)

    def _write_out(self, function: FunctionType, arguments: list[Value]) -> Value:
        """Writes the body of a function that is called."""
        if self._frame.depth + 1 > _DEEPEST_CALL:
            raise Unsupported(f"the depth of calls of {function.__name__}")
        definition = syntax.definition_of(function)
        depth, done = self._frame.depth + 1, self._new_block("returned")
        frame = _Frame(function, syntax.settled_in(function), depth, done=done)
        names = syntax.parameters(definition)
        if len(names) != len(arguments):
            raise Unsupported(f"{len(arguments)} arguments of {function.__name__}")
        outer, self._frame = self._frame, frame
        for name, argument in zip(names, arguments, strict=True):
            self.assign(name, argument)
        self.statements(definition.body)
        if not self.builder.block.is_terminated:
            self._set_result(NOTHING)
            self.builder.branch(frame.done)
        self._frame = outer
        self.builder.position_at_end(frame.done)
        if frame.result is None:
            return NOTHING
        return Value(frame.result.kind, self.builder.load(frame.result.place))


_STATEMENTS: dict[type[ast.stmt], Callable[[_Walk, Any], None]] = {
    ast.Assign: _Walk._assign,
    ast.AugAssign: _Walk._augmented,
    ast.Expr: _Walk._expression_statement,
    ast.Pass: _Walk._pass,
    ast.Return: _Walk._return,
    ast.If: _Walk._if,
    ast.While: _Walk._while,
    ast.For: _Walk._for,
    ast.Break: _Walk._break,
    ast.Continue: _Walk._continue,
}
_EXPRESSIONS: dict[type[ast.expr], Callable[[_Walk, Any], Value]] = {
    ast.Constant: _Walk._constant,
    ast.Name: _Walk._name,
    ast.BinOp: _Walk._binary,
    ast.UnaryOp: _Walk._unary,
    ast.Compare: _Walk._compare,
    ast.BoolOp: _Walk._junction,
    ast.IfExp: _Walk._choice,
    ast.Call: _Walk._call,
}
