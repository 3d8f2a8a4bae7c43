"""How many processors this process may use: those of its affinity, and no more than the quota of its control groups."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

MOST_THREADS = 1024
"""That anybody may ask for."""
GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@lru_cache(maxsize=1)
def processors() -> int:
    """At least one; a part of a processor counts as a whole one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(min(quota(), float(allowed)))))


def quota(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> float:
    """Processors that the control groups of this process grant, the tightest of all levels; infinite without a limit.

    ``membership`` names the group in each hierarchy, as ``/proc/self/cgroup`` does: ``0::/path`` for version 2 (file
    ``cpu.max``), ``4:cpu,cpuacct:/path`` for version 1 (``cpu.cfs_quota_us``). What cannot be read is no limit.
    """
    tightest = math.inf
    with suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            for root in [groups, groups / "unified"] if not controllers else [groups / controllers, groups / "cpu"]:
                if not controllers or re.search(r"\bcpu\b", controllers):
                    tightest = min([tightest, *(_limit(level) for level in _levels(root, name))])
    return tightest


def _levels(root: Path, name: str) -> Iterator[Path]:
    """A group's folder and those above it, up to the root: a container often sees its own group there."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return (root.joinpath(*parts[:count]) for count in range(len(parts), -1, -1))


def _limit(level: Path) -> float:
    """Of one group."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            granted, period = (part for name in names for part in (level / name).read_text().split())
            if int(granted) > 0 and int(period) > 0:  # "max", and -1 in version 1, are no limit
                return int(granted) / int(period)
    return math.inf
