"""Loading a state_dict into a module: everything is checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tracejit.devices import require
from tracejit.nn.parameter import Parameter
from tracejit.tensor import Tensor, no_grad

if TYPE_CHECKING:
    from tracejit.nn.module import Module

__all__ = ["IncompatibleKeys", "load_state", "parse_to"]


class IncompatibleKeys(NamedTuple):
    """The keys that a state_dict lacked and those that the module does not know."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def load_state(module: Module, state: Mapping[str, Any], *, strict: bool, assign: bool) -> IncompatibleKeys:
    """Check ``state`` against a module and all below it, then copy or assign."""
    if not isinstance(state, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state)}.")
    missing: list[str] = []
    errors: list[str] = []
    known: set[str] = set()
    commits: list[Callable[[], object]] = []

    for path, part in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        saved_buffers = {
            name: buffer for name, buffer in part._buffers.items() if name not in part._non_persistent_buffers_set
        }
        tables: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
            (part._parameters, part._parameters),
            (part._buffers, saved_buffers),
        )
        for table, members in tables:
            for name, member in members.items():
                if member is None:
                    continue
                key = prefix + name
                known.add(key)
                if key not in state:
                    missing.append(key)
                    continue
                value = state[key]
                if not isinstance(value, Tensor):
                    errors.append(
                        f'While copying the parameter named "{key}", expected a Tensor from checkpoint '
                        f"but received {type(value)}"
                    )
                elif tuple(value.shape) != tuple(member.shape):
                    errors.append(
                        f"size mismatch for {key}: copying a param with shape {tuple(value.shape)} from checkpoint, "
                        f"the shape in current model is {tuple(member.shape)}."
                    )
                elif assign:
                    commits.append(_assignment(table, name, member, value))
                elif value is not member:
                    commits.append(_copy(member, value))
        extra = prefix + "_extra_state"
        if _has_extra_state(part):
            known.add(extra)
            if extra in state:
                commits.append(_extra_state(part, state[extra]))
            else:
                missing.append(extra)

    unexpected = [key for key in state if key not in known]
    if strict:
        if unexpected:
            errors.insert(0, "Unexpected key(s) in state_dict: " + ", ".join(f'"{k}"' for k in unexpected) + ". ")
        if missing:
            errors.insert(0, "Missing key(s) in state_dict: " + ", ".join(f'"{k}"' for k in missing) + ". ")
    if errors:
        raise RuntimeError(f"Error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(errors))
    with no_grad():
        for commit in commits:
            commit()
    return IncompatibleKeys(missing, unexpected)


def _copy(member: Tensor, value: Tensor) -> Callable[[], object]:
    return lambda: member.copy_(value)


def _assignment(table: dict[str, Any], name: str, member: Tensor, value: Tensor) -> Callable[[], object]:
    def assign() -> None:
        if isinstance(member, Parameter) and not isinstance(value, Parameter):
            table[name] = Parameter(value, member.requires_grad)
        else:
            table[name] = value

    return assign


def _extra_state(part: Module, value: Any) -> Callable[[], object]:
    return lambda: part.set_extra_state(value)


def _has_extra_state(part: Module) -> bool:
    # A plain module inherits both from Module, whose own definition says so in its qualified name.
    return type(part).get_extra_state.__qualname__ != "Module.get_extra_state"


def parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The dtype and the device that the arguments of ``Module.to`` name, None where they name none.

    Raises: RuntimeError for a device on which there are no tensors, also of a module that has none.
    """
    device = kwargs.pop("device", None)
    dtype = kwargs.pop("dtype", None)
    example = kwargs.pop("tensor", None)
    kwargs.pop("non_blocking", None)
    kwargs.pop("memory_format", None)
    if kwargs:
        raise TypeError(f"to() got an unexpected keyword argument '{next(iter(kwargs))}'")
    for arg in args:
        if isinstance(arg, Tensor):
            example = arg
        elif isinstance(arg, bool) or arg is None:
            # non_blocking, given by position: what is copied may be changed as soon as the copy was asked for.
            continue
        elif hasattr(arg, "is_floating_point"):
            dtype = arg
        else:
            device = arg
    if example is not None:
        dtype, device = example.dtype, example.device
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={dtype}")
    return dtype, None if device is None else require(device)
