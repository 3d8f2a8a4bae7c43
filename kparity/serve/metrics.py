"""Counters of a server, in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from kparity.host.text import escaped

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the buckets of a histogram, in seconds."""


class Histogram:
    """Seconds, counted by buckets."""

    def __init__(self) -> None:
        self.counts, self.sum = [0] * (len(BOUNDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str) -> Iterable[str]:
        """Its samples."""
        total = 0
        for bound, number in zip((*BOUNDS, math.inf), self.counts, strict=True):
            total += number
            yield f'{name}_bucket{{le="{"+Inf" if bound == math.inf else f"{bound:g}"}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What is counted from the start on."""

    def __init__(self) -> None:
        self.requests, self.trips = Counter[tuple[str, int]](), Counter[tuple[str, str]]()
        self.prompt_tokens = self.completion_tokens = self.checks = self.cancelled = 0
        self.seconds, self.first_token = Histogram(), Histogram()

    def wait(self, ahead: int, parallel: int) -> int:
        """Seconds after which a request that is turned away may try again: what those before it will take."""
        done = max(1, sum(self.seconds.counts))
        return min(600, max(1, math.ceil(self.seconds.sum / done * (ahead + 1) / parallel)))

    def text(self, backend: str, label: str, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Everything; ``gauges`` are name → help and value."""
        lines = list[str]()

        def family(name: str, kind: str, help: str, samples: Iterable[str]) -> None:
            lines.extend((f"# HELP {name} {help}", f"# TYPE {name} {kind}", *samples))

        def counter(name: str, help: str, value: int) -> None:
            family(name, "counter", help, [f"{name} {value}"])

        family("kparity_requests_total", "counter", "Requests by path and status.",
               [f'kparity_requests_total{{path="{path}",status="{status}"}} {times}'
                for (path, status), times in sorted(self.requests.items())])  # fmt: skip
        family("kparity_backend_trips_total", "counter", "Backends that failed while they served.",
               [f'kparity_backend_trips_total{{backend="{escaped(name)}",code="{code}"}} {times}'
                for (name, code), times in sorted(self.trips.items())])  # fmt: skip
        family(
            "kparity_backend_info",
            "gauge",
            "1 for the backend that serves.",
            [f'kparity_backend_info{{backend="{escaped(backend)}",label="{escaped(label)}"}} 1'] if backend else [],
        )
        counter("kparity_prompt_tokens_total", "Tokens of prompts that were fed.", self.prompt_tokens)
        counter("kparity_completion_tokens_total", "Tokens that were generated.", self.completion_tokens)
        counter("kparity_canary_checks_total", "Known steps that gave the bits of the first one.", self.checks)
        counter("kparity_cancelled_total", "Sequences whose client left.", self.cancelled)
        for name, (help, value) in gauges.items():
            family(name, "gauge", help, [f"{name} {value:g}"])
        family("kparity_request_seconds", "histogram", "From a request to the end of its answer.",
               self.seconds.lines("kparity_request_seconds"))  # fmt: skip
        family("kparity_first_token_seconds", "histogram", "From a request for a stream to its first token.",
               self.first_token.lines("kparity_first_token_seconds"))  # fmt: skip
        return "\n".join(lines) + "\n"


def own_process() -> dict[str, tuple[str, float]]:
    """Resident memory and open files of this process; empty where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a descriptor that closes meanwhile is no error
    except OSError:
        return {}
    size = float(pages * os.sysconf("SC_PAGE_SIZE"))
    return {"process_resident_memory_bytes": ("Resident memory of the server's process.", size),
            "process_open_fds": ("Open files of the server's process.", float(files))}  # fmt: skip
