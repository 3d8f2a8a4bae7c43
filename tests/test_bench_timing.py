"""How times are taken and judged, what ceiling they are held against, and which source was measured."""

from __future__ import annotations

import hashlib
import math
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kparity.backends.numpy import NumpyBackend
from kparity.bench import bandwidth, machine, timing
from kparity.bench.timing import Sample, Timed, bootstrap, converged, figures, interleave, judge, row_of
from kparity.device.adapter import Backend, DeviceInfo, dtype_name
from kparity.device.registry import open_backend
from kparity.host.revision import revision
from kparity.ops.spec import Array
from kparity.receipts.record import Row

pytestmark = pytest.mark.alone


class Made(Timed):
    """Gives the samples of an iterator, in seconds of the device; ``found`` is what its check finds."""

    def __init__(self, seconds: Iterable[float], nbytes: int = 0, found: str = "", flops: int = 0, **more: Any) -> None:
        info = DeviceInfo("cpu", "x", "cpu", "native", "", "")
        super().__init__(row_of(info, "x", nbytes, name="x", **more), flops)
        self.seconds, self.found = iter(seconds), found

    def sample(self) -> Sample:
        return Sample(next(self.seconds), 1e4)

    def check(self) -> str:
        return self.found


def judged(seconds: list[float], ceiling: float = 0.0, slack: bool = True, wall_s: float = 1.0, **more: Any) -> Row:
    made = Made([], **more)
    made.row.device_s, made.row.samples_s = seconds, [wall_s] * len(seconds)
    return judge(made, ceiling, slack)


# --- the method ---


def test_the_interval_holds_the_median_and_narrows_with_samples() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for size in (20, 2000):
        values = 10 + rng.standard_normal(size)
        middle, low, high = bootstrap(values)
        assert low <= middle <= high and low < 10 < high
        assert middle == np.median(values)
        widths.append(high - low)
    assert widths[1] < widths[0] / 4
    assert bootstrap([3.0]) == (3.0, 3.0, 3.0)
    assert bootstrap(values) == bootstrap(values), "the resampling is seeded"
    with pytest.raises(ValueError, match="no samples"):
        bootstrap([])

    middle, _, high = bootstrap([*[1.0] * 50, 1000.0])
    assert middle == high == 1.0, "one outlier moves neither much"
    assert converged([1.0, 1.001] * 10) and not converged([1.0, 2.0] * 10) and not converged([])


def test_no_series_always_follows_another() -> None:
    order: list[str] = []

    def seconds(name: str) -> Iterator[float]:
        while True:
            order.append(name)
            yield 1e-3

    table = [Made(seconds(name)) for name in "abc"]
    interleave(table, warm=1, least=5, most=5)
    rounds = ["".join(order[at : at + 3]) for at in range(0, len(order), 3)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca", "cab"]
    assert [len(each.row.samples_s) for each in table] == [5, 5, 5], "a warm-up is no sample"


def test_sampling_ends_when_it_has_converged_or_is_late() -> None:
    quiet, wild = Made(repeat(1e-3)), Made(map(float, count(1)))
    interleave([quiet], least=6, most=100)
    interleave([wild], least=50, most=100, seconds=0.0)
    assert len(quiet.row.device_s) == 6
    assert len(wild.row.device_s) == 3, "three samples at least, whatever the time"


def test_what_raises_or_is_wrong_is_named_and_the_others_go_on() -> None:
    def breaks() -> Iterator[float]:
        yield from ()
        raise RuntimeError("device lost")

    table = [Made(breaks()), Made(repeat(1e-3), found="output wrong: y[3]"), Made(repeat(1e-3))]
    interleave(table, least=3, most=3)
    bad, wrong, good = (judge(each) for each in table)
    assert bad.errors == ["RuntimeError: device lost"] and not bad.verified
    assert wrong.errors == ["output wrong: y[3]"] and not wrong.verified and wrong.unit_s == 1e-3
    assert good.errors == [] and good.verified


def test_a_time_below_the_floor_is_an_error() -> None:
    floor_s = 1e9 / 1e12
    assert "faster than the roofline floor" in judged([0.5 * floor_s], 1e12, nbytes=10**9).errors[0]
    assert judged([1.5 * floor_s], 1e12, nbytes=10**9).errors == []
    # What the device tells is a limit; what a benchmark found has room above it; a hot series has no floor at all.
    assert judged([0.9 * floor_s], 1e12, False, nbytes=10**9).errors
    assert judged([0.9 * floor_s], 1e12, nbytes=10**9).errors == []
    assert judged([0.1 * floor_s], 1e12, nbytes=10**9, cold=False).errors == []


@pytest.mark.parametrize(
    ("device_s", "wall_s", "right"),
    [(1.009, 1.0, True), (1.011, 1.0, False), (2.9e-6, 1e-6, True), (3.1e-6, 1e-6, False), (math.nan, 1.0, False),
     (1.0, math.inf, False)],
)  # fmt: skip
def test_the_limits_of_the_clocks_are_the_contract_s(device_s: float, wall_s: float, right: bool) -> None:
    row = Row(name="x", op="x", device_s=[1.0])
    figures(row, [Sample(0.5, 1.0), Sample(device_s, wall_s)])
    assert bool(row.errors) is not right


def test_figures_follow_from_the_samples_which_are_kept() -> None:
    shorter = Made([])
    shorter.row.device_s, shorter.row.samples_s = [1.0, 1.0], [1.0]
    with pytest.raises(ValueError, match="shorter"):  # each sample needs both clocks
        judge(shorter)
    assert "ahead of the wall" in judged([2.0, 0.5]).errors[0]
    stopped = judged([0.0], nbytes=1)
    assert "the clock tells" in stopped.errors[0] and stopped.gb_per_s is None
    assert judged([]).errors == ["nothing ran"]
    row = judged([2e-3] * 3, nbytes=4 * 10**6, flops=6 * 10**6, units=2)
    assert (row.unit_s, row.gb_per_s, row.gflop_per_s) == pytest.approx((1e-3, 4.0, 6.0)) and row.limit == ""
    assert judged([1.0]).gflop_per_s is None
    row = judged([0.1, 0.9, 0.2, 0.8])
    assert "after 4 samples" in row.limit
    assert row.device_s == [0.1, 0.9, 0.2, 0.8] and row.samples_s == [1.0] * 4


def test_processors_that_rested_work_before_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, runs = [0.0], list[float]()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    class Working(Made):
        sample = Timed.sample

        def run(self) -> Sample:
            runs.append(clock[0])
            clock[0] += timing.WAKE_S * 0.3
            return Sample(len(runs), 1.0)

    made = Working([])
    for pause, before in ((0.0, 4), (timing.RESTED_S / 2, 0), (timing.RESTED_S * 2, 4)):
        clock[0] += pause
        runs.clear()
        assert made.sample().device_s == before + 1 == len(runs), "the last run is the sample"


# --- the machine and its ceiling ---


def test_the_streaming_read_reads_every_byte() -> None:
    backend = open_backend("cpu")
    found = bandwidth.ceiling_of(backend, 2 << 20)
    assert found.check() is None and found.row.op == "stream" and found.row.bytes == 2 << 20
    reader = bandwidth.StreamRead(backend, bandwidth.cold_memory(2), 1 << 20)
    assert len(reader.programs) == 2 and reader.sample().wall_s > 0 and reader.check() is None
    reader.programs = [reader.programs[1]]
    reader.data[: 1 << 20] = 7
    assert "checksum" in (reader.check() or ""), "a read of other bytes is found"
    backend.close()
    assert bandwidth.ceiling_of(NumpyBackend(), 1 << 20).row.op == "stream", "a processor, whatever its API"


def test_a_copy_is_held_against_its_source() -> None:
    found = bandwidth.Copy(NumpyBackend(), 1 << 16)
    assert "differs" in (found.check() or ""), "nothing was copied yet"
    assert found.sample().device_s > 0 and found.check() is None
    assert found.row.bytes == 2 << 16, "bytes read and bytes written"


@pytest.mark.parametrize(
    "array", [np.arange(70_001, dtype=np.uint32), np.arange(-3, 4, dtype=np.int8)], ids=["u32", "i8"]
)
def test_every_backend_copies_on_its_device(backend: Backend, array: Array) -> None:
    source, target = backend.upload(array), backend.empty(array.shape, dtype_name(array))
    backend.write(target, np.full_like(array, 5))
    backend.copy(source, target)
    assert np.array_equal(backend.download(target), array)
    backend.write(target, np.full_like(array, 5))
    # the difference of two short times: on a busy machine one may come out as nothing
    assert any(0 < backend.copy_timed(source, target) < 10 for _ in range(5))
    assert np.array_equal(backend.download(target), array) and np.array_equal(backend.download(source), array)


def test_a_processor_has_a_cache_and_no_peak() -> None:
    backend = open_backend("cpu")
    assert 1 << 15 <= machine.cache_bytes(backend.info) <= 1 << 32
    assert machine.cold_bytes(backend.info, 1 << 20) == 1 << 20
    assert machine.peak_bandwidth(backend.info) == 0.0
    backend.close()


def test_clocks_that_cannot_be_read_are_null(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    assert machine.clocks()["cpu"]["mhz"] is None and machine.clocks()["cpu"]["governor"] is None
    folder = tmp_path / "cpu0" / "cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_cur_freq").write_text("2500000\n")
    (folder / "scaling_governor").write_text("performance\n")
    assert machine.clocks()["cpu"]["mhz"] == [2500.0] and machine.clocks()["cpu"]["governor"] == "performance"


# --- the source ---


def test_the_commit_is_known_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "wheels"
    packed.mkdir()
    monkeypatch.setenv("WHEELS", str(packed))
    assert revision(tmp_path) == {"commit": "unknown", "dirty": None, "changed": []}
    (tmp_path / "same").write_text("same\n")
    (tmp_path / "other").write_text("other\n")
    (tmp_path / "link").symlink_to("same")
    blobs = {name: hashlib.sha1(b"blob 5\0same\n").hexdigest() for name in ("same", "other", "gone")}
    lines = [f"100644 blob {blob}\t{name}" for name, blob in blobs.items()]
    lines.append(f"120000 blob {hashlib.sha1(b'blob 4' + bytes(1) + b'same').hexdigest()}\tlink")
    (packed / "COMMIT").write_text("c0ffee\n")
    (packed / "COMMIT.tree").write_text("\n".join(lines) + "\n")
    assert revision(tmp_path) == {"commit": "c0ffee", "dirty": True, "changed": ["other", "gone"]}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_changed_and_a_new_source_make_the_tree_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHEELS", raising=False)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.cu").write_text("1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = revision(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False and clean["changed"] == []
    (tmp_path / "kernels" / "a.cu").write_text("2\n")
    (tmp_path / "kernels" / "new.cu").write_text("3\n")
    (tmp_path / "notes.txt").write_text("no source\n")
    assert revision(tmp_path) == {**clean, "dirty": True, "changed": ["kernels/a.cu", "kernels/new.cu"]}
