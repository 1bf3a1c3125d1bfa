"""Module: a tree of parameters, buffers and submodules with a forward function."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Self

from tracejit.dtypes import bfloat16, float16, float32, float64
from tracejit.nn.hooks import Hooks, RemovableHandle
from tracejit.nn.parameter import Parameter
from tracejit.nn.state import IncompatibleKeys, load_state, parse_to
from tracejit.tensor import Tensor, no_grad
from tracejit.trace.compiled import compile

__all__ = ["Module"]


class Module:
    """Base class of all layers and models.

    Parameters, buffers and submodules that are assigned as attributes are found by ``parameters()``,
    ``state_dict()``, ``to()`` and the others; ``forward`` is what a call runs.

    Raises: AttributeError where a parameter, buffer or submodule is assigned before ``super().__init__()`` ran.

    >>> import tracejit as tj
    >>> class Double(tj.nn.Module):
    ...     def forward(self, x):
    ...         return x * 2
    >>> Double()(tj.ones(2)).tolist()
    [2.0, 2.0]
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _non_persistent_buffers_set: set[str]
    _modules: dict[str, Module | None]
    _forward_pre_hooks: Hooks
    _forward_hooks: Hooks

    def __init__(self) -> None:
        # Past __setattr__: these names hold what __setattr__ itself looks into.
        fields = self.__dict__
        fields["training"] = True
        fields["_parameters"] = {}
        fields["_buffers"] = {}
        fields["_non_persistent_buffers_set"] = set()
        fields["_modules"] = {}
        fields["_forward_pre_hooks"] = Hooks()
        fields["_forward_hooks"] = Hooks()

    # --- calling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call of the module computes; subclasses define it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "_region" in self.__dict__:
            return self._region(*args, **kwargs)
        # As `_call`, which a region calls: one Python call less for each module of a model.
        if self._forward_pre_hooks or self._forward_hooks:
            return self._call_with_hooks(args, kwargs)
        return self.forward(*args, **kwargs)

    def compile(self, **options: Any) -> None:
        """Make calls of the module run as native programs; its class, parameters and state dict stay as they are."""
        compile(self, **options)

    def _compile_in_place(self, region: Callable[[Callable[..., Any]], Any]) -> Module:
        """What `compile` asks of a module: calls go through a region. Copies and pickles of the module have none."""
        self.__dict__["_region"] = region(self._call)
        self.__dict__["_region"].name = type(self).__name__
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_region"}

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self._forward_pre_hooks or self._forward_hooks:
            return self._call_with_hooks(args, kwargs)
        return self.forward(*args, **kwargs)

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        done: set[int] = set()
        result: Any = None
        try:
            for hook, with_kwargs, _ in tuple(self._forward_pre_hooks.values()):
                if with_kwargs:
                    changed = hook(self, args, kwargs)
                    if changed is not None:
                        if not (isinstance(changed, tuple) and len(changed) == 2):
                            raise RuntimeError(
                                "forward pre-hook must return None or a tuple of (new_args, new_kwargs), "
                                f"but got {changed}."
                            )
                        args, kwargs = changed
                else:
                    changed = hook(self, args)
                    if changed is not None:
                        args = changed if isinstance(changed, tuple) else (changed,)
            result = self.forward(*args, **kwargs)
            for key, (hook, with_kwargs, _) in tuple(self._forward_hooks.items()):
                done.add(key)
                changed = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
                if changed is not None:
                    result = changed
            return result
        except Exception:
            for key, (hook, with_kwargs, always) in tuple(self._forward_hooks.items()):
                if always and key not in done:
                    changed = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
                    if changed is not None:
                        result = changed
            raise

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before forward; what it returns, if not None, replaces the arguments."""
        return self._forward_pre_hooks.register(hook, with_kwargs=with_kwargs, always_call=False, prepend=prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after forward; what it returns, if not None, replaces the output."""
        return self._forward_hooks.register(hook, with_kwargs=with_kwargs, always_call=always_call, prepend=prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> NoReturn:
        """Not supported. Raises: NotImplementedError."""
        raise NotImplementedError(
            "register_full_backward_hook is not supported; register a hook on the tensor instead: "
            "tensor.register_hook(hook), for instance on the module's output inside a forward hook"
        )

    # --- attributes

    def __getattr__(self, name: str) -> Any:
        # Reached only where normal lookup failed. The tables are taken from __dict__, because a module
        # whose __init__ did not run (unpickling, a subclass that forgot it) has none.
        # Written out: every use of a weight in a forward comes through here.
        fields = self.__dict__
        table = fields.get("_parameters")
        if table is not None and name in table:
            return table[name]
        table = fields.get("_modules")
        if table is not None and name in table:
            return table[name]
        table = fields.get("_buffers")
        if table is not None and name in table:
            return table[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'", name=name, obj=self)

    # For proofs, which need not go through the text.
    __getattr__._tables = ("_parameters", "_modules", "_buffers")  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__
        parameters = fields.get("_parameters")
        if isinstance(value, Parameter):
            if parameters is None:
                raise AttributeError("cannot assign parameters before Module.__init__() call")
            self._forget(name, "_buffers", "_modules")
            self.register_parameter(name, value)
            return
        if parameters is not None and name in parameters:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_type_name(value)}' as parameter '{name}' (nn.Parameter or None expected)"
                )
            self.register_parameter(name, None)
            return
        modules = fields.get("_modules")
        if isinstance(value, Module):
            if modules is None:
                raise AttributeError("cannot assign module before Module.__init__() call")
            self._forget(name, "_parameters", "_buffers")
            modules[name] = value
            return
        if modules is not None and name in modules:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_type_name(value)}' as child module '{name}' (nn.Module or None expected)"
                )
            modules[name] = None
            return
        buffers = fields.get("_buffers")
        if buffers is not None and name in buffers:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"cannot assign '{_type_name(value)}' as buffer '{name}' (Tensor or None expected)")
            buffers[name] = value
            return
        object.__setattr__(self, name, value)

    def _forget(self, name: str, *tables: str) -> None:
        fields = self.__dict__
        fields.pop(name, None)
        for table in tables:
            fields[table].pop(name, None)
        fields["_non_persistent_buffers_set"].discard(name)

    def __delattr__(self, name: str) -> None:
        fields = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            if name in fields.get(table, ()):
                del fields[table][name]
                fields["_non_persistent_buffers_set"].discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = {*object.__dir__(self), *self._parameters, *self._buffers, *self._modules}
        return sorted(name for name in names if not name[:1].isdigit())

    def _check_name(self, kind: str, name: object, table: Mapping[str, Any]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {_type_name(name)}")
        if "." in name:
            raise KeyError(f"{kind} name can't contain \".\", got: '{name}'")
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')
        if hasattr(self, name) and name not in table:
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or a name without one.

        Raises: AttributeError before ``Module.__init__``; KeyError for a taken or unusable name; TypeError for
        anything but a Parameter or None; ValueError for a tensor that is the result of operations.
        """
        if "_parameters" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        self._check_name("parameter", name, self._parameters)
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"cannot assign '{_type_name(param)}' object to parameter '{name}' (nn.Parameter or None required)"
                )
            if param.grad_fn is not None:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created explicitly."
                )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that belongs to the state but is not trained; it is in ``state_dict`` if ``persistent``.

        Raises: AttributeError before ``Module.__init__``; KeyError for a taken or unusable name; TypeError for
        anything but a Tensor or None.
        """
        if "_buffers" not in self.__dict__:
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        self._check_name("buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"cannot assign '{_type_name(tensor)}' object to buffer '{name}' (Tensor or None required)")
        self._buffers[name] = tensor
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule.

        Raises: TypeError for anything but a Module or None; KeyError for a taken or unusable name.
        """
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{_type_name(module)} is not a Module subclass")
        self._check_name("module", name, self._modules)
        self._modules[name] = module

    def register_module(self, name: str, module: Module | None) -> None:
        """Another name of ``add_module``."""
        self.add_module(name, module)

    # --- walking the tree

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, parents first; each once unless ``remove_duplicate`` is False."""
        if memo is None:
            memo = set()
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                path = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, path, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules, each once."""
        seen: set[Module] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once, without their names."""
        for _, module in self.named_children():
            yield module

    def _named_members(self, table: str, prefix: str, recurse: bool, unique: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=unique) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, member in getattr(module, table).items():
                if member is None or id(member) in seen:
                    continue
                if unique:
                    seen.add(id(member))
                yield f"{path}.{name}" if path else name, member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their dotted names; one that is shared comes once unless asked otherwise."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their dotted names; one that is shared comes once unless asked otherwise."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> Module:
        """The submodule at a dotted path; the module itself for "". Raises: AttributeError."""
        module: Module = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            found = getattr(module, name)
            if not isinstance(found, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
            module = found
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path. Raises: AttributeError."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        found = getattr(module, name)
        if not isinstance(found, Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path. Raises: AttributeError."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        if name not in module._buffers:
            raise AttributeError(f"`{name}` is not a buffer")
        return getattr(module, name)

    # --- modes and gradients

    def train(self, mode: bool = True) -> Self:
        """Set training mode here and below. Raises: ValueError for anything but a bool."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch gradients of all parameters on or off."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or set them to zero with ``set_to_none=False``."""
        for parameter in self.parameters():
            if parameter.grad is None:
                continue
            if set_to_none:
                parameter.grad = None
            else:
                parameter.grad.detach_().zero_()

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` on every submodule, children first, then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # --- dtype and device

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Self:
        for module in self.children():
            module._apply(fn)
        with no_grad():
            for parameter in self._parameters.values():
                if parameter is not None:
                    grad = parameter.grad
                    changed = fn(parameter.data)
                    if grad is not None:
                        parameter.grad = None
                    parameter.data = changed  # type: ignore[attr-defined]
                    if grad is not None:
                        parameter.grad = fn(grad)
            for name, buffer in self._buffers.items():
                if buffer is not None:
                    self._buffers[name] = fn(buffer)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Change dtype and device of parameters and buffers in place: ``to(dtype)``, ``to("cpu")``, ``to(tensor)``.

        DType: only floating-point parameters and buffers change their dtype.
        Raises: TypeError for a dtype that is not floating point; what ``Tensor.to`` raises for a device.
        """
        dtype, device = parse_to(args, kwargs)

        def move(tensor: Tensor) -> Tensor:
            changed = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
            return changed if device is None else changed.to(device)

        return self._apply(move)

    def float(self) -> Self:
        """Change floating-point parameters and buffers to float32."""
        return self.to(float32)

    def double(self) -> Self:
        """Change floating-point parameters and buffers to float64."""
        return self.to(float64)

    def half(self) -> Self:
        """Change floating-point parameters and buffers to float16."""
        return self.to(float16)

    def bfloat16(self) -> Self:
        """Change floating-point parameters and buffers to bfloat16."""
        return self.to(bfloat16)

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move to the GPU.

        Raises: RuntimeError if there is none.
        """
        return self.to("cuda" if device is None else device)

    # --- state

    def get_extra_state(self) -> Any:
        """What a subclass wants kept in ``state_dict`` beside its tensors; subclasses may define it."""
        raise RuntimeError(f"{type(self).__name__} defines set_extra_state but not get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """Take back what ``get_extra_state`` gave; a subclass that defines one defines both."""
        raise RuntimeError(f"{type(self).__name__} defines get_extra_state but not set_extra_state")

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by dotted name, in order of registration.

        Edge: the tensors share memory with the module and carry no gradient, unless ``keep_vars``.
        """
        result: dict[str, Any] = OrderedDict() if destination is None else destination
        for name, parameter in self._parameters.items():
            if parameter is not None:
                result[prefix + name] = parameter if keep_vars else parameter.detach()
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:
                result[prefix + name] = buffer if keep_vars else buffer.detach()
        if type(self).get_extra_state is not Module.get_extra_state:
            result[prefix + "_extra_state"] = self.get_extra_state()
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=result, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return result

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy the values of a ``state_dict`` into this module; with ``assign`` take its tensors themselves.

        Edge: nothing is written where an error is raised.
        Raises: TypeError for no mapping; RuntimeError for sizes that differ and, if ``strict``, for keys that are
        missing or unexpected.
        """
        return load_state(self, state_dict, strict=strict, assign=assign)

    # --- text

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands between the brackets of ``repr``; subclasses define it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {indent(repr(module))}" for name, module in self._modules.items()]
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({lines[0]})"
        if not lines and not children:
            return f"{self._get_name()}()"
        return self._get_name() + "(\n  " + "\n  ".join(lines + children) + "\n)"


def indent(text: str) -> str:
    """Indent all lines but the first by two blanks."""
    return text.replace("\n", "\n  ")


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
