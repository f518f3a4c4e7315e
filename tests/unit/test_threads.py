"""The number of compute threads: what the user says, else what the machine and its limits give."""

from __future__ import annotations

from pathlib import Path

import pytest

from pascaline.core import control_group, threads
from pascaline.core.control_group import granted_processors
from pascaline.core.errors import ConfigError
from pascaline.core.threads import compute_threads


class Machine:
    """Processors, their cores and their control groups, as files below a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        for name in ("PASCALINE_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(threads, "_PROCESSORS", folder / "cpu")
        monkeypatch.setattr(control_group, "PROCESS", folder / "process")

    def processors(self, cores: list[list[int]], allowed: set[int] | None = None) -> None:
        """Processors by core; `allowed` are those that the process may run on."""
        for core in cores:
            for processor in core:
                path = self.folder / "cpu" / f"cpu{processor}" / "topology" / "thread_siblings_list"
                path.parent.mkdir(parents=True)
                path.write_text(",".join(map(str, core)) + "\n")
        every = {processor for core in cores for processor in core}
        self._monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: allowed or every)

    def groups(self, memberships: str, mounts: str, files: dict[str, str]) -> None:
        """Write the process's `cgroup` and `mountinfo` (TOP is the machine's folder), and groups' files."""
        (self.folder / "process").mkdir()
        (self.folder / "process" / "cgroup").write_text(memberships)
        (self.folder / "process" / "mountinfo").write_text(mounts.replace("TOP", str(self.folder)))
        for name, content in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content + "\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


EIGHT = [[0, 4], [1, 5], [2, 6], [3, 7], [8, 12], [9, 13], [10, 14], [11, 15]]
ROOT_V2 = "25 1 0:22 / TOP/group rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_the_users_number_wins(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.processors(EIGHT)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert compute_threads() == 3
    monkeypatch.setenv("PASCALINE_THREADS", "30")
    assert compute_threads() == 30
    monkeypatch.setenv("PASCALINE_THREADS", "")
    assert compute_threads() == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_what_is_no_number_of_threads_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASCALINE_THREADS", value)
    with pytest.raises(ConfigError, match="PASCALINE_THREADS is"):
        compute_threads()


def test_one_thread_a_core(machine: Machine) -> None:
    machine.processors(EIGHT)
    assert compute_threads() == 8


def test_only_cores_that_the_process_may_run_on(machine: Machine) -> None:
    machine.processors(EIGHT, allowed={1, 5, 8, 3})
    assert compute_threads() == 3


def test_where_the_system_lists_no_cores_each_processor_is_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert compute_threads() == 3


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("9900000 100000", 8),
    ],
)
def test_no_more_than_a_container_grants(machine: Machine, quota: str, count: int) -> None:
    """A container sees its own group as the root of all."""
    machine.processors(EIGHT)
    machine.groups("0::/\n", ROOT_V2, {"group/cpu.max": quota})
    assert compute_threads() == count


def test_the_tightest_group_on_the_way_up_counts(machine: Machine) -> None:
    machine.groups(
        "0::/user.slice/work.scope/job\n",
        ROOT_V2,
        {
            "group/user.slice/cpu.max": "300000 100000",
            "group/user.slice/work.scope/cpu.max": "500000 100000",
            "group/user.slice/work.scope/job/cpu.max": "max 100000",
            "group/another.slice/cpu.max": "100000 100000",
        },
    )
    assert granted_processors() == 3


def test_a_container_that_is_told_its_path_outside(machine: Machine) -> None:
    mount = "25 1 0:22 /docker/abc TOP/group ro - cgroup2 cgroup rw\n"
    machine.groups("0::/docker/abc/job\n", mount, {"group/job/cpu.max": "250000 100000"})
    assert granted_processors() == 2.5
    (machine.folder / "process" / "cgroup").write_text("0::/../elsewhere\n")
    (machine.folder / "group" / "cpu.max").write_text("400000 100000\n")
    assert granted_processors() == 4


@pytest.mark.parametrize(("quota", "granted"), [("200000", 2.0), ("-1", None)])
def test_the_first_version_of_control_groups(machine: Machine, quota: str, granted: float | None) -> None:
    machine.groups(
        "4:memory:/m\n3:cpu,cpuacct:/docker/abc\n2:cpuset:/set\n1:name=systemd:/\n0::/\n",
        "31 23 0:28 / TOP/set rw - cgroup cgroup rw,cpuset\n"
        "32 23 0:29 / TOP/accounts rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "33 23 0:30 / TOP/unified rw - cgroup2 cgroup2 rw\n",
        {
            "accounts/docker/abc/cpu.cfs_quota_us": quota,
            "accounts/docker/abc/cpu.cfs_period_us": "100000",
            "accounts/cpu.cfs_quota_us": "-1",
            "accounts/cpu.cfs_period_us": "100000",
            "set/cpu.cfs_quota_us": "1000",
            "set/cpu.cfs_period_us": "100000",
        },
    )
    assert granted_processors() == granted


def test_without_control_groups_nothing_is_limited(machine: Machine) -> None:
    machine.processors(EIGHT)
    assert granted_processors() is None
    assert compute_threads() == 8


def test_this_machine_gives_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PASCALINE_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert compute_threads() >= 1
