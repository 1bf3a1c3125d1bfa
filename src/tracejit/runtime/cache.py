"""Kernels, recipes of programs and code on disk, by content: safe for many processes, bounded, and never in the way.

In: a digest and bytes. Out: the bytes that were put there under that digest, or nothing.
Must not know: how they are made or used. Whatever goes wrong with the disk, the caller goes on without a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracejit.config import SETTINGS, logger

_log = logger("cache")
KERNEL, OBJECT, RECIPE, CODE = "kernel", "object", "recipe", "code"
PTX, CUBIN, TREE, UNIT = "ptx", "cubin", "tree", "unit"
"""What is kept: a kernel's object code, that of several kernels (`runtime/build.py`), a program's launches
(`runtime/recipe.py`), Python's code (`runtime/bytecode.py`), a GPU kernel's PTX and its machine code, a function's
trace (`trace/kept.py`), the mark of a composite that has programs (`tensor/remembered.py`)."""
KINDS = (KERNEL, OBJECT, RECIPE, CODE, PTX, CUBIN, TREE, UNIT)
_MAGIC = b"tracejit kernel 1\n"
_CHECKSUM_BYTES = 32
_TOUCH_SECONDS = 3600.0
"""An entry's time of last use is only written anew when it is older than this."""
_SCAN_EVERY = 256
"""Stores between two looks at the size of the cache, which take 0.07 s where there are 10,000 files."""
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the cache: name and Python text of a kernel, digest, size of the file in bytes, time of last use."""

    name: str
    digest: str
    text: str
    size: int
    used: float


@dataclass(slots=True)
class Stats:
    """What this process did: kernels taken from disk and compiled, seconds for each, entries found unreadable."""

    hits: int = 0
    misses: int = 0
    load_seconds: float = 0.0
    compile_seconds: float = 0.0
    corrupt: int = 0
    evicted: int = 0


class Store:
    """A directory of what was made once; `limit` is its size in bytes from which the least recently used are removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     store = Store(Path(directory), limit=1 << 20)
    ...     store.put("00ff", "add", "def add(p, lo, hi): ...", b"object code")
    ...     store.get("00ff"), [entry.name for entry in store.entries()]
    (b'object code', ['add'])
    """

    def __init__(self, directory: Path, *, limit: int, enabled: bool = True) -> None:
        self.directory = directory
        self.limit = limit
        self.stats = Stats()
        self._enabled = enabled
        self._writable = enabled
        # A process that stores little seldom looks; of many such processes one in so many stores does.
        self._stores = secrets.randbelow(_SCAN_EVERY)

    def _path(self, digest: str, kind: str) -> Path:
        return self.directory / digest[:2] / f"{digest}.{kind}"

    def get(self, digest: str, kind: str = KERNEL) -> bytes | None:
        """The content under a digest; None if there is none that is whole."""
        found = self.find(digest, kind)
        return None if found is None else found[2]

    def find(self, digest: str, kind: str = KERNEL) -> tuple[str, str, bytes] | None:
        """Name, text and content of what is under a digest; None if there is nothing that is whole."""
        if not self._enabled:
            return None
        path = self._path(digest, kind)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._enabled = self._writable = False
            _log.warning("kernel cache %s cannot be read (%s); going on without it", self.directory, error.strerror)
            return None
        parsed = _unpack(data)
        if parsed is None:
            self.stats.corrupt += 1
            _log.warning("kernel cache entry %s is damaged and will be made again", path)
            return None
        self._touch(path)
        return parsed

    @property
    def usable(self) -> bool:
        """Whether what is put here is kept, as far as is known."""
        return self._writable

    def has(self, digest: str) -> bool:
        """Whether there is a kernel under a digest, whole or not."""
        return self._enabled and os.path.exists(self._path(digest, KERNEL))

    def _touch(self, path: Path) -> None:
        try:
            if time.time() - path.stat().st_mtime > _TOUCH_SECONDS:
                os.utime(path)
        except OSError as error:
            # A read-only cache, or another process removed the entry: the code is in memory either way.
            _log.debug("time of use of %s not written: %s", path, error)

    def put(self, digest: str, name: str, text: str, code: bytes, kind: str = KERNEL) -> None:
        """Keeps content under a digest; without a writable directory, says so once and does nothing."""
        if not self._writable:
            return
        path = self._path(digest, kind)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_pack(name, text, code))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self._writable = False
            _log.warning("kernel cache %s is not writable (%s); going on without it", self.directory, error.strerror)
            return
        self._stores += 1
        if self._stores % _SCAN_EVERY == 0:
            self.evict()

    def count(self, hit: bool, seconds: float) -> None:
        """Notes in the statistics that a kernel was loaded from here (`hit`) or compiled."""
        if hit:
            self.stats.hits += 1
            self.stats.load_seconds += seconds
        else:
            self.stats.misses += 1
            self.stats.compile_seconds += seconds

    def _files(self) -> Iterator[tuple[str, str, int, float]]:
        """Path, ending, size and time of last use of every file. Cost: 6 us each, 10 by `Path`."""
        try:
            with os.scandir(self.directory) as found:
                folders = [entry.path for entry in found if len(entry.name) == 2 and entry.is_dir()]
            for folder in folders:
                with os.scandir(folder) as files:
                    for entry in files:
                        try:
                            status = entry.stat()
                        except FileNotFoundError:
                            continue  # removed by another process
                        yield entry.path, os.path.splitext(entry.name)[1], status.st_size, status.st_mtime
        except FileNotFoundError:
            return  # nothing was put yet, or another process removed it
        except OSError as error:
            _log.warning("kernel cache %s cannot be listed (%s)", self.directory, error.strerror)

    def evict(self) -> None:
        """Removes the least recently used entries until the rest is within the limit, and abandoned files."""
        files = sorted(self._files(), key=lambda file: file[3])
        total = sum(size for _, _, size, _ in files)
        now = time.time()
        for path, ending, size, used in files:
            abandoned = ending == ".tmp" and now - used > _ABANDONED_SECONDS
            if not abandoned and (total <= self.limit or ending == ".tmp"):
                continue
            if self._remove(path):
                total -= size
                self.stats.evicted += not abandoned

    def _remove(self, path: str) -> bool:
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("kernel cache entry %s cannot be removed (%s)", path, error.strerror)
            return False
        return True

    def entries(self) -> list[Entry]:
        """Every whole kernel, the most recently used first."""
        found = []
        for path, ending, size, used in self._files():
            if ending != f".{KERNEL}":
                continue
            try:
                parsed = _unpack(Path(path).read_bytes())
            except OSError as error:
                _log.debug("%s not listed: %s", path, error)
                continue
            if parsed is not None:
                name, text, _ = parsed
                found.append(Entry(name, Path(path).stem, text, size, used))
        return sorted(found, key=lambda entry: -entry.used)

    def usage(self) -> dict[str, tuple[int, int]]:
        """Of each kind how many files there are, and their bytes; nothing is read."""
        found = dict.fromkeys(KINDS, (0, 0))
        for _, ending, size, _ in self._files():
            kind = ending[1:]
            if kind in found:
                count, nbytes = found[kind]
                found[kind] = (count + 1, nbytes + size)
        return found

    def clear(self) -> int:
        """Removes everything; gives how many kernels there were."""
        mine = [(path, ending) for path, ending, _, _ in self._files() if ending[1:] in (*KINDS, "tmp")]
        return sum([self._remove(path) and ending == f".{KERNEL}" for path, ending in mine])


def _pack(name: str, text: str, code: bytes) -> bytes:
    head = json.dumps({"name": name, "text": text}).encode()
    body = len(head).to_bytes(8, "little") + head + code
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpack(data: bytes) -> tuple[str, str, bytes] | None:
    """Name, text and code of an entry; None if it is not whole."""
    start = len(_MAGIC) + _CHECKSUM_BYTES
    checksum, body = data[len(_MAGIC) : start], data[start:]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != checksum:
        return None
    size = int.from_bytes(body[:8], "little")
    head = json.loads(body[8 : 8 + size])
    return head["name"], head["text"], body[8 + size :]


STORE = Store(Path(SETTINGS.cache_dir), limit=SETTINGS.cache_limit_mb << 20, enabled=SETTINGS.cache)


def entries() -> list[Entry]:
    """Every kernel in the cache, the most recently used first."""
    return STORE.entries()


def summary() -> str:
    """How much is in the cache."""
    usage = STORE.usage()
    size = sum(nbytes for _, nbytes in usage.values()) / 2**20
    return f"{usage[KERNEL][0]} kernels, {usage[RECIPE][0]} programs, {usage[TREE][0]} traces, {size:.1f} MiB"


def clear() -> int:
    """Empties the cache; gives how many kernels there were."""
    return STORE.clear()


def stats() -> Stats:
    """What this process took from the cache and what it compiled."""
    return STORE.stats
