"""Kernels: text or library functions built into native code, once for each content.

In: kernel text, or a function of the kernel library. Out: `Kernel`s, each with an address.
Must not know: what a kernel computes, or when it is launched.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher
from numba.extending import _Intrinsic

from tracejit import cpu, kernels
from tracejit.config import SETTINGS, code_key, logger, thread_budget
from tracejit.cpu import has_tiles, multiplies_bfloat16
from tracejit.errors import KernelBuildError
from tracejit.kernels.vectors import TARGET
from tracejit.runtime import frontend, lowering, native, printing, scalars, syntax, turns, vectors
from tracejit.runtime.ahead import AHEAD
from tracejit.runtime.cache import OBJECT, STORE
from tracejit.runtime.crew import Crew, Job, is_possible

_log = logger("timing")
_source_log = logger("source")
_lock = threading.RLock()
_built: dict[str, Kernel] = {}
Source = Callable[..., Any] | tuple[str, str]
"""What a kernel is made of: a function, or its text and name."""
_by_source: dict[Source, Kernel] = {}
_KERNELS_A_WORKER = 4
"""New kernels for which a process more pays: a fork costs about as much as one kernel."""
_limits: list[int] = []
"""Bounds of the number of processes that compile at once, beside the settings'."""
_PART_OF = b"part of "
"""What is kept in place of a kernel's code that is part of an `OBJECT`, before the digest of that."""
_objects: set[str] = set()
"""Digests of those that are loaded."""
_compiled: set[str] = set()
"""Digests of kernels that were compiled into the disk cache for this process, not found there."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A native kernel: `address` is its entry, valid for the life of the process.

    `digest` names its content and everything its machine code depends on; `text` is its Python source;
    `seconds` is what building it took this process, `cached` whether it came from disk.
    """

    name: str
    text: str
    address: int
    digest: str
    symbol: str
    seconds: float
    cached: bool
    function: Callable[[], FunctionType] = field(repr=False)

    def llvm_text(self) -> str:
        """The optimised LLVM text. Cost: compiles the kernel again."""
        return str(_optimised(self.function(), self.text, self.symbol))

    def assembly(self) -> str:
        """The assembly text. Cost: compiles the kernel again."""
        return native.assembly(self.llvm_text())


def _is_callable_in_kernels(value: Any) -> bool:
    return isinstance(value, (_Intrinsic, Dispatcher))


@functools.cache
def namespace(gpu: bool = False) -> dict[str, Any]:
    """The names that kernel text sees: intrinsics and jitted functions of the library's `words`, and scalar types; with
    `gpu` those for GPUs as well.

    Edge: where two modules define one name, the later one in alphabetical order counts, for all text alike.
    """
    names: dict[str, Any] = dict(namespace()) if gpu else {}
    for module in kernels.gpu_modules() if gpu else kernels.words():
        for name, value in vars(module).items():
            if not name.startswith("_") and _is_callable_in_kernels(value):
                names[name] = value
    for kind in ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        names[kind] = getattr(types, kind)
    return names


def _hash(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@functools.cache
def environment() -> str:
    """Digest of everything but its text that a kernel's machine code depends on."""
    # Read, not imported: a process whose kernels are on disk needs none of them.
    texts = [text for _, text in kernels.sources()]
    own = (frontend, lowering, native, printing, scalars, syntax, turns, vectors)
    texts += [Path(module.__file__).read_bytes() for module in own if module.__file__]
    return _hash(
        [
            platform.python_version(),
            numba.__version__,
            llvmlite.__version__,
            np.__version__,
            platform.machine(),
            cpu.name(),
            native.cpu_features(),
            repr((code_key(SETTINGS), has_tiles(), multiplies_bfloat16())),
            *map(bytes.decode, texts),
        ]
    )


def _content(value: Any) -> list[str]:
    """What identifies a value that a function of the kernel library closes over."""
    if isinstance(value, (_Intrinsic, Dispatcher)):
        return _content(value._defn if isinstance(value, _Intrinsic) else value.py_func)
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        parts = [value.__module__, value.__qualname__, value.__code__.co_filename]
        # A file under the kernel library is part of the environment's digest; other text is not.
        parts.append(_source(value))
        for cell in cells:
            parts += _content(cell.cell_contents)
        for default in value.__defaults__ or ():
            parts += _content(default)
        return parts
    if isinstance(value, (bool, int, float, str, type(None), types.Type, np.dtype, type)):
        return [repr(value)]
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *(part for item in value for part in _content(item))]
    text = repr(value)
    if " at 0x" in text:
        raise KernelBuildError(f"a kernel closes over {text}, which has no content to name the kernel by")
    return [type(value).__qualname__, text]


@functools.cache
def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        raise KernelBuildError(f"kernel {function.__qualname__}: its source text cannot be found") from None


def _symbol(name: str, digest: str) -> str:
    return f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{digest[:16]}"


def function_of(text: str, name: str, more: Mapping[str, Any] | None = None) -> FunctionType:
    """The function of a kernel's text, which sees the names of `namespace` and some more.

    Raises: KernelBuildError if the text defines no such function.
    """
    file = f"<tracejit {name}>"
    scope = {**namespace(), **(more or {})}
    # Registered like the lines of a file, so that errors and tracebacks show the text.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), scope)
    function = scope.get(name)
    if not isinstance(function, FunctionType):
        raise KernelBuildError(f"kernel text does not define a function {name!r}")
    return function


def _optimised(function: FunctionType, text: str, symbol: str) -> Any:
    """The LLVM module of a kernel, ready for code generation."""
    lowered = frontend.lower(function, text)
    module = native.parse(lowered.text)
    module.get_function(lowered.symbol).name = symbol
    native.optimise(module, (symbol,), lowered.linked, by_hand=lowered.by_hand, combined=lowered.combined)
    return module


@dataclass(frozen=True, slots=True)
class _Request:
    """A kernel to build: where its function comes from, and the digest of its content."""

    name: str
    text: str
    digest: str
    function: Callable[[], FunctionType]
    is_text: bool

    @property
    def symbol(self) -> str:
        return _symbol(self.name, self.digest)

    @property
    def length(self) -> tuple[bool, int]:
        """How long it takes to compile, to compare: the library's kernels, whose text says little, take longest."""
        return not self.is_text, len(self.text)

    def compile(self) -> bytes:
        """Compiles the kernel and leaves it in the disk cache, unless another process for this one does."""
        begins = AHEAD.is_expecting and _workers(2 * _KERNELS_A_WORKER) > 1 and AHEAD.open()
        with AHEAD.claim(self.digest) as shared:
            if begins:
                AHEAD.begin()
            code = STORE.get(self.digest) if shared else None
            if code is None:
                code = native.object_code(_optimised(self.function(), self.text, self.symbol))
                # Told before, so that whoever finds it there knows.
                AHEAD.tell(self.digest)
                STORE.put(self.digest, self.name, self.text, code)
        return code


def _make(request: _Request) -> Kernel:
    begin = time.perf_counter()
    code = STORE.get(request.digest)
    address = None if code is None else _load(code, request.symbol)
    cached = address is not None and request.digest not in _compiled and not AHEAD.has_made(request.digest)
    if address is None:
        code = request.compile()
        # While another process compiled it, this one may have built what needs it, too.
        if request.digest in _built:
            return _built[request.digest]
        address = native.load(code, request.symbol)
    return _noted(request, address, cached, time.perf_counter() - begin)


def _load(code: bytes, symbol: str) -> int | None:
    """The address of a kernel by what is kept of it; None if it is part of what is kept no longer."""
    if not code.startswith(_PART_OF):
        return native.load(code, symbol)
    digest = code[len(_PART_OF) :].decode()
    if digest not in _objects:
        whole = STORE.get(digest, OBJECT)
        if whole is None:
            return None
        native.load(whole, symbol)
        _objects.add(digest)
    return native.find(symbol)


def _noted(request: _Request, address: int, cached: bool, seconds: float) -> Kernel:
    STORE.count(cached, seconds)
    _log.debug("%s %s in %.1f ms", "loaded" if cached else "compiled", request.symbol, seconds * 1e3)
    _source_log.debug("%s\n%s", request.symbol, request.text)
    kernel = Kernel(
        request.name, request.text, address, request.digest, request.symbol, seconds, cached, request.function
    )
    _built[request.digest] = kernel
    return kernel


def _identity(function: FunctionType) -> FunctionType:
    return function


def _request(source: Source) -> _Request:
    if isinstance(source, tuple):
        text, name = source
        parts = ["text", name, text]
        function: Callable[[], FunctionType] = functools.partial(function_of, text, name)
    else:
        name, text = source.__name__, _source(source)
        parts = ["function", name, *_content(source)]
        function = functools.partial(_identity, cast(FunctionType, source))
    return _Request(name, text, _hash([environment(), *parts]), function, isinstance(source, tuple))


def recall(digest: str, function: Callable[[], FunctionType] | None) -> Kernel | None:
    """The kernel of this content if this process or the disk has it.

    `function` makes the function of a kernel of the library; that of a text is made of the text.
    """
    with _lock:
        kernel = _built.get(digest)
        if kernel is not None:
            return kernel
        begin = time.perf_counter()
        found = STORE.find(digest)
        if found is None:
            return None
        name, text, code = found
        make = function or functools.partial(function_of, text, name)
        request = _Request(name, text, digest, make, function is None)
        address = _load(code, request.symbol)
        if address is None:
            return None
        return _noted(request, address, True, time.perf_counter() - begin)


def _build(source: Source) -> Kernel:
    kernel = _by_source.get(source)
    if kernel is not None:
        return kernel
    with _lock:
        request = _request(source)
        kernel = _built.get(request.digest)
        if kernel is None:
            kernel = _make(request)
        _by_source[source] = kernel
        return kernel


def build(source: Callable[..., Any] | str, name: str | None = None) -> Kernel:
    """The kernel of a library function, or of a text that defines the function `name`.

    Equal content gives the same kernel. Safe to call from several threads, which compile one after another.

    Raises: KernelBuildError if the text or the function is not a kernel.
    Cost: about 0.1 us for a source built before, 0.2 ms from the disk cache, 30 ms compiled.

    >>> kernel = build("def answer(p, lo, hi):\\n    store_i64(load_arg(p, 0), 0, 42)\\n    return 0\\n", "answer")
    >>> kernel.name, kernel.address != 0
    ('answer', True)
    """
    if not isinstance(source, str):
        return _build(source)
    if name is None:
        raise KernelBuildError("kernel text needs the name of the function that it defines")
    return _build((source, name))


def build_together(functions: Sequence[Callable[..., Any]], name: str) -> list[int]:
    """The addresses of kernels of the library that are one piece of machine code, which has once what they share.

    Raises: KernelBuildError if one of them is written in more than the language of `lowering`.
    """
    begin = time.perf_counter()
    with _lock:
        requests = [_request(function) for function in functions]
        digest = _hash([name, *(request.digest for request in requests)])
        symbols = {request.name: _symbol(request.name, digest) for request in requests}
        code = STORE.get(digest)
        cached = code is not None
        if code is None:
            lowered = frontend.lower_together({request.function(): request.text for request in requests}, name)
            module = native.parse(lowered.text)
            for function, symbol in symbols.items():
                module.get_function(function).name = symbol
            native.optimise(module, symbols.values(), by_hand=lowered.by_hand)
            code = native.object_code(module)
            STORE.put(digest, name, "\n".join(request.text for request in requests), code)
        first, *others = symbols.values()
        addresses = [native.load(code, first), *map(native.find, others)]
    STORE.count(cached, time.perf_counter() - begin)
    return addresses


def build_many(sources: Sequence[Source], begun: Begun | None = None) -> list[Kernel]:
    """The kernels of functions and of (text, name) pairs; many that are new are compiled by several processes.

    `begun` are those that another process compiles already.

    Raises: KernelBuildError as `build`.
    Cost: with two processes about 0.6 of one's time, from a dozen new kernels on.
    """
    wanted = {source: _request(source) for source in dict.fromkeys(sources) if source not in _by_source}
    busy = frozenset[str]() if begun is None else begun.digests
    lacking = [r for r in wanted.values() if r.digest not in busy and not STORE.has(r.digest)]
    if begun is not None:
        # Functions cannot be sent to a process that has begun.
        lacking = [request for request in lacking if request.is_text]
    workers = _workers(len(busy) + len(lacking))
    if workers > 1 and not STORE.stats.misses:
        # What every compilation needs is made before the processes part.
        lacking.sort(key=lambda request: request.length, reverse=True)
        lacking.pop().compile()
    crew = None if begun is None else begun.crew
    if crew is None and STORE.usable and len(lacking) > 1:
        if len(lacking) >= _KERNELS_A_WORKER and all(request.is_text for request in lacking):
            crew = AHEAD.hand_over()
            # It costs no fork.
            workers = max(workers, 1 if crew is None else 2)
        elif workers > 1:
            AHEAD.end()
        crew = crew or Crew(())
    if crew is not None:
        _compiled.update(request.digest for request in lacking)
        with _lock:
            crew.add(_jobs(lacking, workers))
            crew.hire(workers)
            crew.finish()
    return [_build(source) for source in sources]


@dataclass(frozen=True, slots=True)
class Begun:
    """Kernels, by the digests of their content, that another process compiles already."""

    crew: Crew
    digests: frozenset[str]


def begin(functions: Iterable[Callable[..., Any]]) -> Begun | None:
    """Has another process begin with those kernels of the library that neither this one nor the disk has, if it may.

    `build_many` is to be told what was begun, or its crew is to be dismissed.
    """
    if not STORE.stats.misses or _workers(_KERNELS_A_WORKER * 2) < 2:
        return None
    requests = [_request(function) for function in dict.fromkeys(functions) if function not in _by_source]
    lacking = [request for request in requests if request.digest not in _built and not STORE.has(request.digest)]
    if not lacking:
        return None
    AHEAD.end()
    _compiled.update(request.digest for request in lacking)
    crew = Crew(_jobs(lacking, 2))
    crew.hire(2)
    return Begun(crew, frozenset(request.digest for request in lacking))


def _workers(kernels: int) -> int:
    """How many processes, this one among them, so many new kernels pay."""
    if not STORE.usable or not is_possible():
        return 1
    most = SETTINGS.build_workers or thread_budget(SETTINGS, os.environ)
    return max(1, min(most, kernels // _KERNELS_A_WORKER, *_limits))


def _jobs(requests: Iterable[_Request], workers: int) -> list[Job]:
    """What processes do one after another to compile kernels, the longest first.

    Those of the library take long, each by itself: LLVM makes the most of what is the same wherever a kernel calls a
    function, such as a size. Texts whose loops are made of vectors here are compiled several together: the functions
    over strips that they share are written once, and a third of what a short one takes is LLVM's for any. There are
    less and less of them together, so that all processes are through at about the same time.
    """
    ordered = sorted(requests, key=lambda request: request.length, reverse=True)
    jobs: list[Job] = [request.compile for request in ordered if not (request.is_text and TARGET.free_masks)]
    texts = [request for request in ordered if request.is_text and TARGET.free_masks]
    while texts:
        most = sum(len(request.text) for request in texts) / workers
        together: list[_Request] = []
        while texts and (not together or sum(len(r.text) for r in (*together, texts[0])) <= most):
            together.append(texts.pop(0))
        jobs.append(functools.partial(_compile_together, together))
    return jobs


def _compile_together(requests: Sequence[_Request]) -> None:
    """Compiles kernels as one piece of machine code, but for those of which LLVM makes vectors, into the disk cache."""
    if len(requests) == 1:
        requests[0].compile()
        return
    functions = {request.function(): request for request in requests}
    lowered, left = frontend.lower_by_hand({f: r.text for f, r in functions.items()}, "together")
    for function in left:
        functions.pop(function).compile()
    if not functions:
        return
    module = native.parse(lowered.text)
    for request in functions.values():
        module.get_function(request.name).name = request.symbol
    native.optimise(module, [request.symbol for request in functions.values()], by_hand=True)
    digest = _hash(request.digest for request in functions.values())
    STORE.put(digest, "", "", native.object_code(module), OBJECT)
    for request in functions.values():
        STORE.put(request.digest, request.name, request.text, _PART_OF + digest.encode())


def limit_workers(count: int) -> None:
    """From now on at most so many processes compile kernels at once for this one."""
    _limits[:] = [count]


def missing(sources: Iterable[Source]) -> dict[Source, str]:
    """Those sources whose kernel neither this process nor the disk has, each with the digest of its content."""
    wanted = {source: _request(source).digest for source in dict.fromkeys(sources) if source not in _by_source}
    return {source: digest for source, digest in wanted.items() if digest not in _built and not STORE.has(digest)}


def _after_fork() -> None:
    _lock.release()


# No process is made while a thread compiles: LLVM's and numba's locks are free in the child.
os.register_at_fork(before=_lock.acquire, after_in_parent=_after_fork, after_in_child=_after_fork)
