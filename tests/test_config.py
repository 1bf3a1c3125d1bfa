"""The table of settings, the thread budget and the log."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tracejit import config
from tracejit.errors import ConfigError


def test_values_come_from_the_environment_and_keep_their_kind() -> None:
    settings = config.read({"TRACEJIT_CACHE": "off", "TRACEJIT_SPIN_US": "2.5", "TRACEJIT_CACHE_LIMIT_MB": "7"})
    assert (settings.cache, settings.spin_us, settings.cache_limit_mb) == (False, 2.5, 7)
    assert config.read({"TRACEJIT_NUM_THREADS": " "}) == config.read({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_THREADS", "many"),
        ("CACHE", "perhaps"),
        ("VECTOR_BITS", "128"),
        ("OPT_LEVEL", "4"),
        ("LOG", "passes,nothing"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"TRACEJIT_{name}"):
        config.read({f"TRACEJIT_{name}": value})


def test_the_table_is_small_and_every_setting_says_what_it_is() -> None:
    rows = config.describe(config.read({}))
    assert len(rows) == len(fields(config.Settings)) <= 20
    assert all(name.startswith("TRACEJIT_") and doc for name, _, doc in rows)


def test_only_what_changes_machine_code_is_in_the_key() -> None:
    base = config.code_key(config.read({}))
    assert config.code_key(config.read({"TRACEJIT_NUM_THREADS": "3"})) == base
    assert config.code_key(config.read({"TRACEJIT_OPT_LEVEL": "1"})) != base


def test_the_thread_budget_is_the_smallest_of_its_limits(tmp_path: Path) -> None:
    affinity = len(os.sched_getaffinity(0))
    settings = config.read({})
    assert config.thread_budget(settings, {}, tmp_path) == affinity
    assert config.thread_budget(settings, {"OMP_NUM_THREADS": "1,4"}, tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert config.thread_budget(settings, {}, tmp_path) == affinity
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert config.thread_budget(settings, {}, tmp_path) == 1
    assert config.thread_budget(config.read({"TRACEJIT_NUM_THREADS": "5"}), {"OMP_NUM_THREADS": "1"}, tmp_path) == 5


def test_the_older_control_groups_are_read(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert config.thread_budget(config.read({}), {}, tmp_path) == 1


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_affinity", lambda: 64)


@pytest.mark.usefixtures("many_cpus")
def test_the_smallest_quota_of_the_groups_around_the_process_counts(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"

    def budget() -> int:
        return config.thread_budget(config.read({}), {}, root, membership)

    membership.write_text("0::/user.slice/user-7.slice/job.scope\n")
    write(root / "user.slice" / "user-7.slice" / "job.scope" / "cpu.max", "250000 100000\n")
    assert budget() == 3
    write(root / "user.slice" / "cpu.max", "200000 100000\n")
    assert budget() == 2
    write(root / "user.slice" / "cpu.max", "max 100000\n")
    write(root / "user.slice" / "user-7.slice" / "cpu.max", "800000 100000\n")
    assert budget() == 3
    write(root / "cpu.max", "100000 100000\n")
    assert budget() == 1
    # The group of another container.
    write(root / "system.slice" / "cpu.max", "50000 100000\n")
    write(root / "cpu.max", "max 100000\n")
    membership.write_text("0::/user.slice\n")
    assert budget() == 64


@pytest.mark.usefixtures("many_cpus")
def test_older_groups_are_found_by_their_controller(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("9:memory:/job\n4:cpu,cpuacct:/batch/job\n0::/\n")
    for place, quota in (("batch/job", "-1"), ("batch", "600000"), ("job", "100000"), ("", "-1")):
        write(root / "cpu" / place / "cpu.cfs_quota_us", f"{quota}\n")
        write(root / "cpu" / place / "cpu.cfs_period_us", "100000\n")
    assert config.thread_budget(config.read({}), {}, root, membership) == 6


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize("group", ["/docker/1f", "/../../system.slice/job", "/"])
def test_a_group_that_is_not_shown_counts_as_the_root(tmp_path: Path, group: str) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text(f"0::{group}\n")
    write(root / "cpu.max", "400000 100000\n")
    assert config.thread_budget(config.read({}), {}, root, membership) == 4


def test_the_log_shows_the_topics_asked_for() -> None:
    script = "from tracejit.config import logger; logger('passes').debug('a'); logger('memory').debug('b')"
    environment = {**os.environ, "TRACEJIT_LOG": "passes", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stderr == "[tracejit.passes] a\n"
