"""Attributes, as Python finds them, without running any code of the object."""

from __future__ import annotations

import types
from typing import Any

from tracejit.tensor.composite import Composite
from tracejit.tensor.tensor import Tensor
from tracejit.trace.replay.guards import ABSENT, find_in_class
from tracejit.trace.replay.symbols import Later, Sym, Unproven

# What can be asked of a tensor that a run of the program does not change, beside its methods.
_TENSOR_PROPERTIES = frozenset(
    (
        *("_shape", "_dtype", "_requires_grad", "T", "mT", "H", "mH", "shape", "dtype", "ndim", "device", "is_cuda"),
        *("is_cpu",),
        *("requires_grad", "is_leaf", "itemsize", "nbytes", "data", "layout", "real"),
    )
)
# Methods that look at memory addresses, counters or the tape.
_TENSOR_REFUSED = frozenset(
    (
        *("data_ptr", "storage_offset", "grad_fn", "_version", "__reduce__", "__reduce_ex__", "__deepcopy__"),
        *("__copy__", "__setstate__"),
    )
)
_NAMES = ("__name__", "__qualname__", "__module__", "__mro__")
_FUNCTIONS = (types.FunctionType, Composite)
REGIONS = ("tracejit.trace.region", "tracejit.trace.compiled")
"""The modules whose objects stand for the functions that they compile."""
_SLOTS = (types.MemberDescriptorType,)
_BUILTIN_METHODS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.BuiltinFunctionType,
)


class Attributes:
    """Reads and writes attributes through the machine's world; properties and `__getattr__` run in the machine."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.world = machine.world
        self._held: dict[tuple[type, str], Any] = {}

    def load(self, x: Any, name: str) -> Any:
        """`x.name`.

        Raises: Unproven where that runs unknown code or the attribute is missing.
        """
        found = self.find(x, name)
        if found is ABSENT:
            raise Unproven(f"AttributeError: {type(x).__name__} has no attribute '{name}'")
        return found

    def find(self, x: Any, name: str) -> Any:
        """`x.name`, or `ABSENT`."""
        if isinstance(x, (Sym, Later)):
            raise Unproven(x.complaint, x.fix)
        if isinstance(x, Tensor):
            return self._of_tensor(x, name)
        if isinstance(x, types.ModuleType):
            return self._of_module(x, name)
        if isinstance(x, type):
            return self._of_class(x, name)
        if isinstance(x, super):
            return self._of_super(x, name)
        return self._of_instance(x, name)

    # --- kinds of objects ---------------------------------------------------------------------------------------------

    def _of_tensor(self, t: Any, name: str) -> Any:
        world = self.world
        if name == "grad":
            return world.grad_of(t)
        world.touch(t)
        if name in _TENSOR_PROPERTIES:
            return world.keep(getattr(t, name))
        held = self.held(type(t), name)
        if name in _TENSOR_REFUSED or isinstance(held, property):
            raise Unproven(f"'{name}' of a tensor is looked at", "leave it out of the compiled function")
        if held is ABSENT or not callable(held):
            if not world.is_fresh(t):
                return self._in_dict(t, name)
            raise Unproven(f"'{name}' of a tensor is looked at")
        return world.make_fresh(getattr(t, name))

    def _of_module(self, module: types.ModuleType, name: str) -> Any:
        found = self.world.read("item", vars(module), name)
        if found is ABSENT:
            raise Unproven(f"module {module.__name__} makes its attribute '{name}' when it is asked for")
        return found

    def _of_class(self, cls: type, name: str) -> Any:
        if type(cls) is not type and find_in_class(type(cls), name) is not ABSENT:
            raise Unproven(f"the class {cls.__name__} has a metaclass that defines '{name}'")
        held = self.held(cls, name)
        if held is ABSENT:
            return getattr(cls, name) if name in _NAMES else ABSENT
        if isinstance(held, staticmethod):
            return held.__func__
        if isinstance(held, classmethod):
            return self.world.make_fresh(types.MethodType(held.__func__, cls))
        if isinstance(held, (*_BUILTIN_METHODS, *_FUNCTIONS)) or not hasattr(type(held), "__get__"):
            return held
        raise Unproven(f"{cls.__name__}.{name} is a descriptor of an unknown kind")

    def _of_super(self, x: Any, name: str) -> Any:
        start, instance = x.__thisclass__, x.__self__
        cls = x.__self_class__
        mro = cls.__mro__
        for c in mro[mro.index(start) + 1 :]:
            if name in c.__dict__:
                held = c.__dict__[name]
                self.world.guard("class", c, name, held)
                return self._bind(held, instance, cls, name)
        return ABSENT

    def _of_instance(self, x: Any, name: str) -> Any:
        cls = type(x)
        if isinstance(self.held(cls, "__getattribute__"), types.FunctionType):
            raise Unproven(f"{cls.__name__} defines __getattribute__")
        self.same_type(x)
        if name == "__class__":
            return cls
        if name == "__dict__":
            return self._own(x)
        held = self.held(cls, name)
        data = held is not ABSENT and hasattr(type(held), "__set__")
        if data:
            return self._bind(held, x, cls, name)
        found = self._in_dict(x, name)
        if found is not ABSENT:
            return found
        if held is not ABSENT:
            return self._bind(held, x, cls, name)
        fallback = self.held(cls, "__getattr__")
        if fallback is ABSENT:
            return ABSENT
        # What has tables looks nowhere else.
        tables = getattr(fallback, "_tables", ())
        return self._in_tables(x, name, tables) if tables else self.machine.call(fallback, (x, name), {})

    # --- places -------------------------------------------------------------------------------------------------------

    def held(self, cls: type, name: str) -> Any:
        """What a class has under a name, guarded, or `ABSENT`."""
        place = (cls, name)
        if place in self._held:
            return self._held[place]
        held = self._held[place] = find_in_class(cls, name)
        if cls.__flags__ & 1 << 9:  # A class made by Python code, which can be changed.
            self.world.guard("class", cls, name, held)
        return held

    def _own(self, x: Any) -> Any:
        """The `__dict__` of an object."""
        world = self.world
        own = vars(x)
        if world.is_fresh(x):
            world.make_fresh(own)
        elif world.is_found(x):
            raise Unproven(f"the __dict__ of an argument ({type(x).__name__}) is looked at")
        else:
            world.keep(own)
        return own

    def same_type(self, x: Any) -> None:
        """Guard the type of an object, where it can be changed."""
        if type(x).__flags__ & 1 << 9 and not isinstance(x, Tensor) and not self.world.is_fresh(x):
            self.world.guard("type", x, None, type(x))

    def _in_dict(self, x: Any, name: str) -> Any:
        world = self.world
        if not hasattr(x, "__dict__"):
            return ABSENT
        if world.is_found(x) and not isinstance(x, Tensor):
            own = vars(x)
            if name not in own:
                return ABSENT
            return world.enter(own[name], world.listing.let(f"{world.found[id(x)]}.{name}"))
        if isinstance(x, Tensor):
            world.pin(x)
            return world.read("item", vars(x), name)
        return world.item(self._own(x), name)

    def _in_tables(self, x: Any, name: str, tables: tuple[str, ...]) -> Any:
        """What the first of some dicts of an object that has a name holds for it, or `ABSENT`."""
        own = self._own(x) if tables else {}
        for table in tables:
            held = self.world.item(own, table)
            if type(held) is dict and (found := self.world.item(held, name)) is not ABSENT:
                return found
        return ABSENT

    def _bind(self, held: Any, x: Any, cls: type, name: str) -> Any:
        """What a class attribute gives for an instance."""
        world = self.world
        if isinstance(held, types.FunctionType):
            return world.make_fresh(types.MethodType(held, x))
        if isinstance(held, property):
            if held.fget is None:
                raise Unproven(f"{cls.__name__}.{name} cannot be read")
            return self.machine.call(held.fget, (x,), {})
        if isinstance(held, staticmethod):
            return held.__func__
        if isinstance(held, classmethod):
            return world.make_fresh(types.MethodType(held.__func__, cls))
        if isinstance(held, _SLOTS):
            if world.is_found(x):
                return world.enter(getattr(x, name), world.listing.let(f"{world.found[id(x)]}.{name}"))
            return world.read("slot", x, name)
        if isinstance(held, (*_BUILTIN_METHODS, Composite)):
            getter: Any = held
            return world.make_fresh(getter.__get__(x, cls))
        if not hasattr(type(held), "__get__"):
            return world.constant(held)
        if isinstance(x, tuple) and hasattr(cls, "_fields") and name in cls._fields:
            return world.element(x, cls._fields.index(name))
        if type(held).__module__ in REGIONS:
            return world.make_fresh(types.MethodType(held._region.function, x))
        if isinstance(held, types.GetSetDescriptorType) and isinstance(x, (types.FunctionType, types.MethodType)):
            return getattr(x, name)
        raise Unproven(f"{cls.__name__}.{name} is a descriptor of an unknown kind")

    # --- writing ------------------------------------------------------------------------------------------------------

    def store(self, x: Any, name: str, value: Any) -> None:
        """`x.name = value`; `ABSENT` deletes the attribute."""
        if isinstance(x, Tensor):
            if name == "requires_grad" and type(value) is bool and self.world.is_fresh(x):
                x.requires_grad = value
                return
            if name == "data" and isinstance(value, Tensor) and self.machine.session.stands_on(x, value):
                return
            if name != "grad" or type(value) in (Sym, Later):
                raise Unproven(f"'{name}' of a tensor is set", "leave it out of the compiled function")
            self._set_grad(x, None if value is ABSENT else value)
            return
        if isinstance(x, (types.ModuleType, type, Sym, Later)):
            raise Unproven(f"an attribute of a {type(x).__name__} is set")
        cls = type(x)
        special = "__delattr__" if value is ABSENT else "__setattr__"
        setter = find_in_class(cls, special)
        if isinstance(setter, types.FunctionType):
            self.world.guard("class", cls, special, setter)
            self.machine.call(setter, (x, name) if value is ABSENT else (x, name, value), {})
            return
        self.plain_store(x, name, value)

    def plain_store(self, x: Any, name: str, value: Any) -> None:
        """What `object.__setattr__` does."""
        world = self.world
        cls = type(x)
        held = self.held(cls, name)
        if held is not ABSENT and hasattr(type(held), "__set__"):
            if isinstance(held, property) and held.fset is not None and value is not ABSENT:
                self.machine.call(held.fset, (x, value), {})
                return
            if isinstance(held, _SLOTS):
                world.write("slot", x, name, value)
                return
            raise Unproven(f"{cls.__name__}.{name} is set through a descriptor of an unknown kind")
        if not hasattr(x, "__dict__"):
            raise Unproven(f"AttributeError: {cls.__name__} has no attribute '{name}'")
        if world.is_found(x):
            raise Unproven(f"an attribute of an argument ({cls.__name__}) is set", "return the new value instead")
        world.write("item", self._own(x), name, value)

    def _set_grad(self, t: Any, value: Any) -> None:
        world = self.world
        if value is not None:
            if not isinstance(value, Tensor) or value is t:
                raise Unproven("something else than a tensor is set as .grad")
            world.touch(value)
            if value._shape != t._shape or value._dtype is not t._dtype:
                raise Unproven("a gradient of another shape or type is set as .grad")
        world.touch(t)
        if world.is_fresh(t):
            raise Unproven(".grad of a computed tensor is set")
        world.write("slot", t, "_grad", value)
