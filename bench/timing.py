"""How everything here is timed, and when a time counts.

* Samples of all series are taken in turn, in an order that rotates, so that drift hits them alike (``interleave``).
* A cold series walks through more distinct weights than the caches hold (``cold_bytes``).
* A sample has the device's own clock beside the wall's, and is refused where it runs ahead of the wall.
* What was timed is verified: outputs are poisoned, timed once more, and held against truth (``Series.check``).
* A time below the roofline floor is an error, not a record (``judge_times``).
* The median has a bootstrap interval; every raw sample is kept in the receipt.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np

from kparity import receipt
from kparity.adapter import Backend, Program
from kparity.spec import Array

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.02
"""Half-width of the median's interval, as a share of the median, at which sampling stops."""
SLACK = 1.25
"""What a time may be below the floor of a ceiling that was measured instead of known."""
CLOCK_SLACK_S = 2e-6
"""Resolution of device timestamps: two of them may exceed the wall by this much."""
UNKNOWN_CACHE = 256 << 20
"""Assumed where no API tells the size of a device's last cache: larger than those of all but a few GPUs."""

PIECE = 16384
"""Rows whose truth is computed at once, and rows of a large matrix that are drawn; the others repeat them, shifted."""
MANY = 256
"""Launches in one sample at most."""


@dataclass(frozen=True)
class Sample:
    """Seconds of one run: by the device's clock (the wall's where the API has none), and by the wall around it."""

    device_s: float
    wall_s: float


@dataclass
class Series:
    """Something that is timed again and again."""

    name: str
    sample: Callable[[], Sample]
    launches: int = 1
    """Kernels, or passes, in a sample: times are given for one of them."""
    nbytes: int = 0
    """Bytes that one launch must move."""
    cold: bool = True
    """Whether the data cannot be in a cache, so that the roofline floor holds."""
    check: Callable[[], str | None] = lambda: None
    """Poison, run once more, compare: None, or what was wrong."""
    about: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    fault: str = ""

    def seconds(self) -> Array:
        """Device seconds of one launch, sample by sample."""
        return np.array([each.device_s for each in self.samples]) / self.launches


def bootstrap(samples: Sequence[float] | Array, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """The median and the 95 % interval of the median, by resampling; raises ValueError without samples."""
    values = np.asarray(samples, np.float64)
    if values.size == 0:
        raise ValueError("no samples")
    drawn = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    low, high = np.percentile(np.median(values[drawn], axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def settled(series: Series) -> bool:
    """Whether the interval is as narrow as wanted."""
    middle, low, high = bootstrap(series.seconds(), 200)
    return bool(high - low <= 2 * GOAL * middle)


def interleave(
    table: Sequence[Series], *, warm: int = 2, least: int = 12, most: int = 200, seconds: float = 3.0
) -> None:
    """Sample all series in turn until every interval is narrow, or ``most`` rounds or ``seconds`` are used up.

    Round r begins with series r, so that none is always the one that follows another. A series that raises is left out
    from then on, with the reason in ``fault``; the others go on.
    """
    started = time.perf_counter()
    for rounds in range(warm + most):
        at = rounds % max(len(table), 1)
        for series in (*table[at:], *table[:at]):
            if series.fault:
                continue
            try:
                found = series.sample()
            except Exception as error:
                series.fault = f"{type(error).__name__}: {error}"
                continue
            if rounds >= warm:
                series.samples.append(found)
        alive = [series for series in table if not series.fault]
        enough = rounds + 1 >= warm + least
        late = time.perf_counter() - started > seconds
        if not alive or (rounds + 1 >= warm + min(least, 3) and late) or (enough and all(map(settled, alive))):
            break
    for series in table:
        if not series.fault:
            try:
                series.fault = series.check() or ""
            except Exception as error:
                series.fault = f"{type(error).__name__}: {error}"


def timed(program: Program) -> Sample:
    """One replay, by both clocks."""
    began = time.perf_counter()
    device = program.run_timed()
    return Sample(device, time.perf_counter() - began)


def judge_times(series: Series, ceiling: float, measured: bool = True) -> dict[str, Any]:
    """The row of a series: median, interval, rate, floor, raw samples, and every reason why it does not count.

    ``ceiling`` is bytes per second that the memory can move at most; ``measured`` where a benchmark told and not the
    device, which leaves room above it.
    """
    row: dict[str, Any] = {"name": series.name, **series.about, "launches_per_sample": series.launches,
                           "bytes": series.nbytes, "cold": series.cold, "errors": []}  # fmt: skip
    if series.fault:
        row["errors"].append(series.fault)
    row["verified"] = not series.fault
    if not series.samples:
        row["errors"] = row["errors"] or ["nothing ran"]
        return {**row, "verified": False}
    middle, low, high = bootstrap(series.seconds())
    rate = series.nbytes / middle if middle > 0 else float("inf")
    row.update(us=middle * 1e6, us_low=low * 1e6, us_high=high * 1e6, gb_per_s=rate * 1e-9)
    row["wall_us"] = float(np.median([each.wall_s for each in series.samples])) / series.launches * 1e6
    row["samples_device_s"] = [each.device_s for each in series.samples]
    row["samples_wall_s"] = [each.wall_s for each in series.samples]
    if ceiling > 0 and series.nbytes:
        row["floor_us"] = series.nbytes / ceiling * 1e6
        if series.cold and middle * 1e6 < row["floor_us"] / (SLACK if measured else 1.0):
            row["errors"].append(f"faster than the roofline floor: {middle * 1e6:.2f} < {row['floor_us']:.2f} µs")
    if not middle > 0:
        row["errors"].append(f"the clock tells {middle} s")
    ahead = [each for each in series.samples if each.device_s > each.wall_s * 1.01 + CLOCK_SLACK_S]
    if ahead:
        row["errors"].append(f"the device's clock is ahead of the wall's in {len(ahead)} samples")
    if high - low > 2 * GOAL * middle:
        row["limit"] = f"±{50 * (high - low) / middle:.1f} % after {len(series.samples)} samples"
    return row


def turns(copies: int, nbytes: int) -> int:
    """How often one sample walks through a rotation: 32 launches hide what two events cost, within 8 GiB."""
    return max(1, min(-(-32 // copies), (8 << 30) // (copies * nbytes)))


# --- what a device has ---


def nvidia_attribute(attribute: int, index: int = 0) -> int:
    """A device attribute from the CUDA driver, whatever API is benchmarked; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    value = ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
    return 0 if failed else value.value


def _is_nvidia(backend: Backend) -> bool:
    return backend.info.kind == "gpu" and "nvidia" in f"{backend.info.device} {backend.info.driver}".lower()


def cache_bytes(backend: Backend) -> int:
    """The last cache between the device and its memory."""
    if backend.info.kind == "gpu":
        if backend.info.api == "CUDA" or _is_nvidia(backend):
            return nvidia_attribute(38) or UNKNOWN_CACHE  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
        return UNKNOWN_CACHE
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1:], 0))
    return max(sizes, default=UNKNOWN_CACHE)


def cold_bytes(backend: Backend, most: int = 1 << 30) -> int:
    """Bytes of distinct weights to walk through: four caches of a GPU, two of a processor, within ``most``."""
    return min((4 if backend.info.kind == "gpu" else 2) * cache_bytes(backend), most)


def peak_bandwidth(backend: Backend) -> float:
    """Bytes per second that the memory can move by its clock and width; 0 where the driver does not tell."""
    if not (backend.info.kind == "gpu" and (backend.info.api == "CUDA" or _is_nvidia(backend))):
        return 0.0
    kilohertz, bits = nvidia_attribute(36), nvidia_attribute(37)  # memory clock rate, bus width
    return 2.0 * kilohertz * 1e3 * bits / 8


def copy_series(backend: Backend, nbytes: int) -> Series:
    """Copying ``nbytes`` on the device, by the API's own copy; bytes read and bytes written both count."""
    count = min(nbytes, backend.info.max_binding) // 4
    about = {"backend": backend.name, "op": "copy", "device": backend.info.device}
    if backend.name == "cpu":  # its kernels read; nothing they do is bound by writing
        return _stream(backend, nbytes, about)
    source = backend.upload(np.random.default_rng(3).integers(0, 1 << 32, count, np.uint32))
    target = backend.empty((count,), "u32")

    def check() -> str | None:
        same = np.array_equal(backend.download(source), backend.download(target))
        return None if same else "the copy differs from its source"

    sample = _copier(backend, source.handle, target.handle)
    return Series(f"{backend.name} copy", sample, 1, 8 * count, True, check, about)


def _copier(backend: Any, source: Any, target: Any) -> Callable[[], Sample]:
    """A function that copies once, timed by the device where the API can."""
    if hasattr(backend, "cupy"):

        def by_events() -> Sample:
            began = time.perf_counter()
            with backend.guarded("copying"):
                first, last = backend.cupy.cuda.Event(), backend.cupy.cuda.Event()
                first.record(backend.stream)
                target.data.copy_from_device_async(source.data, source.nbytes, backend.stream)
                last.record(backend.stream)
                last.synchronize()
                seconds = float(backend.cupy.cuda.get_elapsed_time(first, last)) * 1e-3
            return Sample(seconds, time.perf_counter() - began)

        return by_events
    if backend.name == "opencl":

        def by_profile() -> Sample:
            began = time.perf_counter()
            event = backend.cl.enqueue_copy(backend.profiling_queue(), target, source)
            event.wait()
            return Sample((event.profile.end - event.profile.start) * 1e-9, time.perf_counter() - began)

        return by_profile

    def once(times: int) -> float:
        backend.sync()
        began = time.perf_counter()
        if backend.name == "wgpu":
            encoder = backend.device.create_command_encoder()
            for _ in range(times):
                encoder.copy_buffer_to_buffer(source, 0, target, 0, source.size)
            backend.device.queue.submit([encoder.finish()])
        else:
            for _ in range(times):
                target.copy_(source) if hasattr(target, "copy_") else np.copyto(target, source)
        backend.sync()
        return time.perf_counter() - began

    def by_wall() -> Sample:  # the difference of two runs is free of what a submission costs
        few, many = once(1), once(5)
        seconds = (many - few) / 4
        return Sample(seconds if seconds > 0 else many / 5, few + many)

    return by_wall


def _stream(backend: Any, nbytes: int, about: dict[str, Any]) -> Series:
    """The streaming read of bench/stream.py, which checks its own sum."""
    from stream import StreamRead, cold_memory

    chunk = min(64 << 20, nbytes)
    reader = StreamRead(backend, cold_memory(max(nbytes >> 20, 1)), chunk)

    def sample() -> Sample:
        seconds = chunk / reader.sample() * 1e-9
        return Sample(seconds, seconds)

    return Series("cpu streaming read", sample, 1, chunk, True, about={**about, "op": "stream"})


class TorchGemv:
    """torch's own GEMV with weights of another type, cold, replayed from a CUDA graph where the device has them."""

    def __init__(self, backend: Any, n: int, k: int, dtype: str, cold: int) -> None:
        torch = self.torch = backend.torch
        self.backend, kind = backend, getattr(torch, dtype)
        self.nbytes = n * k * 2
        self.copies = min(MANY, max(1, -(-cold // self.nbytes)))
        self.cold = self.copies * self.nbytes >= max(cold, cache_bytes(backend))
        device = backend.device
        # Values that every type holds exactly: only the sum's rounding differs between bf16, f16 and truth.
        self.weights = [
            torch.randint(-1, 2, (n, k), device=device, dtype=torch.int8).to(kind) for _ in range(self.copies)
        ]
        self.x = torch.randint(-8, 9, (k,), device=device, dtype=torch.int8).to(kind)
        self.y = [torch.empty(n, device=device, dtype=kind) for _ in range(self.copies)]
        self.name = f"torch mv {dtype} K={k} N={n}"
        self.about = {"backend": "torch", "op": f"mv_{dtype}", "case": f"mv[K={k},N={n}]", "copies": self.copies,
                      "clock": "wall", "device": backend.info.device}  # fmt: skip
        self.turns = turns(self.copies, self.nbytes) if device.type == "cuda" else 1
        self.graph: Any = None
        with torch.inference_mode():
            self._run()
            backend.sync()
            if device.type == "cuda":
                self.about["clock"] = "device"
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self._run()

    def _run(self) -> None:
        for _ in range(self.turns):
            for weight, y in zip(self.weights, self.y, strict=True):
                self.torch.mv(weight, self.x, out=y)

    def sample(self) -> Sample:
        self.backend.sync()
        began = time.perf_counter()
        if self.graph is None:
            with self.torch.inference_mode():
                self._run()
            seconds = time.perf_counter() - began
            return Sample(seconds, seconds)
        first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        self.graph.replay()
        last.record()
        last.synchronize()
        return Sample(first.elapsed_time(last) * 1e-3, time.perf_counter() - began)

    def check(self) -> str | None:
        """Every output against fp32 sums of these integers, which are exact."""
        for y in self.y:
            y.fill_(float("nan"))
        self.sample()
        self.backend.sync()
        for weight, y in zip(self.weights, self.y, strict=True):
            for at in range(0, len(y), PIECE):
                want = (weight[at : at + PIECE].float() * self.x.float()).sum(dim=1)
                error = (y[at : at + PIECE].float() - want).abs() - want.abs() / 128
                if not bool((error <= 1).all()):
                    return f"output wrong: torch {self.about['op']} is {float(error.max()):g} beyond 2^-7"
        return None

    def series(self) -> Series:
        """For ``interleave``."""
        return Series(self.name, self.sample, self.copies * self.turns, self.nbytes, self.cold, self.check, self.about)


# --- what a receipt is bound to ---


def revision(root: Path = ROOT) -> dict[str, Any]:
    """The commit of this tree and the files that differ from it.

    Without .git, from COMMIT and COMMIT.tree (``git ls-tree -r``) as bench/pack_gpu.sh leaves them.
    """
    packed = Path(os.environ.get("WHEELS") or root / ".whl")
    if (root / ".git").exists() and shutil.which("git"):
        git = ["git", "-C", str(root), "-c", f"safe.directory={root}"]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        tree = subprocess.run([*git, "ls-tree", "-r", "--full-tree", "HEAD"], capture_output=True, text=True)
        if head.returncode == 0:
            return {"commit": head.stdout.strip(), "changed": _changed(root, tree.stdout)}
    if (packed / "COMMIT").exists():
        return {
            "commit": (packed / "COMMIT").read_text().strip(),
            "changed": _changed(root, (packed / "COMMIT.tree").read_text()),
        }
    return {"commit": "unknown", "changed": []}


def _changed(root: Path, tree: str) -> list[str]:
    """Paths whose content is not that of the blob, by git's own hash; a missing file is a changed one."""
    found = []
    for line in tree.splitlines():
        facts, _, path = line.partition("\t")
        (mode, _, blob), file = facts.split(), root / path
        if mode == "120000":  # a link: its blob is its target
            content = str(file.readlink()).encode() if file.is_symlink() else None
        else:
            content = file.read_bytes() if file.is_file() else None
        if content is None or sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob:
            found.append(path)
    return found


def gpu_state() -> list[dict[str, str]]:
    """Clocks, temperature and power of NVIDIA's devices as they are; empty where nvidia-smi does not answer."""
    names = ("name", "uuid", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
             "temperature.gpu", "power.draw", "memory.used", "utilization.gpu")  # fmt: skip
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    return [dict(zip(names, map(str.strip, line.split(",")), strict=False)) for line in done.stdout.splitlines()]


class Receipt:
    """A JSON document that grows as results come in; what was written stays if a later step takes the process down."""

    def __init__(self, path: Path | None, kind: str, command: Sequence[str]) -> None:
        self.path = path
        self.result: dict[str, Any] = {
            "kind": kind, "command": list(command), "revision": revision(), "gpu_before": gpu_state(),
            "devices": {}, "absent": {}, "rows": [], "complete": False,
        }  # fmt: skip

    def opened(self, backend: Backend) -> None:
        """Note a device and what is known of its memory."""
        self.result["devices"][backend.name] = {
            **backend.info.as_dict(), "cache_bytes": cache_bytes(backend), "peak_bytes_per_s": peak_bandwidth(backend),
        }  # fmt: skip

    def write(self, complete: bool = False) -> dict[str, Any]:
        """The document, written atomically where there is a path."""
        if complete:
            self.result.update(complete=True, gpu_after=gpu_state())
        document = {**receipt.bind(self.result), "schema": "kparity-bench-receipt-v1"}
        document["sha256"] = receipt.digest(document)
        if self.path is not None:
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False, encoding="utf-8") as file:
                json.dump(document, file, indent=1, ensure_ascii=False)
                file.write("\n")
            Path(file.name).chmod(0o644)
            Path(file.name).replace(self.path)
        return document

    @property
    def failed(self) -> list[str]:
        """Every row with an error, and why."""
        return [f"{row['name']}: {error}" for row in self.result["rows"] for error in row["errors"]]


def released() -> None:
    """Give back what the last group held: buffers refer to each other in circles."""
    gc.collect()


if __name__ == "__main__":
    print(json.dumps({"revision": revision(), "gpu": gpu_state()}, indent=1))
