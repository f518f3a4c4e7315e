"""How much processor time this process's control groups grant: what containers are limited by.

Source: the Linux kernel's documentation, Control Group v2 ("cpu.max") and CFS Bandwidth Control
("cpu.cfs_quota_us" of version 1); cgroups(7) and proc(5) for the files below /proc.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROCESS = Path("/proc/self")


def granted_processors() -> float | None:
    """Processors' worth of time, the least that a group or one above it grants; None without a limit."""
    try:
        quotas = [quota for group in _groups() if (quota := _quota(group)) is not None]
    except OSError:
        return None
    return min(quotas, default=None)


def _groups() -> Iterator[Path]:
    """The folders of the groups that limit this process: its own, and all above that are visible."""
    paths = {}
    for line in (PROCESS / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = path
    for line in (PROCESS / "mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        root, top = mount.split(" ")[3:5]
        try:
            below = PurePosixPath(paths[kind]).relative_to(root)
        except ValueError:  # the group is outside of what is mounted here
            below = PurePosixPath()
        for part in (below, *below.parents):
            yield Path(top, part)


def _quota(group: Path) -> float | None:
    """What one group grants."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(quota) / int(period) if quota.isdecimal() and int(period) else None
