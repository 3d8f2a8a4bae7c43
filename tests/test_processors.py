"""How many processors count: affinity, and the quotas of control groups of both versions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kparity.host import processors

V1 = "cpu,cpuacct"


@pytest.mark.parametrize(
    ("membership", "files", "granted"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("4:cpu,cpuacct:/\n", {f"{V1}/cpu.cfs_quota_us": "300000", f"{V1}/cpu.cfs_period_us": "100000"}, 3.0),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, math.inf),
        ("0::/a\n", {"a/cpu.max": "many\n"}, math.inf),
        ("0::/a\n", {"a/cpu.max": "1 2 3\n"}, math.inf),
        ("0::/a\n", {"a/cpu.max": "100000 0\n"}, math.inf),
        ("what\n", {}, math.inf),
    ],
)  # fmt: skip
def test_the_tightest_quota_of_the_groups_counts(
    tmp_path: Path, membership: str, files: dict[str, str], granted: float
) -> None:
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert processors.quota(tmp_path / "groups", tmp_path / "self") == granted
    assert processors.quota(tmp_path / "groups", tmp_path / "absent") == math.inf


def test_a_quota_bounds_the_default_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from kparity.backends.cpu import choose_threads

    for granted, threads in ((0.5, 1), (1.2, min(2, processors.processors())), (math.inf, processors.processors())):
        monkeypatch.setattr(processors, "quota", lambda granted=granted: granted)
        processors.processors.cache_clear()
        assert choose_threads(None) == threads
        monkeypatch.undo()
        processors.processors.cache_clear()
