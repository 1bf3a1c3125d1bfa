"""save and load: objects with tensors in a file.

The file is a zip archive: "format" names it, "structure.pkl" is a pickle in which each tensor is a number,
"tensors.json" says of each number what tensor it is, "data/<k>" holds elements in the machine's byte order.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import sys
import tempfile
import zipfile
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from tracejit import dtypes
from tracejit.devices import CPU, device, require
from tracejit.nn.parameter import Parameter
from tracejit.tensor import Size, Tensor, from_numpy
from tracejit.tensor.transfer import as_laid_out

__all__ = ["load", "save"]

_FORMAT = "tracejit 1"
_Array = np.ndarray[Any, np.dtype[Any]]
_File = str | os.PathLike[str] | IO[bytes]

# What a file may name unless the reader trusts it: containers and numbers, nothing that runs code of its own.
_PLAIN: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__name__): kind for kind in (OrderedDict, Counter, defaultdict, Size)},
    **{
        ("builtins", kind.__name__): kind
        for kind in (set, frozenset, bytearray, complex, list, dict, tuple, int, float, str, bool, slice, range)
    },
}


def save(obj: Any, f: _File) -> None:
    """Write an object with its tensors to a file or a binary stream.

    Edge: tensors that overlap in memory share it again after loading, if their dtypes are equal. A file is replaced
    as a whole or not at all. Gradients and their history are not kept.
    Raises: what ``pickle`` raises for an object that it cannot take, such as a lambda.

    >>> import io, tracejit as tj
    >>> file = io.BytesIO()
    >>> tj.save({"w": tj.ones(2)}, file)
    >>> _ = file.seek(0)
    >>> tj.load(file)
    {'w': tensor([1., 1.])}
    """
    structure = io.BytesIO()
    pickler = _Pickler(structure)
    pickler.dump(obj)
    table, payloads = _lay_out(pickler.tensors)
    if hasattr(f, "write"):
        _write(f, structure.getvalue(), table, payloads)
        return
    path = Path(f)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file, structure.getvalue(), table, payloads)
        # mkstemp makes files for the owner alone; a saved file follows the umask as any other.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(f: _File, map_location: Any = None, *, weights_only: bool = True) -> Any:
    """Read what ``save`` wrote.

    With ``weights_only`` a file may hold containers, numbers, strings, dtypes and tensors and nothing else; without,
    it may run any code, so use that only for files that you trust.

    Tensors come to the device that they were on, or where ``map_location`` says: a device for all of them, or a dict
    from those that they were on.

    Edge: nothing is returned unless all of the file could be read.
    Raises: RuntimeError for a file that is cut off, damaged or of another kind, and for a device that is not there;
    pickle.UnpicklingError for content that ``weights_only`` does not admit; NotImplementedError for a function.
    """
    if callable(map_location):
        raise NotImplementedError("load: a function as map_location is not supported; pass 'cpu' or a device")
    for where in map_location.values() if isinstance(map_location, dict) else (map_location,):
        if where is not None:
            require(where)
    try:
        with zipfile.ZipFile(f) as archive:
            if archive.read("format").decode() != _FORMAT:
                raise RuntimeError(f"load: not a file of the format {_FORMAT!r}")
            structure = archive.read("structure.pkl")
            table = json.loads(archive.read("tensors.json"))
            if table["byteorder"] != sys.byteorder:
                raise RuntimeError(f"load: the file was written on a {table['byteorder']}-endian machine")
            # read() checks each entry's sum, so nothing below sees damaged elements.
            payloads = [bytearray(archive.read(f"data/{k}")) for k in range(table["payloads"])]
        places = [_place(entry.get("device", "cpu"), map_location) for entry in table["tensors"]]
        there: dict[tuple[int, str, str], Tensor] = {}
        tensors = [_restore(e, payloads, where, there) for e, where in zip(table["tensors"], places, strict=True)]
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError, IndexError) as error:
        raise RuntimeError(f"load: {_name(f)} is damaged, cut off, or no file that save wrote ({error})") from error
    unpickler = (_PlainUnpickler if weights_only else _Unpickler)(io.BytesIO(structure))
    unpickler.tensors = tensors
    return unpickler.load()


def _name(f: _File) -> str:
    return "the stream" if hasattr(f, "read") else repr(os.fspath(f))


class _Pickler(pickle.Pickler):
    """A pickler that puts tensors aside."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, protocol=4)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) not in (Tensor, Parameter):
            return None
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        return self._numbers[id(obj)]


class _Unpickler(pickle.Unpickler):
    tensors: list[Tensor]

    def persistent_load(self, pid: Any) -> Tensor:
        if type(pid) is not int or not 0 <= pid < len(self.tensors):
            raise pickle.UnpicklingError(f"load: the file names a tensor {pid!r} that it does not hold")
        return self.tensors[pid]


class _PlainUnpickler(_Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        plain = _PLAIN.get((module, name))
        if plain is not None:
            return plain
        if module == dtypes.__name__ and isinstance(found := getattr(dtypes, name, None), dtypes.dtype):
            return found
        raise pickle.UnpicklingError(
            f"load: the file holds a {module}.{name}, which weights_only=True does not admit; if you trust the file, "
            "load it with weights_only=False"
        )


@dataclass
class _Span:
    """A range of memory of one dtype, and the tensors in it."""

    low: int
    high: int
    kind: str
    itemsize: int
    members: list[tuple[int, _Array]] = field(default_factory=list)


def _lay_out(tensors: list[Tensor]) -> tuple[dict[str, Any], list[Any]]:
    """What "tensors.json" says and the elements, each range of memory once."""
    entries: list[dict[str, Any]] = [{} for _ in tensors]
    spans: list[_Span] = []
    for number, tensor in enumerate(tensors):
        # Not a copy on the CPU: tensors that overlap in memory are to be found.
        array = tensor.detach()._data()
        entries[number] = {
            "class": type(tensor).__name__,
            "requires_grad": tensor.requires_grad,
            "dtype": array.dtype.name,
            "shape": list(array.shape),
        }
        if tensor.is_cuda:
            entries[number]["device"] = str(tensor.device)
        reach = sum((size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True))
        low = array.__array_interface__["data"][0]
        high = low + reach + array.itemsize if array.size else low
        spans.append(_Span(low, high, array.dtype.name, array.itemsize, [(number, array)]))
    payloads: list[Any] = []
    for span in _merged(spans):
        number, first = span.members[0]
        if len(span.members) == 1 and span.high - span.low > first.nbytes:
            # One tensor with gaps between its elements: the gaps are nobody's.
            first = np.ascontiguousarray(first)
            payload: Any = first
            entries[number] |= {"payload": len(payloads), "offset": 0, "strides": _steps(first)}
        else:
            payload = _memory(span)
            for number, array in span.members:
                offset = (array.__array_interface__["data"][0] - span.low) // array.itemsize if array.size else 0
                entries[number] |= {"payload": len(payloads), "offset": offset, "strides": _steps(array)}
        payloads.append(payload)
    return {"byteorder": sys.byteorder, "payloads": len(payloads), "tensors": entries}, payloads


def _merged(spans: list[_Span]) -> list[_Span]:
    """The ranges, with those of one dtype that overlap made one."""
    done: list[_Span] = []
    latest: dict[str, _Span] = {}
    for span in sorted(spans, key=lambda span: (span.low, -span.high)):
        last = latest.get(span.kind)
        aligned = last is not None and (span.low - last.low) % span.itemsize == 0
        if last is not None and aligned and span.low < min(last.high, span.high):
            last.high = max(last.high, span.high)
            last.members += span.members
            continue
        done.append(span)
        if span.low < span.high:
            latest[span.kind] = span
    return done


def _steps(array: _Array) -> list[int]:
    return [stride // array.itemsize for stride in array.strides]


def _memory(span: _Span) -> _Array:
    """All elements of a range, in the order of memory."""
    _, array = min(span.members, key=lambda member: member[1].__array_interface__["data"][0])
    count = (span.high - span.low) // array.itemsize
    # Overlapping arrays lie in one allocation, so all of the range is memory to read.
    start = array.reshape(1) if array.ndim == 0 else array
    return np.lib.stride_tricks.as_strided(start, (count,), (array.itemsize,))


def _write(file: Any, structure: bytes, table: dict[str, Any], payloads: list[Any]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("format", _FORMAT)
        archive.writestr("structure.pkl", structure)
        archive.writestr("tensors.json", json.dumps(table))
        for number, payload in enumerate(payloads):
            archive.writestr(f"data/{number}", payload.tobytes())


def _place(saved: str, map_location: Any) -> device:
    """Where a tensor goes that was saved on a device."""
    if isinstance(map_location, dict):
        map_location = next((to for name, to in map_location.items() if str(name) == saved), None)
    if map_location is not None:
        return require(map_location)
    try:
        return require(saved)
    except RuntimeError as error:
        raise RuntimeError(
            "Attempting to deserialize object on a CUDA device but tracejit.cuda.is_available() is False. If you are "
            "running on a CPU-only machine, please use tracejit.load with map_location=tracejit.device('cpu') to map "
            "your storages to the CPU."
        ) from error


def _restore(
    entry: dict[str, Any], payloads: list[bytearray], where: device, there: dict[tuple[int, str, str], Tensor]
) -> Tensor:
    """A tensor of the file; `there` are the payloads that were copied to another device, each once."""
    kind = dtypes.BY_NAME[entry["dtype"]].np
    shape, strides, offset = tuple(entry["shape"]), tuple(entry["strides"]), entry["offset"]
    memory = np.frombuffer(payloads[entry["payload"]], kind)
    if where is not CPU:
        key = entry["payload"], entry["dtype"], str(where)
        if key not in there:
            there[key] = from_numpy(memory).to(where)
    if math.prod(shape):
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if min((offset, *shape, *strides)) < 0 or last >= memory.size:
            raise ValueError("a tensor reaches beyond its elements")
        array = np.lib.stride_tricks.as_strided(memory[offset:], shape, tuple(step * kind.itemsize for step in strides))
    else:
        array = np.empty(shape, kind)
    tensor = from_numpy(array)
    if where is not CPU:
        tensor = as_laid_out(there[key], shape, strides, offset)
    if entry["class"] == "Parameter":
        return Parameter(tensor, entry["requires_grad"])
    return tensor.requires_grad_(entry["requires_grad"])
