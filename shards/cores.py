"""How many cores this process may use."""

import math
import os
from pathlib import Path

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def count_cores() -> int:
    """Cores that this process may use: those of its affinity, and no more than its control groups give it time for.

    A container that may use one and a half cores of 64 counts as two.
    """
    return max(1, min([count_affine_cores(), *_read_quotas()]))


def count_affine_cores() -> int:
    """Cores that the scheduler may place this process on, which is what OpenMP counts."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinity


def _read_quotas() -> list[int]:
    """Cores that each control group above this process gives time for, where it limits that; of both versions."""
    found = []
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for number, controllers, own in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number == "0":
            root = _GROUPS
        elif "cpu" in controllers.split(","):
            root = _GROUPS / controllers
        else:
            continue
        group = root / own.strip("/")
        # within a container the path may be that of the host; its own limits are those at the root
        for folder in dict.fromkeys((group, *(path for path in group.parents if path.is_relative_to(root)), root)):
            found += _read_quota(folder)
    return found


def _read_quota(folder: Path) -> list[int]:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return [math.ceil(int(quota) / int(period))] if quota != "max" and int(quota) > 0 else []
    except (OSError, ValueError, ZeroDivisionError):
        return []
