"""The machine: runs the bytecode of Python functions on the world as it is, without changing it.

It knows only the way that raises nothing: an exception, a call to code that may do anything, or a value that is not
there yet end the run with `Unproven` and the user's line.
"""

from __future__ import annotations

import operator
import types
from typing import Any

import numpy as np

from tracejit.tensor.scalar import Scalar
from tracejit.tensor.tensor import Tensor
from tracejit.trace.expected import Form, combined, kind_of, number_form, tested
from tracejit.trace.replay.attributes import Attributes
from tracejit.trace.replay.calls import Calls
from tracejit.trace.replay.frames import MAKES_GENERATOR, REFUSED, Frame, Generator, Iteration, bind
from tracejit.trace.replay.guards import ABSENT, find_in_class
from tracejit.trace.replay.opcodes_objects import OPCODES
from tracejit.trace.replay.session import Shadow
from tracejit.trace.replay.symbols import Later, Midway, Source, Sym, Unproven
from tracejit.trace.replay.world import PLAIN, World, nowhere
from tracejit.trace.source import is_user_file

STEPS = 3_000_000
"""Instructions after which a run is given up."""
DEPTH = 100

_COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}
_REFLECTED = {"<": ">", "<=": ">=", "==": "==", "!=": "!=", ">": "<", ">=": "<="}
_ARITHMETIC = {
    "+": ("add", operator.add, operator.iadd),
    "-": ("sub", operator.sub, operator.isub),
    "*": ("mul", operator.mul, operator.imul),
    "/": ("truediv", operator.truediv, operator.itruediv),
    "//": ("floordiv", operator.floordiv, operator.ifloordiv),
    "%": ("mod", operator.mod, operator.imod),
    "**": ("pow", operator.pow, operator.ipow),
    "@": ("matmul", operator.matmul, operator.imatmul),
    "<<": ("lshift", operator.lshift, operator.ilshift),
    ">>": ("rshift", operator.rshift, operator.irshift),
    "&": ("and", operator.and_, operator.iand),
    "|": ("or", operator.or_, operator.ior),
    "^": ("xor", operator.xor, operator.ixor),
}
_COMPARE_NAMES = {"<": "__lt__", "<=": "__le__", "==": "__eq__", "!=": "__ne__", ">": "__gt__", ">=": "__ge__"}
_SEQUENCES = (list, tuple, set, frozenset)
_CONTAINERS = (*_SEQUENCES, dict)
_VALUES = (*PLAIN, int, float, type, range, slice)


class Machine:
    """Runs functions abstractly; `world` and `session` hold what came of it."""

    def __init__(self, world: World, session: Shadow) -> None:
        self.world = world
        self.session = session
        self.attributes = Attributes(self)
        self.calls = Calls(self)
        self.frames: list[Frame] = []
        self.entered: set[int] = set()
        self.steps = 0
        self.obstacles: list[tuple[str, Unproven]] = []
        world.line = self.line

    def close(self) -> None:
        """Let go of what the run saw, such as the gradients of the call before: whoever still has the machine, an
        iterator of the run perhaps, would keep it in a circle until the next collection.
        """
        self.world.line = nowhere
        for part in (self.attributes, self.calls):
            vars(part).clear()
        del self.world, self.session, self.attributes, self.calls

    # --- where it stands ----------------------------------------------------------------------------------------------

    def line(self) -> str:
        """File and line of the user's function that runs, as "file.py:12"."""
        for frame in reversed(self.frames):
            if is_user_file(frame.code.co_filename):
                return f"{frame.code.co_filename}:{frame.line}"
        return "?"

    def hinder(self, reason: str, fix: str) -> None:
        """Note an obstacle and go on: the run finds more of them."""
        self.obstacles.append((self.line(), Unproven(reason, fix)))

    # --- functions ----------------------------------------------------------------------------------------------------

    def call(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call something."""
        return self.calls.call(f, args, kwargs)

    def enter(self, function: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a Python function."""
        code = function.__code__
        if code.co_flags & REFUSED:
            raise Unproven(f"{function.__name__} is a coroutine")
        if not self.world.is_fresh(function):
            if id(function) not in self.entered:
                self.entered.add(id(function))
                for name in ("__code__", "__defaults__", "__kwdefaults__"):
                    self.world.guard("slot", function, name, getattr(function, name))
            if function.__kwdefaults__:
                self.world.guard_deep(function.__kwdefaults__)
        variables, collected = bind(function, args, kwargs)
        for value in collected:
            self.world.make_fresh(value)
        frame = Frame(function, variables)
        if code.co_flags & MAKES_GENERATOR:
            return self.world.make_fresh(Generator(frame))
        return self.resume(frame)[1]

    def resume(self, frame: Frame) -> tuple[str, Any]:
        """Run a frame until it returns or yields: "return" or "yield", and the value."""
        if len(self.frames) > DEPTH:
            raise Unproven("the calls are nested too deeply")
        self.frames.append(frame)
        listed = frame.instructions
        try:
            while True:
                instruction = listed[frame.at]
                frame.at += 1
                self.steps += 1
                if self.steps > STEPS:
                    raise Unproven("the function runs too long to be followed instruction by instruction")
                handler = OPCODES.get(instruction.name)
                if handler is None:
                    raise Unproven(f"the instruction {instruction.name} is not supported", "write it in another way")
                done = handler(self, frame, instruction)
                if done is not None:
                    return done  # type: ignore[no-any-return]
        except Unproven as e:
            if not hasattr(e, "line"):
                e.line = self.line()  # type: ignore[attr-defined]
            raise
        finally:
            self.frames.pop()

    # --- iteration ----------------------------------------------------------------------------------------------------

    def iterate(self, x: Any) -> Any:
        """An iterator over `x`: a Python iterator of the machine's values."""
        world = self.world
        if isinstance(x, Iteration):
            return x.source
        if isinstance(x, Generator):
            return self._generate(x)
        if isinstance(x, Tensor):
            world.touch(x)
            return iter(x)
        if self.usual(x, dict, "__iter__"):
            if world.is_fresh(x):
                return iter(x)
            return iter([key for key, _ in world.pairs(x)])
        if any(self.usual(x, base, "__iter__") for base in _SEQUENCES):
            return iter(x) if world.is_fresh(x) else iter(world.elements(x))
        if isinstance(x, (str, bytes, range)):
            return iter(x)
        method = self.special(x, "__iter__")
        if isinstance(method, types.FunctionType):
            return self.iterate(self.call(self.attributes.load(x, "__iter__"), (), {}))
        raise Unproven(f"a {type(x).__name__} is iterated", "iterate over a list or a tuple")

    def _generate(self, generator: Generator) -> Any:
        while not generator.done:
            kind, value = self.resume(generator.frame)
            if kind == "return":
                generator.done = True
                return value
            generator.frame.stack.append(None)
            yield value
        return None

    # --- values -------------------------------------------------------------------------------------------------------

    def truth(self, x: Any) -> bool:
        """Whether a value counts as true; a number that changes is guarded."""
        if x is None or x is True or x is False:
            return bool(x)
        world = self.world
        if type(x) is Sym:
            value = bool(x.value)
            world.listing.require(x.text if value else f"not {x.text}")
            return value
        if isinstance(x, (Tensor, Later)):
            if isinstance(x, Tensor):
                world.touch(x)
            return self.session.decide(x)
        if self.sized(x, "__len__", "__bool__"):
            if isinstance(x, dict) and not (world.is_fresh(x) or world.is_found(x)):
                world.unchanged(x)
                world.guard("filled", x, None, bool(x))
                return bool(x)
            return self.length(x) > 0
        if isinstance(x, _VALUES):
            return bool(x)
        cls = type(x)
        for name in ("__bool__", "__len__"):
            method = self.special(x, name)
            if isinstance(method, types.FunctionType):
                return self.truth(self.call(self.attributes.load(x, name), (), {}))
            if method is not ABSENT:
                raise Unproven(f"the truth of a {cls.__name__} is asked for")
        return True

    def length(self, x: Any) -> int:
        """`len(x)`."""
        world = self.world
        if isinstance(x, Tensor):
            world.touch(x)
            return len(x)
        if isinstance(x, (str, bytes, range)):
            return len(x)
        if self.sized(x, "__len__"):
            if world.is_fresh(x) or world.is_found(x):
                return len(x)
            return self._count(x)
        method = self.special(x, "__len__")
        if isinstance(method, types.FunctionType):
            return self.world.fix(self.call(self.attributes.load(x, "__len__"), (), {}))  # type: ignore[no-any-return]
        raise Unproven(f"the length of a {type(x).__name__} is asked for")

    def _count(self, x: Any) -> int:
        if isinstance(x, (list, set, dict)):
            kind = "keys" if isinstance(x, dict) else "set" if isinstance(x, set) else "list"
            self.world.unchanged(x)
            self.world.guard(kind, x, None, tuple(x))
        return len(x)

    def special(self, x: Any, name: str) -> Any:
        """The special method of an object's class, or `ABSENT`."""
        self.attributes.same_type(x)
        return self.attributes.held(type(x), name)

    def sized(self, x: Any, *names: str) -> bool:
        """Whether an object is a container of Python's, or of a class that leaves these methods of it as they are."""
        return type(x) in _CONTAINERS or any(self.usual(x, base, *names) for base in _CONTAINERS)

    def usual(self, x: Any, base: type, *names: str) -> bool:
        """Whether an object is of a builtin type, or of a class that leaves these methods of it as they are."""
        cls = type(x)
        if cls is base:
            return True
        if not isinstance(x, base):
            return False
        self.attributes.same_type(x)
        return all(self.attributes.held(cls, name) is find_in_class(base, name) for name in names)

    def number(self, x: Any) -> tuple[Any, str] | None:
        """Value and text of a number, or None."""
        if type(x) is Sym:
            return x.value, x.text
        if type(x) in (int, float, bool):
            if type(x) is float and (x != x or abs(x) == float("inf")):
                return x, self.world.listing.constant(self.world.keep(x))
            # A negative number in brackets: the sign binds less than a power.
            return x, f"({x!r})" if x < 0 or repr(x)[0] == "-" else repr(x)
        if isinstance(x, np.number):
            return x, self.world.listing.constant(self.world.keep(x))
        return None

    def symbolic(self, value: Any, expression: str) -> Any:
        """The result of arithmetic with numbers that change."""
        if type(value) not in (int, float):
            raise Unproven(f"arithmetic gives a {type(value).__name__}")
        return self.world.listing.symbol(value, self.world.listing.let(expression))

    def compare(self, sign: str, a: Any, b: Any) -> Any:
        """`a < b` and the like."""
        world = self.world
        function = _COMPARISONS[sign]
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return self.tensor_operation(function, a, b)
        if type(a) is Later or type(b) is Later:
            return self.compared_afterwards(sign, a, b)
        if type(a) is Sym or type(b) is Sym:
            left, right = self.number(a), self.number(b)
            if left is None or right is None:
                if sign in ("==", "!=") and isinstance(b if left else a, PLAIN):
                    return sign == "!="
                raise Unproven(Sym.complaint, Sym.fix)
            value = function(left[0], right[0])
            if left == right and type(left[0]) is int:
                return value
            condition = f"{left[1]} {sign} {right[1]}"
            world.listing.require(f"({condition})" if value else f"not ({condition})")
            return value
        if self.plain(a) and self.plain(b):
            return function(a, b)
        for x, y, s in ((a, b, sign), (b, a, _REFLECTED[sign])):
            method = self.special(x, _COMPARE_NAMES[s])
            if isinstance(method, types.FunctionType):
                found = self.call(self.attributes.load(x, _COMPARE_NAMES[s]), (y,), {})
                if found is not NotImplemented:
                    return found
        if sign in ("==", "!=") and all(
            self.special(x, "__eq__") is object.__dict__["__eq__"]
            or isinstance(self.special(x, "__eq__"), types.FunctionType)
            for x in (a, b)
        ):
            return self.same(a, b) is (sign == "==")
        raise Unproven(f"a {type(a).__name__} is compared with a {type(b).__name__}")

    def plain(self, x: Any, depth: int = 0) -> bool:
        """Whether a value is made of Python's plain values alone, all of them guarded."""
        if isinstance(x, np.number):
            return True
        if isinstance(x, _VALUES):
            return not isinstance(x, (float, int)) or type(x) in (int, float, bool)
        if type(x) in (list, tuple, set, frozenset) or isinstance(x, tuple):
            return depth < 6 and all(self.plain(e, depth + 1) for e in self.world.elements(x))
        if type(x) is dict:
            return depth < 6 and all(self.plain(v, depth + 1) for _, v in self.world.pairs(x))
        return False

    def same(self, a: Any, b: Any) -> bool:
        """`a is b`."""
        world = self.world
        if type(a) in (Sym, Later) or type(b) in (Sym, Later):
            number, other = (a, b) if type(a) in (Sym, Later) else (b, a)
            if type(number) is Later and isinstance(other, bool):
                return self._is_truth(number) and self.session.decide(number) is other
            if other is None or isinstance(other, (bool, str, Tensor)):
                return False
            raise Unproven("numbers are compared by identity", "compare numbers with ==")
        if a is None or b is None or not (world.is_found(a) or world.is_found(b)):
            return a is b
        left, right = world.text_of(a), world.text_of(b)
        if left != right:
            world.listing.require(f"{left} is {right}" if a is b else f"{left} is not {right}")
        return a is b

    def contains(self, x: Any, container: Any) -> bool:
        """`x in container`."""
        world = self.world
        if self.usual(container, dict, "__contains__"):
            return world.item(container, x) is not ABSENT
        if any(self.usual(container, base, "__contains__") for base in (set, frozenset)):
            world.pin(x)
            if not world.is_fresh(container):
                world.elements(container)
            return world.fix(x) in container
        if any(self.usual(container, base, "__contains__") for base in (list, tuple)):
            return any(e is x or self.truth(self.compare("==", e, x)) for e in world.elements(container))
        if isinstance(container, (str, bytes, range)):
            return world.fix(x) in container
        method = self.special(container, "__contains__")
        if isinstance(method, types.FunctionType):
            return self.truth(self.call(self.attributes.load(container, "__contains__"), (x,), {}))
        raise Unproven(f"a {type(container).__name__} is searched")

    def binary(self, sign: str, a: Any, b: Any) -> Any:
        """`a + b` and the like, also `+=`."""
        inplace = sign.endswith("=")
        sign = sign.removesuffix("=")
        name, function, changing = _ARITHMETIC[sign]
        world = self.world
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return self.tensor_operation(changing if inplace else function, a, b)
        if type(a) is Later or type(b) is Later:
            return self.afterwards(sign, a, b)
        left, right = self.number(a), self.number(b)
        if left is not None and right is not None:
            try:
                value = function(left[0], right[0])
            except ArithmeticError as e:
                raise Unproven(f"{type(e).__name__}: {e}") from None
            if type(a) is Sym or type(b) is Sym:
                return self.symbolic(value, f"{left[1]} {sign} {right[1]}")
            return value
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and sign == "+":
            if inplace and isinstance(a, list):
                if not world.is_fresh(a):
                    raise Unproven("a list from outside is extended", "return the values instead of collecting them")
                a.extend(world.elements(b))
                return a
            if isinstance(a, list) is isinstance(b, list):
                joined = [*world.elements(a), *world.elements(b)]
                return world.make_fresh(joined if isinstance(a, list) else tuple(joined))
        if sign == "*" and isinstance(a, (list, tuple)) and right is not None:
            repeated = world.elements(a) * world.fix(b)
            return world.make_fresh(repeated if isinstance(a, list) else tuple(repeated))
        if inplace and isinstance(a, (set, dict, list, bytearray)):
            raise Unproven(f"a {type(a).__name__} is changed by {sign}=", "use a method of it, or make a new one")
        if self.plain(a) and self.plain(b):
            try:
                return world.make_fresh(function(a, b))
            except (ValueError, TypeError, LookupError, ArithmeticError) as e:
                raise Unproven(f"{type(e).__name__}: {e}") from None
        names = ([(a, b, f"__i{name}__")] if inplace else []) + [(a, b, f"__{name}__"), (b, a, f"__r{name}__")]
        for x, y, method in names:
            if isinstance(self.special(x, method), types.FunctionType):
                found = self.call(self.attributes.load(x, method), (y,), {})
                if found is not NotImplemented:
                    return found
        raise Unproven(f"{sign} of a {type(a).__name__} and a {type(b).__name__}")

    def afterwards(self, sign: str, a: Any, b: Any) -> Later:
        """Arithmetic that can wait until the program ran, because it cannot fail."""
        parts = []
        self._are_numbers(a, b)
        for x in (a, b):
            part = None if type(x) is Later else self.number(x)
            if (part is None and type(x) is not Later) or (part is not None and abs(part[0]) >= 2**53):
                raise Unproven(Later.complaint, Later.fix)
            if type(x) is Sym and type(x.value) is int:
                self.world.listing.require(f"-(2**53) < {x.text} < 2**53")
            parts.append(x.text if part is None else part[1])
        kinds = [x.kind if type(x) is Later else self._kind(x) for x in (a, b)]
        kind = "f" if sign == "/" or "f" in kinds else "?" if "?" in kinds else "i"
        if sign == "/":
            # By no zero; and whole numbers that were multiplied may be too large for a float.
            divisor = self.number(b)
            if divisor is None or not divisor[0] or (kinds[0] != "f" and "*" in parts[0]):
                raise Unproven(Later.complaint, Later.fix)
            if type(b) is Sym:
                self.world.listing.require(f"{b.text} != 0")
        elif sign not in "+-*":
            raise Unproven(Later.complaint, Later.fix)
        return Later(f"({parts[0]} {sign} {parts[1]})", combined(sign, self._form(a), self._form(b)), kind)

    def compared_afterwards(self, sign: str, a: Any, b: Any) -> Later:
        """A comparison that can wait until the program ran."""
        if self.session.uncut is None:
            raise Midway(Later.complaint, Later.fix)
        self._are_numbers(a, b)
        parts = [(None, x.text) if type(x) is Later else self.number(x) for x in (a, b)]
        if any(part is None for part in parts):
            raise Unproven(Later.complaint, Later.fix)
        form = combined(sign, self._form(a), self._form(b))
        return Later(f"({parts[0][1]} {sign} {parts[1][1]})", form)  # type: ignore[index]

    def tested_afterwards(self, f: Any, x: Later) -> Later:
        """A test of `math` that can wait until the program ran."""
        if self.session.uncut is None:
            raise Midway(Later.complaint, Later.fix)
        form = tested(f.__name__, x.form)
        if form is None:
            raise Unproven(Later.complaint, Later.fix)
        return Later(f"{self.world.listing.constant(f)}({x.text})", form)

    @staticmethod
    def _kind(x: Any) -> str:
        return "f" if type(x.value if type(x) is Sym else x) is float else "i"

    @staticmethod
    def _are_numbers(*values: Any) -> None:
        if any(type(x) is Later and x.kind == "array" for x in values):
            raise Unproven("Python computes with an array or a list that it makes of a tensor", Later.fix)

    def _is_truth(self, x: Later) -> bool:
        """Whether a value that is read is a truth value, not a number."""
        if x.form is None:
            raise (Midway if self.session.uncut is None else Unproven)(Later.complaint, Later.fix)
        return kind_of(x.form) == "b"

    def _form(self, x: Any) -> Form | None:
        if type(x) is Sym:
            return self.session.form_of(x)
        return x.form if type(x) is Later else number_form(x)

    def tensor_operation(self, function: Any, *args: Any) -> Any:
        """An operator on tensors: numbers that change become operands."""
        return self.calls.native(function, args, {})

    def given(self, x: Any, depth: int = 0) -> Any:
        """A value as a function of the tensor package takes it."""
        world = self.world
        kind = type(x)
        if kind is Sym:
            return Scalar(x.value, Source(world.listing, x.text))
        if kind is Later:
            raise Unproven(Later.complaint, Later.fix)
        if isinstance(x, Tensor):
            world.touch(x)
            return x
        if kind is slice:
            return slice(self.given(x.start), self.given(x.stop), self.given(x.step))
        if depth > 6:
            raise Unproven("a deeply nested container is given to a function")
        if kind in (list, tuple, set) or isinstance(x, tuple):
            items = [self.given(e, depth + 1) for e in world.elements(x)]
            if kind in (list, tuple, set):
                return kind(items)
            return tuple.__new__(kind, items)
        if kind is dict:
            return {k: self.given(v, depth + 1) for k, v in world.pairs(x)}
        if isinstance(x, (Generator, Iteration)):
            return [self.given(e, depth + 1) for e in self.iterate(x)]
        return x
