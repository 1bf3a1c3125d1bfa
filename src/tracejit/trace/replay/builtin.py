"""What Python's builtin functions and types do with the machine's values."""

from __future__ import annotations

import abc
import builtins
import functools
import itertools
import operator
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from tracejit.devices import device
from tracejit.tensor.conversion import as_tensor, from_numpy, of_class, tensor
from tracejit.tensor.tensor import Tensor
from tracejit.trace.replay.frames import Iteration
from tracejit.trace.replay.guards import ABSENT, find_in_class
from tracejit.trace.replay.symbols import Later, Sym, Unproven

BUILTINS: dict[Any, Callable[..., Any]] = {}
"""Models by the function or type they stand for; called with the machine and the arguments."""

_NOTHING = object()


def model(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a model."""

    def enter(f: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            BUILTINS[function] = f
        return f

    return enter


@model(len)
def _len(m: Any, x: Any) -> Any:
    return m.length(x)


@model(isinstance)
def _isinstance(m: Any, x: Any, cls: Any) -> Any:
    if type(x) is Later:
        raise Unproven(Later.complaint, Later.fix)
    classes = cls if isinstance(cls, tuple) else (cls,)
    _plain_classes(classes)
    m.attributes.same_type(x)
    return isinstance(x.value if type(x) is Sym else x, classes)


def _plain_classes(classes: tuple[Any, ...]) -> None:
    for c in classes:
        if isinstance(c, tuple):
            _plain_classes(c)
        elif isinstance(find_in_class(type(c), "__instancecheck__"), types.FunctionType) and type(c) is not abc.ABCMeta:
            if type(c).__module__ not in ("abc", "typing"):
                raise Unproven(f"{type(c).__name__} defines what isinstance means")


@model(issubclass)
def _issubclass(m: Any, x: Any, cls: Any) -> Any:
    _plain_classes(cls if isinstance(cls, tuple) else (cls,))
    return issubclass(x, cls)


@model(callable)
def _callable(m: Any, x: Any) -> Any:
    return callable(x)


@model(type)
def _type(m: Any, *args: Any) -> Any:
    if len(args) != 1:
        raise Unproven("a class is made", "define classes outside of the compiled function")
    x = args[0]
    if type(x) is Later:
        raise Unproven(Later.complaint, Later.fix)
    m.attributes.same_type(x)
    return type(x.value) if type(x) is Sym else type(x)


@model(id)
def _id(m: Any, x: Any) -> Any:
    if m.world.is_fresh(x):
        raise Unproven("the id of a new object is asked for", "compare objects with 'is'")
    m.world.pin(x)
    return id(x)


@model(operator.index)
def _index(m: Any, x: Any) -> Any:
    x = m.world.fix(x)
    if type(x) not in (int, bool):
        raise Unproven(f"a {type(x).__name__} is taken for a whole number", Later.fix)
    return int(x)


@model(hash)
def _hash(m: Any, x: Any) -> Any:
    x = m.world.fix(x)
    if not m.plain(x):
        raise Unproven("a hash is asked for")
    return hash(x)


@model(getattr)
def _getattr(m: Any, x: Any, name: Any, default: Any = _NOTHING) -> Any:
    found = m.attributes.find(x, name)
    if found is not ABSENT:
        return found
    if default is _NOTHING:
        raise Unproven(f"AttributeError: {type(x).__name__} has no attribute '{name}'")
    return default


@model(hasattr)
def _hasattr(m: Any, x: Any, name: Any) -> Any:
    return m.attributes.find(x, name) is not ABSENT


@model(setattr)
def _setattr(m: Any, x: Any, name: Any, value: Any) -> None:
    m.attributes.store(x, name, value)


@model(delattr)
def _delattr(m: Any, x: Any, name: Any) -> None:
    m.attributes.store(x, name, ABSENT)


@model(vars)
def _vars(m: Any, x: Any) -> Any:
    return m.attributes.load(x, "__dict__")


@model(iter)
def _iter(m: Any, x: Any) -> Any:
    return x if isinstance(x, Iteration) else Iteration(iter(m.iterate(x)))


@model(next)
def _next(m: Any, x: Any, default: Any = _NOTHING) -> Any:
    found = next(m.iterate(x), default)
    if found is _NOTHING:
        raise Unproven("StopIteration is raised")
    return found


def _counted(m: Any, start: Any, stop: Any = None, step: Any = 1) -> Iteration | None:
    """What a loop counts from a number that changes on, as long as it makes so many rounds; None if that is not it."""
    frame = m.frames[-1]
    if frame.instructions[frame.at].name != "GET_ITER" or type(start) is not Sym or type(stop) is not Sym:
        return None
    if type(start.value) is not int or type(stop.value) is not int or type(step) is not int or not step:
        return None
    distance = stop.value - start.value
    m.world.listing.require(f"{stop.text} - {start.text} == {distance}")
    return Iteration(iter([m.binary("+", start, k) if k else start for k in range(0, distance, step)]))


@model(range)
def _range(m: Any, *args: Any) -> Any:
    counted = _counted(m, *args) if len(args) in (2, 3) else None
    if counted is not None:
        return counted
    try:
        return range(*(m.world.fix(a) for a in args))
    except TypeError as e:
        raise Unproven(f"TypeError: {e}") from None


@model(slice)
def _slice(m: Any, *args: Any) -> Any:
    return slice(*(m.world.fix(a) for a in args))


@model(enumerate)
def _enumerate(m: Any, x: Any, start: Any = 0) -> Any:
    return Iteration(m.world.make_fresh(pair) for pair in enumerate(m.iterate(x), m.world.fix(start)))


@model(zip)
def _zip(m: Any, *xs: Any, strict: bool = False) -> Any:
    def joined() -> Any:
        iterators = [iter(m.iterate(x)) for x in xs]
        while True:
            row = [next(i, _NOTHING) for i in iterators] if strict else []
            if not strict:
                for i in iterators:
                    row.append(next(i, _NOTHING))
                    if row[-1] is _NOTHING:
                        return
            if not row or all(e is _NOTHING for e in row):
                return
            if any(e is _NOTHING for e in row):
                raise Unproven("ValueError: zip() arguments have different lengths")
            yield m.world.make_fresh(tuple(row))

    return Iteration(joined())


@model(map)
def _map(m: Any, f: Any, *xs: Any) -> Any:
    return Iteration(m.call(f, tuple(row), {}) for row in m.iterate(_zip(m, *xs)))


@model(filter)
def _filter(m: Any, f: Any, xs: Any) -> Any:
    return Iteration(x for x in m.iterate(xs) if m.truth(x if f is None else m.call(f, (x,), {})))


@model(reversed)
def _reversed(m: Any, x: Any) -> Any:
    if isinstance(x, (list, tuple, range)):
        return Iteration(iter(list(m.iterate(x))[::-1]))
    if m.special(x, "__reversed__") is not ABSENT or not isinstance(m.special(x, "__getitem__"), types.FunctionType):
        raise Unproven(f"a {type(x).__name__} is reversed")
    item = m.attributes.load(x, "__getitem__")
    return Iteration(m.call(item, (k,), {}) for k in range(m.world.fix(m.length(x)) - 1, -1, -1))


@model(functools.reduce)
def _reduce(m: Any, f: Any, xs: Any, initial: Any = _NOTHING) -> Any:
    elements = m.iterate(xs)
    value = next(elements, _NOTHING) if initial is _NOTHING else initial
    if value is _NOTHING:
        raise Unproven("TypeError: reduce() of nothing, with no initial value")
    for element in elements:
        value = m.call(f, (value, element), {})
    return value


@model(itertools.chain)
def _chain(m: Any, *xs: Any) -> Any:
    return Iteration(e for x in xs for e in m.iterate(x))


@model(itertools.pairwise)
def _pairwise(m: Any, xs: Any) -> Any:
    return Iteration(m.world.make_fresh(pair) for pair in itertools.pairwise(m.iterate(xs)))


@model(list)
def _list(m: Any, x: Any = ()) -> Any:
    return m.world.make_fresh(list(m.iterate(x)))


@model(tuple)
def _tuple(m: Any, x: Any = ()) -> Any:
    return m.world.make_fresh(tuple(m.iterate(x)))


def _keys(m: Any, xs: Any) -> list[Any]:
    out = []
    for x in m.iterate(xs):
        m.world.pin(x)
        out.append(m.world.fix(x))
    return out


@model(set)
def _set(m: Any, x: Any = ()) -> Any:
    return m.world.make_fresh(set(_keys(m, x)))


@model(frozenset)
def _frozenset(m: Any, x: Any = ()) -> Any:
    return m.world.make_fresh(frozenset(_keys(m, x)))


@model(dict)
def _dict(m: Any, x: Any = _NOTHING, **kwargs: Any) -> Any:
    made: dict[Any, Any] = {}
    if isinstance(x, dict):
        made.update(m.world.pairs(x))
    elif x is not _NOTHING:
        for pair in m.iterate(x):
            key, value = m.iterate(pair)
            m.world.pin(key)
            made[m.world.fix(key)] = value
    made.update(kwargs)
    return m.world.make_fresh(made)


@model(sum)
def _sum(m: Any, xs: Any, start: Any = 0) -> Any:
    for x in m.iterate(xs):
        start = m.binary("+", start, x)
    return start


@model(any)
def _any(m: Any, xs: Any) -> Any:
    return any(m.truth(x) for x in m.iterate(xs))


@model(all)
def _all(m: Any, xs: Any) -> Any:
    return all(m.truth(x) for x in m.iterate(xs))


def _extreme(m: Any, function: Any, xs: tuple[Any, ...], key: Any, default: Any) -> Any:
    name = function.__name__
    values = list(m.iterate(xs[0])) if len(xs) == 1 else list(xs)
    if not values:
        if default is _NOTHING:
            raise Unproven(f"ValueError: {name}() of nothing")
        return default
    if key is not None:
        sign = ">" if function is max else "<"
        best, rank = values[0], m.call(key, (values[0],), {})
        for x in values[1:]:
            other = m.call(key, (x,), {})
            if m.truth(m.compare(sign, other, rank)):
                best, rank = x, other
        return best
    parts = [m.number(x) for x in values]
    if all(p is not None for p in parts):
        value = function(p[0] for p in parts)
        if not any(type(x) is Sym for x in values):
            return value
        return m.symbolic(value, f"{name}({', '.join(p[1] for p in parts)})") if len(values) > 1 else values[0]
    if all(m.plain(x) for x in values):
        return function(values)
    raise Unproven(f"{name}() of values that Python would have to look at", Later.fix)


@model(max)
def _max(m: Any, *xs: Any, key: Any = None, default: Any = _NOTHING) -> Any:
    return _extreme(m, max, xs, key, default)


@model(min)
def _min(m: Any, *xs: Any, key: Any = None, default: Any = _NOTHING) -> Any:
    return _extreme(m, min, xs, key, default)


@model(sorted)
def _sorted(m: Any, xs: Any, *, key: Any = None, reverse: Any = False) -> Any:
    values = list(m.iterate(xs))
    ranks = [m.world.fix(v if key is None else m.call(key, (v,), {})) for v in values]
    if not all(m.plain(r) for r in ranks):
        raise Unproven("sorted() of values that Python would have to look at")
    order = sorted(range(len(values)), key=ranks.__getitem__, reverse=m.truth(reverse))
    return m.world.make_fresh([values[i] for i in order])


def _numeric(name: str, function: Any) -> None:
    def apply(m: Any, *args: Any) -> Any:
        if args and isinstance(args[0], Tensor):
            return m.calls.native(function, args, {})
        parts = [m.number(a) for a in args]
        if any(p is None for p in parts):
            if all(m.plain(a) for a in args):
                return function(*args)
            raise Unproven(f"{name}() of a {type(args[0]).__name__}", Later.fix)
        try:
            value = function(*(p[0] for p in parts))
        except (ArithmeticError, ValueError, TypeError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None
        if not any(type(a) is Sym for a in args):
            return value
        if type(value) is tuple:
            return tuple(m.symbolic(v, f"{name}({', '.join(p[1] for p in parts)})[{i}]") for i, v in enumerate(value))
        return m.symbolic(value, f"{name}({', '.join(p[1] for p in parts)})")

    BUILTINS[function] = apply


for _name in ("abs", "round", "pow", "divmod"):
    _numeric(_name, getattr(builtins, _name))


def _conversion(cls: type) -> None:
    def convert(m: Any, *args: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Tensor):
            if cls is bool:
                return m.truth(args[0])
            m.world.touch(args[0])
            whole = not args[0].dtype.is_floating_point
            if args[0].numel() != 1 or args[0].dtype.name == "bool" or whole is not (cls is int):
                raise Unproven(f"{cls.__name__}() of a tensor of type {args[0].dtype}", "use .item()")
            return m.session.item(args[0])
        if len(args) == 1 and type(args[0]) is Sym:
            x = args[0]
            if cls is bool:
                return m.truth(x)
            try:
                value = cls(x.value)
            except (ValueError, OverflowError) as e:
                raise Unproven(f"{type(e).__name__}: {e}") from None
            return m.symbolic(value, f"{cls.__name__}({x.text})")
        if len(args) == 1 and type(args[0]) is Later and cls is not bool:
            # What is not finite is no whole number; any number is a float.
            if args[0].kind not in ("i", "b") and (cls is int or args[0].kind == "array"):
                raise Unproven(Later.complaint, Later.fix)
            kind = cls.__name__[0]
            form = args[0].form if kind == args[0].kind else None
            return Later(f"{cls.__name__}({args[0].text})", form, kind)
        if cls is bool:
            return m.truth(args[0]) if args else False
        if not all(m.plain(a) for a in args):
            raise Unproven(f"{cls.__name__}() of a {type(args[0]).__name__}", Later.fix)
        try:
            return cls(*args)
        except (ValueError, OverflowError, TypeError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None

    BUILTINS[cls] = convert


for _cls in (int, float, bool):
    _conversion(_cls)


def _number_of_numpy(cls: Any) -> None:
    def make(m: Any, *args: Any) -> Any:
        if len(args) != 1 or type(args[0]) not in (int, float, bool):
            raise Unproven(f"a {cls.__name__} is made of what changes, or of arrays", "use Python's numbers")
        return cls(*args)

    BUILTINS[cls] = make


for _number in (np.float32, np.float64, np.int32, np.int64):
    _number_of_numpy(_number)


def _of_array(function: Any) -> None:
    def make(m: Any, *args: Any, **kwargs: Any) -> Any:
        if args and type(args[0]) is np.ndarray:
            return m.calls.made_of_array(function, args, kwargs)
        return m.calls.as_it_is(function, args, kwargs)

    BUILTINS[function] = make


for _maker in (as_tensor, from_numpy, tensor):
    _of_array(_maker)
_of_array(of_class)
BUILTINS[Tensor] = BUILTINS[of_class]


@model(device)
def _device(m: Any, *args: Any, **kwargs: Any) -> Any:
    if not all(m.plain(a) for a in (*args, *kwargs.values())):
        raise Unproven("a device is named by a value that changes", Later.fix)
    try:
        return device(*args, **kwargs)
    except (RuntimeError, TypeError) as e:
        raise Unproven(f"{type(e).__name__}: {e}") from None


def text_of(m: Any, function: Any, args: tuple[Any, ...]) -> Any:
    """A text made of plain values."""
    if not all(m.plain(a) for a in args):
        raise Unproven(
            "a text is made of values that change", "print and format outside of the compiled function"
        )
    try:
        return function(*args)
    except (ValueError, TypeError) as e:
        raise Unproven(f"{type(e).__name__}: {e}") from None


for _function in (str, repr, format, chr, ord):
    BUILTINS[_function] = lambda m, *args, _f=_function: text_of(m, _f, args)


@model(print)
def _print(m: Any, *args: Any, **kwargs: Any) -> None:
    m.hinder("print writes to the screen", "print outside of the compiled function")


@model(super)
def _super(m: Any, *args: Any) -> Any:
    if not args:
        frame = m.frames[-1]
        cell = frame.cells.get("__class__")
        names = frame.code.co_varnames
        first = frame.locals.get(names[0]) if names else None
        if cell is None or first is None:
            raise Unproven("super() is called outside of a method")
        args = (cell.cell_contents, first)
    return m.world.make_fresh(super(*args))
