"""Loops over elements as loops over vectors, in LLVM text: what LLVM's vectoriser makes of them, without its search.

In: the instructions of a loop's body, as llvmlite has them, and its bounds. Out: text of the same loop over vectors.
Must not know: Python, what a loop computes.

LLVM's passes over a loop take as long as all else that compiling it takes, and it writes each body three times: for
vectors, for shorter ones, for elements. Here what is left of whole vectors is a vector, too, whose lanes are masked,
and a kernel of such loops needs none but a few passes. A loop becomes one over vectors if each instruction in it is the
same on every lane: what it reads is adjacent, in either order, one place, or words anywhere, what it writes adjacent, a
value is a lane's own, the index, or the same for all. Other loops are left to LLVM, and so are all where masked
accesses are not free.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.ir as ir

from tracejit.kernels.memory import LOOP
from tracejit.kernels.vectors import TARGET
from tracejit.runtime import powers
from tracejit.runtime.elements import Unfit, bit_size, element_type, short_name
from tracejit.runtime.places import is_own, is_variable, scope_of
from tracejit.runtime.turns import COPY, INDEX, MASK, PAST, TURN, Elements, Line, Turns

_ARITHMETIC = frozenset(
    ["add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "fadd", "fsub", "fmul", "fdiv", "fneg"]
)
"""No division of integers: a lane that is masked would divide by zero."""
_CASTS = frozenset(["trunc", "zext", "sext", "fptrunc", "fpext", "fptosi", "fptoui", "sitofp", "uitofp", "bitcast"])
_CALLS = re.compile(
    r"llvm\.((?:fma|sqrt|fabs|floor|ceil|trunc|rint|nearbyint|roundeven|copysign)\.(?=f)|fsh[lr]\.(?=i))([fi]\d+)"
)
_WORD = 32
"""Bits of the smallest element that is read from places of the lanes' own."""
_SHORT = 20
"""Instructions of a body that is so short that the loop around it counts."""
_MOST = 4
"""Vectors side by side, at most."""


@dataclass(slots=True)
class Loop:
    """A loop over an index, from `start` to below `stop`, at whose end `following` comes.

    `counter` is where the index is kept, `wish` what the kernel's text asks LLVM to do with it.
    """

    head: Any
    body: Any
    following: Any
    done: Any
    index: Any
    counter: Any
    start: Any
    stop: Any
    step: int
    wish: list[Any] | None


@dataclass(frozen=True, slots=True)
class _Same:
    """A value that is the same in all turns."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Linear:
    """The index, plus what is the same in all turns; no text is nothing. `back`: less the index."""

    offset: str
    back: bool = False


@dataclass(frozen=True, slots=True)
class _Adjacent:
    """The address of an element of as many adjacent ones as there are turns, in descending order if `back`."""

    first: str
    offset: str
    kind: str
    back: bool = False


@dataclass(frozen=True, slots=True)
class _Spread:
    """The addresses of elements at places of the lanes' own."""

    first: str
    places: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Lanes:
    """A vector's name, in each copy of the body, and whether it is made of what is in memory."""

    text: str
    kind: str
    given: bool


_Found = _Same | _Linear | _Adjacent | _Spread | _Lanes


class Loops:
    """The loops of a kernel while it is written, and whether they are as fast as they will be."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._begun = 0
        self._widened = 0
        self._around_calls = 0
        self._left = False

    def begin(self) -> int:
        """Notes that a loop begins; gives its number."""
        self._begun += 1
        return self._begun

    def end(self, number: int, block: Any) -> None:
        """Notes the end of a loop that stays as it is, and the block in which its body ends."""
        if number != self._begun:
            return
        calls = [i.callee.name for i in block.instructions if i.opname == "call"]
        if any(not name.startswith("llvm.") for name in calls):
            self._around_calls += 1
        elif not any(name.startswith("llvm.prefetch") for name in calls):
            self._left = True

    def widen(self, number: int, loop: Loop, block: Any) -> Any:
        """Makes a loop whose body ends in `block` one over vectors; gives the block that its turns go back to.

        That is its head, if it is as it was; its body, while there are more of the elements that vectors leave; None,
        if they leave none.
        """
        if number != self._begun or not self._allowed or block is not loop.body or loop.step != 1:
            return loop.head
        try:
            widening = _Widening(loop, self._widened)
        except Unfit:
            return loop.head
        self._widened += 1
        if TARGET.free_masks:
            loop.head.instructions[:] = [_Text(widening.lines(None))]
            for gone in (loop.body, loop.following):
                gone.instructions.clear()
                loop.head.function.blocks.remove(gone)
            return None
        rest = Elements(loop.body.get_reference(), loop.counter.get_reference())
        loop.head.instructions[:] = [_Text(widening.lines(rest))]
        loop.body.instructions.insert(0, loop.index)
        return loop.body

    def done(self, function: Any, blocks: int) -> bool:
        """Whether LLVM has no loop to make vectors of: neither in the kernel, which the walk over its text gave so many
        blocks, nor in what it calls.
        """
        if self._left or not self._allowed or not self._widened + self._around_calls:
            return False
        others = [f for f in function.module.functions if f.linkage == "internal" and f.blocks]
        gone = 2 * self._widened if TARGET.free_masks else 0
        # Intrinsics write loops of their own.
        return len(function.blocks) == blocks - gone and all(map(_is_of_vectors, others))


def _is_of_vectors(function: Any) -> bool:
    """Whether a function computes with vectors, or calls others."""
    instructions = [i for block in function.blocks for i in block.instructions]
    return any(isinstance(i.type, ir.VectorType) or (i.opname == "call" and i.callee.blocks) for i in instructions)


class _Text:
    """Many instructions and labels among llvmlite's instructions."""

    def __init__(self, lines: list[str]) -> None:
        self._text = "\n  ".join(lines)

    def __str__(self) -> str:
        return self._text


class _Widening:
    """Reads a body once, and writes it several times."""

    def __init__(self, loop: Loop, number: int) -> None:
        self._loop = loop
        self._stem = f"%w{number}"
        self._names = 0
        self._before: list[str] = []
        self._known: dict[str, str] = {}
        """What is computed before the loop, by its text: equal addresses have one name."""
        self._body: list[Line] = []
        """Lines of a turn, each as it is and with masks."""
        self._found: dict[int, _Found] = {id(loop.index): _Linear("")}
        self._splats: dict[tuple[str, str], str] = {}
        self._index_vectors: dict[_Linear, str] = {}
        self._addresses: dict[_Adjacent, str] = {}
        self._accesses: list[tuple[bool, Any, _Found]] = []
        self._copies = self._wished()
        memory = [i for i in loop.body.instructions if i.opname in ("load", "store")]
        kinds = [str((i.operands[0] if i.opname == "store" else i).type) for i in memory if scope_of(i) is not None]
        if not kinds:
            raise Unfit
        self._width = TARGET.vector_bytes * 8 // max(map(bit_size, kinds))
        self._stored = {id(i.operands[1]) for i in memory if i.opname == "store" and is_variable(i.operands[1])}
        self._variables: dict[int, _Linear] = {}
        self._declared: dict[str, Any] = {}
        self._read()

    def _wished(self) -> int:
        """How many vectors side by side the text asks for; 0 if it leaves that open."""
        wish = self._loop.wish
        if wish is None:
            return 0
        if len(wish) != 2 or wish[1].constant & (wish[1].constant - 1):
            raise Unfit
        return int(wish[1].constant)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        for instruction in self._loop.body.instructions:
            read = _READERS.get(instruction.opname)
            if read is not None:
                read(self, instruction)
            elif instruction.opname in _ARITHMETIC:
                self._arithmetic(instruction)
            elif instruction.opname in _CASTS:
                self._cast(instruction)
            else:
                raise Unfit
        self._check_accesses()

    def _value(self, operand: Any) -> _Found:
        found = self._found.get(id(operand))
        if found is not None:
            return found
        # Constants, arguments, and what was computed before the loop.
        return _Same(operand.get_reference(), str(operand.type))

    def _name(self) -> str:
        self._names += 1
        return f"{self._stem}.{self._names}"

    def _ahead(self, text: str) -> str:
        """Computes something before the loop."""
        if text not in self._known:
            name = self._known[text] = self._name()
            self._before.append(f"{name} = {text}")
        return self._known[text]

    def _vector(self, kind: str) -> str:
        bit_size(kind)
        return f"<{self._width} x {kind}>"

    def _are_same(self, instruction: Any) -> bool:
        """Computes an instruction before the loop if its operands are the same in all turns; whether they are."""
        values = [self._value(operand) for operand in instruction.operands]
        if not all(isinstance(value, _Same) for value in values):
            return False
        text = str(instruction).strip().partition(" = ")[2]
        for operand, value in zip(instruction.operands, values, strict=True):
            reference = operand.get_reference()
            if isinstance(value, _Same) and value.text != reference:
                text = text.replace(reference, value.text)
        self._found[id(instruction)] = _Same(self._ahead(text), str(instruction.type))
        return True

    def _lanes(self, operand: Any) -> str:
        """The text of an operand as a vector."""
        found = self._value(operand)
        if isinstance(found, _Lanes):
            return found.text
        if isinstance(found, _Linear):
            return self._indices(found)
        if not isinstance(found, _Same):
            raise Unfit
        if isinstance(operand, ir.Constant):
            return f"splat ({found.kind} {found.text})"
        return self._splat(found)

    def _splat(self, value: _Same) -> str:
        key = value.text, value.kind
        if key not in self._splats:
            vector = self._vector(value.kind)
            one = self._ahead(f"insertelement {vector} undef, {value.kind} {value.text}, i32 0")
            zeros = f"<{self._width} x i32> zeroinitializer"
            self._splats[key] = self._ahead(f"shufflevector {vector} {one}, {vector} undef, {zeros}")
        return self._splats[key]

    def _indices(self, index: _Linear) -> str:
        """The index of each lane."""
        if index in self._index_vectors:
            return self._index_vectors[index]
        vector, name = self._vector("i64"), self._name()
        self._index_vectors[index] = f"{name}{COPY}"
        zeros = f"<{self._width} x i32> zeroinitializer"
        lanes = ", ".join(f"i64 {-k if index.back else k}" for k in range(self._width))
        sign = "sub" if index.back else "add"
        self._line(f"{name}f{TURN} = {sign} i64 {index.offset or 0}, {INDEX}")
        self._line(f"{name}i{TURN} = insertelement {vector} undef, i64 {name}f{TURN}, i32 0")
        self._line(f"{name}s{TURN} = shufflevector {vector} {name}i{TURN}, {vector} undef, {zeros}")
        self._line(f"{name}l{COPY} = add {vector} {name}s{TURN}, <{lanes}>")
        self._line(f"{name}{COPY} = {sign} {vector} {name}l{COPY}, splat (i64 {PAST})")
        return f"{name}{COPY}"

    def _line(self, text: str) -> None:
        self._body.append((text, text))

    def _give(self, instruction: Any, text: str, masked: str | None = None) -> None:
        """Writes an instruction that gives a vector."""
        name = f"{self._name()}{COPY}"
        self._body.append((f"{name} = {text}", f"{name} = {masked or text}"))
        found = [self._found.get(id(operand)) for operand in instruction.operands]
        given = instruction.opname == "load" or any(isinstance(one, _Lanes) and one.given for one in found)
        self._found[id(instruction)] = _Lanes(name, str(instruction.type), given)

    def _arithmetic(self, instruction: Any) -> None:
        if self._are_same(instruction):
            return
        values = [self._value(operand) for operand in instruction.operands]
        if instruction.opname in ("add", "sub"):
            if instruction.opname == "add" and isinstance(values[0], _Same):
                values.reverse()
            index, other = values
            if isinstance(index, _Linear) and isinstance(other, _Same):
                offset = self._ahead(f"{instruction.opname} i64 {index.offset or 0}, {other.text}")
                self._found[id(instruction)] = _Linear(offset, index.back)
                return
            if instruction.opname == "sub" and isinstance(index, _Same) and isinstance(other, _Linear):
                offset = self._ahead(f"sub i64 {index.text}, {other.offset or 0}")
                self._found[id(instruction)] = _Linear(offset, not other.back)
                return
        operands = ", ".join(self._lanes(operand) for operand in instruction.operands)
        name = " ".join([instruction.opname, *instruction.flags])
        self._give(instruction, f"{name} {self._vector(str(instruction.type))} {operands}")

    def _cast(self, instruction: Any) -> None:
        if not self._are_same(instruction):
            operand = instruction.operands[0]
            to = self._vector(str(instruction.type))
            text = f"{self._vector(str(operand.type))} {self._lanes(operand)} to {to}"
            self._give(instruction, f"{instruction.opname} {text}")

    def _pointer(self, instruction: Any) -> None:
        if not self._are_same(instruction):
            raise Unfit

    def _compare(self, instruction: Any) -> None:
        if not self._are_same(instruction):
            kind = self._vector(str(instruction.operands[0].type))
            operands = ", ".join(self._lanes(operand) for operand in instruction.operands)
            self._give(instruction, f"{instruction.opname} {instruction.op} {kind} {operands}")

    def _select(self, instruction: Any) -> None:
        if not self._are_same(instruction):
            operands = [f"{self._vector(str(o.type))} {self._lanes(o)}" for o in instruction.operands]
            self._give(instruction, f"select {', '.join(operands)}")

    def _call(self, instruction: Any) -> None:
        match = _CALLS.fullmatch(instruction.callee.name)
        if match is None:
            self._scale(instruction)
            return
        if self._are_same(instruction):
            return
        name = f"llvm.{match[1]}v{self._width}{match[2]}"
        vector = ir.VectorType(instruction.type, self._width)
        self._declare(name, vector, [vector] * len(instruction.args))
        kind = self._vector(str(instruction.type))
        operands = ", ".join(f"{kind} {self._lanes(operand)}" for operand in instruction.args)
        self._give(instruction, f'call {kind} @"{name}"({operands})')

    def _scale(self, instruction: Any) -> None:
        """Multiplication by a power of two that is made of a float: there is an instruction that takes the float."""
        name = instruction.callee.name
        if name in powers.WHOLES:
            if not self._are_same(instruction):
                self._found[id(instruction)] = self._value(instruction.args[0])
            return
        if name not in powers.SCALES:
            raise Unfit
        if self._are_same(instruction):
            return
        values, kind = [self._value(operand) for operand in instruction.args], str(instruction.type)
        if not all(isinstance(value, _Lanes) and value.kind == kind for value in values):
            raise Unfit
        operands = [self._lanes(operand) for operand in instruction.args]
        text, declared = powers.scaled(kind, self._width, operands, self._named)
        self._declared.update(declared)
        self._give(instruction, text)

    def _named(self, text: str) -> str:
        """Writes an instruction; gives the name of its value."""
        name = f"{self._name()}{COPY}"
        self._line(f"{name} = {text}")
        return name

    def _declare(self, name: str, result: Any, arguments: list[Any]) -> None:
        """Has an intrinsic declared with the types that whoever else calls it by llvmlite declares it with."""
        self._declared[name] = ir.FunctionType(result, arguments)

    def _address(self, instruction: Any) -> None:
        if self._are_same(instruction):
            return
        base, index = self._value(instruction.pointer), self._value(instruction.indices[0])
        # LLVM knows better ways to what lies in equal steps.
        if isinstance(base, _Same) and isinstance(index, _Lanes) and index.given and index.kind == "i64":
            self._found[id(instruction)] = _Spread(base.text, index.text, str(instruction.source_etype))
            return
        if len(instruction.indices) != 1 or not isinstance(base, _Same) or not isinstance(index, _Linear):
            raise Unfit
        self._found[id(instruction)] = _Adjacent(base.text, index.offset, str(instruction.source_etype), index.back)

    def _load(self, instruction: Any) -> None:
        place = instruction.operands[0]
        if is_variable(place):
            if id(place) in self._variables:
                self._found[id(instruction)] = self._variables[id(place)]
            elif id(place) in self._stored or not self._are_same(instruction):
                raise Unfit  # what the turn before has left there
            return
        at, kind = self._value(place), str(instruction.type)
        if "invariant.load" not in instruction.metadata:
            self._accesses.append((False, scope_of(instruction), at))
        if self._are_same(instruction):
            return
        if isinstance(at, _Spread):
            self._gather(instruction, at, kind)
            return
        vector, pointer = self._vector(kind), self._element(at, kind)
        marks = instruction._stringify_metadata(leading_comma=True)
        text = f"load {vector}, ptr {pointer}, align {bit_size(kind) // 8}{marks}"
        # Few CPUs have masks for what is no number to them.
        stored = "i16" if kind == "half" else kind
        mask, given = ir.VectorType(ir.IntType(1), self._width), ir.VectorType(element_type(stored), self._width)
        name = f"llvm.masked.load.v{self._width}{short_name(stored)}.p0"
        self._declare(name, given, [given.as_pointer(), ir.IntType(32), mask, given])
        back = isinstance(at, _Adjacent) and at.back
        lanes = MASK
        if back:
            lanes = f"{self._name()}{COPY}"
            self._body.append((None, f"{lanes} = {self._turned(str(mask), MASK)}"))
        operands = f"ptr {pointer}, i32 {bit_size(kind) // 8}, {mask} {lanes}, {given} zeroinitializer"
        masked = f'call {given} @"{name}"({operands}){marks}'
        if stored != kind:
            bits = f"{self._name()}{COPY}"
            self._body.append((None, f"{bits} = {masked}"))
            masked = f"bitcast {given} {bits} to {vector}"
        if back:
            ascending = f"{self._name()}{COPY}"
            self._body.append((f"{ascending} = {text}", f"{ascending} = {masked}"))
            text = masked = self._turned(vector, ascending)
        self._give(instruction, text, masked)

    def _gather(self, instruction: Any, at: _Spread, kind: str) -> None:
        """A load from places of the lanes' own. Few CPUs have one of less than words."""
        # Without masks the lanes are read one by one, as LLVM does from places that need not become lanes.
        if at.kind != kind or bit_size(kind) < _WORD or not TARGET.free_masks:
            raise Unfit
        vector, pointers = self._vector(kind), f"<{self._width} x ptr>"
        name = f"llvm.masked.gather.v{self._width}{short_name(kind)}.v{self._width}p0"
        mask, given = ir.VectorType(ir.IntType(1), self._width), ir.VectorType(element_type(kind), self._width)
        self._declare(name, given, [ir.VectorType(ir.PointerType(), self._width), ir.IntType(32), mask, given])
        places = self._named(f"getelementptr {kind}, ptr {at.first}, <{self._width} x i64> {at.places}")
        marks = instruction._stringify_metadata(leading_comma=True)
        whole, masked = (
            f'call {vector} @"{name}"({pointers} {places}, i32 {bit_size(kind) // 8}, {mask} {lanes}, '
            f"{vector} zeroinitializer){marks}"
            for lanes in ("splat (i1 true)", MASK)
        )
        self._give(instruction, whole, masked)

    def _turned(self, vector: str, name: str) -> str:
        """The lanes of a vector in descending order."""
        order = ", ".join(f"i32 {k}" for k in reversed(range(self._width)))
        return f"shufflevector {vector} {name}, {vector} undef, <{self._width} x i32> <{order}>"

    def _store(self, instruction: Any) -> None:
        value, place = instruction.operands
        if is_variable(place):
            found = self._value(value)
            if not isinstance(found, _Linear) or found.offset or found.back:
                raise Unfit
            # A variable for the index: other loops of the text may have the same.
            self._variables[id(place)] = found
            self._before.append(
                f"store i64 {self._ahead(f'sub i64 {self._loop.stop.get_reference()}, 1')}, "
                f"{place.type} {place.get_reference()}"
            )
            return
        at, kind = self._value(place), str(value.type)
        if isinstance(at, _Adjacent) and at.back:
            raise Unfit
        self._accesses.append((True, scope_of(instruction), at))
        vector, pointer, lanes = self._vector(kind), self._element(at, kind), self._lanes(value)
        marks = instruction._stringify_metadata(leading_comma=True)
        text = f"store {vector} {lanes}, ptr {pointer}, align {bit_size(kind) // 8}{marks}"
        if is_own(place):
            # A load cannot have what a masked store still has on its way.
            self._line(text)
            return
        stored = "i16" if kind == "half" else kind
        mask, given = ir.VectorType(ir.IntType(1), self._width), ir.VectorType(element_type(stored), self._width)
        name = f"llvm.masked.store.v{self._width}{short_name(stored)}.p0"
        self._declare(name, ir.VoidType(), [given, given.as_pointer(), ir.IntType(32), mask])
        if stored != kind:
            bits = f"{self._name()}{COPY}"
            self._body.append((None, f"{bits} = bitcast {vector} {lanes} to {given}"))
            lanes = bits
        operands = f"{given} {lanes}, ptr {pointer}, i32 {bit_size(kind) // 8}, {mask} {MASK}"
        self._body.append((text, f'call void @"{name}"({operands}){marks}'))

    def _element(self, at: _Found, kind: str) -> str:
        """The address of a vector of a type."""
        if not isinstance(at, _Adjacent) or at.kind != kind:
            raise Unfit
        if at not in self._addresses:
            first, index = at.first, INDEX
            if at.offset:
                first = self._ahead(f"getelementptr {kind}, ptr {first}, i64 {at.offset}")
            if at.back:
                # The last lane's element comes first in memory.
                first = self._ahead(f"getelementptr {kind}, ptr {first}, i64 {1 - self._width}")
                index = self._named(f"sub i64 0, {INDEX}")
            name = self._addresses[at] = f"{self._name()}{COPY}"
            self._line(f"{name} = getelementptr {kind}, ptr {first}, i64 {index}")
        return self._addresses[at]

    def _check_accesses(self) -> None:
        """Turns may be done at once: what one writes no other one reads or writes."""
        written = {id(scope) for writes, scope, _ in self._accesses if writes}
        if not written or any(scope is None for _, scope, _ in self._accesses):
            raise Unfit
        for scope in written:
            if len({at for _, other, at in self._accesses if id(other) == scope}) > 1:
                raise Unfit

    # --- writing ------------------------------------------------------------------------------------------------------

    def lines(self, elements: Elements | None) -> list[str]:
        """The lines in place of the loop's head; a loop over `elements` goes on where whole vectors end."""
        module = self._loop.head.function.module
        for name, kind in self._declared.items():
            if name not in module.globals:
                ir.Function(module, kind, name)
        start, stop = self._loop.start.get_reference(), self._loop.stop.get_reference()
        done = self._loop.done.get_reference()
        turns = Turns(self._stem, self._width, start, stop, done, self._as_it_is(), elements)
        return turns.lines(self._before, self._body, self._side_by_side())

    def _side_by_side(self) -> int:
        """How many vectors in a turn: as LLVM would, several if a body is short, so that the loop counts for little."""
        size = len(self._body)
        if self._copies or size >= _SHORT:
            return self._copies or 1
        stores = sum(writes for writes, _, _ in self._accesses)
        loads = sum(isinstance(at, _Adjacent) for _, _, at in self._accesses) - stores
        several = max(_SHORT // size, _MOST // max(1, stores), _MOST // max(1, loads))
        return min(_MOST, 1 << (several.bit_length() - 1))

    def _as_it_is(self) -> str:
        """Metadata of a loop that LLVM shall leave as it is."""
        module = self._loop.head.function.module
        node = module.add_metadata(
            [f"{LOOP} {len(module.metadata)}", module.add_metadata(["llvm.loop.unroll.disable"])]
        )
        return f", !llvm.loop {node.get_reference()}"


_READERS: dict[str, Callable[[_Widening, Any], None]] = {
    "load": _Widening._load,
    "store": _Widening._store,
    "getelementptr": _Widening._address,
    "inttoptr": _Widening._pointer,
    "icmp": _Widening._compare,
    "fcmp": _Widening._compare,
    "select": _Widening._select,
    "call": _Widening._call,
}
