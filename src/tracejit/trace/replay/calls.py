"""Calls: what the machine does with each kind of callable."""

from __future__ import annotations

import functools
import os
import types
from collections import deque
from typing import Any

import numpy as np

from tracejit.devices import device
from tracejit.dtypes import dtype
from tracejit.ops.record import Op
from tracejit.tensor.casting import autocast
from tracejit.tensor.composite import Bound, Composite
from tracejit.tensor.generator import Generator as RandomGenerator
from tracejit.tensor.modes import enable_grad, inference_mode, no_grad, set_grad_enabled
from tracejit.tensor.scalar import Scalar
from tracejit.tensor.shaping import narrow, select
from tracejit.tensor.state import state
from tracejit.tensor.tensor import Size, Tensor
from tracejit.trace.replay.attributes import REGIONS
from tracejit.trace.replay.builtin import BUILTINS
from tracejit.trace.replay.frames import Iteration
from tracejit.trace.replay.guards import ABSENT, find_in_class
from tracejit.trace.replay.symbols import Later, Sym, Unproven

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
# The tensor package's functions run as they are: all they do to the world goes through the session.
_FOLDERS, _FILES = ("tensor", "ops"), ("devices.py", "dtypes.py", "shapes.py", "aval.py")
_NATIVE = tuple([_PACKAGE + folder + os.sep for folder in _FOLDERS] + [_PACKAGE + file for file in _FILES])
_GRAD_MODES = (no_grad, enable_grad, inference_mode, set_grad_enabled)
_MODES = (*_GRAD_MODES, autocast)
# Functions of the tensor package that change what other code sees, beside the session.
_REFUSED = frozenset(
    (
        *("set_default_dtype", "set_default_device", "set_float32_matmul_precision", "set_printoptions"),
        *("set_num_threads", "set_autocast_dtype", "set_autocast_enabled", "set_autocast_cache_enabled"),
        "clear_autocast_cache",
    )
)
_GIVEN = (
    *(device, dtype, Op, RandomGenerator, Size, type(None), type(...)),
    *(str, bytes, bool, int, float, complex, range, slice, type),
)
# Those that take numbers of the run: where a part begins.
_MOVING: frozenset[Any] = frozenset((narrow, select))
_Cached = type(functools.lru_cache(lambda: None))
_READS_ALL = frozenset(("numpy", "tolist"))
_READS_ONE = frozenset(("item", "__float__", "__int__"))


class Calls:
    """Calls things for a machine."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.world = machine.world
        # What blocks of automatic casting take that say nothing of it, as the call finds it.
        self.defaults = state.autocast_defaults

    def call(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call.

        Raises: Unproven for what is not known to have no other effect.
        """
        machine, world = self.machine, self.world
        if isinstance(f, types.MethodType):
            return self.call(f.__func__, (f.__self__, *args), kwargs)
        if isinstance(f, types.FunctionType):
            return self.function(f, args, kwargs)
        if isinstance(f, (Composite, Bound)):
            return self.native(f, args, kwargs)
        if isinstance(f, (types.BuiltinFunctionType, types.MethodWrapperType)):
            return self.builtin_function(f, args, kwargs)
        if isinstance(f, type):
            return self.make(f, args, kwargs)
        if isinstance(f, functools.partial):
            return self.call(f.func, (*f.args, *args), {**dict(world.pairs(f.keywords)), **kwargs})
        if isinstance(f, (types.MethodDescriptorType, types.WrapperDescriptorType)) and args:
            return self.method(f.__name__, args[0], args[1:], kwargs, f)
        if type(f).__module__ in REGIONS:
            return self.call(f.function if hasattr(f, "function") else f._region.function, args, kwargs)
        if isinstance(f, (Sym, Later)):
            raise Unproven(f.complaint, f.fix)
        if isinstance(f, (np.ufunc, type(np.prod))):
            return self.of_numpy(f, args, kwargs)
        if type(f) is _Cached and f.__wrapped__.__code__.co_filename.startswith(_PACKAGE) and not (args or kwargs):
            # What the package keeps for ever, such as whether there is a GPU.
            return f()
        called = machine.special(f, "__call__")
        if isinstance(called, types.FunctionType):
            if isinstance(f, types.ModuleType):
                return self.call(called, (f, *args), kwargs)
            return self.call(machine.attributes.load(f, "__call__"), args, kwargs)
        world.keep(f)
        raise Unproven(f"a {type(f).__name__} is called")

    # --- functions ----------------------------------------------------------------------------------------------------

    def function(self, f: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a Python function: the tensor package's run as they are, all others in the machine."""
        model = BUILTINS.get(f)
        if model is not None:
            return model(self.machine, *args, **kwargs)
        return self.as_it_is(f, args, kwargs)

    def as_it_is(self, f: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a Python function that has no model."""
        # A function that the machine made closes over the machine's values.
        native = f.__code__.co_filename.startswith(_NATIVE) and not self.world.is_fresh(f)
        if native and not hasattr(f, "__wrapped__"):
            if f.__name__ in _REFUSED:
                raise Unproven(f"{f.__name__} is called", "call it outside of the compiled function")
            if f is device.__enter__:
                raise Unproven("a default device is chosen", "name the device where tensors are made")
            if f.__name__ in _READS_ONE and isinstance(args[0], Tensor):
                self.world.touch(args[0])
                if args[0].numel() != 1:
                    raise Unproven("a tensor of more than one element is turned into a number")
                return self.machine.session.item(args[0])
            if f.__name__ in _READS_ALL and len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
                self.world.touch(args[0])
                return self.machine.session.item(args[0], f.__name__)
            if f in _MOVING or not (self._symbolic(args) or self._symbolic(tuple(kwargs.values()))):
                return self.native(f, args, kwargs)
        return self.machine.enter(f, args, kwargs)

    def _symbolic(self, args: tuple[Any, ...]) -> bool:
        return any(type(a) is Sym for a in args)

    def native(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the tensor package, or an operator on tensors, as it is."""
        machine = self.machine
        given = [self._given(a) for a in args]
        named = {k: self._given(v) for k, v in kwargs.items()}
        try:
            out = f(*given, **named)
        except Unproven:
            raise
        except Exception as e:  # noqa: BLE001 - whatever it is, the real call raises it again
            raise Unproven(f"an exception is raised: {type(e).__name__}: {e}") from None
        return self._taken(out, machine)

    def made_of_array(self, f: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor that a function makes of an array from outside: each call makes it anew."""
        array, *rest = args
        world, listing = self.world, self.world.listing
        plain = all(isinstance(x, (dtype, bool, type(None))) for x in (*rest, *kwargs.values()))
        if world.is_fresh(array) or not plain:
            return self.as_it_is(f, args, kwargs)
        session, state.session = state.session, None
        try:
            made = f(*args, **kwargs)
        except (TypeError, ValueError, RuntimeError) as e:
            raise Unproven(f"an exception is raised: {type(e).__name__}: {e}") from None
        finally:
            state.session = session
        given = [world.text_of(array), *map(listing.constant, rest)]
        given += [f"{name}={listing.constant(value)}" for name, value in kwargs.items()]
        return world.enter(made, listing.make(f"{listing.constant(f)}({', '.join(given)})"))

    def _given(self, x: Any) -> Any:
        out = self.machine.given(x)
        self._check(out)
        return out

    def _check(self, x: Any) -> None:
        if isinstance(x, (list, tuple, set)):
            for e in x:
                self._check(e)
        elif isinstance(x, dict):
            for e in x.values():
                self._check(e)
        elif isinstance(x, np.ndarray):
            raise Unproven(
                "a NumPy array is given to a function: its memory may have changed by the next call",
                "make a tensor of it outside, and give the tensor as an argument",
            )
        elif not isinstance(x, (Tensor, np.generic, *_GIVEN, *_MODES, Scalar)):
            raise Unproven(f"a {type(x).__name__} is given to a function of tracejit")

    def _taken(self, out: Any, machine: Any) -> Any:
        if type(out) in (list, tuple, dict, Size) or (isinstance(out, tuple) and hasattr(type(out), "_fields")):
            for e in out.values() if type(out) is dict else out:
                self._taken(e, machine)
            return self.world.make_fresh(out)
        if type(out) is Scalar:
            return Sym(out.value, out.source.text)
        if isinstance(out, (Tensor, *_GIVEN, *_MODES)):
            return self.world.keep(out)
        if hasattr(out, "__next__"):
            return self.world.make_fresh(Iteration(out))
        raise Unproven(f"a function of tracejit returns a {type(out).__name__}")

    # --- builtins -----------------------------------------------------------------------------------------------------

    def builtin_function(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function or method written in C."""
        owner = getattr(f, "__self__", None)
        if isinstance(owner, types.ModuleType) or owner is None:
            model = BUILTINS.get(f)
            if model is not None:
                try:
                    return model(self.machine, *args, **kwargs)
                except TypeError as e:
                    raise Unproven(f"TypeError: {e}") from None
            if getattr(f, "__module__", None) == "math" and not kwargs:
                return self.mathematics(f, args)
            name = f"{f.__module__}.{f.__name__}" if f.__module__ not in (None, "builtins") else f.__name__
            raise Unproven(
                f"{name} is called, which may have effects or give another value next time",
                "call it outside of the compiled function, and give its result as an argument",
            )
        if isinstance(owner, type):
            if f.__name__ == "__new__" and args and isinstance(args[0], type):
                return self.make(args[0], args[1:], kwargs)
            if owner is dict and f.__name__ == "fromkeys" and args:
                value = args[1] if len(args) > 1 else None
                keys = [self.world.fix(k) for k in self.machine.iterate(args[0])]
                return self.world.make_fresh(dict.fromkeys(keys, value))
            raise Unproven(f"{owner.__name__}.{f.__name__} is called")
        return self.method(f.__name__, owner, args, kwargs, f)

    def mathematics(self, f: Any, args: tuple[Any, ...]) -> Any:
        """A function of the math module."""
        if len(args) == 1 and type(args[0]) is Later:
            return self.machine.tested_afterwards(f, args[0])
        parts = [self.machine.number(a) for a in args]
        if any(p is None for p in parts):
            raise Unproven(f"math.{f.__name__} of a {type(args[0]).__name__}")
        try:
            value = f(*(p[0] for p in parts))
        except (ArithmeticError, ValueError, TypeError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None
        if not self._symbolic(args):
            return value
        expression = f"{self.world.listing.constant(f)}({', '.join(p[1] for p in parts)})"
        if type(value) is bool:
            self.world.listing.require(expression if value else f"not {expression}")
            return value
        return self.machine.symbolic(value, expression)

    def of_numpy(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of NumPy's on numbers that stay as they are, such as the root of a dimension."""
        if not (isinstance(f, np.ufunc) or f is np.prod) or kwargs or not all(map(self.machine.plain, args)):
            self.world.keep(f)
            raise Unproven(f"np.{f.__name__} is called with what changes, or with arrays", "use the math module")
        try:
            with np.errstate(all="raise"):
                value = f(*args)
        except (ArithmeticError, TypeError, ValueError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None
        if not isinstance(value, np.generic):
            raise Unproven(f"np.{f.__name__} gives a {type(value).__name__}")
        return value

    def method(self, name: str, x: Any, args: tuple[Any, ...], kwargs: dict[str, Any], f: Any) -> Any:
        """A method of one of Python's own types."""
        machine, world = self.machine, self.world
        if isinstance(x, Tensor):
            raise Unproven(f"'{name}' of a tensor is called")
        if isinstance(x, _GRAD_MODES) and name in ("__enter__", "__exit__"):
            return self.native(f if getattr(f, "__self__", None) is x else functools.partial(f, x), args, kwargs)
        if machine.usual(x, dict, name):
            return self.of_dict(name, x, args, kwargs)
        if any(machine.usual(x, base, name) for base in (list, set, frozenset, tuple)):
            return self.of_sequence(name, x, args, kwargs)
        if name == "append" and type(x) is deque and len(args) == 1 and not (kwargs or world.is_fresh(x)):
            world.append(x, args[0])
            return None
        if name == "__setattr__" and len(args) == 2:
            machine.attributes.plain_store(x, world.fix(args[0]), args[1])
            return None
        if name == "__delattr__" and len(args) == 1:
            machine.attributes.plain_store(x, world.fix(args[0]), ABSENT)
            return None
        if name == "__init__" and not args and not kwargs:
            return None
        if isinstance(x, (str, bytes, int, float, range)) and all(machine.plain(a) for a in args) and not kwargs:
            try:
                return world.make_fresh(f(*args) if hasattr(f, "__self__") and f.__self__ is x else f(x, *args))
            except (ValueError, TypeError, LookupError, ArithmeticError) as e:
                raise Unproven(f"{type(e).__name__}: {e}") from None
        raise Unproven(f"'{name}' of a {type(x).__name__} is called")

    def of_dict(self, name: str, d: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A method of a dict."""
        world = self.world
        if name in ("get", "__getitem__", "setdefault", "pop") and args and not kwargs:
            found = world.item(d, args[0])
            if found is ABSENT and name == "__getitem__":
                raise Unproven(f"KeyError: {args[0]!r}")
            if found is ABSENT and name == "setdefault":
                found = args[1] if len(args) > 1 else None
                world.write("item", d, world.fix(args[0]), found)
            if name == "pop" and found is not ABSENT:
                world.write("item", d, world.fix(args[0]), ABSENT)
            if found is ABSENT:
                if name == "pop" and len(args) < 2:
                    raise Unproven(f"KeyError: {args[0]!r}")
                return args[1] if len(args) > 1 else None
            return found
        if name in ("items", "keys", "values", "copy") and not args:
            pairs = world.pairs(d)
            made: Any = dict(pairs) if name == "copy" else [
                world.make_fresh(p) if name == "items" else p[name == "values"] for p in pairs
            ]
            return world.make_fresh(made)
        if name == "update" and not (args and not isinstance(args[0], dict)):
            for k, v in (*(world.pairs(args[0]) if args else ()), *kwargs.items()):
                world.write("item", d, k, v)
            return None
        if name == "__setitem__" and len(args) == 2:
            world.write("item", d, world.fix(args[0]), args[1])
            return None
        if name == "__init__" and world.is_fresh(d) and not args and not kwargs:
            return None
        raise Unproven(f"'{name}' of a dict is called")

    def of_sequence(self, name: str, x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A method of a list, set or tuple."""
        world, machine = self.world, self.machine
        if name == "append" and type(x) is list and len(args) == 1 and not (kwargs or world.is_fresh(x)):
            world.append(x, args[0])
            return None
        if world.is_fresh(x) and not kwargs:
            if name in ("append", "insert", "pop", "clear", "reverse", "add", "discard"):
                rest = args if name in ("append", "add") else tuple(world.fix(a) for a in args)
                if name in ("add", "discard"):
                    for a in args:
                        world.pin(a)
                try:
                    return getattr(x, name)(*rest)
                except (IndexError, TypeError) as e:
                    raise Unproven(f"{type(e).__name__}: {e}") from None
            if name in ("extend", "update") and len(args) == 1:
                for element in list(machine.iterate(args[0])):
                    x.append(element) if isinstance(x, list) else x.add(world.fix(element))
                return None
        if name == "copy" and not args:
            return world.make_fresh(type(x)(world.elements(x)))
        if name in ("index", "count") and len(args) == 1 and machine.plain(x) and machine.plain(args[0]):
            if name == "count" or args[0] in x:
                return getattr(x, name)(args[0])
        raise Unproven(
            f"'{name}' of a {type(x).__name__} from outside is called",
            "return the value and collect it outside of the compiled function",
        )

    # --- classes ------------------------------------------------------------------------------------------------------

    def casting(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a block of automatic casting."""
        try:
            if autocast.complaint(*args, **kwargs):
                raise Unproven("autocast warns that it is off", "pass enabled=False")
        except (RuntimeError, TypeError) as e:
            raise Unproven(f"{type(e).__name__}: {e}") from None
        listing = self.world.listing
        here = listing.constant(state)
        # A block around the call would keep the casts of this one.
        listing.require(f"not {here}.autocast_depth")
        listing.require(f"{here}.autocast_defaults is {listing.constant(self.defaults)}")
        return self.world.make_fresh(autocast(*args, **kwargs))

    def make(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make an instance of a class."""
        machine, world = self.machine, self.world
        model = BUILTINS.get(cls)
        if model is not None:
            return model(machine, *args, **kwargs)
        if cls in _GRAD_MODES:
            return world.make_fresh(cls(*(world.fix(a) for a in args), **{k: world.fix(v) for k, v in kwargs.items()}))
        if cls is autocast:
            return self.casting(tuple(map(world.fix, args)), {k: world.fix(v) for k, v in kwargs.items()})
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            try:
                return world.make_fresh(cls(*args, **kwargs))
            except TypeError as e:
                raise Unproven(f"TypeError: {e}") from None
        if type(cls) is not type or find_in_class(cls, "__new__") is not object.__dict__["__new__"]:
            raise Unproven(f"a {cls.__name__} is made", "make it outside of the compiled function")
        self.world.guard("class", cls, "__init__", find_in_class(cls, "__init__"))
        made = world.make_fresh(object.__new__(cls))
        start = find_in_class(cls, "__init__")
        if isinstance(start, types.FunctionType):
            self.call(start, (made, *args), kwargs)
        elif args or kwargs:
            raise Unproven(f"a {cls.__name__} is made")
        return made
