"""What the report of a large fleet costs: a ledger of made-up receipts, read by ``kparity fleet report``.

    python -m tools.fleet_rows [--devices 1000] [--rounds 10,25,50,100] [--folder DIR] [--plot FILE] [--receipts]

    python -m tools.fleet_rows --judge RECEIPT

Prints receipts, seconds by the clock and of processors, and the peak of memory, for each number of rounds; exit code 1
where the report does not name the device that computes other bits, or names another. With ``--receipts`` the files are
made, too (13 KB each), and ``--verify`` reads them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from kparity.fleet.hand import Errand
from kparity.fleet.judged import judge
from kparity.fleet.record import Begun, Ended, Line, Seen, Tried
from kparity.fleet.seen import digest
from kparity.fleet.store import LEDGER, RECEIPTS

MODELS, DRIVERS, PER_NODE = 10, 3, 8
GATES = (
    "bos_cosine", "exact_mismatches", "exact_scaled_ulp", "positions_cosine", "positions_norm", "prefill_cosine",
    "replay_differences", "reset_differences", "decode_cosine", "decode_norm", "turns_cosine", "turns_norm",
    "depth_cosine", "depth_norm", "kernels_wrong",
)  # fmt: skip
BYTES = 13_000
"""Of a receipt of a probe of one backend, about."""


class Cost(NamedTuple):
    """Of a report."""

    receipts: int
    wall: float
    processors: float
    mib: float


def seen(at: int, backend: str, odd: bool) -> Seen:
    """What a probe showed of a device; an odd one has other bits, and ten times the errors."""
    model, driver = f"Made {at % MODELS}000", f"{at // MODELS % DRIVERS + 550}.54"
    return Seen(
        backend=backend, model=model, kind="gpu", driver=driver, verdict="PASS", uuid=f"GPU-{backend}-{at:08}",
        group=digest([backend, model, driver]), bits=digest([backend, model, driver, at if odd else -1]),
        errors={name: 1e-3 * (1 + number) * (10 if odd else 1) for number, name in enumerate(GATES)},
        unit_ns=9e6 + 1e3 * (at % 97),
    )  # fmt: skip


def ledger(devices: int, rounds: int, sha256: str) -> Iterator[Line]:
    """The lines of a fleet in which one device, in its last round, computes other bits."""
    names = [f"node{at // PER_NODE:05}/gpu{at % PER_NODE}" for at in range(devices)]
    usual = [[seen(at, name, False) for name in ("cuda", "wgpu")] for at in range(devices)]
    odd = devices // 2
    for number in range(1, rounds + 1):
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(1.8e9 + 3600 * number))
        yield Begun(round=number, time=when, command="probe", words=["-b", "cuda,wgpu"], per="gpu", expected=names)
        for at, name in enumerate(names):
            wrong = number == rounds and at == odd
            yield Tried(
                round=number, time=when, device=name, outcome="passed", accelerator="MADE", place=f"{at:056x}:0",
                seconds=20.0, exit_code=0, receipt=f"{number:04}-{name.replace('/', '_')}-1.json", sha256=sha256,
                seen=[seen(at, each.backend, True) for each in usual[at]] if wrong else usual[at],
            )  # fmt: skip
        yield Ended(round=number, time=when, seconds=60.0)


def write(folder: Path, devices: int, rounds: int, files: bool) -> int:
    """Make a fleet's folder; the bytes of its ledger."""
    paper = os.urandom(BYTES // 2).hex().encode()
    sha256 = hashlib.sha256(paper).hexdigest()
    (folder / RECEIPTS).mkdir(parents=True, exist_ok=True)
    with (folder / LEDGER).open("wb") as file:
        for line in ledger(devices, rounds, sha256):
            file.write(msgspec.json.encode(line) + b"\n")
            if files and isinstance(line, Tried):
                (folder / RECEIPTS / line.receipt).write_bytes(paper)
    return (folder / LEDGER).stat().st_size


def cost(folder: Path, devices: int, rounds: int, files: bool) -> Cost:
    """Of a report in a process of its own; raises AssertionError where it finds what is not there, or not what is."""
    found = folder / "report.json"
    command = [sys.executable, "-m", "kparity", "fleet", "report", str(folder), "--json", str(found)]
    began = time.monotonic()
    child = subprocess.Popen([*command, *(["--verify"] if files else [])], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    told = json.loads(found.read_text())
    name = f"node{devices // 2 // PER_NODE:05}/gpu{devices // 2 % PER_NODE}"
    assert os.waitstatus_to_exitcode(status) == 1 and told["receipts"] == devices * rounds, told["receipts"]
    assert [(each["device"], each["times"]) for each in told["odd"]] == [(name, 1)] * 2, told["odd"]
    assert {each["device"] for each in told["far"]} == {name} and not told["damaged"] and not told["twins"]
    return Cost(devices * rounds, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def judged(receipt: bytes) -> None:
    """Print what it costs to judge a receipt, as it is done for each that comes in."""
    errand, began = Errand(0, 1.0, "", receipt), time.process_time()
    outcome = judge(errand, "probe", False).outcome
    times = 100
    for _ in range(times):
        judge(errand, "probe", False)
    print(f"{outcome}: {len(receipt)} bytes, {(time.process_time() - began) / (times + 1) * 1e3:.1f} ms of a processor")


def plot(costs: Sequence[Cost], path: str) -> None:
    """Seconds and memory over receipts, from nought."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    counts = [each.receipts for each in costs]
    left.plot(counts, [each.processors for each in costs], "o-")
    left.set(xlabel="receipts", ylabel="seconds of a processor", xlim=0, ylim=0)
    right.plot(counts, [each.mib for each in costs], "o-")
    right.set(xlabel="receipts", ylabel="MiB at most", xlim=0, ylim=0)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": ""})


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rounds", default="10,25,50,100")
    parser.add_argument("--folder", default=None, help="where there is room: 0.2 GB for 100,000 receipts")
    parser.add_argument("--plot", default="", help="a picture, as matplotlib knows its suffix")
    parser.add_argument("--receipts", action="store_true", help="make the files, too, and --verify them")
    parser.add_argument("--judge", metavar="RECEIPT", help="instead: what it costs to judge this receipt of a probe")
    asked = parser.parse_args(arguments)
    if asked.judge:
        judged(Path(asked.judge).read_bytes())
        return 0
    costs = []
    for rounds in map(int, asked.rounds.split(",")):
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            size = write(Path(folder), asked.devices, rounds, asked.receipts)
            costs.append(cost(Path(folder), asked.devices, rounds, asked.receipts))
        each = costs[-1]
        print(
            f"{asked.devices} devices, {each.receipts} receipts, {size >> 20} MiB of ledger: {each.wall:.2f} s, "
            f"{each.processors:.2f} s of a processor, {each.mib:.0f} MiB"
        )
    if asked.plot:
        plot(costs, asked.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
