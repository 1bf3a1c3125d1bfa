"""The one table of settings, read once from TRACEJIT_* environment variables, and the log they switch on.

`SETTINGS.cache_dir` is the value of TRACEJIT_CACHE_DIR or its default; `describe()` lists them all.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from tracejit.errors import ConfigError

LOG_TOPICS = ("guards", "passes", "fusion", "source", "memory", "timing", "cache")


def _flag(default: Any, doc: str, *, in_key: bool = False) -> Any:
    """A setting; `in_key` says that it changes machine code and so belongs to the key of the kernel cache."""
    return field(default=default, metadata={"doc": doc, "in_key": in_key})


def _default_cache_dir() -> str:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(root) / "tracejit")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its value."""

    log: str = _flag("", f"what to log, a comma-separated list out of {', '.join(LOG_TOPICS)}")
    check: bool = _flag(False, "whether graphs are checked after each pass")
    num_threads: int = _flag(0, "threads to compute with; 0: min(affinity, cgroup quota, OMP_NUM_THREADS)")
    cache: bool = _flag(True, "whether kernels and programs are kept on disk")
    trees: bool = _flag(True, "whether traces, and what composites are programs, are kept there for the next process")
    cache_dir: str = _flag("", "where they are kept; empty: ~/.cache/tracejit")
    cache_limit_mb: int = _flag(1024, "size at which what was not used longest is removed")
    build_workers: int = _flag(0, "processes that compile kernels at once; 0: one for each thread to compute with")
    background: bool = _flag(False, "whether programs are compiled by another process while eager goes on")
    vector_bits: int = _flag(0, "width of x86 vectors: 256, 512, or 0 for the widest there is", in_key=True)
    opt_level: int = _flag(3, "LLVM's optimisation level, 0 to 3", in_key=True)
    amx: bool = _flag(True, "whether products of bfloat16 use the CPU's tiles (AMX), if it has any", in_key=True)
    avx512_bf16: bool = _flag(True, "whether they use its vectors (AVX512-BF16), if it has no tiles", in_key=True)
    parallel_us: float = _flag(10.0, "serial cost in microseconds from which a launch is split over threads")
    kept_memory_mb: int = _flag(256, "memory of large arrays that are gone, kept for the next ones")
    spin_us: float = _flag(200.0, "how long a waiting thread spins before it sleeps")


@dataclass(slots=True)
class Products:
    """What programs allow for products of float32: `tf32` that a GPU rounds operands to 10 bits first, `bfloat16` that
    a CPU that multiplies bfloat16 rounds them to 7.
    """

    tf32: bool = False
    bfloat16: bool = False


PRODUCTS = Products()
"""The process's, as in PyTorch; what sets it is `backends.cuda.matmul` and `set_float32_matmul_precision`."""


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{name}={text!r}: expected 0 or 1")
    try:
        return type(default)(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r}: expected a number") from None


def read(environment: Mapping[str, str]) -> Settings:
    """The settings that `environment` asks for.

    Raises: ConfigError on a value of the wrong kind or an unknown log topic.

    >>> read({"TRACEJIT_NUM_THREADS": "3"}).num_threads
    3
    """
    values: dict[str, Any] = {}
    for setting in fields(Settings):
        name = f"TRACEJIT_{setting.name.upper()}"
        text = environment.get(name, "").strip()
        values[setting.name] = _parse(name, text, setting.default) if text else setting.default
    if not values["cache_dir"]:
        values["cache_dir"] = _default_cache_dir()
    if values["vector_bits"] not in (0, 256, 512):
        raise ConfigError(f"TRACEJIT_VECTOR_BITS={values['vector_bits']}: expected 0, 256 or 512")
    if not 0 <= values["opt_level"] <= 3:
        raise ConfigError(f"TRACEJIT_OPT_LEVEL={values['opt_level']}: expected 0 to 3")
    unknown = set(_topics(values["log"])) - set(LOG_TOPICS)
    if unknown:
        raise ConfigError(f"TRACEJIT_LOG: no topic {', '.join(sorted(unknown))}; there are {', '.join(LOG_TOPICS)}")
    return Settings(**values)


def _topics(text: str) -> list[str]:
    return [topic.strip() for topic in text.split(",") if topic.strip()]


def describe(settings: Settings) -> list[tuple[str, Any, str]]:
    """Environment variable, value and meaning of each setting."""
    return [(f"TRACEJIT_{s.name.upper()}", getattr(settings, s.name), s.metadata["doc"]) for s in fields(settings)]


def code_key(settings: Settings) -> tuple[tuple[str, Any], ...]:
    """The settings that change machine code."""
    return tuple((s.name, getattr(settings, s.name)) for s in fields(settings) if s.metadata["in_key"])


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_UNLIMITED = ("max", "-1")
_OLDER = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def _groups(membership: Path) -> dict[str, PurePosixPath]:
    """The control groups of a process by controllers, those of the newer kind under ""."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return {}
    fields = [line.split(":", 2) for line in lines]
    return {name: PurePosixPath(f[2]) for f in fields if len(f) == 3 for name in f[1].split(",")}


def _quotas(root: Path, group: PurePosixPath, files: tuple[str, ...]) -> Iterator[int]:
    """CPUs that a group, and each around it, allows, rounded up. One that is not shown here counts as the root."""
    inside = [part for part in group.parts if part.strip("/")]
    for depth in range(0 if ".." in inside else len(inside), -1, -1):
        place = root.joinpath(*inside[:depth])
        try:
            words = [word for name in files for word in (place / name).read_text().split()]
        except OSError:
            continue
        if len(words) >= 2 and words[0] not in _UNLIMITED:
            yield max(1, math.ceil(int(words[0]) / int(words[1])))


def _cgroup_quota(root: Path, membership: Path) -> int | None:
    """CPUs that control groups allow the process, rounded up; None without a limit."""
    groups = _groups(membership)
    top = PurePosixPath("/")
    newer = _quotas(root, groups.get("", top), ("cpu.max",))
    older = _quotas(root / "cpu", groups.get("cpu", top), _OLDER)
    return min((*newer, *older), default=None)


def thread_budget(
    settings: Settings,
    environment: Mapping[str, str],
    cgroup: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
) -> int:
    """The number of threads to compute with: min(affinity, cgroup quota, OMP_NUM_THREADS), unless set."""
    if settings.num_threads > 0:
        return settings.num_threads
    budget = _affinity()
    quota = _cgroup_quota(cgroup, membership)
    if quota is not None:
        budget = min(budget, quota)
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        budget = min(budget, int(first))
    return budget


def logger(topic: str) -> logging.Logger:
    """The log of one topic, a child of the logger "tracejit"."""
    return logging.getLogger(f"tracejit.{topic}")


def _start_log(settings: Settings) -> None:
    topics = _topics(settings.log)
    if not topics:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
    root = logging.getLogger("tracejit")
    root.addHandler(handler)
    root.propagate = False
    for topic in topics:
        logger(topic).setLevel(logging.DEBUG)


SETTINGS = read(os.environ)
_start_log(SETTINGS)
