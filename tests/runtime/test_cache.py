"""The kernel cache: many processes, damage, limits, and directories that cannot be written."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracejit.runtime import cache
from tracejit.runtime.cache import CODE, CUBIN, KINDS, OBJECT, PTX, RECIPE, TREE, UNIT, Store

WORK = """
import sys
import numpy as np
from tracejit.runtime import cache
from tracejit.runtime.build import build
from tracejit.runtime.team import launch
first, count = int(sys.argv[1]), int(sys.argv[2])
out = np.zeros(1, np.int64)
for number in range(first, first + count):
    name = f"kernel_{number}"
    text = f"def {name}(p, lo, hi):\\n    store_i64(load_arg(p, 0), 0, {number})\\n    return 0\\n"
    kernel = build(text, name)
    assert launch(kernel.address, 1, 0.0, out) == 0 and out[0] == number, (number, out[0])
print(cache.stats().hits, cache.stats().misses, cache.stats().corrupt)
"""


def start(directory: Path, first: int, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "TRACEJIT_CACHE_DIR": str(directory), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WORK, str(first), str(count)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, int, int, str]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    hits, misses, corrupt = map(int, output.split())
    return hits, misses, corrupt, errors


def test_eight_processes_compile_at_once_and_one_loads_all(tmp_path: Path) -> None:
    # Each shares half of its kernels with the next one.
    for process in [start(tmp_path, 2 * k, 4) for k in range(8)]:
        assert finish(process)[2] == 0
    hits, misses, corrupt, _ = finish(start(tmp_path, 0, 18))
    assert misses == 0
    assert hits >= 18
    assert corrupt == 0
    assert not list(tmp_path.glob("**/*.tmp"))


def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    finish(start(tmp_path, 0, 2))
    for path in tmp_path.glob("*/*.kernel"):
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    hits, misses, corrupt, errors = finish(start(tmp_path, 0, 2))
    assert hits == 0
    assert corrupt == misses > 0
    assert "is damaged" in errors
    assert finish(start(tmp_path, 0, 2))[1] == 0


def test_a_directory_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    hits, misses, _, errors = finish(start(tmp_path / "file", 0, 3))
    assert hits == 0
    assert misses >= 3
    assert errors.count("\n") == 1
    assert "going on without it" in errors


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "kernels", limit=10_000)


def age(store: Store, digest: str, seconds: float) -> None:
    path = next(store.directory.glob(f"*/{digest}.kernel"))
    used = path.stat().st_mtime - seconds
    os.utime(path, (used, used))


def test_entries_come_back_whole_and_newest_first(store: Store) -> None:
    store.put("aa01", "first", "text of first", b"\0code\n")
    store.put("bb02", "second", "text of second", b"")
    age(store, "aa01", 100)
    assert store.get("aa01") == b"\0code\n"
    assert store.get("bb02") == b""
    assert store.get("aa02") is None
    assert [(e.name, e.digest, e.text) for e in store.entries()] == [
        ("second", "bb02", "text of second"),
        ("first", "aa01", "text of first"),
    ]
    assert store.clear() == 2
    assert store.entries() == []
    assert store.get("aa01") is None


@pytest.mark.parametrize("keep", [0, 3, 17, 40])
def test_a_truncated_entry_is_nothing(store: Store, keep: int) -> None:
    store.put("aa01", "kernel", "text", b"code" * 100)
    path = next(store.directory.glob("*/*.kernel"))
    path.write_bytes(path.read_bytes()[:keep])
    assert store.get("aa01") is None
    assert store.entries() == []
    assert store.stats.corrupt == 1


def test_the_least_recently_used_entries_go_first(store: Store) -> None:
    for k in range(4):
        store.put(f"{k:02x}", f"kernel_{k}", "", bytes(3000))
        age(store, f"{k:02x}", 100_000 - 1000 * k)
    store.get("00")  # used now
    store.put("ff", "another", "", bytes(3000))
    store.evict()
    assert sorted(entry.name for entry in store.entries()) == ["another", "kernel_0", "kernel_3"]
    assert store.stats.evicted == 2


def test_files_that_a_dead_process_left_are_removed(store: Store) -> None:
    store.put("aa01", "kernel", "", b"")
    fresh, old = (store.directory / "aa" / name for name in ("fresh.tmp", "old.tmp"))
    fresh.write_bytes(b"")
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    store.evict()
    assert fresh.exists()
    assert not old.exists()


def test_a_disabled_store_keeps_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "kernels", limit=1, enabled=False)
    with caplog.at_level(logging.DEBUG):
        store.put("aa01", "kernel", "", b"")
        assert store.get("aa01") is None
    assert not (tmp_path / "kernels").exists()
    assert not caplog.records


def test_usage_counts_every_kind(store: Store) -> None:
    store.put("aa01", "kernel", "text", b"code")
    store.put("aa01", "kernels", "", b"code of several", OBJECT)
    store.put("aa01", "program", "", b"launches", RECIPE)
    store.put("bb02", "matcher", "", b"", CODE)
    store.put("bb02", "loop", "text", b"PTX", PTX)
    store.put("bb02", "loop", "", b"code", CUBIN)
    store.put("bb02", "step", "", b"events", TREE)
    store.put("bb02", "softmax", "", b"", UNIT)
    sizes = {path.suffix[1:]: path.stat().st_size for path in store.directory.glob("*/*")}
    assert store.usage() == {kind: (1, sizes[kind]) for kind in KINDS}
    assert [entry.name for entry in store.entries()] == ["kernel"]
    assert store.clear() == 1
    assert not list(store.directory.glob("*/*"))


def test_one_in_so_many_stores_looks_at_the_size(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(Store, "evict", lambda store: looks.append(store))
    store = Store(tmp_path, limit=1 << 20)
    for k in range(2 * cache._SCAN_EVERY):
        store.put(f"{k:064x}", "one", "", b"1")
    assert looks == [store] * 2
