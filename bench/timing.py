"""What the scripts of the GPU host share: the timing core of kparity.bench under one name, and their receipt."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kparity import receipt
from kparity.adapter import Backend
from kparity.bench.bandwidth import bandwidth_series as copy_series
from kparity.bench.machine import cache_bytes, cold_bytes, gpu_state, peak_bandwidth
from kparity.bench.revision import revision
from kparity.bench.timing import MANY, SLACK, Sample, Series, bootstrap, interleave, judge_times, timed, turns

__all__ = [
    "MANY", "SLACK", "Receipt", "Sample", "Series", "bootstrap", "cache_bytes", "cold_bytes", "copy_series",
    "gpu_state", "interleave", "judge_times", "peak_bandwidth", "released", "revision", "timed", "turns",
]  # fmt: skip


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
    json.dump({"revision": revision(), "gpu": gpu_state()}, sys.stdout, indent=1)
    print()
